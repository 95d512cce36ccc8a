"""What the operator disables: who it was, since when, and for how long."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from l4ipd.control.disable import NOW_OR_NEVER
from l4ipd.daemon import Daemon
from l4ipd.overrides import AGAIN, Disabled, Overrides, by_operator
from l4ipd.report import status
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.user_name import user_name
from l4ipd.saved_state import Saved
from support.gateway import wait
from support.operated_gateway import A, B, OperatedGateway
from support.scripted_daemon import ScriptedDaemon, configuration

ME = user_name(os.geteuid())
OVER = "disabled -> enabled: the time is over for which it was disabled, to be checked first; "
SINCE = r"since \d{4}-\d\d-\d\d \d\d:\d\d"


def left(node: OperatedGateway) -> float | None:
    """How many seconds web1 is disabled yet."""
    (row,) = (row for row in node.rows("show", "web1") if "endpoint" in row)
    return None if row["disabled_until"] is None else row["disabled_until"] - time.time()


def test_for_a_time(node: OperatedGateway) -> None:
    node.begin()
    assert node.ctl("disable", "--for", "3s", "web1") == (0, f"www/http/web1 disabled for 3s\n{NOW_OR_NEVER}\n", "")
    assert node.lines(rf"^www/http/web1 {A}:{node.inside} up -> disabled: by the operator \({ME}\), for 3s, its "
                      "sessions may finish; 1 of 3 up$")
    node.wait_log(f"^www/http/web1 {A}:{node.inside} {OVER}")
    node.wait_log(f"^www/http/web1 {A}:{node.inside} enabled -> up: L4OK connected ")
    node.wait_targets(A, B)
    assert len(node.lines(OVER)) == 1 and node.states()["web1"] == "up"
    node.stop()
    state = json.loads((node.directory / "state.json").read_text())
    assert (state["disabled"], state["disabled_by"], state["disabled_until"]) == ({}, {}, {})


def test_it_is_seen_and_survives(node: OperatedGateway) -> None:
    """A reload, a crash, and the end of the time while nobody runs."""
    node.begin()
    node.ctl("disable", "web1", "--for", "2h")
    assert 7190 < (left(node) or 0) < 7201
    node.setup(members=f"web1: {A}, web2: {B}, web4: 127.0.0.14")
    assert node.ctl("reload")[0] == 0
    for _ in range(2):
        row = node.rows("show", "web1")[0]
        assert row["disabled"] and row["disabled_by"] == ME and abs(row["disabled_since"] - time.time()) < 300
        assert 6900 < (left(node) or 0) < 7202
        shown = " ".join(node.ctl("show")[1].split())
        assert f" disabled by {ME} since " in shown and shown.endswith(": www/http/web1")
        node.stop(signal.SIGKILL)
        node.start()
        wait("it is known", lambda: node.states()["web1"] == "disabled (up)")
    node.stop()
    assert node.targets() == [B]
    path = node.directory / "state.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "disabled_until": {"www/http/web1": state["written"] - 5}}))
    node.start()
    node.wait_log(f"^www/http/web1 {A}:{node.inside} {OVER}")
    node.wait_targets(A, B)
    assert len(node.lines(OVER)) == 1


def test_a_second_time(node: OperatedGateway) -> None:
    node.begin()
    node.ctl("disable", "web1", "--for", "1h")
    since = node.rows("show", "web1")[0]["disabled_since"]
    assert node.ctl("disable", "web1", "--for", "2h")[1] == (
        "www/http/web1 was disabled already, from now on for 2h\n")
    assert 7000 < (left(node) or 0) < 7202
    assert node.ctl("disable", "web1")[1] == "www/http/web1 was disabled already, from now on until it is enabled\n"
    assert left(node) is None
    assert node.ctl("disable", "web1")[1] == "www/http/web1 was disabled already\n", "nothing new"
    assert abs(node.rows("show", "web1")[0]["disabled_since"] - since) <= 1
    told = [line.partition(" -> disabled: ")[2].rpartition(";")[0] for line in node.lines(" -> disabled: ")]
    assert told == [f"by the operator ({ME}), for 1h, its sessions may finish", f"by the operator ({ME}), for 2h",
                    f"by the operator ({ME}), until it is enabled"]
    node.stop(signal.SIGKILL)                       # each of them was saved before it was confirmed
    assert json.loads((node.directory / "state.json").read_text())["disabled_until"] == {}


def test_two_at_once_are_one_line(node: OperatedGateway) -> None:
    node.begin()
    node.ctl("disable", "web1", "web2", "--for", "1h")
    lines = [line for line in node.ctl("show")[1].splitlines() if line.startswith("disabled by")]
    assert len(lines) == 1 and lines[0].endswith(": www/http/web1, www/http/web2")


@pytest.mark.parametrize("words, why", [
    (("--for", "0", "web1"), "l4ipctl: for: 0 is out of range (1s-8760h)"),
    (("--for", "9999h", "web1"), "l4ipctl: for: 9999h is out of range (1s-8760h)"),
    (("--for", "web1", "2h"), "is no time, such as 30s or 5m")])
def test_what_is_no_time(node: OperatedGateway, words: Sequence[str], why: str) -> None:
    node.begin()
    status, out, err = node.ctl("disable", *words)
    assert status == 2 and not out and why in err
    assert node.states()["web1"] == "up", "and nothing is done"


# -- the time

class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def overrides() -> tuple[Clock, Loop, Overrides, list[str]]:
    clock, over = Clock(), list[str]()
    loop = Loop(clock)

    def enabled(names: Sequence[str]) -> None:
        over.extend(names)
        for name in names:
            del it.disabled[name]

    it = Overrides(loop, enabled)
    return clock, loop, it, over


def pass_by(clock: Clock, loop: Loop, seconds: float) -> None:
    clock.now += seconds
    loop.later(0, lambda: None)                     # so that it does not sleep
    loop.now = clock.now
    loop.turn()
    clock.now += 0.01                               # a tick
    loop.later(-1, lambda: None)
    loop.turn()


def test_each_has_its_time() -> None:
    clock, loop, it, over = overrides()
    it.disable(["a", "b"], "alice", 60)
    it.disable(["c"], "", 30)
    it.disable(["d"], "", None)
    pass_by(clock, loop, 29)
    assert over == []
    pass_by(clock, loop, 2)
    assert over == ["c"]
    it.disable(["b"], "bob", None)
    pass_by(clock, loop, 60)
    assert over == ["c", "a"] and it.disabled["b"].user == "bob" and set(it.disabled) == {"b", "d"}
    loop.close()


def test_a_second_time_is_from_now_on_and_since_when_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, loop, it, over = overrides()
    for wall, user, seconds in ((5e8, "alice", 60.0), (6e8, "bob", 90.0)):
        monkeypatch.setattr(time, "time", lambda wall=wall: wall)
        it.disable(["a"], user, seconds)
        assert it.disabled == {"a": Disabled(5e8, user, loop.now + seconds)}
        pass_by(clock, loop, 30)
    pass_by(clock, loop, 50)
    assert over == []
    pass_by(clock, loop, 11)
    assert over == ["a"]
    loop.close()


def test_at_the_end_nobody_is_put_back(tmp_path: Path) -> None:
    """That is left to the next run, which reads until when from the file."""
    clock, loop, it, over = overrides()
    it.disable(["a"], "", 60)
    it.stop()
    pass_by(clock, loop, 100)
    assert over == [] and it.disabled
    loop.close()
    daemon = ScriptedDaemon(tmp_path, configuration(tmp_path)).daemon
    daemon.fleet.disable(list(daemon.fleet.monitors.values()), False, "alice", 5.0)
    daemon.fleet.stop()
    daemon.loop.clock = lambda: time.monotonic() + 10.0
    for _ in range(2):
        daemon.loop.later(-1, lambda: None)         # so that it does not sleep
        daemon.loop.turn()
    assert daemon.fleet.disabled.keys() == {"c/s/m1"}
    daemon.loop.close()


def test_a_step_of_the_wall_clock_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, loop, it, over = overrides()
    it.disable(["a"], "", 60)
    for step in (1e8, -1e8):
        monkeypatch.setattr(time, "time", lambda step=step: 1_800_000_000.0 + step)
        pass_by(clock, loop, 20)
        assert over == []
    pass_by(clock, loop, 20)
    assert over == ["a"]
    loop.close()


def test_what_fails_is_tried_again() -> None:
    clock, loop, it, over = overrides()
    it.disable(["a"], "", 5)
    told: list[Sequence[str]] = []
    fine = it._over

    def fails(names: Sequence[str]) -> None:
        told.append(names)
        raise RuntimeError

    it._over = fails
    pass_by(clock, loop, 6)
    it._over = fine
    assert told == [["a"]] and over == [] and loop.errors.total == 1
    pass_by(clock, loop, AGAIN + 0.1)
    assert over == ["a"]
    loop.close()


def test_words() -> None:
    assert by_operator("") == "by the operator" and by_operator("alice", 5400) == "by the operator (alice), for 90m"
    when = time.mktime((2026, 11, 27, 9, 12, 40, 0, 0, -1))
    assert status.TakenOut(when).words() == "disabled since 2026-11-27 09:12"
    assert status.TakenOut(when, "al", when + 86400).words() == (
        "disabled by al since 2026-11-27 09:12, until 2026-11-28 09:12")
    assert status.TakenOut(when, "al", when + 86400).words("2026-11-27") == (
        "disabled by al since 09:12, until 2026-11-28 09:12")
    assert Disabled(when) == Disabled(when, "", None)


def test_it_is_said_that_one_that_is_gone_is_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And nothing, of one that was not disabled."""
    it = ScriptedDaemon(tmp_path, configuration(tmp_path, "m1: 10.0.0.2, m2: 10.0.0.3, m3: 10.0.0.4"))
    it.daemon.fleet.disable([it.daemon.fleet.monitors["c/s/m2"]], False, "alice", 5.0)
    with caplog.at_level("WARNING"):
        it.daemon.apply(configuration(tmp_path, "m1: 10.0.0.2"))
    assert caplog.messages == ["c/s/m2 is gone; that it was disabled by the operator (alice) is forgotten"]
    it.daemon.apply(configuration(tmp_path, "m1: 10.0.0.2, m2: 10.0.0.3"))
    assert not it.daemon.fleet.monitors["c/s/m2"].disabled
    it.end()


def test_it_is_said_at_a_start_what_of_the_last_run_is_forgotten(tmp_path: Path, caplog: pytest.LogCaptureFixture
                                                                 ) -> None:
    """An endpoint that was disabled, or a cluster that had left, by names that the configuration has no longer."""
    saved = Saved(disabled={"c/s/m1": 1.0, "c/s/old": 1.0, "c/s/older": None}, users={"c/s/old": "alice"},
                  left={"": 1.0, "c": 1.0, "d": 1.0})
    loop = Loop()
    daemon = Daemon(loop, configuration(tmp_path, "m1: 10.0.0.2, m2: 10.0.0.3"), 100)
    with caplog.at_level("WARNING"):
        daemon.start(saved)
    assert [line for line in caplog.messages if "forgotten" in line] == [
        "c/s/old is gone; that it was disabled by the operator (alice) is forgotten",
        "c/s/older is gone; that it was disabled by the operator is forgotten",
        "d is gone; that it was out of service by the operator is forgotten"]
    assert list(daemon.fleet.disabled) == ["c/s/m1"] and list(daemon.readiness.left) == ["", "c"]
    daemon.fleet.stop()
    loop.close()


def test_who_reloads_is_told_what_is_forgotten(node: OperatedGateway) -> None:
    """What comes back by another name serves at once: whoever changes it ought to know."""
    node.begin()
    node.ctl("disable", "web1")
    node.ctl("leave", "www")
    text = node.config.read_text()
    node.config.write_text(text.replace("web1:", "new:").replace("  www:", "  other:"))
    gone = [f"www/http/web1 is gone; that it was disabled by the operator ({ME}) is forgotten",
            "www is gone; that it was out of service by the operator is forgotten"]
    status, out, err = node.ctl("reload")
    assert (status, err.splitlines()) == (0, [f"l4ipctl: warning: {words}" for words in gone]), out
    assert [node.lines(f"^{re.escape(words)}$") for words in gone] == [[words] for words in gone], "said once"
    assert node.ctl("reload")[2] == ""
