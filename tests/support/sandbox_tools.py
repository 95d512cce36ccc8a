"""Helpers of the sandbox's tests: samples as data, tools without a process, a sandbox process, members and clients."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from l4ipd.sandbox import serve_words, tool_words
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.nat.table import TableFull
from l4ipd.sandbox.tools.ipf import ipf
from l4ipd.sandbox.tools.ipfstat import ipfstat
from l4ipd.sandbox.tools.ipnat import ipnat
from l4ipd.sandbox.tools.run import STDIN, STDOUT, Run
from l4ipd.sandbox.version import VERSIONS
from support import ROOT, SAMPLES

TCP, UDP = 6, 17
HERE = "127.0.0.1"
Handler = Callable[[socket.socket], None]


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


@dataclass
class Result:
    status: int
    stdout: str
    stderr: str

    @property
    def rules(self) -> list[str]:
        """The rules of an ``ipnat -l``."""
        return self.stdout.partition("\n\nList of active sessions")[0].splitlines()[1:]


def drive(run: Run, stdin: str = "") -> Result:
    """Run a tool's generator to its end."""
    out: list[str] = []
    err: list[str] = []
    answer: bytes | None = None
    while True:
        try:
            kind, text = run.send(answer)
        except StopIteration as done:
            return Result(int(done.value), "".join(out), "".join(err))
        answer = stdin.encode("latin-1") if kind == STDIN else None
        if kind != STDIN:
            (out if kind == STDOUT else err).append(text)


class FakeClock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Lab:
    """A kernel without process and sockets, and the tools that work on it."""

    def __init__(self, version: str = "6.0.0") -> None:
        self.clock = FakeClock()
        self.kernel = Kernel(VERSIONS[version], self.clock)
        self._ports = itertools.count(5000)

    def ipnat(self, *words: str, stdin: str = "") -> Result:
        return drive(ipnat(self.kernel, words, "/"), stdin)

    def ipf(self, *words: str, stdin: str = "") -> Result:
        return drive(ipf(self.kernel, words, "/"), stdin)

    def ipfstat(self, *words: str) -> Result:
        return drive(ipfstat(self.kernel, words))

    def listed(self, *words: str) -> list[str]:
        return self.ipnat("-l", *words).rules

    def send(self, client: str = "198.51.100.7", address: str = "203.0.113.1", port: int = 80, proto: int = TCP,
             source_port: int | None = None) -> str:
        """One packet; returns ``ADDRESS PORT`` of the member it goes to, or nothing."""
        flow = proto, client, source_port or next(self._ports), address, port
        try:
            session = self.kernel.nat.packet(flow, 60 if ":" in address else 40)
        except TableFull:
            return ""
        return f"{session.member} {session.port}" if session else ""

    def members(self, count: int, **packet: object) -> list[str]:
        """The last part of each member's address, for ``count`` new connections."""
        found = [self.send(**packet) for _ in range(count)]             # type: ignore[arg-type]
        return [text.split(" ")[0].replace(":", ".").rpartition(".")[2] for text in found]


@dataclass
class Sandbox:
    """A sandbox process."""

    process: subprocess.Popen[bytes]
    path: str
    stderr: Path

    def run(self, tool: str, *words: str, stdin: str = "") -> Result:
        done = subprocess.run([*tool_words(self.path)[tool], *words], input=stdin.encode("latin-1"),
                              capture_output=True, timeout=120, cwd="/")
        return Result(done.returncode, done.stdout.decode("latin-1"), done.stderr.decode("latin-1"))

    def ipnat(self, *words: str, stdin: str = "") -> Result:
        return self.run("ipnat", *words, stdin=stdin)

    def add(self, rule: str) -> None:
        assert self.ipnat("-f", "-", stdin=rule + "\n") == Result(0, "", "")

    def remove(self, rule: str, *words: str) -> None:
        assert self.ipnat("-r", *words, "-f", "-", stdin=rule + "\n") == Result(0, "", "")


@contextlib.contextmanager
def sandbox(*options: str) -> Iterator[Sandbox]:
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/s"
        with open(f"{directory}/err", "wb") as err:
            process = subprocess.Popen(serve_words(path, *options), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                       stderr=err, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
        assert process.stdout is not None
        with process.stdout:
            try:
                assert process.stdout.readline() == b"ready\n"
                yield Sandbox(process, path, Path(f"{directory}/err"))
            finally:
                process.terminate()
                process.wait(10)
                sys.stderr.write(Path(f"{directory}/err").read_text())


def blocks(name: str) -> Iterator[list[str]]:
    """The paragraphs of a sample file, without its comments."""
    lines: Sequence[str] = [line for line in sample(name).splitlines() if not line.startswith("#")]
    for filled, group in itertools.groupby(lines, key=bool):
        if filled:
            yield list(group)


# -- the network


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, address: str = HERE) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


@contextlib.contextmanager
def member(handle: Handler, address: str = HERE) -> Iterator[int]:
    """A TCP server that runs ``handle`` for each connection; gives its port."""
    class Handling(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                handle(self.request)

    class Family(_Server):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    server = Family((address, 0), Handling)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def says(word: str) -> Handler:
    return lambda connection: connection.sendall(word.encode())


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def rule(vip: int, target: int, options: str = "tcp round-robin") -> str:
    return f"rdr lo0 {HERE}/32 port {vip} -> {HERE} port {target} {options}"


def connect(port: int, address: str = HERE) -> socket.socket:
    return socket.create_connection((address, port), timeout=10)


def ask(port: int) -> str:
    """What the member says, to the end."""
    with connect(port) as client:
        return read_all(client).decode()


def read_all(client: socket.socket) -> bytes:
    chunks = []
    while chunk := client.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def send_all(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def udp_member(word: bytes) -> Iterator[int]:
    """Answers each datagram with itself and ``word``; stops at an empty one."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((HERE, 0))

        def run() -> None:
            while True:
                data, sender = server.recvfrom(4096)
                if not data:
                    return
                server.sendto(data + word, sender)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        with socket.socket(type=socket.SOCK_DGRAM) as stopper:
            stopper.sendto(b"", server.getsockname())
        thread.join(10)


def udp_client(port: int) -> socket.socket:
    client = socket.socket(type=socket.SOCK_DGRAM)
    client.settimeout(10)
    client.connect((HERE, port))
    return client


def has_ipv6() -> bool:
    try:
        free_port(address="::1")
    except OSError:
        return False
    return True
