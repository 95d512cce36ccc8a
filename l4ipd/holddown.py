"""How long an endpoint stays down that resets its clients although its probes pass. Pure: no clock, no IO.

A refusal that the next probe confirms costs nothing: the probes say when it is over. One that the next probe
contradicts costs a second, the next one two, then four, at most five minutes; a quiet time makes all that forgotten.
"""

from __future__ import annotations

FIRST, LONGEST = 1.0, 300.0                         # seconds
QUIET = 600.0                                       # seconds without a refusal, after which all is forgotten


class Hold:
    """The memory of one endpoint. Times are seconds on any one clock."""

    __slots__ = ("level", "last", "until", "_open")

    def __init__(self) -> None:
        self.level = 0                              # refusals in a row that were contradicted
        self.last = self.until = float("-inf")      # the last refusal, and how long it keeps the endpoint down
        self._open = False                          # no probe has judged the last refusal yet

    def refused(self, now: float) -> None:
        """A client was refused."""
        if now - max(self.last, self.until) > QUIET:
            self.level = 0
        self.last = now
        self._open = True

    def judged(self, passed: bool) -> float:
        """A probe has an outcome. Returns the seconds of a new hold, 0 if there is none."""
        if not self._open:
            return 0.0
        self._open = False
        if not passed:
            return 0.0
        self.level += 1
        seconds = min(LONGEST, FIRST * 2.0 ** min(self.level - 1, 20))
        self.until = self.last + seconds
        return seconds
