"""Every endpoint's monitor, by name and by service; a new configuration taken over by identity; the operator's word.

What a configuration leaves as it was keeps its state, its counters and the probe in flight. Nothing here knows of
rules: whoever makes them is told which service has ``changed``.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterator, Sequence
from typing import NamedTuple

from l4ipd.checks import recipe
from l4ipd.checks.probe import Probe
from l4ipd.checks.recipe import Asked, Recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.events import Event, Events
from l4ipd.holds import Holds
from l4ipd.ipfilter import plan
from l4ipd.model import Config, Endpoint
from l4ipd.monitor.checker import Checker
from l4ipd.monitor.monitor import Monitor
from l4ipd.monitor.reachability import Reachability
from l4ipd.monitor.schedule import Schedule
from l4ipd.overrides import Disabled, Overrides, by_operator, disabled_is_gone
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from l4ipd.transitions import Past, Transitions

Start = Callable[[Recipe, Callable[[Verdict], object]], Probe]
log = logging.getLogger("l4ipd")


class Change(NamedTuple):
    """How many endpoints a configuration has, how many of them it did not have before, and so on."""

    endpoints: int
    new: int
    changed: int
    gone: int
    forgotten: tuple[str, ...] = ()                 # what the operator wanted of those that are gone, in words


class Fleet:
    """All monitors.

    ``changed(group)`` is called when the rules of a service have to be planned anew, ``decided()`` when the last
    endpoint has had its first outcome, and ``refused(monitor, verdict)`` when a probe could not connect.
    ``kept(group)`` says whether rules of a service stay although nobody is up. At most ``limit`` probes are in flight.
    """

    def __init__(self, loop: Loop, events: Events, start: Start, limit: int, *, changed: Callable[[str], object],
                 decided: Callable[[], object], refused: Callable[[Monitor, Verdict], object],
                 kept: Callable[[str], bool]) -> None:
        self.loop, self.events = loop, events
        self.monitors: dict[str, Monitor] = {}
        self.groups: dict[str, list[Monitor]] = {}  # by service
        self.overrides = Overrides(loop, self._over)
        self.disabled = self.overrides.disabled     # by name
        self.cut: set[str] = set()                  # disabled endpoints whose sessions are to end at once
        self.undecided: set[str] = set()            # endpoints without any outcome yet
        self.reachability = Reachability(loop, self._addresses, events.say)
        self.schedule = Schedule(loop, limit, start, changed=self._state_changed, decided=self._first_outcome,
                                 discarded=lambda monitor, verdict, began: self.reachability.discards(
                                     monitor.endpoint.address, verdict, began), alone=self._is_alone, refused=refused,
                                 last=lambda monitor: self.holds.last(monitor),
                                 weighed=lambda monitor: self._touch(monitor.endpoint.group),
                                 touched=lambda monitor: self.holds.touch(monitor.endpoint.group),
                                 blind=lambda: self.reachability.blind)
        self.transitions = Transitions(events.tell, members=self.members, tally=self.tally, kept=kept)
        self.holds = Holds(self.members, lambda: self.transitions.waits)
        self._changed, self._decided = changed, decided
        self._tallies: dict[str, plan.Tally] = {}   # by service, as far as this turn had to count

    # -- configurations

    def take_over(self, config: Config) -> Change:
        """The endpoints of ``config`` from now on."""
        old, self.monitors = self.monitors, {}
        checkers: dict[Asked, list[Checker]] = defaultdict(list)
        for checker in dict.fromkeys(monitor.checker for monitor in old.values()):
            checkers[checker.asks_first].append(checker)
        new = changed = 0
        for endpoint in config.endpoints():
            known = old.pop(endpoint.name, None)
            if known is None or known.endpoint.probed != endpoint.probed:
                self.monitors[endpoint.name] = self._watch(endpoint, known, checkers)
            else:
                self.monitors[endpoint.name] = known
            new += known is None
            if known is not None and known.endpoint != endpoint:
                changed += 1
                self.monitors[endpoint.name].redefine(endpoint)
        forgotten = tuple(words for gone in old.values() if (words := self._forget(gone)))
        self._regroup()
        probed = {monitor.checker: monitor.endpoint.checks[0].interval for monitor in self.monitors.values()}
        self.schedule.bunch(sum(1 / interval for interval in probed.values()))
        return Change(len(self.monitors), new, changed, len(old), forgotten)

    def _watch(self, endpoint: Endpoint, known: Monitor | None,
               checkers: dict[Asked, list[Checker]]) -> Monitor:
        """A new monitor, in the place of one that was ``known`` under this name, and checked in another way.

        ``checkers`` are those there are: equal checks are made once.
        """
        recipes = [recipe.recipe(check, endpoint) for check in endpoint.checks]
        alike = checkers[recipes[0].asks]
        checker = next((each for each in alike if each.makes(recipes, endpoint)), None)
        monitor = Monitor(self.schedule, endpoint, recipes, checker)
        if known is not None:
            monitor.inherit(known)
            if known.seen in ("down", "draining"):
                self.transitions.past[endpoint.name] = Past(known.seen, known.since)
            known.stop()
        self.undecided.add(endpoint.name)
        if checker is None:
            alike.append(monitor.checker)
            monitor.checker.begin()
        else:
            checker.join(monitor)
        return monitor

    def _forget(self, gone: Monitor) -> str:
        """In words, if the operator has disabled it."""
        gone.stop()
        name = gone.endpoint.name
        self.undecided.discard(name)
        self.transitions.forget(name)
        self.cut.discard(name)
        known = self.disabled.pop(name, None)
        return disabled_is_gone(name, known.user) if known is not None else ""

    def _regroup(self) -> None:
        groups: dict[str, list[Monitor]] = defaultdict(list)
        for monitor in self.monitors.values():
            groups[monitor.endpoint.group].append(monitor)
        self.groups = dict(groups)
        self._tallies.clear()
        self.transitions.keep_only(self.groups)
        self.holds.take_over(self.groups)
        for group in self.groups:
            self._touch(group)

    def _touch(self, group: str) -> None:
        self.holds.touch(group)
        self._changed(group)

    def restore(self, saved: Saved) -> None:
        """What the operator disabled stays so; and of what is as it was nothing is told."""
        now = time.time()
        for name, when in saved.disabled.items():
            if name in self.monitors:
                until = self.loop.now + saved.until[name] - now if name in saved.until else None
                self.disabled[name] = Disabled(now if when is None else when, saved.users.get(name, ""), until)
                self.monitors[name].disable()
        self.overrides.watch()
        self.cut = {name for name in saved.cut if name in self.disabled}        # it may not have come to that
        for name, (count, until, held) in saved.held.items():
            if name in self.monitors and name not in self.disabled:
                monitor = self.monitors[name]
                monitor.hold(count, self.loop.now + until - now, held)
                if monitor.held and name in saved.states:
                    monitor.resume(self.loop.now - saved.age(name, now))
                self.holds.begun(monitor.endpoint.group)
        past = {name: Past(saved.seen(name), self.loop.now - saved.age(name, now))
                for name in saved.states if name in self.monitors}
        down = {name for name, each in past.items() if not each.up} | self.disabled.keys()
        self.transitions.remember(past, [group for group in self.groups if self._was_empty(group, down)])
        if self.disabled:
            log.info("still disabled by the operator: %s", ", ".join(self.disabled))

    def _was_empty(self, group: str, down: Container[str]) -> bool:
        """Whether an earlier run had nobody up for a service: some were down, and the others never get anything."""
        members = self.members(group)
        others = [monitor for monitor in members if monitor.endpoint.name not in down]
        return len(others) < len(members) and not any(monitor.endpoint.weight for monitor in others)

    def stop(self) -> None:
        """Probe no more."""
        self.settle()
        for monitor in self.monitors.values():
            monitor.stop()
        self.reachability.stop()
        self.overrides.stop()

    # -- the operator

    def disable(self, monitors: Sequence[Monitor], now: bool, user: str = "", seconds: float | None = None) -> None:
        """Take endpoints out, whatever their probes say, for so many seconds, or until they are enabled.

        Sessions are left to finish or, with ``now``, cut off.
        """
        was = {monitor: monitor.seen for monitor in monitors}
        self.overrides.disable([monitor.endpoint.name for monitor in monitors], user, seconds)
        for monitor in monitors:
            endpoint = monitor.endpoint
            monitor.disable()
            (self.cut.add if now else self.cut.discard)(endpoint.name)
            self._touch(endpoint.group)
            self.transitions.touch(endpoint.group)
        self._tallies.clear()
        for monitor in monitors:
            endpoint = monitor.endpoint
            self.events.tell(Event("disabled", endpoint.name, (
                f"{endpoint.name} {endpoint.where} {was[monitor]} -> disabled: {by_operator(user, seconds)}, its "
                f"sessions {'are cut off' if now else 'may finish'}; {self.tally(endpoint.group)}")))

    def disable_for(self, monitors: Sequence[Monitor], user: str, seconds: float | None) -> None:
        """Of endpoints that are disabled already: from now on for so many seconds, or until they are enabled."""
        self.overrides.disable([monitor.endpoint.name for monitor in monitors], user, seconds)
        for monitor in monitors:
            endpoint = monitor.endpoint
            forever = "" if seconds is not None else ", until it is enabled"
            self.events.tell(Event("disabled", endpoint.name, (
                f"{endpoint.name} {endpoint.where} disabled -> disabled: {by_operator(user, seconds)}{forever}; "
                f"{self.tally(endpoint.group)}")))

    def _over(self, names: Sequence[str]) -> None:
        """The time is over for which they were disabled."""
        self._enable([self.monitors[name] for name in names], "the time is over for which it was disabled")

    def enable(self, monitors: Sequence[Monitor], user: str = "") -> None:
        """Put endpoints back: each is checked first, then added."""
        self._enable(monitors, by_operator(user))

    def _enable(self, monitors: Sequence[Monitor], why: str) -> None:
        was = {monitor: "held" if monitor.held else "disabled" for monitor in monitors}
        for monitor in monitors:
            endpoint = monitor.endpoint
            monitor.enable()
            self.disabled.pop(endpoint.name, None)
            self.cut.discard(endpoint.name)
            self._touch(endpoint.group)
            self.transitions.again(monitor)
            monitor.probe_soon()
        self._tallies.clear()
        for monitor in monitors:
            endpoint = monitor.endpoint
            self.events.tell(Event("enabled", endpoint.name, (
                f"{endpoint.name} {endpoint.where} {was[monitor]} -> enabled: {why}, to be checked first; "
                f"{self.tally(endpoint.group)}")))

    # -- what is asked of it

    def turn(self) -> None:
        """To be called in every turn of the loop: what was counted is not true any more, and services are told of."""
        self.recount()
        self.settle()

    def settle(self) -> None:
        """Who has become the last one is held no longer; services without anybody are told of."""
        self.holds.turn()
        self.transitions.settle()

    def recount(self) -> None:
        """Endpoints have become eligible, or are so no more, in a way that was not told."""
        self._tallies.clear()

    def members(self, group: str) -> Sequence[Monitor]:
        """Those of a service: nobody, while its source has named nobody."""
        return self.groups.get(group, ())

    def tally(self, group: str) -> plan.Tally:
        """How many of a service get connections. Counted once a turn: thousands may come up in it."""
        tally = self._tallies.get(group)
        if tally is None:
            tally = self._tallies[group] = plan.tally((monitor.endpoint, monitor.eligible)
                                                      for monitor in self.members(group))
        return tally

    def serving(self, group: str) -> int:
        """How many of a service get connections."""
        return self.tally(group).serving

    def _addresses(self) -> Iterator[str]:
        return (monitor.endpoint.address for monitor in self.monitors.values())

    def _is_alone(self, monitor: Monitor) -> bool:
        """Whether nobody would serve without it: neither another member nor a fallback."""
        return not any(other.eligible for other in self.members(monitor.endpoint.group) if other is not monitor)

    # -- what monitors say

    def _first_outcome(self, monitor: Monitor) -> None:
        self.undecided.discard(monitor.endpoint.name)
        self.transitions.touch(monitor.endpoint.group)
        self.holds.touch(monitor.endpoint.group)
        if not self.undecided:
            self.undecided = set()                  # one that was emptied keeps its room
            self._decided()

    def _state_changed(self, monitor: Monitor, was: str) -> None:
        endpoint = monitor.endpoint
        self._touch(endpoint.group)
        if monitor.held:
            self.holds.begun(endpoint.group)
        tally = self._tallies.get(endpoint.group)
        if tally is not None and endpoint.weight:
            tally.add(endpoint.fallback, monitor.eligible - (was == "up" and not monitor.disabled))
        self.transitions.changed(monitor, was)
