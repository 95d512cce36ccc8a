"""How long the loop is busy with one thing while the kernel's table is read: ``silence.py FOREIGN [OURS]``, in rules.

Prints, for five listings in a row, the longest turn of the loop and all of them together, in milliseconds of CPU.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from pathlib import Path

from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.model import Ipfilter
from l4ipd.runtime.loop import Loop


def main() -> None:
    foreign, ours = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 100
    others = [f"rdr em0 198.51.{n // 250 % 250}.{n % 250}/32 port {1000 + n % 60000} -> 10.1.2.3/32 port 8080 tcp "
              "round-robin tag other" for n in range(foreign)]
    want = [f"rdr em0 203.0.113.10/32 port {1 + n // 5} -> 10.0.0.{2 + n % 5} port 8080 tcp round-robin tag l4ip"
            for n in range(ours)]
    listed = [line.replace(" port 8080", "/32 port 8080") for line in want]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "list").write_text("\n".join(["List of active MAP/Redirect filters:", *others, *listed, "",
                                                      "List of active sessions:", ""]))
        tool = Path(directory, "ipnat")
        tool.write_text(f"#!/bin/sh\nexec cat {directory}/list\n")
        tool.chmod(0o755)
        measure(str(tool), want)


def measure(tool: str, want: list[str]) -> None:
    loop = Loop()
    nat = NatTable(Ipfilter(ipnat=(tool,)), Dialect(), lambda line: None, lambda: rules.want)
    rules = Reconciler(loop, nat.table, 20.0, 3600.0, removal=lambda line: None, listed=nat.listed)
    rules.want = dict.fromkeys(want)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)                # as in the daemon
    turns: list[float] = []
    poll, woken = loop._poller.poll, time.thread_time()

    def polled(timeout: float | None) -> list[tuple[int, int]]:
        nonlocal woken
        turns.append(time.thread_time() - woken)
        ready = poll(timeout)
        woken = time.thread_time()
        return ready

    loop._poller.poll = polled                      # type: ignore[method-assign]
    loop.hook(lambda: loop.stop() if rules.settled else None)
    for _ in range(5):
        turns.clear()
        woken = time.thread_time()
        loop.run()
        print(f"longest turn {max(turns) * 1000:.1f} ms, all {sum(turns) * 1000:.0f} ms, {len(turns)} turns")
        rules.reread()


if __name__ == "__main__":
    main()
