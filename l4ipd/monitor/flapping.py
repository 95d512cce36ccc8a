"""An endpoint that goes up and down again and again: it is held down, since each change moves everybody's traffic.

::

                as many changes as flap: says, and another member serves
    FOLLOWED ------------------------------------------------------------> HELD
        ^                                                                    |
        +---- 30 s are over, then 1 min, 2 min ... 10 min -------------------+
        +---- no other member of the service is up any more, and it is ------+
        +---- the operator has disabled or enabled it -----------------------+

Held, it is probed as ever, and gets nothing; what the probes find meanwhile is no change of state. Not counted are the
first verdict of an endpoint, what the operator does, and what refused clients bring about that no probe has confirmed:
nobody's packets alone shall hold a member down.
"""

from __future__ import annotations

from typing import Any, Protocol

from l4ipd.checks.verdict import Verdict
from l4ipd.model import Flap
from l4ipd.monitor.hold_down import HoldDown
from l4ipd.monitor.schedule import Schedule
from l4ipd.runtime.loop import Timed

FIRST, LONGEST = 30.0, 600.0                        # seconds
QUIET = 600.0                                       # seconds without a change, after which all is forgotten
AGAIN = 1.0                                         # seconds until the end is tried again that was not to be


class Flapper(Protocol):
    """What is asked of the endpoint's monitor."""

    schedule: Schedule[Any]
    verdict: Verdict | None

    def release(self) -> object: ...


class Flapping:
    """That of one endpoint. There is none before its first change of state."""

    __slots__ = ("monitor", "hold", "times", "held", "since_before", "why", "slot")
    quiet = False

    def __init__(self, monitor: Flapper, old: Flapping | None = None) -> None:
        """``old`` is that of the monitor whose place this one takes."""
        self.monitor = monitor
        self.hold: HoldDown = old.hold if old is not None else HoldDown(FIRST, LONGEST, QUIET)
        self.times: list[float] = old.times if old is not None else []  # of the last changes that count
        self.held = False
        self.since_before = False                   # the start
        self.why: str = old.why if old is not None else ""  # it is held, or was until now
        self.slot: list[Timed] | None = None        # it is its own timer
        if old is not None and old.held:
            self._begin()

    def changed(self, limit: Flap) -> None:
        """The state has changed: once too often maybe."""
        schedule, times = self.monitor.schedule, self.times
        now = schedule.loop.now
        self.hold.quiet = max(QUIET, limit.within)
        self.hold.heard(now)
        times.append(now)
        del times[:-limit.changes]
        if len(times) == limit.changes and now - times[0] <= limit.within and not schedule.last(self.monitor):
            seconds = self.hold.grow(now)
            self.why = f"{limit.changes} changes of state in {_span(now - times[0])}, held down for {_span(seconds)}"
            times.clear()
            self._begin()

    def resume(self, count: int, until: float, held: bool) -> None:
        """What an earlier run has left; ``until`` is on the loop's clock."""
        self.hold.count, self.hold.until = count, until
        if held and until > self.monitor.schedule.loop.now:
            self.why = "held down since before the start"
            self.since_before = True
            self._begin()

    def _begin(self) -> None:
        self.held = True
        self.monitor.schedule.loop.set(self, self.hold.until)

    @property
    def over(self) -> bool:
        """Whether its time has come, and only a verdict was missing."""
        return self.hold.until <= self.monitor.schedule.loop.now

    def fire(self) -> None:
        """The time has come. Before the first verdict nobody could say what it is now, nor while we are blind."""
        schedule = self.monitor.schedule
        if self.held and schedule.blind():
            schedule.loop.set(self, schedule.loop.now + AGAIN)
        elif self.held and self.monitor.verdict is not None:
            self.monitor.release()

    def raised(self) -> None:
        """To end it has raised."""
        if self.held:
            self.monitor.schedule.loop.set(self, self.monitor.schedule.loop.now + AGAIN)

    def end(self, why: str) -> None:
        """It is held no longer, because of ``why`` if its time has not come."""
        now = self.monitor.schedule.loop.now
        self.drop()
        self.why = why
        self.hold.until = min(self.hold.until, now)

    def drop(self) -> None:
        """It is forgotten."""
        self.held = self.since_before = False
        self.stop()

    def stop(self) -> None:
        """Nobody watches it any more; what it is may have to be saved."""
        self.monitor.schedule.loop.clear(self)

    @property
    def words(self) -> str:
        """For how long it is held down yet; empty if it is not."""
        left = self.hold.until - self.monitor.schedule.loop.now
        return f"held down for {_span(max(1.0, round(left)))} more: it flaps" if self.held else ""


def _span(seconds: float) -> str:
    """For people: ``30 s``, ``2 min``, ``90 s``."""
    return f"{seconds / 60:.0f} min" if seconds >= 60 and not seconds % 60 else f"{seconds:.0f} s"
