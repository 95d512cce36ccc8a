"""Who is told of which count of sessions, on a simulated clock; the tool is a real process, a script."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l4ipd.ipfilter import session_count as module
from l4ipd.ipfilter.listing import NEVER
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.session_count import EVERY, KEPT, SLICE, Count, SessionCount
from l4ipd.model import Check, Endpoint, Ipfilter
from l4ipd.runtime import child
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop

TOOL = """cd "$0"
case "$*" in -s) printf '%s\\tactive\\n' "$(grep -c RDR sessions)";; *) . ./then; cat sessions;; esac"""
HEAD = "List of active MAP/Redirect filters:\n\nList of active sessions:\n"


def endpoint(name: str, member: int) -> Endpoint:
    return Endpoint(f"www/x/{name}", "www", "x", name, ("203.0.113.10",), 80, "tcp", False, f"10.0.0.{member}", 8080, 1,
                    False, (Check("tcp"),))


class Bench:
    """Time goes by only when the test says so."""

    def __init__(self, path: Path) -> None:
        self.path, self.now = path, 1000.0
        self.loop = Loop(lambda: self.now)
        self.endpoints = [endpoint("a", 1), endpoint("b", 2), endpoint("c", 3)]
        tools = Ipfilter(interface="em0", ipnat=("/bin/sh", "-c", TOOL, str(path)), timeout=600.0)
        self.nat = NatTable(tools, Dialect(), lambda line: None)
        self.it = SessionCount(self.loop, lambda: self.nat, lambda: self.endpoints)
        self.told: list[Count] = []
        self.says(3, 2)

    def says(self, *counts: int, then: str = "") -> None:
        """So many sessions of each member."""
        lines = [f"RDR 10.0.0.{member}        8080  <- -> 203.0.113.10    80    [198.51.100.7 {1024 + port}] tcp\n"
                 for member, count in enumerate(counts, 1) for port in range(count)]
        (self.path / "sessions").write_text(HEAD + "".join(lines))
        (self.path / "then").write_text(then + "\n")

    def until(self, done: Callable[[], bool]) -> None:
        for _ in range(5_000):
            if done():
                return
            self.loop.later(0.0, lambda: None)
            self.now += 0.001
            self.loop.turn()
        raise AssertionError("never")

    def want(self, since: float = NEVER) -> None:
        self.it.want(self.told.append, since)

    def count(self, since: float = NEVER) -> Count:
        before = len(self.told)
        self.want(since)
        assert len(self.told) == before, "later, in any case"
        self.until(lambda: len(self.told) > before)
        return self.told[-1]


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    child.end_all()
    it.loop.close()


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=0.05)


def test_what_a_count_says(bench: Bench) -> None:
    assert (EVERY, KEPT, SLICE) == (1.0, 60.0, 0.004)
    none = Count()
    assert (none.known, none.of("www/x/a"), none.total, none.problem) == (False, None, 0, "")
    assert bench.it.last == none and bench.it.readings == 0
    count = bench.count()
    assert count.known and count.began == near(1000.0) and (count.total, count.problem) == (5, "")
    assert [count.of(f"www/x/{name}") for name in "abcd"] == [3, 2, 0, None]
    assert count.by_name == {"www/x/a": 3, "www/x/b": 2} and bench.it.last is count and bench.it.readings == 1


def test_sessions_with_and_without_a_protocol_are_the_same_endpoints(bench: Bench) -> None:
    with (bench.path / "sessions").open("a") as file:
        file.write("RDR 10.0.0.1        8080  <- -> 203.0.113.10    80    [198.51.100.7 9999]\n")
    count = bench.count()
    assert (count.of("www/x/a"), count.of("www/x/b"), count.total) == (4, 2, 6)


def test_a_count_of_this_second_is_told_again(bench: Bench) -> None:
    first = bench.count()
    bench.says(9)
    bench.now = first.began + 0.9
    assert bench.count() is first and bench.it.readings == 1
    bench.now = first.began + 1.0
    second = bench.count()
    assert second.of("www/x/a") == 9 and bench.it.readings == 2


def test_one_that_began_at_that_very_moment_will_do_and_is_told_once(bench: Bench) -> None:
    first = bench.count()
    assert bench.count(first.began) is first
    bench.now += 5.0
    bench.count()
    assert len(bench.told) == 3 and bench.it.readings == 2


def test_nothing_is_looked_at_while_somebody_waits(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []
    read = SessionCount._read

    def watched(it: SessionCount) -> None:
        looks.append(bench.now)
        read(it)

    monkeypatch.setattr(SessionCount, "_read", watched)
    bench.it = SessionCount(bench.loop, lambda: bench.nat, lambda: bench.endpoints)
    first = bench.count()
    looks.clear()
    bench.now = first.began + 0.3
    bench.count(bench.now)
    assert len(looks) == 1 and looks[0] == near(first.began + EVERY)


def test_whoever_wants_one_that_begins_later_waits_for_it(bench: Bench) -> None:
    first = bench.count()
    bench.says(9)
    bench.now = first.began + 0.3
    bench.want(bench.now)
    bench.want()
    bench.until(lambda: len(bench.told) == 2)
    assert bench.told[1] is first, "for the other one it is good enough"
    bench.until(lambda: bench.loop.now > 0)
    bench.now = first.began + 0.99
    for _ in range(50):
        bench.loop.later(0.0, lambda: None)
        bench.loop.turn()
    assert len(bench.told) == 2 and bench.it.readings == 1
    bench.now = first.began + 1.01
    bench.until(lambda: len(bench.told) == 3)
    assert bench.told[2].of("www/x/a") == 9 and bench.told[2].began > first.began + 1.0


def test_one_that_begins_at_that_moment_is_new_enough(bench: Bench) -> None:
    first = bench.count()
    assert bench.count(since=first.began) is first and bench.it.readings == 1


def test_those_who_come_during_a_reading_share_the_next(bench: Bench) -> None:
    bench.says(3, then=f"while [ ! -e {bench.path}/go ]; do sleep 0.01; done")
    bench.want()
    bench.until(lambda: bench.it._reading is not None)
    bench.now += 5.0
    since = bench.now
    bench.want(since)
    bench.want(since)
    bench.want()
    (bench.path / "go").touch()
    bench.until(lambda: len(bench.told) == 4)
    assert [count.began >= since for count in bench.told] == [False, False, True, True] and bench.it.readings == 2


def test_what_cannot_be_read_leaves_the_last_one(bench: Bench) -> None:
    good = bench.count()
    bench.says(9, then="exit 3")
    bench.now += 2.0
    failed = bench.count()
    assert (failed.began, failed.of("www/x/a"), failed.total) == (good.began, 3, 5)
    assert failed.problem == "ipnat -l: ended with exit status 3" == bench.it.last.problem
    bench.now += 0.5
    bench.says(9)
    bench.want()
    for _ in range(50):
        bench.loop.later(0.0, lambda: None)
        bench.loop.turn()
    assert len(bench.told) == 2, "a failed one is tried again after a second, too"
    bench.now += 0.6
    bench.until(lambda: len(bench.told) == 3)
    assert (bench.told[2].problem, bench.told[2].of("www/x/a")) == ("", 9)


def test_an_old_count_is_not_shown(bench: Bench) -> None:
    assert bench.it.recent() == Count()
    count = bench.count()
    bench.now = count.began + 59.9
    assert bench.it.recent() is count
    bench.now = count.began + 60.0
    assert bench.it.recent() == Count()
    bench.says(9, then="exit 3")
    bench.count()
    assert bench.it.recent() == Count(problem="ipnat -l: ended with exit status 3")


def test_whose_they_are_is_found_out_in_slices(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLICE", -1.0)      # each piece of the work is one
    turns: list[int] = []
    later = bench.loop.later

    def counted(seconds: float, callback: Callable[[], object]) -> object:
        turns.append(1)
        return later(seconds, callback)

    bench.endpoints = [endpoint(str(member), member) for member in range(1, 60)]
    bench.it.want(bench.told.append)
    for _ in range(5_000):
        if bench.told:
            break
        later(0.0, lambda: None)
        monkeypatch.setattr(bench.loop, "later", counted)
        bench.now += 0.001
        bench.loop.turn()
    assert bench.told[0].of("www/x/1") == 3 and bench.told[0].of("www/x/59") == 0 and len(turns) > 60


@pytest.mark.parametrize("where", ["endpoints", "nat", "attribute"])
def test_what_raises_is_told(bench: Bench, where: str, caplog: pytest.LogCaptureFixture) -> None:
    def raises(*words: object) -> list[Endpoint]:
        raise ValueError

    if where == "endpoints":
        bench.it.endpoints = raises
    elif where == "nat":
        bench.it.nat = raises                       # type: ignore[assignment]
    else:
        bench.endpoints.append(None)                # type: ignore[arg-type]
    count = bench.count()
    assert (count.known, count.problem) == (False, INTERNAL) and "internal error" in caplog.text
    bench.it.endpoints, bench.it.nat = (lambda: bench.endpoints[:3]), (lambda: bench.nat)
    bench.now += 2.0
    assert bench.count().of("www/x/a") == 3


def test_who_is_told_may_raise(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def raises(count: Count) -> None:
        raise ValueError

    bench.it.want(raises)
    assert bench.count().of("www/x/a") == 3 and "report this: a count of sessions is told" in caplog.text
