"""kqueue(2) where there is none: its rules on top of poll(2), for real descriptors.

The rules, from FreeBSD's manual and sys/kern/kern_event.c: a filter belongs to what is open, not to its number, and
goes when that is closed; to add one again changes none of its flags; to take off what is not there is ENOENT, and to
add to what is not open EBADF; such errors come back as events, and then nothing is waited for; EV_ONESHOT is taken off
when it is reported.
"""

from __future__ import annotations

import errno
import os
import select
from collections.abc import Iterable
from typing import NamedTuple

KQ_FILTER_READ, KQ_FILTER_WRITE = -1, -2
KQ_EV_ADD, KQ_EV_DELETE, KQ_EV_ONESHOT, KQ_EV_ERROR = 1, 2, 0x10, 0x4000
POLLED = {KQ_FILTER_READ: select.POLLIN, KQ_FILTER_WRITE: select.POLLOUT}
BROKEN = select.POLLERR | select.POLLHUP
Filter = tuple[int, int]                            # descriptor and kind


class kevent(NamedTuple):
    ident: int
    filter: int
    flags: int
    data: int = 0


class kqueue:
    def __init__(self) -> None:
        self.calls = 0
        self.fails: dict[int, int] = {}             # descriptors that cannot be watched, and the errno of it
        self._filters: dict[Filter, tuple[object, int]] = {}        # of what, and its flags

    def control(self, changes: Iterable[kevent] | None, most: int, timeout: float | None = None) -> list[kevent]:
        self.calls += 1
        results = [(each, self._apply(each)) for each in changes or ()]
        errors = [each._replace(flags=KQ_EV_ERROR, data=error) for each, error in results if error]
        if errors:
            assert len(errors) <= most
            return errors
        return self._wait(most, timeout)

    def _apply(self, change: kevent) -> int:
        self._forget_closed()
        key, what = (change.ident, change.filter), opened(change.ident)
        if change.flags & KQ_EV_DELETE:
            return errno.ENOENT if self._filters.pop(key, None) is None else 0
        if what is None:
            return errno.EBADF
        if change.ident in self.fails:
            return self.fails[change.ident]
        self._filters.setdefault(key, (what, change.flags))
        return 0

    def _forget_closed(self) -> None:
        self._filters = {key: each for key, each in self._filters.items() if opened(key[0]) == each[0]}

    def _wait(self, most: int, timeout: float | None) -> list[kevent]:
        self._forget_closed()
        poll = select.poll()
        masks: dict[int, int] = {}
        for fd, kind in self._filters:
            masks[fd] = masks.get(fd, 0) | POLLED[kind]
        for fd, mask in masks.items():
            poll.register(fd, mask)
        ready = dict(poll.poll(None if timeout is None else max(0, round(timeout * 1000 + 0.5))))
        events = [kevent(fd, kind, flags) for (fd, kind), (_, flags) in self._filters.items()
                  if ready.get(fd, 0) & (POLLED[kind] | BROKEN)][:most]
        for event in events:
            if event.flags & KQ_EV_ONESHOT:
                del self._filters[event.ident, event.filter]
        return events

    @property
    def watched(self) -> set[Filter]:
        """What it has at present."""
        self._forget_closed()
        return set(self._filters)

    def close(self) -> None: ...


def opened(fd: int) -> object:
    """What is open under this number; None: nothing."""
    try:
        status = os.fstat(fd)
    except OSError:
        return None
    return status.st_dev, status.st_ino
