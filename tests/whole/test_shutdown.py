"""The end of the daemon in simulated time: what waits behind a run is done, and our rules go when they are to go."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from support.simulation import REFUSES, Child, World, simulated

CONFIG = """
pidfile: {0}/pid
control: {0}/sock
state: {0}/state.json
ipfilter: {{interface: em0, resync: 10s, ipnat: {0}/ipnat, ipf: {0}/ipf, ipfstat: {0}/ipfstat, ipmon: {0}/ipmon{1}}}
{2}
defaults: {{interval: 1s, timeout: 500ms, rise: 1, fall: 1}}
clusters:
  www:
    address: 203.0.113.10
    services: {{http: {{port: 80, member_port: 8080, check: tcp}}}}
    members: {{web1: 10.0.0.11, web2: 10.0.0.12, web3: 10.0.0.13}}
"""
RESETS = "resets: {interface: em1, source: ipmon, tag: 4711}"


class Life(World):
    """One life of a daemon, that ends by a signal."""

    def __init__(self, directory: Path, more: str = "", resets: str = "", life: float = 10.0) -> None:
        super().__init__(1, directory)
        self.kernel.iterators.life = life
        self.path = directory / "l4ip.conf"
        self.path.write_text(CONFIG.format(directory, more, resets))
        for tool in ("ipnat", "ipf", "ipfstat", "ipmon"):
            (directory / tool).write_text("#!/bin/sh\n")
            (directory / tool).chmod(0o755)
        self.told = 0.0                             # when it was told to end, and when it did
        self.ended = 0.0

    def stopped(self) -> None:
        self.ended = self.now
        self._finished = True

    def go(self) -> None:
        with simulated(self):
            self.live(self.path)

    def term(self) -> None:
        self.told = self.now
        self.signal(signal.SIGTERM)

    def until(self, done: Callable[[], object], then: Callable[[], object]) -> None:
        """``then()`` as soon as ``done()``."""
        def look() -> None:
            if done():
                then()
            else:
                self.after(0.02, look)

        look()

    def ours(self) -> list[str]:
        return [line for line in self.rules() if line not in self.foreign]

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for _, record in self.log]

    def refuse(self, *members: str) -> None:
        for member in members:
            self.members[f"10.0.0.{member}", 8080] = REFUSES

    def changing(self) -> bool:
        return any("-r" in child.words and child.running for child in self.children)


@pytest.mark.parametrize("slowest", [0.05, 1.0, 4.5])
def test_a_change_that_waits_behind_a_run_is_seen_through(tmp_path: Path, slowest: float,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """A member dies while ipnat takes out another; then TERM comes."""
    world = Life(tmp_path)

    def slow() -> None:
        monkeypatch.setattr(world.random, "uniform", lambda low, high: high)       # every tool takes as long
        world.slowest = slowest
        world.refuse("11")
        world.until(world.changing, second)

    def second() -> None:
        world.refuse("12")
        world.until(lambda: any("web2" in text and "-> down" in text for text in world.texts), world.term)

    world.after(30.0, slow)
    world.go()
    assert [line.split(" -> ")[1].split("/")[0] for line in world.ours()] == ["10.0.0.13"]
    assert world.ended - world.told < 11.0
    assert not any("stopped before" in text for text in world.texts)


def test_nothing_is_waited_for_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    world = Life(tmp_path)
    world.after(30.0, world.term)
    world.go()
    assert len(world.ours()) == 3 and world.ended - world.told < 0.1


class Tool:
    """What ipnat does from some moment on."""

    def __init__(self, world: Life, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fault = ""
        plan = Child.plan

        def planned(child: Child) -> None:
            name, words = child._tool()
            if name == "ipnat" and self.fault and (self.fault != "changes" or "-l" not in words):
                world.after(0.01, lambda: child._end(1, b"ioctl: the weather is bad\n"))
                child._status = 0
            else:
                plan(child)

        monkeypatch.setattr(Child, "plan", planned)


@pytest.mark.parametrize("fault", ["changes", "all"])
@pytest.mark.parametrize("more", ["", ", on_stop: remove"])
def test_a_tool_that_fails_is_tried_again_for_a_while_and_what_is_left_is_said(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, more: str) -> None:
    world = Life(tmp_path, more)
    tool = Tool(world, monkeypatch)

    def fail() -> None:
        tool.fault = fault
        world.refuse("11")
        world.until(lambda: any("web1" in text and "-> down" in text for text in world.texts), world.term)

    world.after(30.0, fail)
    world.go()
    assert len(world.ours()) == 3
    assert 4.9 < world.ended - world.told < 8.0, "five seconds, and the end of a wait"
    left = [text for text in world.texts if text.startswith("stopped before the rules were as they should be: ipnat: ")]
    assert len(left) == 1 and ("3 rules are" if more else "a rule is") in left[0], world.texts
    assert "not removed: rdr em0" in left[0] and "the weather is bad" in left[0]


@pytest.mark.parametrize("more", ["", ", on_stop: remove"])
def test_a_tool_that_works_again_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    world = Life(tmp_path, more)
    tool = Tool(world, monkeypatch)

    def fail() -> None:
        tool.fault = "all"
        world.refuse("11")
        world.until(lambda: any("web1" in text and "-> down" in text for text in world.texts), term)

    def term() -> None:
        world.term()
        world.after(3.0, lambda: setattr(tool, "fault", ""))

    world.after(30.0, fail)
    world.go()
    assert len(world.ours()) == (0 if more else 2)
    assert not any("stopped before" in text for text in world.texts)


@pytest.mark.parametrize("after", [0.0, 0.001, 0.01, 0.02, 0.03, 0.05, 0.1, 0.3, 1.0, 3.0])
@pytest.mark.parametrize("tag", ["", ", tag: no"])
def test_rules_go_whenever_the_end_comes(tmp_path: Path, after: float, tag: str) -> None:
    """Also before the table was read, or during a listing."""
    world = Life(tmp_path, f", on_stop: remove{tag}")
    world.after(after, world.term)
    world.go()
    assert not world.ours() and world.foreign == set(world.rules())
    again = Life(tmp_path, f", on_stop: remove{tag}")
    again.kernel = world.kernel
    again.after(30.0, lambda: setattr(again, "slowest", 2.0))
    again.after(31.0, lambda: again.daemon.steering.rules.reread())         # type: ignore[union-attr]
    again.until(lambda: again.now > 1031.0 and any("-l" in child.words for child in again.children), again.term)
    again.go()
    assert not again.ours() and again.foreign == set(again.rules())


@pytest.mark.parametrize("life", [0.0, 10.0])
def test_log_rules_go_although_one_is_in_use(tmp_path: Path, life: float) -> None:
    world = Life(tmp_path, ", on_stop: remove", RESETS, life)
    world.after(31.0, world.term)
    world.go()
    assert not world.ours() and not world.filters()
    assert world.ended - world.told < (13.0 if life else 1.0)
