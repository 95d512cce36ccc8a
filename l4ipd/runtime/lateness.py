"""How late the loop is: a count of its turns by the lateness of their first timer."""

from __future__ import annotations

from bisect import bisect_left

from l4ipd.runtime.loop import Loop

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)      # seconds


class Lateness:
    """Looks at every turn in which a timer was due; it is for :meth:`l4ipd.runtime.loop.Loop.every_turn`."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.counts = [0.0] * (len(BOUNDS) + 2)     # up to each of BOUNDS, above; and their sum in seconds

    def note(self) -> None:
        late = self.loop.lateness                   # of the last turn; negative: it was woken before its first timer
        if late > 0.0:
            self.counts[bisect_left(BOUNDS, late)] += 1
            self.counts[-1] += late
