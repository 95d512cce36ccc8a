"""Is the sensing deaf? On a simulated clock; ipnat is a real process, a script that prints what the test says."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.ipfilter import rdr
from l4ipd.model import Ipfilter
from l4ipd.resets.deafness import APART, LATE, Deafness
from l4ipd.runtime import child
from l4ipd.runtime.loop import Loop

PLACE = "tcp", "10.0.0.2", 8080
RULE = "rdr em0 203.0.113.1/32 port 80 -> 10.0.0.2/32 port 8080 tcp round-robin tag l4ip"
WORDS = ("sensing seems deaf: www/x/a refuses connections, clients were sent there, and no reset was seen: do other "
         "rules keep state for them? then `source: counters` can see them; or does another ipmon read the log?")


class Bench:
    """Time goes by only when the test says so, but for what a child needs."""

    def __init__(self, path: Path) -> None:
        self.path, self.now, self.deafened = path, 1000.0, 0
        self.loop = Loop(lambda: self.now)
        self.says("")
        script = f'echo "$*" >>{path}/runs; cat {path}/listing; . {path}/then'
        tools = Ipfilter(interface="em0", ipnat=("/bin/sh", "-c", script, "ipnat"), timeout=60.0)
        self.it = Deafness(self.loop, tools, self.hear)

    def hear(self) -> None:
        self.deafened += 1

    def says(self, text: str, then: str = "") -> None:
        (self.path / "listing").write_bytes(text.encode("latin-1"))
        (self.path / "then").write_text(then + "\n")

    def wait(self, seconds: float) -> None:
        """Let time go by, and what is due then happen."""
        self.now += seconds
        for _ in range(3):
            self.loop.later(0, lambda: None)
            self.loop.turn()

    def refused(self, sent: int | None, name: str = "www/x/a", passes: int = 0, wait: float = APART,
                place: tuple[str, str, int] = PLACE) -> None:
        """A probe is refused, and so many clients were sent there by then."""
        if sent is not None:
            self.says(f"List of active MAP/Redirect filters:\n{sent} {RULE}\n\nList of active sessions:\n")
        self.wait(wait)
        self.it.suspect(place, name, passes)
        self.ends()

    def ends(self) -> None:
        """What reads the table has."""
        for _ in range(10_000):
            if self.it._child is None:
                return
            self.loop.later(0.005, lambda: None)
            self.now += 0.0001
            self.loop.turn()
        raise AssertionError("it never ended")

    @property
    def runs(self) -> list[str]:
        file = self.path / "runs"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    child.end_all()
    it.loop.close()


def test_two_refusals_a_client_between_them_and_nothing_heard(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.refused(7)
    assert bench.runs == ["-lh"]
    bench.refused(8)
    bench.wait(LATE - 0.1)
    assert bench.deafened < 1 and not caplog.messages
    bench.wait(0.2)
    assert bench.it.deaf == "www/x/a" and bench.deafened == 1 and caplog.messages == [WORDS]
    assert caplog.records[0].levelno == logging.WARNING and (APART, LATE) == (0.5, 2.0)
    assert bench.it._suspect == ""
    for sent in (9, 10):
        bench.refused(sent)
        bench.wait(3.0)
    assert bench.deafened == 1, "once"


@pytest.mark.parametrize("sent", [(7, 7, 7), (7, 6, 6), (7,)])
def test_without_a_client_between_them(bench: Bench, sent: tuple[int, ...]) -> None:
    for count in sent:
        bench.refused(count)
        bench.wait(3.0)
    assert not bench.it.deaf and not bench.it._suspect


def test_a_third_refusal_is_compared_with_the_second(bench: Bench) -> None:
    bench.refused(7)
    bench.refused(3)                                # the rule was loaded again
    bench.refused(4)
    bench.wait(3.0)
    assert bench.it.deaf


def test_what_is_heard_meanwhile_ends_the_suspicion(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.refused(7)
    bench.refused(8)
    bench.it.heard()
    bench.wait(3.0)
    assert not bench.it.deaf and not caplog.messages
    bench.refused(9)
    bench.refused(10)
    bench.wait(3.0)
    assert bench.it.deaf
    bench.it.heard()
    bench.it.heard()
    assert not bench.it.deaf and caplog.messages[1:] == ["resets are seen again: the sensing is not deaf"]


def test_what_is_heard_while_the_table_is_read_counts(bench: Bench) -> None:
    bench.refused(7)
    bench.says(f"8 {RULE}\nList of active sessions:\n", f"while [ ! -e {bench.path}/go ]; do sleep 0.01; done")
    bench.wait(APART)
    bench.it.suspect(PLACE, "www/x/a", 0)
    bench.it.heard()
    (bench.path / "go").touch()
    bench.ends()
    bench.wait(3.0)
    assert not bench.it.deaf and not bench.it._suspect


@pytest.mark.parametrize(("place", "passes"), [(PLACE, 1), (("udp", "10.0.0.2", 8080), 0)])
def test_one_that_was_well_meanwhile_is_another_case(bench: Bench, place: tuple[str, str, int], passes: int) -> None:
    bench.refused(7)
    bench.refused(8, place=place, passes=passes)
    bench.wait(3.0)
    assert not bench.it.deaf
    bench.refused(9, place=place, passes=passes)
    bench.refused(10, place=place, passes=passes)
    bench.wait(3.0)
    assert bool(bench.it.deaf) is (place == PLACE)


def test_the_table_is_not_read_again_at_once(bench: Bench) -> None:
    for wait, runs in ((APART, 1), (APART - 0.1, 1), (0.1, 2)):
        bench.refused(7, wait=wait)
        assert len(bench.runs) == runs
    bench.says("", "sleep 600")
    bench.wait(1.0)
    bench.it.suspect(PLACE, "www/x/a", 0)
    bench.wait(1.0)
    bench.it.suspect(PLACE, "www/x/a", 0)
    assert bench.it._child is not None
    bench.it._child.kill()
    bench.ends()
    assert len(bench.runs) == 3, "one at a time"


@pytest.mark.parametrize("text", [
    f"8 {RULE}\n9 {RULE.replace('tag l4ip', 'tag other')}\nList of active sessions:\n",     # together
    f"\xff\xfe\n17 {RULE}\nList of active sessions:\n",
    f"17 {RULE}\n{RULE}\n",                         # without a count, and without an end
    f"9 {RULE.replace('port 8080', 'port 8081')}\n17 {RULE}\n",
    f"900 {RULE.replace('10.0.0.2/32', '10.0.0.3/32')}\n17 {RULE}\nList of active sessions:\n900 {RULE}\n",
    f"900 {RULE.replace('tcp round', 'tcp/udp round')}\n900 {RULE.replace('port 8080', 'port 99999')}\n17 {RULE}\n",
])
def test_what_is_counted(bench: Bench, text: str) -> None:
    bench.says(text)
    bench.refused(None)
    assert bench.it._cases["www/x/a"].sent == 17 and bench.loop.errors.total == 0


def test_a_line_that_raises_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch,
                                        caplog: pytest.LogCaptureFixture) -> None:
    parse = rdr.parse

    def picky(line: str) -> rdr.Rdr | None:
        if line == "raise":
            raise ValueError
        return parse(line)

    monkeypatch.setattr(rdr, "parse", picky)
    bench.says(f"raise\n17 {RULE}\nList of active sessions:\n")
    bench.refused(None)
    assert bench.it._cases["www/x/a"].sent == 17
    assert "internal error: please report this: a line of ipnat's listing is left out" in caplog.text


def test_of_whom_no_rule_tells_nothing_is_known(bench: Bench) -> None:
    bench.says("List of active MAP/Redirect filters:\nList of active sessions:\n")
    bench.refused(None)
    assert bench.it._cases["www/x/a"].sent is None


def test_what_was_found_out_is_forgotten(bench: Bench) -> None:
    bench.refused(7)
    bench.refused(8)
    bench.it.raised()
    bench.wait(3.0)
    assert bench.it.deaf == bench.it._suspect == "" and not bench.it._cases and not bench.deafened
    assert Deafness(bench.loop, bench.it.tools).deaf == ""


def test_a_tool_that_hangs_has_its_timeout(bench: Bench) -> None:
    bench.it.tools = Ipfilter(interface="em0", ipnat=("/bin/sh", "-c", "exec sleep 600", "x"), timeout=0.05)
    bench.refused(7)
    assert bench.it._child is None


def test_whom_it_tells_need_not_be_there() -> None:
    assert Deafness(Loop(), Ipfilter(interface="em0")).deafened() is None
