"""What flaps, at its edges: to the second, with what it says of itself, while blind, and when something raises."""

from __future__ import annotations

from dataclasses import replace

import pytest

from l4ipd.checks.verdict import Verdict, local
from l4ipd.model import Flap
from l4ipd.monitor import flapping
from l4ipd.monitor.flapping import Flapping
from l4ipd.monitor.monitor import Monitor
from support.monitors import BAD, GOOD, REFUSED, SLOW, World

ONE = replace(SLOW, rise=1, fall=1)                 # its probes are far away
THREE = Flap(3, 10.0)
START = 5000.0


@pytest.fixture
def world() -> World:
    return World()


def flaps(world: World, *times: float, limit: Flap = THREE) -> Monitor:
    """One that was up, and whose state has changed at these times after the start."""
    monitor = world.monitor(ONE, flap=limit)
    monitor.score(GOOD, world.loop.now)
    change(world, monitor, *times)
    return monitor


def change(world: World, monitor: Monitor, *times: float) -> None:
    for each in times:
        world.clock.now = world.loop.now = START + each
        monitor.score(BAD if monitor.up else GOOD, START + each)


def its(monitor: Monitor) -> Flapping:
    assert monitor.flapping is not None
    return monitor.flapping


def test_before_it_is_held_there_is_nothing_to_say(world: World) -> None:
    monitor = flaps(world, 0.0)
    it = its(monitor)
    assert (it.held, it.since_before, it.why, it.words) == (False, False, "", "")
    monitor.stop()
    assert not world.loop.errors.total


@pytest.mark.parametrize("last, held", [(9.0, True), (10.0, True), (10.001, False)])
def test_within_so_many_seconds(world: World, last: float, held: bool) -> None:
    monitor = flaps(world, 0.0, 4.0, last)
    assert monitor.held == held
    assert its(monitor).why == (f"3 changes of state in {last:.0f} s, held down for 30 s" if held else "")


def test_it_says_for_how_long_and_why(world: World) -> None:
    monitor, begin, said = flaps(world), 0.0, []
    for _ in range(7):
        change(world, monitor, begin, begin + 1.0, begin + 2.0)
        said.append(its(monitor).why)
        begin += 2.0 + its(monitor).hold.until - world.loop.now
        world.clock.now = world.loop.now = START + begin
        monitor.release()
        assert its(monitor).why == "", "its time has come, which needs no reason"
    assert said == [f"3 changes of state in 2 s, held down for {span}"
                    for span in ("30 s", "1 min", "2 min", "4 min", "8 min", "10 min", "10 min")]


@pytest.mark.parametrize("left, words", [
    (0.2, "1 s"), (30.0, "30 s"), (59.4, "59 s"), (60.0, "1 min"), (60.6, "61 s"), (90.0, "90 s"), (120.0, "2 min"),
    (599.0, "599 s"), (600.0, "10 min"), (3600.0, "60 min")])
def test_how_long_it_is_held_yet(world: World, left: float, words: str) -> None:
    monitor = world.monitor(ONE, flap=THREE)
    monitor.hold(1, world.loop.now + left, True)
    assert its(monitor).words == f"held down for {words} more: it flaps"


def test_who_is_the_last_one_is_asked_of_this_one(world: World) -> None:
    monitor, asked = flaps(world, 0.0, 1.0), list[Monitor]()
    world.schedule.last = asked.append              # type: ignore[assignment]
    change(world, monitor, 2.0)
    assert monitor.held and asked == [monitor]


@pytest.mark.parametrize("held, left, is_held", [(True, 0.1, True), (True, 0.0, False), (True, -5.0, False),
                                                 (False, 9.0, False)])
def test_what_an_earlier_run_has_left(world: World, held: bool, left: float, is_held: bool) -> None:
    monitor = world.monitor(ONE, flap=THREE)
    monitor.hold(2, world.loop.now + left, held)
    it = its(monitor)
    assert (monitor.held, it.since_before, it.hold.count) == (is_held, is_held, 2)
    assert it.why == ("held down since before the start" if is_held else "")
    monitor.verdict = GOOD
    monitor.release("as nobody else serves")
    assert (monitor.held, it.since_before) == (False, False)
    assert it.why == ("as nobody else serves" if is_held else "")


def test_another_check_goes_on_counting(world: World) -> None:
    old = flaps(world, 0.0, 1.0)
    new = world.monitor(replace(ONE, fall=2), flap=THREE)
    new.inherit(old)
    old.stop()
    assert not new.held and new.up == old.up
    change(world, new, 2.0)
    assert not new.held, "a first verdict is no change"
    change(world, new, 3.0)
    assert new.held and its(new).why == "3 changes of state in 3 s, held down for 30 s"
    newest = world.monitor(replace(ONE, fall=3), flap=THREE)
    newest.inherit(new)
    assert newest.held and its(newest).why == its(new).why and not its(newest).since_before
    world.probes.now = local("no memory")
    world.run(flapping.FIRST + 1.0)
    assert newest.seen == "up" and newest.verdict == GOOD, "what it is has been known before"


def test_who_is_up_again_while_it_is_held_may_be_the_last_one(world: World) -> None:
    monitor, touched = flaps(world, 0.0, 1.0, 2.0), list[Monitor]()
    world.schedule.touched = touched.append
    for verdict, times in ((BAD, 0), (GOOD, 1), (GOOD, 1), (BAD, 1), (BAD, 1), (GOOD, 2)):
        monitor.score(verdict, world.loop.now)
        assert touched == [monitor] * times and monitor.held


def test_so_may_one_that_was_held_before_the_start_when_it_is_known(world: World) -> None:
    monitor, touched = world.monitor(ONE, flap=THREE), list[Monitor]()
    world.schedule.touched = touched.append
    monitor.hold(1, world.loop.now + 20.0, True)
    monitor.adopt()                                 # its rule was found
    monitor.score(GOOD, world.loop.now)
    monitor.score(GOOD, world.loop.now)
    assert touched == [monitor] and monitor.held


# -- what refused clients bring about

def refused(world: World, monitor: Monitor, *probes: Verdict) -> None:
    """A client is refused, and this is what the probe finds: at once, or after it was out for a while."""
    world.probes.now = probes[0] if probes else None
    monitor.refuse(REFUSED, "198.51.100.7")
    world.run(0.1)


def test_what_a_probe_confirms_at_once_is_one_change(world: World) -> None:
    monitor = flaps(world)
    refused(world, monitor, BAD)                    # the first
    assert monitor.seen == "down"
    world.run(1.0)
    world.probes.now = GOOD
    monitor.checker.probe_anew()                    # the second
    assert monitor.seen == "up"
    refused(world, monitor, BAD)
    assert monitor.held and world.changes[-1] == ("up", "held")


def test_what_a_probe_confirms_in_the_end_is_one_change(world: World) -> None:
    monitor = flaps(world, 0.0, 1.0, limit=Flap(3, 300.0))
    refused(world, monitor)
    assert monitor.seen == "down" and not monitor.held
    world.probes.end(BAD)                           # the third
    assert monitor.held and world.changes[-2:] == [("up", "down"), ("down", "held")]
    world.run(flapping.FIRST + 1.0)
    assert monitor.seen == "down"
    change(world, monitor, 100.0, 101.0)
    assert not monitor.held, "neither its hold nor the end of that has counted"
    change(world, monitor, 102.0)
    assert monitor.held


# -- when its time has come

def test_while_the_gateway_is_blind_it_is_asked_again_each_second(world: World) -> None:
    monitor, asked = flaps(world, 0.0, 1.0, 2.0), []
    dark = True

    def blind() -> bool:
        asked.append(world.loop.now)
        return dark
    world.schedule.blind = blind
    world.probes.now = GOOD
    world.run(flapping.FIRST + 4.5)
    assert monitor.held and len(asked) == 5
    dark = False
    world.run(flapping.AGAIN)
    assert not monitor.held and len(asked) == 6 and not world.loop.errors.total


def test_who_fails_to_end_it_tries_again(world: World) -> None:
    monitor, asked = flaps(world, 0.0, 1.0, 2.0), []

    def blind() -> bool:
        asked.append(world.loop.now)
        if len(asked) < 3:
            raise RuntimeError("a bug")
        return False
    world.schedule.blind = blind
    world.run(flapping.FIRST + 1.5)
    assert monitor.held and len(asked) == 2
    world.run(flapping.AGAIN)
    assert not monitor.held and len(asked) == 3 and world.loop.errors.total == 2
    world.run(10.0)
    assert len(asked) == 3, "which was it"


def test_who_was_to_hear_of_its_end_may_fail(world: World) -> None:
    monitor, told = flaps(world, 0.0, 1.0, 2.0), []

    def changed(each: Monitor, was: str) -> None:
        told.append((was, each.seen))
        raise RuntimeError("a bug")
    world.schedule.changed = changed
    world.run(flapping.FIRST + 5.0)
    assert not monitor.held and told == [("held", monitor.seen)] and world.loop.errors.total == 1
