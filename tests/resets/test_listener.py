"""What is made of the lines of a source, and of its being lost; on a simulated clock, from a log file that is there."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.resets import listener as module
from l4ipd.resets import sources
from l4ipd.resets.ipmon import Reset
from l4ipd.resets.listener import BUFFERED, Buffered, Listener
from l4ipd.runtime import ownership
from l4ipd.runtime.loop import Loop
from support.loops import Clock
from support.sensing_bench import line
from support.simulated_tools import Sleep

SYSLOG = b"Nov 22 06:48:57 gw ipmon[123]: 06:48:57.244962 "


class Bench:
    def __init__(self, path: Path) -> None:
        self.path = path / "ipf.log"
        self.path.write_bytes(b"")
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleep(self.clock))
        self.heard: list[tuple[Reset, bool]] = []
        self.stale: list[Reset] = []
        self.unreadable = 0
        self.told: list[tuple[str, str, int]] = []
        self.it = Listener(self.loop, lambda reset, unverified: self.heard.append((reset, unverified)),
                           self.stale.append, self.garbled, lambda *words: self.told.append(words))

    def garbled(self) -> None:
        self.unreadable += 1

    def use(self, source: str | None = None, tag: int = 4711) -> None:
        self.it.use(str(self.path) if source is None else source, tag, ("/no/such/ipmon",), "/nonexistent/ipmon.pid")

    def run(self, seconds: float = 1.0) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(ownership, "loose", lambda path: "")
    it = Bench(tmp_path)
    yield it
    it.it.stop()
    it.loop.close()


def records(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.levelname, record.getMessage()) for record in caplog.records]


def test_nothing_is_listened_to_at_first(bench: Bench) -> None:
    it = bench.it
    assert (it.source, it.tag, it.alive, it.problem, it.missed, it.unverified) == ("no", 0, False, "", 0, False)
    it.use("no", 7, (), "")
    assert it._source is None and it.tag == 7
    it.take(line(tag=" log-tag 7").rstrip())
    assert len(bench.heard) == 1


# -- lines

def test_records_of_ours_are_heard_and_those_of_others_are_not(bench: Bench) -> None:
    bench.use()
    for text in (line(), line(tag=""), line(tag=" log-tag 4712"), line(flags="-A 0 1 0"), b"", b"\x00\xff", b"hello"):
        bench.it.take(text.rstrip(b"\n"))
    assert [(reset.address, reset.port, reset.tag, unverified) for reset, unverified in bench.heard] == [
        ("10.0.0.2", 8080, 4711, False)]
    assert not bench.stale and not bench.unreadable and bench.it.missed == 0
    bench.use(tag=4712)
    bench.it.take(line(tag=" log-tag 4712").rstrip())
    assert len(bench.heard) == 2 and bench.it.source == str(bench.path)


def test_what_makes_no_sense_is_told(bench: Bench) -> None:
    bench.use()
    bench.it.take(line(port=99999).rstrip())
    assert bench.unreadable == 1 and not bench.heard


def test_records_that_were_missed_are_counted(bench: Bench) -> None:
    bench.use()
    for text in (b"missed 0 ipf log entries: 0 1", b"missed 12 ipf log entries: 7 19",
                 b"missed 3 ipf log entries: 20 23", b"missed many", b"unmissed 7 ipf log entries: 7 19"):
        bench.it.take(text)
    assert bench.it.missed == 15


def test_services_by_name(bench: Bench) -> None:
    bench.use()
    bench.it.take(line().rstrip().replace(b",8080 ", b",http-alt "))
    assert [reset.port for reset, _ in bench.heard] == [8080]


def test_lines_by_way_of_syslogd_are_not_believed(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.use()
    bench.it.take(line().rstrip())
    for _ in range(2):
        bench.it.take(SYSLOG + line().split(b" ", 2)[2].rstrip())
    bench.it.take(line().rstrip())
    assert [unverified for _, unverified in bench.heard] == [False, True, True, True]
    said = (f"{bench.path}: anybody can have such lines written there by way of syslogd, so that they only hasten "
            "probes: let ipmon write a file of its own, as ipmon -D -v FILE does")
    assert records(caplog) == [("WARNING", said)]
    bench.use("no")
    assert not bench.it.unverified


def test_those_of_our_own_ipmon_are_believed_whatever_they_look_like(bench: Bench) -> None:
    bench.use("no")
    bench.it.source = "ipmon"
    bench.it.take(SYSLOG + line().split(b" ", 2)[2].rstrip())
    assert not bench.it.unverified


def test_a_file_that_others_may_write_is_not_believed(bench: Bench, monkeypatch: pytest.MonkeyPatch,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    asked = []

    def loose(path: str) -> str:
        asked.append(path)
        return "others may write it"

    monkeypatch.setattr(ownership, "loose", loose)
    bench.use()
    bench.it.take(line().rstrip())
    assert asked == [str(bench.path)] and [unverified for _, unverified in bench.heard] == [True]
    said = f"{bench.path}: others may write it, so that what it says only hastens probes"
    assert records(caplog) == [("WARNING", said)]
    bench.path.rename(bench.path.with_suffix(".0"))
    bench.path.write_bytes(b"")
    bench.run()
    assert len(asked) == 2 and len(caplog.messages) == 1, "of one that was rotated, too, but it is said once"


# -- a source

def test_a_file_is_read_from_its_end(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.path.write_bytes(line(port=1))
    bench.use()
    assert not bench.it.alive and bench.it.problem == ""
    bench.run()
    assert bench.it.alive and not bench.told
    assert records(caplog) == [("INFO", f"resets of clients' connections are sensed, by {bench.path}")]
    with bench.path.open("ab") as file:
        file.write(line())
    bench.run()
    assert [reset.port for reset, _ in bench.heard] == [8080] and len(caplog.messages) == 1


def test_the_same_source_is_not_started_anew(bench: Bench) -> None:
    bench.use()
    bench.run()
    before = bench.it._source
    bench.use(tag=7)
    assert bench.it._source is before and bench.it.tag == 7 and bench.it.alive
    bench.it.use(str(bench.path), 7, ("/other/ipmon",), "/nonexistent/ipmon.pid")
    assert bench.it._source is not before and not bench.it.alive


@pytest.mark.parametrize("source", ["no", "counters"])
def test_without_a_source_nothing_is_read(bench: Bench, source: str) -> None:
    bench.use()
    bench.use(source)
    assert bench.it._source is None and bench.it.source == source and not bench.it.alive
    bench.it.stop()


def test_when_it_is_lost_and_when_it_is_back(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.use()
    bench.run()
    caplog.clear()
    bench.path.unlink()
    bench.run(20.0)
    words = f"{bench.path}: No such file or directory"
    lost = "sensing-lost", f"sensing of resets is lost: {words}; trying again", logging.WARNING
    assert bench.told == [lost] and not bench.it.alive and bench.it.problem == words
    bench.path.write_bytes(b"")
    bench.run(2.0)
    back = "sensing-back", f"sensing of resets is back: {bench.path} is read again", logging.INFO
    assert bench.told == [lost, back] and bench.it.alive and bench.it.problem == "" and not caplog.messages
    bench.it._told("one")
    bench.it._told("one")
    bench.it._told("two")
    assert [text for _, text, _ in bench.told[2:]] == [
        "sensing of resets is lost: one; trying again", "sensing of resets is lost: two; trying again"]


def test_a_source_that_is_not_there_at_first_is_lost(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench.path.unlink()
    bench.use()
    assert [kind for kind, _, _ in bench.told] == ["sensing-lost"]
    bench.path.write_bytes(b"")
    bench.run(2.0)
    assert [kind for kind, _, _ in bench.told] == ["sensing-lost", "sensing-back"] and not caplog.messages
    bench.use("no")
    assert bench.it.problem == ""


def test_an_ipmon_that_is_not_there(bench: Bench) -> None:
    bench.use("ipmon")
    assert bench.it.problem == "/no/such/ipmon: no such program: name it in the configuration, ipfilter.ipmon"


def test_whom_our_ipmon_tells_and_who_is_looked_for(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[tuple[object, ...]] = []
    monkeypatch.setattr(sources, "others", lambda *words: looked.append(words))
    bench.it.look_around()
    bench.use()
    bench.it.look_around()
    assert not looked, "only ours meets others"
    bench.use("ipmon")
    bench.it.look_around()
    assert looked == [(bench.loop, "/no/such/ipmon", bench.it._others)] * 2
    ours = bench.it._source
    assert isinstance(ours, sources.Ipmon) and ours.take == bench.it.take and ours.began == bench.it._begin


def test_who_else_reads_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.use("ipmon")
    caplog.clear()
    bench.it._others([])
    assert not caplog.messages
    bench.it._others([7, 12])
    assert records(caplog) == [("WARNING", "another ipmon runs (pid 7, 12): a record goes to one reader only, so that "
                                "resets will be missed: stop it, or give the file that it writes as resets.source")]
    bench.use("no")
    bench.it._others([7])
    assert len(caplog.messages) == 1


# -- what was in the buffer before us

def test_what_is_older_than_our_ipmon_is_stale() -> None:
    began = time.mktime((2026, 11, 22, 6, 48, 57, 0, 0, -1)) + 0.25
    stamps = ["20261122064856.900000", "20261122064857.249999", "20261122064857.250000", "20261122064800.000000"]
    it = Buffered(began, 100.0)
    assert [it.holds(when, 100.0) for when in stamps] == [True, True, False, False], "the first that is not ends it"
    for seconds, held in ((BUFFERED, True), (BUFFERED + 0.1, False)):
        assert Buffered(began, 100.0).holds(stamps[0], 100.0 + seconds) is held
    assert BUFFERED == 5.0
    it = Buffered(began, 100.0)
    assert not it.holds("", 100.0) and it.holds(stamps[0], 100.0), "it does not say"
    assert not Buffered().holds(stamps[0], 0.0) and not Buffered().holds("00000000000000.000000", 0.0)


def test_stale_records_are_told_apart(bench: Bench) -> None:
    bench.use("ipmon")
    bench.it._begin()
    bench.it.take(line(when=time.time() - 60).rstrip())
    assert [reset.port for reset in bench.stale] == [8080] and not bench.heard
    bench.it.take(line(when=time.time() + 60).rstrip())
    assert len(bench.stale) == len(bench.heard) == 1
    assert module.log.name == "l4ipd.resets"
