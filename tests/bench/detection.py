"""How soon a member's death, and its return, is told with the defaults: l4ipd beside HAProxy, on the same members.

    python tests/bench/detection.py [--members 20] [--rounds 5] [--tree DIR ...]

Every subject checks the same members on loopback over http, all at the same time, each at its own default pace. In
every round they all die at one moment, which meets each subject's probes of each member at another phase: in one round
they fall silent (they accept, and never answer), in the next one they refuse. When everybody has noticed they come
back. Measured is the time from that moment to the subject's line about the member. Other source trees of l4ipd can be
measured in the same run. HAProxy is left out where it is not installed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 60.0                                     # seconds for everybody to notice
LINE = {"l4ipd": re.compile(r"www/http/m(\d+) \S+ .*-> (up|down):"),
        "haproxy": re.compile(r"Server www/m(\d+) is (UP|DOWN)")}


class Members:
    """Web servers that serve, refuse or are silent, all alike."""

    def __init__(self, count: int) -> None:
        self.addresses = [f"127.0.5.{number}" for number in range(1, count + 1)]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.silent = False
        self._open: list[socket.socket] = []

    def serve(self) -> None:
        self.silent = False
        if not self._open:
            self._open = [socket.create_server((address, self.port), backlog=64) for address in self.addresses]
            for listener in self._open:
                threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def refuse(self) -> None:
        for listener in self._open:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        self._open.clear()

    def fall_silent(self) -> None:
        self.silent = True

    def _accept(self, listener: socket.socket) -> None:
        held = []                                   # by whoever is silent, until the end
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self.silent:
                held.append(client)
                continue
            with contextlib.suppress(OSError), client:
                client.settimeout(1)
                client.recv(1000)
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n")


class Subject:
    """A process whose lines tell what it thinks of the members."""

    def __init__(self, name: str, kind: str, words: list[str], tree: Path = ROOT) -> None:
        self.name, self._line = name, LINE[kind]
        self.told: dict[int, tuple[bool, float]] = {}       # member: up, since when
        self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd="/",
                                         stderr=subprocess.STDOUT, env={**os.environ, "PYTHONPATH": str(tree)})
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            found = self._line.search(line.decode(errors="replace"))
            if found:
                self.told[int(found[1])] = (found[2].lower() == "up", time.monotonic())

    def times(self, members: int, up: bool, since: float) -> list[float] | None:
        """How long each took; None if not everybody is told of yet."""
        told = [when - since for state, when in self.told.values() if state == up and when > since]
        return told if len(told) == members else None

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def l4ipd(name: str, tree: Path, members: Members, directory: str) -> Subject:
    config = Path(directory, f"{name}.conf")
    listed = ", ".join(f"m{number}: {address}" for number, address in enumerate(members.addresses))
    flap = "defaults: {flap: no}\n" if (tree / "l4ipd/config/flap_section.py").exists() else ""    # 1.0.3 knows none
    config.write_text(f"ipfilter: {{interface: lo0}}\n{flap}"
                      "clusters: {www: {address: 127.0.0.1, services: {http: {port: "
                      f"{members.port}, check: http}}}}, members: {{{listed}}}}}}}\n")
    return Subject(name, "l4ipd", [sys.executable, "-m", "l4ipd", "-d", "--sandbox", "-c", str(config)], tree)


def haproxy(members: Members, directory: str) -> Subject:
    config = Path(directory, "haproxy.cfg")
    servers = "".join(f"  server m{number} {address}:{members.port} check\n"
                      for number, address in enumerate(members.addresses))
    config.write_text("global\n  log stdout format raw local0\ndefaults\n  mode tcp\n  log global\n"
                      f"listen www\n  option httpchk\n  bind unix@{directory}/haproxy\n{servers}")
    return Subject("HAProxy", "haproxy", ["haproxy", "-db", "-f", str(config)])


def await_all(subjects: list[Subject], members: int, up: bool, since: float) -> dict[str, list[float]]:
    end = time.monotonic() + PATIENCE
    while any(subject.times(members, up, since) is None for subject in subjects):
        if time.monotonic() > end:
            raise SystemExit(f"never noticed: {[s.name for s in subjects if s.times(members, up, since) is None]}")
        time.sleep(0.1)
    return {subject.name: subject.times(members, up, since) or [] for subject in subjects}


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    words.add_argument("--members", type=int, default=20)
    words.add_argument("--rounds", type=int, default=5, help="of each kind of death (%(default)s)")
    words.add_argument("--tree", action="append", default=[], help="another source tree of l4ipd to measure")
    options = words.parse_args()
    members = Members(options.members)
    members.serve()
    kinds = {"refuses": members.refuse, "is silent": members.fall_silent, "is back": members.serve}
    taken: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        trees = {"l4ipd": ROOT, **{f"l4ipd ({tree})": Path(tree).resolve() for tree in options.tree}}
        subjects = [l4ipd(name, tree, members, directory) if name == "l4ipd" else
                    l4ipd(name.replace("/", "."), tree, members, directory) for name, tree in trees.items()]
        if shutil.which("haproxy"):
            subjects.append(haproxy(members, directory))
        try:
            time.sleep(12)                          # until everybody is up for all, and beyond doubt
            for number in range(2 * options.rounds):
                for kind, up in (("refuses" if number % 2 else "is silent", False), ("is back", True)):
                    time.sleep(random.uniform(6, 11))
                    began = time.monotonic()
                    kinds[kind]()
                    for name, times in await_all(subjects, options.members, up, began).items():
                        taken.setdefault((name, kind), []).extend(times)
        finally:
            for subject in subjects:
                subject.stop()
    print(f"{options.members} members, {options.rounds} rounds; seconds, median and worst")
    print(f"{'':24}" + "".join(f"{kind:>18}" for kind in kinds))
    for subject in subjects:
        cells = (f"{statistics.median(taken[subject.name, kind]):10.1f}{max(taken[subject.name, kind]):8.1f}"
                 for kind in kinds)
        print(f"{subject.name[-24:]:24}" + "".join(cells))


if __name__ == "__main__":
    main()
