"""The socket of the sandbox process: tools come in, their words are run against the kernel, the answer goes out.

A tool is a generator (see :mod:`l4ipd.sandbox.kernel`). It is advanced only while its reader keeps up, and only for a
few milliseconds at a time, so that neither a slow reader nor ten thousand rules at once hold up the connections that
are relayed meanwhile. The frames are described in client.py.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from l4ipd.runtime.loop import READ, WRITE, Loop
from l4ipd.sandbox.tools.run import STDERR, STDIN, STDOUT, WAIT, Run

log = logging.getLogger("l4ipd.sandbox")
LETTERS = {STDIN: b"i", STDOUT: b"o", STDERR: b"e"}
HIGH_WATER = 1 << 18                    # bytes that may wait for a slow reader
SLICE = 0.01                            # seconds that one tool may run per turn
LONGEST = 1 << 28


@dataclass(frozen=True, slots=True)
class Call:
    """What a tool was started with: its name, working directory, TZ, process id, whose child it is, and arguments."""

    tool: str
    directory: str
    zone: str
    pid: str
    spawner: str
    arguments: Sequence[str]


Start = Callable[[Call], Run]
Wait = Callable[[Callable[[], bool]], object]           # asks to be called when there is log to read


class Server:
    """Listens on ``path``, for the owner only. ``start`` makes the generator that runs a tool."""

    def __init__(self, loop: Loop, path: str, start: Start, wait: Wait) -> None:
        self.loop, self.path, self.start, self.wait = loop, path, start, wait
        self._clear_stale()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self.socket.bind(path)
        finally:
            os.umask(before)
        self.socket.listen(128)
        self.socket.setblocking(False)
        loop.watch(self.socket.fileno(), READ, self._accept)

    def close(self) -> None:
        self.loop.closing(self.socket.fileno())
        self.socket.close()
        os.unlink(self.path)

    def _clear_stale(self) -> None:
        """Remove a socket that nobody listens on; raises OSError when somebody does."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(self.path)
            except FileNotFoundError:
                return
            except ConnectionRefusedError:          # a file that is no socket refuses, too
                if not stat.S_ISSOCK(os.stat(self.path, follow_symlinks=False).st_mode):
                    raise OSError(errno.EEXIST, "is there, and is no socket") from None
                os.unlink(self.path)
                return
        raise OSError(errno.EADDRINUSE, "another sandbox answers there")

    def _accept(self) -> None:
        try:
            client, _ = self.socket.accept()
        except OSError:
            return
        client.setblocking(False)
        _Tool(self.loop, client, self.start, self.wait)


class _Tool:
    """One tool that is connected."""

    def __init__(self, loop: Loop, client: socket.socket, start: Start, wait: Wait) -> None:
        self.loop, self.socket, self.start, self.wait = loop, client, start, wait
        self.run: Run | None = None
        self._waiting = False                   # until there is log to read
        self._received = bytearray()
        self._input: bytearray | None = None    # while it sends standard input
        self._letter, self._said = b"", bytearray()     # the stream it speaks to, and what it has said there
        self._out = bytearray()
        self._status: int | None = None
        self._answer: bytes | None = None       # what the generator gets next
        loop.watch(client.fileno(), READ, self._ready)

    def _close(self) -> None:
        if self.run is not None:
            self.run.close()
        self.loop.closing(self.socket.fileno())
        self.socket.close()

    def _woken(self) -> bool:
        if self.socket.fileno() < 0:
            return False
        self._waiting = False
        self._ready()
        return True

    @property
    def _can_run(self) -> bool:
        return self.run is not None and self._input is None and self._status is None and not self._waiting

    def _ready(self) -> None:
        try:
            alive = self._receive()
            if alive:
                if self._can_run:
                    self._advance()
                self._flush()
        except (BrokenPipeError, ConnectionResetError):
            alive = False
        except Exception:
            log.exception("internal error: please report this")
            alive = False                       # the tool says that the sandbox has gone, and ends with 1
        if not alive or (self._status is not None and not self._out):
            self._close()
        else:
            self.loop.watch(self.socket.fileno(), READ | WRITE if self._out or self._can_run else READ, self._ready)

    def _receive(self) -> bool:
        """False at the end of the connection."""
        try:
            chunk = self.socket.recv(1 << 16)
        except BlockingIOError:
            return True
        self._received += chunk
        while len(self._received) >= 5:
            length = int.from_bytes(self._received[1:5], "big")
            if length > LONGEST:
                return False
            if len(self._received) < 5 + length:
                break
            kind, payload = self._received[:1], bytes(self._received[5:5 + length])
            del self._received[:5 + length]
            self._frame(bytes(kind), payload)
        return bool(chunk)

    def _frame(self, kind: bytes, payload: bytes) -> None:
        if kind == b"a" and self.run is None:
            tool, directory, zone, process, *arguments = (os.fsdecode(word) for word in payload.split(b"\0"))
            pid, _, spawner = process.partition(" ")
            self.run = self.start(Call(tool, directory, zone, pid, spawner, arguments))
        elif kind == b"i" and self._input is not None:
            self._input += payload
            if not payload:
                self._answer, self._input = bytes(self._input), None

    def _advance(self) -> None:
        """Let the tool run until it has said much, or needs standard input, or has had its time."""
        assert self.run is not None
        until = time.monotonic() + SLICE
        try:
            while len(self._out) + len(self._said) < HIGH_WATER and time.monotonic() < until:
                answer, self._answer = self._answer, None
                kind, text = self.run.send(answer)
                if kind == WAIT:
                    self._waiting = True
                    self.wait(self._woken)
                    return
                if kind == STDIN:
                    self._input = bytearray()
                    self._put(LETTERS[kind], b"")
                    return
                self._say(LETTERS[kind], text.encode("latin-1", "replace"))
        except StopIteration as done:
            self._status = int(done.value)
            self._put(b"x", str(self._status).encode())
        finally:
            self._say(b"", b"")

    def _say(self, letter: bytes, text: bytes) -> None:
        """Gather what goes to one stream, as stdio does: ten thousand lines are not ten thousand writes."""
        if letter != self._letter:
            said, self._said = bytes(self._said), bytearray()
            if said:
                self._put(self._letter, said)
            self._letter = letter
        self._said += text

    def _put(self, letter: bytes, payload: bytes) -> None:
        """A frame, after what was said before it."""
        if self._said:
            self._say(b"", b"")
        self._out += letter + len(payload).to_bytes(4, "big") + payload

    def _flush(self) -> None:
        try:
            while self._out:
                del self._out[:self.socket.send(self._out[:1 << 16])]
        except BlockingIOError:
            pass
