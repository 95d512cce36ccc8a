"""What is told of services: that nobody is up, every time that it comes to be so, and once each."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from l4ipd.checks.verdict import Leave, Verdict, local
from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.model import Config, Flap
from l4ipd.monitor.monitor import Monitor
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon

READINESS = ("ready", "unready")                    # events of clusters, which are told of elsewhere


def configuration(directory: Path, members: str, more: str = "", service: str = "s") -> Config:
    return parse(f"control: {directory}/sock\nstate: {directory}/state\nipfilter: {{interface: ext0}}\n"
                 f"defaults: {{rise: 2, fall: 2}}\nclusters:\n  c: {{address: 203.0.113.1, services: {{{service}: {{"
                 f"port: 80, check: tcp}}}}, members: {{{members}}}{more}}}\n", "conf")


class Told(ScriptedDaemon):
    """Members that are alive or not, by name."""

    def __init__(self, directory: Path, members: str, more: str = "",
                 states: dict[str, tuple[bool, float | None]] | None = None) -> None:
        self.directory = directory
        super().__init__(directory, configuration(directory, members, more), states)
        self.texts: list[str] = []
        self.daemon.events.listen(self._heard)

    def _heard(self, event: Event) -> None:
        if event.kind not in READINESS:
            self.texts.append(event.text)

    def member(self, name: str) -> Monitor:
        return self.daemon.fleet.monitors[f"c/s/{name}"]

    def fate(self, verdict: Verdict, *names: str, rounds: int = 2) -> None:
        """What probes find of these from now on, and some of them."""
        self.verdict = verdict
        for name in names:
            for _ in range(rounds):
                self.loop.clear(self.member(name).checker)
                self.member(name).checker.fire()
        self.daemon._turn()

    def reload(self, members: str, service: str = "s") -> None:
        self.daemon.reload(configuration(self.directory, members, service=service))
        self.daemon._turn()

    def disable(self, *names: str) -> None:
        self.daemon.fleet.disable([self.member(name) for name in names], now=False)
        self.daemon._turn()

    def enable(self, *names: str) -> None:
        self.daemon.fleet.enable([self.member(name) for name in names])
        self.daemon._turn()

    def kinds(self) -> list[str]:
        """The events of endpoints and services since the last call."""
        kinds = [f"{kind} {name.rpartition('/')[2]}" for kind, name in self.events
                 if kind not in ("reloaded", *READINESS)]
        self.events.clear()
        return kinds


BOTH = "m1: 10.0.0.2, m2: 10.0.0.3"


@pytest.fixture
def world(tmp_path: Path) -> Told:
    it = Told(tmp_path, BOTH)
    it.fate(GOOD, "m1", "m2")
    assert it.kinds() == ["up m1", "up m2"]
    return it


def test_when_the_last_goes_down(world: Told) -> None:
    world.fate(BAD, "m1")
    assert world.kinds() == ["down m1"]
    world.fate(BAD, "m2", rounds=10)
    assert world.kinds() == ["down m2", "all-down s"]
    world.fate(GOOD, "m1")
    world.fate(BAD, "m1")
    assert world.kinds() == ["up m1", "down m1", "all-down s"]


def test_when_a_reload_takes_the_last_living_one_away(world: Told) -> None:
    world.fate(BAD, "m1")
    assert world.kinds() == ["down m1"]
    world.reload("m1: 10.0.0.2")
    assert world.kinds() == ["all-down s"]


def test_when_a_service_goes_and_comes_back(world: Told) -> None:
    world.fate(BAD, "m1", "m2")
    assert world.kinds() == ["down m1", "down m2", "all-down s"]
    world.reload(BOTH, service="other")
    world.reload(BOTH)
    assert world.kinds() == []
    world.fate(BAD, "m1", "m2")
    assert world.kinds() == ["down m1", "down m2", "all-down s"]


def test_when_one_is_enabled_that_has_died_meanwhile(world: Told) -> None:
    world.fate(BAD, "m1")
    world.disable("m2")
    assert world.kinds() == ["down m1", "disabled m2", "all-down s"]
    world.fate(BAD, "m2")
    assert world.kinds() == ["down m2"]
    world.enable("m2")
    assert world.kinds() == ["enabled m2"]
    world.fate(BAD, "m2", rounds=5)
    assert world.kinds() == ["down m2", "all-down s"]
    assert "c/s/m2 10.0.0.3:80 enabled -> down: L4CON connection refused (3 of 3 failed, 0 ms); 0 of 2 up" in "".join(
        text for text in world.texts if "enabled -> down" in text)


def test_when_one_is_enabled_that_is_about_to_go_down(world: Told) -> None:
    world.disable("m1", "m2")
    assert world.kinds() == ["disabled m1", "disabled m2", "all-down s"]
    world.enable("m1")
    world.fate(BAD, "m1", rounds=1)
    assert world.kinds() == ["enabled m1"], "one failure of two says nothing yet"
    world.fate(BAD, "m1", rounds=1)
    assert world.kinds() == ["down m1", "all-down s"]


def test_not_while_one_may_turn_out_to_be_up(tmp_path: Path) -> None:
    world = Told(tmp_path, BOTH)
    world.fate(BAD, "m1")
    assert world.kinds() == ["down m1"]
    world.fate(local("no descriptors"), "m2")
    assert world.kinds() == ["all-down s"], "nobody knows when it can be probed"


def test_not_when_another_has_come_up_in_the_same_turn(world: Told) -> None:
    world.fate(BAD, "m1")
    world.verdict = BAD
    for verdict, name in ((BAD, "m2"), (BAD, "m2"), (GOOD, "m1"), (GOOD, "m1")):
        world.verdict = verdict
        world.member(name).checker.fire()
    world.daemon._turn()
    assert world.kinds() == ["down m1", "down m2", "up m1"]


def test_an_end_in_the_same_turn_loses_nothing(world: Told) -> None:
    world.fate(BAD, "m1")
    world.verdict = BAD
    for _ in range(2):
        world.member("m2").checker.fire()
    world.daemon.stop()
    assert world.kinds()[-1] == "all-down s"


@pytest.mark.parametrize("out", ["m2", "all"])
def test_rules_that_stay_are_those_of_members_that_nobody_disabled(tmp_path: Path, out: str) -> None:
    world = Told(tmp_path, BOTH, ", when_all_down: keep")
    world.fate(GOOD, "m1", "m2")
    if out == "all":
        world.disable("m1", "m2")
        assert world.texts[-1] == "c/s: no member is up" and not world.daemon.steering.rules.want
    else:
        world.disable("m2")
        world.fate(BAD, "m1")
        assert world.texts[-1] == "c/s: no member is up; its last rules stay (when_all_down: keep)"
        assert [line.split()[6] for line in world.daemon.steering.rules.want] == ["10.0.0.2"]


def test_a_service_that_had_nobody_before_is_no_news(tmp_path: Path) -> None:
    """One member was down, the operator has disabled the other."""
    states: dict[str, tuple[bool, float | None]] = {"c/s/m1": (False, time.time() - 60), "c/s/m2": (True, 0.0)}
    for more, events in (({"c/s/m2": 1.0}, []), ({}, ["down m2", "all-down s"])):
        world = Told(tmp_path, BOTH)
        world.daemon.fleet.restore(Saved(more, states))
        world.daemon.fleet.transitions.past.pop("c/s/m2", None)
        world.fate(BAD, "m1", "m2", rounds=1)
        found = world.kinds()
        assert [kind for kind in found if kind != "down m2"] == [kind for kind in events if kind != "down m2"]
        world.fate(GOOD, "m1")
        world.fate(BAD, "m1")
        assert world.kinds() == ["up m1", "down m1", "all-down s"], "but the next time is"
        world.end()


def test_fallbacks_count_only_while_they_serve(tmp_path: Path) -> None:
    world = Told(tmp_path, f"{BOTH}, m3: 10.0.0.4, sorry: {{address: 10.0.0.9, fallback: yes}}")
    told: list[str] = []

    def note(event: Event) -> None:
        if event.kind in READINESS:
            return
        tally = world.daemon.fleet.tally("c/s")
        told.append(event.text.rpartition("; ")[2] if event.name.count("/") > 1 else event.text)
        assert event.kind == "all-down" or told[-1] == f"{tally.serving} of {tally.total} up"

    world.fate(GOOD, "m1", "m2", "m3", "sorry")
    world.daemon.events.listen(note)
    world.fate(BAD, "m1")
    world.fate(BAD, "sorry")
    world.fate(GOOD, "sorry")
    world.fate(BAD, "m2", "m3")
    world.fate(BAD, "sorry")
    world.fate(GOOD, "sorry", "m1", "m2", "m3")
    assert told == ["2 of 3 up", "2 of 3 up", "2 of 3 up", "1 of 3 up", "1 of 4 up", "0 of 3 up",
                    "c/s: no member is up", "1 of 4 up", "1 of 3 up", "2 of 3 up", "3 of 3 up"]


def test_counts_within_a_turn_are_kept_up(tmp_path: Path) -> None:
    """Not counted anew for each: thousands may come up in one turn."""
    world = Told(tmp_path, f"{BOTH}, sorry: {{address: 10.0.0.9, fallback: yes}}")

    def agree(daemon: Daemon) -> bool:
        kept = daemon.fleet.tally("c/s")
        before = (kept.regulars, kept.up, kept.fallbacks)
        daemon.fleet._tallies.clear()
        after = daemon.fleet.tally("c/s")
        return before == (after.regulars, after.up, after.fallbacks)

    world.daemon.fleet.tally("c/s")
    for verdict, name in ((GOOD, "m1"), (GOOD, "sorry"), (BAD, "m2"), (BAD, "m1"), (BAD, "m1"), (GOOD, "m2"),
                          (GOOD, "m2"), (BAD, "sorry"), (BAD, "sorry")):
        world.verdict = verdict
        world.member(name).checker.fire()
        assert agree(world.daemon), (verdict, name)
    world.daemon.fleet.disable([world.member("m2")], now=False)
    for verdict in (BAD, BAD, GOOD, GOOD):
        world.verdict = verdict
        world.member("m2").checker.fire()
        assert agree(world.daemon)
    world.daemon.fleet.enable([world.member("m2")])
    world.member("m2").checker.fire()
    assert agree(world.daemon) and world.daemon.fleet.serving("c/s") == 1


def test_members_found_in_the_kernel_count_though_others_were_counted_in_the_same_turn(tmp_path: Path) -> None:
    it = Told(tmp_path, BOTH)
    daemon = it.daemon
    daemon.fleet.transitions.waits = True
    it.verdict = GOOD
    assert str(daemon.fleet.tally("c/s")) == "0 of 2 up"
    it.member("m2").checker.fire()
    daemon.steering.rules.belief.have = {line: line for line in daemon.steering.lines(it.member("m1"))}
    daemon.steering._listed()
    assert it.texts == ["c/s/m2 10.0.0.3:80 unknown -> up: L4OK connected (1 of 1 passed, 0 ms); 2 of 2 up"]


@pytest.mark.parametrize("seed", range(40))
def test_random_lives_are_told_as_they_are(tmp_path: Path, seed: int) -> None:
    """Against a plain model: an event for each change, all-down whenever the last has gone, and never twice."""
    pick = random.Random(seed)
    world = Told(tmp_path, BOTH)
    told: dict[str, str] = {}
    empty = False
    for _ in range(60):
        name = pick.choice(sorted(each.rpartition("/")[2] for each in world.daemon.fleet.monitors))
        what = pick.choice(("good", "bad", "local", "disable", "enable", "reload"))
        if what == "disable" and not world.member(name).disabled:
            world.disable(name)
        elif what == "enable" and world.member(name).disabled:
            world.enable(name)
            empty = False
        elif what == "reload":
            world.reload(pick.choice((BOTH, "m1: 10.0.0.2", "m2: 10.0.0.3")))
        elif what in ("good", "bad", "local"):
            world.fate({"good": GOOD, "bad": BAD, "local": local("no memory")}[what], name, rounds=pick.choice((1, 2)))
        members = world.daemon.fleet.groups["c/s"]
        told = {name: state for name, state in told.items() if f"c/s/{name}" in world.daemon.fleet.monitors}
        for kind, name in (event.split() for event in world.kinds()):
            if kind == "all-down":
                assert not empty and not any(monitor.eligible for monitor in members)
                empty = True
            elif kind in ("up", "down"):
                assert told.get(name) != kind, f"{name} was told as {kind} already"
                told[name] = kind
            elif kind == "enabled":
                told[name] = kind                   # what is found now is to be said, whatever it is
        for monitor in members:
            assert told.get(monitor.endpoint.member, "unknown") in (monitor.seen, "enabled")
        if any(monitor.eligible for monitor in members):
            empty = False
        elif all(monitor.disabled or monitor.tried and not monitor.unconfirmed for monitor in members):
            assert empty, "nobody is up, and nobody was told"


# -- word for word

LEAVE = Leave("L7STS", "503 leaving")
REFUSED = Verdict("RST", "a client was refused")


def story(world: Told, *outcomes: tuple[Verdict, float]) -> list[str]:
    """What is told of m1 while it has these outcomes, which took so many seconds."""
    monitor = world.member("m1")
    told = len(world.texts)
    for verdict, took in outcomes:
        if verdict is REFUSED:
            monitor.take_down(verdict)
        else:
            monitor.heard(verdict, world.loop.now, took)
    return [text.partition(" 10.0.0.2:80 ")[2] for text in world.texts[told:] if "/m1 " in text]


def test_how_many_outcomes_have_led_to_it_and_how_long_the_last_one_took(world: Told) -> None:
    assert story(world, (BAD, 0.1), (BAD, 0.0123)) == [
        "up -> down: L4CON connection refused (2 of 2 failed, 12 ms); 1 of 2 up"]
    assert story(world, (GOOD, 0.1), (GOOD, 2.0)) == ["down -> up: L4OK connected (2 of 2 passed, 2000 ms); 2 of 2 up"]


def test_who_is_draining(world: Told) -> None:
    """It says so itself, once; what it said is no failure when it dies after that."""
    assert story(world, (LEAVE, 0.003), (LEAVE, 0.003), (LEAVE, 0.003)) == [
        "up -> draining: L7STS 503 leaving (3 ms); 1 of 2 up"]
    assert world.kinds() == ["draining m1"]
    assert story(world, (BAD, 0.004), (BAD, 0.004)) == [
        "draining -> down: L4CON connection refused (2 of 2 failed, 4 ms); 1 of 2 up"]
    assert story(world, (LEAVE, 0.003)) == ["down -> draining: L7STS 503 leaving (3 ms); 1 of 2 up"]
    assert story(world, (GOOD, 0.0), (GOOD, 0.005)) == [
        "draining -> up: L4OK connected (2 of 2 passed, 5 ms); 2 of 2 up"]
    assert world.kinds() == ["down m1", "draining m1", "up m1"]


def test_whom_a_client_was_refused_by(world: Told) -> None:
    """That is no outcome of a probe: nothing is counted."""
    assert story(world, (REFUSED, 0.0)) == ["up -> down: RST a client was refused; 1 of 2 up"]
    assert world.kinds() == ["down m1"]


def test_who_is_held_no_longer_while_its_outcomes_are_undecided(tmp_path: Path) -> None:
    """Fewer than it takes: that is no change, but says what it is."""
    for end, last, words in (("up", BAD, "L4CON connection refused (1 of 2 failed, 7 ms)"),
                             ("down", GOOD, "L4OK connected (1 of 3 passed, 7 ms)")):
        config = configuration(tmp_path, BOTH)
        cluster, service = config.clusters[0], config.clusters[0].services[0]
        service = replace(service, checks=(replace(service.checks[0], rise=3),), flap=Flap(2, 300.0))
        world = Told(tmp_path, BOTH)
        world.daemon.reload(replace(config, clusters=(replace(cluster, services=(service,)),)))
        world.fate(GOOD, "m1", "m2", rounds=3)
        story(world, (BAD, 0.0), (BAD, 0.0), *[(GOOD, 0.0)] * 3)
        monitor = world.member("m1")
        assert monitor.held and monitor.flapping is not None
        assert story(world, *([(BAD, 0.0)] * 2 if end == "down" else []), (last, 0.007)) == []
        monitor.flapping.fire()
        assert world.texts[-1].partition(" 10.0.0.2:80 ")[2] == f"held -> {end}: {words}; {2 - (end == 'down')} of 2 up"
        world.end()


def test_why_it_was_held_is_not_said_of_what_comes_later(tmp_path: Path) -> None:
    config = configuration(tmp_path, BOTH)
    cluster, service = config.clusters[0], config.clusters[0].services[0]
    service = replace(service, flap=Flap(2, 300.0))
    world = Told(tmp_path, BOTH)
    world.daemon.reload(replace(config, clusters=(replace(cluster, services=(service,)),)))
    world.fate(GOOD, "m1", "m2")
    story(world, (BAD, 0.0), (BAD, 0.0), (GOOD, 0.0), (GOOD, 0.0))
    world.fate(BAD, "m2")
    assert ", as no other member is up; 1 of 2 up" in world.texts[-1]
    assert story(world, (BAD, 0.0), (BAD, 0.0)) == [
        "up -> down: L4CON connection refused (2 of 2 failed, 0 ms); 0 of 2 up"]
    world.end()


def test_that_nobody_is_up_is_an_error(world: Told) -> None:
    levels: dict[str, int] = {}
    world.daemon.events.listen(lambda event: levels.update({event.kind: event.level}))
    world.fate(BAD, "m1", "m2")
    assert levels["all-down"] == logging.ERROR and levels["down"] == logging.INFO


def test_before_the_table_was_read_nothing_is_told(tmp_path: Path) -> None:
    loop = Loop()
    daemon = Daemon(loop, Config(), 100)
    told: list[str] = []
    daemon.events.listeners = [lambda event: told.append(event.kind) if event.kind not in READINESS else None]
    daemon.fleet.transitions.settle()               # there is nothing yet
    daemon.apply(configuration(tmp_path, BOTH))
    for monitor in daemon.fleet.monitors.values():
        monitor.heard(BAD, loop.now, 0.0)
    daemon._turn()
    assert told == []
    daemon.fleet.transitions.begin()
    daemon._turn()
    assert told == ["down", "down", "all-down"]
    loop.close()


# -- a start, at which the table of the kernel has not been read yet

AGE = 500.0


def waiting(directory: Path, ups: str = "", downs: str = "", more: str = "", disabled: str = "") -> Told:
    """A daemon that knows of these from before, and not yet what is in the kernel."""
    then = time.time() - AGE
    world = Told(directory, BOTH, more)
    world.daemon.fleet.transitions.waits = True
    world.daemon.fleet.restore(Saved({f"c/s/{name}": then for name in disabled.split()},
                                     {**{f"c/s/{name}": (True, then) for name in ups.split()},
                                      **{f"c/s/{name}": (False, then) for name in downs.split()}}))
    return world


def read_table(world: Told, *names: str) -> None:
    """The rules of these are there."""
    steering = world.daemon.steering
    steering.rules.belief.have = {line: line for name in names for line in steering.lines(world.member(name))}
    world.daemon.steering._listed()
    world.daemon._turn()


def age(world: Told, name: str) -> float:
    return world.loop.now - world.member(name).since


def test_news_that_wait_are_about_what_was_before(tmp_path: Path) -> None:
    world = waiting(tmp_path, ups="m1 m2")
    world.fate(GOOD, "m1", rounds=1)
    world.fate(GOOD, "m2", rounds=1)
    world.fate(BAD, "m2")
    assert world.kinds() == []
    read_table(world, "m1", "m2")
    assert world.kinds() == ["down m2"] and " up -> down: " in world.texts[-1]
    assert age(world, "m1") == pytest.approx(AGE, abs=60) and world.member("m1").changes == 0
    assert age(world, "m2") < 60


def test_news_that_wait_begin_with_the_first(tmp_path: Path) -> None:
    world = waiting(tmp_path)
    world.fate(GOOD, "m1", rounds=1)
    world.fate(BAD, "m1", "m2")
    assert world.kinds() == []
    read_table(world)
    assert world.kinds() == ["down m1", "down m2", "all-down s"]
    assert " unknown -> down: " in world.texts[0], "nobody has heard that it was up"


def test_what_was_found_is_no_past_of_what_is_elsewhere_now(tmp_path: Path) -> None:
    world = waiting(tmp_path, ups="m1 m2")
    read_table(world, "m1", "m2")
    world.reload("m1: 10.0.0.9, m2: 10.0.0.3")
    world.fate(GOOD, "m1", rounds=1)
    assert world.kinds() == ["up m1"]


def test_who_has_left_before_the_table_was_read_is_no_news(tmp_path: Path) -> None:
    world = waiting(tmp_path)
    world.fate(GOOD, "m1", "m2", rounds=1)
    world.reload("m1: 10.0.0.2")
    read_table(world)
    assert world.kinds() == ["up m1"]


def test_what_is_as_it_was_is_a_line_of_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    world = waiting(tmp_path, downs="m1 m2")
    read_table(world)
    caplog.clear()
    world.fate(BAD, "m1", "m2", rounds=1)
    assert world.kinds() == [] and caplog.messages == [
        *(f"c/s/m{number} 10.0.0.{number + 1}:80 unknown -> down: L4CON connection refused (1 of 1 failed, 0 ms); "
          "0 of 2 up" for number in (1, 2)), "c/s: no member is up"]


def test_a_rule_of_one_that_was_down_makes_it_up_from_now_on(tmp_path: Path) -> None:
    """It came up just before the end, say; and if it did not, its first failure says so."""
    world = waiting(tmp_path, downs="m1 m2")
    read_table(world, "m1")
    assert world.member("m1").seen == "up" and age(world, "m1") < 60
    world.fate(BAD, "m1", "m2", rounds=1)
    assert world.kinds() == ["down m1", "all-down s"]
    assert age(world, "m2") == pytest.approx(AGE, abs=60) and world.member("m2").changes == 0


def test_that_nobody_is_up_is_news_where_a_rule_said_that_somebody_was(tmp_path: Path) -> None:
    """Even if that is over in the very turn in which the rule was found."""
    world = waiting(tmp_path, downs="m1 m2")
    world.fate(BAD, "m2", rounds=1)
    steering = world.daemon.steering
    steering.rules.belief.have = {line: line for line in steering.lines(world.member("m1"))}
    steering._listed()
    world.fate(BAD, "m1", rounds=1)
    world.daemon._turn()
    assert world.kinds()[-2:] == ["down m1", "all-down s"], world.texts


def test_last_rules_that_were_kept_make_nobody_up(tmp_path: Path) -> None:
    world = waiting(tmp_path, downs="m1 m2", more=", when_all_down: keep")
    read_table(world, "m1")
    assert world.member("m1").seen == "unknown"
    world.fate(BAD, "m1", "m2", rounds=1)
    steering = world.daemon.steering
    assert world.kinds() == [] and list(steering.rules.want) == list(steering.lines(world.member("m1")))
    world.fate(GOOD, "m2")
    assert world.kinds() == ["up m2"]


@pytest.mark.parametrize("table", [True, False])
def test_what_the_state_says_holds_where_the_kernel_cannot_speak(tmp_path: Path, table: bool) -> None:
    """Of who is disabled, always; of others as long as the table cannot be read."""
    world = waiting(tmp_path, ups="m1 m2", disabled="m2")
    if table:
        read_table(world)
    else:
        world.daemon.steering._no_table()
    world.fate(GOOD, "m1", "m2")
    assert world.kinds() == (["up m1"] if table else [])
    assert (age(world, "m1") > AGE - 1) is not table and age(world, "m2") > AGE - 1
    if not table:
        read_table(world, "m1")                     # late
        assert world.kinds() == [] and age(world, "m1") > AGE - 1


def test_what_is_found_of_one_that_was_put_back_is_told_in_any_case(tmp_path: Path) -> None:
    world = waiting(tmp_path, downs="m1", disabled="m1 m2")
    read_table(world)
    world.enable("m1")
    world.fate(BAD, "m1", rounds=1)
    assert world.kinds() == ["enabled m1", "down m1", "all-down s"]


def test_a_service_that_had_nobody_and_left_is_a_new_one_when_it_comes_back(tmp_path: Path) -> None:
    world = waiting(tmp_path, downs="m1 m2")
    world.reload(BOTH, service="other")
    world.reload(BOTH)
    read_table(world)
    world.fate(BAD, "m1", "m2", rounds=1)
    assert world.kinds() == ["down m1", "down m2", "all-down s"]


@pytest.mark.parametrize("disabled, lines", [("m1", 1), ("m1 m2", 0)])
def test_that_nobody_is_up_as_before_is_a_line_unless_the_operator_wants_it_so(
        tmp_path: Path, disabled: str, lines: int, caplog: pytest.LogCaptureFixture) -> None:
    world = waiting(tmp_path, downs="m1 m2", disabled=disabled)
    read_table(world)
    world.fate(BAD, "m1", "m2", rounds=1)
    assert world.kinds() == [] and caplog.text.count("c/s: no member is up") == lines


def test_what_waits_of_one_that_is_enabled_meanwhile_is_overtaken(tmp_path: Path) -> None:
    it = Told(tmp_path, BOTH)
    it.daemon.fleet.transitions.waits = True
    it.fate(BAD, "m2", rounds=1)
    it.disable("m2")
    it.enable("m2")
    it.daemon.fleet.transitions.begin()
    assert it.kinds() == ["disabled m2", "enabled m2"]
    it.fate(BAD, "m2", rounds=1)
    assert it.kinds() == ["down m2"]
