"""Sources of ipmon's lines, closely: when they look again, and what becomes of them when somebody raises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from l4ipd.resets import sources
from l4ipd.resets.sources import CHUNK, FIRST_WAIT, LONGEST_WAIT, PAUSE, POLL, Ipmon, LogFile
from l4ipd.runtime.internal_errors import INTERNAL
from support.sensing_bench import Bench
from support.simulated_tools import World

TICK = 0.03
PS = """#!/bin/sh
yes "9 1 /some/program with many words of which nobody needs to know a single one" | head -n 20000
printf '70 1 ipmon \\377\\n'
"""


class Told(World):
    """Who listens to a source on a simulated clock, and may raise when it hears ``bad``."""

    def __init__(self, bad: str | None = None) -> None:
        super().__init__(0)
        self.bad = bad
        self.lines: list[bytes] = []
        self.heard: list[tuple[float, str]] = []

    def take(self, line: bytes) -> None:
        self.lines.append(line)

    def told(self, words: str) -> None:
        self.heard.append((self.clock.now - 1000.0, words))
        if words == self.bad:
            self.bad = None
            raise ArithmeticError


# -- ipmon

def test_an_ipmon_that_is_missing_is_looked_for_ever_less_often(tmp_path: Path) -> None:
    world = Told()
    it = Ipmon(world.loop, (str(tmp_path / "ipmon"),), str(tmp_path / "ipmon.pid"), world.take, world.told)
    it.start()
    world.run(100.0)
    times = [when for when, _ in world.heard]
    waits = [after - before for before, after in zip(times, times[1:], strict=False)]
    assert waits == [pytest.approx(wait, abs=TICK) for wait in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)]
    assert (FIRST_WAIT, LONGEST_WAIT) == (0.5, 30.0) and it.starts == 0
    it.stop()
    world.run(100.0)
    assert len(world.heard) == len(times)


def test_who_raises_as_ipmon_is_started_has_it_started_later(tmp_path: Path) -> None:
    world, began = Told(), []

    def begins() -> None:
        began.append(world.clock.now - 1000.0)
        (tmp_path / "ipmon").unlink()
        if len(began) == 2:
            it.stop()
        raise ArithmeticError

    it = Ipmon(world.loop, (str(tmp_path / "ipmon"),), str(tmp_path / "ipmon.pid"), world.take, world.told, begins)
    it.start()
    (tmp_path / "ipmon").write_text("#!/bin/sh\n")
    (tmp_path / "ipmon").chmod(0o755)
    world.run(3.0)
    assert began == [pytest.approx(0.5, abs=TICK)]
    assert world.heard[1] == (began[0], INTERNAL) and "no such program" in world.heard[2][1]
    (tmp_path / "ipmon").write_text("#!/bin/sh\n")
    (tmp_path / "ipmon").chmod(0o755)
    world.run(100.0)
    assert len(began) == 2 and len(world.heard) == 3, "it was stopped"
    assert world.loop.errors.total == 2


def test_who_raises_as_ipmon_works_has_no_second_one(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """And a line that nobody can bear is left out, with a word of that."""
    heard, lines = [], []

    def told(words: str) -> None:
        heard.append(words)
        raise ArithmeticError

    def take(line: bytes) -> None:
        lines.append(line)
        if line == b"two":
            raise ArithmeticError

    script = "printf 'one\\ntwo\\nthree\\n'; exec sleep 600"
    it = Ipmon(bench.loop, ("/bin/sh", "-c", script, "ipmon"), str(bench.tmp / "ipmon.pid"), take, told)
    it.start()
    bench.until(lambda: heard and len(lines) == 3)
    bench.turns(0.05)
    assert (heard, lines, it.starts) == ([""], [b"one", b"two", b"three"], 1) and not it._again.is_set
    assert f"please report this: {sources.LEFT_OUT}" in caplog.text and bench.loop.errors.total == 2
    it.stop()
    bench.until(lambda: it._child is None)


# -- a log file

def test_much_is_read_at_once_and_a_file_at_rest_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world, looks = Told(), []
    look = LogFile._look

    def watched(it: LogFile) -> None:
        looks.append(world.clock.now)
        look(it)

    monkeypatch.setattr(LogFile, "_look", watched)
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    it = LogFile(world.loop, str(path), world.take, world.told)
    it.start()
    world.run(2.0)
    assert [words for _, words in world.heard] == [""] and world.heard[0][0] == pytest.approx(POLL, abs=TICK)
    assert 15 <= len(looks) <= 20 and not world.lines
    path.write_bytes(b"old\n" + b"x" * 99 + b"\n" + (b"y" * 99 + b"\n") * (CHUNK // 10))
    began = world.clock.now
    world.until(lambda: len(world.lines) == CHUNK // 10 + 1, 60.0)
    assert world.clock.now - began < 2.5 * POLL, "ten pieces"
    it.stop()
    assert (POLL, CHUNK) == (0.1, 65536)


def test_who_raises_on_hearing_of_a_file_hears_of_it_again(tmp_path: Path) -> None:
    world = Told(bad="")
    path = tmp_path / "log"
    path.write_bytes(b"old\n")
    it = LogFile(world.loop, str(path), world.take, world.told)
    it.start()
    world.run(5.0)
    assert [words for _, words in world.heard] == ["", f"{path}: {INTERNAL}", ""]
    assert [when for when, _ in world.heard] == pytest.approx([POLL, POLL, POLL + PAUSE], abs=TICK)
    assert PAUSE == 1.0
    with path.open("ab") as log:
        log.write(b"new\n")
    world.run(2 * POLL)
    assert world.lines == [b"new"]
    it.stop()


# -- others

def test_a_listing_of_many_processes_with_words_of_any_kind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.tmp / "ps").write_text(PS)
    (bench.tmp / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bench.tmp}:{os.environ['PATH']}")
    found: list[list[int]] = []
    sources._look_around(bench.loop, {"ipmon"}, found.append)
    bench.until(lambda: found)
    assert found == [[70]]
