"""Files that a configuration names are read without waiting: a named pipe would keep its reader for ever.

Nor is anything else replaced by a file: root can rename over /dev/null, and then nobody has it any more.
"""

from __future__ import annotations

import errno
import os
import stat


class Irregular(OSError):
    """It is a pipe, a device, a directory."""

    def __init__(self) -> None:
        super().__init__(errno.EINVAL, "is no regular file")


def read(path: str, limit: int) -> bytes:
    """What is in a regular file; of one that is longer than ``limit``, one byte more than that. Raises OSError."""
    with open(path, "rb", opener=_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise Irregular
        return file.read(limit + 1)


def spare_others(path: str) -> None:
    """Raise OSError if there is something at ``path``, or where it leads, that is no regular file."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(mode):
        raise Irregular


def _at_once(path: str, flags: int) -> int:
    """Open a file, but do not wait for whoever might write it."""
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
