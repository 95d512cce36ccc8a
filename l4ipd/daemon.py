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

from l4ipd import checks, ipfilter, plan
from l4ipd.events import Event as Event
from l4ipd.loop import Loop
from l4ipd.model import Config, Ipfilter, changes
from l4ipd.monitor import Monitor
from l4ipd.nat import Dialect, NatTable, find_dialect, is_unknown, whose
from l4ipd.news import News, Past
from l4ipd.orphans import Orphans
from l4ipd.probe import Prober
from l4ipd.reconcile import Reconciler
from l4ipd.resets import Sensing
from l4ipd.rounds import Rounds
from l4ipd.sight import Sight
from l4ipd.state import Saved

STOP_WAIT = 2.0                                     # seconds that a stop waits for rules to be as they should
log = logging.getLogger("l4ipd")


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
        self._keep: dict[str, bool] = {}            # by service: when_all_down: keep
        self._serving: dict[str, tuple[str, ...]] = {}
        self._wanted: dict[str, list[str]] = {}     # by service
        self._dirty: set[str] = set()               # services whose rules have to be planned anew
        self._undecided: set[str] = set()           # endpoints without any outcome yet
        self._adopted = False
        self._asking = False                        # find_dialect is under way
        self._old_tags: set[str] = set()
        self._tallies: dict[str, plan.Tally] = {}   # by service, as far as this turn had to count
        self.news = News(self.tell, members=self._members, tally=self.tally, kept=self._is_kept)
        loop.hook(self._turn)
        self._first_config = config
        self.nat = NatTable(config.ipfilter, self.dialect, self._known, self._want)
        self.orphans = Orphans(loop)
        self.rules = Reconciler(loop, self.nat.table, config.ipfilter.timeout, config.ipfilter.resync,
                                removal=self._removal, listed=self._listed, repaired=self._repaired, whose=self._whose)
        self.sensing = Sensing(loop, lambda kind, text, level: self.tell(Event(kind, "", text, level)))
        self.rounds.refused = self.sensing.probe_refused

    # -- life

    def start(self) -> None:
        """Begin probing, read the kernel's rules and adopt them, and find out what the tools understand."""
        self.sensing.rules.remember(self.saved.tables, self.saved.tags, self.saved.counts)
        self.rules.look_only = True                 # until we know the dialect
        self.apply(self._first_config)
        self._restore()
        self._ask()
        self.loop.later(self.config.ipfilter.timeout, self._no_table)

    def _restore(self) -> None:
        """What the operator disabled stays so; and what is as it was is no news."""
        now = time.time()
        self.disabled = {name: now if when is None else when for name, when in self.saved.disabled.items()
                         if name in self.monitors}
        for name in self.disabled:
            self.monitors[name].disabled = True
        past = {name: Past(up, self.loop.now - self.saved.age(name, now))
                for name, (up, _) in self.saved.states.items() if name in self.monitors}
        down = {name for name, each in past.items() if not each.up} | self.disabled.keys()
        self.news.remember(past, [group for group, members in self.groups.items()
                                  if all(monitor.endpoint.name in down for monitor in members)])
        if self.disabled:
            log.info("still disabled by the operator: %s", ", ".join(self.disabled))

    def _ask(self) -> None:
        self._asking, tools = True, self.config.ipfilter
        find_dialect(self.loop, tools, lambda dialect: self._answered(tools, dialect))

    def _answered(self, tools: Ipfilter, dialect: Dialect) -> None:
        """The tools have answered; by a reload, it may be others that matter by now."""
        self._asking, now = False, self.config.ipfilter
        if (tools.ipnat, tools.ipf) == (now.ipnat, now.ipf):
            self._speak(dialect)
        else:
            self._ask()

    def _speak(self, dialect: Dialect) -> None:
        """What the tools understand is known. If ipnat could not say, it is asked again as soon as it works."""
        known, self.dialect = self.dialect, dialect
        self.sensing.modern = dialect.modern
        if dialect.version and dialect.sure and dialect != known:
            log.info("IPFilter %s; ipnat %s", dialect.version, "ends the sessions of failed members (-p)"
                     if dialect.purge else "cannot end sessions (no -p): those of failed members end in their own time")
        self.rules.look_only = False
        self.nat.speak(dialect)
        self._use_table()

    def _use_table(self) -> None:
        self.rules.use(self.nat.table, self.config.ipfilter.timeout, self.config.ipfilter.resync)

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
                    if known.seen == "down":
                        self.news.past[endpoint.name] = Past(False, known.since)
                    known.stop()
                    changed += 1
                self.monitors[endpoint.name] = monitor
                self._undecided.add(endpoint.name)
                monitor.schedule()
                fresh += known is None
        for gone in old.values():
            gone.stop()
            self._undecided.discard(gone.endpoint.name)
            self.news.forget(gone.endpoint.name)
            self.disabled.pop(gone.endpoint.name, None)
            self._cut.discard(gone.endpoint.name)
        owner = self.owner
        self.orphans.expect(config)
        self._regroup()
        self._take_over(owner)
        if config.ipfilter != before.ipfilter and before.clusters:
            if before.ipfilter.tag and not self.rules.belief.ever:
                self._old_tags.add(before.ipfilter.tag)         # what bears it has not been seen yet
            if (config.ipfilter.ipnat, config.ipfilter.ipf) != (before.ipfilter.ipnat, before.ipfilter.ipf):
                self.dialect = replace(self.dialect, sure=False)
            self.nat = NatTable(config.ipfilter, self.dialect, self._known, self._want, self._old_tags)
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
        self._tallies.clear()
        self.news.keep_only(self.groups)
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
            if monitor is not last and last.eligible and monitor.seen == "unknown":
                monitor.adopt()
                monitor.resume(last.since)
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
        self.news.settle()
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
        for monitor in monitors:
            endpoint = monitor.endpoint
            monitor.disable()
            self.disabled[endpoint.name] = time.time()
            (self._cut.add if now else self._cut.discard)(endpoint.name)
            self._dirty.add(endpoint.group)
            self.news.touch(endpoint.group)
        self._tallies.clear()
        for monitor in monitors:
            endpoint = monitor.endpoint
            self.tell(Event("disabled", endpoint.name, f"{endpoint.name} {endpoint.where} {monitor.seen} -> disabled: "
                            f"by the operator, its sessions {'are cut off' if now else 'may finish'}; "
                            f"{self.tally(endpoint.group)}"))

    def enable(self, monitors: Sequence[Monitor]) -> None:
        """Put endpoints back: each is checked first, then added."""
        for monitor in monitors:
            endpoint = monitor.endpoint
            monitor.enable()
            self.disabled.pop(endpoint.name, None)
            self._cut.discard(endpoint.name)
            self._dirty.add(endpoint.group)
            self._tallies.clear()
            self.news.again(endpoint.group)
            monitor.hasten()
            self.tell(Event("enabled", endpoint.name, f"{endpoint.name} {endpoint.where} disabled -> enabled: by the "
                            f"operator, to be checked first; {self.tally(endpoint.group)}"))

    # -- from states to rules

    def _turn(self) -> None:
        """The hook of the loop."""
        self._tallies.clear()
        self.news.settle()
        self._replan()

    def _replan(self) -> None:
        """What has changed since the reconciler was last free, as one wanted set."""
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
        """How a rule of ours that is not wanted goes."""
        monitor = self.owner.get(line)
        if monitor is None:
            return "drain" if self.stopping or self.orphans.may_go(line, bool(self._undecided)) else None
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
        """Our copy of a rule that is ours, or may be: whatever its tag says."""
        monitor = self.owner.get(line)
        if monitor is not None:
            return next(own for own in self.lines(monitor) if own == line)
        if self.rules.knows(line):
            return line
        return line if line in self.saved.rules and not self.rules.belief.ever else None

    def _want(self) -> Iterable[str]:
        return self.rules.want

    def _whose(self, line: str) -> str:
        return "" if line in self.owner else whose(line, self.config.ipfilter.tag)

    def _listed(self) -> None:
        """The kernel's table has been read."""
        self._old_tags.clear()                      # what bore one is known by now
        mistaken = self.dialect.purge and is_unknown(self.rules.complaint)     # it lied, or is another one now
        if (mistaken or not self.dialect.sure) and not self._asking:
            self._ask()
        if not self._adopted:
            self._adopted = True
            self._adopt()
            self.news.begin()
        self.nat.listed()
        self.orphans.keep_only(self.rules.have, self.owner)

    def _no_table(self) -> None:
        """The table has not been read in time: nobody can wait for ever."""
        if not self._adopted:
            self.news.begin()

    def raised(self) -> None:
        """That has: what waits to be told is tried again."""
        self.loop.later(self.config.ipfilter.timeout, self._no_table)

    def _adopt(self) -> None:
        """Endpoints whose rules are there already are up, until a probe says otherwise."""
        there = {ipfilter.target(line) for line in self.rules.have}
        found = {monitor: None for line, monitor in self.owner.items() if ipfilter.target(line) in there}
        for monitor in found:
            endpoint = monitor.endpoint
            if not (self._keep[endpoint.group] and endpoint.group in self.news.empty_before):
                self.news.found(monitor)            # else it was down, and its rule was kept
            if endpoint.name not in self._serving.get(endpoint.group, ()):
                self._serving[endpoint.group] = (*self._serving.get(endpoint.group, ()), endpoint.name)
            self._dirty.add(endpoint.group)
        self._tallies.clear()
        for monitor in self.monitors.values():      # a rule that ought to be there, and is not
            past = self.news.past.get(monitor.endpoint.name)
            if past is not None and past.up and not (monitor.disabled or monitor.endpoint.fallback):
                self.news.forget(monitor.endpoint.name)
        if there:
            log.info("%d rules of ours are in the kernel already: adopted", len(self.rules.have))
        self._replan()

    # -- what monitors and the reconciler say

    def _decided(self, monitor: Monitor) -> None:
        """The first outcome of an endpoint."""
        self._undecided.discard(monitor.endpoint.name)
        self.news.touch(monitor.endpoint.group)
        if not self._undecided:
            self._undecided = set()                 # that was emptied keeps its room
            self.rules.touch()

    def _changed(self, monitor: Monitor, was: str) -> None:
        endpoint = monitor.endpoint
        self._dirty.add(endpoint.group)
        tally = self._tallies.get(endpoint.group)
        if tally is not None:
            tally.add(endpoint.fallback, monitor.eligible - (was == "up" and not monitor.disabled))
        self.news.changed(monitor, was)

    def _members(self, group: str) -> Sequence[Monitor]:
        return self.groups[group]

    def _is_kept(self, group: str) -> bool:
        """Whether the last rules of a service stay although nobody is up."""
        return self._keep[group] and any(not self.monitors[name].disabled for name in self._serving.get(group, ())
                                         if name in self.monitors)

    def lines(self, monitor: Monitor) -> tuple[str, ...]:
        """Every rule that ``monitor`` has while it serves."""
        if not monitor.lines:
            monitor.lines = tuple(plan.every_rule(monitor.endpoint, self.config.ipfilter))
        return monitor.lines

    def _addresses(self) -> Iterator[str]:
        return (monitor.endpoint.address for monitor in self.monitors.values())

    def tally(self, group: str) -> plan.Tally:
        """How many get connections. Counted once a turn: thousands may come up in it."""
        tally = self._tallies.get(group)
        if tally is None:
            tally = self._tallies[group] = plan.tally((monitor.endpoint, monitor.eligible)
                                                      for monitor in self.groups[group])
        return tally

    def serving(self, group: str) -> int:
        """How many get connections."""
        return self.tally(group).serving

    def _repaired(self, lines: Iterable[str]) -> None:
        lines = list(lines)
        self.tell(Event("repaired", "", f"{len(lines)} rules were put back", logging.DEBUG))

    def tell(self, event: Event) -> None:
        for listener in list(self.listeners):       # whatever one of them makes of it, the others hear it
            self.loop.errors.shield(f"{listener.__qualname__} may not know of: {event.text}", listener, event)


def _log_event(event: Event) -> None:
    log.log(event.level, "%s", event.text)
