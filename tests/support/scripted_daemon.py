"""A daemon whose probes have the verdict that the test says, at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.model import Config
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved, load
from l4ipd.state_saver import StateSaver

GOOD, BAD = Verdict("L4OK", "connected"), Verdict("L4CON", "connection refused")


def configuration(directory: Path, members: str = "m1: 10.0.0.2", check: str = "tcp", clusters: int = 1) -> Config:
    each = "".join(f"  c{number or ''}: {{address: 203.0.113.{number + 1}, members: {{{members}}}, services: {{s: {{"
                   f"port: 80, member_port: 8080, check: {check}}}}}}}\n" for number in range(clusters))
    return parse(f"control: {directory}/sock\nstate: {directory}/state\nipfilter: {{interface: ext0}}\n"
                 f"defaults: {{fall: 2}}\nclusters:\n{each}", "conf")


class ScriptedDaemon:
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

    def start(self, recipe: Recipe, done: Callable[[Verdict], object]) -> ScriptedDaemon:
        done(self.verdict)
        return self

    def expire(self) -> None: ...
    def cancel(self) -> None: ...

    def probe(self, verdict: Verdict, rounds: int = 1) -> None:
        self.verdict = verdict
        for _ in range(rounds):
            for monitor in self.daemon.fleet.monitors.values():
                self.loop.clear(monitor.checker)
                monitor.checker.fire()
        self.daemon.fleet.transitions.settle()

    def end(self) -> dict[str, tuple[bool, float | None]]:
        """What the state file says then."""
        self.saver.close()
        self.loop.close()
        return dict(load(self.daemon.config.state).states)
