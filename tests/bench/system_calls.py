"""System calls that one probe takes, by name: counted by strace(1) on Linux, by truss(1) on FreeBSD.

    python tests/bench/system_calls.py [--probes 2000] [--batch 50] [--poller kqueue]

The members are in a process of their own, on loopback. What is counted of no probe at all is taken off. "--poller
kqueue" counts on Linux, on a model of kqueue, what FreeBSD would be asked; its kevent is a line of its own.
"""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))
sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from probe_cost import as_elsewhere, listen, recipes, serve

from l4ipd.checks import socket_pool
from l4ipd.checks.probe import Prober
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.poller import Kqueue
from support import kqueue_model


def probe(kind: str, members: str, probes: int, batch: int, modelled: bool) -> None:
    """What is traced."""
    if modelled:                                    # what only Linux has
        socket_pool.CONNECT = socket_pool.DEFER = None
    loop = Loop(poller=Kqueue(kqueue_model) if modelled else None)
    prober = as_elsewhere(Prober(loop))
    left = 0

    def done(verdict: Verdict) -> None:
        nonlocal left
        left -= 1
        if not verdict.passed:
            raise SystemExit(str(verdict))

    addresses = [member.split(":") for member in members.split(",")]
    every = recipes(Check(kind), [(address, int(port)) for address, port in addresses])
    for first in range(0, probes, batch):
        left += batch
        for number in range(first, first + batch):
            prober.start(every[number % len(every)], done)
        while left:
            loop.turn()
    if modelled:
        print(loop._poller._kqueue.calls)           # type: ignore[attr-defined]


def traced(arguments: list[str]) -> tuple[collections.Counter[str], str]:
    """How often each system call was made by a run of this file, and what that said."""
    tool = shutil.which("strace") or shutil.which("truss")
    if tool is None:
        raise SystemExit("neither strace nor truss is here")
    with tempfile.NamedTemporaryFile() as table:
        said = subprocess.run([tool, "-c", "-o", table.name, sys.executable, __file__, *arguments], check=True,
                              capture_output=True, text=True).stdout
        rows = [line.split() for line in Path(table.name).read_text().splitlines()]
    counts: collections.Counter[str] = collections.Counter()
    for row in rows:                                # strace: share, seconds, each, calls, [errors,] name
        if len(row) > 4 and row[3].isdigit() and row[-1] != "total":
            counts[row[-1]] += int(row[3])
        elif len(row) == 4 and row[2].isdigit():    # truss: name, seconds, calls, errors
            counts[row[0]] += int(row[2])
    return counts, said


def main() -> None:
    parser = argparse.ArgumentParser(description="system calls a probe")
    parser.add_argument("--probes", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--poller", choices=("own", "kqueue"), default="own")
    parser.add_argument("--traced", nargs=2, metavar=("KIND", "MEMBERS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    modelled = options.poller == "kqueue"
    if options.traced:
        kind, members = options.traced
        probe(kind, members, options.probes, options.batch, modelled)
        return
    listeners = listen(50)
    members = ",".join("{}:{}".format(*listener.getsockname()) for listener in listeners)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listeners,), daemon=True)
    server.start()
    for kind in ("tcp", "http"):
        more = ["--poller", options.poller, "--batch", str(options.batch), "--traced", kind, members]
        idle, _ = traced(["--probes", "0", *more])
        busy, said = traced(["--probes", str(options.probes), *more])
        if modelled:                                # its own looks at descriptors, and its wait
            for name in ("fstat", "newfstatat", "poll"):
                busy.pop(name, None)
            busy["kevent"] = int(said)
        calls = {name: (count - idle[name]) / options.probes for name, count in busy.items()}
        words = ", ".join(f"{name} {count:.2f}" for name, count in sorted(calls.items(), key=lambda each: -each[1])
                          if count > 0.005)
        print(f"{kind:5} {sum(each for each in calls.values() if each > 0):.2f} system calls a probe: {words}")
    server.kill()


if __name__ == "__main__":
    main()
