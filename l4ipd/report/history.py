"""What has happened lately: the last events with their time, and how many there were of each kind since the start."""

from __future__ import annotations

import time
from collections import Counter, deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from l4ipd.events import Event

KEPT = 100


class Happening(NamedTuple):
    when: float                                     # seconds since the epoch
    event: Event


class History:
    """A listener of the daemon."""

    def __init__(self) -> None:
        self.latest: deque[Happening] = deque(maxlen=KEPT)
        self.counts: Counter[str] = Counter()       # by kind

    def heard(self, event: Event) -> None:
        self.latest.append(Happening(time.time(), event))
        self.counts[event.kind] += 1
