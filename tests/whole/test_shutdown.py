"""The end of the daemon in simulated time: what waits behind a run is done, and our rules go when they are to go."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.simulated_daemon import SimulatedDaemon
from support.simulation import Child

RESETS = "resets: {interface: em1, source: ipmon, tag: 4711}"


@pytest.mark.parametrize("slowest", [0.05, 1.0, 4.5])
def test_a_change_that_waits_behind_a_run_is_seen_through(tmp_path: Path, slowest: float,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """A member dies while ipnat takes out another; then TERM comes."""
    world = SimulatedDaemon(tmp_path)

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
    world = SimulatedDaemon(tmp_path)
    world.after(30.0, world.term)
    world.go()
    assert len(world.ours()) == 3 and world.ended - world.told < 0.1


class Tool:
    """What ipnat does from some moment on."""

    def __init__(self, world: SimulatedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
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
    world = SimulatedDaemon(tmp_path, more)
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
    world = SimulatedDaemon(tmp_path, more)
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
    world = SimulatedDaemon(tmp_path, f", on_stop: remove{tag}")
    world.after(after, world.term)
    world.go()
    assert not world.ours() and world.foreign == set(world.rules())
    again = SimulatedDaemon(tmp_path, f", on_stop: remove{tag}")
    again.kernel = world.kernel
    again.after(30.0, lambda: setattr(again, "slowest", 2.0))
    again.after(31.0, lambda: again.daemon.steering.rules.reread())         # type: ignore[union-attr]
    again.until(lambda: again.now > 1031.0 and any("-l" in child.words for child in again.children), again.term)
    again.go()
    assert not again.ours() and again.foreign == set(again.rules())


@pytest.mark.parametrize("life", [0.0, 10.0])
def test_log_rules_go_although_one_is_in_use(tmp_path: Path, life: float) -> None:
    world = SimulatedDaemon(tmp_path, ", on_stop: remove", RESETS, life)
    world.after(31.0, world.term)
    world.go()
    assert not world.ours() and not world.filters()
    assert world.ended - world.told < (13.0 if life else 1.0)
