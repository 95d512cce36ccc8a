"""From states to wanted rules: when they are planned, how an unwanted rule goes, and what the kernel had at the start.

Services whose states have changed are planned anew once a turn, and the rules of all of them are handed to the
reconciler as one wanted set. Nobody adds or removes a rule because a member came up or went down.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from l4ipd.events import Event, Events
from l4ipd.fleet import Fleet
from l4ipd.inherited_rules import InheritedRules
from l4ipd.ipfilter import rdr
from l4ipd.ipfilter.nat_table import Dialect, NatTable, find_dialect, is_unknown, whose
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.ipfilter.resync import Budget
from l4ipd.model import Config, Ipfilter
from l4ipd.monitor import purge
from l4ipd.monitor.monitor import Monitor
from l4ipd.obsolete_rules import ObsoleteRules
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from l4ipd.service_rules import ServiceRules

log = logging.getLogger("l4ipd")


class Steering:
    """Keeps the kernel's NAT table as the fleet's states want it. ``spoken(dialect)`` hears what the tools understand.

    ``budget`` is what it may cost to read the table back.

    Many attributes: what the start, a reload and the tools have to say meets here what the states have.
    """

    def __init__(self, loop: Loop, fleet: Fleet, events: Events, settings: Ipfilter, *,
                 spoken: Callable[[Dialect], object], budget: Budget | None = None) -> None:
        self.loop, self.fleet, self.events, self.settings = loop, fleet, events, settings
        self.dialect = Dialect(sure=False)
        self.services = ServiceRules(fleet, settings)
        self.owner: dict[str, Monitor] = {}         # every rule that the configuration can want -> whose it is
        self.inherited = InheritedRules()
        self.nat = NatTable(settings, self.dialect, self._known, self._want, self.inherited.tags)
        self.rules = Reconciler(loop, self.nat.table, settings.timeout, settings.resync, removal=self._removal,
                                listed=self._listed, repaired=self._repaired, whose=self._whose, budget=budget)
        self.rules.suspend()                        # until start(): there may be no tools yet
        self.removing = False                       # at the end, all of our rules go
        self._spoken = spoken
        self._ageless: frozenset[str] | None = None     # those of ``owner``, whatever their age; made when it is needed
        self._obsolete = ObsoleteRules(loop)
        self._changed: set[str] = set()             # services whose rules have to be planned anew
        self._adopted = False
        self._asking = False                        # find_dialect is under way

    # -- start, reload, stop

    def start(self, saved: Saved) -> None:
        """Read the table and adopt what is ours, and find out what the tools understand."""
        self.inherited.remember(saved.rules)
        for tag in saved.rdr_tags - {self.settings.tag}:
            self.inherited.retag(tag)
        self.rules.hold_changes(True)               # until we know the dialect
        self.rules.resume()
        self._ask()
        self.loop.later(self.settings.timeout, self._no_table)

    def take_over(self, config: Config, first: bool) -> None:
        """Plan by ``config`` from now on; the fleet has taken it over already."""
        before, self.settings = self.settings, config.ipfilter
        self.services.take_over(config)
        self._obsolete.expect(config)
        self._ageless = None
        owner, self.owner = self.owner, {line: monitor for monitor in self.fleet.monitors.values()
                                         for line in self.lines(monitor)}
        self._inherit(owner)
        if config.ipfilter != before and not first:
            self._use_other_tools(before)

    def _inherit(self, before: dict[str, Monitor]) -> None:
        """A rule that belongs to another endpoint now, by a new name: that one is up as the last was.

        Whether the rule is in the kernel already does not matter: a run may be loading it.
        """
        for line in self.owner.keys() & before.keys():
            monitor, last = self.owner[line], before[line]
            if monitor is last or monitor.seen != "unknown":
                continue
            if last.eligible:
                monitor.adopt()
                monitor.resume(last.since)
                self.services.count_as_serving(monitor)
            elif line in self.rules.want and self.services.keeps(monitor.endpoint.group):
                self.services.count_as_serving(monitor)     # it is down, and its rules stay for want of anybody else

    def _use_other_tools(self, before: Ipfilter) -> None:
        now = self.settings
        if before.tag and not self.rules.belief.ever:
            self.inherited.retag(before.tag)
        if (now.ipnat, now.ipf) != (before.ipnat, before.ipf):
            self.dialect = replace(self.dialect, sure=False)
        self.nat = NatTable(now, self.dialect, self._known, self._want, self.inherited.tags, self.nat.iterator)
        self._use_table()

    def stop(self, remove: bool) -> None:
        """States do not change any more; what has changed is planned still. With ``remove`` our rules go."""
        self.removing = remove
        if remove:
            self._changed.clear()
            self.rules.wish({})
        else:
            self.rules.be_quick()                   # whether it has come true, the next start will see
        self.rules.hurry()

    @property
    def planned(self) -> bool:
        """What the table is to hold is known, and handed over."""
        return self.removing or not self._changed

    def raised(self) -> None:
        """Our timer has: what waits to be told is tried again."""
        self.loop.later(self.settings.timeout, self._no_table)

    # -- what the tools understand

    def _ask(self) -> None:
        self._asking, tools = True, self.settings
        find_dialect(self.loop, tools, lambda dialect: self._answered(tools, dialect))

    def _answered(self, tools: Ipfilter, dialect: Dialect) -> None:
        """The tools have answered; by a reload, it may be others that matter by now."""
        self._asking, now = False, self.settings
        if (tools.ipnat, tools.ipf) == (now.ipnat, now.ipf):
            self._speak(dialect)
        else:
            self._ask()

    def _speak(self, dialect: Dialect) -> None:
        """What the tools understand is known. If ipnat could not say, it is asked again as soon as it works."""
        known, self.dialect = self.dialect, dialect
        if dialect.version and dialect.sure and dialect != known:
            log.info("IPFilter %s; ipnat %s", dialect.version, "ends the sessions of failed members (-p)"
                     if dialect.purge else "cannot end sessions (no -p): those of failed members end in their own time")
        self._spoken(dialect)
        self.rules.hold_changes(False)
        self.nat.speak(dialect)
        self._use_table()

    def _use_table(self) -> None:
        self.rules.use(self.nat.table, self.settings.timeout, self.settings.resync)

    # -- from states to rules

    def changed(self, group: str) -> None:
        """The states of a service have changed, or the operator has said something of it."""
        self._changed.add(group)

    def turn(self) -> None:
        """To be called in every turn: what has changed since the reconciler was last free, as one wanted set."""
        if not self._changed or self.removing or self.rules.busy:
            return
        for group in self._changed & self.fleet.groups.keys():
            self.services.plan(group)
        self._changed.clear()
        want = self.services.wanted()
        if list(want) != list(self.rules.want):
            self.rules.wish(want)
            self.rules.hurry()
        self.rules.touch()

    def lines(self, monitor: Monitor) -> tuple[str, ...]:
        """Every rule that ``monitor`` has while it serves."""
        return self.services.lines(monitor)

    def is_loaded(self, monitor: Monitor) -> bool:
        """Whether ``monitor`` may get connections and has a rule in the kernel on each address, as far as we know."""
        if not monitor.eligible:
            return False
        lines, have = self.lines(monitor), self.rules.have
        firsts = lines[::max(1, len(lines) // len(monitor.endpoint.vips))]      # of as many as its weight
        return bool(firsts) and all(line in have for line in firsts)

    def tags(self) -> frozenset[str]:
        """Those that rules of ours may bear: the next run may have another configuration."""
        return frozenset({*self.inherited.tags, self.settings.tag or ""} - {""})

    def unmarked(self) -> frozenset[str]:
        """Rules of ours that the next run cannot tell by their tag: there is none, or it was another one before."""
        tag = self.settings.tag
        return frozenset(line for line in {*self.rules.known(), *self.inherited.lines} if tag is None or not (
            line.endswith(f" tag {tag}") or f" tag {tag}." in line))

    def _removal(self, line: str) -> str | None:
        """How a rule of ours that is not wanted goes."""
        monitor = self.owner.get(line)
        if self.removing:
            return "drain"
        if monitor is None:
            return "drain" if self._obsolete.may_go(line, bool(self.fleet.undecided)) else None
        cut = monitor.endpoint.name in self.fleet.cut or purge.cuts(monitor)
        return "purge" if cut else "drain"

    # -- what the kernel says

    def _known(self, line: str) -> str | None:
        """Our copy of a rule that is ours, or may be: whatever its tag says."""
        monitor = self.owner.get(line)
        if monitor is not None:
            return next(own for own in self.lines(monitor) if own == line)
        if self.rules.knows(line):
            return line
        return line if line in self.inherited.lines else None

    def _want(self) -> Iterable[str]:
        return self.rules.want

    def _whose(self, line: str) -> str:
        """A rule with another age is of our own past, or of a version that knew none."""
        if self._ageless is None:
            self._ageless = frozenset(map(rdr.without_age, self.owner))
        return "" if rdr.without_age(line) in self._ageless else whose(line, self.settings.tag)

    def _listed(self) -> None:
        """The kernel's table has been read."""
        self.inherited.listed(self.rules.have)
        mistaken = self.dialect.purge and is_unknown(self.rules.complaint)     # it lied, or is another one now
        if (mistaken or not self.dialect.sure) and not self._asking:
            self._ask()
        if not self._adopted:
            self._adopt()
            self.fleet.transitions.begin()
            self._adopted = True                    # only now: what fails is done again after the next listing
        self.nat.listed()
        self._obsolete.keep_only(self.rules.have, self.owner)

    def _no_table(self) -> None:
        """The table has not been read in time: nobody can wait for ever."""
        if not self._adopted:
            self.fleet.transitions.begin()

    def _adopt(self) -> None:
        """Endpoints whose rules are there already are up, until a probe says otherwise."""
        transitions = self.fleet.transitions
        there = {rdr.target(line) for line in self.rules.have}
        found = {monitor: None for line, monitor in self.owner.items() if rdr.target(line) in there}
        for monitor in sorted(found, key=lambda each: each.held):       # who is held is asked for what the others are
            group = monitor.endpoint.group
            if not (self.services.keeps(group) and group in transitions.empty_before):
                self.fleet.holds.found(monitor)     # else it was down, and its rule was kept
                transitions.found(monitor)
            self.services.count_as_serving(monitor)
            self._changed.add(group)
        self.inherited.adopted(monitor.endpoint.cluster for monitor in found)
        self.fleet.recount()
        for monitor in self.fleet.monitors.values():            # a rule that ought to be there, and is not
            past = transitions.past.get(monitor.endpoint.name)
            if past is not None and past.up and not (monitor.withheld or monitor.endpoint.fallback):
                transitions.forget(monitor.endpoint.name)
        if there:
            log.info("%d rules of ours are in the kernel already: adopted", len(self.rules.have))
        self.turn()

    def _repaired(self, lines: Iterable[str]) -> None:
        self.events.tell(Event("repaired", "", f"{len(list(lines))} rules were put back", logging.DEBUG))
