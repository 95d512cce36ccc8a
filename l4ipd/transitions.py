"""What is told of states: every change once, and nothing at a start about what is as it was.

::

                 changed(monitor, was)                    not what was known of it before
    monitor -----------------------------> [ waiting ] ------------------------------------> Event
                                               |
                 until begin(): the kernel's table was read, or takes too long

An endpoint is *unknown* until its first verdict, unless its rule is found in the kernel: then it is up already. While
the table has not been read, nobody can say which of the two it is, so its event waits; verdicts count meanwhile. What
an earlier run said of an unknown endpoint, or a reload that changed its check, is kept in :attr:`Transitions.past`: a
first verdict that says the same is a line of the log, and no event.

That a service has nobody left is no matter of edges: :meth:`Transitions.settle` looks at every service that was
touched.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from l4ipd.events import Event
from l4ipd.ipfilter.plan import Tally

if TYPE_CHECKING:
    from l4ipd.monitor.monitor import Monitor

log = logging.getLogger("l4ipd")


class Past(NamedTuple):
    """What was known of an endpoint: whether it was up, down, draining or held, and since when, on the loop's clock."""

    seen: str
    since: float

    @property
    def up(self) -> bool:
        return self.seen == "up"


class Transitions:
    """Hears of every change of a state, and tells of those that nobody knows of yet.

    ``members(group)`` are the monitors of a service, ``tally(group)`` counts those that get connections, and
    ``kept(group)`` says whether rules of its last members stay although nobody is up.
    """

    def __init__(self, tell: Callable[[Event], object], *, members: Callable[[str], Sequence[Monitor]],
                 tally: Callable[[str], Tally], kept: Callable[[str], bool]) -> None:
        self.tell, self.members, self.tally, self.kept = tell, members, tally, kept
        self.past: dict[str, Past] = {}             # of endpoints that are unknown as yet
        self.empty: set[str] = set()                # services of which it was said that no member is up
        self.empty_before: set[str] = set()         # those that had none when they were last heard of
        self.waits = True                           # until begin()
        self._waiting: dict[Monitor, str] = {}      # whose events wait, and the state before it
        self._touched: dict[str, None] = {}         # services to be looked at

    # -- endpoints

    def remember(self, past: Mapping[str, Past], empty: Collection[str]) -> None:
        """What an earlier run has left: of endpoints, and the services that had no member up."""
        self.past.update(past)
        self.empty_before.update(empty)

    def found(self, monitor: Monitor) -> None:
        """Its rule is in the kernel: it has been up all the time, until a verdict that is there already maybe."""
        past = self.past.pop(monitor.endpoint.name, None)
        was = "held" if past is not None and past.seen == "held" else "up"
        if monitor.seen == "unknown":
            monitor.adopt()
            if was == "held":
                self._waiting[monitor] = was
        elif monitor in self._waiting:
            self._waiting[monitor] = was
        else:
            return                                  # told of already
        if monitor.up:
            self.empty_before.discard(monitor.endpoint.group)   # should it go down, that will be told
            monitor.resume(past.since if past is not None and past.up else monitor.since)

    def begin(self) -> None:
        """Wait no longer."""
        self.waits = False
        waiting, self._waiting = self._waiting, {}
        for monitor, was in waiting.items():
            if monitor.seen != was and not monitor.stopped:
                self._tell_of(monitor, was)

    def changed(self, monitor: Monitor, was: str) -> None:
        """It is in another state than it ``was``: up, down, draining, held, unknown, or enabled and to be checked."""
        if self.waits:
            self._waiting.setdefault(monitor, was)
        else:
            self._tell_of(monitor, was)

    def is_told(self, monitor: Monitor) -> bool:
        """Whether its state is known to whoever listens: none of its events waits."""
        return monitor not in self._waiting

    def forget(self, name: str) -> None:
        """The configuration has it no longer."""
        self.past.pop(name, None)

    def _tell_of(self, monitor: Monitor, was: str) -> None:
        name, now = monitor.endpoint.name, monitor.seen
        past = self.past.pop(name, None)
        text = self._line(monitor, was, now)
        if past is not None and past.seen == now and was == "unknown":
            monitor.resume(past.since)
            log.info("%s", text)
        else:
            self.tell(Event(now, name, text))
        self.touch(monitor.endpoint.group)

    def _line(self, monitor: Monitor, was: str, now: str) -> str:
        endpoint, flapping = monitor.endpoint, monitor.flapping
        said = f"{monitor.verdict}{_how(monitor, was, now)}" if monitor.verdict is not None else ""
        why = flapping.why if flapping is not None and "held" in (was, now) else ""
        return (f"{endpoint.name} {endpoint.where} {was} -> {now}: {', '.join(filter(None, (said, why)))}; "
                f"{self.tally(endpoint.group)}")

    # -- services

    def touch(self, *groups: str) -> None:
        """Something has happened to these services."""
        self._touched.update(dict.fromkeys(groups))

    def settle(self) -> None:
        """Look at the services that were touched since the last time; to be called every turn."""
        if self.waits or not self._touched:
            return
        touched, self._touched = self._touched, {}
        for group in touched:
            self._look(group)

    def again(self, monitor: Monitor) -> None:
        """The operator has put it back: what its next probe finds is told, and that nobody is up after all as well."""
        self._waiting.pop(monitor, None)            # so that what was before is none
        group = monitor.endpoint.group
        if not monitor.withheld:                    # else it changes nothing that it is up
            self.empty.discard(group)
            self.empty_before.discard(group)
        self.touch(group)

    def keep_only(self, groups: Collection[str]) -> None:
        """Forget the services that the configuration has no longer, and look at all others."""
        self.empty.intersection_update(groups)
        self.empty_before.intersection_update(groups)
        self._touched = dict.fromkeys(groups)

    def _look(self, group: str) -> None:
        """Say it once when the last one has gone; nothing while one may still turn out to be up."""
        if self.tally(group).serving:
            self.empty.discard(group)
            self.empty_before.discard(group)
        elif group not in self.empty and not any(map(_is_open, self.members(group))):
            self.empty.add(group)
            self._tell_empty(group)

    def _tell_empty(self, group: str) -> None:
        text = f"{group}: no member is up" + ("; its last rules stay (when_all_down: keep)" if self.kept(group) else "")
        if group not in self.empty_before:
            self.tell(Event("all-down", group, text, logging.ERROR))
        elif not all(monitor.withheld for monitor in self.members(group)):
            log.error("%s", text)


def _is_open(monitor: Monitor) -> bool:
    """Whether nobody can say yet if it gets connections."""
    return not monitor.withheld and (not monitor.tried or monitor.unconfirmed)


def _how(monitor: Monitor, was: str, now: str) -> str:
    """How many outcomes have led to it, and how long the last one took; empty where none has."""
    count, took = abs(monitor.outcomes.streak), f"{monitor.took * 1000:.0f} ms"
    check, passed = monitor.endpoint.checks[0], monitor.verdict is not None and monitor.verdict.passed
    if was == "draining" and now == "down":         # what it said while it was draining is no failure
        count = check.fall
    if not count or (monitor.verdict is not None and monitor.verdict.code == "RST"):
        return ""
    if now == "draining":                           # at once: it says so itself
        return f" ({took})"
    wanted = count if passed == monitor.up else check.rise if passed else check.fall    # more: it was held until now
    return f" ({count} of {wanted} {'passed' if passed else 'failed'}, {took})"
