"""Loops for tests: every poller that this system has, and a clock that moves only when the loop sleeps."""

from __future__ import annotations

import select
from collections.abc import Callable

from l4ipd.runtime import poller as module
from l4ipd.runtime.poller import WRITE, Poller, Portable
from support import kqueue_model


class Clock:
    """Time that passes only when the loop sleeps, or when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Sleeper:
    """A poller that moves a :class:`Clock` instead of sleeping, and reports what a test puts in."""

    CONNECT = WRITE

    def __init__(self, clock: Clock) -> None:
        self.clock, self.ready, self.slept = clock, [], []          # type: ignore[var-annotated]

    def register(self, fd: int, events: int) -> None: ...
    def modify(self, fd: int, events: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def closing(self, fd: int) -> None: ...
    def close(self) -> None: ...

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        self.slept.append(timeout)
        if not self.ready:
            self.clock.now += max(timeout or 0.0, 1e-6)     # time never stands quite still
        ready, self.ready = self.ready, []
        return [(fd, 0) for fd in ready]


class ModelledKqueue(module.Kqueue):
    """That of the BSDs, on a model of theirs."""

    def __init__(self) -> None:
        super().__init__(kqueue_model)


POLLERS: list[Callable[[], Poller]] = [Portable]
POLLERS += [module.Epoll] if hasattr(select, "epoll") else []
POLLERS += [module.Kqueue if hasattr(select, "kqueue") else ModelledKqueue]
