"""How full the kernel's NAT table is: what is told of it, and when. The tools are processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.ipfilter import nat_statistics, nat_usage
from l4ipd.ipfilter.nat_statistics import Statistics
from l4ipd.ipfilter.nat_usage import NatUsage
from l4ipd.model import Ipfilter
from l4ipd.runtime import child
from l4ipd.runtime.loop import Loop
from support import SAMPLES

PATIENCE = 40.0
FREEBSD = """30\tdrop in
0\texhausted in
90\ttable max reached in
0\tbucket max out
2\tdrop out
0\ttable max reached out
15\tactive
0\tflush all
"""
OLD = "mapped\tin\t12\tout\t34\nadded\t5\texpired\t1\nno memory\t0\tbad nat\t0\ninuse\t4\nrules\t2\nwilds\t0\n"


@pytest.mark.parametrize("text, found", [
    (FREEBSD, Statistics(15, 32, 90)), (OLD, Statistics(4, None, None)), ("", Statistics()), ("active\n", Statistics()),
    ("0\tactive\n", Statistics(0)), ("7\tactive in\n-1\tactive\nx\tactive\n", Statistics()),
    (FREEBSD.replace("\n", "\r\n"), Statistics(15, 32, 90)), ("9" * 30 + "\tactive\n", Statistics())])
def test_statistics(text: str, found: Statistics) -> None:
    assert nat_statistics.parse(text) == found


def test_the_real_ones() -> None:
    """As 6.0.0 has said them."""
    text = (SAMPLES / "ipnat-input-misc.txt").read_text().partition("--- ipnat -s  (exit 0)\n")[2].partition("\n---")[0]
    assert nat_statistics.parse(text) == Statistics(2, None, 0)


@given(st.text(max_size=200))
def test_garbage(text: str) -> None:
    found = nat_statistics.parse(text)
    assert all(each is None or each >= 0 for each in (found.active, found.drops, found.full))


# -- watching

class Bench:
    """Two tools, and what was told."""

    def __init__(self, path: Path) -> None:
        self.loop, self.path = Loop(), path
        self.ipnat, self.ipf = path / "ipnat", path / "ipf"
        self.say(0)
        self.room(100)
        self.told: list[tuple[str, str]] = []
        settings = Ipfilter(interface="em0", ipnat=("/bin/sh", str(self.ipnat)), ipf=("/bin/sh", str(self.ipf)),
                            timeout=PATIENCE)
        self.it = NatUsage(self.loop, lambda: settings, lambda kind, text, level: self.told.append((kind, text)))

    def say(self, active: int, drops: int = 0, full: int = 0) -> None:
        self.ipnat.write_text(f'[ "$*" = -s ] && printf "{drops}\\tdrop in\\n{full}\\ttable max reached in\\n'
                              f'{active}\\tactive\\n"\n')

    def room(self, limit: int) -> None:
        self.ipf.write_text(f'[ "$*" = "-T nat_table_max" ] && printf "nat_table_max\\tmin 1\\tmax 2147483647\\t'
                            f'current {limit}\\n"\n')

    def look(self) -> None:
        """One look, to its end."""
        done = []
        judged, self.it._judge = self.it._judge, lambda found: done.append(found)      # type: ignore[method-assign]
        self.it._look()
        self._until(lambda: done)
        self.it._judge = judged                     # type: ignore[method-assign]
        judged(done[0])

    def look_in_vain(self) -> None:
        self.it._look()
        self._until(lambda: self.it.active is None)

    def _until(self, done: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "it did not happen"
            self.loop.later(0.02, lambda: None)
            self.loop.turn()

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.told]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    it.it.stop()
    child.end_all()
    it.loop.close()


def test_it_looks_by_itself(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nat_usage, "FIRST", 0.0)
    monkeypatch.setattr(nat_usage, "EVERY", 0.01)
    monkeypatch.setattr(nat_usage, "SHARE", 1000.0)
    assert bench.it.summary == "" and bench.it.trouble == ""
    bench.say(7)
    bench.it.start()
    bench._until(lambda: bench.it.active == 7)
    assert bench.it.limit == 100
    assert bench.it.summary == "NAT table: 7 of 100 sessions; 0 packets of new connections dropped"
    bench.say(8)
    bench._until(lambda: bench.it.active == 8)
    assert not bench.told and not bench.it.trouble


def test_a_warning_at_eight_of_ten(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    def warned() -> int:
        return sum("getting full" in record.getMessage() for record in caplog.records)

    with caplog.at_level(logging.INFO):
        for active, times in ((79, 0), (80, 1), (95, 1), (75, 1), (85, 1), (69, 1), (80, 2)):
            bench.say(active)
            bench.look()
            assert warned() == times, active
            assert bool(bench.it.trouble) == (active >= 80 or active == 75)
    words = caplog.records[0].getMessage()
    assert words.startswith("the kernel's NAT table is getting full: 80 of 100 sessions; let services have a shorter ")
    assert "ipf -D; ipf -T nat_table_max=200; ipf -E; see l4ipd(8), THE TABLE OF SESSIONS" in words
    assert not bench.told


def test_the_first_drops_are_an_event_and_their_end_another(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.say(50, 1000, 3000)
    bench.look()
    assert not bench.told, "what was before us is no news"
    bench.say(100, 1004, 3012)
    bench.look()
    assert bench.kinds == ["table-full"]
    words = bench.told[0][1]
    assert words.startswith("the kernel's NAT table is full: 100 of 100 sessions: 4 packets of new connections were "
                            "dropped in ") and "ipf -T nat_table_max=200" in words
    assert bench.it.trouble.startswith("new connections are being dropped")
    for drops in (1010, 1010):
        bench.say(100, drops, 3 * drops)
        bench.look()
    assert bench.kinds == ["table-full"], "said once; not over before a minute without"
    monkeypatch.setattr(nat_usage, "QUIET", 0.0)
    bench.say(60, 1010, 3030)
    bench.look()
    assert bench.kinds == ["table-full", "table-free"] and not bench.it.trouble
    bench.say(100, 1011, 3033)
    bench.look()
    assert bench.kinds == ["table-full", "table-free", "table-full"]


def test_drops_for_another_reason(bench: Bench) -> None:
    bench.look()
    bench.say(50, 3)
    bench.look()
    assert bench.kinds == ["table-full"]
    assert "although its NAT table is not full: 50 of 100 sessions: 3 packets" in bench.told[0][1]


def test_a_kernel_that_counts_anew(bench: Bench) -> None:
    bench.say(50, 1000, 3000)
    bench.look()
    bench.say(0, 2, 6)
    bench.look()
    assert not bench.told and bench.it.drops == 2


def test_the_limit_is_read_again_when_it_matters(bench: Bench) -> None:
    bench.look()
    bench.say(90)
    bench.room(1000)
    bench.look()
    assert bench.it.limit == 1000 and not bench.it.trouble, "somebody has made room"


def test_without_a_limit(bench: Bench) -> None:
    """4.1 does not know it: sessions and drops are told all the same."""
    bench.ipf.write_text("echo unknown >&2; exit 1\n")
    bench.say(90_000)
    bench.look()
    assert bench.it.summary == "NAT table: 90000 sessions; 0 packets of new connections dropped"
    assert not bench.it.trouble
    bench.say(90_000, 5, 15)
    bench.look()
    assert "NAT table is full: 90000 sessions: 5 packets" in bench.told[0][1]
    assert "nat_table_max=100000" in bench.told[0][1]


@pytest.mark.parametrize("script", ["exit 1\n", "kill -KILL $$\n"])
def test_a_tool_that_fails(bench: Bench, script: str) -> None:
    """Nothing is known then, and nothing is made up; drops that come meanwhile are told when it works again."""
    bench.say(10)
    bench.look()
    bench.ipnat.write_text(script)
    bench.look_in_vain()
    assert bench.it.summary == "" and not bench.told
    bench.say(100, 4, 12)
    bench.look()
    assert bench.kinds == ["table-full"]
