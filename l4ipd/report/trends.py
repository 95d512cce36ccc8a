"""What has been over the last hour and the last day, for the status page: kept while somebody may look, in memory only.

Of each endpoint 60 minutes of latency and 96 quarters of an hour of state, a byte each: the logarithm of how long a
probe took, one probe in each minute, and the worst state that was met. Of each service for how long it was available,
which is counted to the event and not by the minute. Ten thousand endpoints take 3 MB; they are looked at in bunches,
so that no probe waits.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from math import log10
from typing import TYPE_CHECKING

from l4ipd.runtime.loop import Loop, Timer

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.events import Event
    from l4ipd.monitor.monitor import Monitor

MINUTES, QUARTERS = 60, 96
PERIOD, BUNCH = 60.0, 500                           # seconds from one look to the next; endpoints in one turn
FIRST, NEXT = 5.0, 0.01                             # seconds until the first look, and until the next bunch
UNKNOWN, UP, OFF, DOWN = range(4)                   # states, the worse the greater
STEPS = 50                                          # of the logarithm, in a decade; 1 is 0 ms, 255 is 12 s


@dataclass(slots=True)
class Availability:
    """For how long a service had a member that gets connections, of how long it has been known."""

    since: float                                    # seconds since the epoch
    last: float                                     # the loop's time up to which it is counted
    up: bool
    available: float = 0.0                          # seconds
    known: float = 0.0

    def count(self, now: float, up: bool) -> None:
        """It was as it was, until now."""
        self.known += now - self.last
        self.available += (now - self.last) * self.up
        self.last, self.up = now, up

    @property
    def share(self) -> float:
        return self.available / self.known if self.known else float(self.up)


class Trends:
    """Nothing is kept before :meth:`start`; from then on it listens to the daemon, and looks once a minute."""

    def __init__(self, loop: Loop, daemon: Daemon) -> None:
        self.loop, self.daemon = loop, daemon
        self.looks = 0                              # complete ones
        self._kept: dict[str, bytearray] = {}       # by endpoint: the minutes, then the quarters, each as a ring
        self._services: dict[str, Availability] = {}
        self._timer = Timer(self._begin)
        self._left: list[str] = []                  # endpoints that this look has still to see
        self._started = False

    def start(self) -> None:
        if not self._started:
            self._started = True
            self.daemon.events.listen(self.heard)
            self.loop.set(self._timer, self.loop.now + FIRST)

    def raised(self) -> None:
        """A look has broken off: what is left of it is not seen, and the next one comes in time."""
        self._left = []
        if self._started and not self._timer.is_set:
            self.loop.set(self._timer, self.loop.now + PERIOD)

    # -- what there is to see

    def latency(self, name: str) -> list[float | None]:
        """Milliseconds, a minute each, the last one last; None where no probe passed."""
        return [milliseconds(byte) for byte in self._ring(name, 0, MINUTES, self.looks)]

    def states(self, name: str) -> list[int]:
        """The worst of each quarter of an hour, the present one last."""
        return list(self._ring(name, MINUTES, QUARTERS, self._quarter + 1))

    def availability(self, service: str) -> Availability | None:
        """Up to now; None while it is not known."""
        self._count(service)
        return self._services.get(service)

    def _ring(self, name: str, begin: int, size: int, turn: int) -> bytearray:
        kept = self._kept.get(name)
        ring = kept[begin:begin + size] if kept else bytearray(size)
        return ring[turn % size:] + ring[:turn % size]

    @property
    def _quarter(self) -> int:
        return self.looks // 15

    # -- what is noted

    def heard(self, event: Event) -> None:
        """So that nothing is missed that is shorter than a minute."""
        monitor = self.daemon.fleet.monitors.get(event.name)
        if monitor is not None and event.name in self._kept:
            self._note(self._kept[event.name], monitor)
        if "/" in event.name:
            self._count("/".join(event.name.split("/")[:2]))

    def look(self) -> None:
        """At everybody, at once."""
        self._left = list(self.daemon.fleet.monitors)
        while self._left:
            self._bunch()

    def _begin(self) -> None:
        self.loop.set(self._timer, self.loop.now + PERIOD)
        self._left = list(self.daemon.fleet.monitors)
        self._go_on()

    def _go_on(self) -> None:
        self._bunch()
        if self._left:
            self.loop.later(NEXT, self._go_on)

    def _bunch(self) -> None:
        names = self._left[-BUNCH:]
        del self._left[-BUNCH:]
        for name in names:
            monitor = self.daemon.fleet.monitors.get(name)
            if monitor is not None:
                self._see(name, monitor)
        if not self._left:
            self._end()

    def _see(self, name: str, monitor: Monitor) -> None:
        kept = self._kept.get(name)
        if kept is None:
            kept = self._kept[name] = bytearray(MINUTES + QUARTERS)
        passed = monitor.verdict is not None and monitor.verdict.passed
        kept[self.looks % MINUTES] = step(monitor.took) if passed else 0
        self._note(kept, monitor)

    def _note(self, kept: bytearray, monitor: Monitor) -> None:
        place = MINUTES + self._quarter % QUARTERS
        kept[place] = max(kept[place], state(monitor))

    def _end(self) -> None:
        self.looks += 1
        fleet = self.daemon.fleet
        for name in [name for name in self._kept if name not in fleet.monitors]:
            del self._kept[name]
        if self.looks % 15 == 0:                    # another quarter begins, which an event may be the first to tell of
            for kept in self._kept.values():
                kept[MINUTES + self._quarter % QUARTERS] = UNKNOWN
        for name in [name for name in self._services if name not in fleet.groups]:
            del self._services[name]
        for name in fleet.groups:
            self._count(name)

    def _count(self, service: str) -> None:
        fleet, now = self.daemon.fleet, self.loop.now
        up = fleet.serving(service) > 0
        known = self._services.get(service)
        if known is not None:
            known.count(now, up)
        elif any(monitor.verdict for monitor in fleet.members(service)):
            self._services[service] = Availability(time.time(), now, up)


def state(monitor: Monitor) -> int:
    if monitor.disabled or monitor.seen == "draining":
        return OFF
    return UP if monitor.up and not monitor.held else DOWN if monitor.verdict else UNKNOWN


def step(seconds: float) -> int:
    """A byte for a duration; 0 is for none."""
    return 1 + min(254, round(STEPS * log10(1.0 + max(0.0, seconds) * 10_000)))


def milliseconds(byte: int) -> float | None:
    """The duration of a byte, to 5 %."""
    return (10 ** ((byte - 1) / STEPS) - 1) / 10 if byte else None
