"""Endpoints that go up and down again and again: when they are held down, and for how long; told by tables and by a
model in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd.checks.verdict import Verdict, local
from l4ipd.model import Check, Flap
from l4ipd.monitor import flapping
from l4ipd.monitor.hold_down import HoldDown
from l4ipd.monitor.monitor import Monitor
from l4ipd.report import status
from support.monitors import BAD, GOOD, REFUSED, World

ONE = Check("tcp", interval=1.0, timeout=0.5, rise=1, fall=1, fast_interval=1.0, down_interval=1.0)
SIX = Flap(6, 300.0)


def feed(world: World, outcomes: str) -> None:
    for outcome in outcomes:
        world.probes.now = {"+": GOOD, "-": BAD, "?": local("no memory")}[outcome]
        world.until_start()


# -- what is held down longer each time

def test_each_time_twice_as_long_and_it_has_a_bound() -> None:
    it, now, seen = HoldDown(flapping.FIRST, flapping.LONGEST, flapping.QUIET), 0.0, []
    for _ in range(8):
        it.heard(now)
        seen.append(it.grow(now))
        now = it.until
    assert seen == [30, 60, 120, 240, 480, 600, 600, 600]


def test_a_quiet_time_forgets() -> None:
    it = HoldDown(30.0, 600.0, 600.0)
    it.heard(0.0)
    assert it.grow(0.0) == 30 and not it.heard(630.0) and it.grow(630.0) == 60      # until 690
    assert it.heard(1291.0) and it.grow(1291.0) == 30


# -- when

@pytest.mark.parametrize(("outcomes", "states"), [
    ("+-+-+-", "ududud"),                           # five changes: what it was first was none
    ("+-+-+-+", "udududh"), ("-+-+-+-", "dududuh"),
    ("+-+-+-++++", "udududhhhh"), ("+-+-+-+-+-+", "udududhhhhh"),       # whatever its probes say
    ("?+-+-+-?+", "?udududdh"),                     # our own trouble is no change
])
def test_the_sixth_change_of_state(outcomes: str, states: str) -> None:
    world = World()
    monitor = world.monitor(ONE, flap=SIX)
    seen = ""
    for outcome in outcomes:
        feed(world, outcome)
        seen += {"up": "u", "down": "d", "held": "h", "unknown": "?"}[monitor.seen]
        assert monitor.eligible == (monitor.seen == "up")
    assert seen == states
    told = [now for now, before in zip(states, "?" + states, strict=False) if now != before]
    assert [now[0] for _, now in world.changes] == [each for each in told if each != "?"], "each is told, once"


def test_it_ends_and_what_it_is_then_is_told_once() -> None:
    for last, state in (("+", "up"), ("-", "down")):
        world = World()
        monitor = world.monitor(ONE, flap=SIX)
        feed(world, "+-+-+-+")
        began = world.clock.now
        while monitor.held:
            feed(world, last)
        assert flapping.FIRST <= world.clock.now - began <= flapping.FIRST + 1.01
        assert world.changes[-2:] == [("down", "held"), ("held", state)] and monitor.seen == state
        assert monitor.since <= world.clock.now


def test_slow_changes_are_none_of_its_affair() -> None:
    world = World()
    monitor = world.monitor(ONE, flap=Flap(3, 9.0))
    for _ in range(20):
        feed(world, "+" * 5 + "-" * 5)
        assert not monitor.held                     # three in 9 s are not to be had
    feed(world, "+-+-")
    assert monitor.held


@pytest.mark.parametrize(("within", "second"), [(300.0, 30.0), (3600.0, 60.0)])
def test_what_was_is_not_forgotten_within_the_time_that_counts(within: float, second: float) -> None:
    """Ten minutes without a change are quiet, unless changes are counted over longer."""
    world = World()
    monitor = world.monitor(ONE, flap=Flap(2, within))
    feed(world, "+-+")
    assert monitor.held
    feed(world, "+" * 1000)
    assert monitor.seen == "up"
    feed(world, "-+")
    assert monitor.flapping is not None and monitor.held
    assert monitor.flapping.hold.until - world.clock.now == pytest.approx(second, abs=0.1)


def test_no_means_never() -> None:
    world = World()
    monitor = world.monitor(ONE, flap=None)
    feed(world, "+-" * 50)
    assert not monitor.held and len(world.changes) == 100


def test_the_last_one_is_never_held_and_its_next_change_counts_with_those_before() -> None:
    world = World()
    world.schedule.last = lambda monitor: True
    monitor = world.monitor(ONE, flap=SIX)
    feed(world, "+-" * 20)
    assert monitor.seen == "down"
    world.schedule.last = lambda monitor: False
    feed(world, "+")
    assert monitor.held


@pytest.mark.parametrize("what", ["disable", "enable"])
def test_the_operators_word_ends_it_and_makes_it_forgotten(what: str) -> None:
    world = World()
    monitor = world.monitor(ONE, flap=SIX)
    feed(world, "+-+-+-+")
    getattr(monitor, what)()
    assert monitor.seen == "up" and not monitor.held
    feed(world, "-")
    monitor.enable()
    feed(world, "+-+-+-")                           # the first of them is the operator's doing
    assert not monitor.held
    feed(world, "+")
    assert monitor.held and monitor.flapping is not None and monitor.flapping.hold.count == 1


@pytest.mark.parametrize("weight", [0, 1])
def test_who_gets_nothing_moves_nobody(weight: int) -> None:
    world = World()
    monitor = world.monitor(ONE, flap=SIX)
    monitor.redefine(replace(monitor.endpoint, weight=weight))
    feed(world, "+-" * 10)
    assert monitor.held == bool(weight)


def test_what_refused_clients_bring_about_counts_only_if_a_probe_agrees() -> None:
    """Whom a member has banned could have it held down else."""
    def refuse(world: World, monitor: Monitor, verdict: Verdict) -> None:
        """The probe takes its time, so that it is out until that is over."""
        world.probes.now = None
        monitor.refuse(REFUSED, "198.51.100.7")
        world.run(0.1)
        assert not monitor.eligible
        world.probes.end(verdict)

    slow = replace(ONE, interval=3600.0, fast_interval=3600.0, down_interval=3600.0)
    for verdict, held in ((GOOD, False), (BAD, True)):
        world = World()
        monitor = world.monitor(slow, flap=Flap(4, 3600.0))
        feed(world, "+")
        for _ in range(4):
            refuse(world, monitor, verdict)
            if not monitor.up:
                world.probes.now = GOOD
                monitor.checker.probe_at(world.clock.now)
                world.run(0.1)
            world.run(130.0)                        # its resets are believed again
        assert [now for _, now in world.changes].count("held") == 2 * held
        assert len(world.changes) >= 8


def test_a_client_refused_while_it_is_held() -> None:
    world = World()
    monitor = world.monitor(ONE, flap=SIX)
    feed(world, "+-+-+-+")
    told = len(world.changes)
    world.probes.now = BAD
    monitor.refuse(REFUSED, "198.51.100.7")
    world.run(2.0)
    assert monitor.held and not monitor.up and len(world.changes) == told


def test_another_check_of_the_same_port_does_not_end_it() -> None:
    world = World()
    old, new = world.monitor(ONE, flap=SIX), world.monitor(ONE, flap=SIX)
    feed(world, "+-+-+-+-")
    until = old.flapping.hold.until if old.flapping else 0.0
    new.stop()
    new = world.monitor(replace(ONE, fall=2), flap=SIX)
    new.inherit(old)
    old.stop()
    assert new.held and new.flapping is not None and new.flapping.hold.until == until
    world.probes.now = GOOD
    world.run(flapping.FIRST + 1)
    assert new.seen == "up" and world.changes[-1] == ("held", "up")


def test_what_an_earlier_run_has_left() -> None:
    """It is held until then; without a verdict nobody knows what it is after that."""
    world = World()
    monitor = world.monitor(replace(ONE, interval=100.0, down_interval=100.0), flap=SIX)
    world.probes.now = local("no memory")
    monitor.hold(3, world.clock.now + 10.0, True)
    assert monitor.seen == "held" and status.state(monitor) == "held"
    world.run(20.0)
    assert monitor.seen == "held" and not world.changes
    feed(world, "+")
    assert world.changes == [("held", "up")]
    assert monitor.flapping is not None and monitor.flapping.hold.grow(world.clock.now) == 8 * flapping.FIRST


def test_what_show_says() -> None:
    world = World()
    monitor = world.monitor(ONE, flap=SIX)
    feed(world, "+-+-+-+")
    assert status.verdict(monitor) == "L4OK connected; held down for 30 s more: it flaps"
    world.run(10.0)
    assert status.verdict(monitor) == "L4OK connected; held down for 20 s more: it flaps"


# -- a model in words

def in_words(limit: Flap, story: list[tuple[float, bool, bool]]) -> list[tuple[str, float]]:
    """Held from the change that is the nth within so many seconds, unless it is the last one; for 30 s, and twice as
    long each time, up to 10 min, as long as ten minutes do not pass without a change or a hold. ``story`` says of each
    probe when it was, whether it passed, and whether another member serves."""
    told: list[tuple[str, float]] = []
    state, until, times, length, quiet_since = "unknown", 0.0, [], 30.0, 0.0    # type: ignore[var-annotated]
    found = "unknown"
    for now, passed, others in story:
        if state == "held" and now > until:
            state = found
            told.append((state, until))
            quiet_since = until
        found, before = ("up" if passed else "down"), state
        if state in ("held", found):
            continue
        state = found
        if before != "unknown":
            if now - quiet_since > max(600.0, limit.within):
                length = 30.0
            quiet_since = now
            times = [*times, now][-limit.changes:]
            if others and len(times) == limit.changes and now - times[0] <= limit.within:
                state, until, times = "held", now + length, []
                length = min(2 * length, 600.0)
        told.append((state, until if state == "held" else now))
    return told


RUNS = st.lists(st.tuples(st.sampled_from((1, 1, 1, 1, 2, 3, 40, 700)), st.booleans()), max_size=60)


@settings(max_examples=30)
@given(st.integers(2, 7), st.sampled_from((5.0, 30.0, 300.0, 3600.0)), RUNS)
def test_the_monitor_and_the_model_in_words_agree(changes: int, within: float, runs: list[tuple[int, bool]]) -> None:
    limit, world = Flap(changes, within), World()
    serving = True
    world.schedule.last = lambda monitor: not serving
    monitor = world.monitor(ONE, flap=limit)
    told: list[tuple[str, float]] = []
    world.schedule.changed = lambda each, was: told.append(
        (each.seen, each.flapping.hold.until if each.held and each.flapping else world.clock.now))
    story: list[tuple[float, bool, bool]] = []
    passed = True
    for count, serving in runs:
        for _ in range(count):
            feed(world, "+" if passed else "-")
            story.append((world.clock.now, passed, serving))
        passed = not passed
    assert monitor.seen == "unknown" or told
    expected = in_words(limit, story)
    if monitor.held is False and len(told) > len(expected):
        expected.append((monitor.seen, told[-1][1]))        # it has ended since the last probe
    assert [state for state, _ in told] == [state for state, _ in expected]
    assert [when for _, when in told] == pytest.approx([when for _, when in expected], abs=0.02)
