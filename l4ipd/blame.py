"""Whose fault is it? System errors turned into verdicts: about the member, or LOCAL, which says nothing about it."""

from __future__ import annotations

import errno

from l4ipd.health import Verdict, local

NO_ROUTE = Verdict("L4CON", "no route to the member")       # the way of a probe is the way of the clients: it counts
WORDS = {
    "ECONNREFUSED": "connection refused",
    "ECONNRESET": "connection reset",
    "ECONNABORTED": "connection aborted",
    "EPIPE": "connection closed by the member",
    "ETIMEDOUT": "connection timed out",
    "EHOSTUNREACH": NO_ROUTE.text,
    "EHOSTDOWN": NO_ROUTE.text,
    "ENETUNREACH": NO_ROUTE.text,
    "ENETDOWN": NO_ROUTE.text,
    "ENONET": NO_ROUTE.text,
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
#: no way to the member, at once or later; ENONET is what Linux makes of an ICMP "host isolated"
ROUTELESS = frozenset(getattr(errno, name) for name, text in WORDS.items()
                      if text == NO_ROUTE.text and hasattr(errno, name))
#: what the network reports about a member, even while we are still in connect(2)
MEMBERS = ROUTELESS | {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT}
#: what is our own trouble, whenever it comes: short of something, not allowed to, or a call that should not have been
OURS = frozenset({
    errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSPC, errno.EADDRNOTAVAIL, errno.EADDRINUSE,
    errno.EAGAIN, errno.EPERM, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EBADF, errno.ENOTSOCK, errno.EFAULT,
    errno.EALREADY, errno.EISCONN})


def words(error: int) -> str:
    """``connection refused`` and the like."""
    name = errno.errorcode.get(error, "")
    return WORDS.get(name) or f"system error {name or error}"


def at_once(error: int, what: str) -> Verdict:
    """The verdict when a system call fails at once: ours, unless it plainly speaks of the member."""
    if error not in MEMBERS:
        return local(f"{what}: {words(error)}")
    return _members(error, "L4CON")


def later(error: int) -> Verdict:
    """The verdict when a connection attempt fails in the end: the member's, unless it plainly is our own trouble."""
    if error in OURS:
        return local(f"connect: {words(error)}")
    return _members(error, "L4CON")


def broken(error: int, code: str, sending: bool = False) -> Verdict:
    """The verdict, with ``code``, when an established connection fails; ``sending`` is what we were about.

    A filter of this machine lets a send fail with EACCES (FreeBSD), as it does a connect.
    """
    if error in OURS or (sending and error == errno.EACCES):
        return local(f"connection: {words(error)}")
    return _members(error, code)


def _members(error: int, code: str) -> Verdict:
    """EACCES is how an ICMPv6 "administratively prohibited" from the way to the member arrives (RFC 4443, 3.1)."""
    if error in ROUTELESS:
        return NO_ROUTE
    if error == errno.EACCES:
        return Verdict(code, "forbidden by a filter on the way")
    return Verdict("L4TOUT" if error == errno.ETIMEDOUT and code == "L4CON" else code, words(error))


def forbids(error: int) -> bool:
    """Whether the error says that we lack a privilege. Without one, Linux denies that ICMP datagrams exist at all."""
    return error in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT)
