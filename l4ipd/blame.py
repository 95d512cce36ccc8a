"""Whose fault is it? System errors turned into verdicts: about the member, or LOCAL, which says nothing about it."""

from __future__ import annotations

import errno

from l4ipd.health import Verdict, local

WORDS = {
    "ECONNREFUSED": "connection refused",
    "ECONNRESET": "connection reset",
    "ECONNABORTED": "connection aborted",
    "EPIPE": "connection closed by the member",
    "ETIMEDOUT": "connection timed out",
    "EHOSTUNREACH": "no route to host",
    "EHOSTDOWN": "host is down",
    "ENETUNREACH": "network unreachable",
    "ENETDOWN": "network is down",
    "EMFILE": "too many open files: raise the limit of this process",
    "ENFILE": "too many open files in the system",
    "ENOBUFS": "no buffer space left",
    "ENOMEM": "out of memory",
    "EADDRNOTAVAIL": "no local address or port left",
    "EPERM": "not permitted: does a filter rule of this machine forbid it?",
    "EACCES": "forbidden: does a filter rule of this machine forbid it?",
    "EAGAIN": "no local port or other resource left",
    "EAFNOSUPPORT": "this machine does not speak that family of addresses",
    "EMSGSIZE": "message too long",
}
#: what the network reports about a member, even while we are still in connect(2)
MEMBERS = {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT, errno.EHOSTUNREACH,
           getattr(errno, "EHOSTDOWN", errno.EHOSTUNREACH)}
#: what is our own trouble, whenever it comes
OURS = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.EPERM, errno.EAGAIN,
        errno.ENETDOWN}


def words(error: int) -> str:
    """``connection refused`` and the like."""
    name = errno.errorcode.get(error, "")
    return WORDS.get(name) or f"system error {name or error}"


def at_once(error: int, what: str) -> Verdict:
    """The verdict when a system call fails at once: ours, unless it plainly speaks of the member."""
    if error not in MEMBERS:
        return local(f"{what}: {words(error)}")
    return Verdict("L4TOUT" if error == errno.ETIMEDOUT else "L4CON", words(error))


def later(error: int) -> Verdict:
    """The verdict when a connection attempt fails in the end: the member's, unless it plainly is our own trouble.

    EACCES is how an ICMPv6 "administratively prohibited" from the way to the member arrives (RFC 4443, 3.1).
    """
    if error in OURS:
        return local(f"connect: {words(error)}")
    if error == errno.EACCES:
        return Verdict("L4CON", "forbidden by a filter on the way")
    return Verdict("L4TOUT" if error == errno.ETIMEDOUT else "L4CON", words(error))


def broken(error: int, code: str) -> Verdict:
    """The verdict, with ``code``, when an established connection fails."""
    if error in OURS:
        return local(f"connection: {words(error)}")
    return Verdict(code, words(error))


def forbids(error: int) -> bool:
    """Whether the error says that we lack a privilege. Without one, Linux denies that ICMP datagrams exist at all."""
    return error in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT)
