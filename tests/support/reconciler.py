"""A reconciler on a simulated clock, for ipnat's table or ipf's, whose tools meet the faults that a test wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from l4ipd.ipfilter import log_rules
from l4ipd.ipfilter.filter_table import FilterTable
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.rdr import owned, parse
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.model import Ipfilter
from support.simulated_tools import LISTING, World

FOREIGN = ["rdr ext0 203.0.113.1/32 port 25 -> 10.0.0.7 port 25 tcp round-robin",
           "rdr ext0 203.0.113.1/32 port 26 -> 10.0.0.7 port 25 tcp round-robin tag other"]
SETTINGS = Ipfilter(interface="ext0")


def rule(member: int, port: int = 80, more: str = "") -> str:
    return (f"rdr ext0 203.0.113.1/32 port {port} -> 10.0.{member >> 8}.{member & 255} port 8080 tcp round-robin "
            f"tag l4ip{more}")


def internal_errors(caplog: pytest.LogCaptureFixture) -> set[str]:
    """The kinds of exceptions that a test has logged; to be asked when it is over, where ``caplog.text`` is empty."""
    return {record.exc_info[0].__name__ for record in caplog.get_records("call")
            if "internal error" in record.getMessage() and record.exc_info and record.exc_info[0]}


def log_rule(member: int) -> str:
    return log_rules.Rule("log", "int0", f"10.0.{member >> 8}.{member & 255}", 8080, 4711).line()


class ReconcilerBench(World):
    """A reconciler for one table, ipnat's or ipf's."""

    def __init__(self, seed: int = 0, tool: str = "ipnat", takes: tuple[float, float] = (0.005, 0.05),
                 resync: float = 10.0) -> None:
        super().__init__(seed, takes)
        self.tool = tool
        self.rule: Callable[[int], str] = rule if tool == "ipnat" else log_rule
        self.ways: dict[str, str | None] = {}
        self.repaired: list[str] = []
        self.nat = NatTable(SETTINGS, Dialect("6.0.0", True, True), lambda line: None, lambda: self.it.want)
        self.filter = FilterTable(SETTINGS, "log", False, [4711], lambda line: False)
        self.it = Reconciler(self.loop, self.nat.table if tool == "ipnat" else self.filter.table, 5.0, resync,
                             removal=lambda line: self.ways.get(line, "drain"), repaired=self.repaired.extend,
                             listed=self.listed, whose=lambda line: "it is of somebody",
                             spawn=self.tools.spawn)
        if tool == "ipnat":
            self.tools.add(FOREIGN)

    def listed(self) -> None:
        if self.tool == "ipnat":
            self.nat.listed()
        else:
            self.filter.listed()

    def want(self, *lines: str) -> None:
        self.it.want = dict.fromkeys(lines)
        self.it.hurry()

    def ours(self) -> list[str]:
        if self.tool == "ipf":
            return sorted(self.tools.filter())
        return sorted(line for line in self.tools.nat() if owned(parse(line).tag, "l4ip"))     # type: ignore[union-attr]

    def right(self) -> bool:
        return self.ours() == sorted(self.it.want)

    def settle(self, patience: float = 60.0) -> None:
        self.until(lambda: self.it.settled, patience)

    def noise(self, *faults: str, chance: float = 1.0, only: str = "") -> None:
        """From now on runs meet one of these; ``only`` some of them: list, change."""
        def fault(words: Sequence[str]) -> str:
            kind = "list" if any(word in LISTING for word in words) else "change"
            if (only and kind != only) or self.source.random() >= chance:
                return "ok"
            return self.source.choice(faults)

        self.tools.fault = fault

    def quiet(self) -> None:
        self.tools.fault = lambda words: "ok"

    @property
    def has_all_of_its_time(self) -> bool:
        """The run that is under way: the one before it was broken off, and perhaps it was only slow."""
        return self.it.busy and any(recent.patient for recent in self.it._runner._recent.values())
