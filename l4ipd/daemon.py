"""The daemon: what it is made of, and how it starts, takes over another configuration, and stops.

::

    Fleet      every endpoint's monitor        probes -> verdicts -> up or down, and what is told of it
      |        which service has changed
      v
    Steering   which rules we want             -> Reconciler -> ipnat
      ^
    Sensing    a client was refused            -> the endpoint's monitor

    Readiness  whether each cluster's addresses deserve to be announced, from all of the above

    Events     what people and programs hear of all this

They know each other only downwards, and by the callbacks that are handed over here.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from l4ipd.checks.probe import Prober
from l4ipd.discovery.members import Discovery
from l4ipd.events import Event, Events
from l4ipd.fleet import Fleet
from l4ipd.ipfilter.nat_table import Dialect
from l4ipd.ipfilter.nat_usage import NatUsage
from l4ipd.ipfilter.resync import Budget
from l4ipd.ipfilter.session_count import SessionCount
from l4ipd.model import Config, changes
from l4ipd.monitor.expiry import Expiry
from l4ipd.overrides import disabled_is_gone, left_is_gone
from l4ipd.readiness import Readiness
from l4ipd.resets.sensing import Sensing
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from l4ipd.shutdown import Shutdown
from l4ipd.steering import Steering

log = logging.getLogger("l4ipd")


class Applied(NamedTuple):
    """What a configuration has changed, in words; and what the operator wanted of those that it has no longer."""

    summary: str
    forgotten: list[str]


class Daemon:
    """All of it. Create it after daemonizing; :meth:`start` it, then run the loop.

    Many attributes: one for each part.
    """

    def __init__(self, loop: Loop, config: Config, descriptors: int, prober: Prober | None = None) -> None:
        self.loop = loop
        self.config = Config()                      # with the members that sources have
        self.given = Config()                       # as it stands in the files
        self.started = time.time()
        self.stopping = False
        self.shutdown: Shutdown | None = None
        loop.hook(self._turn)                       # before those of the reconcilers: they wait for its plan
        self.events = Events(loop.errors.shield)
        self.prober = prober or Prober(loop)
        budget = Budget()
        self.sensing = Sensing(loop, self.events.say, budget)
        self.fleet = Fleet(loop, self.events, self.prober.start, descriptors, refused=self.sensing.probe_refused,
                           changed=self._changed, decided=lambda: self.steering.rules.touch(),
                           kept=lambda group: self.steering.services.kept(group))
        self.expiry = Expiry(loop, self.prober.certificates, lambda: self.fleet.monitors.values())
        self.discovery = Discovery(loop, self._discovered)
        self.steering = Steering(loop, self.fleet, self.events, config.ipfilter, spoken=self._spoken,
                                 budget=budget)
        self.sessions = SessionCount(loop, lambda: self.steering.nat,
                                     lambda: [monitor.endpoint for monitor in self.fleet.monitors.values()])
        self.readiness = Readiness(loop, self.fleet, self.steering, self.events)
        self.nat_usage = NatUsage(loop, lambda: self.config.ipfilter, self.events.say)
        self.around: list[Callable[[], str]] = []   # what is wrong with what stands around it; empty: nothing
        self._first = config

    def start(self, saved: Saved | None = None) -> None:
        """Begin probing, and read the kernel's rules and adopt them. ``saved`` is what an earlier run left behind."""
        saved = saved or Saved()
        self.sensing.rules.remember(saved.tables, saved.tags, saved.counts)
        self.discovery.remember(saved.discovered)
        self.apply(self._first)
        self.fleet.restore(saved)
        self.readiness.restore(saved)
        _warn([*(disabled_is_gone(name, saved.users.get(name, "")) for name in saved.disabled
                 if name not in self.fleet.disabled),
               *(left_is_gone(name) for name in saved.left if name not in self.readiness.left)])
        self.steering.start(saved)
        self.nat_usage.start()

    def apply(self, config: Config) -> Applied:
        """Take over a configuration, the first or another. Unchanged endpoints keep everything; says what changed."""
        self.given = config
        return self._apply(self.discovery.take_over(config))

    def _discovered(self) -> None:
        self._apply(self.discovery.fill(self.given))

    def _apply(self, config: Config) -> Applied:
        if config == self.config:
            return Applied(f"{len(self.fleet.monitors)} endpoints: nothing changed", [])
        before, self.config = self.config, config
        first, left = not before.clusters, list(self.readiness.left)
        change = self.fleet.take_over(config)
        self.steering.take_over(config, first)
        self.readiness.take_over(config)
        self.sensing.apply(config.resets, config.ipfilter, self.fleet.monitors.values(),
                           f"{os.path.splitext(config.pidfile)[0]}.ipmon.pid")
        settings = changes(before, config)
        forgotten = [*change.forgotten, *(left_is_gone(name) for name in left if name not in self.readiness.left)]
        _warn(forgotten)
        return Applied((
            f"{change.endpoints} endpoints: {change.new} new, {change.changed} changed, {change.gone} gone" +
            (f"; settings changed: {', '.join(settings)}" if settings and not first else "")), forgotten)

    def reload(self, config: Config) -> Applied:
        """Like :meth:`apply`, and say it."""
        self.sensing.deafness.forget()              # the operator may have changed other rules
        applied = self.apply(config)
        self.steering.rules.hurry()
        self.events.tell(Event("reloaded", "", f"configuration reloaded: {applied.summary}"))
        return applied

    def complaints(self) -> list[str]:
        """What the configuration wants, and this machine does not give at present: files, addresses to listen at."""
        return [*self.discovery.troubles(), *(words for each in self.around if (words := each()))]

    def stop(self) -> None:
        """Stop probing; see the rules through, or take ours out if the configuration says so; then end the loop."""
        if self.stopping:
            self.loop.stop()
            return
        self.stopping = True
        self.discovery.stop()
        remove = self.config.ipfilter.on_stop == "remove"
        self.fleet.stop()
        self.nat_usage.stop()
        self.readiness.stop()
        self.sensing.stop(remove)
        self.steering.stop(remove)
        tables = [self.steering.rules, *self.sensing.rules.tables.values()]
        self.shutdown = Shutdown(self.loop, tables, lambda: self.steering.planned, remove, self.config.ipfilter.timeout)

    def _turn(self) -> None:
        self.fleet.turn()
        self.steering.turn()
        self.readiness.turn()

    def _changed(self, group: str) -> None:
        self.steering.changed(group)
        self.readiness.touch(group)

    def _spoken(self, dialect: Dialect) -> None:
        self.sensing.speak(dialect)


def _warn(lines: Iterable[str]) -> None:
    for line in lines:
        log.warning("%s", line)
