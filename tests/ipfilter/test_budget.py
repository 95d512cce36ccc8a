"""How often a table is read: what its listings cost, and what several may cost together; on a simulated clock."""

from __future__ import annotations

import pytest

from l4ipd.ipfilter.resync import FEW, FORGOTTEN, LAST, MORE, SHARE, SOON, Budget, Resync
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import Loop
from support.loops import Clock
from support.simulated_tools import Sleep

LEAST = 2.0


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=0.02)


class Bench:
    def __init__(self, budget: Budget | None = None) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleep(self.clock))
        self.looks: list[float] = []
        self.it = Resync(self.loop, LEAST, budget or Budget(), lambda: self.looks.append(self.clock.now))

    def rests(self, *costs: float, lines: int = 10) -> float:
        """Listings with these costs, and then: how long it is until the next one."""
        for cost in costs:
            self.it.listed(Exit(0, cost=cost), lines)
        before, began = len(self.looks), self.clock.now
        self.it.rest()
        self.loop.later(2000.0, self.loop.stop)
        self.loop.run()
        assert len(self.looks) == before + 1, "once"
        return self.looks[-1] - began


def test_the_figures() -> None:
    assert (SHARE, FEW, SOON, MORE, LAST, FORGOTTEN) == (0.004, 1000, 2.5, 0.05, 3, 4.0)


def test_it_looks_again_after_its_interval() -> None:
    bench = Bench()
    assert bench.it.interval == LEAST and bench.rests() == near(LEAST)
    assert bench.rests(0.004) == near(LEAST) and bench.rests(0.4, 0.4, 0.4, lines=5000) == near(100.0)
    assert bench.it.interval == near(100.0)


def test_the_cheapest_of_the_last_three_counts() -> None:
    bench = Bench()
    assert bench.rests(0.4, 0.04, 0.4, lines=5000) == near(10.0)
    assert bench.rests(0.4, lines=5000) == near(10.0)
    assert bench.rests(0.4, lines=5000) == near(100.0)


def test_lines_are_those_of_the_last_listing() -> None:
    bench = Bench()
    assert bench.rests(0.06, lines=1001) == near(15.0) and bench.rests(0.06, lines=1000) == near(2.5)


def test_a_slow_machine_has_few_rules_read_soon() -> None:
    budget = Budget()
    assert budget.interval(1, 0.125, 1000, LEAST, 0.0) == near(2.5)
    assert Budget().interval(1, 0.25, 1000, LEAST, 0.0) == near(5.0)
    assert Budget().interval(1, 0.25, 1001, LEAST, 0.0) == near(62.5)
    assert Budget().interval(1, 0.25, 1000, 100.0, 0.0) == 100.0


def test_another_share() -> None:
    assert Budget(0.05).interval(1, 0.5, 5000, LEAST, 0.0) == near(10.0)


def test_all_tables_share_it() -> None:
    budget = Budget()
    assert budget.interval(1, 0.04, 600, LEAST, 0.0) == near(2.5)
    assert budget.interval(2, 0.04, 600, LEAST, 0.0) == near(20.0), "together they have more than a thousand lines"
    assert budget.interval(3, 0.04, 1, LEAST, 0.0) == near(30.0)
    assert budget.interval(3, 0.0, 1, LEAST, 0.0) == near(20.0), "each counts once, as it was last"


def test_one_that_is_not_read_any_more_is_forgotten() -> None:
    for later, interval in ((9.9, 20.0), (10.0, 10.0)):
        budget = Budget()
        assert budget.interval(1, 0.04, 600, LEAST, 0.0) == near(2.5)       # for four times as long
        assert budget.interval(2, 0.04, 5000, LEAST, later) == near(interval)


def test_two_tables_with_one_budget() -> None:
    budget = Budget()
    one, two = Bench(budget), Bench(budget)
    assert one.rests(0.2, 0.2, 0.2, lines=5000) == near(50.0)
    two.it.listed(Exit(0, cost=0.2), 5000)
    two.it.rest()
    assert two.it.interval == near(100.0)


def test_what_is_often() -> None:
    bench = Bench()
    assert bench.it.often == 60.0
    bench.rests(0.4, 0.4, 0.4, lines=5000)
    assert bench.it.often == near(400.0)
    bench.it.interval = 15.0
    assert bench.it.often == 60.0
    bench.it.interval = 15.1
    assert bench.it.often == near(60.4)
