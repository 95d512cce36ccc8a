"""A name server of the test's: real sockets, real messages, and whatever trouble the test wants."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import dns.flags
import dns.message
import dns.rcode
import dns.rrset

Said = list[bytes]                                  # messages, as they are sent
Handler = Callable[[dns.message.Message, bool], Said]   # a query, and whether it came over tcp


class NameServer:
    """Answers from ``zone``: records as text, by name and type. ``handler`` may take over; ``asked`` is what came."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        self.zone: dict[tuple[str, str], list[str]] = {}
        self.ttl = 1
        self.handler: Handler | None = None
        self.asked: list[tuple[str, str, bool]] = []
        self._family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.address = address
        self._udp, self._tcp = self._bound()
        self.port = int(self._udp.getsockname()[1])
        for serve in (self._serve_udp, self._serve_tcp):
            threading.Thread(target=serve, daemon=True).start()

    def _bound(self) -> tuple[socket.socket, socket.socket]:
        """Two sockets on one port, which somebody else may have of the one kind and not of the other."""
        for _ in range(100):
            udp, tcp = (socket.socket(self._family, kind) for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM))
            try:
                udp.bind((self.address, 0))
                tcp.bind((self.address, udp.getsockname()[1]))
            except OSError:
                udp.close()
                tcp.close()
            else:
                tcp.listen()
                return udp, tcp
        raise AssertionError("no port is free")

    @property
    def server(self) -> tuple[str, int]:
        return self.address, self.port

    def put(self, name: str, kind: str, *records: str) -> None:
        self.zone[f"{name}.", kind] = list(records)

    def answer(self, query: dns.message.Message, stream: bool = False) -> bytes:
        """What a good server says. An A record of a target comes along with its SRV, if it is there."""
        question = query.question[0]
        kind = question.rdtype.name
        reply = dns.message.make_response(query)
        name, names = str(question.name), {key[0] for key in self.zone}
        for _ in range(20):                         # as far as a resolver would go
            alias = self.zone.get((name, "CNAME"))
            if alias is None or kind == "CNAME":
                break
            reply.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "CNAME", alias[0]))
            name = alias[0]
        records = self.zone.get((name, kind))
        if records:
            reply.answer.append(dns.rrset.from_text(name, self.ttl, "IN", kind, *records))
        elif name not in names:
            reply.set_rcode(dns.rcode.NXDOMAIN)
        wire = reply.to_wire(max_size=65535)
        if len(wire) > 1232 and not stream:
            reply.answer.clear()
            reply.flags |= dns.flags.TC
            wire = reply.to_wire()
        return wire

    def close(self) -> None:
        for sock in (self._udp, self._tcp):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _say(self, wire: bytes, stream: bool) -> Said:
        query = dns.message.from_wire(wire)
        self.asked.append((str(query.question[0].name), query.question[0].rdtype.name, stream))
        return [self.answer(query, stream)] if self.handler is None else self.handler(query, stream)

    def _serve_udp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                wire, who = self._udp.recvfrom(65536)
                if not wire:
                    return                          # it was shut down
                for answer in self._say(wire, False):
                    self._udp.sendto(answer, who)

    def _serve_tcp(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._tcp.accept()
                with connection, contextlib.suppress(OSError, struct.error):
                    size = struct.unpack("!H", connection.recv(2, socket.MSG_WAITALL))[0]
                    for answer in self._say(connection.recv(size, socket.MSG_WAITALL), True):
                        connection.sendall(struct.pack("!H", len(answer)) + answer)


@contextlib.contextmanager
def name_server(address: str = "127.0.0.1") -> Iterator[NameServer]:
    server = NameServer(address)
    try:
        yield server
    finally:
        server.close()
