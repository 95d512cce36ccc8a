"""The state file: what is written and read back, what is ignored and why, and a disk that fails."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd import state
from l4ipd.runtime.loop import Loop
from l4ipd.state import Saved, Store, decode, encode, load, write

NOW = 1_800_000_000.0
SAVED = Saved({"www/http/web1": NOW - 10}, {"www/http/web1": (True, NOW - 100), "www/http/web2": (False, NOW - 5)},
              frozenset({"rdr lo0 203.0.113.1/32 port 80 -> 10.0.0.1 port 80 tcp round-robin"}))
times = st.floats(0, NOW)


@given(st.dictionaries(st.text(), times), st.dictionaries(st.text(), st.tuples(st.booleans(), times)),
       st.frozensets(st.text()), st.frozensets(st.text()), st.frozensets(st.integers(0, 2**32 - 1)),
       st.frozensets(st.text()))
def test_what_is_written_is_read_back(disabled: dict[str, float], states: dict[str, tuple[bool, float]],
                                      rules: frozenset[str], tables: frozenset[str], tags: frozenset[int],
                                      counts: frozenset[str]) -> None:
    saved = Saved(disabled, states, rules, tables, tags, counts)
    assert decode(encode(saved, NOW), NOW + 1) == saved


@pytest.mark.parametrize("length", range(0, len(encode(SAVED, NOW)) - 2, 7))
def test_a_file_that_was_cut_short_is_ignored(length: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(encode(SAVED, NOW)[:length], NOW)


def test_a_file_of_before_there_were_filters_is_read() -> None:
    data = json.loads(encode(SAVED, NOW))
    del data["filters"]
    assert decode(json.dumps(data).encode(), NOW) == SAVED


def changed(**more: Any) -> bytes:
    data = json.loads(encode(SAVED, NOW))
    return json.dumps({**data, **more}).encode()


@pytest.mark.parametrize("text, words", [
    (b"", "damaged"), (b"\0" * 100, "damaged"), (b"\xff\xfe", "damaged"), (b"[" * 100_000, "damaged"),
    (b"[]", "not a state file"), (b"{}", "not a state file"), (b'"version"', "not a state file"),
    (changed(version=2), "version 2, and this l4ipd writes version 1"), (changed(version="x" * 99), "version xxxx"),
    (changed(disabled=["www/http/web1"]), "damaged"), (changed(disabled={"a/b/c": "yes"}), "damaged"),
    (changed(disabled=None), "damaged"), (changed(endpoints={"a/b/c": [True]}), "damaged"),
    (changed(endpoints={"a/b/c": [True, float("nan")]}), "damaged"), (changed(rules=3), "damaged"),
    (changed(filters={"tags": [1 << 32]}), "damaged"), (changed(filters={"tags": [-1]}), "damaged"),
    (changed(filters={"tags": [10**400]}), "damaged"), (changed(disabled={"a/b/c": 10**400}), "damaged"),
    (changed(filters=3), "damaged"), (changed(filters={"tags": ["x"]}), "damaged"),
    (changed(written=float("inf")), "damaged"), (changed(written=10**400), "damaged"),
    (b" " * (state.SIZE_LIMIT + 1), "larger than 64 MB"),
])
def test_what_is_no_state_is_ignored(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(text, NOW)


@given(st.binary(max_size=300))
def test_garbage_is_ignored(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode(text, NOW)


@pytest.mark.parametrize("age, kept", [(0, True), (3599, True), (3601, False), (1e7, False), (-1, False)])
def test_what_the_operator_disabled_never_expires(age: float, kept: bool) -> None:
    found = decode(encode(SAVED, NOW), NOW + age)
    assert found.disabled == SAVED.disabled and found.rules == SAVED.rules
    assert found.states == (SAVED.states if kept else {})


def test_since_when() -> None:
    assert SAVED.age("www/http/web1", NOW) == 100
    assert SAVED.age("www/http/web2", NOW) == 5
    assert SAVED.age("www/http/web1", NOW - 1000) == 0, "the clock was set back"


@pytest.mark.parametrize("when, known", [
    (-1e300, None), (-1, None), (0, 0), (NOW, NOW), (NOW + 0.06, NOW), (NOW + 3600, None), (1e300, None),
    (10**300, None)])
def test_a_time_is_from_0_to_now_or_not_known(when: float, known: float | None) -> None:
    found = decode(changed(disabled={"a/b/c": when}, endpoints={"a/b/c": [True, when]}), NOW)
    assert found.disabled == {"a/b/c": known} and found.states == {"a/b/c": (True, known)}
    assert found.age("a/b/c", NOW) == (0 if known is None else NOW - known)


def test_a_write_is_of_what_was_asked_for_before_it(kept: Kept) -> None:
    """Whoever waits for a change of his waits for that, not for quiet."""
    store = kept.store
    store.changed(urgent=True)
    mine = store.asked
    kept.until(lambda: store.tried >= mine)
    store.changed()                                 # somebody else's, a second from now
    assert store.tried == mine < store.asked


def test_the_reason_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(str(tmp_path / "none")) == Saved() and not caplog.text
    (tmp_path / "file").write_text("{")
    assert load(str(tmp_path / "file")) == Saved()
    assert f"{tmp_path}/file: ignored, and kept as {tmp_path}/file.bad: it is damaged" in caplog.text
    assert load(str(tmp_path)) == Saved()
    assert f"{tmp_path}: ignored: Is a directory" in caplog.text
    os.mkfifo(tmp_path / "fifo")                    # which nobody writes to
    assert load(str(tmp_path / "fifo")) == Saved()
    assert f"{tmp_path}/fifo: ignored: is no regular file" in caplog.text


@pytest.mark.parametrize("written, words", [
    (NOW - 7200, "2 h old"), (NOW + 1, "from the future"), (1e300, "from the future"), (-1, "of no known age"),
    (-1e300, "of no known age")])
def test_the_age_of_a_state_is_told(written: float, words: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert decode(changed(written=written), NOW).states == {}
    assert f"state is {words}: since when endpoints are up or down is forgotten" in caplog.text


# -- writing

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


class Kept:
    """A store on a loop."""

    def __init__(self, path: Path) -> None:
        self.loop, self.path, self.asked = Loop(), path, 0
        self.saved = SAVED
        self.store = Store(self.loop, str(path), self.snapshot)
        self._tick()

    def _tick(self) -> None:
        self.loop.later(0.005, self._tick)

    def snapshot(self) -> Saved:
        self.asked += 1
        return self.saved

    def until(self, condition: Callable[[], object]) -> None:
        end = self.loop.clock() + 20
        while not condition():
            assert self.loop.clock() < end, "it never happened"
            self.loop.turn()


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    monkeypatch.setattr(state, "PAUSE", 0.05)
    it = Kept(tmp_path / "state" / "file.json")
    yield it
    it.loop.close()


def test_many_changes_are_one_write(kept: Kept) -> None:
    for _ in range(1000):
        kept.store.changed()
    kept.until(kept.path.exists)
    assert load(str(kept.path), NOW).disabled == SAVED.disabled
    assert kept.asked == 1
    kept.saved = Saved()
    kept.store.changed()
    kept.until(lambda: load(str(kept.path), NOW).disabled == {})
    assert kept.asked == 2


def test_the_end_writes_what_waits(kept: Kept) -> None:
    kept.store.changed()
    kept.store.close()
    assert load(str(kept.path), NOW).disabled == SAVED.disabled


def test_a_disk_that_fails_is_named_once(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept.path.parent.write_text("in the way")       # no directory
    for number in range(1, 4):
        kept.store.changed()
        kept.until(lambda number=number: kept.asked == number)      # type: ignore[misc]
    kept.until(lambda: kept.store.failure)
    kept.store.close()
    assert caplog.text.count("cannot be written") == 1
    kept.path.parent.unlink()
    kept.store.changed()
    kept.until(kept.path.exists)
    kept.until(lambda: not kept.store.failure)
    assert caplog.text.count("can be written again") == 1


def test_a_write_that_failed_is_tried_again_by_itself(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RETRY", 0.05)
    kept.path.parent.write_text("in the way")       # no directory
    kept.store.changed()
    kept.until(lambda: kept.asked == 3)
    assert kept.store.failure
    kept.path.parent.unlink()
    kept.until(kept.path.exists)
    kept.until(lambda: not kept.store.failure)
    written = kept.asked
    until = kept.loop.clock() + 0.3
    kept.until(lambda: kept.loop.clock() > until)
    assert kept.asked == written, "and then it rests"


def test_a_thread_that_cannot_be_had_is_asked_for_again(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(state, "RETRY", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        kept.store.changed()
        kept.until(lambda: kept.asked == 2)
    kept.until(kept.path.exists)
    kept.store.close()


def test_nobody_looks_again_and_again_at_a_disk_that_hangs_with_nothing_to_write(
        kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "RETRY", 0.1)
    monkeypatch.setattr(state, "WAIT", 0.001)
    free = threading.Event()
    monkeypatch.setattr(state, "write", lambda path, text: free.wait())
    looks: list[float] = []
    look = kept.store._timer.fire
    kept.store._timer.fire = lambda: (looks.append(kept.loop.now), look())      # type: ignore[func-returns-value]
    kept.store.changed()
    kept.until(lambda: len(looks) == 4)
    free.set()
    assert looks[-1] - looks[1] > 0.19
    kept.store.close()


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
    monkeypatch.setattr(state, "LAST_WAIT", 0.05)
    kept.store.changed()
    kept.until(lambda: os.path.exists(f"{draft}.pipe"))
    kept.store.changed()
    ticks = []
    for _ in range(20):
        kept.loop.later(0, lambda: ticks.append(1))
        kept.loop.turn()
    kept.until(lambda: len(ticks) == 20)
    assert kept.asked == 1, "one write at a time"
    kept.store.close()                              # gives up
    os.close(opened(f"{draft}.pipe", os.O_RDONLY | os.O_NONBLOCK))
