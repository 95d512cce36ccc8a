"""What we take a table of the kernel to be."""

from __future__ import annotations

import pytest

from l4ipd.ipfilter.belief import PATIENCE, Belief
from support.tables import listing


def believing(*lines: str) -> Belief:
    it = Belief()
    it.take(listing(*lines))
    return it


def test_nothing_is_known_at_first() -> None:
    it = Belief()
    assert (it.have, it.copies, it.stale, it.proven, it.ever) == ({}, {}, True, False, False)


def test_a_listing_is_how_it_is() -> None:
    it = believing("a", "b", "a#2", "-c")
    assert (it.have, it.copies) == ({"a": "a", "b": "b"}, {"a": ["a#2"]})
    assert (it.stale, it.proven, it.ever) == (False, True, True)


def test_of_another_table_nothing_is_known_but_what_was_ours() -> None:
    it = believing("a")
    it.forget_table()
    assert (it.have, it.stale, it.proven, it.ever) == ({"a": "a"}, True, False, False)


# -- listings that have to be confirmed

def test_a_listing_without_one_of_ours_is_doubted_once() -> None:
    it = believing("a", "b", "c")
    assert it.wants_another(listing("a", "b"), ())
    assert not it.wants_another(listing("a", "b"), ())
    assert it.wants_another(listing("a", "b"), ()), "what was confirmed is no confirmation of the next"


@pytest.mark.parametrize(("shown", "leaving"), [
    (("a", "b"), ()),                               # nothing is missing
    (("a", "b", "c"), ()),
    (("a",), ("b",)),                               # we have tried to remove it
    ((), ()),                                       # a flush: nothing of ours is left
    (("-a",), ()),
])
def test_what_is_believed_at_once(shown: tuple[str, ...], leaving: tuple[str, ...]) -> None:
    assert not believing("a", "b").wants_another(listing(*shown), leaving)


def test_the_first_listing_of_a_table_is_believed() -> None:
    """Of what is read there for the first time, nothing can be missing: it may be another table."""
    it = Belief()
    it.added("a", "a")
    assert not it.wants_another(listing("b"), ())
    it = believing("a")
    it.forget_table()
    assert not it.wants_another(listing("b"), ())


def test_one_that_misses_something_else_is_doubted_in_its_turn() -> None:
    it = believing("a", "b", "c")
    assert it.wants_another(listing("a", "b"), ())
    assert it.wants_another(listing("a", "c"), ())
    assert not it.wants_another(listing("a", "c"), ())


def test_a_table_that_never_holds_still_is_believed_at_last() -> None:
    it = believing("a", "b", "c", "d", "e", "f")
    shown = [("a",), ("b",), ("c",), ("d",), ("e",), ("f",), ("a",), ("b",)]
    assert [it.wants_another(listing(*lines), ()) for lines in shown] == [True, True, True, False] * 2
    assert PATIENCE == 3


def test_what_is_believed_needs_no_other() -> None:
    it = believing("a", "b", "c", "d")
    for _ in range(3):
        assert it.wants_another(listing("a"), ()) and it.wants_another(listing("b"), ())
        assert not it.wants_another(listing("a", "b", "c", "d"), ())


# -- what differs

def test_what_is_amiss() -> None:
    it = believing("right", "left over", "stays")
    want = dict.fromkeys(("right", "missing", "failed and wanted"))
    assert it.amiss(want, ("failed and gone", "left over", "failed and wanted"), lambda line: line != "stays") == [
        "missing", "failed and wanted", "left over", "failed and gone"]


@pytest.mark.parametrize(("command", "line", "copies", "shown"), [
    ("add", "a", 0, True), ("add", "x", 0, False),
    ("drain", "a", 0, False), ("drain", "x", 0, True), ("purge", "a", 0, False), ("purge", "x", 0, True),
    ("drain", "b", 1, False), ("drain", "b", 2, True),              # one of several was removed, and another is there
    ("copy", "b", 1, False), ("copy", "b", 2, True), ("copy", "a", 1, True), ("copy", "a", 0, False),
    ("copy", "x", 0, False), ("add", "b", 2, True),
])
def test_whether_a_change_has_come_about(command: str, line: str, copies: int, shown: bool) -> None:
    assert believing("a", "b", "b#2").shows(command, line, copies) is shown


def test_what_is_added_and_removed() -> None:
    it = believing("a", "b", "b#2", "b#3")
    it.added("c", "words of c")
    it.removed("a")
    assert it.have == {"b": "b", "c": "words of c"}
    it.removed("b")
    assert it.have["b"] == "b#3" and it.copies == {"b": ["b#2"]}
    it.removed("b")
    assert it.have["b"] == "b#2" and it.copies == {"b": []}
    it.removed("b")
    it.removed("never there")
    assert it.have == {"c": "words of c"}
