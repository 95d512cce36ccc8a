"""What it costs to count sessions: 100,000 of them, while 1,000 endpoints are probed each second.

    python tests/bench/sessions.py [--sessions 100000] [--endpoints 1000] [--seconds 20]

A daemon in this process, members on loopback in another, and an ipnat that writes its listing as fast as it is read.
First nobody counts for some seconds, then somebody does each second. Printed for both: how late the first timer of a
turn was at most and in 99.9 of 100 turns, how much CPU a turn took at most, memory; and how long a count took. On a
machine that does other work too: nice -n -19.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import select
import socket
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))

from l4ipd.daemon import Daemon
from l4ipd.ipfilter.session_count import Count
from l4ipd.model import Check, Cluster, Config, Ipfilter, Member, Service
from l4ipd.runtime import child
from l4ipd.runtime.loop import Loop

TOOL = """#!/bin/sh
case "$*" in
-s) printf '%d\\tactive\\n' {sessions} ;;
*-l*) exec cat {listing} ;;
esac
"""
VIPS = 10                                           # services


def serve(listener: socket.socket) -> None:
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        poll.poll()
        try:
            listener.accept()[0].close()
        except OSError:
            continue


def configuration(tool: str, port: int, endpoints: int) -> Config:
    check = Check("tcp", interval=1.0, timeout=0.9, fast_interval=1.0, down_interval=1.0)
    services = tuple(Service(f"s{number}", 1000 + number, "tcp", port, False, (check,)) for number in range(VIPS))
    members = tuple(Member(f"m{number}", f"127.1.{number // 250}.{1 + number % 250}")
                    for number in range(endpoints // VIPS))
    return Config(Ipfilter("em0", ipnat=(tool,), ipf=("true",), resync=10.0),
                  (Cluster("c", ("203.0.113.10",), services, members),))


def write_listing(path: Path, daemon: Daemon, sessions: int) -> None:
    monitors = list(daemon.fleet.monitors.values())
    with path.open("w") as file:
        file.write("List of active MAP/Redirect filters:\n")
        file.writelines(f"{line}\n" for monitor in monitors for line in daemon.steering.lines(monitor))
        file.write("\nList of active sessions:\n")
        for number in range(sessions):
            to = monitors[number % len(monitors)].endpoint
            file.write(f"RDR {to.address:<15} {to.member_port:<5} <- -> {to.vips[0]:<15} {to.port:<5} "
                       f"[198.51.{number >> 8 & 255}.{number & 255} {1024 + number % 60000}] tcp\n")


def resident() -> float:
    """MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 1e6


class Watch:
    """Looks at every turn of the loop."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.late, self.turns, self.last, self.memory = loop, [0.0], [0.0], time.thread_time(), 0.0
        loop.hook(self.look)

    def look(self) -> None:
        now = time.thread_time()
        self.turns.append(now - self.last)
        self.last = now
        if self.loop.lateness > 0:
            self.late.append(self.loop.lateness)

    def sample(self) -> None:
        self.memory = max(self.memory, resident())
        self.loop.later(0.01, self.sample)

    def say(self, what: str) -> None:
        late = sorted(self.late)
        print(f"{what:20} late at most {late[-1] * 1e3:6.1f} ms, 99.9 % {late[int(len(late) * 0.999)] * 1e3:6.1f} ms; "
              f"most CPU in a turn {max(self.turns) * 1e3:6.1f} ms; memory {self.memory:6.1f} MB", flush=True)
        self.late, self.turns, self.memory = [0.0], [0.0], 0.0


def run(loop: Loop, seconds: float) -> None:
    loop.later(seconds, loop.stop)
    loop.run()


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("--sessions", type=int, default=100_000)
    words.add_argument("--endpoints", type=int, default=1000)
    words.add_argument("--seconds", type=float, default=20.0)
    options = words.parse_args()
    with socket.create_server(("0.0.0.0", 0), backlog=1024) as listener, tempfile.TemporaryDirectory() as directory:
        farm = multiprocessing.Process(target=serve, args=(listener,), daemon=True)
        farm.start()
        tool, listing = Path(directory, "ipnat"), Path(directory, "listing")
        tool.write_text(TOOL.format(sessions=options.sessions, listing=listing))
        tool.chmod(0o755)
        loop = Loop()
        daemon = Daemon(loop, configuration(str(tool), listener.getsockname()[1], options.endpoints), 4096)
        listing.touch()
        daemon.start()
        write_listing(listing, daemon, options.sessions)
        watch = Watch(loop)
        watch.sample()
        run(loop, 5.0)
        watch.say("start")
        run(loop, options.seconds)
        watch.say("nobody counts")
        took: list[float] = []

        def ask() -> None:
            asked = time.monotonic()

            def told(count: Count) -> None:
                assert count.total == options.sessions and not count.problem, count.problem
                assert sum(count.by_name.values()) == options.sessions
                took.append(time.monotonic() - asked)

            daemon.sessions.want(told)
            loop.later(1.0, ask)

        ask()
        run(loop, options.seconds)
        watch.say("one count a second")
        up = sum(monitor.up for monitor in daemon.fleet.monitors.values())
        print(f"{len(took)} counts; one took {sorted(took)[len(took) // 2] * 1e3:.0f} ms, the slowest "
              f"{max(took) * 1e3:.0f} ms; {up} of {options.endpoints} up")
        child.end_all()
        farm.terminate()


if __name__ == "__main__":
    main()
