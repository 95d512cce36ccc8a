"""Internal errors: exceptions that nobody expected. Each costs the line, the connection or the probe at hand, no more.

They are counted, for /metrics and for whoever asks how we are. The log has the first traceback of every kind, which is
the exception's name and the place in our source where it was raised; of its like only when they are 10, 100, 1000 …
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType

INTERNAL = "internal error: see the log"            # for those who were to get what it has cost
HOUR = 60                                           # minutes
HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
log = logging.getLogger("l4ipd.loop")


class InternalErrors:
    """How many there were, and of which kinds. ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.total = 0
        self.last = ""                              # the kind of the last one: ``ValueError in resets.py:410``
        self._kinds: Counter[str] = Counter()
        self._minutes: dict[int, int] = {}          # of the last hour -> how many

    def note(self, lost: str) -> None:
        """To be called while an exception is handled. ``lost`` says what it costs: ``a line of ipmon is dropped``."""
        self.total += 1
        minute = int(self._clock() // 60)
        self._minutes[minute] = self._minutes.get(minute, 0) + 1
        self._forget(minute)
        self.last = kind = _kind()
        self._kinds[kind] = times = self._kinds[kind] + 1
        if times == 1:
            log.exception("internal error: please report this: %s", lost)
        elif times == 10 ** (len(str(times)) - 1):
            log.error("internal error: please report this: %s, the %dth time: %s", kind, times, lost)

    def shield(self, lost: str, call: Callable[..., object], *arguments: object) -> bool:
        """Call it, and note what it raises. True if it came to its end."""
        try:
            call(*arguments)
        except Exception:
            self.note(lost)
            return False
        return True

    def each(self, lost: str, take: Callable[[bytes], object], lines: Iterable[bytes]) -> bool:
        """Hand out ``lines``, until ``take`` says of one that it was enough: then True. One that it cannot bear is left
        out, and ``lost`` says so.
        """
        for line in lines:
            try:
                if take(line):
                    return True
            except Exception:
                self.note(lost)
        return False

    def recent(self) -> int:
        """How many there were in the last hour, to the minute."""
        self._forget(int(self._clock() // 60))
        return sum(self._minutes.values())

    def _forget(self, minute: int) -> None:
        for old in [each for each in self._minutes if each <= minute - HOUR]:
            del self._minutes[old]


def _kind() -> str:
    """Of the exception that is being handled."""
    name, _, trace = sys.exc_info()
    return f"{name.__name__ if name else 'nothing'} in {_place(trace)}"


def _place(trace: TracebackType | None) -> str:
    """The innermost line of ours that a traceback names."""
    place = "nowhere"
    while trace is not None:
        path = trace.tb_frame.f_code.co_filename
        if path.startswith(HERE) or place == "nowhere":
            place = f"{path.removeprefix(HERE)}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
