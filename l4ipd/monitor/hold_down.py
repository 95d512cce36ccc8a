"""How long something is held down that keeps coming back: longer each time. Pure: no clock, no IO.

The first time for ``first`` seconds, then twice as long each time, at most ``longest``; after ``quiet`` seconds in
which nothing was heard of it all that is forgotten. Held down so are resets that probes contradict
(:mod:`l4ipd.monitor.doubt`), and endpoints that flap (:mod:`l4ipd.monitor.flapping`).
"""

from __future__ import annotations

NEVER = float("-inf")


class HoldDown:
    """Times are seconds on any one clock."""

    __slots__ = ("first", "longest", "quiet", "count", "until", "last")

    def __init__(self, first: float, longest: float, quiet: float) -> None:
        self.first, self.longest, self.quiet = first, longest, quiet
        self.count = 0                              # how often in a row
        self.last = self.until = NEVER              # when something was heard of it last, and until when it is held

    def heard(self, now: float) -> bool:
        """Something of the kind that may lead to it. Returns whether all before is too long ago, and forgotten."""
        forgotten = now - max(self.last, self.until) > self.quiet
        if forgotten:
            self.forget()
        self.last = now
        return forgotten

    def grow(self, now: float) -> float:
        """Once more. Returns for how many seconds it is held down now."""
        self.count += 1
        seconds = min(self.longest, self.first * 2.0 ** min(self.count - 1, 20))
        self.until = now + seconds
        return seconds

    def forget(self) -> None:
        """It was right after all, or it is over."""
        self.count, self.until = 0, NEVER
