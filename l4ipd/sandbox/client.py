"""The commands: hand the words and standard input to the sandbox process, write what it answers, end as it says.

This file is run as a plain script for every change of a rule, so it must start fast: ``python3 -I -S client.py -s
SOCKET ipnat -f -`` imports nothing that the bare interpreter has not already, except the built-in socket type. When no
sandbox answers, each command behaves as the real one does without its device (FACTS.md 2b-2, ipnat-input-misc.txt).

Frames, both ways: one letter, four bytes of length, the payload. To the process: ``a`` the tool, the working directory,
TZ, the process id and its parent's, and the words, joined by NUL; ``i`` standard input, empty at its end. From it:
``o`` and ``e`` for standard output and error, ``i`` a wish for standard input, ``x`` the exit status.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket  # the module socket costs five milliseconds, signal two
import posix as os
import sys

NOT_THERE = "open: No such file or directory\n"


def main(words: list[str]) -> int:
    """``[-s SOCKET] TOOL ARGUMENTS``; returns the exit status."""
    path = os.environ.get(b"L4IP_SANDBOX", b"")
    if words[:1] == ["-s"]:
        path = words[1].encode() if len(words) > 1 else b""
        words = words[2:]
    if not words:
        sys.stderr.write("usage: client.py [-s SOCKET] ipnat|ipf|ipfstat|ipmon [ARGUMENTS]\n")
        return 2
    tool, arguments = words[0], words[1:]
    server = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        server.connect(path)
    except OSError:
        return no_device(tool, arguments)
    try:
        if tool == "ipmon":
            _signal.signal(_signal.SIGHUP, _signal.SIG_IGN)
        send(server, b"a", b"\0".join([tool.encode(), os.getcwd().encode("utf-8", "surrogateescape"),
                                       os.environ.get(b"TZ", b""), b"%d %d" % (os.getpid(), os.getppid()),
                                       *(word.encode("utf-8", "surrogateescape") for word in arguments)]))
        return converse(server, tool)
    except BrokenPipeError:
        return gone(tool)


def converse(server: _socket.socket, tool: str) -> int:
    """Write what comes until the exit status does."""
    received = b""
    while True:
        chunk = server.recv(65536)
        if not chunk:
            return gone(tool)
        received += chunk
        while len(received) >= 5:
            end = 5 + int.from_bytes(received[1:5], "big")
            if len(received) < end:
                break
            kind, payload, received = received[:1], received[5:end], received[end:]
            if kind == b"x":
                return int(payload)
            if kind == b"i":
                feed(server)
            else:
                write(1 if kind == b"o" else 2, payload)


def feed(server: _socket.socket) -> None:
    while True:
        chunk = os.read(0, 65536)
        send(server, b"i", chunk)
        if not chunk:
            return


def send(server: _socket.socket, kind: bytes, payload: bytes) -> None:
    server.sendall(kind + len(payload).to_bytes(4, "big") + payload)


def write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data):]


def gone(tool: str) -> int:
    """The sandbox process ended meanwhile."""
    if tool == "ipmon":
        sys.stderr.write("0:read\n")
        return 0
    sys.stderr.write(f"{tool}: the sandbox has gone\n")
    return 1


# -- without a sandbox process


def no_device(tool: str, arguments: list[str]) -> int:
    """What the real tool does when its device is missing. Only ``-n`` needs none, and with it the whole grammar."""
    if tool in ("ipnat", "ipf"):
        return run_here(tool, arguments)
    if tool == "ipfstat":
        sys.stderr.write("open(IPSTATE_NAME): No such file or directory\n")
        return 255
    if tool == "ipmon":
        sys.stderr.write("/dev/ipl: " + NOT_THERE)
        return 1
    sys.stderr.write(f"{tool}: no such tool\n")
    return 2


def run_here(tool: str, arguments: list[str]) -> int:
    here = __file__ if __file__.startswith("/") else os.getcwd() + "/" + __file__
    sys.path.insert(0, here.rpartition("/l4ipd/")[0])
    from l4ipd.sandbox.tools.offline import run
    return run(tool, arguments, os.getcwd())


if __name__ == "__main__":
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)            # a reader who has gone ends a tool, as it does in C
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)
