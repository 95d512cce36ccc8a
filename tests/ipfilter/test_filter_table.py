"""The ipf rules of one family and kind as the reconciler sees them."""

from __future__ import annotations

import pytest

from l4ipd.ipfilter.filter_table import FilterTable
from l4ipd.ipfilter.listing import Iterator
from l4ipd.model import Ipfilter

TOOLS = Ipfilter(interface="ext0", ipf=("pf", "x"), ipfstat=("stat", "y"))
LOG4 = "log in on int0 proto tcp from 10.0.0.2 port = 8080 to any flags R/R"
LOG6 = "log in on int0 proto tcp from fd00::2 port = 8080 to any flags R/R"
COUNT4, COUNT6 = LOG4.replace("log", "count"), LOG6.replace("log", "count")
OURS, OTHERS = " set-tag(log=4711)", " set-tag(log=4712)"


def table(action: str = "log", inet6: bool = False, tags: tuple[int, ...] = (4711,), known: tuple[str, ...] = (),
          tools: Ipfilter = TOOLS) -> FilterTable:
    return FilterTable(tools, action, inet6, tags, lambda line: line in known)


@pytest.mark.parametrize(("action", "inet6", "family", "kind"), [
    ("log", False, (), "-iR"), ("log", True, ("-6",), "-iR"), ("count", False, (), "-aihR"),
    ("count", True, ("-6",), "-aihR")])
def test_the_words_for_its_tools(action: str, inet6: bool, family: tuple[str, ...], kind: str) -> None:
    it = FilterTable(TOOLS, action, inet6, (), lambda line: False, mark="resets.tag 4711")
    there = it.table
    assert (there.name, there.key) == ("ipf", "ipfilter.ipf and ipfilter.ipfstat")
    assert there.listing == ("stat", "y", *family, kind) and there.adding == ("pf", "x", *family, "-f", "-")
    assert there.removing == there.purging == ("pf", "x", *family, "-r", "-f", "-")
    assert there.feed(LOG4) == f"@0 {LOG4}" and there.feed(COUNT4) == COUNT4
    assert there.bare(f"7 @3 {LOG4}") == LOG4 and there.other("x") == "x"
    assert there.end is None and there.mark == "resets.tag 4711" and there.iterator is it.iterator


def test_the_mark_is_empty_by_default_and_the_iterator_may_be_shared() -> None:
    iterator = Iterator()
    it = FilterTable(TOOLS, "log", False, (), lambda line: False, iterator)
    assert it.iterator is iterator and it.mark == ""


@pytest.mark.parametrize(("line", "ours"), [
    (LOG4 + OURS, True), ("@7 " + LOG4 + OURS, True), (LOG4 + OTHERS, False), (LOG4, False), (LOG6 + OURS, False),
    (COUNT4, False), ("pass in all", False), ("", False)])
def test_log_rules_are_ours_by_their_tag(line: str, ours: bool) -> None:
    assert table().table.read(line) == (LOG4 + OURS if ours else None)


def test_or_because_they_are_known() -> None:
    read = table(known=(LOG4 + OTHERS, LOG6 + OTHERS)).table.read
    assert read(LOG4 + OTHERS) == LOG4 + OTHERS and read(LOG6 + OTHERS) is None
    assert table(inet6=True).table.read(LOG6 + OURS) == LOG6 + OURS


def test_count_rules_are_ours_only_if_they_are_known() -> None:
    it = table("count", known=(COUNT4, COUNT4 + OURS))
    read = it.table.read
    assert read("12 " + COUNT4) == COUNT4
    assert read("12 " + COUNT4 + OURS) is None, "ours bear none"
    assert read("12 " + COUNT4.replace("8080", "8081")) is None
    assert read("12 " + LOG4 + OURS) is None
    it.listed()
    assert it.hits == {COUNT4: 12}


def test_hits_are_those_of_the_last_complete_listing() -> None:
    """The numbers that the counters source goes by."""
    other = COUNT4.replace("8080", "8081")
    it = table("count", known=(COUNT4, other))
    there = it.table
    assert it.hits == {}
    there.begin()
    there.read("12 " + COUNT4)
    there.read("0 " + other)
    assert it.hits == {}
    it.listed()
    assert it.hits == {COUNT4: 12, other: 0}
    there.begin()
    there.read("99 " + COUNT4)
    assert it.hits == {COUNT4: 12, other: 0}
    there.begin()                                   # that one was cut short
    there.read("13 " + other)
    it.listed()
    assert it.hits == {other: 13}
    there.begin()
    it.listed()
    assert it.hits == {}
    there.read(COUNT4)                              # it does not say
    it.listed()
    assert it.hits == {COUNT4: 0}


def test_log_rules_have_no_hits() -> None:
    it = table()
    it.table.read("5 " + LOG4 + OURS)
    it.listed()
    assert it.hits == {}


def test_a_tag_that_was_seen_is_forgotten() -> None:
    it = table(tags=(4711, 4712))
    assert it.table.read(LOG4 + OTHERS) and it.table.read(LOG4 + OURS)
    it.forget_tags_but(4711)
    assert it.table.read(LOG4 + OTHERS) is None and it.table.read(LOG4 + OURS)
    it.forget_tags_but(0)
    assert it.table.read(LOG4 + OURS) is None and it.tags == {0}
    it.forget_tags_but(None)
    assert it.tags == frozenset()


def test_which_speak_alike() -> None:
    it = table()
    assert it.speaks_as(table(known=("x",)))
    for other in (table("count"), table(inet6=True), table(tags=()), table(tools=Ipfilter(interface="ext0"))):
        assert not it.speaks_as(other) and not other.speaks_as(it)
