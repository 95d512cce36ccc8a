"""Changes that were tried since the table was read last, and what has become of them; on a simulated clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from l4ipd.ipfilter.belief import Belief
from l4ipd.ipfilter.changes import AGAIN, LIE, Changes
from l4ipd.ipfilter.held_lines import Attempt
from l4ipd.ipfilter.listing import FORGOTTEN, IN_USE, Table
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import Loop
from support.loops import Clock
from support.simulated_tools import Sleep
from support.tables import listing, table

IN_USE_SAID = Exit(1, b"", b"1:2:ioctl(SIOCRMNAT): rule in use\n")


class Bench:
    """A table in which a, b and three copies of c are; its tool takes and lists words in its own way."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleep(self.clock))
        self.woken, self.said = 0, []               # type: ignore[var-annotated]
        self.it = Changes(self.loop, self.wake, lambda line, words: self.said.append((line, words)))
        self.belief = Belief()
        self.table: Table = replace(table(), feed=lambda line: f"feed {line}", other=lambda words: f"other {words}")
        self.shows("a", "b", "c", "c#2", "c#3")

    def wake(self) -> None:
        self.woken += 1

    def shows(self, *lines: str) -> None:
        self.belief.take(listing(*lines))

    def text(self, command: str, line: str) -> str:
        return self.it.text(command, line, self.table, self.belief)

    def judge(self) -> tuple[list[str], dict[str, Attempt]]:
        return self.it.judge(self.it.take(), self.belief)


# -- the words

def test_what_is_fed() -> None:
    bench = Bench()
    bench.belief.have["a"] = "a as listed"
    assert bench.text("add", "x") == "feed x"
    assert bench.text("drain", "a") == bench.text("purge", "a") == "a as listed"
    assert bench.text("drain", "c") == "c"
    assert bench.text("copy", "c") == "other c#2", "one that is listed alike, or the rule itself would go"


def test_what_did_not_remove_its_own_is_tried_as_its_double() -> None:
    bench = Bench()
    for words in ("1:ioctl: No such process", "1:ioctl: No such process"):
        bench.it.held.failed({"a": Attempt("drain", words, True), "c": Attempt("copy", words, True)}, 0.0)
        doubled = bench.it.held.lines["a"].doubled
        assert bench.text("drain", "a") == ("other a" if doubled else "a")
        assert bench.text("copy", "c") == ("c#2" if doubled else "other c#2")
        assert bench.text("add", "a") == "feed a" and bench.text("drain", "b") == "b"
    assert not doubled


# -- what was tried

def test_what_is_remembered_of_a_run() -> None:
    bench = Bench()
    bench.it.begin("drain", ["a", "c"], bench.belief)
    assert bench.it.tried == {"a": Attempt("drain"), "c": Attempt("drain", copies=2)} and bench.it.failures == []
    bench.it.begin("add", ["x"], bench.belief)
    assert bench.it.tried["x"] == Attempt("add", "", alone=True, copies=0)
    bench.it.failed(["x"], "bad", False)
    bench.it.failed(["a"], "broken off", True)
    assert bench.it.tried["x"] == Attempt("add", "bad", True) and bench.it.failures == ["a", "x"]
    assert bench.it.tried["a"] == Attempt("drain", "broken off", broken_off=True)
    tried = bench.it.take()
    assert set(tried) == {"a", "c", "x"} and bench.it.tried == {}


def test_what_is_done_ends_all_waits() -> None:
    bench = Bench()
    bench.it.backoff.failed()
    bench.it.held.failed({"bad": Attempt("add", "bad", True)}, bench.loop.now)
    bench.it.begin("add", ["x", "y"], bench.belief)
    bench.shows("x")
    done, undone = bench.judge()
    assert done == ["x"] and undone == {"y": Attempt("add", LIE)}
    assert bench.it.backoff.failures == 0 and not bench.it.backoff.waiting
    assert bench.it.held.lines["bad"].until == bench.loop.now and bench.it.held.lines["bad"].proven
    assert "y" not in bench.it.held.lines, "it was lost behind another, perhaps"


def test_what_is_not_done_waits() -> None:
    bench = Bench()
    bench.it.begin("add", ["x"], bench.belief)
    bench.it.failed(["x"], "bad", False)
    done, undone = bench.judge()
    assert (done, undone) == ([], {"x": Attempt("add", "bad", True)})
    assert bench.it.backoff.failures == 1 and not bench.it.backoff.waiting, "others are tried without a wait"
    assert bench.it.held.lines["x"].words == "bad" and bench.it.held.lines["x"].until > bench.loop.now
    bench.it.begin("add", ["y", "z"], bench.belief)
    assert bench.judge() == ([], {"y": Attempt("add", LIE), "z": Attempt("add", LIE)})
    assert bench.it.backoff.failures == 2 and bench.it.backoff.waiting
    bench.it.forget()
    assert not bench.it.backoff.waiting and not bench.it.held.lines and bench.it.backoff.failures == 0


def test_of_what_was_broken_off_nothing_is_said() -> None:
    bench = Bench()
    bench.it.begin("add", ["x", "a"], bench.belief)
    bench.it.failed(["x", "a"], "broken off", True)
    assert bench.judge() == (["a"], {}), "but what is done is done"
    bench.it.begin("add", ["x"], bench.belief)
    bench.it.failed(["x"], "broken off", True)
    assert bench.judge() == ([], {}) and bench.it.backoff.failures == 0 and not bench.it.held.lines


def test_one_copy_of_several_is_gone() -> None:
    bench = Bench()
    bench.it.begin("copy", ["c"], bench.belief)
    bench.shows("a", "b", "c", "c#2", "c#3")
    assert bench.judge() == ([], {"c": Attempt("copy", LIE, True, 2)})
    bench.it.begin("copy", ["c"], bench.belief)
    bench.shows("a", "b", "c", "c#2")
    assert bench.judge()[0] == ["c"]


def test_a_line_that_is_not_taken_is_named() -> None:
    bench = Bench()
    for _ in range(3):
        bench.it.begin("add", ["x"], bench.belief)
        bench.it.failed(["x"], "bad", False)
        bench.judge()
    assert bench.said == [("x", "bad")]


def test_nothing_was_tried() -> None:
    bench = Bench()
    assert bench.judge() == ([], {}) and bench.it.backoff.failures == 0


def test_it_wakes_when_a_wait_is_over() -> None:
    bench = Bench()
    bench.it.backoff.failed()
    bench.loop.later(5.0, bench.loop.stop)
    bench.loop.run()
    assert bench.woken == 1


# -- in use

def test_what_is_in_use_is_left_alone_for_a_second() -> None:
    bench = Bench()
    bench.it.begin("drain", ["a", "b"], bench.belief)
    bench.clock.now += 3.0                          # the turn has taken long
    assert bench.it.in_use(["a", "b"], IN_USE_SAID, bench.table) == ["b"]
    held = bench.it.held.lines["b"]
    assert (held.words, held.until, held.paused) == (IN_USE, bench.clock.now + AGAIN, True) and AGAIN == 1.0
    assert set(bench.it.tried) == {"a"} and list(bench.it.held.lines) == ["b"]
    assert bench.it.in_use(["z", "b"], IN_USE_SAID, bench.table) == ["b"], "though it is not known as tried"


@pytest.mark.parametrize("end", [Exit(0), Exit(1, b"", b"something else\n")])
def test_what_is_not_in_use(end: Exit) -> None:
    bench = Bench()
    bench.it.begin("drain", ["a", "b"], bench.belief)
    assert bench.it.in_use(["a", "b"], end, bench.table) == []
    assert set(bench.it.tried) == {"a", "b"} and not bench.it.held.lines
    assert bench.table.iterator.quiet_until < bench.clock.now


def test_when_it_goes_on_too_long_it_is_a_failure() -> None:
    bench = Bench()
    bench.it.in_use(["a", "b"], IN_USE_SAID, bench.table)
    bench.clock.now += FORGOTTEN
    bench.it.held.clear()
    assert bench.it.in_use(["a", "b"], IN_USE_SAID, bench.table) == [] and not bench.it.held.lines


# -- what is said of faults
