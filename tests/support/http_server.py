"""The HTTP server with answers of the test's own, and clients of it."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable

from l4ipd.runtime.loop import Loop
from l4ipd.web.httpd import Answer, Later, Request, Server

PATIENCE = 20.0


class HttpServer:
    """A server whose loop turns in a thread; ``handler`` may be replaced."""

    def __init__(self) -> None:
        self.loop = Loop()
        self.handler: Callable[[Request], Answer | Later] = lambda request: Answer(
            200, f"hello {request.path}\n".encode())
        self.server = Server(self.loop, "127.0.0.1", 0, lambda request: self.handler(request), {"X-Common": "yes"})
        self._ending = False
        self._tick()
        self._thread = threading.Thread(target=self.loop.run)
        self._thread.start()

    def _tick(self) -> None:
        if self._ending:
            self.server.close()
            self.loop.stop()
        self.loop.later(0.02, self._tick)

    def close(self) -> None:
        self._ending = True
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()
        self.loop.close()

    def connect(self) -> socket.socket:
        client = socket.create_connection(("127.0.0.1", self.server.port), PATIENCE)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return client

    def ask(self, *pieces: bytes, hang_up: bool = False) -> bytes:
        """Send ``pieces``; everything that comes back."""
        with self.connect() as client:
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    client.sendall(piece)
                if hang_up:
                    client.shutdown(socket.SHUT_WR)
            return read_all(client)


def read_all(client: socket.socket) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := client.recv(65536):
            answer += chunk
    return answer


def status(answer: bytes) -> int:
    return int(answer.split()[1])
