"""One check in flight, whatever its transport.

A probe begins when it is made. It calls ``done(verdict)`` exactly once: maybe before :meth:`Prober.start` returns (a
member that refuses at once, our own trouble), never after ``cancel``. Time is the owner's business: it calls
``expire`` when the deadline has passed, and the probe delivers the verdict that fits the stage it was in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from l4ipd.checks import Recipe
from l4ipd.health import Verdict
from l4ipd.loop import Loop
from l4ipd.stream import Stream

Done = Callable[[Verdict], object]


class Probe(Protocol):
    """What the owner of a probe may do with it. Both do nothing once it is over."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


class Prober:
    """Starts probes, and owns what they share."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def start(self, recipe: Recipe, done: Done) -> Probe:
        if recipe.transport == "tcp":
            return Stream(self.loop, recipe, done)
        raise NotImplementedError(recipe.transport)

    def close(self) -> None:
        """Give the shared sockets back; no probe may be in flight."""
