"""Members that flap: held down, told once, and never the last one; in the sandbox, with real members."""

from __future__ import annotations

import json
import signal
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4ipd import saved_state
from l4ipd.checks.errors import NO_ROUTE
from l4ipd.checks.verdict import local
from l4ipd.config.parse import parse
from l4ipd.events import Event
from l4ipd.model import Config
from l4ipd.monitor import flapping
from l4ipd.monitor.monitor import Monitor
from l4ipd.sandbox.tools.ipnat import ipnat
from l4ipd.saved_state import Hold, Saved
from l4ipd.state_saver import snapshot
from support.gateway import PATIENCE, free_port, wait
from support.operated_gateway import A, B, OperatedGateway
from support.sandbox_tools import Sandbox, drive
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon
from support.simulated_daemon import SimulatedDaemon
from support.simulation import GOOD as WELL
from support.simulation import REFUSES

# -- by the rules of the whole daemon, with probes whose verdicts the test gives

STATES = ("up", "down", "draining", "held")


def configuration(directory: Path, members: str, flap: str = "{changes: 3, within: 5m}") -> Config:
    return parse(f"control: {directory}/sock\nstate: {directory}/state\nipfilter: {{interface: ext0}}\n"
                 f"defaults: {{rise: 1, fall: 1, flap: {flap}}}\nclusters:\n  c: {{address: 203.0.113.1, services: "
                 f"{{s: {{port: 80, check: tcp}}}}, members: {{{members}}}}}\n", "conf")


class Told(ScriptedDaemon):
    """Who hears all events, and checks that each is true and news."""

    def __init__(self, directory: Path, members: str, flap: str = "{changes: 3, within: 5m}",
                 saved: Saved | None = None) -> None:
        self.directory = directory
        super().__init__(directory, configuration(directory, members, flap))
        self.believed: dict[str, str] = {}
        self.texts: list[str] = []
        self.daemon.events.listen(self.heard)
        if saved is not None:
            self.daemon.fleet.restore(saved)

    def heard(self, event: Event) -> None:
        self.texts.append(event.text)
        if event.kind in STATES:
            assert self.believed.get(event.name) != event.kind, f"told twice: {event.text}"
            assert self.daemon.fleet.monitors[event.name].seen == event.kind, event.text
            self.believed[event.name] = event.kind
        elif event.kind in ("disabled", "enabled"):
            self.believed.pop(event.name, None)

    def member(self, name: str) -> Monitor:
        return self.daemon.fleet.monitors[f"c/s/{name}"]

    def fate(self, names: str, outcomes: str) -> None:
        for outcome in outcomes:
            for name in names.split():
                self.verdict = {"+": GOOD, "-": BAD, "?": local("no memory")}[outcome]
                self.loop.clear(self.member(name).checker)
                self.member(name).checker.fire()
                self.daemon._turn()

    def pass_time(self, name: str) -> None:
        """Its hold is over."""
        held = self.member(name).flapping
        assert held is not None
        held.fire()
        self.daemon._turn()

    def states(self) -> str:
        return " ".join(each.seen for each in self.daemon.fleet.monitors.values())


TWO, THREE = "m1: 10.0.0.2, m2: 10.0.0.3", "m1: 10.0.0.2, m2: 10.0.0.3, m3: 10.0.0.4"


def test_what_is_told(tmp_path: Path) -> None:
    it = Told(tmp_path, TWO)
    it.fate("m1 m2", "+")
    it.fate("m1", "-+-+-")
    assert it.states() == "held up"
    it.pass_time("m1")
    words = [text.partition("10.0.0.2:80 ")[2] for text in it.texts if "10.0.0.2" in text]
    assert words == ["unknown -> up: L4OK connected (1 of 1 passed, 0 ms); 1 of 2 up",
                     "up -> down: L4CON connection refused (1 of 1 failed, 0 ms); 1 of 2 up",
                     "down -> up: L4OK connected (1 of 1 passed, 0 ms); 2 of 2 up",
                     "up -> held: L4CON connection refused (1 of 1 failed, 0 ms), 3 changes of state in 0 s, held down "
                     "for 30 s; 1 of 2 up",
                     "held -> down: L4CON connection refused (1 of 1 failed, 0 ms); 1 of 2 up"]
    it.end()


def test_as_soon_as_it_is_the_last_one_it_serves(tmp_path: Path) -> None:
    """Whatever the others do: go down, be disabled, or leave the configuration."""
    for how in ("down", "disabled", "gone", "weightless"):
        it = Told(tmp_path, TWO)
        it.fate("m1 m2", "+")
        it.fate("m1", "-+-+")
        assert it.states() == "held up" and it.daemon.fleet.serving("c/s") == 1
        if how == "down":
            it.fate("m2", "-")
        elif how == "disabled":
            it.daemon.fleet.disable([it.member("m2")], now=False)
        else:
            it.daemon.reload(configuration(tmp_path, "m1: 10.0.0.2" + (
                ", m2: {address: 10.0.0.3, weight: 0}" if how == "weightless" else "")))
        it.daemon._turn()
        assert it.member("m1").eligible and it.daemon.fleet.serving("c/s") == 1, how
        assert any("10.0.0.2:80 held -> up: L4OK connected (1 of 1 passed, 0 ms), as no other member is up" in text
                   for text in it.texts), it.texts
        assert not any("no member is up" in text for text in it.texts if text.startswith("c/s:")), "it was not true"
        it.end()


def test_who_may_be_up_soon_is_no_reason_to_wait(tmp_path: Path) -> None:
    """The other one has been enabled, or is new, and nothing is known of it yet."""
    for how in ("enabled", "new"):
        it = Told(tmp_path, THREE)
        it.fate("m1 m2 m3", "+")
        it.fate("m1", "-+-+")
        if how == "enabled":
            it.daemon.fleet.disable([it.member("m2")], now=False)
            it.daemon.fleet.enable([it.member("m2")])
            it.fate("m2", "?")
            it.fate("m3", "-")
        else:
            it.verdict = local("no memory")         # at first
            it.daemon.reload(configuration(tmp_path, "m1: 10.0.0.2, m4: 10.0.0.5"))
            it.daemon._turn()
        assert it.member("m1").eligible and it.daemon.fleet.serving("c/s") == 1, how
        assert "c/s: no member is up" not in it.texts
        it.end()


def test_of_two_that_are_held_one_is_enough(tmp_path: Path) -> None:
    it = Told(tmp_path, THREE)
    it.fate("m1 m2 m3", "+")
    it.fate("m1", "-+-+")
    it.fate("m2", "-+-+")
    assert it.states() == "held held up"
    it.fate("m3", "-")
    assert it.states() == "up held down"
    it.fate("m1", "-")
    assert it.states() == "down up down" and "c/s: no member is up" not in it.texts
    it.end()


def test_one_without_weight_is_as_good_as_held(tmp_path: Path) -> None:
    """Nothing is won by putting it back; when it has one again, it may be the last one."""
    it = Told(tmp_path, TWO)
    it.fate("m1 m2", "+")
    it.fate("m1", "-+-+")
    it.daemon.reload(configuration(tmp_path, "m1: {address: 10.0.0.2, weight: 0}, m2: 10.0.0.3"))
    it.fate("m2", "-")
    assert it.states() == "held down"
    it.daemon.reload(configuration(tmp_path, TWO))
    it.daemon._turn()
    assert it.states() == "up down"
    it.end()


def test_fallbacks_are_held_for_one_another_only(tmp_path: Path) -> None:
    it = Told(tmp_path, "m1: 10.0.0.2, f1: {address: 10.0.0.8, fallback: yes}, f2: {address: 10.0.0.9, fallback: yes}")
    it.fate("m1 f1 f2", "+")
    it.fate("f1", "-+-+")
    it.fate("m1", "-")
    assert it.states() == "down held up" and it.daemon.fleet.serving("c/s") == 1
    it.fate("f2", "-")
    assert it.states() == "down up down" and it.daemon.fleet.serving("c/s") == 1
    it.end()


def test_one_that_is_down_itself_serves_when_it_passes_and_no_sooner(tmp_path: Path) -> None:
    it = Told(tmp_path, TWO)
    it.fate("m1 m2", "+")
    it.fate("m1", "-+-")
    it.fate("m2", "-")
    assert it.states() == "held down" and "c/s: no member is up" in it.texts
    it.fate("m1", "+")
    assert it.states() == "up down"
    it.end()


def test_a_fallback_is_no_reason_to_leave_out_the_last_member(tmp_path: Path) -> None:
    it = Told(tmp_path, "m1: 10.0.0.2, sorry: {address: 10.0.0.9, fallback: yes}")
    it.fate("m1 sorry", "+")
    it.fate("m1", "-+-+-+-+-+")
    assert it.states() == "up up"
    it.fate("sorry", "-+-+-")
    assert it.states() == "up held"
    it.end()


def test_a_reload_without_flap_ends_it(tmp_path: Path) -> None:
    it = Told(tmp_path, TWO)
    it.fate("m1 m2", "+")
    it.fate("m1", "-+-+")
    it.daemon.reload(configuration(tmp_path, TWO, "no"))
    it.daemon._turn()
    assert it.states() == "up up" and "held -> up: " in it.texts[-1]
    it.fate("m1", "-+-+-+-+")
    assert it.states() == "up up"
    it.end()


def test_disabled_and_enabled(tmp_path: Path) -> None:
    it = Told(tmp_path, TWO)
    it.fate("m1 m2", "+")
    it.fate("m1", "-+-+")
    it.daemon.fleet.disable([it.member("m1")], now=False)
    assert it.texts[-1].startswith("c/s/m1 10.0.0.2:80 held -> disabled: by the operator")
    it.daemon.fleet.enable([it.member("m1")])
    it.fate("m1", "+")
    assert it.states() == "up up"
    it.end()


@pytest.mark.parametrize("limit", ["{changes: 3, within: 5m}", "no"])
def test_another_check_of_one_that_is_held_and_nothing_is_known_yet(tmp_path: Path, limit: str) -> None:
    """What it was before is what it is when the hold ends: outcomes that are our own trouble say nothing."""
    for end in ("time", "last", "last and passes"):
        it = Told(tmp_path, TWO)
        it.fate("m1 m2", "+")
        it.fate("m1", "-+-+")
        it.verdict = local("no such address")
        other = configuration(tmp_path, TWO, limit)
        cluster, service = other.clusters[0], other.clusters[0].services[0]
        service = replace(service, checks=(replace(service.checks[0], interval=7.0),))
        it.daemon.reload(replace(other, clusters=(replace(cluster, services=(service,)),)))
        it.fate("m1", "?")
        if limit == "no":
            assert it.states() == "up up", "it is not held any more"
        elif end == "time":
            assert it.states() == "held up"
            it.pass_time("m1")
            assert it.states() == "up up"
        else:
            it.fate("m2", "-")
            it.fate("m1", "+" if "passes" in end else "")
            assert it.states() == "up down" and "c/s: no member is up" not in it.texts
        assert [text.partition("2:80 ")[2].partition(";")[0] for text in it.texts if "held ->" in text] == [
            "held -> up: L4OK connected" + (", by a reload" if limit == "no" else
                                            ", as no other member is up" if end != "time" else "")]
        it.end()


def test_that_the_last_one_is_down_is_not_said_in_the_turn_in_which_another_takes_over(tmp_path: Path) -> None:
    """Be it that the state is written in that turn, that the daemon ends, or that l4ipctl disable looks who is left."""
    for how in ("saved", "stopped"):
        it = Told(tmp_path, TWO)
        it.fate("m1 m2", "+")
        it.fate("m1", "-+-+")
        it.verdict = BAD
        it.loop.clear(it.member("m2").checker)
        it.member("m2").checker.fire()
        assert it.states() == "held down"
        if how == "saved":
            snapshot(it.daemon)
        else:
            it.daemon.fleet.stop()
        assert it.member("m1").seen == "up" and "c/s: no member is up" not in it.texts
        it.end()


def test_while_the_gateway_is_blind_nobody_is_put_back(tmp_path: Path) -> None:
    it = Told(tmp_path, TWO)
    it.fate("m1 m2", "+")
    it.fate("m1", "-+-+")
    reachability, route = it.daemon.fleet.reachability, [False]
    reachability.leads = lambda address, send: route[0]
    it.verdict = NO_ROUTE
    it.loop.clear(it.member("m2").checker)
    it.member("m2").checker.fire()
    assert reachability.blind and it.states() == "held up"
    it.pass_time("m1")
    found = it.member("m1").flapping
    assert it.states() == "held up" and found is not None and found.slot is not None, "it is tried again"
    route[0], it.verdict = True, GOOD
    while reachability.blind:
        it.loop.turn()
    it.pass_time("m1")
    assert it.states() == "up up"
    it.end()


def test_the_first_verdict_of_one_whose_rule_was_found_is_no_change(tmp_path: Path) -> None:
    it = Told(tmp_path, TWO)
    it.fate("m2", "+")
    it.member("m1").adopt()
    it.fate("m1", "-+-")
    assert it.states() == "down up", "two changes"
    it.fate("m1", "+")
    assert it.states() == "held up"
    it.end()


def test_many_that_flap_together_cost_no_more_than_they_are(tmp_path: Path) -> None:
    """Each is looked at when one of them has changed, but not each of the others for each."""
    asked = {}
    for count in (20, 80):
        it = Told(tmp_path, ", ".join(f"m{number}: 10.0.1.{number + 1}" for number in range(count)))
        everyone = [f"m{number}" for number in range(count)]
        it.fate(" ".join(everyone), "+-+-")
        it.fate(" ".join(reversed(everyone)), "+")  # the last one serves
        assert it.states() == "held " * (count - 1) + "up"
        calls = 0

        def note(frame: FrameType, event: str, _: object) -> None:
            nonlocal calls
            calls += event == "call" and frame.f_code.co_name == "eligible"

        it.daemon.fleet.holds.take_over(it.daemon.fleet.groups)
        sys.setprofile(note)
        try:
            it.daemon.fleet.holds.turn()
        finally:
            sys.setprofile(None)
        asked[count] = calls
        it.end()
    assert asked[80] <= 6 * asked[20]


# -- over restarts

def test_the_state_file_has_it(tmp_path: Path) -> None:
    it = Told(tmp_path, TWO)
    it.fate("m1 m2", "+")
    it.fate("m1", "-+-+")
    began = time.time()
    it.end()
    saved = saved_state.load(f"{tmp_path}/state")
    assert saved.held.keys() == {"c/s/m1"} and saved.seen("c/s/m1") == "held"
    count, until, held = saved.held["c/s/m1"]
    assert (count, held) == (1, True) and 0 < until - began <= flapping.FIRST + 1
    since = saved.states["c/s/m1"][1]
    assert since is not None
    again = Told(tmp_path, TWO, saved=replace(saved, states={**saved.states, "c/s/m1": (False, since - 200.0)}))
    assert again.states() == "held unknown"
    assert again.loop.now - again.member("m1").since == pytest.approx(200.0, abs=60.0), "since when survives"
    again.fate("m1", "+")
    assert again.states() == "held unknown" and not again.texts, "m2 may be up all the time"
    again.fate("m2", "+")
    again.pass_time("m1")
    assert again.states() == "up up" and [text for text in again.texts if "held" in text] == [
        "c/s/m1 10.0.0.2:80 held -> up: L4OK connected (1 of 1 passed, 0 ms); 2 of 2 up"]
    again.fate("m1", "-+-")
    found = again.member("m1").flapping
    assert found is not None and found.hold.count == 2, "as if there had been no restart"
    again.end()


def test_one_whose_time_is_over_meanwhile_is_told_of(tmp_path: Path) -> None:
    """Whoever follows the events was told that it is held."""
    past = time.time() - 5.0
    saved = Saved(states={"c/s/m1": (False, past - 30.0)}, held={"c/s/m1": Hold(1, past, True)})
    it = Told(tmp_path, TWO, saved=saved)
    it.fate("m1", "-")
    assert "c/s/m1 10.0.0.2:80 unknown -> down: " in it.texts[0]
    it.end()


@pytest.mark.parametrize("damage", [[1], [1, "soon", True], ["1", 1.0, True], {"a": 1}, [-1, 1.0, True],
                                    [1, float("inf"), True]])
def test_a_damaged_hold(damage: object) -> None:
    text = json.loads(saved_state.encode(Saved(), 1000.0))
    text["held"] = {"c/s/m1": damage}
    with pytest.raises(ValueError, match="it is damaged"):
        saved_state.decode(json.dumps(text).encode(), 1000.0)


def test_a_clock_that_was_set_back_does_not_hold_for_years() -> None:
    text = saved_state.encode(Saved(held={"c/s/m1": Hold(1, 9e9, True)}), 1000.0)
    assert saved_state.decode(text, 1001.0).held["c/s/m1"].until <= 1001.0 + flapping.LONGEST


# -- a model in words: whatever happens, nobody who is up is held while nobody serves, and all is told

NAMES = ("m1", "m2", "m3", "sorry")
ACTIONS = st.lists(st.tuples(st.sampled_from(("+", "-", "+", "-", "+", "-", "?", "over", "disable", "enable", "weight",
                                              "leave", "join")), st.sampled_from(NAMES)), max_size=80)


class Trouble(Told):
    """What the operator and the members do, and what has to be so whatever they do."""

    def __init__(self, directory: Path) -> None:
        self.weights = dict.fromkeys(NAMES, 1)
        self.empty = False                          # it was told that nobody is up
        super().__init__(directory, self.members, "{changes: 2, within: 5m}")

    @property
    def members(self) -> str:
        return ", ".join(f"{name}: {{address: 10.0.0.{NAMES.index(name) + 2}, weight: {weight}, "
                         f"fallback: {name == 'sorry'}}}" for name, weight in self.weights.items())

    def heard(self, event: Event) -> None:
        super().heard(event)
        if event.kind == "all-down":
            assert not self.empty and not self.daemon.fleet.serving("c/s"), event.text
            self.empty = True
        elif event.kind == "enabled" and self.weights[event.name.rpartition("/")[2]]:
            self.empty = False

    def act(self, action: str, name: str) -> None:
        monitor = self.daemon.fleet.monitors.get(f"c/s/{name}")
        if action in ("weight", "leave", "join"):
            self.edit(action, name)
        elif monitor is None:
            return
        elif action in "+-?":
            self.fate(name, action)
        elif action == "over" and monitor.held:
            self.pass_time(name)
        elif action == "disable" and not monitor.disabled:
            self.daemon.fleet.disable([monitor], now=False)
        elif action == "enable" and (monitor.disabled or monitor.held):
            self.daemon.fleet.enable([monitor])
        self.daemon._turn()

    def edit(self, action: str, name: str) -> None:
        """The configuration, which is read again."""
        if action == "weight" and name in self.weights:
            self.weights[name] = 1 - self.weights[name]
        elif action == "leave" and self.weights.keys() - {name, "sorry"}:       # without members no file is read
            self.weights.pop(name, None)
            self.believed.pop(f"c/s/{name}", None)
        elif action == "join":
            self.weights.setdefault(name, 1)
        self.daemon.reload(configuration(self.directory, self.members, "{changes: 2, within: 5m}"))

    def check(self) -> None:
        fleet = self.daemon.fleet
        for kind in (False, True):
            alive = [each for each in fleet.monitors.values() if each.endpoint.fallback == kind
                     and each.up and not each.withheld and not each.unconfirmed]
            assert any(each.eligible for each in alive) or not alive or kind and fleet.serving("c/s")
        self.empty = self.empty and not fleet.serving("c/s")
        open_ = any(not each.withheld and (each.unconfirmed or not each.tried) for each in fleet.monitors.values())
        assert fleet.serving("c/s") or self.empty or open_ or all(each.withheld for each in fleet.monitors.values())
        for each in fleet.monitors.values():
            assert not (each.held and (each.disabled or each.unconfirmed or each.eligible))
            if not each.disabled and not each.unconfirmed and each.seen != "unknown":
                assert self.believed[each.endpoint.name] == each.seen


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ACTIONS)
def test_never_the_last_one(tmp_path: Path, actions: list[tuple[str, str]]) -> None:
    it = Trouble(tmp_path)
    it.fate("m1 m2 m3 sorry", "+")
    for action, name in actions:
        it.act(action, name)
        it.check()
    it.end()


# -- in simulated time: for ever

def test_one_that_flaps_for_ever_moves_less_and_less(tmp_path: Path) -> None:
    """With what is the default."""
    it = SimulatedDaemon(tmp_path)
    changes: list[tuple[float, str]] = []

    def begin() -> None:
        assert it.daemon is not None
        it.daemon.events.listen(lambda event: changes.append((it.now, event.kind))
                                if event.name == "www/http/web1" else None)
        flip()

    def flip() -> None:
        place = "10.0.0.11", 8080
        it.members[place] = WELL if it.members.get(place) == REFUSES else REFUSES
        it.after(2.0, flip)

    it.after(5.0, begin)
    it.after(5.0 + 3600.0, it.term)
    it.go()
    holds = [when for when, kind in changes if kind == "held"]
    ends = [changes[place + 1][0] for place, (_, kind) in enumerate(changes[:-1]) if kind == "held"]
    lengths = [round(end - begin, 3) for begin, end in zip(holds, ends, strict=False)]
    assert lengths == pytest.approx([30, 60, 120, 240, 480, *[600] * 4][:len(lengths)], abs=0.05)
    assert len(lengths) >= 7
    assert len(changes) < 8 * (len(lengths) + 2), "without it there would have been 1,800"


@pytest.mark.parametrize("others", [0, 1])
def test_the_rule_of_one_that_was_held_is_in_the_kernel_at_the_start(tmp_path: Path, others: int) -> None:
    """The last run did not come to write down that it had put it back, or to take it out."""
    it = SimulatedDaemon(tmp_path)
    for number in range(others + 1):
        drive(ipnat(it.kernel, ("-f", "-"), "/"), f"rdr em0 203.0.113.10/32 port 80 -> 10.0.0.1{number + 1} port 8080 "
                                                  f"tcp round-robin tag l4ip\n")
    left = Saved(states={"www/http/web1": (False, it.wall() - 5.0)},
                 held={"www/http/web1": Hold(1, it.wall() + 20.0, True)})
    (tmp_path / "state.json").write_bytes(saved_state.encode(left, it.wall()))
    it.refuse("12", "13") if not others else it.refuse("13")
    taken: list[str] = []
    states: list[str] = []

    def asked(tool: str, words: list[str], text: str) -> None:
        if "-r" in words and "rdr" in text:
            taken.append(text)

    it.asked = asked                                # type: ignore[method-assign]
    it.after(5.0, lambda: states.append(it.daemon.fleet.monitors["www/http/web1"].seen if it.daemon else ""))
    it.after(10.0, it.term)
    it.go()
    assert states == ["held" if others else "up"]
    ended = [text for text in it.texts if "held ->" in text]
    assert len(taken) == others and len(ended) == 1 - others
    assert others or "held -> up: as its rule is in the kernel, and no other; " in ended[0]
    assert len(it.ours()) == 1


# -- in the sandbox, with a real member

class Flaps(OperatedGateway):
    """web1 is up and down by turns as soon as the daemon has noticed the last."""

    def prepare(self, top: str = "", members: str = f"web1: {A}, web2: {B}") -> None:
        self.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {self.port}, member_port: {self.inside}, "
                       f"check: {{type: http, path: /}}}}}}, members: {{{members}}}}}", top=top,
                       defaults="{interval: 100ms, timeout: 100ms, rise: 1, fall: 1, flap: {changes: 4, within: 5m}}")

    def flap(self) -> None:
        """Until it is held."""
        for number in range(4):
            self.one.status = 200 if number % 2 else 500
            self.wait_log("^www/http/web1 .* -> (up|down|held)", 2 + number)
        self.wait_log("^www/http/web1 .* down -> held: ")


@pytest.fixture
def node(kernel: Sandbox, tmp_path: Path) -> Iterator[Flaps]:
    kernel.ipnat("-FC")
    it = Flaps(kernel, tmp_path)
    yield it
    it.close()


def test_a_member_that_flaps(node: Flaps) -> None:
    page = free_port()
    told = node.directory / "told"
    node.prepare(f"http: 127.0.0.1:{page}\nnotify: [/bin/sh, -c, 'echo \"$1 $2 $L4IP_STATE\" >> told', x]")
    node.start()
    node.wait_targets(A, B)
    node.flap()
    node.wait_targets(B)
    assert node.lines(fr"^www/http/web1 {A}:{node.inside} down -> held: L7OK 200 \(1 of 1 passed, \d+ ms\), 4 changes "
                      r"of state in \d+ s, held down for 30 s; 1 of 2 up$")
    hits = node.one.hits
    wait("probed as ever", lambda: node.one.hits > hits + 3)
    assert node.states() == {"web1": "held", "web2": "up"} and node.targets() == [B]
    row = node.rows("show", "web1")[0]
    assert (row["state"], row["up"], row["rule"], row["code"]) == ("held", False, "no", "L7OK")
    assert "held down for " in str(row["verdict"]) and node.ctl("show")[0] == 1

    def get(path: str) -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{page}{path}", timeout=PATIENCE) as answer:
            return str(answer.read().decode())

    metrics, shown = get("/metrics"), get("/")
    assert 'l4ip_endpoint_held{cluster="www",member="web1",service="http"} 1.0' in metrics
    assert 'l4ip_endpoint_held{cluster="www",member="web2",service="http"} 0.0' in metrics
    assert 'l4ip_transitions_total{state="held"} 1.0' in metrics
    assert ">held<" in shown and "1 of 2 endpoints is down" in shown
    assert json.loads(get("/status.json"))["endpoints"][0]["state"] == "held"
    wait("notified", lambda: told.exists() and "held www/http/web1 held" in told.read_text())
    status, out, complaints = node.ctl("disable", "web2")       # the last one: the other serves again, and at once
    assert status == 0 and "no member is left" not in out + complaints
    node.wait_targets(A)
    node.wait_log(r"^www/http/web1 .* held -> up: L7OK 200 \(\d+ of \d+ passed, \d+ ms\), as no other member is up; "
                  "1 of 2 up")
    assert not node.lines("^www/http: no member is up")
    assert len(node.lines("-> held")) == len(node.lines("held ->")) == 1


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_is_held_over_a_restart(node: Flaps, how: signal.Signals) -> None:
    node.prepare()
    node.start()
    node.wait_targets(A, B)
    node.flap()
    state = node.directory / "state.json"
    wait("saved", lambda: state.exists() and "www/http/web1" in json.loads(state.read_text())["held"])
    node.wait_targets(B)
    node.stop(how)
    node.start()
    hits = node.one.hits
    wait("probed", lambda: node.one.hits > hits + 3 and node.states()["web2"] == "up")
    assert node.states()["web1"] == "held" and node.targets() == [B]
    assert len(node.lines("-> held")) == 1 and not node.lines("held ->")
    assert node.ctl("enable", "web1")[0] == 0       # who does not want to wait
    node.wait_targets(A, B)
    assert node.lines(r"^www/http/web1 .* held -> enabled: by the operator \(.+\), to be checked first; 1 of 2 up$")
    assert node.lines("^www/http/web1 .* enabled -> up: ")
