"""The base of every server of sockets: a listener that does not give up, and connections that are bounded."""

from __future__ import annotations

import errno
import gc
import logging
import socket
import weakref
from collections.abc import Callable, Iterator

import pytest

from l4ipd.runtime import stream_server
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.stream_server import Connection, Listener

PATIENCE = 30.0


class Echo:
    """Answers with what it hears, as soon as that is all; remembers what it was told."""

    def __init__(self, site: Site, connection: socket.socket) -> None:
        self.site, self.told = site, [""]
        self.heard = bytearray()
        self.connection = Connection(site.loop, connection, self, reads=10, sends=1000)

    def received(self, data: bytes) -> None:
        self.told.append("received")
        assert len(data) <= 10
        self.heard += data
        if not data:
            self.connection.send(bytes(self.heard))
            self.connection.listen(False)

    def sent(self) -> None:
        self.told.append("sent")
        if not self.connection.waiting:
            self.connection.close()

    def expired(self) -> None:
        self.told.append("expired")
        self.connection.close_with(b"too late")

    def raised(self) -> None:
        self.told.append("raised")
        self.connection.close()

    def closed(self) -> None:
        self.told.append("closed")


class Site:
    """A loop with a listener on loopback."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.clients: list[Echo] = []
        self.bound = 0
        self.listener = Listener(self.loop, "test", self.bind, self.accepted)
        first = self.bind()
        assert first is not None
        self.listener.open(first)
        self.tick()

    def tick(self) -> None:
        self.loop.later(0.005, self.tick)

    def bind(self) -> socket.socket | None:
        self.bound += 1
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        return listener

    def accepted(self, connection: socket.socket) -> None:
        assert not connection.getblocking()
        self.clients.append(Echo(self, connection))

    def until(self, done: Callable[[], object]) -> None:
        end = self.loop.clock() + PATIENCE
        while not done():
            assert self.loop.clock() < end, "it never happened"
            self.loop.turn()

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        client.setblocking(False)
        return client

    def met(self) -> tuple[socket.socket, Echo]:
        """A client, and who answers it."""
        count = len(self.clients)
        client = self.connect()
        self.until(lambda: len(self.clients) > count)
        return client, self.clients[-1]

    def read(self, client: socket.socket) -> bytes:
        """All that comes until the end."""
        data, ended = bytearray(), False

        def take() -> bool:
            nonlocal ended
            try:
                piece = client.recv(65536)
            except BlockingIOError:
                return False
            data.extend(piece)
            ended = not piece
            return ended

        self.until(take)
        return bytes(data)


class Other:
    """Whoever has a listener, which has methods of it."""

    def __init__(self, loop: Loop) -> None:
        self.listener = Listener(loop, "test", self.bind, self.accepted)
        self.listener.open(socket.create_server(("127.0.0.1", 0)))

    def bind(self) -> None: ...
    def accepted(self, connection: socket.socket) -> None: ...


@pytest.fixture
def site() -> Iterator[Site]:
    it = Site()
    yield it
    for each in it.clients:
        each.connection.close()
    it.listener.close()
    it.loop.close()


def test_what_is_said_comes_in_pieces_and_goes_in_pieces(site: Site) -> None:
    client, echo = site.met()
    with client:
        client.sendall(b"x" * 25)
        client.sendall(b"y" * 2000)
        client.shutdown(socket.SHUT_WR)
        assert site.read(client) == b"x" * 25 + b"y" * 2000
        assert echo.told.count("received") > 200 and echo.told.count("sent") == 3
        assert echo.told[-1] == "closed" and echo.connection.over


def test_a_reader_who_takes_nothing_costs_what_waits_and_no_more(site: Site) -> None:
    client, echo = site.met()
    with client:
        echo.connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        echo.connection.send(b"z" * 4_000_000)
        echo.connection.watch()
        pieces: list[int] = []

        def nothing_is_taken() -> bool:
            pieces.append(echo.told.count("sent"))
            return len(pieces) > 30 and pieces[-1] == pieces[-30] > 3

        site.until(nothing_is_taken)
        assert echo.connection.waiting, "it waits"
        assert len(site.read(client)) == 4_000_000


def test_whoever_is_late_hears_so_as_far_as_that_goes(site: Site) -> None:
    client, echo = site.met()
    with client:
        echo.connection.limit(600.0)
        echo.connection.limit(0.01)                 # only the last one counts
        assert echo.connection.is_limited
        site.until(lambda: echo.connection.over)
        assert site.read(client) == b"too late" and echo.told == ["", "expired", "closed"]
        assert not echo.connection.is_limited
        echo.connection.close()
        echo.connection.close_with(b"again")
        assert echo.told.count("closed") == 1
    client, echo = site.met()
    with client:
        echo.connection.limit(0.01)
        echo.connection.unlimited()
        for _ in range(20):
            site.loop.turn()
        assert not echo.connection.over


def test_a_client_that_breaks_off_is_let_go(site: Site) -> None:
    client, echo = site.met()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    site.until(lambda: echo.connection.over)
    assert echo.told == ["", "closed"]
    client, echo = site.met()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    echo.connection.send(b"to nobody")
    echo.connection.listen(False)
    site.until(lambda: echo.connection.flush() or echo.connection.over)     # type: ignore[func-returns-value]
    assert not echo.connection.waiting and not echo.connection.end_sending()


def test_a_handler_that_raises_is_told(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    client, echo = site.met()
    with client:
        echo.heard = None                           # type: ignore[assignment]
        client.sendall(b"x")
        site.until(lambda: echo.connection.over)
    assert echo.told == ["", "received", "raised", "closed"] and "TypeError" in caplog.text


def test_what_is_over_keeps_nobody(site: Site) -> None:
    """Nothing is left to the garbage collector, which seldom looks."""
    gc.disable()
    try:
        client, echo = site.met()
        gone = weakref.ref(echo)
        site.clients.clear()
        echo.connection.close()
        client.close()
        del echo
        assert gone() is None
        other = Other(site.loop)
        gone = weakref.ref(other)                   # type: ignore[arg-type]
        other.listener.close()
        del other
        assert gone() is None
    finally:
        gc.enable()


def test_without_descriptors_it_rests_and_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "l4ipd.test")
    monkeypatch.setattr(stream_server, "PAUSE", 0.05)
    full = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.EMFILE, "Too many open files")]
    listener: socket.socket = site.listener._socket     # type: ignore[assignment]

    class Full:
        def accept(self) -> tuple[socket.socket, object]:
            if full:
                raise full.pop()
            return listener.accept()

        fileno, close = listener.fileno, listener.close

    site.listener._socket = Full()                  # type: ignore[assignment]
    client, _ = site.met()
    client.close()
    assert [record.getMessage() for record in caplog.records] == 2 * [
        "test: a client cannot be served: Too many open files"]
    assert site.bound == 1


@pytest.mark.parametrize("tries", [0, 2])
def test_a_listener_that_breaks_is_replaced_as_soon_as_another_can_be_had(
        site: Site, monkeypatch: pytest.MonkeyPatch, tries: int) -> None:
    monkeypatch.setattr(stream_server, "AGAIN", 0.02)
    accepted, bind = site.listener._accepted, site.listener._bind
    refused: list[None] = []

    def break_down(connection: socket.socket) -> None:
        site.listener._accepted = accepted
        raise RuntimeError("broken")

    def bind_at_last() -> socket.socket | None:
        if len(refused) < tries:
            refused.append(None)
            return None
        return bind()

    site.listener._accepted, site.listener._bind = break_down, bind_at_last
    with site.connect() as client:
        site.until(lambda: site.bound == 2)
        assert site.read(client) == b"", "whoever met the failure is hung up on"
    assert len(refused) == tries
    client, _ = site.met()
    client.close()
