"""Counting sessions with a tool that is a real process: who is told what, and never too few, whatever is in the kernel.

The tool is a shell script with a directory as its kernel. A line of ``iterators`` is what a listing that was cut short
has left there: the next one begins at that line of the sessions, exit status 0, without a complaint (FACTS.md 3-3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.ipfilter.session_count import Count, SessionCount
from l4ipd.ipfilter.snapshot import Snapshot, take_snapshot
from l4ipd.model import Check, Cluster, Endpoint, Ipfilter, Member, Service
from l4ipd.runtime import child
from l4ipd.runtime.loop import Loop

PATIENCE = 40.0
TOOL = r"""cd "$0.d" || exit 9
echo "$*" >> runs
case "$*" in
-s) fault=$(cat fault-s 2>/dev/null) ;;
*) fault=$(cat fault 2>/dev/null) ;;
esac
case "$fault" in
hang) exec sleep 600 ;;
fail) echo "ioctl: the weather is bad" >&2; exit 1 ;;
empty) exit 0 ;;
die) kill -KILL $$ ;;
wait) : > waiting; while [ -e fault ]; do sleep 0.02; done ;;
esac
case "$*" in
-s) [ "$fault" = mute ] || printf '%s\tactive\n' "$(wc -l < sessions)"; exit 0 ;;
esac
cat rules
start=1
if [ -s iterators ]; then
    start=$(sed -n 1p iterators)
    sed 1d iterators > rest; mv rest iterators
fi
case "$fault" in
half) tail -n "+$start" sessions | head -c 1000 ;;
*) tail -n "+$start" sessions || { echo "$start" >> iterators; kill -PIPE $$; } ;;
esac
"""
SERVICE = Service("http", 80, "tcp", 8080, False, (Check("tcp"),))
WWW = Cluster("www", ("203.0.113.10",), (SERVICE,), (Member("a", "10.0.0.1"), Member("b", "10.0.0.2")))
A, B = "www/http/a", "www/http/b"


class Bench:
    """A loop, the tool, and what was told."""

    def __init__(self, path: Path) -> None:
        self.loop = Loop()
        self.tool = path / "ipnat"
        self.tool.write_text(TOOL)
        self.kernel = path / "ipnat.d"
        self.kernel.mkdir()
        self.kernel.joinpath("rules").write_text("List of active MAP/Redirect filters:\n\nList of active sessions:\n")
        self.sessions(3, 2)
        settings = Ipfilter(interface="em0", ipnat=("/bin/sh", str(self.tool)), timeout=PATIENCE)
        self.nat = NatTable(settings, Dialect("5.1.2", True, True), lambda line: None)
        self.endpoints: list[Endpoint] = list(WWW.endpoints())
        self.it = SessionCount(self.loop, lambda: self.nat, lambda: self.endpoints)
        self.told: list[Count] = []

    def sessions(self, a: int, b: int) -> None:
        self.kernel.joinpath("sessions").write_text("".join(
            f"RDR 10.0.0.{member}        8080  <- -> 203.0.113.10    80    [198.51.100.7 {1024 + port}] tcp\n"
            for member, count in ((1, a), (2, b)) for port in range(count)))

    def fault(self, word: str = "", file: str = "fault") -> None:
        if word:
            self.kernel.joinpath(file).write_text(word)
        else:
            self.kernel.joinpath(file).unlink()

    def runs(self, word: str) -> int:
        file = self.kernel / "runs"
        return file.read_text().splitlines().count(word) if file.exists() else 0

    def patient(self, seconds: float) -> None:
        self.nat.settings = replace(self.nat.settings, timeout=seconds)

    def until(self, done: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "it did not happen"
            self.loop.later(0.02, lambda: None)
            self.loop.turn()

    def count(self, since: float | None = None) -> Count:
        before = len(self.told)
        self.it.want(self.told.append, *(() if since is None else (since,)))
        self.until(lambda: len(self.told) > before)
        return self.told[-1]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    child.end_all()
    it.loop.close()


def test_a_count(bench: Bench) -> None:
    assert not bench.it.last.known and bench.it.last.of(A) is None
    count = bench.count()
    assert (count.known, count.problem, count.total) == (True, "", 5)
    assert (count.of(A), count.of(B), count.of("www/http/c")) == (3, 2, None), "who is not known has no number"
    assert bench.it.last is count and bench.runs("-l") == 1


def test_nobody_has_any(bench: Bench) -> None:
    bench.sessions(0, 0)
    assert bench.count().of(A) == 0


def test_it_does_nothing_that_nobody_wants(bench: Bench) -> None:
    for _ in range(20):
        bench.loop.later(0.02, lambda: None)
        bench.loop.turn()
    assert bench.runs("-l") == bench.runs("-s") == 0


def test_many_want_it_and_it_is_read_once(bench: Bench) -> None:
    for _ in range(50):
        bench.it.want(bench.told.append)
    assert not bench.told, "later, in any case"
    bench.until(lambda: len(bench.told) == 50)
    bench.it.want(bench.told.append)
    assert len(bench.told) == 50, "later, in any case"
    bench.until(lambda: len(bench.told) == 51)
    assert bench.it.readings <= 2 and bench.runs("-l") == bench.it.readings, "two on a machine that is slow"
    assert {count.of(A) for count in bench.told} == {3}


def test_not_twice_a_second_however_urgent(bench: Bench) -> None:
    first = bench.count()
    second = bench.count(since=bench.loop.clock())
    third = bench.count(since=bench.loop.clock())
    assert second.began - first.began >= 0.99 and third.began - second.began >= 0.99
    assert bench.it.readings == 3


def test_one_that_is_under_way_is_too_old_for_who_has_just_changed_something(bench: Bench) -> None:
    """A rule is removed while a listing is under way: what that one says may be from before."""
    bench.fault("wait")
    bench.it.want(bench.told.append)
    bench.until((bench.kernel / "waiting").exists)
    urgent: list[Count] = []
    since = bench.loop.clock()
    bench.it.want(bench.told.append)
    bench.it.want(urgent.append, since)
    bench.fault()
    bench.until(lambda: len(bench.told) == 2)
    assert not urgent, "for those who do not mind, it is new enough"
    bench.sessions(7, 7)
    bench.until(lambda: urgent)
    assert urgent[0].began >= since and urgent[0].of(A) == 7 and bench.told[1].of(A) == 3


@pytest.mark.parametrize("fault, words", [
    ("fail", "ipnat -l: ioctl: the weather is bad"), ("die", "ipnat -l: was killed by signal 9"),
    ("empty", "ipnat -l: its listing was cut short"), ("half", "ipnat -l: its listing was cut short"),
    ("hang", "ipnat -l: did not end within ipfilter.timeout and was killed")])
def test_what_cannot_be_read_is_not_known(bench: Bench, fault: str, words: str) -> None:
    """Nothing at first, then the last one with its age; never a number that is wrong."""
    bench.sessions(30, 20)
    bench.patient(0.5 if fault == "hang" else PATIENCE)
    bench.fault(fault)
    failed = bench.count()
    assert (failed.known, failed.of(A)) == (False, None) and failed.problem == words
    bench.fault()
    bench.patient(PATIENCE)
    good = bench.count()
    assert (good.problem, good.of(A)) == ("", 30)
    bench.patient(0.5 if fault == "hang" else PATIENCE)
    bench.fault(fault)
    bench.sessions(0, 0)
    if fault == "half":                             # half of nothing is the whole
        bench.sessions(30, 0)
    since = bench.loop.clock()
    again = bench.count(since)
    assert (again.of(A), again.began, again.problem) == (30, good.began, words)
    assert again.began < since, "which tells that it is too old"


@pytest.mark.parametrize("fault", ["hang", "fail", "die", "mute", "empty"])
def test_without_statistics(bench: Bench, fault: str) -> None:
    """Whoever cannot say how many there are at all may list them well; whoever hangs is not asked for more."""
    bench.patient(0.5 if fault == "hang" else PATIENCE)
    bench.fault(fault, "fault-s")
    count = bench.count()
    if fault == "hang":
        assert count.of(A) is None and bench.runs("-l") == 0
        assert count.problem == "ipnat -s: did not end within ipfilter.timeout and was killed"
    else:
        assert (count.of(A), count.problem, bench.runs("-l")) == (3, "", 1)


# -- listings that were cut short

@pytest.mark.parametrize("left", [[900], [900, 450], [2, 999, 500, 1]])
@pytest.mark.parametrize("statistics", ["", "mute"])
def test_what_begins_in_the_middle_is_read_again(bench: Bench, left: list[int], statistics: str) -> None:
    bench.sessions(600, 400)
    if statistics:
        bench.fault(statistics, "fault-s")
    for _ in left:
        bench.nat.iterator.cut(bench.loop.clock())
    bench.kernel.joinpath("iterators").write_text("".join(f"{line}\n" for line in left))
    count = bench.count()
    assert (count.of(A), count.of(B), count.total) == (600, 400, 1000)


def test_one_of_which_we_know_nothing(bench: Bench) -> None:
    """Somebody else has cut his listing: the kernel says that there are far more."""
    bench.sessions(600, 400)
    bench.kernel.joinpath("iterators").write_text("800\n")
    assert bench.count().of(A) == 600


def test_it_is_not_read_for_ever(bench: Bench) -> None:
    """The kernel tells of more than it lists: the most that was seen counts, and is told."""
    bench.sessions(600, 400)
    bench.nat.iterator.cut(bench.loop.clock())
    script = bench.tool.read_text().replace("wc -l < sessions", "echo 5000")
    bench.tool.write_text(script)
    assert bench.count().of(A) == 600
    assert bench.runs("-l") == 2


def test_our_own_listings_leave_it_behind(bench: Bench) -> None:
    """The reconciler, and whoever shows rules, stop where the sessions begin."""
    bench.sessions(20_000, 0)
    snapshots: list[Snapshot] = []
    take_snapshot(bench.loop, bench.nat, snapshots.append)
    bench.until(lambda: snapshots)
    assert bench.nat.iterator.cuts(bench.loop.clock()) == 1 and not snapshots[0].problem
    reconciler = Reconciler(bench.loop, bench.nat.table, PATIENCE, 100.0, removal=lambda line: None)
    bench.until(lambda: reconciler.settled)
    assert bench.nat.iterator.cuts(bench.loop.clock()) >= 2
    assert bench.nat.iterator.cuts(bench.loop.clock() + 13) == 0, "the kernel has forgotten them by then"
    assert bench.count().of(A) == 20_000


def test_a_count_that_is_broken_off_leaves_it_behind(bench: Bench) -> None:
    bench.sessions(100, 0)
    bench.fault("half")
    assert bench.count().problem
    assert bench.nat.iterator.cuts(bench.loop.clock()) == 1 and not bench.nat.iterator.torn
    bench.fault("empty")
    assert bench.count().problem
    assert bench.nat.iterator.torn, "it may have been among the rules"


def test_while_a_rule_is_in_use_nothing_is_listed(bench: Bench) -> None:
    bench.nat.iterator.in_use(bench.loop.clock())
    count = bench.count()
    assert "a rule is in use" in count.problem and bench.runs("-l") == 0


# -- and whatever raises

def test_who_is_told_may_raise(bench: Bench) -> None:
    bench.it.want(lambda count: 1 / 0)
    assert bench.count().of(A) == 3 and bench.loop.errors.total == 1


def test_what_raises_is_told(bench: Bench) -> None:
    def endpoints() -> list[Endpoint]:
        raise ZeroDivisionError

    good, bench.it.endpoints = bench.it.endpoints, endpoints
    count = bench.count()
    assert count.problem == "internal error: see the log" and not count.known
    bench.it.endpoints = good
    assert bench.count().of(A) == 3
