"""One question to name servers, in turn, over our own sockets: nothing here waits. Messages are dnspython's business.

udp first; what was cut is asked for again over tcp. An answer is read by a thread, since a long one takes its time;
what does not belong to the question, or cannot be read, is no answer. RFC 1035, 4.2; RFC 6891 for sizes.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from l4ipd.runtime import regular_file
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import READ, WRITE, Loop, Timer

RESOLV_CONF = "/etc/resolv.conf"
PATIENCE = 3.0                                      # seconds for one server
ROUNDS = 2                                          # each server is asked so often
PAYLOAD = 1232                                      # bytes over udp, as resolvers have it (DNS flag day 2020)
CHUNK = 65536
GARBAGE = 16                                        # datagrams that are no answer, until a server has had its turn
TRUNCATED = "its answer is cut"
RCODES = {dns.rcode.SERVFAIL: "it failed (SERVFAIL)", dns.rcode.REFUSED: "it does not want to answer (REFUSED)"}
Server = tuple[str, int]


class Answer(NamedTuple):
    """What a server said: ``records`` are those that were asked for, behind all aliases; ``more`` came along."""

    records: tuple[dns.rrset.RRset, ...] = ()
    more: tuple[dns.rrset.RRset, ...] = ()
    ttl: float = 0.0                                # seconds for which all of it holds
    problem: str = ""                               # why there is none
    absent: bool = False                            # it is certain that there is none


Done = Callable[[Answer], object]


class Query:
    """Asks for the records of a name, and calls ``done`` once, unless it is cancelled before."""

    def __init__(self, loop: Loop, servers: Sequence[Server], name: str, kind: str, done: Done) -> None:
        self.loop, self.name, self.kind = loop, name, kind
        self._done: Done | None = done
        self._left = [server for _ in range(ROUNDS) for server in servers or system_servers()]
        self._problem = "no name server is known"
        self._socket: socket.socket | None = None
        self._late = Timer(self._is_late)
        self._server: Server = ("", 0)
        self._question = b""
        self._rest = b""                            # tcp: what is still to be sent
        self._got = b""                             # tcp: what has arrived
        self._reading = 0                           # answers that are with a thread
        self._garbage = 0
        loop.later(0, self._next)

    def cancel(self) -> None:
        self._done = None
        self._close()
        self.loop.drop(self._late)

    def raised(self) -> None:
        """Somewhere on the way: this server does not count."""
        self._failed(INTERNAL)

    # -- servers, one after the other

    def _next(self) -> None:
        if self._done is None:
            return
        if not self._left:
            self._end(Answer(problem=self._problem))
            return
        self._server, self._garbage = self._left.pop(0), 0
        message = dns.message.make_query(self.name, self.kind, use_edns=0, payload=PAYLOAD)
        message.id = int.from_bytes(os.urandom(2), "big")
        self._question = message.to_wire()
        self._open(socket.SOCK_DGRAM)

    def _open(self, kind: socket.SocketKind) -> None:
        self._close()
        self.loop.move(self._late, self.loop.now + PATIENCE)
        try:
            family, _, _, _, where = socket.getaddrinfo(*self._server, type=kind, flags=socket.AI_NUMERICHOST)[0]
            sock = self._socket = socket.socket(family, kind | socket.SOCK_CLOEXEC)
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(where)
            if kind == socket.SOCK_DGRAM:
                sock.send(self._question)
                self.loop.watch(sock.fileno(), READ, self._datagram)
            else:
                self._rest, self._got = struct.pack("!H", len(self._question)) + self._question, b""
                self.loop.watch(sock.fileno(), WRITE, self._stream)
        except OSError as error:
            self._failed(_reason(error))

    def _close(self) -> None:
        if self._socket is not None:
            self.loop.closing(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def _is_late(self) -> None:
        self._failed("does not answer")

    def _failed(self, words: str) -> None:
        address, port = self._server
        self._problem = f"name server {address}{'' if port == 53 else f' port {port}'}: {words}" if address else words
        self.loop.clear(self._late)
        self._close()
        if self._done is not None:
            self.loop.later(0, self._next)

    def _end(self, answer: Answer) -> None:
        self._close()
        self.loop.clear(self._late)
        done, self._done = self._done, None
        if done is not None:
            done(answer)

    # -- what arrives

    def _datagram(self) -> None:
        assert self._socket is not None
        try:
            wire = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(_reason(error))
            return
        if wire[:2] == self._question[:2] and len(wire) > 2 and wire[2] & 0x80 and not self._reading:
            self._read(wire)
        else:
            self._ignore()

    def _ignore(self) -> None:
        self._garbage += 1
        if self._garbage >= GARBAGE:
            self._failed("what it says is no answer")

    def _stream(self) -> None:
        assert self._socket is not None
        try:
            if self._rest:
                self._rest = self._rest[self._socket.send(self._rest):]
                if not self._rest:
                    self.loop.watch(self._socket.fileno(), READ, self._stream)
                return
            chunk = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._failed(_reason(error))
            return
        self._got += chunk
        size = struct.unpack("!H", self._got[:2])[0] if len(self._got) > 1 else CHUNK
        if len(self._got) >= size + 2:
            self.loop.unwatch(self._socket.fileno())
            self._read(self._got[2:size + 2])
        elif not chunk:
            self._failed("closed the connection before its answer")

    def _read(self, wire: bytes) -> None:
        self._reading += 1
        question, kind, stream = self._question, self.kind, bool(self._got)
        self.loop.aside(lambda: read(wire, question, kind), lambda found: self._understood(found, question, stream))

    def _understood(self, found: Answer | None, question: bytes, stream: bool) -> None:
        """``found`` is None for what was no answer."""
        self._reading -= 1
        if self._done is None or question is not self._question or self._socket is None:
            return                                  # it took so long that another was asked
        if found is None:
            self._failed("what it says is no answer") if stream else self._ignore()
        elif found.problem == TRUNCATED and not stream:
            self._open(socket.SOCK_STREAM)
        elif found.problem and not found.absent:
            self._failed(found.problem)
        else:
            self._end(found)


def read(wire: bytes, question: bytes, kind: str) -> Answer | None:
    """In a thread: an answer to ``question``; None if it is none."""
    try:
        asked = dns.message.from_wire(question)
        message = dns.message.from_wire(wire, ignore_trailing=True, raise_on_truncation=False)
        if not asked.is_response(message):
            return None
        if message.flags & dns.flags.TC:
            return Answer(problem=TRUNCATED)
        rcode = message.rcode()
        if rcode == dns.rcode.NXDOMAIN:
            return Answer(problem="there is no such name (NXDOMAIN)", absent=True)
        if rcode != dns.rcode.NOERROR:
            return Answer(problem=RCODES.get(rcode, f"it says {dns.rcode.to_text(rcode)}"))
        return _records(message, kind)
    except Exception:                               # dnspython has many, and the loop must hear
        return None


def _records(message: dns.message.Message, kind: str) -> Answer:
    wanted = dns.rdatatype.from_text(kind)
    assert isinstance(message, dns.message.QueryMessage)
    try:
        chain = message.resolve_chaining()
    except dns.exception.DNSException:
        return Answer(problem="its aliases have no end")
    found = [each for each in message.answer if each.rdtype == wanted and each.name == chain.canonical_name]
    if not found:
        return Answer(problem=f"the name has no {kind} record", absent=True)
    ttl = min([each.ttl for each in found] + [each.ttl for each in chain.cnames])
    return Answer(tuple(found), tuple(message.additional), float(ttl))


def system_servers() -> list[Server]:
    """Those of resolv.conf(5), at most three as resolvers have it; without any, this machine."""
    try:
        text = regular_file.read(RESOLV_CONF, CHUNK).decode(errors="replace")
    except OSError:
        text = ""
    rows = [line.split() for line in text.splitlines()]
    return [(row[1], 53) for row in rows if len(row) > 1 and row[0] == "nameserver"][:3] or [("127.0.0.1", 53)]


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()
