"""Sources of ipmon's lines, closely: when they look again, and what becomes of them when somebody raises."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from l4ipd.resets import sources
from l4ipd.resets.sources import CHUNK, FIRST_WAIT, KEPT, LONGEST_WAIT, PATIENCE, PAUSE, POLL, Ipmon, LogFile
from l4ipd.runtime.child import Exit
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop
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


class Spawned:
    """In place of a child: it ends when and how a test says."""

    def __init__(self, loop: Loop, words: Sequence[str], *, timeout: None, done: Callable[[Exit], object],
                 output: Callable[[bytes], bool], hold_stdin: bool) -> None:
        assert hold_stdin
        self.words, self.end, self.output = words, done, output
        children.append(self)

    def kill(self) -> None: ...


children: list[Spawned] = []


# -- ipmon

@pytest.fixture
def ipmon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Told, Ipmon]]:
    """One that runs, on a simulated clock."""
    monkeypatch.setattr(sources, "Child", Spawned)
    children.clear()
    world = Told()
    it = Ipmon(world.loop, ("/bin/sh", "-x"), str(tmp_path / "of-ours.pid"), world.take, world.told)
    it.start()
    yield world, it
    it.stop()
    assert not it._again.is_set and not it._works.is_set


@pytest.mark.parametrize(("end", "words"), [
    (Exit(0), "ipmon: ended with exit status 0"), (Exit(128), "ipmon: ended with exit status 128"),
    (Exit(129), "ipmon: was killed by signal 1"), (Exit(137), "ipmon: was killed by signal 9"),
    (Exit(-15), "ipmon: was killed by signal 15"), (Exit(1, stderr=b"odd \xff\n"), "ipmon: odd \ufffd"),
    (Exit(1, stderr=b"ipmon: odd\n"), "ipmon: odd"),
    (Exit(None, error="/bin/sh: cannot be had"), "ipmon: cannot be had"),
])
def test_why_an_ipmon_has_ended(ipmon: tuple[Told, Ipmon], end: Exit, words: str) -> None:
    children[-1].end(end)
    assert [words for _, words in ipmon[0].heard] == [words]


def test_one_that_has_run_for_a_minute_is_started_again_soon(ipmon: tuple[Told, Ipmon]) -> None:
    """Not one that dies sooner, however often; and it works as soon as it has not died at once."""
    world, it = ipmon
    waits = []
    for number, lasts in enumerate((0.1, 59.0, 59.0, 61.0, 0.1, 0.1), 1):
        world.run(lasts)
        before = world.clock.now
        children[-1].end(Exit(1))
        while it.starts == number:
            world.run(0.01)
        waits.append(world.clock.now - before)
    assert waits == pytest.approx([0.5, 1.0, 2.0, 0.5, 1.0, 2.0], abs=TICK)
    assert [words for _, words in world.heard] == [
        "ipmon: ended with exit status 1", "", "ipmon: ended with exit status 1", "", "ipmon: ended with exit status 1",
        "", *["ipmon: ended with exit status 1"] * 3]
    assert it.starts == 7 and sources.STEADY == 60.0
    began = world.clock.now
    world.until(lambda: world.heard[-1][1] == "", 1.0)
    assert world.clock.now - began == pytest.approx(sources.SETTLED, abs=TICK)


def test_the_rest_of_a_line_of_an_earlier_one_is_no_part_of_a_line(ipmon: tuple[Told, Ipmon]) -> None:
    world, it = ipmon
    assert not children[-1].output(b"one\ntw")
    children[-1].end(Exit(1))
    world.run(1.0)
    assert not children[-1].output(b"three\n") and world.lines == [b"one", b"three"]
    it.stop()
    assert children[-1].output(b"four\n") and len(world.lines) == 2


def test_how_an_ipmon_is_started(ipmon: tuple[Told, Ipmon], tmp_path: Path) -> None:
    assert children[-1].words == ("/bin/sh", "-c", sources.KEEPER, "l4ipd", "/bin/sh", "-x", "-v", "-P",
                                  str(tmp_path / "of-ours.pid"))
    assert ipmon[1]._name.directory == str(tmp_path / "of-ours.d")


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


@pytest.fixture
def log(tmp_path: Path) -> Path:
    (tmp_path / "log").write_bytes(b"old\n")
    return tmp_path / "log"


@pytest.fixture
def file(log: Path) -> Iterator[tuple[Told, LogFile]]:
    """One that is followed, and was read."""
    world = Told()
    it = LogFile(world.loop, str(log), world.take, world.told)
    it.start()
    world.run(3 * POLL)
    assert world.heard.pop()[1] == "" and not world.heard
    yield world, it
    it.stop()


def test_a_named_pipe_is_read_as_well(tmp_path: Path) -> None:
    """Whether anybody has it open or not, and whether there is anything in it."""
    os.mkfifo(tmp_path / "log")
    world = Told()
    it = LogFile(world.loop, str(tmp_path / "log"), world.take, world.told)
    it.start()
    world.run(3 * POLL)
    writer = os.open(tmp_path / "log", os.O_WRONLY)
    world.run(3 * POLL)
    for text, lines in ((b"one\ntw", [b"one"]), (b"o\n", [b"one", b"two"])):
        os.write(writer, text)
        world.run(3 * POLL)
        assert world.lines == lines
    os.close(writer)
    world.run(3 * POLL)
    assert [words for _, words in world.heard] == [""] and world.loop.errors.total == 0
    it.stop()


@pytest.mark.parametrize(("path", "words"), [
    ("/dev/null", "Is no file"), ("/dev", "Is a directory"), ("/nonexistent/log", "No such file or directory")])
def test_what_is_no_file_is_told_as_such(path: str, words: str) -> None:
    world = Told()
    it = LogFile(world.loop, path, world.take, world.told)
    it.start()
    assert world.heard == [(0.0, f"{path}: {words}")]
    it.stop()


def test_one_that_is_away_for_a_moment_is_not_told_of(log: Path, file: tuple[Told, LogFile]) -> None:
    """As in the course of a rotation; whenever that is."""
    world, _ = file
    for number in range(2):
        log.rename(f"{log}.{number}")
        world.run(PATIENCE - 2 * POLL)
        assert not world.heard
        log.write_bytes(b"new\n")
        world.run(3 * POLL)
        assert [words for _, words in world.heard] == [""] and world.lines == [b"new"] * (number + 1)
        world.heard.clear()
    log.rename(f"{log}.0")
    gone = world.clock.now - 1000.0
    world.run(PATIENCE + 2 * POLL)
    assert {words for _, words in world.heard} == {f"{log}: No such file or directory"} and PATIENCE == 5.0
    assert world.heard[0][0] - gone == pytest.approx(PATIENCE + POLL, abs=POLL)
    world.heard.clear()
    log.with_name("log.0").rename(log)
    world.run(3 * POLL)
    assert [words for _, words in world.heard] == [""], "it is back, and the same"


def test_of_many_that_were_rotated_the_oldest_is_let_go(log: Path, file: tuple[Told, LogFile]) -> None:
    """Nobody has written a record into any: whoever writes may still have one of the last open."""
    world, _ = file
    writers = [log.open("ab", buffering=0)]
    for number in range(KEPT):
        log.rename(f"{log}.{number}")
        writers.append(log.open("ab", buffering=0))
        world.run(3 * POLL)
    for number, writer in enumerate(writers):
        writer.write(f"{number}\n".encode())
        writer.close()
    world.run(3 * POLL)
    assert world.lines == [b"1", b"2", b"3"] and KEPT == 3


def test_after_an_error_it_is_not_looked_at_in_a_hurry(log: Path, file: tuple[Told, LogFile]) -> None:
    world, it = file
    directory = os.open(log.parent, os.O_RDONLY)
    os.dup2(directory, it._tails[0].fd)             # read(2) fails with EISDIR from now on
    os.close(directory)
    world.run(6 * POLL)
    assert [words for _, words in world.heard] == [f"{log}: Is a directory", ""]
    assert world.heard[1][0] - world.heard[0][0] == pytest.approx(2 * POLL, abs=TICK), "opened, and then read"


def test_a_line_that_nobody_can_bear_is_left_out(log: Path, file: tuple[Told, LogFile], monkeypatch: pytest.MonkeyPatch,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    world, it = file

    def take(line: bytes) -> None:
        if line == b"two":
            raise ArithmeticError
        world.lines.append(line)

    monkeypatch.setattr(it, "take", take)
    with log.open("ab") as writer:
        writer.write(b"one\ntwo\nthree\n")
    world.run(3 * POLL)
    assert world.lines == [b"one", b"three"] and not world.heard
    assert f"please report this: {sources.LEFT_OUT}" in caplog.text


# -- others

def test_a_listing_of_many_processes_with_words_of_any_kind(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    (bench.tmp / "ps").write_text(PS)
    (bench.tmp / "ps").chmod(0o755)
    monkeypatch.setenv("PATH", f"{bench.tmp}:{os.environ['PATH']}")
    found: list[list[int]] = []
    sources._look_around(bench.loop, {"ipmon"}, found.append)
    bench.until(lambda: found)
    assert found == [[70]]
