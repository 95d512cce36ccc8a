"""One endpoint's life on a clock that only the test moves: pace, stalls, LOCAL, lists, the operator, resets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.checks.recipe import Recipe, recipe
from l4ipd.checks.verdict import Verdict, local
from l4ipd.model import Check, Endpoint
from l4ipd.monitor.monitor import Monitor
from l4ipd.monitor.outcomes import TRAIL
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import RATE
from support.monitors import BAD, GOOD, LATE, PACE, REFUSED, Flight, World


@pytest.fixture
def world() -> World:
    return World()


def gaps(world: World) -> list[float]:
    times = [when for when, _ in world.probes.starts]
    return [round(later - earlier, 1) for earlier, later in zip(times, times[1:], strict=False)]


def test_the_first_probe_comes_within_a_second_and_its_pass_brings_it_up(world: World) -> None:
    monitor = world.monitor()
    world.probes.now = GOOD
    world.run(1.0)
    assert len(world.probes.starts) == 1
    assert monitor.up
    assert world.changes == [("unknown", "up")]
    assert world.decided == ["www/http/web1"]


def test_pace_up_in_doubt_and_down(world: World) -> None:
    monitor = world.monitor()
    world.probes.now = GOOD
    world.run(45)
    assert set(gaps(world)[1:]) == {10.0}, "after the first, on the phase"
    world.probes.starts.clear()
    world.probes.now = BAD
    world.run(30)
    assert not monitor.up
    assert gaps(world)[0] <= 1.0, "in doubt: as soon as the phase of the fast pace allows"
    assert gaps(world)[1] == 1.0
    assert set(gaps(world)[3:]) == {4.0}, "down"
    world.probes.now = GOOD
    world.probes.starts.clear()
    world.run(20)
    assert monitor.up
    assert gaps(world)[0] <= 1.0, "in doubt again, on the way up"
    assert world.changes == [("unknown", "up"), ("up", "down"), ("down", "up")]


def test_one_that_is_probed_out_of_turn_keeps_its_phase(world: World) -> None:
    monitor = world.monitor()
    world.probes.now = GOOD
    world.run(45)
    last = world.probes.starts[-1][0]
    world.run(10 - (world.clock.now - last) - 2)
    monitor.probe_soon()
    world.run(13)
    assert [round(when - last, 1) for when, _ in world.probes.starts[-3:]] == [8.0, 10.0, 20.0]


def test_the_phase_is_a_matter_of_the_name_and_loads_are_even(world: World) -> None:
    for number in range(500):
        world.monitor(replace(PACE, interval=5.0), name=f"m{number}")
    world.probes.now = GOOD
    world.run(20)
    world.probes.starts.clear()
    world.run(5)
    assert len(world.probes.starts) == 500
    by_second = [0] * 5
    for when, _ in world.probes.starts:
        by_second[int(when) % 5] += 1
    assert max(by_second) < 2 * min(by_second)


def test_a_deadline(world: World) -> None:
    monitor = world.monitor()
    world.until_start()
    world.run(1.9)
    assert len(world.probes.flying) == 1
    world.run(0.2)
    assert monitor.verdict == LATE
    assert not world.probes.flying


@pytest.mark.parametrize(("before", "stall", "more"), [
    (1.9, 5.0, 2.0),                                # all of it, at most
    (0.5, 1.0, 1.0), (0.3, 0.6, 0.6),               # what was lost, and that was less
    (0.5, 0.3, 0.0),                                # that is no stall
])
def test_a_stall_is_given_back(world: World, before: float, stall: float, more: float) -> None:
    monitor = world.monitor()
    world.until_start()
    began = world.clock.now
    world.loop.later(before, lambda: None)
    world.run(before)
    world.loop.later(0.01, lambda: None)            # something was due while nobody ran
    world.clock.now += stall
    world.loop.turn()
    while world.probes.flying:
        world.loop.turn()
    assert monitor.verdict == LATE
    assert world.clock.now == pytest.approx(max(began + 2.0, began + before + stall if more == 2.0 else 0) + more,
                                            abs=0.05)


def test_stalls_do_not_prolong_a_probe_again_and_again(world: World) -> None:
    """A pause in every timeout, and a silent member would be up for ever."""
    monitor = world.monitor(replace(PACE, interval=2.0, fast_interval=1.0))
    world.probes.now = GOOD
    world.run(20)
    world.probes.now = None
    world.until_start()
    silent = world.clock.now
    while monitor.up:
        world.loop.later(0.01, lambda: None)
        world.clock.now += 0.6
        world.run(1.0)
        assert world.clock.now < silent + 3 * (2.0 + 2.0) + 3, "thrice its time, and what was lost"


def test_each_of_several_checks_gets_its_own_time_back(world: World) -> None:
    monitor = world.monitor(PACE, replace(PACE, port=443))
    world.until_start()
    for last in (False, True):
        world.run(1.9)
        world.clock.now += 5.0
        world.run(1.0)
        assert len(world.probes.flying) == 1, "given back"
        if not last:
            world.probes.end(GOOD)
    world.run(1.1)
    assert monitor.verdict == ("L4TOUT", "port 443: no answer")


def test_a_running_probe_is_not_overlapped_and_what_is_left_out_is_counted(world: World) -> None:
    quick = replace(PACE, interval=1.0, fast_interval=1.0, down_interval=1.0, timeout=5.0)
    world.monitor(quick)
    world.until_start()
    world.run(3.5)
    assert len(world.probes.starts) == 1
    world.probes.end(GOOD)
    world.run(0.01)
    assert len(world.probes.starts) == 2, "as soon as the late one has ended"
    skipped = world.schedule.skipped
    assert skipped in (2, 3), "as its phase has it"
    world.probes.end(GOOD)
    world.probes.now = GOOD
    world.run(10)
    assert set(gaps(world)[2:]) == {1.0}, "and on its phase again"
    assert world.schedule.skipped == skipped


@pytest.mark.parametrize(("pace", "took"), [
    (replace(PACE, interval=1.0, timeout=1.0, fast_interval=1.0, down_interval=1.0), 1.0),
    (replace(PACE, interval=0.3, timeout=0.3, fast_interval=0.3, down_interval=0.3), 0.3),
    (replace(PACE, interval=5.0, timeout=2.0, fast_interval=1.0, down_interval=5.0), 2.0),
    (replace(PACE, interval=5.0, timeout=5.0, fast_interval=0.1, down_interval=0.1), 5.0),
])
def test_a_silent_member_is_probed_without_a_pause_where_the_pace_is_quicker(world: World, pace: Check,
                                                                             took: float) -> None:
    monitor = world.monitor(pace)
    world.probes.now = GOOD
    world.run(31)
    world.probes.now = None
    world.until_start()
    silent = world.clock.now
    while monitor.up:
        world.loop.turn()
    assert 3 * took <= world.clock.now - silent <= 3 * took + 0.05, "three timeouts, and a tick or two for each"


def test_when_we_are_late_ourselves_everybody_waits_for_its_next_moment(world: World) -> None:
    """Else all of them would begin at once."""
    pace = replace(PACE, interval=1.0, fast_interval=1.0)
    monitors = [world.monitor(pace, name=f"m{number}") for number in range(20)]
    world.probes.now = GOOD
    world.run(5)
    starts = len(world.probes.starts)
    world.clock.now += 7.0                          # nobody ran
    world.run(0.02)
    assert starts + 20 <= len(world.probes.starts) <= starts + 22, "what was due then"
    world.run(3.0)
    assert len(world.probes.starts) in range(starts + 60, starts + 83)
    assert all(monitor.up for monitor in monitors) and world.schedule.skipped >= 20 * 6


def test_our_own_trouble_never_moves_health_and_is_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    monitor = world.monitor()
    world.probes.now = GOOD
    world.run(30)
    world.probes.now = local("socket: too many open files")
    world.run(60)
    assert monitor.up
    assert monitor.verdict == GOOD
    assert monitor.trouble == "socket: too many open files"
    assert len(caplog.records) == 1
    assert "its state stays up" in caplog.text
    world.probes.now = GOOD
    world.run(20)
    assert monitor.trouble == ""


def test_in_a_list_our_trouble_with_one_does_not_hide_that_another_fails(world: World) -> None:
    monitor = world.monitor(replace(PACE, rise=1, fall=1), replace(PACE, port=443), replace(PACE, port=444))
    trouble = local("no program")
    for outcomes, verdict in (
            ((GOOD, GOOD, GOOD), GOOD), ((trouble, GOOD, BAD), "L4CON port 444: connection refused"),
            ((trouble, BAD), "L4CON port 443: connection refused"), ((GOOD, GOOD, GOOD), GOOD)):
        world.until_start()
        for outcome in outcomes:
            world.probes.end(outcome)
        assert not world.probes.flying and str(monitor.verdict) == str(verdict) and not monitor.trouble
    for outcomes in ((trouble, GOOD, GOOD), (GOOD, trouble, local("no memory")), (trouble, trouble, trouble)):
        world.until_start()
        for outcome in outcomes:
            world.probes.end(outcome)
        assert not world.probes.flying and monitor.up and monitor.verdict == GOOD and monitor.trouble == "no program"


def test_a_trouble_of_many_who_are_not_up_is_logged_once_and_when_it_is_over(world: World,
                                                                             caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    monitors = [world.monitor(name=f"web{number}") for number in range(5)]
    world.probes.now = local("no memory")
    world.run(30.0)
    assert len(caplog.records) == 1 and "LOCAL no memory; its state stays unknown" in caplog.text
    monitors.pop().stop()
    world.probes.now = GOOD
    world.run(30.0)
    assert [record.getMessage() for record in caplog.records[1:]] == ["the gateway can probe again: no more no memory"]


def test_another_trouble_is_no_end_of_trouble(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    monitor = world.monitor()
    for words in ("no memory", "no descriptors"):
        world.probes.now = local(words)
        world.run(30.0)
    monitor.stop()
    assert len(caplog.records) == 2 and "can probe again" not in caplog.text
    monitor.probe_soon()                                # by somebody who does not know yet that it is over
    before = len(world.probes.starts)
    world.run(30.0)
    assert len(world.probes.starts) == before


def test_a_probe_that_cannot_even_be_made_is_our_trouble(world: World, caplog: pytest.LogCaptureFixture) -> None:
    def fail(what: Recipe, done: Callable[[Verdict], object]) -> Flight:
        raise RuntimeError("a bug")

    monitor = world.monitor()
    start, world.schedule.start = world.schedule.start, fail
    world.run(9.0)
    assert monitor.trouble == INTERNAL and not monitor.up and "a bug" in caplog.text
    assert world.schedule.flying == 0
    world.schedule.start, world.probes.now = start, GOOD
    world.run(5.0)
    assert monitor.up and not monitor.trouble


def test_a_list_must_pass_whole_and_shows_the_first_that_failed(world: World) -> None:
    first, second = replace(PACE, rise=1, fall=1), replace(PACE, port=81)
    monitor = world.monitor(first, second)
    world.run(1)
    world.probes.end(GOOD)
    assert monitor.verdict is None, "half of it is not it"
    world.probes.end(GOOD)
    assert monitor.up
    assert [port for _, port in world.probes.starts] == [8080, 81]
    world.until_start()
    world.probes.end(BAD)
    assert not monitor.up
    assert str(monitor.verdict) == "L4CON port 8080: connection refused"
    assert [port for _, port in world.probes.starts] == [8080, 81, 8080], "the second was not asked"
    world.until_start()
    world.probes.end(GOOD)
    world.probes.end(BAD)
    assert str(monitor.verdict) == "L4CON port 81: connection refused"
    assert world.schedule.flying == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_no_more_in_flight_than_there_is_room_for_and_nobody_is_forgotten(at_once: bool) -> None:
    world = World(limit=7)
    monitors = [world.monitor(name=f"m{number}") for number in range(3000)]
    if at_once:
        world.probes.now = GOOD
    for _ in range(2000):
        world.run(0.01)
        assert world.schedule.flying <= 7
        while world.probes.flying:
            world.probes.end(GOOD)
    assert all(monitor.up for monitor in monitors)
    assert world.schedule.flying == 0


def test_stopping_gives_everything_back() -> None:
    world = World(limit=2)
    monitors = [world.monitor(name=f"m{number}") for number in range(5)]
    world.run(1.1)
    assert world.schedule.flying == 2
    assert world.schedule.waiting == 3
    for monitor in monitors:
        monitor.stop()
    assert world.schedule.flying == 0
    assert not world.probes.flying
    world.run(30)
    assert world.schedule.flying == 0
    assert all(monitor.verdict is None for monitor in monitors)


def test_enabled_again_it_is_checked_first(world: World) -> None:
    monitor = world.monitor()
    world.probes.now = GOOD
    world.run(30)
    monitor.disabled = True
    assert monitor.up
    assert not monitor.eligible
    world.probes.now = None
    monitor.enable()
    assert monitor.since == world.loop.now, "enabling, since now"
    monitor.probe_soon()
    world.run(0.1)
    assert len(world.probes.flying) == 1
    assert not monitor.eligible
    world.probes.end(BAD)
    assert not monitor.eligible, "one failure of three does not take it down, and does not let it in"
    monitor.probe_soon()
    world.run(0.1)
    assert not world.probes.flying, "nobody has it probed twice a second"
    world.run(1.0)
    world.probes.end(GOOD)
    assert monitor.eligible
    assert world.changes[-1] == ("enabled", "up")
    assert monitor.since == world.loop.now, "it was not up while it was disabled"


@pytest.mark.parametrize("often", [0.01, 0.3, 0.9, 1.7])
def test_whoever_asks_and_however_often_it_is_probed_soon_once_a_second(world: World, often: float) -> None:
    monitor = world.monitor(replace(PACE, interval=3600.0, fast_interval=3600.0, down_interval=3600.0))
    world.probes.now = GOOD
    world.run(1.0)
    world.probes.starts.clear()
    for _ in range(int(20 / often)):
        monitor.probe_soon()
        world.run(often)
    assert all(gap >= 1.0 for gap in gaps(world)), gaps(world)
    assert len(world.probes.starts) >= 20 / max(2 * often, 1.1), "and that often it is"


def test_who_has_it_probed_soon_does_not_put_its_turn_off(world: World) -> None:
    monitor = world.monitor(replace(PACE, interval=0.3, fast_interval=0.3, down_interval=0.3))
    world.probes.now = GOOD
    world.run(1.0)
    world.probes.starts.clear()
    begin = world.clock.now
    for _ in range(200):
        monitor.probe_soon()
        world.run(0.05)
    turns = (world.clock.now - begin) / 0.3
    assert turns - 2 <= len(world.probes.starts) <= turns * 1.3 + 2


def test_an_adopted_one_is_up_and_its_first_failure_takes_it_down(world: World) -> None:
    monitor = world.monitor()
    monitor.adopt()
    assert monitor.up
    world.probes.now = BAD
    world.run(1)
    assert not monitor.up


def test_who_inherits() -> None:
    world = World()
    old = world.monitor()
    old.adopt()
    old.disabled = True
    other_check = _moved(old.endpoint, checks=(replace(PACE, type="http"),))
    heir = Monitor(world.schedule, other_check, [recipe(other_check.checks[0], other_check)])
    heir.inherit(old)
    assert heir.up
    assert heir.disabled
    other_place = _moved(old.endpoint, address="10.0.0.9")
    stranger = Monitor(world.schedule, other_place, [recipe(PACE, other_place)])
    stranger.inherit(old)
    assert not stranger.up
    assert stranger.disabled, "the operator meant the name"


def _moved(endpoint: Endpoint, **changes: object) -> Endpoint:
    return replace(endpoint, **changes)             # type: ignore[arg-type]


def test_after_a_refused_client_the_pace_is_the_faster_of_both(world: World) -> None:
    monitor = world.monitor(replace(PACE, fast_interval=4.0, down_interval=1.0, timeout=0.5))
    world.probes.now = GOOD
    world.run(30)
    world.probes.now = BAD
    monitor.refuse(REFUSED, "a")
    world.run(0.1)
    world.probes.starts.clear()
    world.run(10)
    assert len(world.probes.starts) == 10


def test_a_refused_client_s_faster_pace_lasts_until_it_is_up(world: World) -> None:
    monitor = world.monitor(replace(PACE, rise=4, fast_interval=4.0, down_interval=1.0, timeout=0.5))
    world.probes.now = GOOD
    world.run(60)
    assert monitor.up
    world.probes.now = BAD
    monitor.refuse(REFUSED, "a")
    world.run(0.1)
    assert not monitor.up
    world.probes.now = GOOD
    world.probes.starts.clear()
    while not monitor.up:
        world.run(0.5)
    assert max(gaps(world)) <= 1.0


def test_the_first_outcome_is_decided_even_if_whoever_hears_of_it_fails(world: World) -> None:
    def fail(each: Monitor, was: str) -> None:
        raise RuntimeError("boom")

    world.monitor()
    world.schedule.changed = fail
    world.probes.now = GOOD
    world.run(30)
    assert world.decided == ["www/http/web1"]


def test_who_cannot_be_probed_at_first_is_told_of_when_it_can(world: World) -> None:
    world.monitor()
    world.probes.now = local("no descriptors")
    world.run(30)
    assert world.decided == ["www/http/web1"] and world.changes == []
    world.probes.now = BAD
    world.run(30)
    assert world.decided == ["www/http/web1"] and world.changes == [("unknown", "down")]


@given(rise=st.integers(1, 3), fall=st.integers(1, 3), steps=st.lists(st.tuples(
    st.sampled_from(("pass", "pass", "fail", "local", "down", "refuse", "enable", "adopt")), st.integers(1, 70)),
    max_size=12))
def test_the_short_way_of_a_pass_that_is_no_news_comes_to_the_same(rise: int, fall: int,
                                                                   steps: list[tuple[str, int]]) -> None:
    """Somebody who hears of every outcome makes all of them go the long way, and can keep a plain list of them."""
    short, long = World(), World()
    heard: list[Verdict] = []
    outcomes: list[bool] = []                       # of the member, refused clients among them

    def hear(each: Monitor, verdict: Verdict) -> None:
        heard.append(verdict)
        if verdict.code != "LOCAL":
            outcomes.append(verdict.passed)
    long.schedule.outcomes = [hear]
    check = replace(PACE, rise=rise, fall=fall, interval=1.0, fast_interval=1.0, down_interval=1.0, timeout=0.5)
    monitors = [(world, world.monitor(check)) for world in (short, long)]
    for what, count in steps:
        for world, monitor in monitors:
            if what == "down":
                monitor.take_down(REFUSED)
                if world is long:
                    outcomes.append(False)
            elif what == "refuse":                  # by a member that has banned the client
                world.probes.now = GOOD
                monitor.refuse(REFUSED, "a")
                world.run(count)
            elif what == "enable":
                monitor.enable()
            elif what == "adopt":
                monitor.adopt()
            else:
                world.probes.now = {"pass": GOOD, "fail": BAD, "local": local("no descriptors")}[what]
                world.run(count)
        ends = [(each.health, each.outcomes.passes, each.outcomes.failures, each.outcomes.trail, each.outcomes.streak,
                 each.verdict, each.trouble, each.up, each.changes, each.tried, each.unconfirmed,
                 each.refusals and (each.refusals.doubt.hold.count, each.refusals.open), world.changes, world.decided,
                 world.schedule.codes, world.probes.starts) for world, each in monitors]
        assert ends[0] == ends[1]
        run = next((place for place, passed in enumerate(reversed(outcomes)) if passed != outcomes[-1]), len(outcomes))
        assert monitors[0][1].outcomes.streak == (run if outcomes and outcomes[-1] else -run)
        assert monitors[0][1].outcomes.trail == outcomes[-TRAIL:]
    assert len(heard) == sum(long.schedule.codes.values())


def test_whoever_wants_to_hear_of_every_outcome_does(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world.monitor()
    world.probes.now = GOOD
    world.run(30)
    heard: list[Verdict] = []
    world.schedule.outcomes = [lambda each, verdict: heard.append(verdict)]
    world.run(30)
    assert heard == [GOOD] * 3
    world.schedule.outcomes, world.schedule.verbose = [], True
    world.run(30)
    assert caplog.text.count("www/http/web1 10.0.0.1:8080: L4OK connected") == 3


def test_the_same_again_is_no_news_and_all_else_is(world: World) -> None:
    monitor = world.monitor()
    looked = [0]
    world.loop.hook(lambda: looked.__setitem__(0, looked[0] + 1))

    def news(verdict: Verdict) -> int:
        """In how many turns of half a minute there was any."""
        looked[0], world.probes.now = 0, verdict
        world.run(30)
        return looked[0] - 1                        # the end of the half minute is some
    assert news(GOOD) and monitor.up
    assert news(GOOD) == 0
    assert news(BAD) > 1 and not monitor.up
    assert news(BAD) > 1
    assert news(GOOD) and monitor.up
    assert news(GOOD) == 0


def test_a_few_probes_a_second_begin_in_bunches_and_many_do_not(world: World) -> None:
    for number in range(100):
        world.monitor(replace(PACE, interval=1.0), name=f"m{number}")
    world.probes.now = GOOD
    world.schedule.bunch(100.0)
    world.run(5)
    world.probes.starts.clear()
    world.run(10)
    assert len(world.probes.starts) == 1000
    moments = sorted({when for when, _ in world.probes.starts})
    assert len(moments) <= 101, "ten moments a second"
    assert all(later - earlier == pytest.approx(0.1, abs=0.011) for earlier, later in pairwise(moments))
    begun = [sum(when == moment for when, _ in world.probes.starts) for moment in moments]
    assert begun[10:] == begun[:-10], "and nobody's second is longer or shorter"
    world.schedule.bunch(10_000.0)
    assert world.schedule.step == 1 / RATE
