"""When the checks of an endpoint are made: at its edges, out of turn, for several, and after something has raised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest

from l4ipd.checks.recipe import Recipe, recipe
from l4ipd.checks.verdict import Leave, Verdict, local
from l4ipd.model import Check
from l4ipd.monitor import pace
from l4ipd.monitor.monitor import Monitor
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import RATE
from support.monitors import BAD, GOOD, LATE, PACE, REFUSED, SLOW, Flight, World

QUICK = replace(PACE, interval=1.0, fast_interval=1.0, down_interval=1.0, timeout=5.0)
TICK = 1 / RATE


@pytest.fixture
def world() -> World:
    return World()


def starts(world: World) -> list[float]:
    return [when for when, _ in world.probes.starts]


def beside(monitor: Monitor, name: str = "x") -> Monitor:
    """Another that is checked in the same way."""
    other = Monitor(monitor.schedule, replace(monitor.endpoint, member=name), [], monitor.checker)
    monitor.checker.join(other)
    return other


def test_one_that_has_not_begun(world: World) -> None:
    one = world.monitor(SLOW)
    monitor = Monitor(world.schedule, one.endpoint, [recipe(SLOW, one.endpoint)])
    it = monitor.checker
    assert (it.queued, it.stopped, it.in_flight, it.asks, it.place) == (False, False, False, False, 0)
    assert it.speaker() is monitor and not it.probe_by(world.loop.now + 5), "it will begin before that"
    monitor.stop()
    assert (it.queued, it.stopped, it.speaker()) == (False, True, None)
    one.stop()
    world.run(SLOW.interval + 1.0)
    assert not starts(world)


# -- out of turn

def test_at_once_if_nothing_else_is_due_and_then_a_second_apart(world: World) -> None:
    checker = world.monitor(SLOW).checker
    world.probes.now = GOOD
    world.run(1.5)
    world.probes.starts.clear()
    for _ in range(4):
        checker.probe_soon()
        world.run(0.5)
    assert [round(later - earlier, 2) for earlier, later in pairwise(starts(world))] == [1.0, 1.0]


def test_a_probe_that_is_due_before_that_is_it(world: World) -> None:
    checker = world.monitor(replace(SLOW, interval=0.5)).checker
    world.probes.now = GOOD
    world.run(2.0)
    checker.probe_soon()
    world.run(0.01)
    due = starts(world)[-1] + 0.5
    checker.probe_soon()
    world.run(0.6)
    assert starts(world)[-1] < due + 0.02


def test_anew_abandons_the_one_in_flight_and_its_place_is_free(world: World) -> None:
    world.schedule.limit = 1
    one = world.monitor(SLOW)
    world.until_start()
    world.run(0.5)
    one.checker.probe_anew()
    assert (world.probes.cancelled, world.schedule.flying, len(world.probes.flying)) == (1, 1, 1)
    assert starts(world)[-1] == world.loop.now
    world.probes.end(GOOD)
    assert world.schedule.flying == 0 and one.up
    one.stop()
    one.checker.probe_anew()
    one.checker.probe_soon()
    assert not one.checker.probe_by(world.loop.now) and not world.probes.flying, "it is stopped"


def test_anew_of_one_that_waits_for_a_place(world: World) -> None:
    world.schedule.limit = 0
    one = world.monitor(SLOW)
    world.run(1.5)
    assert one.checker.queued and one.checker.in_flight
    one.checker.probe_anew()
    assert one.checker.queued and world.schedule.waiting == 1, "once"
    assert not one.checker.probe_by(world.loop.now - 1)
    one.stop()
    assert not one.checker.queued and not one.checker.in_flight


def test_by_a_time(world: World) -> None:
    one = world.monitor(SLOW)
    world.probes.now = GOOD
    world.run(1.5)
    world.probes.now = None
    now = world.loop.now
    assert one.checker.probe_by(now + 5) and not one.checker.probe_by(now + 5) and not one.checker.probe_by(now + 6)
    assert one.checker.probe_by(now + 4)
    world.probes.starts.clear()
    world.run(4.1)
    assert starts(world) == [pytest.approx(now + 4, abs=2 * TICK)]
    assert not one.checker.probe_by(now + 3) and not one.checker.probe_by(world.loop.now), "one is in flight"


def test_after_a_probe_out_of_turn_its_phase_is_kept(world: World) -> None:
    """Whatever its pace: here a second, which is what an unset one might be taken for."""
    one = world.monitor(replace(QUICK, timeout=0.5))
    world.probes.now = GOOD
    world.run(5.0)
    phase = starts(world)[-1] % 1.0
    world.run(0.4)
    one.checker.probe_anew()
    world.run(5.0)
    assert [when % 1.0 for when in starts(world)[-4:]] == [pytest.approx(phase, abs=2 * TICK)] * 4


def test_after_a_probe_that_a_refusal_has_hastened_as_well(world: World) -> None:
    one = world.monitor(replace(QUICK, timeout=0.5))
    world.probes.now = GOOD
    world.run(5.0)
    phase = starts(world)[-1] % 1.0
    one.refuse(REFUSED, "a")                        # contradicted at once: doubted for a second
    world.run(0.3)
    world.probes.now = None
    one.checker.probe_anew()
    world.run(0.01)
    assert one.refuse(REFUSED, "b") == "doubted"
    world.probes.now = GOOD
    world.probes.end(GOOD)
    assert not one.checker.asks, "each has been asked"
    world.run(5.0)
    assert [when % 1.0 for when in starts(world)[-4:]] == [pytest.approx(phase, abs=2 * TICK)] * 4


# -- late

def test_as_soon_as_a_slow_one_has_ended_and_then_on_its_phase(world: World) -> None:
    world.monitor(QUICK)
    world.probes.now = GOOD
    world.run(5.0)
    phase, skipped = starts(world)[-1] % 1.0, world.schedule.skipped
    world.probes.now = None
    world.until_start()
    world.run(1.3)
    world.probes.now = GOOD
    world.probes.end(GOOD)
    world.run(3.0)
    assert starts(world)[-4] % 1.0 == pytest.approx((phase + 0.3) % 1.0, abs=3 * TICK), "at once"
    assert [when % 1.0 for when in starts(world)[-2:]] == [pytest.approx(phase, abs=2 * TICK)] * 2
    assert world.schedule.skipped == skipped, "that was late, and not left out"


@pytest.mark.parametrize("interval", [1.0, 2.0])
@pytest.mark.parametrize(("late", "skipped"), [(0.2, 1), (1.2, 2), (4.2, 5)])
def test_what_we_have_missed_ourselves_is_counted(world: World, late: float, skipped: int, interval: float) -> None:
    """The probe itself was quick, but nobody ran when the next one was due."""
    world.monitor(replace(QUICK, interval=interval))
    world.probes.now = GOOD
    world.run(5.0)
    world.probes.now = None
    world.until_start()
    world.run(0.1)
    begun, before = starts(world)[-1], world.schedule.skipped
    world.clock.now = world.loop.now = begun + interval * (1 + late)
    world.probes.flying[0].done.__self__._begun = world.clock.now - 0.1         # type: ignore[attr-defined]
    world.probes.now = GOOD
    world.probes.end(GOOD)
    assert world.schedule.skipped - before == skipped
    world.run(2 * interval)
    assert starts(world)[-1] % interval == pytest.approx(begun % interval, abs=2 * TICK), "the others wait as well"


def test_the_very_moment_of_the_next_one_is_missed(world: World) -> None:
    world.monitor(QUICK)
    world.probes.now = GOOD
    world.run(5.0)
    world.probes.now = None
    world.until_start()
    checker = world.probes.flying[0].done.__self__              # type: ignore[attr-defined]
    world.clock.now = world.loop.now = checker._due + 1.0
    checker._begun, skipped = world.clock.now - 0.1, world.schedule.skipped
    world.probes.end(GOOD)
    before = len(starts(world))
    world.run(0.5)
    assert len(starts(world)) == before and world.schedule.skipped == skipped + 1


@pytest.mark.parametrize(("took", "at_once"), [(0.4, False), (0.5, True), (0.6, True)])
def test_half_a_pace_is_where_a_slow_probe_begins(world: World, took: float, at_once: bool) -> None:
    world.monitor(QUICK)
    world.probes.now = GOOD
    world.run(5.0)
    world.probes.now = None
    world.until_start()
    checker = world.probes.flying[0].done.__self__              # type: ignore[attr-defined]
    world.clock.now = world.loop.now = starts(world)[-1] + 1.25
    checker._begun = world.clock.now - took
    world.probes.end(GOOD)
    before = len(starts(world))
    world.run(0.1)
    assert (len(starts(world)) > before) == at_once


# -- several that it is for

def test_who_joins_waits_no_longer_than_alone(world: World) -> None:
    one = world.monitor(SLOW)
    world.probes.now = GOOD
    world.run(1.5)
    before, now = len(starts(world)), world.loop.now
    two = beside(one, "somebody")
    assert one.checker.listeners == (one, two) and not two.stopped
    world.run(1.1)
    assert two.up and len(starts(world)) == before + 1
    assert starts(world)[-1] == pytest.approx(now + pace.first(two.endpoint.name, two.pace), abs=2 * TICK)


def test_who_leaves_hears_no_more_and_the_last_one_ends_it(world: World) -> None:
    one = world.monitor(SLOW)
    two = beside(one)
    world.until_start()
    one.stop()
    assert one.checker.listeners == (two,) and one.stopped and not two.stopped and not one.checker.stopped
    world.probes.end(GOOD)
    assert two.up and one.seen == "unknown"
    two.checker.probe_anew()
    two.stop()
    assert one.checker.stopped and not world.probes.flying and world.schedule.flying == 0
    world.run(1300.0)
    assert not world.probes.flying


def test_the_pace_is_that_of_who_is_in_a_hurry(world: World) -> None:
    one = world.monitor(replace(PACE, interval=50.0, fast_interval=2.0, rise=1))
    two = beside(one)
    world.probes.now = GOOD
    world.run(3.0)
    two.take_down(Verdict("RST", "refused"))        # which is up again with the next pass, and then in no hurry
    two.health, two.hurried = 0, False
    before = len(starts(world))
    world.probes.now = local("no memory")           # and stays where it is
    world.run(40.0)
    assert two.pace == PACE.down_interval and one.pace == 50.0
    assert 8 <= len(starts(world)) - before <= 12


def test_one_that_fails_to_hear_does_not_keep_others_from_hearing(world: World,
                                                                  caplog: pytest.LogCaptureFixture) -> None:
    one = world.monitor(replace(PACE, rise=1, interval=3.0))
    two = beside(one)

    def fail(each: Monitor, verdict: Verdict) -> None:
        if each is one:
            raise RuntimeError("a bug")
    world.schedule.listen(fail)
    world.probes.now = GOOD
    world.run(8.0)
    assert two.up and two.passes >= 2 and "what a probe of www/http/web1 means" in caplog.text
    assert world.schedule.flying == 0


@pytest.mark.parametrize("what, same", [
    ({}, True), ({"interval": 11.0}, False), ({"rise": 5}, False), ({"port": 81}, False)], ids=str)
def test_who_is_checked_in_the_same_way(world: World, what: dict[str, int], same: bool) -> None:
    one = world.monitor(PACE, replace(PACE, port=443))
    other = replace(one.endpoint, checks=(replace(PACE, **what), replace(PACE, port=443)))      # type: ignore[arg-type]
    recipes = [recipe(check, other) for check in other.checks]
    assert one.checker.makes(recipes, other) == same
    elsewhere = replace(one.endpoint, address="10.0.0.9")
    assert not one.checker.makes([recipe(check, elsewhere) for check in elsewhere.checks], elsewhere)
    one.stop()
    assert not one.checker.makes(recipes, other), "it is over"


# -- a round

def test_what_is_counted(world: World) -> None:
    one = world.monitor(PACE, Check("http", port=81))
    world.until_start()
    world.probes.end(GOOD)
    assert one.checker.place == 1 and sum(world.schedule.codes.values()) == 0, "half a round"
    world.clock.now += 0.3
    world.probes.end(BAD)
    assert {code: count for code, count in world.schedule.codes.items() if count} == {"L4CON": 1}
    assert list(world.schedule.timings) == ["tcp+http"]
    counts = world.schedule.timings["tcp+http"].counts()
    assert sum(counts[:-1]) == 1 and counts[-1] == pytest.approx(0.3, abs=0.01)
    assert one.took == counts[-1]


def test_one_check_alone_has_no_port_in_its_words(world: World) -> None:
    one = world.monitor(replace(PACE, port=81, rise=1, fall=1))
    for verdict in (BAD, Leave("L7STS", "drain")):
        world.until_start()
        world.probes.end(verdict)
        assert one.verdict is verdict


def test_what_was_reserved_in_one_round_is_forgotten_in_the_next(world: World) -> None:
    one = world.monitor(replace(PACE, rise=1, fall=1), replace(PACE, port=81))
    leave = Leave("L7STS", "drain")
    for outcomes, verdict in (((leave, GOOD), "L7STS port 8080: drain"),
                              ((leave, BAD), "L4CON port 81: connection refused"),
                              ((GOOD, GOOD), GOOD), ((local("no memory"), leave), "L7STS port 81: drain"),
                              ((leave, local("no memory")), "L7STS port 8080: drain"), ((GOOD, GOOD), GOOD)):
        world.until_start()
        for each in outcomes:
            world.probes.end(each)
        assert str(one.verdict) == str(verdict)
    world.until_start()
    world.probes.end(leave)
    one.checker.probe_anew()
    world.probes.end(GOOD)
    world.probes.end(GOOD)
    assert one.up and one.verdict == GOOD, "nor of one that was abandoned"


def test_more_time_is_what_a_probe_asks_for(world: World) -> None:
    """One that cannot be ended yet: it is asked again after as long as it says."""
    one = world.monitor(PACE)
    world.until_start()
    begun = world.loop.now
    asked: list[float] = []
    flight = world.probes.flying[0]
    expire = flight.expire

    def more() -> float | None:
        asked.append(round(world.loop.now - begun, 1))
        return 0.5 if len(asked) < 3 else expire()
    flight.expire = more                            # type: ignore[assignment,method-assign]
    world.run(5.0)
    assert asked == [2.0, 2.5, 3.0] and one.verdict == LATE


# -- when something raises

class Broken(Flight):
    ended = 0

    def expire(self) -> None:
        raise RuntimeError("a bug in a deadline")

    def cancel(self) -> None:
        Broken.ended += 1
        raise RuntimeError("a bug in an end")


def test_a_probe_whose_deadline_raises_is_over_and_the_next_one_comes(world: World,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
    one = world.monitor(PACE)
    start = world.schedule.start
    world.schedule.start = lambda what, done: Broken(world.probes, done)
    before = Broken.ended
    while not world.loop.errors.total:
        world.loop.turn()
    assert Broken.ended == before + 1
    assert one.trouble == INTERNAL and one.seen == "unknown" and world.schedule.flying == 0
    assert "please report this: a probe of www/http/web1" in caplog.text and world.loop.errors.total == 2
    world.schedule.start = start
    world.probes.now = GOOD
    world.run(PACE.down_interval + 1)
    assert one.up and not one.trouble


def test_a_probe_that_cannot_be_made_is_named(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def fail(what: Recipe, done: Callable[[Verdict], object]) -> Flight:
        raise RuntimeError("a bug")
    one = world.monitor(PACE)
    world.schedule.start = fail
    world.run(1.1)
    assert one.trouble == INTERNAL and "please report this: a probe of www/http/web1" in caplog.text


def test_a_bug_before_there_is_a_probe_costs_one_turn(world: World) -> None:
    one = world.monitor(replace(QUICK, timeout=0.5))
    world.probes.now = GOOD
    world.run(2.0)
    delay, world.schedule.limit = world.schedule.delay, 0

    def fail(checker: object) -> None:
        raise RuntimeError("a bug")
    world.schedule.delay = fail                     # type: ignore[method-assign]
    before = len(starts(world))
    world.run(3.0)
    assert world.loop.errors.total == 3 and len(starts(world)) == before and not one.checker.queued
    world.schedule.delay = delay                    # type: ignore[method-assign]
    world.schedule.limit = 10
    world.run(3.0)
    assert len(starts(world)) in (before + 2, before + 3)


def test_and_one_turn_only_where_we_are_late_as_well(world: World) -> None:
    world.monitor(replace(QUICK, timeout=0.5))
    world.probes.now = GOOD
    world.run(2.0)
    phase, delay, world.schedule.limit = starts(world)[-1] % 1.0, world.schedule.delay, 0

    def fail(checker: object) -> None:
        world.schedule.delay = delay                # type: ignore[method-assign]
        world.schedule.limit = 10
        world.clock.now = world.loop.now = world.loop.now + 3.3
        raise RuntimeError("a bug")
    world.schedule.delay = fail                     # type: ignore[method-assign]
    before = len(starts(world))
    world.run(3.0)
    assert world.loop.errors.total == 1 and len(starts(world)) == before
    world.run(2.0)
    assert [when % 1.0 for when in starts(world)[before:]] == [pytest.approx(phase, abs=2 * TICK)] * 2


def test_raised_does_nothing_where_the_next_probe_is_on_its_way(world: World) -> None:
    """Set, waiting for a place, or not to come at all."""
    one = world.monitor(SLOW)
    due = one.checker.slot
    one.checker.raised()
    assert one.checker.slot is due
    world.schedule.limit = 0
    world.run(1.5)
    assert one.checker.queued
    one.checker.raised()
    assert one.checker.slot is None
    one.stop()
    one.checker.raised()
    assert one.checker.slot is None
