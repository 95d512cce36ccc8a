"""Who is at the other end of a Unix socket, and how many of them find a place.

Whoever may use the control socket may ask as much as he likes, but not keep others from asking: root, and whoever runs
the daemon, has places that nobody else gets, and no other user has more than half of the rest.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import ctypes

NOBODY_KNOWN = 0xFFFFFFFF                           # (uid_t)-1
LOCAL_PEERCRED = 1                                  # unix(4) on FreeBSD; its level is 0


class Quota(NamedTuple):
    """Of ``most`` places: how many other users than root may have together, and each of them."""

    together: int
    each: int


def quota(most: int) -> Quota:
    """20 places: 16 for the others together, 8 for each."""
    together = max(0, most - max(1, most // 5))
    return Quota(together, max(1, together // 2))


def trusted(user: int | None) -> bool:
    """Whether it is root or we; where the system does not tell, nobody can be told from root."""
    return user in (None, 0, os.geteuid())


def user_of(connection: socket.socket) -> int | None:
    """The effective user of who has connected, as of then; None: this system does not tell."""
    with contextlib.suppress(OSError, struct.error, AttributeError):
        if sys.platform == "linux":                 # unix(7): pid, uid, gid
            return int(struct.unpack("iII", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1])
        if sys.platform.startswith("openbsd"):      # getsockopt(2): uid, gid, pid
            return int(struct.unpack_from("I", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
        if sys.platform.startswith(("freebsd", "dragonfly", "darwin")):     # struct xucred: version, uid, groups
            return int(struct.unpack_from("II", connection.getsockopt(0, LOCAL_PEERCRED, 256))[1])
        return _ask_libc(connection.fileno())
    return None


def _ask_libc(fd: int) -> int | None:
    """getpeereid(3), which NetBSD has, or getpeerucred(3C) of illumos."""
    import ctypes  # 1 MB

    libc = ctypes.CDLL(None)
    if hasattr(libc, "getpeerucred"):
        return _getpeerucred(fd, libc)
    user, group = ctypes.c_uint32(), ctypes.c_uint32()
    failed = libc.getpeereid(fd, ctypes.byref(user), ctypes.byref(group))
    return None if failed else user.value


def _getpeerucred(fd: int, libc: ctypes.CDLL) -> int | None:
    import ctypes

    libc.ucred_geteuid.argtypes = libc.ucred_free.argtypes = [ctypes.c_void_p]
    libc.ucred_geteuid.restype = ctypes.c_uint32
    found = ctypes.c_void_p()                       # NULL: allocate one
    if libc.getpeerucred(fd, ctypes.byref(found)):
        return None
    user = int(libc.ucred_geteuid(found))
    libc.ucred_free(found)
    return None if user == NOBODY_KNOWN else user
