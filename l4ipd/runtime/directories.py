"""Directories that are missing, with the rights that they are to have, whatever the umask is."""

from __future__ import annotations

import errno
import os

ABOVE = 0o755                                       # of those on the way


def make(path: str, mode: int) -> None:
    """Make the directory ``path`` with ``mode``, and those above it, as far as they are missing. Raises OSError.

    Others may be at work in the directory above: a link in place of what we have made is not followed.
    """
    if not path or os.path.isdir(path):
        return
    make(os.path.dirname(path), ABOVE)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if os.path.isdir(path):                     # somebody else was quicker
            return
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path) from None
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, mode)
    finally:
        os.close(fd)
