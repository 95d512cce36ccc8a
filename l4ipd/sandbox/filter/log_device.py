"""The log device: records wait here until an ipmon reads them, each for one reader only (FACTS.md 2e).

While nobody reads, a record like the one before it is not stored again but counted; when the buffer is full, records
are lost, which leaves a gap in their numbers.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from l4ipd.sandbox.filter.rule import Packet
from l4ipd.sandbox.filter.table import Logged

CAPACITY = 195
RECORD_SIZE = 168                       # bytes of one, as `ipmon -F` counts them


@dataclass(slots=True)
class Record:
    """One logged packet. ``inner`` is the packet that an ICMP error quotes."""

    packet: Packet
    logged: Logged
    interface: str
    sequence: int = 0
    acknowledged: int = 0
    window: int = 0
    translated: bool = False
    inner: Packet | None = None
    number: int = 0
    time: float = 0.0
    count: int = 1

    def like(self, other: Record) -> bool:
        return self._what == other._what

    @property
    def _what(self) -> tuple[object, ...]:
        """All but when it came."""
        return (self.packet, self.logged.action, self.logged.group, self.logged.number, self.logged.rule.log_tag,
                self.interface, self.sequence, self.acknowledged, self.window, self.translated, self.inner)


@dataclass(slots=True)
class LogDevice:
    """``wall`` gives the time of day."""

    wall: Callable[[], float] = time.time
    records: deque[Record] = field(default_factory=deque)
    number: int = 0                     # of the last record, stored or lost
    failures: int = 0
    _waiting: deque[Callable[[], bool]] = field(default_factory=deque)

    def append(self, record: Record) -> None:
        """Store a record, and wake one of those who wait for it."""
        if self.records and self.records[-1].like(record):
            self.records[-1].count += 1
            return
        self.number += 1
        if len(self.records) >= CAPACITY:
            self.failures += 1
            return
        record.number, record.time = self.number, self.wall()
        self.records.append(record)
        while self._waiting and self.records:
            self._waiting.popleft()()

    def take(self) -> list[Record]:
        """All records that wait: they are gone for everybody else."""
        taken = list(self.records)
        self.records.clear()
        return taken

    def wait(self, wake: Callable[[], bool]) -> None:
        """Call ``wake`` once, when there is something to take; it returns False when nobody is there any more."""
        self._waiting.append(wake)

    def flush(self) -> int:
        """Throw the records away; returns their size."""
        return RECORD_SIZE * len(self.take())
