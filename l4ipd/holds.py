"""That no service is without a member because those that it has are held down: the last one never is.

Whoever is up, and held because it flaps, gets connections again as soon as no other member of its service does.
Fallbacks count only for one another: a page that says sorry is no reason to leave a member out that works now and then.
Who was held before a start has to wait for the first outcomes of the others; unless its rule is in the kernel then, and
nobody else's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from l4ipd.monitor.monitor import Monitor

LAST = "as no other member is up"
FOUND = "as its rule is in the kernel, and no other"


class Holds:
    """``members(group)`` are the monitors of a service, ``waits()`` says whether the kernel's table is not read yet."""

    def __init__(self, members: Callable[[str], Sequence[Monitor]], waits: Callable[[], bool]) -> None:
        self.members, self.waits = members, waits
        self._groups: set[str] = set()              # services of which somebody is held: hardly ever any
        self._touched: dict[str, None] = {}         # those of them to be looked at

    def begun(self, group: str) -> None:
        """Somebody of a service is held from now on."""
        self._groups.add(group)
        self._touched[group] = None

    def touch(self, group: str) -> None:
        """Something has happened to a service."""
        if group in self._groups:
            self._touched[group] = None

    def take_over(self, groups: Mapping[str, Sequence[Monitor]]) -> None:
        """These are all services from now on."""
        self._groups = {group for group, members in groups.items() if any(each.held for each in members)}
        self._touched = dict.fromkeys(self._groups)

    def last(self, monitor: Monitor) -> bool:
        """Whether no other member of its kind gets connections."""
        return not any(other.eligible for other in self._others(monitor))

    def _serves(self, group: str, fallback: bool) -> bool:
        """Whether any of a service gets connections: of its fallbacks, too, if one of them asks."""
        return any(each.eligible for each in self.members(group) if fallback or not each.endpoint.fallback)

    def found(self, monitor: Monitor) -> None:
        """Its rule was found in the kernel, and all are known that are up by that: it may be the only one."""
        if monitor.flapping is None or not monitor.held or not self.last(monitor):
            return
        if monitor.verdict is not None:
            monitor.release(FOUND)
        else:                                       # it is up by that, which is told when the table has been read
            monitor.flapping.end(FOUND)

    def turn(self) -> None:
        """To be called in every turn, before the rules are planned: end what must not be held any longer."""
        if not self._touched or self.waits():
            return
        touched, self._touched = self._touched, {}
        for group in touched:
            held = [each for each in self.members(group) if each.held]
            if not held:
                self._groups.discard(group)
            self._look(group, held)

    def _look(self, group: str, held: Sequence[Monitor]) -> None:
        serves = {fallback: self._serves(group, fallback) for fallback in (False, True)}    # there may be thousands
        for monitor in held:
            if monitor.verdict is None:
                continue
            if monitor.endpoint.flap is None:
                monitor.release("by a reload")
            elif monitor.up and not (monitor.withheld or serves[monitor.endpoint.fallback] or self._is_early(monitor)):
                monitor.release(LAST)
            else:
                continue
            if monitor.eligible:
                serves |= {True: True} if monitor.endpoint.fallback else {False: True, True: True}

    def _is_early(self, monitor: Monitor) -> bool:
        """Whether it was held before the start, and nobody can say yet what the others are."""
        since_before = monitor.flapping is not None and monitor.flapping.since_before
        return since_before and any(map(_is_open, self._others(monitor)))

    def _others(self, monitor: Monitor) -> Iterator[Monitor]:
        return (other for other in self.members(monitor.endpoint.group)
                if other is not monitor and (monitor.endpoint.fallback or not other.endpoint.fallback))


def _is_open(monitor: Monitor) -> bool:
    """Whether nobody can say yet if it gets connections."""
    return not (monitor.withheld or monitor.held or monitor.tried)
