"""Everything together: all monitors, the reconciler, start, reload and stop.

Monitors say that a state has changed; once a turn, the rules of the services it touches are planned anew and handed to
the reconciler as one wanted set. Nobody adds or removes a rule because a member came up or went down.
"""

from __future__ import annotations

import logging
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from l4ipd import checks, ipfilter, plan
from l4ipd.loop import Loop
from l4ipd.model import Config, changes
from l4ipd.monitor import Monitor
from l4ipd.nat import Dialect, NatTable, find_dialect
from l4ipd.probe import Prober
from l4ipd.reconcile import Reconciler
from l4ipd.resets import Sensing
from l4ipd.rounds import Rounds
from l4ipd.sight import Sight
from l4ipd.state import Saved

STOP_WAIT = 2.0                                     # seconds that a stop waits for rules to be as they should
log = logging.getLogger("l4ipd")


class Event(NamedTuple):
    """Something that people and programs may want to hear of. ``name`` is an endpoint, a service, or empty."""

    kind: str                                       # up down disabled enabled all-down repaired reloaded
                                                    # reload-failed sensing-lost sensing-back blind sighted
    name: str
    text: str
    level: int = logging.INFO


class Daemon:
    """The balancer's brain. Create it after daemonizing; :meth:`start` it, then run the loop."""

    def __init__(self, loop: Loop, config: Config, descriptors: int, prober: Prober | None = None) -> None:
        self.loop = loop
        self.config = Config()
        self.dialect = Dialect(sure=False)
        self.monitors: dict[str, Monitor] = {}
        self.groups: dict[str, list[Monitor]] = {}  # by service
        self.owner: dict[str, Monitor] = {}         # every rule that the configuration can want -> whose it is
        self.listeners: list[Callable[[Event], object]] = [_log_event]
        self.prober = prober or Prober(loop)
        self.sight = Sight(loop, self._addresses, lambda kind, text, level: self.tell(Event(kind, "", text, level)))
        self.rounds = Rounds(loop, descriptors, self.prober.start, changed=self._changed, decided=self._decided,
                             spoiled=lambda monitor, verdict, began: self.sight.spoils(
                                 monitor.endpoint.address, verdict, began), alone=self._is_alone)
        self.started = time.time()
        self.stopping = False
        self.saved = Saved()                        # what an earlier run left behind; to be set before the start
        self.disabled: dict[str, float] = {}        # by the operator: endpoint -> since when, seconds since the epoch
        self._cut: set[str] = set()                 # disabled endpoints whose sessions are to end at once
        self._none_told: set[str] = set()           # services of which it was said that no member is up
        self._keep: dict[str, bool] = {}            # by service: when_all_down: keep
        self._serving: dict[str, tuple[str, ...]] = {}
        self._wanted: dict[str, list[str]] = {}     # by service
        self._dirty: set[str] = set()               # services whose rules have to be planned anew
        self._undecided: set[str] = set()           # endpoints without any outcome yet
        self.known_down: set[str] = set()           # endpoints that were down when last heard of, without a verdict yet
        self._adopted = False
        self._asking = False                        # find_dialect is under way
        self._old_tags: set[str] = set()
        self._counts: dict[str, int] = {}           # by service: who is eligible, as far as this turn had to count
        loop.hook(self._replan)
        self._first_config = config
        self.nat = NatTable(config.ipfilter, self.dialect, self._known)
        self.rules = Reconciler(loop, self.nat.table, config.ipfilter.timeout, config.ipfilter.resync,
                                removal=self._removal, listed=self._listed, repaired=self._repaired)
        self.rules.pause = True                     # until we know the dialect
        self.sensing = Sensing(loop, lambda kind, text, level: self.tell(Event(kind, "", text, level)))
        self.rounds.refused = self.sensing.probe_refused

    # -- life

    def start(self) -> None:
        """Begin probing, and find out what the tools understand; then the kernel's rules are read and adopted."""
        self.sensing.rules.remember(self.saved.tables, self.saved.tags, self.saved.counts)
        self.apply(self._first_config)
        self._restore()
        find_dialect(self.loop, self.config.ipfilter, self._speak)

    def _restore(self) -> None:
        """What the operator disabled stays so; and what is down as it was has been down since then."""
        self.disabled = {name: when for name, when in self.saved.disabled.items() if name in self.monitors}
        for name, monitor in self.monitors.items():
            monitor.disabled = name in self.disabled
            monitor.since -= self.saved.since(name, False, time.time())
            if not self.saved.states.get(name, (True, 0.0))[0]:
                self.known_down.add(name)
        if self.disabled:
            log.info("still disabled by the operator: %s", ", ".join(self.disabled))

    def _speak(self, dialect: Dialect) -> None:
        """The tools have answered. If ipnat could not, it is asked again as soon as it works."""
        known, self.dialect = self.dialect, dialect
        self._asking = False
        self.sensing.modern = dialect.modern
        if dialect.version and dialect.sure and dialect != known:
            log.info("IPFilter %s; ipnat %s", dialect.version, "ends the sessions of failed members (-p)"
                     if dialect.purge else "cannot end sessions (no -p): those of failed members end in their own time")
        paused, self.rules.pause = self.rules.pause, False
        if dialect != known or paused:
            self._use_table()

    def _use_table(self) -> None:
        settings = self.config.ipfilter
        self.nat = NatTable(settings, self.dialect, self._known, self._old_tags)
        self.rules.use(self.nat.table, settings.timeout, settings.resync)

    def apply(self, config: Config) -> str:
        """Take over a configuration, the first or another. Unchanged endpoints keep everything; says what changed."""
        if config == self.config:
            return f"{len(self.monitors)} endpoints: nothing changed"
        before, self.config = self.config, config
        if config.ipfilter != before.ipfilter:
            for monitor in self.monitors.values():
                monitor.lines = ()
        old, self.monitors = self.monitors, {}
        fresh = changed = 0
        for endpoint in config.endpoints():
            known = old.pop(endpoint.name, None)
            if known is not None and known.endpoint == endpoint:
                self.monitors[endpoint.name] = known
            elif known is not None and known.endpoint.probed == endpoint.probed:
                known.endpoint, known.lines = endpoint, ()
                self.monitors[endpoint.name] = known
                changed += 1
            else:
                monitor = Monitor(self.rounds, endpoint, tuple(checks.recipe(check, endpoint)
                                                               for check in endpoint.checks))
                if known is not None:
                    monitor.inherit(known)
                    if known.verdict is not None and not known.up:
                        self.known_down.add(endpoint.name)
                    known.stop()
                    changed += 1
                self.monitors[endpoint.name] = monitor
                self._undecided.add(endpoint.name)
                monitor.schedule()
                fresh += known is None
        for gone in old.values():
            gone.stop()
            self._undecided.discard(gone.endpoint.name)
            self.known_down.discard(gone.endpoint.name)
            self.disabled.pop(gone.endpoint.name, None)
            self._cut.discard(gone.endpoint.name)
        owner = self.owner
        self._regroup()
        self._take_over(owner)
        if config.ipfilter != before.ipfilter and before.clusters:
            if before.ipfilter.tag and before.ipfilter.tag != config.ipfilter.tag:
                self._old_tags.add(before.ipfilter.tag)
            if (config.ipfilter.ipnat, config.ipfilter.ipf) != (before.ipfilter.ipnat, before.ipfilter.ipf):
                self.dialect = replace(self.dialect, sure=False)
            self._use_table()
        self.rounds.bunch(sum(1 / monitor.endpoint.checks[0].interval for monitor in self.monitors.values()))
        self.sensing.apply(config.resets, config.ipfilter, self.monitors.values(),
                           f"{os.path.splitext(config.pidfile)[0]}.ipmon.pid")
        settings = changes(before, config)
        return (f"{len(self.monitors)} endpoints: {fresh} new, {changed} changed, {len(old)} gone" +
                (f"; settings changed: {', '.join(settings)}" if settings and before.clusters else ""))

    def _regroup(self) -> None:
        groups: dict[str, list[Monitor]] = defaultdict(list)
        for monitor in self.monitors.values():
            groups[monitor.endpoint.group].append(monitor)
        self.groups = dict(groups)
        self._counts.clear()
        self.owner = {line: monitor for monitor in self.monitors.values() for line in self.lines(monitor)}
        self._keep = {f"{cluster.name}/{service.name}": cluster.keep
                      for cluster in self.config.clusters for service in cluster.services}
        for planned in (self._wanted, self._serving):
            for group in planned.keys() - self.groups.keys():
                del planned[group]
        self._dirty.update(self.groups)

    def _take_over(self, before: dict[str, Monitor]) -> None:
        """A rule in the kernel that belongs to another endpoint now, by a new name: that one is up as the last was."""
        for line in self.owner.keys() & before.keys() & self.rules.have.keys():
            monitor, last = self.owner[line], before[line]
            if monitor is not last and last.eligible and monitor.verdict is None and not monitor.up:
                monitor.adopt()
                group = monitor.endpoint.group
                self._serving[group] = (*self._serving.get(group, ()), monitor.endpoint.name)

    def reload(self, config: Config) -> str:
        """Like :meth:`apply`, and say it."""
        self.sensing.hearing.forget()               # the operator may have changed other rules
        summary = self.apply(config)
        self.rules.hurry()
        self.tell(Event("reloaded", "", f"configuration reloaded: {summary}"))
        return summary

    def stop(self) -> None:
        """Stop probing; see the rules through, or take ours out if the configuration says so; then end the loop."""
        if self.stopping:
            self.loop.stop()
            return
        self.stopping = True
        for monitor in self.monitors.values():
            monitor.stop()
        self.sight.stop()
        self.sensing.stop(self.config.ipfilter.on_stop == "remove")
        if self.config.ipfilter.on_stop == "remove":
            self.owner = {}
            self.rules.want = {}
            self.rules.touch()
        patience = self.config.ipfilter.timeout if self.config.ipfilter.on_stop == "remove" else STOP_WAIT
        self.loop.later(patience, self.loop.stop)
        self.loop.hook(self._stop_when_settled)

    def _stop_when_settled(self) -> None:
        if (self.rules.settled or (self.rules.problem and not self.rules.busy)) and self.sensing.settled:
            self.loop.stop()

    # -- the operator

    def disable(self, monitors: Sequence[Monitor], now: bool) -> None:
        """Take endpoints out, whatever their probes say. Sessions are left to finish or, with ``now``, cut off."""
        had = {monitor.endpoint.group: None for monitor in monitors if monitor.eligible}
        for monitor in monitors:
            endpoint = monitor.endpoint
            monitor.disable()
            self.disabled[endpoint.name] = time.time()
            (self._cut.add if now else self._cut.discard)(endpoint.name)
            self._dirty.add(endpoint.group)
        self._counts.clear()
        for monitor in monitors:
            endpoint = monitor.endpoint
            self.tell(Event("disabled", endpoint.name,
                            f"{endpoint.name} {endpoint.where} {'up' if monitor.up else 'down'} -> disabled: by the "
                            f"operator, its sessions {'are cut off' if now else 'may finish'}; "
                            f"{self._count(endpoint.group)}"))
        for group in had:
            self._tell_if_none(group)

    def enable(self, monitors: Sequence[Monitor]) -> None:
        """Put endpoints back: each is checked first, then added."""
        for monitor in monitors:
            endpoint = monitor.endpoint
            monitor.enable()
            self.disabled.pop(endpoint.name, None)
            self._cut.discard(endpoint.name)
            self._dirty.add(endpoint.group)
            self._counts.clear()
            monitor.hasten()
            self.tell(Event("enabled", endpoint.name, f"{endpoint.name} {endpoint.where} disabled -> enabled: by the "
                            f"operator, to be checked first; {self._count(endpoint.group)}"))

    # -- from states to rules

    def _replan(self) -> None:
        """The hook of the loop: what has changed since the reconciler was last free, as one wanted set."""
        self._counts.clear()
        if not self._dirty or self.stopping or self.rules.busy:
            return
        for group in self._dirty & self.groups.keys():
            self._wanted[group] = self._plan(group)
        self._dirty.clear()
        want = {line: None for group in self.groups for line in self._wanted.get(group, ())}
        if list(want) != list(self.rules.want):
            self.rules.want = want
            self.rules.hurry()
        self.rules.touch()

    def _plan(self, group: str) -> list[str]:
        members = self.groups[group]
        up = {monitor.endpoint.name for monitor in members if monitor.eligible}
        last = {monitor.endpoint.name for monitor in members
                if not monitor.disabled and monitor.endpoint.name in self._serving.get(group, ())}
        serving = plan.serving([monitor.endpoint for monitor in members], up, last, self._keep[group])
        self._serving[group] = tuple(member.name for member in serving)
        return plan.arrange(serving, [self.lines(self.monitors[member.name]) for member in serving])

    def _removal(self, line: str) -> str | None:
        """How a rule of ours that is not wanted goes. Those that nobody can want wait for everybody's first outcome."""
        monitor = self.owner.get(line)
        if monitor is None:
            return None if self._undecided and not self.stopping else "drain"
        if monitor.endpoint.name in self._cut:
            return "purge"
        if monitor.unproved:
            return "drain"
        failed = monitor.verdict is not None and not (monitor.up or monitor.disabled or monitor.unconfirmed)
        return "purge" if failed and self.config.ipfilter.purge else "drain"

    def _is_alone(self, monitor: Monitor) -> bool:
        """Whether nobody would serve without it: neither another member nor a fallback."""
        others = [other for other in self.groups.get(monitor.endpoint.group, ()) if other is not monitor]
        up = {other.endpoint.name for other in others if other.eligible}
        return not plan.serving([other.endpoint for other in others], up, (), keep=False)

    def _known(self, line: str) -> str | None:
        monitor = self.owner.get(line)
        if monitor is not None:
            return next(own for own in self.lines(monitor) if own == line)
        return line if line in self.saved.rules else None

    def _listed(self) -> None:
        """The kernel's table has been read."""
        if not self.dialect.sure and not self._asking:
            self._asking = True
            find_dialect(self.loop, self.config.ipfilter, self._speak)
        if not self._adopted:
            self._adopted = True
            self._adopt()
        self.nat.listed(self.rules.have, self.rules.want)

    def _adopt(self) -> None:
        """Endpoints whose rules are there already are up, until a probe says otherwise."""
        there = {ipfilter.target(line) for line in self.rules.have}
        if not there:
            return
        for line, monitor in self.owner.items():
            if ipfilter.target(line) in there:
                if monitor.verdict is None and not monitor.up:
                    monitor.adopt()
                    monitor.since = self.loop.now - self.saved.since(monitor.endpoint.name, True, time.time())
                group = monitor.endpoint.group
                if monitor.endpoint.name not in self._serving.get(group, ()):
                    self._serving[group] = (*self._serving.get(group, ()), monitor.endpoint.name)
                self._dirty.add(group)
        log.info("%d rules of ours are in the kernel already: adopted", len(self.rules.have))
        self._replan()

    # -- what monitors and the reconciler say

    def _decided(self, monitor: Monitor) -> None:
        """The first outcome of an endpoint, or the first that is not LOCAL: from then on it is known to be down."""
        name = monitor.endpoint.name
        first = name in self._undecided
        self._undecided.discard(name)
        if monitor.verdict is not None and not monitor.up and not monitor.changes:
            text = self._transition(monitor, "unknown -> down")
            if name in self.known_down:
                log.info("%s", text)                # no news
            else:
                self.tell(Event("down", name, text))
        if monitor.verdict is not None:
            self.known_down.discard(name)
        if first and not self._undecided:
            self._undecided = set()                 # that was emptied keeps its room
            self.rules.touch()
            for group, members in self.groups.items():
                if not all(member.disabled for member in members):
                    self._tell_if_none(group)

    def _changed(self, monitor: Monitor, flipped: bool) -> None:
        endpoint = monitor.endpoint
        self._dirty.add(endpoint.group)
        self.known_down.discard(endpoint.name)
        if endpoint.group in self._counts and not monitor.disabled and not monitor.unconfirmed:
            self._counts[endpoint.group] += 1 if monitor.up else -1
        states = "down -> up" if flipped and monitor.up else "up -> down" if flipped else "enabled -> up"
        self.tell(Event("up" if monitor.up else "down", endpoint.name, self._transition(monitor, states)))
        if monitor.eligible:
            self._none_told.discard(endpoint.group)
        elif not monitor.up and not monitor.disabled:
            self._tell_if_none(endpoint.group)

    def _transition(self, monitor: Monitor, states: str) -> str:
        endpoint, count = monitor.endpoint, abs(monitor.streak)
        what = "passed" if monitor.up else "failed"
        if monitor.verdict and monitor.verdict.code == "RST":
            return f"{endpoint.name} {endpoint.where} {states}: {monitor.verdict}; {self._count(endpoint.group)}"
        return (f"{endpoint.name} {endpoint.where} {states}: {monitor.verdict} ({count} of {count} {what}, "
                f"{monitor.took * 1000:.0f} ms); {self._count(endpoint.group)}")

    def lines(self, monitor: Monitor) -> tuple[str, ...]:
        """Every rule that ``monitor`` has while it serves."""
        if not monitor.lines:
            monitor.lines = tuple(plan.every_rule(monitor.endpoint, self.config.ipfilter))
        return monitor.lines

    def _addresses(self) -> Iterator[str]:
        return (monitor.endpoint.address for monitor in self.monitors.values())

    def _count(self, group: str) -> str:
        return f"{self.serving(group)} of {len(self.groups[group])} up"

    def serving(self, group: str) -> int:
        """How many may get connections. Counted once a turn: thousands may come up in it."""
        if group not in self._counts:
            self._counts[group] = sum(monitor.eligible for monitor in self.groups[group])
        return self._counts[group]

    def _tell_if_none(self, group: str) -> None:
        """Say it once, when the last one goes."""
        if not self.serving(group) and group not in self._none_told:
            self._none_told.add(group)
            kept = self._keep[group] and self._serving.get(group)
            self.tell(Event("all-down", group, f"{group}: no member is up" +
                            ("; its last rules stay (when_all_down: keep)" if kept else ""), logging.ERROR))

    def _repaired(self, lines: Iterable[str]) -> None:
        lines = list(lines)
        self.tell(Event("repaired", "", f"{len(lines)} rules were put back", logging.DEBUG))

    def tell(self, event: Event) -> None:
        for listener in list(self.listeners):       # whatever one of them makes of it, the others hear it
            self.loop.errors.shield(f"{listener.__qualname__} may not know of: {event.text}", listener, event)


def _log_event(event: Event) -> None:
    log.log(event.level, "%s", event.text)
