"""Members for tests: real servers on loopback that behave, and others that refuse, hang, dribble, reset and lie.

A behaviour is a function of one accepted socket; it runs in a thread and the socket is closed after it. ``probe`` runs
one real probe against an address and port and returns its verdict.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import pytest

from l4ipd.checks.probe import Prober
from l4ipd.checks.recipe import recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check, Endpoint, Step
from l4ipd.runtime.loop import Loop
from support import loopback

Behaviour = Callable[[socket.socket], object]
PATIENCE = 20.0                                     # seconds after which a test has failed

SomeMember = TypeVar("SomeMember", bound="Member")


class Member:
    """A server; ``busy`` is set once a behaviour waits in :meth:`hang`. Use as a context manager."""

    def __init__(self, behaviour: Callable[[Member, socket.socket], object], tls: ssl.SSLContext | None = None,
                 address: str = "127.0.0.1") -> None:
        self.behaviour, self.tls = behaviour, tls
        self.busy, self.over = threading.Event(), threading.Event()
        loopback.need(address)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, 0), family=family)
        self.port: int = self._listener.getsockname()[1]
        self.requests: list[bytes] = []             # whatever the behaviours have read

    def __enter__(self: SomeMember) -> SomeMember:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(PATIENCE)
        with contextlib.suppress(OSError), client:
            served = self.tls.wrap_socket(client, server_side=True) if self.tls else client
            with served:
                self.behaviour(self, served)

    def read(self, client: socket.socket, until: bytes = b"\r\n\r\n") -> bytes:
        data = b""
        while not data.endswith(until):
            chunk = client.recv(1024)
            if not chunk:
                break
            data += chunk
        self.requests.append(data)
        return data

    def hang(self) -> None:
        self.busy.set()
        self.over.wait(PATIENCE)


def answers(data: bytes, piece: int = 0) -> Callable[[Member, socket.socket], None]:
    """Read a request, send ``data`` (``piece`` bytes at a time, unless 0), close."""
    def behaviour(member: Member, client: socket.socket) -> None:
        member.read(client)
        send(client, data, piece)
    return behaviour


def silent(member: Member, client: socket.socket) -> None:
    member.hang()


def resets(member: Member, client: socket.socket) -> None:
    reset(client)


def endless(member: Member, client: socket.socket) -> None:
    while True:
        client.sendall(b"x" * 1000)


def send(client: socket.socket, data: bytes, piece: int = 0) -> None:
    for start in range(0, len(data), piece or len(data) or 1):
        client.sendall(data[start:start + (piece or len(data))])
        if piece:
            time.sleep(0.0003)                      # so that they go out as segments of their own


def reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@contextlib.contextmanager
def refusing() -> Iterator[int]:
    """A port on which nobody listens, and which nobody else gets meanwhile."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


@contextlib.contextmanager
def overcrowded() -> Iterator[int]:
    """A port whose backlog is full: the kernel drops whoever else wants to connect."""
    if not sys.platform.startswith("linux"):
        pytest.skip("elsewhere a full backlog answers with a RST")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(8):
            client = stack.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        time.sleep(0.02)
        yield listener.getsockname()[1]


def endpoint(check: Check, port: int, address: str = "127.0.0.1") -> Endpoint:
    return Endpoint("www/http/web1", "www", "http", "web1", ("192.0.2.1",), 80, "tcp", False, address, port, 1, False,
                    (check,))


def dialog(*steps: tuple[str, bytes]) -> tuple[Step, ...]:
    return tuple(Step(*step) for step in steps)


class Watch:
    """A loop and a prober, and the verdicts that came."""

    def __init__(self, commands: int | None = None) -> None:
        self.loop = Loop()
        self.prober = Prober(self.loop, commands)
        self.verdicts: list[Verdict] = []
        self._tick()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.prober.close()
        self.loop.close()

    def _tick(self) -> None:
        """Keeps turns from lasting."""
        self.loop.later(0.005, self._tick)

    def turn_until(self, condition: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "nothing happened"
            self.loop.turn()

    def probe(self, check: Check, port: int = 0, address: str = "127.0.0.1",
              expire_when: Callable[[], object] | None = None) -> Verdict:
        """The verdict of one probe, whose deadline passes when ``expire_when`` says so."""
        self.verdicts.clear()
        probe = self.prober.start(recipe(check, endpoint(check, port, address)), self.verdicts.append)
        if expire_when is not None:
            self.turn_until(lambda: self.verdicts or expire_when())
            for _ in range(3):                      # what has arrived beats a deadline
                self.loop.turn()
            probe.expire()
        self.turn_until(lambda: self.verdicts)
        probe.expire()                              # is over: does nothing
        probe.cancel()
        for _ in range(2):
            self.loop.turn()
        assert len(self.verdicts) == 1
        return self.verdicts[0]


def probe(check: Check, port: int = 0, address: str = "127.0.0.1",
          expire_when: Callable[[], object] | None = None) -> Verdict:
    with Watch() as watch:
        return watch.probe(check, port, address, expire_when)


Answer = Callable[[bytes], list[bytes]]


@contextlib.contextmanager
def talker(answer: Answer, address: str = "127.0.0.1") -> Iterator[tuple[int, list[bytes]]]:
    """A udp server: its port, and what it was sent; ``answer`` makes datagrams of one."""
    heard: list[bytes] = []
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 0))

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    data, client = sock.recvfrom(65536)
                    if data == b"stop":
                        return
                    for each in answer(data):
                        sock.sendto(each, client)
                    heard.append(data)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield sock.getsockname()[1], heard
        with socket.socket(sock.family, socket.SOCK_DGRAM) as last:
            last.sendto(b"stop", sock.getsockname())
        thread.join(10)
