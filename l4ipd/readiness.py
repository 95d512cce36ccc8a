"""Is this gateway able to serve this cluster now? What VRRP, CARP and BGP ask, who move its addresses between gateways.

::

                            nothing stands against it
    UNREADY ----------------------------------------------------------> READY
       ^                                                                  |
       +---- left by the operator, blind, too few members: at once -------+
       +---- the rules cannot be read, or loaded: for GRACE seconds ------+

A cluster is ready while its services have the members that its ``ready:`` asks for, and their rules are in the kernel.
It is not before every endpoint of it has had its first outcome and the kernel's table was read: a gateway that knows
half of its members would send them everything. A moment's trouble of the tools moves no address, since every such move
ends sessions; but nothing becomes ready in it. Nor does a reload that brings members or services move one: of those
that nobody has checked yet the best is hoped, where the cluster was ready before.

At a start, ``ready`` is not told of a cluster that the last run called so, and whose rules are in the kernel still,
however late the tools answer. ``unready`` is told always: who follows may have forgotten it, as after a reboot.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from l4ipd.events import Event, Events
from l4ipd.fleet import Fleet
from l4ipd.model import Cluster, Config
from l4ipd.monitor.monitor import Monitor
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from l4ipd.steering import Steering

GRACE = 1.0                                         # seconds of trouble with the rules until a cluster is not ready
LATE = 5.0                                          # seconds within which the table is right once the tools work,
                                                    # and a new source has named somebody
NAMED = 3                                           # services that are named one by one
GATEWAY = ""                                        # in the place of a cluster's name: all of them
WORDS = {True: "ready", False: "unready", None: "unknown"}
log = logging.getLogger("l4ipd")


class Standing:
    """How it stands with one cluster. ``since`` is when it became so, on the loop's clock."""

    __slots__ = ("cluster", "ready", "why", "since", "told", "troubled", "unproved", "hopes", "changed")

    def __init__(self, cluster: Cluster, since: float) -> None:
        self.cluster, self.since = cluster, since
        self.ready = False
        self.why = "not looked at yet"              # it is not ready; empty if it is
        self.told: bool | None = None               # what was said of it last, in this run
        self.troubled: float | None = None          # since when its rules have been in trouble, if that is not told
        self.unproved: list[str] | None = None      # endpoints without a first outcome, as far as was looked
        self.hopes = False                          # it is ready if endpoints that nobody has checked yet turn out well
        self.changed = since                        # when its configuration was another

    @property
    def state(self) -> str:
        return WORDS[self.ready]


class Readiness:
    """Every cluster's standing, and what the operator took out of service. Changes are told as they are seen.

    Looks at a cluster again when a service of it was touched, and at all of them when the rules have changed, what is
    reachable, or what the operator wants.
    """

    def __init__(self, loop: Loop, fleet: Fleet, steering: Steering, events: Events) -> None:
        self.loop, self.fleet, self.steering, self.events = loop, fleet, steering, events
        self.standings: dict[str, Standing] = {}
        self.left: dict[str, float] = {}            # cluster, or GATEWAY -> since when, seconds since the epoch
        self.before: dict[str, bool] = {}           # what an earlier run said last of those not told of yet
        self.stopping = False
        self._touched: dict[str, None] = {}         # clusters to be looked at
        self._seen: object = None                   # of what bears on all of them, when they were last looked at
        self._undecided = -1

    # -- configurations, start and stop

    def take_over(self, config: Config) -> None:
        """The clusters of ``config`` from now on; the fleet and the steering have taken it over already."""
        before, self.standings = self.standings, {}
        for cluster in config.clusters:
            standing = before.get(cluster.name) or Standing(cluster, self.loop.now)
            if cluster != standing.cluster:
                standing.cluster, standing.changed = cluster, self.loop.now
                self.loop.later(LATE, self._again(cluster.name))
            if standing.told is None:
                standing.unproved = None            # there may be others
            self.standings[cluster.name] = standing
        self.left = {name: when for name, when in self.left.items() if name == GATEWAY or name in self.standings}
        self.before = {name: said for name, said in self.before.items() if name in self.standings}
        self._touch_all()

    def restore(self, saved: Saved) -> None:
        """What the operator took out of service stays so."""
        now = time.time()
        self.left = {name: now if when is None else when for name, when in saved.left.items()
                     if name == GATEWAY or name in self.standings}
        self.before = {name: said for name, said in saved.ready.items() if name in self.standings}
        if self.left:
            log.info("still out of service by the operator: %s", ", ".join(name or "the gateway" for name in self.left))

    def stop(self) -> None:
        """Nothing is ready any more. That is not told: a restart is no reason to move an address."""
        self.stopping = True
        for standing in self.standings.values():
            standing.ready, standing.why = False, "l4ipd stops"

    def told(self) -> dict[str, bool]:
        """What was said last of every cluster, in this run or an earlier one."""
        said = {name: standing.told for name, standing in self.standings.items() if standing.told is not None}
        return {**self.before, **said}

    # -- the operator

    def leave(self, names: Sequence[str]) -> None:
        """Take clusters out of service, by default the whole gateway. Rules and sessions stay."""
        now = time.time()
        for name in names or (GATEWAY,):
            if name not in self.left:
                self.left[name] = now
                log.info("%s: out of service by the operator", name or "the gateway")
        self._touch_all()
        self.turn()

    def join(self, names: Sequence[str]) -> None:
        """Put clusters back, by default the whole gateway with all of them."""
        for name in names or list(self.left):
            if self.left.pop(name, None) is not None:
                log.info("%s: back in service by the operator", name or "the gateway")
        self._touch_all()
        self.turn()

    # -- looking

    def touch(self, group: str) -> None:
        """Something has happened to a service."""
        self._touched[group.partition("/")[0]] = None

    def _touch_all(self) -> None:
        self._touched.update(dict.fromkeys(self.standings))

    def turn(self) -> None:
        """To be called in every turn of the loop: look at what was touched, and tell what has changed."""
        if self.stopping:
            return
        rules, fleet = self.steering.rules, self.fleet
        seen = (rules.problem, rules.complaint, rules.belief.ever, rules.look_only, fleet.reachability.blind,
                fleet.transitions.waits, rules.belief.version, (rules.runs, rules.busy) if rules.held else None)
        if seen != self._seen:
            self._seen = seen
            self._touch_all()
        if len(fleet.undecided) != self._undecided:
            self._undecided = len(fleet.undecided)
            self._touched.update(dict.fromkeys(name for name, each in self.standings.items()
                                               if each.told is None or each.hopes))
        for name in list(self._touched):
            standing = self.standings.get(name)
            if standing is not None:
                self._look(standing)
            self._touched.pop(name, None)           # only now: what raises is looked at again

    def _look(self, standing: Standing) -> None:
        standing.hopes = False
        against = self._against(standing)
        trouble = "" if against else self._trouble(standing)
        passing = self._may_pass(standing, trouble)
        if passing and standing.ready:
            return
        ready = not (against or trouble)
        if ready != standing.ready:
            standing.since = self.loop.now
        standing.ready, standing.why = ready, against or trouble
        if ready != standing.told and (ready or not passing and self._is_final(standing)):
            self._tell(standing)

    def _may_pass(self, standing: Standing, trouble: str) -> bool:
        """Whether trouble with the rules is so young that nothing is said of it."""
        if not trouble or standing.told is False:
            standing.troubled = None
            return False
        if standing.troubled is None:
            standing.troubled = self.loop.now
            for patience in (GRACE, self.steering.settings.timeout + LATE):
                self.loop.later(patience, self._again(standing.cluster.name))
        return self.loop.now < standing.troubled + GRACE

    def _again(self, name: str) -> Callable[[], object]:
        return lambda: self._touched.update({name: None})

    def _is_final(self, standing: Standing) -> bool:
        """Whether "not ready" is more than "not yet"."""
        rules = self.steering.rules
        if standing.told is not None:
            return True
        if self.fleet.transitions.waits:
            return False
        if standing.troubled is not None:           # of tools that are slow nothing is said, of those that fail late
            patience = self.steering.settings.timeout + LATE if self.before.get(standing.cluster.name) else GRACE
            return bool(rules.problem or rules.complaint or rules.held) and (
                self.loop.now >= standing.troubled + patience)
        return self._is_left(standing) or self.fleet.reachability.blind or not self._unproved(standing)

    def _tell(self, standing: Standing) -> None:
        name, first = standing.cluster.name, standing.told is None
        before = self.before.pop(name, None) if first else standing.told
        standing.told = standing.ready
        states = f"{WORDS[before]} -> {standing.state}" if before != standing.ready else f"{standing.state} as before"
        if not standing.ready:
            self.events.tell(Event("unready", name, f"{name} {states}: {standing.why}", logging.WARNING))
            return
        text = f"{name} {states}: {self._numbers(standing.cluster)}"
        if first and before and name in self.steering.inherited.clusters:
            log.info("%s", text)
        else:
            self.events.tell(Event("ready", name, text))

    # -- what stands against it

    def _against(self, standing: Standing) -> str:
        """Why clients are better off elsewhere, whatever the rules are; empty if they are not."""
        if self._is_left(standing):
            return "out of service by the operator, see l4ipctl join"
        if self.fleet.reachability.blind:
            return "the gateway is blind: no member has a route"
        if standing.told is None and self._unproved(standing):
            return "not every endpoint has been checked yet"
        return self._short(standing, lambda monitor: monitor.eligible, self._are_up)

    def _trouble(self, standing: Standing) -> str:
        """What is wrong with the rules; empty if nothing is."""
        rules = self.steering.rules
        name = rules.table.name
        if rules.problem:
            return f"{name}: {rules.problem}"
        if not rules.belief.ever or rules.look_only:
            return f"{name}: the kernel's rules have not been read yet"
        return (self._short(standing, self.steering.is_loaded, self._are_loaded) or
                self._refused(standing.cluster.name, gone=True))

    def _is_left(self, standing: Standing) -> bool:
        return GATEWAY in self.left or standing.cluster.name in self.left

    def _unproved(self, standing: Standing) -> bool:
        """Whether an endpoint of it has had no outcome at all yet."""
        if standing.unproved is None:
            standing.unproved = [monitor.endpoint.name for group in self._groups(standing.cluster)
                                 for monitor in self._members(group)]
        while standing.unproved and standing.unproved[-1] not in self.fleet.undecided:
            standing.unproved.pop()
        return bool(standing.unproved)

    def _short(self, standing: Standing, counts: Callable[[Monitor], bool], words: Callable[[str, int], str]) -> str:
        """In words, which services have too few members that count, if that stands against the cluster."""
        cluster = standing.cluster
        wanted, groups = cluster.ready.members, list(self._groups(cluster))
        short = [group for group in groups if not self._enough(group, wanted, counts)]
        if not short or cluster.ready.services == "any" and len(short) < len(groups):
            return ""
        if standing.told and (any if cluster.ready.services == "any" else all)(
                self._may_come(standing, group, counts) for group in short):
            standing.hopes = True
            return ""
        more = [f"and {len(short) - NAMED} services more"] if len(short) > NAMED else []
        return ", ".join([*(words(group, wanted) for group in short[:NAMED]), *more])

    def _enough(self, group: str, wanted: int, counts: Callable[[Monitor], bool]) -> bool:
        found = (monitor for monitor in self._members(group) if not monitor.endpoint.fallback and counts(monitor))
        return len(list(islice(found, wanted))) == wanted

    def _may_come(self, standing: Standing, group: str, counts: Callable[[Monitor], bool]) -> bool:
        """Whether a service has enough with those that nobody has checked yet, or that its source has yet to name."""
        if not self._members(group):
            return self.loop.now < standing.changed + LATE
        undecided = self.fleet.undecided
        return self._enough(group, standing.cluster.ready.members, lambda each: counts(each) or (
            each.endpoint.name in undecided and not each.withheld))

    def _are_up(self, group: str, wanted: int) -> str:
        if not self._members(group):
            return f"{_service(group)} has no members"
        tally = self.fleet.tally(group)
        return f"{_service(group)} {tally.up} of {tally.regulars} up{f', {wanted} wanted' if wanted > 1 else ''}"

    def _are_loaded(self, group: str, wanted: int) -> str:
        loaded = sum(map(self.steering.is_loaded, self._members(group)))
        why = self._refused(group.partition("/")[0], gone=False)
        return f"{_service(group)} has the rules of {loaded} members in the kernel{f': {why}' if why else ''}"

    def _refused(self, cluster: str, gone: bool) -> str:
        """Why a rule of a cluster is not loaded or, with ``gone``, not removed; empty if nothing is refused."""
        rules, owner = self.steering.rules, self.steering.owner
        return next((f"{line} stays in the kernel: {held.words}" if gone else held.words
                     for line, held in rules.held.items() if not held.paused and (line not in rules.want) == gone
                     and line in owner and owner[line].endpoint.cluster == cluster), "")

    def _numbers(self, cluster: Cluster) -> str:
        groups = [group for group in self._groups(cluster) if self._members(group)]
        more = [f"and {len(groups) - NAMED} services more"] if len(groups) > NAMED else []
        return ", ".join([*(f"{_service(group)} {self.fleet.tally(group)}" for group in groups[:NAMED]), *more])

    def _members(self, group: str) -> Sequence[Monitor]:
        """Those of a service; none where a source names nobody."""
        return self.fleet.groups.get(group, ())

    def _groups(self, cluster: Cluster) -> Iterator[str]:
        return (f"{cluster.name}/{service.name}" for service in cluster.services)


def _service(group: str) -> str:
    return group.partition("/")[2]
