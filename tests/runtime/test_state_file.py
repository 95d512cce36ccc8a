"""The state file as a file: whole, private, written in time, and a disk that fails or hangs."""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l4ipd.runtime import state_file
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.state_file import StateFile, write


def test_a_write_is_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "state.json"
    umask = os.umask(0)
    try:
        write(str(path), b"one")
        write(str(path), b"two")
    finally:
        os.umask(umask)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["state.json"], "no draft is left"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write(str(path), b"old")

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError):
        write(str(path), b"new")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["state.json"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "state.json").symlink_to(tmp_path / "precious")
    (tmp_path / f"state.json.{os.getpid()}.new").symlink_to(tmp_path / "precious")
    write(str(tmp_path / "state.json"), b"new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert not (tmp_path / "state.json").is_symlink()


@pytest.mark.parametrize("link", [False, True])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, link: bool) -> None:
    """``state: /dev/null`` cost a machine its /dev/null: root may rename over a device."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name, words in (("pipe", "is no regular file"), ("directory", "Is a directory")):
        path = tmp_path / name
        if link:
            path = tmp_path / f"{name}.link"
            path.symlink_to(name)
        before = path.lstat()
        with pytest.raises(OSError, match=words):
            write(str(path), b"new")
        assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".new")], "no draft is left"


class Kept:
    """A file that is kept on a loop."""

    def __init__(self, path: Path) -> None:
        self.loop, self.path, self.asked = Loop(), path, 0
        self.text = b"one"
        self.failures: list[str] = []
        self.file = StateFile(self.loop, str(path), self.ask, self.failures.append)
        self._tick()

    def _tick(self) -> None:
        self.loop.later(0.005, self._tick)

    def ask(self) -> bytes:
        self.asked += 1
        return self.text

    def until(self, condition: Callable[[], object]) -> None:
        end = self.loop.clock() + 20
        while not condition():
            assert self.loop.clock() < end, "it never happened"
            self.loop.turn()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(state_file, "PAUSE", 0.05)
    it = Kept(tmp_path / "state" / "file.json")
    yield it
    it.loop.close()


def test_a_write_is_of_what_was_asked_for_before_it(kept: Kept) -> None:
    """Whoever waits for a change of his waits for that, not for quiet."""
    file = kept.file
    file.changed(urgent=True)
    mine = file.asked
    kept.until(lambda: file.tried >= mine)
    file.changed()                                 # somebody else's, a second from now
    assert file.tried == mine < file.asked


def test_many_changes_are_one_write(kept: Kept) -> None:
    for _ in range(1000):
        kept.file.changed()
    kept.until(kept.path.exists)
    assert kept.path.read_bytes() == b"one"
    assert kept.asked == 1
    kept.text = b"two"
    kept.file.changed()
    kept.until(lambda: kept.path.read_bytes() == b"two")
    assert kept.asked == 2


def test_two_that_write_the_same_file_hear_of_each_other_once(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    other = StateFile(kept.loop, str(kept.path), lambda: b"other", kept.failures.append)
    words = (f"{kept.path}: somebody else has written it since we have: two l4ipd with one state file lose what the "
             "other has saved; give each one of its own")

    def turns(*files: StateFile) -> None:
        for file in files:
            file.changed(urgent=True)
            mine = file.asked
            kept.until(lambda: file.tried >= mine)      # noqa: B023

    turns(kept.file, kept.file, kept.file)
    kept.path.unlink()
    turns(kept.file)
    assert not caplog.messages, "what is gone was taken away, or moved"
    turns(other)
    assert not caplog.messages, "the second cannot know yet, and may be the next run"
    turns(kept.file, kept.file, other, kept.file, other, kept.file)
    assert caplog.messages == [words, words], "each of them once"
    kept.file.move(f"{kept.path}.mine")
    turns(kept.file, other, kept.file, other)
    assert len(caplog.messages) == 2 and kept.path.read_bytes() == b"other"


def test_the_end_writes_what_waits(kept: Kept) -> None:
    kept.file.changed()
    kept.file.close()
    assert kept.path.read_bytes() == b"one"


def test_a_disk_that_fails_is_named_once(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept.path.parent.write_text("in the way")       # no directory
    for number in range(1, 4):
        kept.file.changed()
        kept.until(lambda number=number: kept.asked == number)      # type: ignore[misc]
    kept.until(lambda: kept.file.failure)
    kept.file.close()
    assert kept.failures == ["Not a directory"]
    kept.path.parent.unlink()
    kept.file.changed()
    kept.until(kept.path.exists)
    kept.until(lambda: not kept.file.failure)
    assert caplog.text.count("can be written again") == 1


def test_a_write_that_failed_is_tried_again_by_itself(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "RETRY", 0.05)
    kept.path.parent.write_text("in the way")       # no directory
    kept.file.changed()
    kept.until(lambda: kept.asked == 3)
    assert kept.file.failure
    kept.path.parent.unlink()
    kept.until(kept.path.exists)
    kept.until(lambda: not kept.file.failure)
    written = kept.asked
    until = kept.loop.clock() + 0.3
    kept.until(lambda: kept.loop.clock() > until)
    assert kept.asked == written, "and then it rests"


def test_a_thread_that_cannot_be_had_is_asked_for_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(state_file, "RETRY", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        kept.file.changed()
        kept.until(lambda: kept.asked == 2)
    kept.until(kept.path.exists)
    kept.file.close()


def test_nobody_looks_again_and_again_at_a_disk_that_hangs_with_nothing_to_write(
        kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_file, "RETRY", 0.1)
    monkeypatch.setattr(state_file, "WAIT", 0.001)
    free = threading.Event()
    monkeypatch.setattr(state_file, "write", lambda path, text: free.wait())
    looks: list[float] = []
    look = kept.file._timer.fire
    kept.file._timer.fire = lambda: (looks.append(kept.loop.now), look())      # type: ignore[func-returns-value]
    kept.file.changed()
    kept.until(lambda: len(looks) == 4)
    free.set()
    assert looks[-1] - looks[1] > 0.19
    kept.file.close()


def test_a_disk_that_hangs_does_not_stop_the_loop(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    kept.path.parent.mkdir()
    draft = f"{kept.path}.{os.getpid()}.new"
    opened = os.open

    def slow(path: Any, flags: int, *more: Any, **mores: Any) -> int:
        if path == draft:                           # a pipe that nobody reads hangs like a dead file server
            os.mkfifo(f"{path}.pipe")
            return opened(f"{path}.pipe", os.O_WRONLY)
        return opened(path, flags, *more, **mores)

    monkeypatch.setattr(os, "open", slow)
    monkeypatch.setattr(state_file, "LAST_WAIT", 0.05)
    kept.file.changed()
    kept.until(lambda: os.path.exists(f"{draft}.pipe"))
    kept.file.changed()
    ticks = []
    for _ in range(20):
        kept.loop.later(0, lambda: ticks.append(1))
        kept.loop.turn()
    kept.until(lambda: len(ticks) == 20)
    assert kept.asked == 1, "one write at a time"
    kept.file.close()                              # gives up
    os.close(opened(f"{draft}.pipe", os.O_RDONLY | os.O_NONBLOCK))
