"""What is remembered of an endpoint's outcomes. Pure."""

from __future__ import annotations

TRAIL = 60                                          # outcomes that are remembered one by one
MASK = (1 << TRAIL) - 1


class Outcomes:
    """Counters, and the last TRAIL of them."""

    __slots__ = ("passes", "failures", "failed", "_turn")

    def __init__(self) -> None:
        self.passes = self.failures = 0
        self.failed = 0                             # the last TRAIL, a bit each: 1 failed; the last is bit 0
        self._turn = 0                              # how many there were before the present run of equal ones

    def add(self, passed: bool) -> None:
        if passed and not self.failed:              # nearly always
            self.passes += 1
            return
        if passed == self.failed & 1:               # another run begins
            self._turn = self.passes + self.failures
        if passed:
            self.passes += 1
        else:
            self.failures += 1
        self.failed = (self.failed << 1 | (not passed)) & MASK

    @property
    def streak(self) -> int:
        """How many in a row were the same; minus: failures."""
        run = self.passes + self.failures - self._turn
        return -run if self.failed & 1 else run

    @property
    def trail(self) -> list[bool]:
        """Whether each of the last TRAIL passed, the last one last."""
        known = min(TRAIL, self.passes + self.failures)
        return [not self.failed >> place & 1 for place in reversed(range(known))]
