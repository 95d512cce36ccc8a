"""UDP through the sandbox: one socket where clients send to, one per session towards the member.

A session lasts as long as the engine says. A member's ICMP port unreachable reaches user space as "connection refused"
on its socket and is logged; the client, which a real gateway would pass it on to, hears nothing.
"""

from __future__ import annotations

import errno
import socket
from typing import Any

from l4ipd.runtime.loop import READ, Loop
from l4ipd.sandbox.kernel import UNREACHABLE, Kernel
from l4ipd.sandbox.nat.table import Session, TableFull
from l4ipd.sandbox.relay.sockets import listening_socket, member_socket
from l4ipd.sandbox.syntax import netdb

LARGEST = 1 << 16
BATCH = 64


class UdpListener:
    """A place where clients send datagrams to."""

    def __init__(self, loop: Loop, kernel: Kernel, address: str, port: int) -> None:
        self.loop, self.kernel, self.address, self.port = loop, kernel, address, port
        self.socket = listening_socket(address, port, socket.SOCK_DGRAM)
        self._peers: dict[Session, _Peer] = {}
        loop.watch(self.socket.fileno(), READ, self._receive)

    def close(self) -> None:
        for peer in list(self._peers.values()):
            peer.close()
        self.loop.closing(self.socket.fileno())
        self.socket.close()

    @property
    def busy(self) -> bool:
        """Whether there are sessions, which may outlive their rules, and need this socket for their answers."""
        return bool(self._peers)

    def forget(self, session: Session) -> None:
        self._peers.pop(session, None)

    def _receive(self) -> None:
        for _ in range(BATCH):
            try:
                data, sender = self.socket.recvfrom(LARGEST)
            except OSError:
                return
            flow = netdb.UDP, sender[0].partition("%")[0], sender[1], self.address, self.port
            try:
                session = self.kernel.packet(flow, len(data) + (48 if ":" in self.address else 28))
            except TableFull:
                continue                # in silence
            if session is None:
                continue
            peer = self._peers.get(session)
            if peer is None:
                peer = self._peer(session, sender)
            if peer is not None:
                peer.send(data)

    def _peer(self, session: Session, sender: Any) -> _Peer | None:
        try:
            peer = _Peer(self, session, sender)
        except OSError:
            return None                 # no descriptors, or no route: the datagram is lost
        self._peers[session] = peer
        self.kernel.opened(session)
        return peer


class _Peer:
    """The way of one client to its member and back."""

    def __init__(self, listener: UdpListener, session: Session, sender: Any) -> None:
        self.listener, self.session, self.sender = listener, session, sender
        self.socket = member_socket(session.member, socket.SOCK_DGRAM)
        try:
            self.socket.connect((session.member, session.port))
        except OSError:
            self.socket.close()
            raise
        session.ended = self.close
        self._last = 0                  # the size of the last datagram
        listener.loop.watch(self.socket.fileno(), READ, self._receive)

    def close(self) -> None:
        self.session.ended = None
        self.listener.kernel.closed(self.session)
        self.listener.forget(self.session)
        self.listener.loop.closing(self.socket.fileno())
        self.socket.close()

    def send(self, data: bytes) -> None:
        """The error that comes first may be that of an earlier datagram."""
        for _ in range(2):
            try:
                self.socket.send(data)
            except OSError as error:
                self._error(error)
            else:
                self._last = len(data)
                return

    def _receive(self) -> None:
        listener = self.listener
        for _ in range(BATCH):
            try:
                data = self.socket.recv(LARGEST)
            except OSError as error:
                self._error(error)
                return
            self.session.packets[1] += 1
            self.session.bytes[1] += len(data) + 28
            listener.kernel.nat.touch(self.session, reply=True)
            try:
                listener.socket.sendto(data, self.sender)
            except OSError:
                return                  # as on any network

    def _error(self, error: OSError) -> None:
        if error.errno == errno.ECONNREFUSED:
            self.listener.kernel.from_member(self.session, UNREACHABLE, self._last)
