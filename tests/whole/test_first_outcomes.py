"""What the daemon makes of the first outcomes of endpoints, and of what it knew of them before."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from l4ipd.checks.verdict import Verdict, local
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon, configuration

NAME = "c/s/m1"


def down(world: ScriptedDaemon) -> int:
    return world.events.count(("down", NAME))


def test_known_to_be_down_through_a_run_that_could_not_probe_it(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    states: dict[str, tuple[bool, float | None]] = {NAME: (False, time.time() - 60)}
    for _ in range(2):
        world = ScriptedDaemon(tmp_path, config, states)
        world.probe(local("no descriptors"))
        states = world.end()
        assert down(world) == 0 and NAME in states
    world = ScriptedDaemon(tmp_path, config, states)
    world.probe(BAD, 3)
    world.end()
    assert world.events == [], "nor that nobody is up"


def test_known_to_be_down_through_a_reload_that_changes_the_check(tmp_path: Path) -> None:
    world = ScriptedDaemon(tmp_path, configuration(tmp_path))
    world.probe(BAD, 2)
    assert down(world) == 1
    changed = configuration(tmp_path, check="http")
    world.daemon.reload(changed)
    after = ScriptedDaemon(tmp_path, changed, world.end())
    after.probe(BAD, 2)
    after.end()
    assert down(after) == 0


def test_who_was_up_meanwhile_is_news_when_it_is_down(tmp_path: Path) -> None:
    world = ScriptedDaemon(tmp_path, configuration(tmp_path), {NAME: (False, time.time() - 60)})
    monitor = world.daemon.fleet.monitors[NAME]
    monitor.adopt()
    world.probe(local("no descriptors"))
    monitor.take_down(Verdict("RST", "connection refused, seen by ipmon"))
    world.probe(GOOD, 5)
    assert monitor.up
    world.daemon.reload(configuration(tmp_path, "m1: 10.0.0.9"))
    world.events.clear()
    world.probe(BAD, 3)
    world.end()
    assert down(world) == 1


def test_after_trouble_of_ours_the_first_verdicts_cost_no_look_at_all_services_each(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = ScriptedDaemon(tmp_path, configuration(tmp_path, clusters=50))
    looks: list[str] = []
    monkeypatch.setattr(world.daemon.fleet.transitions, "_look", looks.append)
    world.probe(local("network is down"))
    world.probe(GOOD, 2)
    world.end()
    assert len(looks) == 100, "of each, when it had its first outcome, and when it came up"
