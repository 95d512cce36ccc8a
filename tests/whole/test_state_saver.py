"""What is saved of a daemon, when, and what is said if that fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd import saved_state
from l4ipd.checks.verdict import Leave
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.model import Config, Member
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from l4ipd.state_saver import StateSaver, snapshot
from support.daemon_in_process import until
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon, configuration

MEMBERS = "m1: 10.0.0.2, m2: 10.0.0.3, m3: 10.0.0.4, m4: 10.0.0.5, m5: 10.0.0.6"


class File:
    """In place of the file: what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def move(self, path: str) -> None:
        self.told.append(path)

    def changed(self, urgent: bool = False) -> None:
        self.told.append(urgent)


def test_every_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    it = ScriptedDaemon(tmp_path, configuration(tmp_path, MEMBERS))
    fleet, daemon = it.daemon.fleet, it.daemon
    m1, m2, m3, m4, m5 = fleet.monitors.values()
    for monitor, verdict in ((m1, GOOD), (m2, Leave("L7STS", "503")), (m3, BAD), (m4, GOOD)):
        for _ in range(3):
            monitor.heard(verdict, it.loop.now, 0.0)
    now = 1_800_000_000.3
    monkeypatch.setattr(time, "time", lambda: now)
    for monitor, ago in ((m1, 100.0), (m2, 200.0), (m3, 300.0)):
        monitor.since = it.loop.now - ago + 0.04
    fleet.disable([m3], True, "alice", 60.04)
    fleet.disable([m4], False)
    m1.hold(3, it.loop.now + 30.04, True)
    m2.hold(2, it.loop.now - 30.0, True)
    m5.hold(0, it.loop.now, False)
    daemon.readiness.left, daemon.readiness.before = {"c": 7.0}, {"c": True}
    daemon.discovery.known = {"dns": (Member("m", "10.0.0.1"),)}
    daemon.steering.inherited.tags.add("old")
    daemon.steering.rules.belief.have = {"rdr one": "", "rdr two tag l4ip": ""}
    traces = frozenset({"log"}), frozenset({4711}), frozenset({"count in"})
    monkeypatch.setattr(daemon.sensing.rules, "traces", lambda: traces)
    found = snapshot(daemon)
    assert found.rules == {"rdr one"} and found.rdr_tags == {"old", "l4ip"}
    assert (found.tables, found.tags, found.counts) == traces
    assert found.left == {"c": 7.0} and found.ready == {"c": True}
    assert found.discovered == {"dns": (Member("m", "10.0.0.1"),)}
    assert found.disabled.keys() == {"c/s/m3", "c/s/m4"} and found.cut == {"c/s/m3"}
    assert found.users == {"c/s/m3": "alice"} and found.until.keys() == {"c/s/m3"}
    assert found.until["c/s/m3"] == now + 60.0, "to a tenth of a second"
    assert {name: up for name, (up, _) in found.states.items()} == {
        "c/s/m1": False, "c/s/m2": False, "c/s/m3": False, "c/s/m4": True}, "of m5 nothing is known, and m1 is held"
    assert found.draining == {"c/s/m2"}
    for name, ago in (("m1", 100.0), ("m2", 200.0), ("m3", 300.0)):
        assert found.age(f"c/s/{name}", now) == ago
    assert found.held.keys() == {"c/s/m1", "c/s/m2"}
    assert found.held["c/s/m1"][::2] == (3, True) and found.held["c/s/m2"][::2] == (2, False)
    assert found.held["c/s/m1"].until == now + 30.0
    assert saved_state.decode(saved_state.encode(found, now + 60), now + 60) == found
    it.end()


def test_what_was_known_of_those_that_nobody_has_seen_yet_stays_known(tmp_path: Path) -> None:
    now = time.time()
    it = ScriptedDaemon(tmp_path, configuration(tmp_path, "m1: 10.0.0.2, m2: 10.0.0.3"),
                        {"c/s/m1": (True, now - 100.0), "c/s/m2": (False, now - 200.0)})
    found = snapshot(it.daemon)
    assert {name: up for name, (up, _) in found.states.items()} == {"c/s/m1": True, "c/s/m2": False}
    assert found.age("c/s/m2", now) == pytest.approx(200.0, abs=30)
    it.end()


@pytest.mark.parametrize(("kind", "told"), [
    ("disabled", [True]), ("enabled", [True]), ("up", [False]), ("ready", [False]), ("reloaded", ["elsewhere", True])])
def test_how_soon_it_is_written(tmp_path: Path, kind: str, told: list[object]) -> None:
    """At once, where somebody may be told that it survives; after a reload it may be another file."""
    it = ScriptedDaemon(tmp_path, configuration(tmp_path))
    it.saver.close()
    file = File()
    it.saver.file = file                            # type: ignore[assignment]
    it.daemon.config = Config(state="elsewhere")
    it.saver._heard(Event(kind, "", ""))
    assert file.told == told
    it.loop.close()


def test_what_a_source_says_is_saved(tmp_path: Path) -> None:
    it = ScriptedDaemon(tmp_path, configuration(tmp_path))
    asked = it.saver.file.asked
    for listener in it.daemon.discovery._listeners:
        listener()
    assert it.saver.file.asked > asked
    it.end()


def test_a_run_that_ends_early_leaves_what_it_was_left(tmp_path: Path) -> None:
    path = tmp_path / "state"
    saved = Saved(disabled={"a/b/c": 5.0}, users={"a/b/c": "alice"})
    path.write_bytes(saved_state.encode(saved, time.time()))
    loop = Loop()
    saver = StateSaver(loop, Daemon(loop, Config(), 10), str(path))
    assert saver.saved == saved
    saver.file.changed()
    saver.close()
    assert saved_state.load(str(path)) == saved
    loop.close()


class Silent:
    """A probe that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    """With a member, whose state is saved in this directory."""
    loop = Loop()
    config = configuration(tmp_path)
    it = Daemon(loop, config, 10)
    it.fleet.schedule.start = lambda recipe, done: Silent()
    saver = StateSaver(loop, it, config.state)
    it.apply(config)
    yield it
    saver.close()
    loop.close()


def test_it_is_written_when_something_is_told(daemon: Daemon) -> None:
    daemon.fleet.disable(list(daemon.fleet.monitors.values()), False, "alice")
    until(daemon.loop, lambda: saved_state.load(daemon.config.state).users == {"c/s/m1": "alice"})
    assert daemon.complaints() == []


def test_that_it_cannot_be_written_is_said(daemon: Daemon, caplog: pytest.LogCaptureFixture) -> None:
    """To the log, and to whoever asks afterwards."""
    Path(daemon.config.state).mkdir()
    daemon.fleet.disable(list(daemon.fleet.monitors.values()), False)
    until(daemon.loop, daemon.complaints)
    (words,) = daemon.complaints()
    assert words.startswith(f"{daemon.config.state}: cannot be written: ") and words in caplog.messages
    assert words.endswith(": what the operator disables now would not survive a restart")
    assert words.count(": ") == 3 and "None" not in words
