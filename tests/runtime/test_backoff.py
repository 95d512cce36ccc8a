"""When what has failed is tried again."""

from __future__ import annotations

import pytest

from l4ipd.runtime.backoff import FIRST, LONGEST, Backoff
from l4ipd.runtime.loop import Loop
from support.loops import Clock
from support.simulated_tools import Sleep

TICK = 0.01


class Bench:
    def __init__(self) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleep(self.clock))
        self.woken: list[float] = []
        self.it = Backoff(self.loop, lambda: self.woken.append(self.clock.now))

    def run(self, seconds: float) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()

    def wait(self) -> float:
        """Until it wakes us."""
        began, before = self.clock.now, len(self.woken)
        assert self.it.waiting
        self.run(60.0)
        assert len(self.woken) == before + 1 and not self.it.waiting
        return self.woken[-1] - began


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=TICK)


def test_nothing_has_failed() -> None:
    bench = Bench()
    assert not bench.it.waiting and bench.it.failures == 0
    bench.run(10.0)
    assert not bench.woken


def test_waits_double_up_to_the_longest() -> None:
    bench, waits = Bench(), []
    for count in range(1, 15):
        bench.it.failed()
        assert bench.it.failures == count
        waits.append(bench.wait())
    assert waits == [near(seconds) for seconds in (0.2, 0.4, 0.8, 1.6, *[2.0] * 10)]
    assert (FIRST, LONGEST) == (0.2, 2.0)


def test_success_begins_anew() -> None:
    bench = Bench()
    for _ in range(5):
        bench.it.failed()
    bench.it.succeeded()
    assert not bench.it.waiting and bench.it.failures == 0
    bench.run(10.0)
    assert not bench.woken
    bench.it.failed()
    assert bench.it.failures == 1 and bench.wait() == near(FIRST)


def test_a_wait_may_be_left_out_and_they_get_longer_all_the_same() -> None:
    bench = Bench()
    bench.it.failed()
    bench.it.skip()
    assert not bench.it.waiting and bench.it.failures == 1
    bench.it.failed()
    assert bench.wait() == near(0.4)


def test_news_ends_a_long_wait() -> None:
    bench = Bench()
    for _ in range(8):
        bench.it.failed()
    bench.run(1.0)
    bench.it.news()
    assert bench.wait() == near(0.0) and bench.it.failures == 8
    bench.it.failed()
    assert bench.wait() == near(0.4), "and the next is the second one"


def test_news_makes_no_storm() -> None:
    """It comes with every turn: no try is sooner than the first wait after the last."""
    bench = Bench()
    for _ in range(3):
        bench.it.failed()
        bench.it.news()
        bench.run(0.05)
        bench.it.news()
        assert bench.wait() == near(FIRST - 0.05)


def test_news_when_nothing_waits_is_none() -> None:
    bench = Bench()
    bench.it.news()
    assert not bench.it.waiting
    bench.it.failed()
    assert bench.wait() == near(FIRST)
    bench.it.news()
    assert not bench.it.waiting


def test_news_after_the_first_failure_does_not_make_the_next_wait_as_short() -> None:
    bench = Bench()
    bench.it.failed()
    bench.it.news()
    bench.it.failed()
    assert bench.wait() == near(0.4)
