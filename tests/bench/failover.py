"""How long clients suffer when a service dies: l4ipd with sensing, and with probes alone, in the sandbox.

::

    python tests/bench/failover.py [--kills 50] [--clients 8] [--interval 1] [--fall 2]

Three members serve clients that connect all the time. A member is killed (its port refuses from then on), and started
again when its rules are gone. Measured are the time from the first connection that fails to the end of the ipnat that
removes the rule, and how many connections fail. The daemon's brain runs in this process, so that the end of ipnat is
seen in the turn in which it is; everything else is a process of its own.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from l4ipd.config.parse import parse  # noqa: E402
from l4ipd.daemon import Daemon  # noqa: E402
from l4ipd.runtime.child import Child, Exit  # noqa: E402
from l4ipd.runtime.loop import Loop  # noqa: E402
from l4ipd.sandbox import serve_words, tool_words  # noqa: E402

VIP, MEMBERS = "127.0.0.1", ("127.0.0.21", "127.0.0.22", "127.0.0.23")
REST = 0.5                                          # seconds between a removal and the restart of the member


@dataclass
class Run:
    """What was measured."""

    name: str
    removal: list[float] = field(default_factory=list)      # seconds from the first failure to the end of ipnat
    failed: list[int] = field(default_factory=list)         # connections per kill
    silent: int = 0                                         # kills that no client noticed


class Bench:
    """Kills members one after the other, and starts them again."""

    def __init__(self, run: Run, options: argparse.Namespace, sensing: bool, directory: str) -> None:
        self.run, self.kills = run, options.kills
        self.port, self.inside = free_port(), free_port()
        self.loop = Loop()
        self.sandbox = subprocess.Popen(serve_words(f"{directory}/s"), stdin=subprocess.DEVNULL, cwd=ROOT,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.sandbox.stdout is not None and self.sandbox.stdout.readline() == b"ready\n"
        tools = "".join(f"{name}: [{', '.join(words)}], " for name, words in tool_words(f"{directory}/s").items())
        members = ", ".join(f"m{number}: {address}" for number, address in enumerate(MEMBERS))
        self.daemon = Daemon(self.loop, parse(
            f"pidfile: {directory}/pid\nstate: {directory}/state\ncontrol: {directory}/control\n"
            f"ipfilter: {{interface: lo0, {tools}}}\n" + ("resets: {interface: lo0}\n" if sensing else "") +
            f"defaults: {{interval: {options.interval}, timeout: {min(0.5, options.interval)}, rise: 1, fall: "
            f"{options.fall}, flap: no}}\nclusters: {{www: {{address: {VIP}, members: {{{members}}}, services: {{http: "
            f"{{port: {self.port}, member_port: {self.inside}}}}}}}}}\n", "bench"), 1000)
        self.daemon.events.listeners.clear()
        self.members = {address: self.member(address) for address in MEMBERS}
        self.load = Child(self.loop, (sys.executable, __file__, "load", str(self.port), str(options.clients)),
                          timeout=None, done=lambda end: None, output=self.failed, hold_stdin=True)
        self.failures: list[float] = []
        self.rest = b""
        self.victim, self.killed, self.removed = "", 0.0, 0.0
        self.loop.hook(self.look)

    def member(self, address: str) -> Child:
        return Child(self.loop, (sys.executable, __file__, "member", address, str(self.inside)), timeout=None,
                     done=ended, hold_stdin=True)

    def failed(self, chunk: bytes) -> bool:
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        self.failures += [float(line) for line in lines]
        return False

    def look(self) -> None:
        """The hook of the loop."""
        have = " ".join(self.daemon.steering.rules.have)
        if self.victim and not self.removed and f"-> {self.victim} " not in have:
            self.removed = time.monotonic()
            self.loop.later(REST, self.settle)
        elif (not self.victim and all(f"-> {address} " in have for address in MEMBERS)
              and self.daemon.steering.rules.settled):
            self.victim = MEMBERS[len(self.run.failed) % len(MEMBERS)]
            self.killed, self.removed = 0.0, 0.0
            self.loop.later(0.2, self.kill)

    def kill(self) -> None:
        self.failures.clear()
        self.killed = time.monotonic()
        os.kill(self.members[self.victim].pid, signal.SIGKILL)

    def settle(self) -> None:
        """Count, start the member again, and go on when it has its rule."""
        since = [when for when in self.failures if when >= self.killed]
        self.run.failed.append(len(since))
        if since and since[0] < self.removed:
            self.run.removal.append(self.removed - since[0])
        else:
            self.run.silent += 1
        progress(f"{self.run.name}: {len(self.run.failed)} of {self.kills}")
        if len(self.run.failed) >= self.kills:
            self.loop.stop()
            return
        self.members[self.victim] = self.member(self.victim)
        self.victim = ""
        self.removed = 0.0

    def go(self) -> None:
        self.loop.later(0.5, self.daemon.start)
        try:
            self.loop.run()
        finally:
            self.daemon.sensing.stop(remove=False)
            for child in (self.load, *self.members.values()):
                child.kill()
            self.sandbox.terminate()
            self.sandbox.wait()
            self.loop.close()


def ended(end: Exit) -> None:
    if end.stderr:
        sys.stderr.write(end.stderr.decode())


def progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text}\x1b[K")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


# -- processes of their own

def member(address: str, port: int) -> None:
    """Accept, answer, close; until killed, or until standard input ends."""
    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with socket.create_server((address, port), backlog=128) as server:
        while True:
            client, _ = server.accept()
            try:
                client.recv(100)
                client.sendall(b"hello")
            except OSError:
                pass
            client.close()


def load(port: int, clients: int) -> None:
    """Clients that connect, ask and leave, one after the other; the time of every failure is printed."""
    def client() -> None:
        while True:
            try:
                with socket.create_connection((VIP, port), timeout=5) as connection:
                    connection.sendall(b"x")
                    if connection.recv(100) != b"hello":
                        raise ConnectionError
            except OSError:
                os.write(1, f"{time.monotonic()}\n".encode())
            time.sleep(0.005)

    for _ in range(clients):
        threading.Thread(target=client, daemon=True).start()
    sys.stdin.read()


# -- the table

def milliseconds(values: list[float]) -> tuple[str, str]:
    if not values:
        return "-", "-"
    return f"{statistics.median(values) * 1000:.1f} ms", f"{max(values) * 1000:.1f} ms"


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    words.add_argument("--kills", type=int, default=50)
    words.add_argument("--clients", type=int, default=8, help="how many connect at the same time (%(default)s)")
    words.add_argument("--interval", type=float, default=1.0, help="of the probes, in seconds (%(default)s)")
    words.add_argument("--fall", type=int, default=2, help="failed probes until down (%(default)s)")
    options = words.parse_args()
    runs = [Run("sensing"), Run("probes alone")]
    for run, sensing in zip(runs, (True, False), strict=True):
        with tempfile.TemporaryDirectory() as directory:
            Bench(run, options, sensing, directory).go()
    progress("")
    print(f"{options.kills} kills each, {options.clients} clients, probes every {options.interval:g} s, "
          f"fall {options.fall}")
    print(f"{'':14}{'refusal to removal':^24}{'failed connections per kill':^30}")
    print(f"{'':14}{'median':>12}{'worst':>12}{'median':>15}{'worst':>15}")
    for run in runs:
        median, worst = milliseconds(run.removal)
        print(f"{run.name:14}{median:>12}{worst:>12}{statistics.median(run.failed):>15g}{max(run.failed):>15}"
              + (f"   ({run.silent} kills that no client noticed)" if run.silent else ""))


if __name__ == "__main__":
    if sys.argv[1:2] == ["member"]:
        member(sys.argv[2], int(sys.argv[3]))
    elif sys.argv[1:2] == ["load"]:
        load(int(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
