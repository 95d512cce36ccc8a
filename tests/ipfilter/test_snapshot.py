"""A look at the NAT table for people, by a tool that is a real process: a script whose n-th run says the n-th text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.ipfilter import snapshot as module
from l4ipd.ipfilter.nat_table import Dialect, Listed, NatTable
from l4ipd.ipfilter.snapshot import Snapshot, clashes, take_snapshot
from l4ipd.model import Ipfilter
from l4ipd.runtime.loop import Loop
from support.reconciler import rule

HEAD, END = "List of active MAP/Redirect filters:\n", "\nList of active sessions:\n"
ONE, TWO = rule(2), rule(3)
OTHERS = ONE.replace("tag l4ip", "tag other")
MAP = "map ext0 10.0.0.0/24 -> 0/32"
SCRIPT = """cd "$0" && echo "$*" >>runs && n=$(wc -l <runs) && cat text$((n)) && . ./then$((n))"""


class Bench:
    def __init__(self, path: Path) -> None:
        self.path, self.loop = path, Loop()
        self.tools = Ipfilter(interface="ext0", ipnat=("/bin/sh", "-c", SCRIPT, str(path)), timeout=20.0)
        self.nat = NatTable(self.tools, Dialect(), lambda line: None)
        self.count = 0

    def says(self, text: str, then: str = "") -> None:
        self.count += 1
        (self.path / f"text{self.count}").write_bytes(text.encode("latin-1"))
        (self.path / f"then{self.count}").write_text(then + "\n")

    def look(self) -> Snapshot:
        told: list[Snapshot] = []

        def done(snapshot: Snapshot) -> None:
            told.append(snapshot)
            self.loop.stop()

        take_snapshot(self.loop, self.nat, done)
        assert not told, "later, in any case"
        self.loop.run()
        assert len(told) == 1 and len(self.runs) == self.count
        return told[0]

    @property
    def runs(self) -> list[str]:
        return (self.path / "runs").read_text().splitlines()

    @property
    def left(self) -> str:
        iterator = self.nat.iterator
        return "torn" if iterator.torn else "cut" if iterator.cuts(self.loop.clock()) else ""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    it.loop.close()


def test_our_rules_with_their_connections_and_those_of_others(bench: Bench) -> None:
    bench.says(f"{HEAD}7 {ONE}\r\n{TWO}\n12 {OTHERS}\n3 {MAP}\nwhat is that\n{END}99 {rule(9)}\n")
    seen = bench.look()
    assert seen == Snapshot({ONE: 7, TWO: None}, [(OTHERS, Listed(OTHERS, False, "203.0.113.1/32", (80, 80)))])
    assert bench.runs == ["-lhR"] and not seen.problem and bench.left == ""


def test_an_empty_table(bench: Bench) -> None:
    bench.says(HEAD + END)
    assert bench.look() == Snapshot()


def test_sessions_are_not_read(bench: Bench) -> None:
    """As many as it likes to tell: it is cut short there, and the kernel may remember that."""
    bench.says(f"{HEAD}7 {ONE}\n{END}", "while :; do echo more; done")
    assert bench.look() == Snapshot({ONE: 7}) and bench.left == "cut"


def test_a_complaint_behind_the_rules_does_not_matter(bench: Bench) -> None:
    bench.says(f"{HEAD}7 {ONE}\n{END}", "echo oh >&2; exit 1")
    assert bench.look() == Snapshot({ONE: 7}) and bench.left == "cut"


@pytest.mark.parametrize(("then", "problem", "left"), [
    ("", "its listing was cut short", "torn"),
    ("echo 'the weather is bad' >&2; exit 1", "the weather is bad", ""),
    ("echo 'hm' >&2", "hm", "torn"),
    ("exit 7", "ended with exit status 7", ""),
    ("kill -KILL $$", "was killed by signal 9", "torn"),
    ("printf '\\377\\n' >&2; exit 1", "\ufffd", ""),
])
def test_why_there_is_none(bench: Bench, then: str, problem: str, left: str) -> None:
    bench.says(f"{HEAD}7 {ONE}\n", then)
    assert bench.look().problem == f"ipnat -lhR: {problem}"
    assert bench.left == left


def test_one_that_hangs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.PATIENCE == 5.0
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    bench.says(HEAD, "exec sleep 600")
    assert bench.look().problem == "ipnat -lhR: did not end within ipfilter.timeout and was killed"
    assert bench.left == "torn"


def test_one_that_ends_by_itself_when_its_time_is_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind sudo: whatever its status is, it stood somewhere in the table."""
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    bench.says(HEAD, "trap 'exit 3' TERM; while :; do sleep 0.02; done")
    assert "did not end within" in bench.look().problem and bench.left == "torn"


def test_the_timeout_of_the_settings_counts_if_it_is_shorter(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 10000.0)
    bench.nat = NatTable(Ipfilter(interface="ext0", ipnat=bench.tools.ipnat, timeout=0.3), Dialect(), lambda line: None)
    bench.says(HEAD, "exec sleep 600")
    assert "did not end within" in bench.look().problem


def test_one_that_does_not_exist(bench: Bench) -> None:
    bench.nat = NatTable(Ipfilter(interface="ext0", ipnat=("/no/such/nat",)), Dialect(), lambda line: None)
    told: list[Snapshot] = []

    def done(snapshot: Snapshot) -> None:
        told.append(snapshot)
        bench.loop.stop()

    take_snapshot(bench.loop, bench.nat, done)
    bench.loop.run()
    assert told[0].problem == "ipnat -lhR: /no/such/nat: no such program" and bench.left == ""


def test_one_that_may_have_begun_in_the_middle_is_read_again(bench: Bench) -> None:
    bench.nat.iterator.tear()
    bench.says(f"{HEAD}7 {TWO}\n{END}")
    bench.says(f"{HEAD}7 {ONE}\n8 {TWO}\n{END}")
    assert bench.look() == Snapshot({ONE: 7, TWO: 8}) and bench.left == ""


def test_a_line_that_raises_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch,
                                        caplog: pytest.LogCaptureFixture) -> None:
    understand = bench.nat.understand

    def picky(line: str) -> Listed | None:
        if line == TWO:
            raise ValueError(line)
        return understand(line)

    monkeypatch.setattr(bench.nat, "understand", picky)
    bench.says(f"{HEAD}7 {ONE}\n8 {TWO}\n9 {rule(4)}\n{END}")
    assert bench.look() == Snapshot({ONE: 7, rule(4): 9})
    assert "internal error: please report this: a line of ipnat's listing is left out" in caplog.text


def test_bytes_that_are_no_text(bench: Bench) -> None:
    bench.says(f"{HEAD}7 {ONE}\n\xff\xfe\n{END}")
    assert bench.look() == Snapshot({ONE: 7}) and bench.loop.errors.total == 0


def test_whom_the_rules_of_others_meet(bench: Bench) -> None:
    bench.says(f"{HEAD}7 {ONE}\n5 {OTHERS}\n{rule(2, 81).replace('l4ip', 'other')}\n{END}")
    seen = bench.look()
    assert [(line, ours.line(), how) for line, ours, how in clashes(seen, [ONE, rule(5, 99)])] == [
        (OTHERS, ONE, "takes its turn among our members")]
    assert clashes(seen, []) == []
