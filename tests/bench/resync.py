"""What it costs to look for what others have removed, and how soon that is put back, by the number of rules.

``python3 tests/bench/resync.py [RULES…]``: the daemon's reconciler for the NAT table, on the sandbox's kernel, whose
tools are Python programs. Prints the share of a core that it takes when nothing happens (its own and its children's),
and the seconds from a flush to the last rule that is back: the mean, and the longest.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from l4ipd.ipfilter.conflicts import Conflicts
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.ipfilter.resync import Budget
from l4ipd.model import Ipfilter
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox import tool_words
from support.sandbox_tools import Sandbox, sandbox

REST = 30.0                                         # seconds for which nothing happens
FLUSHES = 6


class Bench:
    def __init__(self, kernel: Sandbox, rules: int) -> None:
        self.kernel, self.loop = kernel, Loop()
        self.settings = Ipfilter(interface="ext0", ipnat=tuple(tool_words(kernel.path)["ipnat"]))
        self.nat = NatTable(self.settings, Dialect("6.0.0", True, True), lambda line: None, lambda: self.it.want)
        self.it = Reconciler(self.loop, self.nat.table, self.settings.timeout, self.settings.resync, budget=Budget(),
                             removal=lambda line: "drain", listed=lambda: self.nat.listed())
        self.it.want = {f"rdr ext0 203.0.113.1/32 port {1000 + number // 200} -> 10.0.0.{number % 200 + 1} port 80 tcp "
                        "round-robin tag l4ip": None for number in range(rules)}

    def run(self, seconds: float) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()

    def until_whole(self) -> None:
        while len(self.it.have) < len(self.it.want) or not self.it.settled:
            self.run(0.01)

    def price(self) -> float:
        began, spent = time.monotonic(), used()
        self.run(REST)
        return (used() - spent) / (time.monotonic() - began)

    def repair(self) -> float:
        self.it.conflicts = Conflicts(lambda line: "")    # a conflict would be another measurement
        self.run(random.uniform(0, self.it.resync.interval))
        flushed, repairs = time.monotonic(), self.it.repairs
        self.kernel.ipnat("-CF")
        while self.it.repairs == repairs or len(self.it.have) < len(self.it.want):
            self.run(0.01)
        return time.monotonic() - flushed


def used() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def main() -> None:
    print(f"{'rules':>6} {'interval':>9} {'price':>8} {'repaired':>9} {'longest':>8}")
    for rules in map(int, sys.argv[1:] or ("10", "100", "1000", "10000")):
        with sandbox() as kernel:
            bench = Bench(kernel, rules)
            bench.until_whole()
            bench.run(5.0)
            price = bench.price()
            repairs = [bench.repair() for _ in range(FLUSHES)]
            print(f"{rules:6} {bench.it.resync.interval:7.1f} s {price:8.2%} {sum(repairs) / FLUSHES:7.1f} s "
                  f"{max(repairs):6.1f} s", flush=True)
            bench.loop.close()


if __name__ == "__main__":
    main()
