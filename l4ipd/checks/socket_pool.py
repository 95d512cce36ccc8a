"""Sockets for probes over tcp, which Linux lets us use again.

To make a socket, watch it and free it is a third of a tcp probe (10 us of 28; 6 of 43 for http). Linux can dissolve
a connection instead (connect(2), AF_UNSPEC), and the socket, watched as it was, can be connected again. What the
member gets is what it gets from close(2):

- A connection that is to end with a RST is dissolved at once, which sends it: close(2) with SO_LINGER 0 does the same.
- Where the member's FIN has come, ours is sent, and the socket waits until it is needed again, the oldest first. By
  then the member's acknowledgement has come, and nothing is left to dissolve; if the network is slower than that, the
  member gets a RST for it, when its side of the connection is over.

Any other connection is closed, and on other systems each of them. No member has a link-local address (which a rule
could not name): a socket that was connected to one stays bound to its interface.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections import deque
from collections.abc import Callable

from l4ipd.checks.certificates import Certificates
from l4ipd.checks.recipe import KINDS
from l4ipd.runtime.loop import ENDED, WRITE, Loop

SPARE = 128                                         # sockets that wait at most, of each kind
NONBLOCK: int = getattr(socket, "SOCK_NONBLOCK", 0)     # 0: this system cannot make a socket non-blocking at creation
KIND = socket.SOCK_STREAM | NONBLOCK | getattr(socket, "SOCK_CLOEXEC", 0)
FAMILIES = (socket.AF_INET, socket.AF_INET6)
TCP, SOCKET, LINGER, OUR_SIDE = socket.IPPROTO_TCP, socket.SOL_SOCKET, socket.SO_LINGER, socket.SHUT_WR
DEFER: int | None = getattr(socket, "TCP_DEFER_ACCEPT", None)   # net/ipv4/tcp_input.c: "Save one ACK"
#: Linux keeps most errors of a datagram socket to itself unless it is asked: IP_RECVERR, IPV6_RECVERR (ip(7), ipv6(7))
TELL_ERRORS = ((socket.IPPROTO_IP, 11), (socket.IPPROTO_IPV6, 25)) if sys.platform.startswith("linux") else ()
#: Linux is told that connect may choose the port, and not bind, which knows of no peer: IP_BIND_ADDRESS_NO_PORT (ip(7))
NO_PORT = 24 if sys.platform.startswith("linux") else None
RESET = struct.pack("ii", 1, 0)                     # linger for 0 s: close with a RST
NOWHERE, SIZE = bytes(16), 16                       # a sockaddr of the family AF_UNSPEC, which is 0
Socket = socket.SocketType                          # the C type: half the price of socket.socket


def _c_connect() -> Callable[[int, bytes, int], int] | None:
    """The C library's own, since Python's knows no AF_UNSPEC. None where that does not dissolve a connection."""
    if not sys.platform.startswith("linux"):
        return None
    try:
        import ctypes
        library = ctypes.PyDLL(None)                # keeps the interpreter: a call that does not wait
        function: Callable[[int, bytes, int], int] = library.connect
    except (ImportError, OSError, AttributeError):
        return None
    return function


CONNECT = _c_connect()
LISTS = 2 * len(KINDS) if CONNECT is not None else 0     # of sockets that wait, each with at most SPARE of them


def met_itself(sock: Socket) -> bool | None:
    """Whether a connection is one to itself (RFC 9293, 3.5: simultaneous open): where nobody listens on a port of ours,
    the system may choose that very port for our end. None: the two ends have different addresses.
    """
    try:
        ours, theirs = sock.getsockname(), sock.getpeername()
    except OSError:                                 # it is over already, which somebody else must have ended
        return False
    return ours[1] == theirs[1] if ours[0] == theirs[0] else None


def bind(sock: Socket, source: str) -> None:
    """Let a socket have this address of ours. Raises OSError, and the socket is closed."""
    try:
        if NO_PORT is not None:
            sock.setsockopt(socket.IPPROTO_IP, NO_PORT, 1)
        sock.bind((source, 0))
    except OSError:
        sock.close()
        raise


class Sockets:
    """Those of one of KINDS.

    Where we speak first, the last ACK of the handshake goes with our first bytes, or our RST. A member that speaks
    first would wait for it: 200 ms on Linux, which alone can be told so. At most ``spare`` wait, dissolved or ended.
    """

    def __init__(self, loop: Loop, inet6: bool, listens: bool, spare: int | None = None,
                 certificates: Certificates | None = None, source: str | None = None) -> None:
        self.loop = loop
        self.certificates = certificates or Certificates()      # that were shown in these connections
        self._family, self._defer = FAMILIES[inet6], None if listens else DEFER
        self._source = source                       # what is bound to it is not used again
        self._most = (SPARE if spare is None else spare) if CONNECT is not None and source is None else 0
        self._connect = CONNECT or (lambda fd, address, size: -1)
        self._dissolved: list[Socket] = []
        self._ended: deque[Socket] = deque()        # by both sides
        self.elsewhere: dict[str, None] = {}        # addresses that are none of ours, so far as we know

    def take(self) -> Socket:
        """A socket to be connected, which does not block. Raises OSError if there is none to be had, or not with our
        address ``source``.
        """
        if self._dissolved:
            return self._dissolved.pop()
        while self._ended:
            sock = self._ended.popleft()
            if self._connect(sock.fileno(), NOWHERE, SIZE) == 0:
                return sock
            self._discard(sock)
        sock = Socket(self._family, KIND)
        if not NONBLOCK:
            sock.setblocking(False)
        if self._defer is not None:
            sock.setsockopt(TCP, self._defer, 1)
        if self._source is not None:
            bind(sock, self._source)
        return sock

    def end(self, sock: Socket, fd: int, reset: bool, events: int = 0) -> None:
        """End a connection, with a RST or politely. ``events`` are those of the loop, if they are about this one."""
        try:
            if reset:
                if events == WRITE and len(self._dissolved) < self._most and (
                        self._connect(fd, NOWHERE, SIZE) == 0):
                    self.loop.keep(fd)
                    self._dissolved.append(sock)
                    return
                sock.setsockopt(SOCKET, LINGER, RESET)
            elif events == ENDED and len(self._ended) < self._most:
                sock.shutdown(OUR_SIDE)
                self.loop.keep(fd)
                self._ended.append(sock)
                return
        except OSError:
            pass                                    # it is gone, then
        self.loop.closing(fd)
        sock.close()

    def close(self) -> None:
        """Give back those that wait."""
        for sock in (*self._dissolved, *self._ended):
            self._discard(sock)
        self._dissolved.clear()
        self._ended.clear()

    def _discard(self, sock: Socket) -> None:
        self.loop.closing(sock.fileno())
        sock.close()
