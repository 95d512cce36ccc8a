"""What ends the sleep of a loop from outside: signals, and threads that have finished. One pipe for both."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

GIVE_WAY = 0.0001               # seconds for which a thread may keep the interpreter from the loop
Callback = Callable[[], object]
Result = TypeVar("Result")


class Wakeup:
    """``reader`` is to be watched; when something is to be read there, :meth:`due` has what is to be called."""

    def __init__(self) -> None:
        self.signals: dict[int, Callback] = {}
        self._finished: deque[Callback] = deque()   # what threads have to tell
        self.reader, self._writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)

    def on_signal(self, signum: int, callback: Callback) -> None:
        """``callback`` is due after signal ``signum`` has arrived; the handler itself does nothing."""
        self.signals[signum] = callback
        signal.signal(signum, _nothing)

    def aside(self, work: Callable[[], Result], done: Callable[[Result], object]) -> None:
        """Let a thread do ``work``, which must not raise; ``done`` is due with its result."""
        sys.setswitchinterval(GIVE_WAY)             # 5 ms by default, after each system call of the loop

        def thread() -> None:
            result = work()
            self._finished.append(lambda: done(result))
            with contextlib.suppress(OSError):      # full: the loop wakes anyway; closed: nobody waits any more
                os.write(self._writer, b"\0")

        threading.Thread(target=thread, daemon=True).start()

    def due(self) -> Iterator[Callback]:
        """What is to be called now."""
        with contextlib.suppress(BlockingIOError):
            for signum in dict.fromkeys(os.read(self.reader, 4096)):
                if signum in self.signals:
                    yield self.signals[signum]
        yield from self._told()

    def _told(self) -> Iterator[Callback]:
        while self._finished:
            yield self._finished.popleft()

    def renew(self) -> Iterator[Callback]:
        """The pipe broke: another takes its place, under the numbers that the interpreter and threads know.

        Returns what is to be called once it is watched. Raises OSError if there are no descriptors.
        """
        for new, old in zip(os.pipe(), (self.reader, self._writer), strict=True):
            os.set_blocking(new, False)
            os.dup2(new, old, inheritable=False)
            os.close(new)
        return self._missed()

    def _missed(self) -> Iterator[Callback]:
        """Which signals were in it nobody knows; the end of a child may be had twice."""
        if signal.SIGCHLD in self.signals:
            yield self.signals[signal.SIGCHLD]
        yield from self._told()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        os.close(self.reader)
        os.close(self._writer)


def _nothing(signum: int, frame: Any) -> None:
    """A Python handler has to exist for the wake-up descriptor to be written."""
