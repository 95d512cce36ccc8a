"""When the next probe is to be. Pure.

Probes come on a phase of their own, taken from a hash of the name: the load is even, and the same after a restart.
Phases are multiples of a step, so that some probes begin together, and one wake-up serves them all.
"""

from __future__ import annotations

import math
import zlib

from l4ipd.runtime.loop import RATE

MOMENTS = 10                                        # of a period, at least, to which probes keep
SPREAD = 1.0                                        # seconds over which the first probes are spread


def phase(name: str) -> float:
    """Where in a period the probes of this name are, from 0 to 1."""
    return zlib.crc32(name.encode()) / 2**32


def first(name: str, pace: float) -> float:
    """Seconds until the first probe."""
    return phase(name) * min(SPREAD, pace)


def on_phase(name: str, start: float, pace: float, step: float) -> float:
    """The next time after ``start`` that is on its phase: the very same number for all of a bunch."""
    offset = phase(name) * pace
    offset -= offset % min(step, pace / MOMENTS)
    offset += 0.5 / RATE                            # the middle of a tick
    return offset + (math.floor((start - offset) / pace + 0.001) + 1) * pace
