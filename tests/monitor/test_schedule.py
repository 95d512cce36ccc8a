"""What monitors share: places for probes and who waits for one, what the log says of it, and the histograms."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from l4ipd.monitor.schedule import BOUNDS, Schedule, Timing
from l4ipd.runtime.loop import Loop

LATE = "probes are late: {} in flight, which is the limit; raise the limit of open files, or probe less often"
AGAIN = "probes are on time again"


class Asker:
    """What a monitor is to its schedule: it begins, or has itself put into the queue. Some probes are over at once."""

    def __init__(self, schedule: Schedule[Any], name: str, begun: list[str], at_once: bool = False) -> None:
        self.schedule, self.name, self.begun, self.at_once = schedule, name, begun, at_once
        self.queued = False

    def fire(self) -> None:
        schedule: Any = self.schedule
        if schedule.flying < schedule.limit:
            schedule.flying += 1
            self.begun.append(self.name)
            if self.at_once:
                schedule.landed()
        else:
            schedule.delay(self)


class Field:
    def __init__(self, limit: int) -> None:
        self.loop = Loop()
        self.schedule: Schedule[Any] = Schedule(
            self.loop, limit, lambda recipe, done: None,        # type: ignore[arg-type,return-value]
            changed=lambda monitor, was: None, decided=lambda monitor: None)
        self.begun: list[str] = []

    def ask(self, names: str, at_once: bool = False) -> list[Asker]:
        askers = [Asker(self.schedule, name, self.begun, at_once) for name in names]
        for asker in askers:
            asker.fire()
        return askers


@pytest.fixture
def field(request: pytest.FixtureRequest) -> Callable[[int], Field]:
    def make(limit: int) -> Field:
        it = Field(limit)
        request.addfinalizer(it.loop.close)
        return it
    return make


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def test_who_finds_no_place_waits_and_begins_in_turn(field: Callable[[int], Field], caplog: pytest.LogCaptureFixture
                                                     ) -> None:
    caplog.set_level(logging.INFO)
    it = field(4)
    it.ask("abcd")
    assert (it.schedule.late, it.schedule.waiting, said(caplog)) == (0, 0, [])
    waiting = it.ask("efg")
    assert [each.queued for each in waiting] == [True] * 3
    assert (it.schedule.late, it.schedule.waiting, said(caplog)) == (3, 3, [LATE.format(4)]), "said once"
    it.schedule.landed()
    assert (it.begun, it.schedule.waiting, it.schedule.flying) == (list("abcde"), 2, 4)
    assert [each.queued for each in waiting] == [False, True, True]
    it.schedule.landed()
    it.schedule.landed()
    assert (it.begun, it.schedule.waiting, said(caplog)) == (list("abcdefg"), 0, [])
    it.schedule.landed()
    assert said(caplog) == [], "three of four are in flight"
    it.schedule.landed()
    assert (said(caplog), it.schedule.pressed) == ([AGAIN], False), "no more than half are"
    it.schedule.landed()
    it.schedule.landed()
    assert (said(caplog), it.schedule.flying) == ([], 0)
    it.ask("hijklm")
    assert (it.schedule.late, said(caplog)) == (5, [LATE.format(4)]), "and again, the next time"


def test_who_was_stopped_while_it_waited_does_not_begin(field: Callable[[int], Field]) -> None:
    it = field(1)
    _, gone, _ = it.ask("abc")
    gone.queued = False
    it.schedule.landed()
    assert (it.begun, it.schedule.waiting) == (["a", "c"], 0)


def test_probes_that_are_over_at_once_do_not_pile_up(field: Callable[[int], Field]) -> None:
    """Each gives its place to the next: not one inside the other, or a thousand would be too many for Python."""
    it = field(1)
    it.ask("a")
    it.ask("x" * 10_000, at_once=True)
    it.schedule.landed()
    assert (len(it.begun), it.schedule.flying, it.schedule.waiting) == (10_001, 0, 0)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_few_places(field: Callable[[int], Field], limit: int, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = field(limit)
    it.ask("abcdef")
    for _ in "abcdef":
        it.schedule.landed()
    assert said(caplog) == [LATE.format(limit), AGAIN]
    assert it.begun == list("abcdef")


def test_what_nobody_has_set(field: Callable[[int], Field]) -> None:
    schedule = field(1).schedule
    assert schedule.step == 0.005
    assert (schedule.flying, schedule.late, schedule.skipped, schedule.waiting) == (0, 0, 0, 0)
    assert (schedule.verbose, schedule.pressed, schedule.outcomes) == (False, False, [])
    assert not schedule.last(None) and not schedule.blind()
    assert schedule.refused(None, None) is None       # type: ignore[arg-type]
    assert not schedule.discarded(None, None, 0.0) and not schedule.alone(None)       # type: ignore[arg-type]


@pytest.mark.parametrize(("rate", "step"), [
    (0.0, 0.1), (1.0, 0.1), (100.0, 0.1), (101.0, 0.095), (200.0, 0.05), (1000.0, 0.01), (2000.0, 0.005),
    (10_000.0, 0.005)])
def test_the_more_probes_the_smaller_the_bunches(field: Callable[[int], Field], rate: float, step: float) -> None:
    schedule = field(1).schedule
    schedule.bunch(rate)
    assert schedule.step == pytest.approx(step)


def test_more_places_from_now_on(field: Callable[[int], Field]) -> None:
    it = field(1)
    it.ask("abcd")
    it.schedule.allow(3)
    it.schedule.relieve()
    assert (it.begun, it.schedule.flying, it.schedule.waiting) == (list("abc"), 3, 1)
    it.schedule.allow(1)
    it.schedule.landed()
    it.schedule.landed()
    assert (it.begun, it.schedule.flying, it.schedule.waiting) == (list("abc"), 1, 1), "fewer, as they end"
    it.schedule.landed()
    assert (it.begun, it.schedule.flying, it.schedule.waiting) == (list("abcd"), 1, 0)


def test_who_hears_of_all_outcomes_may_come_and_go(field: Callable[[int], Field]) -> None:
    """Also while they are told, which is why a list that is told from stays as it is."""
    def one(monitor: object, verdict: object) -> None: ...
    def two(monitor: object, verdict: object) -> None: ...
    schedule = field(1).schedule
    schedule.listen(one)
    now = schedule.outcomes
    schedule.listen(two)
    assert schedule.outcomes == [one, two] and now == [one]
    now = schedule.outcomes
    schedule.leave(one)
    assert schedule.outcomes == [two] and now == [one, two]
    schedule.leave(one)
    schedule.leave(two)
    assert schedule.outcomes == [] and not schedule.verbose
    schedule.log_all()
    assert schedule.verbose


# -- histograms

def test_a_histogram() -> None:
    timing = Timing()
    assert timing.counts() == [0] * (len(BOUNDS) + 2)
    for took in (0.0005, 0.001, 0.0011, 0.02, 10.0, 11.0, 99.0):
        timing.note(took)
    expected: list[Any] = [0.0] * (len(BOUNDS) + 2)
    for place, count in ((0, 2), (1, 1), (BOUNDS.index(0.025), 1), (BOUNDS.index(10.0), 1), (len(BOUNDS), 2)):
        expected[place] = count
    expected[-1] = pytest.approx(120.0226)
    assert timing.counts() == expected
    timing.note(0.5)
    expected[BOUNDS.index(0.5)] += 1
    expected[-1] = pytest.approx(120.5226)
    assert timing.counts() == expected, "since the start"
    assert timing.counts() == expected


def test_durations_are_counted_by_kind(field: Callable[[int], Field]) -> None:
    it = field(1)
    tcp, http = it.schedule.timing("tcp"), it.schedule.timing("http")
    assert tcp is it.schedule.timing("tcp") and tcp is not http and it.schedule.timings == {"tcp": tcp, "http": http}
