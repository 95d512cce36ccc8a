"""How a loop asks the kernel: what serves one operating system alone is here and in the sockets of probes."""

from __future__ import annotations

import errno
import select
import selectors
from collections.abc import Callable
from typing import Any, Protocol

READ, WRITE = 1, 4              # Linux calls them EPOLLIN and EPOLLOUT
ENDED = READ | WRITE | 0x2000   # EPOLLRDHUP: the other side has ended, too
ONCE = 1 << 16                  # ours: report it only once
MOST = 1024                     # events that are taken at a time
BSD: Any = select               # type checkers elsewhere do not know its kqueue


class Poller(Protocol):
    """What the loop needs of the kernel.

    ``poll`` returns the descriptors that are ready, each with what is known of it: READ, WRITE and whatever else the
    system has to say, or 0; or -errno if it cannot be watched. With a timeout of None it waits for ever. A descriptor
    that is registered for ``CONNECT`` is reported when it becomes writable; a poller that says what is known reports
    from then on when something arrives, too.
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
    """FreeBSD, NetBSD, macOS.

    Reading and writing are two filters. Changes of them are gathered, and handed over with the wait, in one system
    call: ``_wanted`` has the filters that are to be on, ``_known`` those that the kernel has. A descriptor that is
    closed takes its filters with it (kqueue(2)), and what was to be changed: its number may be another one's by then.
    A change that fails comes back as an event.
    """

    CONNECT = WRITE | ONCE                          # EV_ONESHOT: it need not be taken off again

    def __init__(self, bsd: Any = BSD) -> None:
        self._bsd = bsd
        self._kqueue = self._bsd.kqueue()
        self._wanted: dict[int, int] = {}
        self._known: dict[int, int] = {}
        self._changed: dict[int, None] = {}
        self.close = self._kqueue.close

    def register(self, fd: int, events: int) -> None:
        self._wanted[fd] = events
        self._changed[fd] = None

    modify = register

    def unregister(self, fd: int) -> None:
        self.register(fd, 0)

    def closing(self, fd: int) -> None:
        self._wanted.pop(fd, None)
        self._known.pop(fd, None)
        self._changed.pop(fd, None)

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        found: dict[int, int] = {}
        for event in self._kqueue.control(self._changes(), MOST, timeout):
            fd = event.ident
            if event.flags & self._bsd.KQ_EV_ERROR:
                if event.data != errno.ENOENT:      # what was to be taken off is gone: as it should be
                    found[fd] = -event.data
            else:
                found.setdefault(fd, 0)
                if self._known.get(fd, 0) & ONCE:
                    self._wanted[fd] = self._known[fd] = 0
        return list(found.items())

    def _changes(self) -> list[Any]:
        changes: list[Any] = []
        for fd in self._changed:
            wanted = self._wanted[fd]
            known, self._known[fd] = self._known.get(fd, 0), wanted
            for bit, kind in ((READ, self._bsd.KQ_FILTER_READ), (WRITE, self._bsd.KQ_FILTER_WRITE)):
                changes += (self._bsd.kevent(fd, kind, flags) for flags in self._flags(known, wanted, bit))
            if not wanted:
                del self._wanted[fd], self._known[fd]
        self._changed.clear()
        return changes

    def _flags(self, known: int, wanted: int, bit: int) -> list[int]:
        """What makes of the filter that the kernel has the one that is wanted. Its flags cannot be changed."""
        had, has = known & (bit | ONCE) if known & bit else 0, wanted & (bit | ONCE) if wanted & bit else 0
        if had == has:
            return []
        add = self._bsd.KQ_EV_ADD | (self._bsd.KQ_EV_ONESHOT if has & ONCE else 0)
        return ([self._bsd.KQ_EV_DELETE] if had else []) + ([add] if has else [])


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
