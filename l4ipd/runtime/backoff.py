"""When to try again what has failed: soon, then less often, and never so rarely that a tool that works waits for us.

The longest wait, and the few runs that make a table right, have to fit into the five seconds in which it must be right
once the tools work again.
"""

from __future__ import annotations

from collections.abc import Callable

from l4ipd.runtime.loop import Loop, Timer

FIRST, LONGEST = 0.2, 2.0                           # seconds between two tries


class Backoff:
    """Counts failures in a row, and waits after each; ``wake`` is called when a wait is over."""

    def __init__(self, loop: Loop, wake: Callable[[], object]) -> None:
        self.loop = loop
        self.failures = 0                           # in a row
        self._steps = 0                             # of the wait: it doubles with each
        self._failed_at = 0.0
        self._timer = Timer(wake)

    @property
    def waiting(self) -> bool:
        return self._timer.is_set

    def failed(self) -> None:
        self.failures += 1
        self._steps += 1
        self._failed_at = self.loop.clock()
        self.loop.set(self._timer, self._failed_at + min(LONGEST, FIRST * 2 ** (min(self._steps, 10) - 1)))

    def succeeded(self) -> None:
        self.failures = self._steps = 0
        self.skip()

    def news(self) -> None:
        """Something is different now: the next try is worth while, as soon as it is no storm of tries."""
        self._steps = min(self._steps, 1)
        if self.waiting:
            self.loop.set(self._timer, max(self.loop.now, self._failed_at + FIRST))

    def skip(self) -> None:
        """Do not wait this time."""
        self.loop.clear(self._timer)
