"""What the operator has taken out: who asked for it, since when, and for how long; and the timer that ends it.

How long is counted on the loop's clock, so that a step of the wall clock neither ends nor prolongs it; between two runs
there is only the wall clock (:mod:`l4ipd.saved_state`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from l4ipd.config.values import span
from l4ipd.runtime.loop import Loop, Timer

AGAIN = 1.0                                         # seconds until it is tried again, if it has failed


class Disabled(NamedTuple):
    """One endpoint that the operator has taken out."""

    since: float                                    # seconds since the epoch
    user: str = ""                                  # who asked for it, or changed it last; empty: not known
    until: float | None = None                      # on the loop's clock; None: until it is enabled


class Overrides:
    """All of them, by name. ``over(names)`` is called when the time of some is over."""

    def __init__(self, loop: Loop, over: Callable[[Sequence[str]], object]) -> None:
        self.loop, self._over = loop, over
        self.disabled: dict[str, Disabled] = {}
        self._timer = Timer(self._look)

    def raised(self) -> None:
        """Whoever was told that some are over has: those that are left are told again."""
        self.loop.set(self._timer, self.loop.now + AGAIN)

    def disable(self, names: Sequence[str], user: str, seconds: float | None) -> None:
        """For ``seconds``, or until they are enabled; of those that are disabled already the time begins anew."""
        now = time.time()
        until = None if seconds is None else self.loop.now + seconds
        for name in names:
            known = self.disabled.get(name)
            self.disabled[name] = Disabled(now if known is None else known.since, user, until)
        self.watch()

    def watch(self) -> None:
        """Set the timer for the first whose time will be over."""
        self.loop.clear(self._timer)
        ends = [each.until for each in self.disabled.values() if each.until is not None]
        if ends:
            self.loop.set(self._timer, min(ends))

    def stop(self) -> None:
        """None is put back any more: that is left to the next run."""
        self.loop.clear(self._timer)

    def _look(self) -> None:
        now = self.loop.now
        names = [name for name, each in self.disabled.items() if each.until is not None and each.until <= now]
        if names:
            self._over(names)
        self.watch()


def disabled_is_gone(name: str, user: str) -> str:
    """What is said as the configuration has no endpoint of that name any more."""
    return f"{name} is gone; that it was disabled {by_operator(user)} is forgotten"


def left_is_gone(name: str) -> str:
    """The same of a cluster."""
    return f"{name} is gone; that it was out of service by the operator is forgotten"


def by_operator(user: str, seconds: float | None = None) -> str:
    """Who wants it, if that is known, and for how long."""
    return ("by the operator" + (f" ({user})" if user else "") +
            (f", for {span(seconds)}" if seconds is not None else ""))
