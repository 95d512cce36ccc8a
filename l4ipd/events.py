"""What people and programs may want to hear of."""

from __future__ import annotations

import logging
from typing import NamedTuple


class Event(NamedTuple):
    """Something that has happened. ``name`` is an endpoint, a service, or empty."""

    kind: str                                       # up down disabled enabled all-down repaired reloaded
                                                    # reload-failed sensing-lost sensing-back blind sighted
    name: str
    text: str
    level: int = logging.INFO
