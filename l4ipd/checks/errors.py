"""Whose fault is it? System errors turned into verdicts: about the member, or LOCAL, which says nothing about it."""

from __future__ import annotations

import errno

from l4ipd.checks.verdict import Verdict, local
from l4ipd.runtime.errno_words import NO_ROUTE as NO_ROUTE_WORDS
from l4ipd.runtime.errno_words import OURS, WORDS, words

NO_ROUTE = Verdict("L4CON", NO_ROUTE_WORDS)       # the way of a probe is the way of the clients: it counts
#: no way to the member, at once or later; ENONET is what Linux makes of an ICMP "host isolated"
ROUTELESS = frozenset(getattr(errno, name) for name, text in WORDS.items()
                      if text == NO_ROUTE_WORDS and hasattr(errno, name))
#: what the network reports about a member, even while we are still in connect(2)
MEMBERS = ROUTELESS | {errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.ETIMEDOUT}


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


def no_socket(error: int, source: str | None) -> Verdict:
    """The verdict when there is no socket to be had, or none with an address of ours."""
    if source is not None and error == errno.EADDRNOTAVAIL:
        return local(f"source: {source} is no address of this gateway at the moment")
    return local(f"socket: {words(error)}")


def forbids(error: int) -> bool:
    """Whether the error says that we lack a privilege. Without one, Linux denies that ICMP datagrams exist at all."""
    return error in (errno.EPERM, errno.EACCES, errno.EPROTONOSUPPORT)
