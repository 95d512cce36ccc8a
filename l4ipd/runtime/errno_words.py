"""System errors in words, and which of them say that this machine, or this process, is short of something."""

from __future__ import annotations

import errno

NO_ROUTE = "no route to the member"                 # the way of a probe is the way of the clients
WORDS = {
    "ECONNREFUSED": "connection refused",
    "ECONNRESET": "connection reset",
    "ECONNABORTED": "connection aborted",
    "EPIPE": "connection closed by the member",
    "ETIMEDOUT": "connection timed out",
    "EHOSTUNREACH": NO_ROUTE,
    "EHOSTDOWN": NO_ROUTE,
    "ENETUNREACH": NO_ROUTE,
    "ENETDOWN": NO_ROUTE,
    "ENONET": NO_ROUTE,
    "EMFILE": "too many open files: raise the limit of this process",
    "ENFILE": "too many open files in the system",
    "ENOBUFS": "no buffer space left",
    "ENOMEM": "out of memory",
    "ENOSPC": "no room to watch another descriptor: raise fs.epoll.max_user_watches",
    "EADDRNOTAVAIL": "no local address or port left",
    "EADDRINUSE": "no local port left",
    "EPERM": "not permitted: does a filter rule of this machine forbid it?",
    "EACCES": "forbidden: does a filter rule of this machine forbid it?",
    "EAGAIN": "no local port or other resource left",
    "EAFNOSUPPORT": "this machine does not speak that family of addresses",
    "EMSGSIZE": "message too long",
    "ENOPROTOOPT": "protocol unreachable",
    "EPROTO": "protocol error",
}
#: what is our own trouble, whenever it comes: short of something, not allowed to, or a call that should not have been
OURS = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EADDRNOTAVAIL, errno.EADDRINUSE,
    errno.EAGAIN, errno.EPERM, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EBADF, errno.ENOTSOCK, errno.EFAULT,
    errno.EALREADY, errno.EISCONN})


def words(error: int) -> str:
    """``connection refused`` and the like."""
    name = errno.errorcode.get(error, "")
    return WORDS.get(name) or f"system error {name or error}"
