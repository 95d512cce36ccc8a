"""How a loop asks the kernel: what serves one operating system alone is here and in the sockets of probes."""

from __future__ import annotations

import select
import selectors
from collections.abc import Callable
from typing import Any, Protocol

READ, WRITE = 1, 4              # Linux calls them EPOLLIN and EPOLLOUT
ENDED = READ | WRITE | 0x2000   # EPOLLRDHUP: the other side has ended, too
BSD: Any = select               # type checkers elsewhere do not know its kqueue


class Poller(Protocol):
    """What the loop needs of the kernel.

    ``poll`` returns the descriptors that are ready, each with what is known of it: READ, WRITE and whatever else the
    system has to say, or 0; with a timeout of None it waits for ever. A descriptor that is registered for ``CONNECT``
    is reported when it becomes writable; a poller that says what is known reports from then on when something arrives,
    too.
    """

    CONNECT: int

    @property
    def closing(self) -> Callable[[int], None] | None:
        """To be told of descriptors that are closed next; None if the kernel forgets them by itself."""

    def register(self, fd: int, events: int) -> None: ...
    def modify(self, fd: int, events: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def poll(self, timeout: float | None) -> list[tuple[int, int]]: ...
    def close(self) -> None: ...


class Epoll:
    """Linux."""

    CONNECT = ENDED | (1 << 31)                     # EPOLLET: each change once
    closing = None                                  # unless the descriptor was duplicated (epoll(7), Q6)

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.poll = self._epoll.poll
        self.register = self._epoll.register
        self.modify = self._epoll.modify
        self.unregister = self._epoll.unregister
        self.close = self._epoll.close


class Kqueue:
    """FreeBSD, NetBSD, macOS. Reading and writing are two filters; ``_events`` remembers which are on."""

    CONNECT = WRITE

    def __init__(self) -> None:
        self._kqueue = BSD.kqueue()
        self._events: dict[int, int] = {}
        self.close = self._kqueue.close

    def register(self, fd: int, events: int) -> None:
        self._change(fd, 0, events)

    def modify(self, fd: int, events: int) -> None:
        self._change(fd, self._events.get(fd, 0), events)

    def unregister(self, fd: int) -> None:
        self._change(fd, self._events.get(fd, 0), 0)
        self._events.pop(fd, None)

    def closing(self, fd: int) -> None:
        """Closing a descriptor removes its filters (kqueue(2))."""
        self._events.pop(fd, None)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        return list(dict.fromkeys((event.ident, 0) for event in self._kqueue.control(None, 1024, timeout)))

    def _change(self, fd: int, old: int, new: int) -> None:
        changes = [BSD.kevent(fd, kind, BSD.KQ_EV_ADD if new & bit else BSD.KQ_EV_DELETE)
                   for bit, kind in ((READ, BSD.KQ_FILTER_READ), (WRITE, BSD.KQ_FILTER_WRITE))
                   if (old ^ new) & bit]
        if changes:
            self._kqueue.control(changes, 0)
        self._events[fd] = new


class Portable:
    """Everywhere else (illumos: /dev/poll), through the standard library's selectors."""

    EVENTS = {READ: selectors.EVENT_READ, WRITE: selectors.EVENT_WRITE,
              READ | WRITE: selectors.EVENT_READ | selectors.EVENT_WRITE}
    CONNECT = WRITE

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.close = self._selector.close

    def register(self, fd: int, events: int) -> None:
        self._selector.register(fd, self.EVENTS[events])

    def modify(self, fd: int, events: int) -> None:
        self._selector.modify(fd, self.EVENTS[events])

    def unregister(self, fd: int) -> None:
        self._selector.unregister(fd)

    closing = unregister

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        return [(key.fd, 0) for key, _ in self._selector.select(timeout)]


def best_poller() -> Poller:
    """The fastest that this system has."""
    if hasattr(select, "epoll"):
        return Epoll()
    if hasattr(select, "kqueue"):
        return Kqueue()
    return Portable()
