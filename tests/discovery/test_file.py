"""Members from a file, which changes in every way that files change: real files, and a thread that reads them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.discovery import file
from l4ipd.discovery.file import FileWatcher
from l4ipd.discovery.source import Wanted
from l4ipd.model import Member, Source
from l4ipd.runtime.loop import Loop

PATIENCE = 60.0


class Watched:
    """A watcher on a loop, and what it said."""

    def __init__(self, loop: Loop, path: Path, six: bool = False, weights: bool = True) -> None:
        self.loop = loop
        self.said: list[tuple[Member, ...]] = []
        self.failed: list[str] = []
        self.watcher = FileWatcher(loop, Wanted(Source(file=str(path)), six, weights), self.said.append,
                                   self.failed.append)
        self.watcher.start()

    def names(self, count: int = 1) -> list[str]:
        """What was said, and how often it was said up to then."""
        self.until(lambda: len(self.said) >= count)
        return [member.name for member in self.said[count - 1]]

    def problem(self, count: int = 1) -> str:
        self.until(lambda: len(self.failed) >= count)
        return self.failed[count - 1]

    def looks(self, count: int = 3) -> None:
        """So many more looks at the file."""
        looked, done = self.watcher._looked, [0]

        def counting(found: file.Found) -> None:
            done[0] += 1
            looked(found)

        self.watcher._looked = counting  # type: ignore[method-assign]
        self.until(lambda: done[0] >= count)
        self.watcher._looked = looked  # type: ignore[method-assign]

    def until(self, done: object) -> None:
        assert callable(done)
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, (self.said, self.failed)
            self.loop.later(0.01, lambda: None)
            self.loop.turn()


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loop]:
    monkeypatch.setattr(file, "LOOK", 0.02)
    it = Loop()
    yield it
    it.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    it = tmp_path / "members.yaml"
    it.write_text("web1: 10.0.0.1\n")
    return it


def test_what_it_holds(loop: Loop, path: Path) -> None:
    path.write_text("web1: 10.0.0.1\nweb2: {address: 10.0.0.2, weight: 3, port: 81}\nweb3: {address: 10.0.0.3, "
                    "fallback: yes}\n")
    watched = Watched(loop, path)
    watched.names()
    assert watched.said == [(Member("web1", "10.0.0.1"), Member("web2", "10.0.0.2", 3, False, 81),
                             Member("web3", "10.0.0.3", 1, True))]
    watched.looks()
    assert len(watched.said) == 1, "it is not read again while it stays the same"


def test_every_way_to_change(loop: Loop, path: Path, tmp_path: Path) -> None:
    watched = Watched(loop, path)
    assert watched.names(1) == ["web1"]
    path.write_text("web2: 10.0.0.2\n")                         # in place
    assert watched.names(2) == ["web2"]
    (tmp_path / "new").write_text("web3: 10.0.0.3\n")
    os.rename(tmp_path / "new", path)
    assert watched.names(3) == ["web3"]
    with path.open("a") as appended:
        appended.write("web4: 10.0.0.4\n")
    assert watched.names(4) == ["web3", "web4"]
    assert not watched.failed


def test_a_link_that_moves(loop: Loop, tmp_path: Path) -> None:
    """As Kubernetes replaces a ConfigMap: members.yaml -> ..data/members.yaml, ..data -> ..2026_1, then another."""
    for version in (1, 2):
        (tmp_path / f"..2026_{version}").mkdir()
        (tmp_path / f"..2026_{version}/members.yaml").write_text(f"web{version}: 10.0.0.{version}\n")
    (tmp_path / "..data").symlink_to("..2026_1")
    (tmp_path / "members.yaml").symlink_to("..data/members.yaml")
    watched = Watched(loop, tmp_path / "members.yaml")
    assert watched.names(1) == ["web1"]
    (tmp_path / "..next").symlink_to("..2026_2")
    os.rename(tmp_path / "..next", tmp_path / "..data")
    assert watched.names(2) == ["web2"]


def test_what_is_being_written_is_left_alone(loop: Loop, path: Path) -> None:
    """A writer that is slow, and whose half would be a good file: as long as it writes, nothing is read."""
    watched = Watched(loop, path)
    assert watched.names(1) == ["web1"]
    with path.open("w") as writer:
        for number in range(20):
            writer.write(f"web{number}: 10.0.1.{number + 1}\n")
            writer.flush()
            watched.looks(1)
    assert watched.names(2) == [f"web{number}" for number in range(20)]
    assert not watched.failed


@pytest.mark.parametrize("text, words", [
    ("", "{0}:1: the file is empty: a mapping of names to addresses is wanted"),
    ("{}", "{0}:1: is empty: a mapping of names to addresses is wanted, with one at least"),
    ("- a", "{0}:1: the file is not a mapping: it begins with keys such as web1: 10.0.0.11"),
    ("web1: x.example\nweb2: 300\n", "{0}:1: web1: x.example is a host name: write its address, for ipnat accepts a "
     "name that it cannot resolve and then loads a rule for every address (and 1 more error)"),
    ("web1: fd00::1", "{0}:1: web1: fd00::1 is IPv6 and the cluster is IPv4, as its first address is: an rdr rule "
     "cannot cross, make two clusters"),
    ("web1: 10.0.0.1\nweb2: 10.0.0.1\n", "{0}:2: web2: 10.0.0.1 is already the address of web1 (line 1)"),
    ("web1: [", "{0}:2: not YAML: did not find expected node content, while parsing a flow node"),
    ("a: 10.0.0.1\na: 10.0.0.2\n", "{0}:2: a: given twice; the first one is on line 1")])
def test_a_flaw_changes_nothing(loop: Loop, path: Path, text: str, words: str) -> None:
    watched = Watched(loop, path)
    assert watched.names(1) == ["web1"]
    path.write_text(text)
    assert watched.problem() == words.format(path)
    watched.looks()
    assert len(watched.failed) == 1 and len(watched.said) == 1, "told once"
    path.write_text("web9: 10.0.0.9\n")
    assert watched.names(2) == ["web9"]


def test_a_file_that_goes_and_comes(loop: Loop, path: Path) -> None:
    watched = Watched(loop, path)
    assert watched.names(1) == ["web1"]
    path.unlink()
    assert watched.problem() == "cannot be read: no such file or directory"
    path.write_text("web2: 10.0.0.2\n")
    assert watched.names(2) == ["web2"]


def test_not_what_would_keep_its_reader_waiting(loop: Loop, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert Watched(loop, tmp_path / "pipe").problem() == "cannot be read: is no regular file"
    assert Watched(loop, tmp_path).problem() == "cannot be read: is a directory"


def test_too_much(loop: Loop, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.write_text("".join(f"m{number}: 10.1.{number // 250}.{number % 250 + 1}\n" for number in range(1001)))
    assert Watched(loop, path).problem() == "gives 1001 members, and more than 1000 are not taken"
    monkeypatch.setattr(file, "SIZE_LIMIT", 100)
    assert Watched(loop, path).problem() == "is larger than 0 MB"


def test_a_look_that_does_not_end_holds_nobody(loop: Loop, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file server that is gone: the loop goes on, and it is told."""
    monkeypatch.setattr(file, "STUCK", 0.1)
    go_on: list[int] = []
    stat = os.stat

    def hanging(path: str) -> os.stat_result:
        while not go_on:
            time.sleep(0.01)
        return stat(path)

    monkeypatch.setattr(os, "stat", hanging)
    watched = Watched(loop, path)
    assert watched.problem().startswith("cannot be read within ")
    go_on.append(1)
    assert watched.names() == ["web1"]
    monkeypatch.undo()
