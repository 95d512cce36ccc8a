"""A control socket with commands of the test's own, and clients of it."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from l4ipd.control.server import Answer, Client, Control, Refusal, Request, end
from l4ipd.runtime.loop import Loop

PATIENCE = 20.0


class ControlServer:
    """A control socket on a loop; ``kept`` are the clients of streams."""

    def __init__(self, path: str) -> None:
        self.loop = Loop()
        self.kept: list[Client] = []
        self.left = 0
        self.produced = 0
        self.control = Control(self.loop, path, None, {
            "echo": self.echo,
            "many": lambda client, request: client.answer(self.many(request["count"])),
            "keep": self.keep, "refuse": self.refuse, "break": lambda client, request: 1 // 0,
            "snap": lambda client, request: client.answer(self.snap()), "wait": lambda client, request: None})
        self.control.open()
        self._tick()

    def _tick(self) -> None:
        self.loop.later(0.005, self._tick)          # keeps turns from lasting

    def many(self, count: int) -> Iterator[Answer]:
        for number in range(count):
            self.produced += 1
            yield {"number": number, "text": "x" * 100}
        yield end(0)

    def snap(self) -> Iterator[Answer]:
        yield {"number": 1}
        raise RuntimeError("in the middle")

    def echo(self, client: Client, request: Request) -> None:
        client.send(request)
        client.end(7)

    def keep(self, client: Client, request: Request) -> None:
        client.lasting = True
        client.left = self._left
        self.kept.append(client)
        client.acknowledge()

    def _left(self) -> None:
        self.left += 1

    def refuse(self, client: Client, request: Request) -> None:
        raise Refusal("first line", "second line")

    def until(self, condition: Callable[[], object]) -> None:
        end = self.loop.clock() + PATIENCE
        while not condition():
            assert self.loop.clock() < end, "it never happened"
            self.loop.turn()

    def talk(self, conversation: Callable[[], Any]) -> Any:
        """Run a conversation in a thread, and the loop until it is over."""
        result: list[Any] = []

        def run() -> None:
            try:
                result.append(conversation())
            except BaseException as error:
                result.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        self.until(lambda: not thread.is_alive())
        if isinstance(result[0], BaseException):
            raise result[0]
        return result[0]

    def say(self, data: bytes, shut: bool = False) -> list[Any]:
        """Connect, send, and read to the end: the lines of the answer."""
        def conversation() -> list[Any]:
            with connect(self.control.path) as client:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.sendall(data)
                if shut:
                    client.shutdown(socket.SHUT_WR)
                return [json.loads(line) for line in read_all(client).splitlines() if line]
        answers: list[Any] = self.talk(conversation)
        return answers

    def ask(self, **request: Any) -> list[Any]:
        return self.say(json.dumps(request).encode() + b"\n")

    def close(self) -> None:
        self.control.close()
        self.loop.close()


def connect(path: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(PATIENCE)
    while True:                                     # Linux says at once that the queue is full
        with contextlib.suppress(BlockingIOError):
            client.connect(path)
            return client
        time.sleep(0.01)


def read_all(client: socket.socket) -> bytes:
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(1 << 16):
            data += chunk
    return data


def answering(path: str, answer: bytes, hold: bool = False, heard: list[bytes] | None = None) -> threading.Thread:
    """Something at ``path`` that answers one client with ``answer``."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            request = client.recv(1000)
            if heard is not None:
                heard.append(request)
            with contextlib.suppress(BrokenPipeError):
                client.sendall(answer)
            if hold:
                client.recv(1000)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread
