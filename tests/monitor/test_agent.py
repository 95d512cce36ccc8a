"""What agents say in the middle of a round, what their silence comes to, and what the log is told of both."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from l4ipd.checks.protocols.agent import Weighed
from l4ipd.checks.verdict import Leave, Verdict, local
from l4ipd.monitor.agent import Agent
from l4ipd.monitor.monitor import Monitor
from support.monitors import BAD, GOOD, PACE, World

HALF, READY = Weighed("up 50%", 50), Verdict("L7OK", "ready")
DRAIN, DOWN = Leave("L7STS", "drain"), Verdict("L7STS", "down")
GONE, GARBLED = Verdict("L4CON", "connection refused"), Verdict("L7RSP", "answer: hello")


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return lines


@pytest.mark.parametrize(("verdict", "share"), [(HALF, 50), (READY, None), (DRAIN, None), (DOWN, None)], ids=str)
def test_what_it_says_counts_and_stays(verdict: Verdict, share: int | None, caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("web1 at home")
    assert agent.heard(verdict) == (verdict, share)
    assert said(caplog) == []
    assert agent.heard(GONE) == (verdict, None), "what it said last, and its share as it is"
    assert said(caplog) == [f"web1 at home: its agent is silent: {GONE}; what it said last stays: {verdict.text}"]


def test_silence_before_its_first_word_is_our_own_trouble(caplog: pytest.LogCaptureFixture) -> None:
    agent = Agent("web1")
    assert agent.heard(GONE) == (local(f"the agent is silent: {GONE}"), None)
    assert said(caplog) == [f"web1: its agent is silent: {GONE}; nothing was heard from it yet"]


def test_each_kind_of_silence_is_told_once_and_its_end(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    agent = Agent("web1")
    agent.heard(READY)
    agent.heard(READY)
    assert said(caplog) == []
    for verdict, lines in ((GONE, 1), (GONE, 0), (GARBLED, 1), (GARBLED, 0), (GONE, 1)):
        agent.heard(verdict)
        assert len(said(caplog)) == lines
    agent.heard(HALF)
    agent.heard(HALF)
    assert said(caplog) == [f"web1: its agent is heard again: {HALF}"]
    agent.heard(GONE)
    assert len(said(caplog)) == 1, "told anew"


# -- in a round of an endpoint

def rounds(world: World, monitor: Monitor, *outcomes: Verdict) -> list[int]:
    """The shares of its weight after each."""
    shares = []
    for outcome in outcomes:
        world.until_start()
        world.probes.end(outcome)
        shares.append(monitor.share)
    return shares


def test_it_scales_the_member_and_its_silence_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world, weighed = World(), []
    world.schedule.weighed = lambda each: weighed.append((each.endpoint.name, each.offered.weight))
    monitor = world.monitor(replace(PACE, type="agent"))
    monitor.redefine(replace(monitor.endpoint, weight=4))
    assert rounds(world, monitor, HALF, GONE, HALF, READY, Weighed("up 75%", 75)) == [50, 50, 50, 50, 75]
    assert weighed == [("www/http/web1", 2), ("www/http/web1", 3)]
    where = monitor.endpoint.where
    assert said(caplog) == [
        f"www/http/web1 {where}: its agent wants 50 % of its weight, and had 100 %",
        f"www/http/web1 {where}: its agent is silent: {GONE}; what it said last stays: up 50%",
        f"www/http/web1 {where}: its agent is heard again: {HALF}",
        f"www/http/web1 {where}: its agent wants 75 % of its weight, and had 50 %"]
    assert monitor.up and monitor.verdict == Weighed("up 75%", 75)


def test_a_share_of_nothing_leaves_a_member_that_is_up_one_unit() -> None:
    """``up 0%`` is a drain; a very small share of a small weight is not."""
    world = World()
    monitor = world.monitor(replace(PACE, type="agent"))
    monitor.redefine(replace(monitor.endpoint, weight=3))
    for share, weight in ((0, 0), (1, 1), (33, 1), (34, 2), (67, 3), (100, 3)):
        rounds(world, monitor, Weighed(f"up {share}%", share))
        assert (monitor.share, monitor.offered.weight) == (share, weight)
    assert monitor.offered is monitor.endpoint


def test_what_is_offered_follows_the_endpoint() -> None:
    world = World()
    monitor = world.monitor(replace(PACE, type="agent"))
    monitor.redefine(replace(monitor.endpoint, weight=10))
    rounds(world, monitor, HALF)
    first = monitor.offered
    assert first.weight == 5 and monitor.offered is first, "made once"
    monitor.redefine(replace(monitor.endpoint, weight=20))
    assert monitor.offered.weight == 10


def test_the_heir_of_one_that_is_scaled() -> None:
    world = World()
    old, heir = world.monitor(replace(PACE, type="agent")), world.monitor(replace(PACE, type="agent", rise=1))
    rounds(world, old, HALF)
    heir.inherit(old)
    heir.redefine(replace(heir.endpoint, weight=8))
    assert heir.offered.weight == 4


def test_beside_another_check() -> None:
    """Its silence hides neither that the member is dead nor what another check says."""
    world = World()
    monitor = world.monitor(replace(PACE, rise=1, fall=1), replace(PACE, type="agent", port=81))
    for outcomes, verdict, seen in (
            ((GOOD, HALF), HALF, "up"), ((GOOD, GONE), HALF, "up"),
            ((BAD,), "L4CON port 8080: connection refused", "down"),
            ((GOOD, DRAIN), "L7STS port 81: drain", "draining"), ((GOOD, GARBLED), "L7STS port 81: drain", "draining"),
            ((GOOD, DOWN), "L7STS port 81: down", "down"), ((GOOD, READY), READY, "up")):
        world.until_start()
        for outcome in outcomes:
            world.probes.end(outcome)
        assert not world.probes.flying
        assert (str(monitor.verdict), monitor.seen) == (str(verdict), seen)
    assert monitor.share == 50, "who says nothing of it keeps it"
