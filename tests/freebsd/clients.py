"""Clients, and who watches meanwhile. Every line on standard output is written at once.

burst ADDRESS PORT [SOURCE]   connect again and again, from SOURCE if it is given; a line for each: when, and the name
                              that the member told, or refused, silent, or what else went wrong
hold ADDRESS PORT COUNT FILE  connect COUNT times and tell the names; when FILE is there, say something in every
                              session, and tell which is alive
watch COUNT PATTERN WORDS...  run a command until COUNT lines of what it says match PATTERN; how long that took, and
                              when it was
ports COUNT                   ports that are free here

Times are seconds of the system's monotonic clock, which all processes of a machine have in common.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

PATIENCE = 5.0                                      # seconds until a member is called silent
LONGEST = 60.0                                      # seconds that anything is waited for
EPHEMERAL = 32768                                   # from here on a system may give ports to anybody


def tell(*words: object) -> None:
    print(*words, flush=True)


def connect(address: str, port: int, source: str = "") -> tuple[socket.socket | None, str]:
    """A session and who is at its other end; or None and what happened."""
    try:
        session = socket.create_connection((address, port), PATIENCE, (source, 0) if source else None)
    except OSError as error:
        return None, outcome(error)
    try:
        name = read_line(session)
    except OSError as error:
        session.close()
        return None, outcome(error)
    if name:
        return session, name
    session.close()
    return None, "closed"


def outcome(error: OSError) -> str:
    """What a client says of it. A user-space relay can refuse only what it has accepted: that is a reset."""
    if isinstance(error, (ConnectionRefusedError, ConnectionResetError)):
        return "refused"
    return "silent" if isinstance(error, TimeoutError) else (error.strerror or str(error)).replace(" ", "-")


def read_line(session: socket.socket) -> str:
    """What comes before the end of the line; nothing if the other side leaves before that."""
    data = b""
    while not data.endswith(b"\n"):
        chunk = session.recv(1)
        if not chunk:
            return ""
        data += chunk
    return data.decode().strip()


def burst(address: str, port: int, source: str, count: int, interval: float, until: str) -> int:
    """``count`` connections, or as many as there is time for until the file is there."""
    end = time.monotonic() + LONGEST
    for number in itertools.count(1):
        session, told = connect(address, port, source)
        if session is not None:
            session.close()
        now = time.monotonic()
        tell(f"{now:.3f}", told)
        if number == count or now > end or (until and os.path.exists(until)):
            break
        time.sleep(interval)
    return 0


def hold(address: str, port: int, count: int, file: str) -> int:
    held = [connect(address, port) for _ in range(count)]
    for _, told in held:
        tell(told)
    for _ in ticks():
        if os.path.exists(file):
            break
    for session, told in held:
        if session is not None:
            tell(told, is_alive(session))
    return 0


def is_alive(session: socket.socket) -> str:
    try:
        session.sendall(b"still there?\n")
        return "alive" if read_line(session) else "ended"
    except TimeoutError:
        return "silent"
    except OSError:
        return "ended"


def watch(count: int, pattern: str, command: Sequence[str]) -> int:
    began = time.monotonic()
    for _ in ticks():
        said = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
        now = time.monotonic()
        if said.returncode == 0 and len(re.findall(f"(?m){pattern}", said.stdout.decode(errors="replace"))) == count:
            tell(f"{now - began:.2f} {now:.3f}")
            return 0
    return 1


def ticks() -> Iterator[None]:
    """For as long as anything is worth waiting for."""
    end = time.monotonic() + LONGEST
    while time.monotonic() < end:
        yield
        time.sleep(0.03)


def ports(count: int) -> int:
    found = set[int]()
    while len(found) < count:
        port = random.randrange(10000, EPHEMERAL)
        if is_free("127.0.0.1", port) and is_free("::1", port):
            found.add(port)
    tell(*found)
    return 0


def is_free(address: str, port: int) -> bool:
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
            probe.bind((address, port))
    except OSError:
        return ":" in address and not has_ipv6()
    return True


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


def main(argv: Sequence[str]) -> int:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = words.add_subparsers(dest="command", required=True)
    for name in ("burst", "hold"):
        command = commands.add_parser(name)
        command.add_argument("address")
        command.add_argument("port", type=int)
        if name == "burst":
            command.add_argument("source", nargs="?", default="")
            command.add_argument("--count", type=int, default=0)
            command.add_argument("--interval", type=float, default=0.05)
            command.add_argument("--until", metavar="FILE", default="")
        else:
            command.add_argument("count", type=int)
            command.add_argument("file")
    command = commands.add_parser("watch")
    command.add_argument("count", type=int)
    command.add_argument("pattern")
    command.add_argument("words", nargs=argparse.REMAINDER)
    commands.add_parser("ports").add_argument("count", type=int)
    options = words.parse_args(argv)
    if options.command == "burst":
        return burst(options.address, options.port, options.source, options.count, options.interval, options.until)
    if options.command == "hold":
        return hold(options.address, options.port, options.count, options.file)
    if options.command == "watch":
        return watch(options.count, options.pattern, options.words)
    return ports(options.count)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
