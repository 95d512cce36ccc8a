"""TCP through the sandbox: accept, ask the engine, connect to the member, relay.

What user space can do, it does as the real engine would: a member that refuses or resets the connection means a RST for
the client; a session that is purged is cut; and a client whose member has not answered yet when its session is purged
goes to another member, which stands for its SYN being sent again. A client's half-closed connection is passed on.

    accepted -> CONNECTING --refused--> RST
                    |  ^ purged: another member
                    v
                RELAYING --both sides ended--> closed
                    '--reset, purged, idle---> RST

A client that comes when the table is full hears nothing; it is let in when its SYN, sent again, finds a place.
"""

from __future__ import annotations

import errno
import socket

from l4ipd.runtime.loop import READ, WRITE, Callback, Loop
from l4ipd.sandbox.kernel import REFUSED, RESET, Kernel
from l4ipd.sandbox.nat.table import CLOSED, ESTABLISHED, HALF_OPEN, Session, TableFull
from l4ipd.sandbox.relay.sockets import close_with_reset, listening_socket, member_socket, undelayed
from l4ipd.sandbox.syntax import netdb

CHUNK = 1 << 16                         # bytes that wait in each direction at most
BATCH = 64                              # connections accepted per turn
RESEND = (1, 2, 4, 8, 16, 32)           # seconds between a SYN and the next one
PAUSE = 0.1                             # seconds without accepting when there are no descriptors
NO_DESCRIPTORS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class TcpListener:
    """A place where clients connect."""

    busy = False                        # its connections do not need it

    def __init__(self, loop: Loop, kernel: Kernel, address: str, port: int) -> None:
        self.loop, self.kernel, self.address, self.port = loop, kernel, address, port
        self.socket = listening_socket(address, port, socket.SOCK_STREAM)
        try:
            self.socket.listen(1024)
        except OSError:
            self.socket.close()
            raise
        loop.watch(self.socket.fileno(), READ, self._accept)

    def close(self) -> None:
        if self.socket.fileno() >= 0:
            self.loop.closing(self.socket.fileno())
            self.socket.close()

    def _accept(self) -> None:
        for _ in range(BATCH):
            try:
                client, peer = self.socket.accept()
            except OSError as error:
                if error.errno in NO_DESCRIPTORS:
                    self.loop.unwatch(self.socket.fileno())
                    self.loop.later(PAUSE, self._resume)
                return
            client.setblocking(False)
            undelayed(client)
            flow = netdb.TCP, peer[0].partition("%")[0], peer[1], self.address, self.port
            Connection(self.loop, self.kernel, client, flow).connect()

    def _resume(self) -> None:
        if self.socket.fileno() >= 0:
            self.loop.watch(self.socket.fileno(), READ, self._accept)


class _Side:
    """One end of a relayed connection, and what waits to be sent to it."""

    __slots__ = ("ended", "pending", "shut", "socket", "watched")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.pending = bytearray()
        self.ended = False              # it has sent its FIN
        self.shut = False               # we have sent ours
        self.watched = 0


class Connection:
    """One client's connection."""

    def __init__(self, loop: Loop, kernel: Kernel, client: socket.socket, flow: tuple[int, str, int, str, int]) -> None:
        self.loop, self.kernel, self.flow = loop, kernel, flow
        self.client = _Side(client)
        self.member: _Side | None = None
        self.session: Session | None = None
        self.connected = False
        self._sent = 0                  # SYNs that found the table full
        self._unsent = bytearray()      # what the client has said, and a member never got

    def connect(self) -> None:
        """Go to the member that the engine chooses."""
        try:
            session = self.kernel.packet(self.flow)
        except TableFull:
            self._dropped()
            return
        if session is None:
            self._reset()
            return
        if session.ended is not None:           # a stale connection of the same client port
            session.ended()
        self.session = session
        session.ended = self._purged
        self.kernel.nat.touch(session, HALF_OPEN)
        self.kernel.opened(session)
        self.connected = False
        try:
            self.member = _Side(member_socket(session.member, socket.SOCK_STREAM))
            self.member.pending, self._unsent = self._unsent, bytearray()
            undelayed(self.member.socket)
            error = self.member.socket.connect_ex((session.member, session.port))
        except OSError as failure:
            error = failure.errno or errno.EMFILE
        if error not in (0, errno.EINPROGRESS):
            self._failed(error)
            return
        self._watch()

    def _dropped(self) -> None:
        """Wait as a client does that sends its SYN again."""
        if self._sent == len(RESEND):
            self._reset()
            return
        self.loop.later(RESEND[self._sent], self._again)
        self._sent += 1

    def _again(self) -> None:
        try:
            gone = self.client.socket.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            self._close(self.client, reset=False)
        else:
            self.connect()

    # -- events

    def _client_ready(self) -> None:
        self._ready(self.client, self.member)

    def _member_ready(self) -> None:
        assert self.member is not None and self.session is not None
        if not self.connected:
            error = self.member.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if error:
                self._failed(error)
                return
            self.connected = True
            self.kernel.nat.touch(self.session, ESTABLISHED)
        self._ready(self.member, self.client)

    def _ready(self, side: _Side, other: _Side | None) -> None:
        """Write what waits for ``side``, read what it has to say if there is room for it, pass that on."""
        broken = self._pass_on(side, other)
        if broken is not None:
            self._broken(broken)
        elif self.member is not None and self.client.shut and self.member.shut:
            self._end(CLOSED)
            self._close(self.client, reset=False)
            self._close(self.member, reset=False)
        else:
            self._watch()

    def _pass_on(self, side: _Side, other: _Side | None) -> _Side | None:
        """Returns the side that has reset the connection, if one has."""
        try:
            self._send(side)
            if other is not None and not side.ended and not other.pending:
                self._read(side, other)
        except OSError:
            return side
        try:
            if other is not None:
                self._send(other)
        except OSError:
            return other
        return None

    def _read(self, side: _Side, other: _Side) -> None:
        try:
            data = side.socket.recv(CHUNK)
        except BlockingIOError:
            return
        if data:
            other.pending += data
            if self.session is not None:
                self.session.bytes[side is self.member] += len(data)
                self.session.packets[side is self.member] += 1
                self.kernel.nat.touch(self.session, reply=side is self.member)
        else:
            side.ended = True

    def _send(self, side: _Side) -> None:
        """Send what waits; pass the other side's FIN on behind it."""
        if side is self.member and not self.connected:
            return
        while side.pending:
            try:
                sent = side.socket.send(side.pending)
            except BlockingIOError:
                return
            del side.pending[:sent]
        other = self.client if side is self.member else self.member
        if other is not None and other.ended and not side.shut:
            side.shut = True
            side.socket.shutdown(socket.SHUT_WR)

    def _watch(self) -> None:
        self._interest(self.client, self.member, self._client_ready)
        if self.member is not None:
            if self.connected:
                self._interest(self.member, self.client, self._member_ready)
            elif not self.member.watched:
                self.member.watched = WRITE
                self.loop.watch(self.member.socket.fileno(), WRITE, self._member_ready)

    def _interest(self, side: _Side, other: _Side | None, ready: Callback) -> None:
        wanted = 0
        if other is not None and not side.ended and not other.pending:
            wanted = READ
        if side.pending:
            wanted |= WRITE
        if wanted != side.watched:
            if wanted:
                self.loop.watch(side.socket.fileno(), wanted, ready)
            else:
                self.loop.unwatch(side.socket.fileno())
            side.watched = wanted

    # -- endings

    def _failed(self, error: int) -> None:
        """The member could not be connected to; or it could, and has reset the connection since."""
        if self.session is not None and error in (errno.ECONNREFUSED, errno.ECONNRESET):
            self.kernel.from_member(self.session, REFUSED if error == errno.ECONNREFUSED else RESET)
        self._end(CLOSED)
        self._reset()

    def _broken(self, side: _Side) -> None:
        """One side has reset the connection: so do we the other."""
        if self.session is not None and side is self.member:
            self.kernel.from_member(self.session, RESET)
        self._end(CLOSED)
        self._reset()

    def _purged(self) -> None:
        """The session is gone from the table."""
        if self.session is not None:
            self.kernel.closed(self.session)
        self.session = None
        if self.connected or self.member is None:
            self._reset()
            return
        self._close(self.member, reset=True)
        self._unsent, self.member = self.member.pending, None
        self.connect()                  # what the client has said already goes to the other member

    def _end(self, state: str) -> None:
        """Let the session live on for as long as it does in ``state``."""
        session, self.session = self.session, None
        if session is not None:
            session.ended = None
            self.kernel.closed(session)
            self.kernel.nat.touch(session, state)

    def _reset(self) -> None:
        self._close(self.client, reset=True)
        if self.member is not None:
            self._close(self.member, reset=True)

    def _close(self, side: _Side, reset: bool) -> None:
        if side.socket.fileno() < 0:
            return
        if side.watched:
            self.loop.closing(side.socket.fileno())
            side.watched = 0
        if reset:
            close_with_reset(side.socket)
        else:
            side.socket.close()
