"""One reading of the sessions, by a tool that is a real process: how often it lists, and which listing counts.

The tool is a script in a directory: its n-th ``-s`` prints the n-th line of ``active``, its n-th ``-l`` as many
sessions as the n-th line of ``listed`` says, and then does what ``then`` says.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.ipfilter import sessions
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.session_reading import ROUGHLY, Reading
from l4ipd.model import Ipfilter
from l4ipd.runtime import child
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop

TOOL = """cd "$0"; echo "$*" >>runs; n=$(grep -c -e "$*" runs)
case "$*" in
-s) said=$(sed -n "${n}p" active); [ -z "$said" ] || printf '%s\\tactive\\n' "$said"; . ./then-s ;;
*) printf 'List of active MAP/Redirect filters:\\n\\n'; [ -e no-end ] || echo 'List of active sessions:'
    i=0; while [ $i -lt "$(sed -n "${n}p" listed)" ]; do i=$((i+1))
        echo "RDR 10.0.0.1        8080  <- -> 203.0.113.10    80    [198.51.100.7 $((1024+i))] tcp"; done; . ./then ;;
esac
"""


class Bench:
    def __init__(self, path: Path) -> None:
        self.path, self.loop = path, Loop()
        tool = Ipfilter(interface="em0", ipnat=("/bin/sh", "-c", TOOL, str(path)), timeout=30.0)
        self.nat = NatTable(tool, Dialect(), lambda line: None)
        self.told: list[tuple[int | None, str]] = []
        (path / "then").write_text("\n")
        (path / "then-s").write_text("\n")

    def cuts(self, count: int) -> None:
        for _ in range(count):
            self.nat.iterator.cut(self.loop.clock())

    def read(self, active: str, listed: str, options: str = "-l") -> tuple[int | None, str]:
        """With so many in the kernel and listed, each time; how many were read, and the problem."""
        (self.path / "active").write_text(active.replace(" ", "\n").replace("?", "") + "\n")
        (self.path / "listed").write_text(listed.replace(" ", "\n") + "\n")

        def done(reader: sessions.Reader | None, problem: str) -> None:
            self.told.append((None if reader is None else reader.total, problem))
            self.loop.stop()

        Reading(self.loop, self.nat, options, sessions.Reader, done)
        assert not self.told, "later, in any case"
        late = self.loop.later(100.0, self.loop.stop)
        self.loop.run()
        self.loop.clear(late)
        assert len(self.told) == 1
        return self.told[0]

    @property
    def runs(self) -> str:
        return " ".join((self.path / "runs").read_text().split())

    @property
    def left(self) -> str:
        iterator = self.nat.iterator
        return "torn" if iterator.torn else "cut" if iterator.cuts(self.loop.clock()) else ""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    child.end_all()
    it.loop.close()


@pytest.mark.parametrize(("cuts", "active", "listed", "found", "runs"), [
    (0, "3", "3", 3, "-s -l"),
    (0, "100", "80", 80, "-s -l"),                  # about as many: some end meanwhile
    (0, "100 100", "79 100", 100, "-s -l -s -l"),
    (0, "100 85", "79", 79, "-s -l -s"),            # there are fewer by now
    (0, "100 100", "79 60", 79, "-s -l -s -l"),     # the kernel counts others, too: the most that was seen
    (0, "100 100", "79 79", 79, "-s -l -s -l"),
    (0, "?", "3", 3, "-s -l"),                      # it does not say, and nothing was cut
    (1, "3", "3", 3, "-s -l"),
    (1, "100 100", "99 100", 100, "-s -l -s -l"),   # with one that was cut it has to be all of them
    (1, "100 99", "99", 99, "-s -l -s"),
    (1, "? ?", "3 2", 3, "-s -l -s -l"),
    (2, "? ? ?", "3 2 5", 5, "-s -l -s -l -s -l"),
    (3, "9 9 9 9", "1 2 3 4", 4, "-s -l -s -l -s -l -s -l"),
    (2, "9 9", "1 9", 9, "-s -l -s -l"),
    (9, "9 9 9 9 9", "1 2 3 4 5", 5, "-s -l -s -l -s -l -s -l -s -l"),
])
def test_how_often_it_is_read(bench: Bench, cuts: int, active: str, listed: str, found: int, runs: str) -> None:
    bench.cuts(cuts)
    assert bench.read(active, listed) == (found, "") and bench.runs == runs
    assert ROUGHLY == 0.9


def test_with_other_options(bench: Bench) -> None:
    assert bench.read("2", "2", "-lv")[1] == "" and bench.runs == "-s -lv"


@pytest.mark.parametrize(("then", "problem", "left"), [
    ("exit 3", "ended with exit status 3", ""),
    ("echo oh >&2; exit 1", "oh", ""),
    ("echo oh >&2", "oh", "cut"),
    ("kill -KILL $$", "was killed by signal 9", "cut"),
    ("printf '\\377\\n' >&2; exit 1", "\ufffd", ""),
    ("printf RDR", "its listing was cut short", "cut"),
])
def test_why_there_is_none(bench: Bench, then: str, problem: str, left: str) -> None:
    (bench.path / "then").write_text(then + "\n")
    assert bench.read("3", "3") == (None, f"ipnat -l: {problem}") and bench.runs == "-s -l"
    assert bench.left == left


def test_one_without_sessions_began_in_the_middle_or_was_cut_short(bench: Bench) -> None:
    (bench.path / "no-end").touch()
    assert bench.read("0", "0") == (None, "ipnat -l: its listing was cut short") and bench.left == "torn"


@pytest.mark.parametrize(("file", "words", "left"), [("then", "-l", "cut"), ("then-s", "-s", "")])
def test_one_that_hangs(bench: Bench, file: str, words: str, left: str) -> None:
    bench.nat.settings = Ipfilter(interface="em0", ipnat=bench.nat.settings.ipnat, timeout=0.4)
    (bench.path / file).write_text("exec 2>/dev/null; trap 'exit 3' TERM; while :; do sleep 0.02; done\n")
    assert bench.read("3", "3") == (None, f"ipnat {words}: did not end within ipfilter.timeout and was killed")
    assert bench.left == left


def test_a_tool_that_does_not_exist(bench: Bench) -> None:
    bench.nat.settings = Ipfilter(interface="em0", ipnat=("/no/such/tool",))
    assert bench.read("3", "3") == (None, "ipnat -s: /no/such/tool: no such program")


def test_statistics_that_fail_do_not_matter(bench: Bench) -> None:
    (bench.path / "then-s").write_text("echo oh >&2; exit 1\n")
    assert bench.read("?", "3") == (3, "")
    (bench.path / "then-s").write_text("printf '\\377\\n'\n")
    bench.told.clear()
    assert bench.read("?", "3 3") == (3, "")


def test_while_a_rule_is_in_use_nothing_is_listed(bench: Bench) -> None:
    bench.nat.iterator.in_use(bench.loop.clock())
    assert bench.read("3", "3") == (None, "a rule is in use, and none can be listed until that is over")
    assert not (bench.path / "runs").exists()


def test_what_raises_in_the_loop_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def raises(self: Reading[sessions.Reader]) -> None:
        raise ValueError

    monkeypatch.setattr(Reading, "_quiet", raises)
    bench.nat.iterator.in_use(bench.loop.clock())
    assert bench.read("3", "3") == (None, INTERNAL)


@pytest.mark.parametrize("name", ["_told", "_listed"])
def test_what_raises_is_told(bench: Bench, name: str, monkeypatch: pytest.MonkeyPatch,
                             caplog: pytest.LogCaptureFixture) -> None:
    def raises(*words: object) -> None:
        raise ValueError

    monkeypatch.setattr(Reading, name, raises)
    assert bench.read("3", "3") == (None, INTERNAL) and "a reading of sessions is given up" in caplog.text
