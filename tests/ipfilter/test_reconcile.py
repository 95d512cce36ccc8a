"""The reconciler with real processes on the sandbox's table, under every fault that a tool can have.

The property: when the noise stops, kernel == want; and what is not ours is never touched.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import l4ipd
from l4ipd.ipfilter import held_lines, rdr
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.model import Ipfilter
from l4ipd.runtime import backoff
from l4ipd.runtime.loop import Loop
from support import TESTS
from support.sandbox_tools import Sandbox

FOREIGN = ["map ext0 10.0.0.0/24 -> 0/32", "rdr ext0 203.0.113.1/32 port 25 -> 10.0.0.7/32 port 25 tcp round-robin",
           "rdr ext0 203.0.113.1/32 port 26 -> 10.0.0.7/32 port 25 tcp round-robin tag other"]
FAULTS = ("ok", "ok", "die", "fail", "grumble", "lie", "lose", "cut", "hang", "empty")


def rule(member: int, port: int = 80, more: str = "") -> str:
    return f"rdr ext0 203.0.113.1/32 port {port} -> 10.0.0.{member} port 8080 tcp round-robin tag l4ip{more}"


class Bench:
    """A reconciler on a loop, its ipnat behind a wrapper with faults."""

    def __init__(self, kernel: Sandbox, directory: Path) -> None:
        self.kernel = kernel
        self.faults = directory / "faults"
        self.faults.write_text("")
        words = (sys.executable, "-I", "-S", str(TESTS / "support/faulty_tool.py"), str(self.faults), sys.executable,
                 "-I", "-S", str(Path(l4ipd.__file__).parent / "sandbox" / "client.py"), "-s", kernel.path, "ipnat")
        self.settings = Ipfilter(interface="ext0", ipnat=words, timeout=1.0, resync=60.0)
        self.loop = Loop()
        self.purged: list[str] = []
        self.repaired: list[str] = []
        self.ways: dict[str, str | None] = {}
        self.nat = NatTable(self.settings, Dialect("6.0.0", True, True), lambda line: None, lambda: self.it.want)
        self.it = Reconciler(self.loop, self.nat.table, self.settings.timeout, self.settings.resync,
                             removal=lambda line: self.ways.get(line, "drain"), repaired=self.repaired.extend,
                             listed=lambda: self.nat.listed())

    def want(self, *lines: str) -> None:
        self.it.want = dict.fromkeys(lines)
        self.it.touch()

    def until(self, done: Callable[[], bool], patience: float = 60.0) -> None:
        """Run the loop until ``done``, with an end in case it never is."""
        late = self.loop.later(patience, self.loop.stop)
        self.loop.hook(lambda: self.loop.stop() if done() else None)
        self.loop.run()
        self.loop._hooks.pop()
        assert late.is_set, f"never happened; have {self.it.have}, held {self.it.held}, problem {self.it.problem!r}"
        self.loop.clear(late)

    def settle(self) -> None:
        self.until(lambda: self.it.settled)

    def ours(self) -> list[str]:
        lines = [rdr.parse(line) for line in self.kernel.ipnat("-l").rules]
        return [line.line() for line in lines if line is not None and rdr.owned(line.tag, "l4ip")]

    def foreign(self) -> list[str]:
        return [line for line in self.kernel.ipnat("-l").rules if "tag l4ip" not in line]


@pytest.fixture
def bench(kernel: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(backoff, "FIRST", 0.01)
    kernel.ipnat("-FC")
    for line in FOREIGN:
        kernel.add(line)
    it = Bench(kernel, tmp_path)
    yield it
    assert it.foreign() == FOREIGN, "a rule that is not ours was touched"
    it.loop.close()


def test_add_remove_and_read_back(bench: Bench) -> None:
    bench.want(rule(2), rule(3))
    bench.settle()
    assert bench.ours() == [rule(2), rule(3)]
    bench.want(rule(3), rule(4))
    bench.settle()
    assert bench.ours() == [rule(3), rule(4)]
    assert bench.it.faults.runs == 0
    assert bench.it.runs == 6, "list, add, read back; add, remove, read back"


def test_thousands_take_a_handful_of_runs(bench: Bench) -> None:
    many = [rule(member, port) for port in range(1000, 1020) for member in range(2, 52)]
    bench.want(*many)
    bench.settle()
    assert bench.ours() == many
    assert bench.it.runs <= 2 + len(many) // held_lines.BATCH + 1


def test_what_is_there_is_adopted(bench: Bench) -> None:
    bench.kernel.add(rule(2))
    bench.kernel.add(rule(9))
    bench.ways[rule(9)] = None                      # not yet
    bench.want(rule(2))
    bench.settle()
    assert bench.ours() == [rule(2), rule(9)]
    assert bench.it.runs == 1, "nothing but a listing"
    bench.ways.clear()
    bench.it.touch()
    bench.settle()
    assert bench.ours() == [rule(2)]


def test_removals_come_in_the_right_order(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """The dead of other services first, then additions, then the dead whose service is about to get somebody."""
    bench.want(rule(2), rule(2, 81), rule(3, 82))
    bench.settle()
    bench.ways.update({rule(2): "purge", rule(2, 81): "purge", rule(3, 82): "drain"})
    bench.want(rule(9))                             # the fallback of port 80
    with caplog.at_level("DEBUG", logger="l4ipd.rules"):
        bench.settle()
    runs = [record.getMessage() for record in caplog.records if record.levelname == "DEBUG"]
    listed = [line.replace(" port 8080", "/32 port 8080") for line in (rule(2, 81), rule(2), rule(3, 82))]
    assert runs == [f"ipnat: purge: {listed[0]}", f"ipnat: add: {rule(9)}", f"ipnat: purge: {listed[1]}",
                    f"ipnat: drain: {listed[2]}"]


def test_rules_removed_behind_our_back_are_put_back(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.want(rule(2), rule(3))
    bench.settle()
    bench.kernel.remove(rule(2))
    bench.it.reread()
    bench.settle()
    assert sorted(bench.ours()) == [rule(2), rule(3)]
    assert bench.repaired == [rule(2)]
    assert "had been removed by somebody else" in caplog.text


def test_the_rule_that_ipnat_loses_after_a_failed_one(bench: Bench) -> None:
    bench.settle()
    bench.kernel.add(rule(3))                       # between our listing and our run
    bench.want(*(rule(member) for member in range(2, 8)))
    bench.settle()
    assert sorted(bench.ours()) == [rule(member) for member in range(2, 8)]


def test_a_rejected_rule_blocks_only_itself_and_is_named(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bad = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.66 port 99999 tcp round-robin tag l4ip"
    good = [rule(member) for member in range(2, 12)]
    bench.want(*good[:3], bad, *good[3:])
    bench.until(lambda: bad in bench.it.held and set(good) <= set(bench.it.have) and not bench.it.busy)
    assert sorted(bench.ours()) == sorted(good)
    bench.want(*good[:3], bad, *good[3:-1])
    bench.until(lambda: good[-1] not in bench.it.have)

    def named() -> list[str]:
        return [record.getMessage() for record in caplog.records if bad in record.getMessage()]

    bench.until(named)                              # type: ignore[arg-type]
    tries = bench.it.held[bad].tries
    bench.until(lambda: bench.it.held[bad].tries > tries)
    assert len(named()) == 1
    assert "invalid port number" in named()[0]


@pytest.mark.parametrize("fault", sorted(set(FAULTS)))
def test_each_fault_at_each_run(bench: Bench, fault: str) -> None:
    for place in range(4):
        bench.faults.write_text("\n".join(["ok"] * place + [fault]))
        bench.want(rule(2, 80 + place), rule(3, 80 + place), rule(4, 80 + place))
        bench.it.belief.stale = True
        bench.until(lambda: bench.it.settled and not bench.faults.read_text())
        assert sorted(bench.ours()) == sorted(bench.it.want)


@pytest.mark.parametrize("seed", range(8))
def test_when_the_noise_stops_kernel_equals_want(bench: Bench, seed: int) -> None:
    source = random.Random(seed)
    lines = [rule(member, port, more) for port in (80, 81) for member in range(2, 7) for more in ("", ".2")]

    def noise() -> None:
        what = source.random()
        if what < 0.5:
            bench.ways.update({line: source.choice(("purge", "drain")) for line in lines})
            bench.want(*source.sample(lines, source.randrange(len(lines))))
        elif what < 0.8:
            with bench.faults.open("a") as file:
                file.write(source.choice(FAULTS) + "\n")
        else:
            victim = source.choice(lines)
            bench.kernel.ipnat("-r", "-f", "-", stdin=victim + "\n")
        if steps:
            steps.pop()
            bench.loop.later(source.random() * 0.1, noise)

    steps = list(range(20))
    noise()
    bench.until(lambda: not steps)
    bench.until(lambda: not bench.faults.read_text() and bench.it.settled)
    bench.it.reread()                               # what was removed behind our back after the last listing
    bench.until(lambda: bench.it.settled and not bench.it.held)
    assert sorted(bench.ours()) == sorted(bench.it.want)


def test_no_ipnat_at_all(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    real = bench.it.table
    missing = NatTable(Ipfilter(interface="ext0", ipnat=("/nonexistent/ipnat",)), Dialect(), lambda line: None).table
    bench.it.use(missing, 1.0, 60.0)
    bench.want(rule(2))
    bench.until(lambda: bench.it.faults.runs == 4)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["ipnat: /nonexistent/ipnat: no such program: name it in the configuration, ipfilter.ipnat; "
                    "trying again"], "once"
    bench.it.use(real, 1.0, 60.0)
    bench.settle()
    assert bench.ours() == [rule(2)]
    assert "works again" in caplog.text


def test_a_new_wish_does_not_wait_for_an_old_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "LONGEST", 1000.0)
    bench.faults.write_text("fail\nfail\n")
    bench.want(rule(2))
    bench.until(lambda: bench.it.faults.runs == 1)
    for _ in range(50):                             # a second failure, and no storm of tries
        bench.it.hurry()
    bench.until(lambda: bench.it.faults.runs == 2)
    bench.want(rule(2), rule(3))
    bench.it.hurry()
    bench.settle()
    assert bench.ours() == [rule(2), rule(3)] and bench.it.faults.runs == 2


def test_who_is_in_our_way_is_named_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    plain = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.9/32 port 80 tcp"
    bench.kernel.add(plain)
    try:
        bench.want(rule(2))
        for _ in range(3):
            bench.it.reread()
            bench.settle()
    finally:
        bench.kernel.remove(plain)
    said = [record.getMessage() for record in caplog.records if "not ours" in record.getMessage()]
    assert len(said) == 1
    assert plain in said[0]
    assert rule(2) in said[0]
