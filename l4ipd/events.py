"""What has happened, and who is told of it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple


class Event(NamedTuple):
    """Something that has happened. ``name`` is an endpoint, a service, a cluster, or empty."""

    kind: str                                       # up down draining held disabled enabled all-down repaired reloaded
                                                    # reload-failed sensing-lost sensing-back blind sighted
                                                    # table-full table-free
                                                    # ready unready
    name: str
    text: str
    level: int = logging.INFO


Listener = Callable[[Event], object]
log = logging.getLogger("l4ipd")


class Events:
    """Tells every listener; the log is the first.

    ``shield(words, listener, event)`` calls a listener and survives it: whatever one makes of an event, the others hear
    of it.
    """

    def __init__(self, shield: Callable[[str, Listener, Event], object]) -> None:
        self._shield = shield
        self.listeners: list[Listener] = [_write_log]

    def listen(self, listener: Listener) -> None:
        self.listeners.append(listener)

    def leave(self, listener: Listener) -> None:
        """Tell it no more."""
        self.listeners.remove(listener)

    def tell(self, event: Event) -> None:
        for listener in list(self.listeners):
            self._shield(f"{listener.__qualname__} may not know of: {event.text}", listener, event)

    def say(self, kind: str, text: str, level: int = logging.INFO) -> None:
        """Tell of something that is about the gateway as a whole."""
        self.tell(Event(kind, "", text, level))


def _write_log(event: Event) -> None:
    log.log(event.level, "%s", event.text)
