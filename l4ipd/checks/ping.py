"""ICMP echo: one socket for each family of addresses, shared by all probes in flight.

An answer counts when its sequence number is that of a probe in flight, and identifier, sender and the random cookie are
that probe's: nobody who does not see our requests can make one up. "Unreachable" messages count when the packet they
quote is ours. On Linux a datagram socket does without privileges where ``net.ipv4.ping_group_range`` holds our group
(ping(8), icmp(7)); elsewhere, and else, it is a raw socket, which is for root.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import sys
from collections.abc import Callable

from l4ipd.checks import errors, routes
from l4ipd.checks.recipe import Recipe
from l4ipd.checks.socket_pool import FAMILIES, NONBLOCK, TELL_ERRORS, Socket
from l4ipd.checks.verdict import Verdict, local
from l4ipd.runtime.errno_words import words
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import READ, Loop

ECHOED = Verdict("L4OK", "echo answered")
TIMED_OUT = Verdict("L4TOUT", "no answer to the echo request")
COOKIE = 16                                         # bytes
BATCH = 1024                                        # packets read in one go, at most
BUFFER = 1 << 20                                    # bytes of answers that may wait in the kernel
SEQUENCES = 1 << 16
HEADER = struct.Struct("!BBHHH")                    # type, code, checksum, identifier, sequence number
FORBIDDEN = "forbidden by a filter"
#: the codes of "destination unreachable" that mean something else than that there is no way (RFC 792, 1812 and 4443)
OTHERS4 = {2: "protocol unreachable", 3: "port unreachable", 4: "message too long", 5: "source route failed",
           9: FORBIDDEN, 10: FORBIDDEN, 13: FORBIDDEN}
OTHERS6 = {1: FORBIDDEN, 4: "port unreachable", 5: FORBIDDEN, 6: FORBIDDEN}
ERROR_QUEUE: int = getattr(socket, "MSG_ERRQUEUE", 0) if TELL_ERRORS else 0     # where each is, with its request
EXTENDED_ERROR = struct.Struct("=I")                # the errno, with which a struct sock_extended_err begins


class Pinger:
    """The socket of one family, or of one address of ours. Opened for the first probe, and again if it had failed."""

    def __init__(self, loop: Loop, inet6: bool, source: str | None = None) -> None:
        self._loop, self._inet6, self._source = loop, inet6, source
        self._socket: socket.SocketType | None = None
        self._raw = False
        self._flights: dict[int, Ping] = {}
        self._sequence = random.randrange(SEQUENCES)
        self._identifier = random.randrange(1, 1 << 16)

    def launch(self, ping: Ping, address: str) -> Verdict | int:
        """Send a request; its sequence number, or why it was not sent."""
        trouble = self._open()
        if trouble is not None:
            return trouble
        sequence = self._free_sequence()
        if sequence is None:
            return local("65536 echo requests are in flight, which is the limit")
        assert self._socket is not None
        try:
            self._socket.sendto(self._request(sequence, ping.cookie), (address, 0))
        except OSError as error:
            return routes.at_once(error.errno or 0, "echo request", address)
        self._flights[sequence] = ping
        return sequence

    def land(self, sequence: int) -> None:
        self._flights.pop(sequence, None)

    def close(self) -> None:
        if self._socket is not None:
            self._loop.closing(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def raised(self) -> None:
        """Reading has raised: whose answer it was is not known, and the next probe gets another socket."""
        self.close()
        for ping in list(self._flights.values()):
            self._loop.errors.shield("a ping's verdict", ping.finish, local(INTERNAL))

    def _open(self) -> Verdict | None:
        if self._socket is not None:
            return None
        protocol = socket.IPPROTO_ICMPV6 if self._inet6 else socket.IPPROTO_ICMP
        failure = 0
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW):
            try:
                sock = Socket(FAMILIES[self._inet6], kind | NONBLOCK | getattr(socket, "SOCK_CLOEXEC", 0), protocol)
            except OSError as error:
                failure = error.errno or 0
                continue
            sock.setblocking(False)
            self._socket, self._raw = sock, kind == socket.SOCK_RAW
            try:
                self._prepare(sock)
            except OSError as error:
                self._socket = None
                sock.close()
                if self._source is not None:
                    return errors.no_socket(error.errno or 0, self._source)
                return local(f"ICMP socket: {words(error.errno or 0)}")
            return None
        return local(_no_socket(failure))

    def _prepare(self, sock: socket.SocketType) -> None:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        if self._source is not None:
            sock.bind((self._source, 0))
        if ERROR_QUEUE and not self._raw:
            sock.setsockopt(*TELL_ERRORS[self._inet6], 1)
        self._loop.watch(sock.fileno(), READ, self._receive)

    def _free_sequence(self) -> int | None:
        for _ in range(SEQUENCES):
            self._sequence = (self._sequence + 1) % SEQUENCES
            if self._sequence not in self._flights:
                return self._sequence
        return None

    def _request(self, sequence: int, cookie: bytes) -> bytes:
        kind = 128 if self._inet6 else 8
        packet = HEADER.pack(kind, 0, 0, self._identifier, sequence) + cookie
        if self._inet6:                             # the kernel fills the checksum in (RFC 3542, 3.1)
            return packet
        return HEADER.pack(kind, 0, checksum(packet), self._identifier, sequence) + cookie

    # -- answers

    def _receive(self) -> None:
        for _ in range(BATCH):
            if self._socket is None:
                return
            try:
                packet, sender = self._socket.recvfrom(2048)
            except BlockingIOError:
                return
            except OSError:                         # somebody's request failed
                self._take_error()
                continue
            self._take(packet, sender[0])

    def _take(self, packet: bytes, sender: str) -> None:
        if not self._inet6 and packet and packet[0] >> 4 == 4:      # raw sockets show the IP header too
            packet = packet[(packet[0] & 15) * 4:]
        if len(packet) < HEADER.size:
            return
        kind, code, _, identifier, sequence = HEADER.unpack_from(packet)
        if kind == (129 if self._inet6 else 0):
            ping = self._ours(identifier, sequence)
            if ping is not None and packet[HEADER.size:] == ping.cookie and _packed(sender) == ping.address:
                ping.finish(ECHOED)
        elif kind == (1 if self._inet6 else 3):
            self._unreachable(code, packet[HEADER.size:])

    def _take_error(self) -> None:
        """Whose request it was that failed is in the queue of errors, where there is one; else its probe times out."""
        if not ERROR_QUEUE or self._raw or self._socket is None:
            return
        with contextlib.suppress(OSError):          # none there
            request, details, _, target = self._socket.recvmsg(2048, 512, ERROR_QUEUE)
            error = next((EXTENDED_ERROR.unpack_from(data)[0] for level, kind, data in details
                          if (level, kind) == TELL_ERRORS[self._inet6]), 0)
            if error and len(request) >= HEADER.size:
                ping = self._flights.get(HEADER.unpack_from(request)[4])
                if ping is not None and request[HEADER.size:] == ping.cookie and _packed(target[0]) == ping.address:
                    ping.finish(errors.later(error))

    def _unreachable(self, code: int, quoted: bytes) -> None:
        """``quoted`` is the beginning of the packet that did not arrive."""
        if self._inet6:
            protocol, target, inner = quoted[6:7], quoted[24:40], quoted[40:]
        else:
            protocol, target, inner = quoted[9:10], quoted[16:20], quoted[(quoted[0] & 15) * 4 if quoted else 0:]
        if protocol != (b"\x3a" if self._inet6 else b"\x01") or len(inner) < HEADER.size:
            return
        kind, _, _, identifier, sequence = HEADER.unpack_from(inner)
        ping = self._ours(identifier, sequence)
        if ping is None or kind != (128 if self._inet6 else 8) or target != ping.address:
            return
        rest = inner[HEADER.size:][:COOKIE]         # routers need not quote that much
        if ping.cookie.startswith(rest):
            other = (OTHERS6 if self._inet6 else OTHERS4).get(code)
            ping.finish(errors.NO_ROUTE if other is None else Verdict("L4CON", other))

    def _ours(self, identifier: int, sequence: int) -> Ping | None:
        if self._raw and identifier != self._identifier:    # else the kernel has set it, and has looked
            return None
        return self._flights.get(sequence)


class Ping:
    """One echo request in flight."""

    __slots__ = ("_pinger", "_done", "_sequence", "cookie", "address")

    def __init__(self, pinger: Pinger, recipe: Recipe, done: Callable[[Verdict], object]) -> None:
        self._pinger, self._done = pinger, done
        self._sequence = -1
        self.cookie = os.urandom(COOKIE)
        self.address = _packed(recipe.address)
        outcome = pinger.launch(self, recipe.address)
        if isinstance(outcome, Verdict):
            done(outcome)
        else:
            self._sequence = outcome

    def expire(self) -> None:
        self.finish(TIMED_OUT)

    def cancel(self) -> None:
        if self._sequence >= 0:
            self._pinger.land(self._sequence)
            self._sequence = -1

    def finish(self, verdict: Verdict) -> None:
        if self._sequence >= 0:
            self.cancel()
            self._done(verdict)


def checksum(packet: bytes) -> int:
    """The Internet checksum of a packet of even length (RFC 1071)."""
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def _packed(address: str) -> bytes:
    address = address.partition("%")[0]
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _no_socket(failure: int) -> str:
    remedy = ""
    if errors.forbids(failure):
        remedy = ": run as root, or let net.ipv4.ping_group_range hold its group" if sys.platform == "linux" else \
            ": ping needs root"
        return f"no ICMP socket: not permitted{remedy}"
    return f"no ICMP socket: {words(failure)}"
