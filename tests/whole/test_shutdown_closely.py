"""How long the end waits, to the moment, and what is said of what is left: tables that do as the test says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from l4ipd.runtime.child import GRACE
from l4ipd.runtime.loop import Loop
from l4ipd.shutdown import LONGEST, PATIENCE, POLITE, Shutdown
from support.loops import Clock, Sleeper

NEVER = 100.0                                       # seconds, after which nobody waits any longer
LEFT = "a rule is not removed: rdr one"
LIMIT = PATIENCE + 5.0 + GRACE


@dataclass
class Rules:
    """What is asked of a reconciler, for a table that has nothing left to be done."""

    name: str = "ipnat"
    undone: str = ""
    busy: bool = False
    pause: bool = False
    settled: bool = True
    problem: str = ""
    quiet: float = -1.0                             # seconds after the end has begun, until which a rule is in use

    @property
    def table(self) -> SimpleNamespace:
        return SimpleNamespace(name=self.name, iterator=SimpleNamespace(quiet_until=Clock().now + self.quiet))


class End:
    """``then`` are things that happen so many seconds later."""

    def __init__(self, *tables: Rules, planned: Callable[[], bool] = lambda: True, thorough: bool = False,
                 longest: float = 5.0, then: dict[float, Callable[[], object]] | None = None) -> None:
        clock = Clock()
        loop = Loop(clock, Sleeper(clock))
        self.shutdown = Shutdown(loop, tables, planned, thorough, longest)      # type: ignore[arg-type]
        for when, what in (then or {}).items():
            loop.later(when, what)
        loop.later(NEVER, loop.stop)
        loop.run()
        self.seconds = clock.now - Clock().now
        assert not loop.errors.total

    def lasts(self, seconds: float) -> bool:
        """A tick more, or less than nothing."""
        return 0.0 <= self.seconds - seconds < 0.02


def test_nothing_is_left() -> None:
    assert End().lasts(0.0) and End(Rules(), Rules("ipf"), thorough=True).lasts(0.0)


@pytest.mark.parametrize(("longest", "patience", "limit"), [
    (1.0, 1.0, 2.0), (5.0, 5.0, 10.0), (8.0, PATIENCE, PATIENCE + 8.0), (60.0, PATIENCE, PATIENCE + LONGEST)])
def test_patience_and_limit_go_with_how_long_a_run_may_take(longest: float, patience: float, limit: float) -> None:
    assert End(Rules(undone=LEFT), longest=longest).lasts(patience)
    assert End(Rules(undone=LEFT, busy=True), longest=longest).lasts(limit + GRACE), "it may come to its end"
    assert End(Rules(), planned=lambda: False, longest=longest).lasts(limit + GRACE), "what is to be is not known"


def test_the_end_comes_as_soon_as_all_is_done() -> None:
    rules, other = Rules(undone=LEFT), Rules("ipf", undone=LEFT)
    assert End(rules, other, then={1.0: lambda: setattr(rules, "undone", ""),
                                   2.5: lambda: setattr(other, "undone", "")}).lasts(2.5)
    said = [False]
    assert End(Rules(), planned=lambda: said[0], then={3.0: lambda: said.append(said.pop() or True)}).lasts(3.0)


def test_a_run_that_comes_to_its_end_late_and_has_not_done_it() -> None:
    rules = Rules(undone=LEFT, busy=True)
    assert End(rules, then={8.0: lambda: setattr(rules, "busy", False)}).lasts(8.0)


def test_a_listing_that_nobody_needs_is_waited_for_a_moment() -> None:
    """To be cut off is bad for the next one."""
    rules = Rules(busy=True)
    assert End(Rules("ipf"), rules).lasts(POLITE)
    assert End(Rules("ipf"), rules, then={1.0: lambda: setattr(rules, "busy", False)}).lasts(1.0)


def test_a_run_for_another_table_is_no_hope() -> None:
    assert End(Rules(undone=LEFT), Rules("ipf", busy=True)).lasts(PATIENCE)


@pytest.mark.parametrize(("undone", "quiet", "seconds"), [(LEFT, 20.0, 20.0), (LEFT, 3.0, PATIENCE), ("", 20.0, 0.0)])
def test_a_rule_that_is_in_use_is_waited_for(undone: str, quiet: float, seconds: float) -> None:
    rules = Rules(undone=undone, quiet=quiet)
    assert End(rules, then={quiet: lambda: None}).lasts(seconds)
    assert End(Rules("ipf", quiet=20.0), Rules(undone=LEFT)).lasts(PATIENCE), "of a table where something is left"


def test_tables_are_read_back_where_all_goes() -> None:
    rules = Rules(settled=False)
    assert End(rules).lasts(0.0) and End(rules, thorough=True).lasts(PATIENCE)
    assert End(rules, thorough=True, then={1.0: lambda: setattr(rules, "settled", True)}).lasts(1.0)


def test_a_table_that_is_not_worked_on_is_not_waited_for() -> None:
    for thorough in (False, True):
        end = End(Rules(undone=LEFT, problem="no such device", settled=False, pause=True), thorough=thorough)
        assert end.lasts(0.0) and end.shutdown.undone == []


@pytest.mark.parametrize("thorough", [False, True])
def test_what_is_left_is_said_for_each_table(thorough: bool) -> None:
    end = End(Rules(undone=LEFT), Rules("log", settled=False, problem="no such device"), Rules("count"),
              Rules("log6", settled=False), Rules("count6", problem="it was a moment ago"), thorough=thorough)
    assert end.shutdown.undone == [f"ipnat: {LEFT}", *(["log: no such device"] if thorough else [])]
