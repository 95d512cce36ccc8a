"""A member that says that it wants to be left: what its state is, told by tables and by a model in words."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.checks.verdict import Leave, Verdict, local
from l4ipd.model import Check
from l4ipd.monitor import health
from support.monitors import BAD, GOOD, PACE, REFUSED, World

LEAVE = Leave("L7STS", "503 Service Unavailable")
SICK = Verdict("L7STS", "500 Internal Server Error")
VERDICTS = {"+": GOOD, "-": BAD, "!": SICK, "d": LEAVE, "?": local("no memory")}
NAMES = {"u": "up", "d": "draining", "n": "down", "?": "unknown"}


@pytest.mark.parametrize(("outcomes", "states"), [
    ("+d", "ud"),                                   # at once, whatever fall is
    ("+dddd", "udddd"),
    ("+d++", "uddu"),                               # back by rise passes in a row
    ("+d+d+d++", "udddddd" "u"),                    # and no sooner
    ("+d---", "udddn"),                             # down by fall failures in a row
    ("+d--d--+--!", "uddddddddd" "n"),              # which what it says, or one pass, ends
    ("+d---++", "udddnnu"), ("+d---d", "udddnd"), ("+d---d++", "udddnddu"),
    ("+--d", "uuud"),                               # in doubt already
    ("d", "d"), ("d++", "ddu"), ("d---", "dddn"),   # from the first one on
    ("-d", "nd"), ("-+d+", "nndd"), ("-+d++", "nnddu"),
    ("+d?d?++", "uddddd" "u"), ("+d-?-?-", "udddddn"),      # our own trouble says nothing
])
def test_states(outcomes: str, states: str) -> None:
    world = World()
    monitor = world.monitor(PACE)
    seen = ""
    for outcome in outcomes:
        world.probes.now = VERDICTS[outcome]
        world.until_start()
        seen += {name: letter for letter, name in NAMES.items()}[monitor.seen]
        assert monitor.eligible == (monitor.seen == "up")
    assert seen == states
    told = [now for now, before in zip(states, "?" + states, strict=False) if now != before]
    assert [now for _, now in world.changes] == [NAMES[each] for each in told], "each change is told, once"


def in_words(rise: int, fall: int, outcomes: str) -> list[str]:
    """Draining from when it says so, until rise passes or fall failures in a row."""
    state, row, last = "unknown", 0, ""
    states = []
    for outcome in outcomes:
        row, last = (row + 1 if outcome == last else 1), outcome
        if outcome == "d":
            state = "draining"
        elif state == "unknown":
            state, row = ("up" if outcome == "+" else "down"), 0
        elif outcome == "+" and state != "up" and row >= rise:
            state, row = "up", 0
        elif outcome == "-" and state != "down" and row >= fall:
            state, row = "down", 0
        states.append(state)
    return states


@given(st.integers(1, 4), st.integers(1, 4), st.text("+-d", max_size=40))
def test_the_counter_and_the_model_in_words_agree(rise: int, fall: int, outcomes: str) -> None:
    world = World()
    monitor = world.monitor(replace(PACE, rise=rise, fall=fall))
    seen = []
    for outcome in outcomes:
        world.probes.now = VERDICTS[outcome]
        world.until_start()
        seen.append(monitor.seen)
        assert -fall < monitor.health <= health.top(rise, fall)
        assert (monitor.health >= rise) == (monitor.seen == "up")
    assert seen == in_words(rise, fall, outcomes)


def test_pace_of_one_that_drains() -> None:
    """It is watched as one that is up, and faster while in doubt."""
    world = World()
    world.monitor(PACE)
    world.probes.now = GOOD
    world.run(25)
    for outcome, pace in ((LEAVE, PACE.interval), (BAD, PACE.fast_interval), (GOOD, PACE.fast_interval)):
        world.probes.now = LEAVE
        world.until_start()
        world.until_start()
        world.probes.now = outcome
        world.until_start()
        world.until_start()
        last, now = world.probes.starts[-2:]
        assert now[0] - last[0] <= pace + 0.1 and (now[0] - last[0] > pace / 2 or pace < 2)


HEALTH, SERVICE = replace(PACE, port=81), Check("tcp", port=80)


@pytest.mark.parametrize(("first", "second", "expected"), [
    ("d", "+", "draining"), ("+", "d", "draining"), ("d", "d", "draining"),
    ("d", "-", "down"), ("-", "d", "down"),         # what nobody answers is dead, whatever another port says
    ("d", "?", "draining"), ("?", "d", "draining"), ("?", "+", "unknown"),
])
def test_a_list_of_checks(first: str, second: str, expected: str) -> None:
    world = World()
    monitor = world.monitor(HEALTH, SERVICE)
    for place in range(2):
        while not world.probes.flying:
            world.loop.turn()
        port = world.probes.starts[-1][1]
        world.probes.end(VERDICTS[first if port == 81 else second])
        if not world.probes.flying:
            break
        assert place == 0
    assert monitor.seen == expected
    if expected == "draining":
        assert str(monitor.verdict).startswith(f"L7STS port {81 if first == 'd' else 80}: 503 ")


def test_enabled_while_it_drains() -> None:
    world = World()
    monitor = world.monitor(PACE)
    world.probes.now = GOOD
    world.until_start()
    monitor.disable()
    monitor.enable()
    world.probes.now = LEAVE
    world.until_start()
    assert world.changes[-1] == ("enabled", "draining") and not monitor.eligible


@pytest.mark.parametrize("outcome", ["d", "+", "-"])
def test_a_client_that_is_refused_meanwhile(outcome: str) -> None:
    """A probe decides: who says that it wants to be left, and refuses clients, is not dead for that."""
    world = World()
    monitor = world.monitor(PACE)
    world.probes.now = GOOD
    world.until_start()
    world.probes.now = VERDICTS[outcome]
    monitor.refuse(REFUSED, "198.51.100.7")
    world.run(0.5)
    assert monitor.seen == {"d": "draining", "+": "up", "-": "down"}[outcome]
    assert world.changes[1:] == [("up", monitor.seen)][:outcome != "+"]
    if outcome == "d":
        assert monitor.refuse(REFUSED, "198.51.100.8") in ("used", "haste", "doubted")
        world.run(0.5)
        assert monitor.seen == "draining"
