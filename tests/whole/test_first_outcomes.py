"""What the daemon makes of the first outcomes of endpoints, and of what it knew of them before."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict, local
from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.model import Config
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved, load
from l4ipd.state_saver import StateSaver

GOOD, BAD = Verdict("L4OK", "connected"), Verdict("L4CON", "connection refused")
NAME = "c/s/m1"


def configuration(directory: Path, members: str = "m1: 10.0.0.2", check: str = "tcp", clusters: int = 1) -> Config:
    each = "".join(f"  c{number or ''}: {{address: 203.0.113.{number + 1}, members: {{{members}}}, services: {{s: {{"
                   f"port: 80, member_port: 8080, check: {check}}}}}}}\n" for number in range(clusters))
    return parse(f"control: {directory}/sock\nstate: {directory}/state\nipfilter: {{interface: ext0}}\n"
                 f"defaults: {{fall: 2}}\nclusters:\n{each}", "conf")


class World:
    """A daemon whose probes have the verdict that the test says, at once."""

    def __init__(self, directory: Path, config: Config,
                 states: Mapping[str, tuple[bool, float | None]] | None = None) -> None:
        self.loop, self.verdict = Loop(), BAD
        self.daemon = Daemon(self.loop, config, 100)
        self.saver = StateSaver(self.loop, self.daemon, config.state)
        self.daemon.fleet.schedule.start = self.start
        self.events: list[tuple[str, str]] = []
        self.daemon.events.listeners = [lambda event: self.events.append((event.kind, event.name))]
        self.daemon.apply(config)
        self.daemon.fleet.restore(Saved(states=states or {}))
        self.daemon.fleet.transitions.begin()

    def start(self, recipe: Recipe, done: Callable[[Verdict], object]) -> World:
        done(self.verdict)
        return self

    def expire(self) -> None: ...
    def cancel(self) -> None: ...

    def probe(self, verdict: Verdict, rounds: int = 1) -> None:
        self.verdict = verdict
        for _ in range(rounds):
            for monitor in self.daemon.fleet.monitors.values():
                self.loop.clear(monitor)
                monitor.fire()
        self.daemon.fleet.transitions.settle()

    def end(self) -> dict[str, tuple[bool, float | None]]:
        """What the state file says then."""
        self.saver.close()
        self.loop.close()
        return dict(load(self.daemon.config.state).states)


def down(world: World) -> int:
    return world.events.count(("down", NAME))


def test_known_to_be_down_through_a_run_that_could_not_probe_it(tmp_path: Path) -> None:
    config = configuration(tmp_path)
    states: dict[str, tuple[bool, float | None]] = {NAME: (False, time.time() - 60)}
    for _ in range(2):
        world = World(tmp_path, config, states)
        world.probe(local("no descriptors"))
        states = world.end()
        assert down(world) == 0 and NAME in states
    world = World(tmp_path, config, states)
    world.probe(BAD, 3)
    world.end()
    assert world.events == [], "nor that nobody is up"


def test_known_to_be_down_through_a_reload_that_changes_the_check(tmp_path: Path) -> None:
    world = World(tmp_path, configuration(tmp_path))
    world.probe(BAD, 2)
    assert down(world) == 1
    changed = configuration(tmp_path, check="http")
    world.daemon.reload(changed)
    after = World(tmp_path, changed, world.end())
    after.probe(BAD, 2)
    after.end()
    assert down(after) == 0


def test_who_was_up_meanwhile_is_news_when_it_is_down(tmp_path: Path) -> None:
    world = World(tmp_path, configuration(tmp_path), {NAME: (False, time.time() - 60)})
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
    world = World(tmp_path, configuration(tmp_path, clusters=50))
    looks: list[str] = []
    monkeypatch.setattr(world.daemon.fleet.transitions, "_look", looks.append)
    world.probe(local("network is down"))
    world.probe(GOOD, 2)
    world.end()
    assert len(looks) == 100, "of each, when it had its first outcome, and when it came up"
