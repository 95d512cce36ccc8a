"""Who is held no longer, since nobody else serves: member by member, and at a start whose table is not read yet."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from l4ipd.checks.verdict import local
from l4ipd.config.parse import parse
from l4ipd.events import Event
from l4ipd.holds import Holds
from l4ipd.model import Config
from l4ipd.monitor.monitor import Monitor
from l4ipd.saved_state import Hold, Saved
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon


def configuration(directory: Path, members: str, flap: str = "{changes: 3, within: 5m}") -> Config:
    """Each member by its name, and what is said of it: ``m1 f1:fallback=yes``."""
    text = ", ".join(f"{name}: {{address: 10.0.0.{place}{', ' + more.replace('=', ': ') if more else ''}}}"
                     for place, (name, _, more) in enumerate((each.partition(":") for each in members.split()), 2))
    return parse(f"control: {directory}/sock\nstate: {directory}/state\nipfilter: {{interface: ext0}}\n"
                 f"defaults: {{rise: 1, fall: 1, flap: {flap}}}\nclusters:\n  c: {{address: 203.0.113.1, services: "
                 f"{{s: {{port: 80, check: tcp}}}}, members: {{{text}}}}}\n", "conf")


class Service(ScriptedDaemon):
    """All members of one are down, or unknown."""

    def __init__(self, directory: Path, members: str, saved: Saved | None = None) -> None:
        super().__init__(directory, configuration(directory, members))
        self.texts: list[str] = []
        self.daemon.events.listen(self.heard)
        if saved is not None:
            self.daemon.fleet.transitions.waits = True
            self.daemon.fleet.restore(saved)

    def heard(self, event: Event) -> None:
        if event.name.startswith("c/s/"):
            self.texts.append(f"{event.name.rpartition('/')[2]} {event.text.partition(':80 ')[2]}")

    def member(self, name: str) -> Monitor:
        return self.daemon.fleet.monitors[f"c/s/{name}"]

    def fate(self, names: str, outcomes: str) -> None:
        """So many probes of each, before the turn is over."""
        for name in names.split():
            for outcome in outcomes:
                self.verdict = {"+": GOOD, "-": BAD, "?": local("no memory")}[outcome]
                self.loop.clear(self.member(name).checker)
                self.member(name).checker.fire()
        self.daemon._turn()

    def hold(self, names: str) -> None:
        for name in names.split():
            self.fate(name, "-+-+")
            assert self.member(name).held

    def listed(self, *names: str) -> None:
        """The table is read, and has the rules of these."""
        steering = self.daemon.steering
        steering.rules.belief.have = {line: line for name in names for line in steering.lines(self.member(name))}
        steering._listed()
        self.daemon._turn()

    def states(self) -> str:
        return " ".join(each.seen for each in self.daemon.fleet.monitors.values())




def test_services_of_which_nobody_is_held_are_not_looked_at() -> None:
    asked: list[str] = []

    def members(group: str) -> list[Monitor]:
        asked.append(group)
        return []

    holds = Holds(members, lambda: False)
    for _ in range(3):
        holds.touch("c/s")
        holds.turn()
    assert asked == []
    holds.begun("c/s")
    holds.turn()
    looked = len(asked)
    assert looked
    for _ in range(3):
        holds.touch("c/s")
        holds.turn()
    assert len(asked) == looked, "nobody is held there"


@pytest.mark.parametrize(("members", "states"), [
    ("m3 m1 f1:fallback=yes f2:fallback=yes", "down up held held"),
    ("m3 f1:fallback=yes m1 f2:fallback=yes", "down up up held"),   # who is asked first cannot know of the others
    ("m3 f1:fallback=yes f2:fallback=yes m1 m2", "down up held up held"),
    ("m1 m2 m3", "up held down")])
def test_of_each_kind_one_is_put_back(tmp_path: Path, members: str, states: str) -> None:
    it = Service(tmp_path, members)
    names = [each.partition(":")[0] for each in members.split()]
    it.fate(" ".join(names), "+")
    it.hold(" ".join(name for name in names if name != "m3"))
    it.fate("m3", "-")
    assert it.states() == states
    it.end()


def test_one_that_is_held_and_down_is_not_in_the_way_of_another(tmp_path: Path) -> None:
    it = Service(tmp_path, "m1 m2 m3")
    it.fate("m1 m2 m3", "+")
    it.hold("m1 m2")
    it.fate("m1", "-")
    it.fate("m3", "-")
    assert it.states() == "held up down"
    it.end()


def test_the_last_one_is_not_held_be_it_for_a_moment(tmp_path: Path) -> None:
    """Nor because of a fallback, which stands by."""
    it = Service(tmp_path, "m1 f1:fallback=yes")
    it.fate("m1 f1", "+")
    for _ in range(10):
        it.fate("m1", "-")
        it.fate("m1", "+")
    assert it.states() == "up up" and not any("held" in text for text in it.texts)
    it.end()


def test_a_reload_ends_what_can_end(tmp_path: Path) -> None:
    """Of one that was held before the start nobody knows yet what it is."""
    now = time.time()
    it = Service(tmp_path, "m1 m2 m3", Saved(states={"c/s/m1": (False, now)}, held={"c/s/m1": Hold(1, now + 99, True)}))
    it.daemon.fleet.transitions.begin()
    it.fate("m2 m3", "+")
    it.hold("m2")
    it.daemon.reload(configuration(tmp_path, "m1 m2 m3", "no"))
    it.daemon._turn()
    assert it.states() == "held up up"
    assert it.texts[-1].startswith("m2 held -> up: L4OK connected (1 of 1 passed, 0 ms), by a reload; ")
    it.fate("m1", "-")
    assert it.states() == "down up up"
    it.end()


# -- who was held before the start

def restarted(directory: Path, members: str, *held: str, down: str = "", disabled: str = "") -> Service:
    now = time.time()
    return Service(directory, members, Saved(
        {f"c/s/{name}": now for name in disabled.split()},
        {**{f"c/s/{name}": (False, now - 50.0) for name in (*held, *down.split())}},
        held={f"c/s/{name}": Hold(1, now + 999.0, True) for name in held}))


def test_nobody_is_put_back_before_the_table_was_read(tmp_path: Path) -> None:
    """It may have the rule of another, that is up then."""
    for others, state in (("m2",), "held"), ((), "up"):
        it = restarted(tmp_path, "m1 m2", "m1")
        it.fate("m1", "+")
        it.fate("m2", "+-" if not others else "+")
        assert it.states().startswith("held ")
        it.listed(*others)
        assert it.member("m1").seen == state, it.texts
        it.end()


@pytest.mark.parametrize(("other", "state"), [
    ("unknown", "held"), ("disabled", "up"), ("weightless", "up"), ("held", "up"), ("down", "up"), ("up", "held"),
    ("fallback", "up")])
def test_it_waits_for_the_first_outcomes_of_those_that_matter(tmp_path: Path, other: str, state: str) -> None:
    more = {"weightless": ":weight=0", "fallback": ":fallback=yes"}.get(other, "")
    it = restarted(tmp_path, f"m1 m2{more}", "m1", *(("m2",) if other == "held" else ()),
                   disabled="m2" if other == "disabled" else "")
    it.listed()
    if other in ("up", "down"):
        it.fate("m2", "+" if other == "up" else "-")
    it.fate("m1", "+")
    assert it.member("m1").seen == state
    if other == "unknown":
        it.fate("m2", "?")
        assert it.member("m1").seen == "up", "it cannot be probed, and nobody knows how long"
    it.end()


@pytest.mark.parametrize("outcome", ["", "+", "-", "+-"])
def test_the_only_rule_that_is_there(tmp_path: Path, outcome: str) -> None:
    """Whoever was told that it is held hears that it is not, whatever came first: outcomes or the table."""
    it = restarted(tmp_path, "m1 m2", "m1", down="m2")
    it.fate("m1", outcome)
    assert it.states() == "held unknown" and not it.texts
    it.listed("m1")
    found = {"": "up: as its rule is in the kernel, and no other; 1 of 2 up",
             "+": "up: L4OK connected (1 of 1 passed, 0 ms), as its rule is in the kernel, and no other; 1 of 2 up"}
    end = "down: L4CON connection refused (1 of 1 failed, 0 ms), as its rule is in the kernel, and no other; 0 of 2 up"
    assert it.texts == [f"m1 held -> {found.get(outcome, end)}"]
    assert it.states() == f"{'up' if outcome in found else 'down'} unknown"
    it.end()


@pytest.mark.parametrize("early", [False, True])
def test_one_whose_time_was_over_meanwhile(tmp_path: Path, early: bool) -> None:
    """It is told in the same words, whether it passes before the table is read or not at all."""
    now = time.time()
    it = Service(tmp_path, "m1 m2", Saved(states={"c/s/m1": (False, now - 50.0)},
                                          held={"c/s/m1": Hold(1, now - 5.0, True)}))
    if early:
        it.fate("m1", "+")
    it.listed("m1")
    assert [text.partition(": ")[0] for text in it.texts] == ["m1 held -> up"]
    it.end()


def test_rules_of_two_that_were_held(tmp_path: Path) -> None:
    """One is enough, and the other is held as it was: nobody was told anything else."""
    it = restarted(tmp_path, "m1 m2", "m1", "m2")
    it.listed("m1", "m2")
    assert it.states() == "up held" and [text.partition(":")[0] for text in it.texts] == ["m1 held -> up"]
    it.end()
