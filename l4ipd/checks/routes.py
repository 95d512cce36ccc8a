"""Does the routing table know a way to a member? The way of a probe is the way of the clients.

A udp socket is connected, which looks the way up and sends nothing. FreeBSD's connect takes it for granted that a
network of ours is there (in_pcbladdr, ifa_ifwithnet) even when its interface has no carrier; there, once a probe has
found no way, an empty datagram to the discard port (RFC 863) has to tell.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterable

from l4ipd.checks import errors
from l4ipd.checks.verdict import Verdict

DISCARD = 9                                         # the port; also of what is only connected
CONNECT_TELLS = sys.platform.startswith("linux")
#: what a tcp connect or a send may be told by Linux's routes "prohibit" and "blackhole", but by a filter or so as well
UNCLEAR = frozenset({errno.EACCES, errno.EINVAL})


def leads_to(address: str, send: bool = False) -> bool:
    """Whether there is a way, as far as we can tell. With ``send``, a datagram is sent where nothing less tells."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setblocking(False)
            if asking.connect_ex((address, DISCARD)) in errors.ROUTELESS | UNCLEAR:
                return False
            if send and not CONNECT_TELLS:
                asking.send(b"")
    except OSError as error:                        # no descriptor, no such family, a filter: that says nothing
        return error.errno not in errors.ROUTELESS - {errno.EHOSTDOWN}   # which is about a neighbour, not about the way
    return True


def first(addresses: Iterable[str], send: bool = False) -> str | None:
    """The first of them that there is a way to."""
    return next((address for address in addresses if leads_to(address, send)), None)


def at_once(error: int, what: str, address: str) -> Verdict:
    """The verdict when a system call of a probe fails at once: :func:`blame.at_once`, once it is clear who speaks."""
    if error in UNCLEAR and not leads_to(address):
        return errors.NO_ROUTE
    return errors.at_once(error, what)
