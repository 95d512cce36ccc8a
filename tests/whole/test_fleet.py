"""Every endpoint's monitor: what a reload leaves as it was, what an earlier run left, and what the operator wants."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest

from l4ipd.checks.errors import NO_ROUTE
from l4ipd.checks.probe import Probe
from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Leave, Verdict
from l4ipd.events import Event, Events
from l4ipd.fleet import Change, Fleet
from l4ipd.model import Check, Cluster, Config, Ipfilter, Member
from l4ipd.monitor.monitor import Monitor
from l4ipd.monitor.refusals import MOMENT
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Hold, Saved
from l4ipd.transitions import Past
from support.balancer import BAD, GOOD, cluster
from support.loops import Clock, Sleeper

A, B, C, D, E = (Member(name, f"10.0.0.{last}") for last, name in enumerate("abcde", 1))
IDLE, SORRY = Member("idle", "10.0.0.8", weight=0), Member("sorry", "10.0.0.9", fallback=True)
CHECK = Check("tcp", interval=2.0)


class Silent:
    """A probe that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


def www(*members: Member, check: Check = CHECK, name: str = "www", services: tuple[str, ...] = ("http",)) -> Cluster:
    return cluster(name, *members, check=check, services=services)


class Gateway:
    """``changed`` are the services whose rules have to be planned anew."""

    def __init__(self, *clusters: Cluster, saved: Saved | None = None) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleeper(self.clock))
        self.events: list[Event] = []
        events = Events(self.loop.errors.shield)
        events.listeners = [self.events.append]
        self.changed: list[str] = []
        self.decided: list[int] = []
        self.refused: list[str] = []
        self.starts: list[str] = []
        self.fleet = Fleet(self.loop, events, self.probe, 100, changed=self.changed.append,
                           decided=lambda: self.decided.append(1),
                           refused=lambda monitor, verdict: self.refused.append(monitor.endpoint.name),
                           kept=lambda group: group == "kept/http")
        self.apply(*clusters)
        if saved is not None:
            self.fleet.restore(saved)

    def probe(self, recipe: Recipe, done: Callable[[Verdict], object]) -> Probe:
        self.starts.append(recipe.address)
        return Silent()

    def apply(self, *clusters: Cluster) -> Change:
        self.changed.clear()
        return self.fleet.take_over(Config(Ipfilter(interface="em0"), clusters))

    def member(self, name: str, group: str = "www/http") -> Monitor:
        return self.fleet.monitors[f"{group}/{name}"]

    def outcome(self, verdict: Verdict, names: str) -> None:
        for name in names.split() * 3:
            self.member(name).heard(verdict, self.loop.now, 0.0)

    def begin(self, up: str = "", down: str = "") -> None:
        self.fleet.transitions.begin()
        self.outcome(GOOD, up)
        self.outcome(BAD, down)
        self.fleet.turn()
        self.news()

    def news(self) -> list[str]:
        told = [event.text for event in self.events]
        self.events.clear()
        return told

    def run(self, seconds: float) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()


Make = Callable[..., Gateway]


@pytest.fixture
def made() -> Iterator[Make]:
    gateways: list[Gateway] = []

    def make(*clusters: Cluster, saved: Saved | None = None) -> Gateway:
        gateways.append(Gateway(*clusters, saved=saved))
        return gateways[-1]

    yield make
    for gateway in gateways:
        gateway.loop.close()


# -- configurations

def test_what_a_reload_changes_is_counted_and_the_rest_stays(made: Make) -> None:
    it = made(www(A, B))
    assert it.changed == ["www/http", "www/http"] or it.changed == ["www/http"]
    before = dict(it.fleet.monitors)
    assert it.apply(www(A, B)) == Change(2, 0, 0, 0) and it.fleet.monitors == before
    assert it.apply(www(A, replace(B, weight=2), C)) == Change(3, 1, 1, 0)
    assert it.member("b") is before["www/http/b"] and it.member("b").endpoint.weight == 2
    assert list(it.fleet.groups) == ["www/http"] == it.changed and it.fleet.members("www/http") == [
        it.member("a"), it.member("b"), it.member("c")]
    assert it.apply(www(D, E, replace(A, weight=2), replace(B, weight=3), C)) == Change(5, 2, 2, 0)
    assert it.apply(www(A, replace(B, address="10.0.0.7"))) == Change(2, 0, 2, 3)
    assert it.member("a") is before["www/http/a"] and it.member("b") is not before["www/http/b"]
    assert before["www/http/b"].stopped and not it.member("b").stopped
    assert it.fleet.members("gone/http") == () and str(it.fleet.tally("gone/http")) == "0 of 0 up"
    it.apply(www(A), www(A, name="mail"))
    assert it.changed == ["www/http", "mail/http"]


def test_another_check_of_the_same_member_leaves_it_as_it_was(made: Make) -> None:
    it = made()
    assert it.fleet.members("www/http") == (), "there is nobody yet"
    it.apply(www(A, B, C))
    it.begin(up="a", down="b")
    it.outcome(Leave("L7STS", "503 leaving"), "c")
    it.news()
    for name in "abc":
        it.member(name).since = it.loop.now - 500.0
    it.apply(www(A, B, C, check=replace(CHECK, interval=3.0)))
    assert it.member("a").eligible and it.fleet.transitions.past == {
        f"www/http/{name}": Past(seen, it.loop.now - 500.0) for name, seen in (("b", "down"), ("c", "draining"))}
    assert it.fleet.undecided == {"www/http/a", "www/http/b", "www/http/c"}
    it.outcome(GOOD, "a")
    it.outcome(BAD, "b")
    it.outcome(Leave("L7STS", "503 leaving"), "c")
    assert it.news() == []


def test_what_is_checked_alike_is_probed_once(made: Make) -> None:
    """Also by those that come with a reload, and what has other checks is not."""
    alike = replace(CHECK, port=8080)
    it = made(www(A, check=alike))
    it.run(3.0)
    it.apply(www(A, check=alike, services=("http", "alt")), www(A, check=replace(alike, interval=3.0), name="mail"))
    one, two = it.member("a"), it.member("a", "www/alt")
    assert one.checker is two.checker and it.member("a", "mail/http").checker is not one.checker
    assert one.checker.listeners == (one, two)
    it.apply(www(A, check=alike, services=("http", "alt", "more")))
    assert it.member("a", "www/more").checker is one.checker


def test_new_ones_are_probed_soon(made: Make) -> None:
    it = made(www(A))
    it.run(1.1)
    assert it.starts == ["10.0.0.1"]
    it.apply(www(A, B))
    it.run(1.1)
    assert "10.0.0.2" in it.starts


@pytest.mark.parametrize(("count", "interval", "step"), [(1, 2.0, 0.03), (300, 1.0, 0.03), (300, 0.1, 0.005)])
def test_how_many_probes_a_second_decides_how_many_begin_together(made: Make, count: int, interval: float,
                                                                  step: float) -> None:
    """Of equal checks only one is made."""
    members = [Member(f"m{number}", f"10.1.{number // 250}.{number % 250 + 1}") for number in range(count)]
    it = made(www(*members, check=replace(CHECK, port=80, interval=interval), services=("http", "alt")))
    rate = count / interval
    found = it.fleet.schedule.step
    it.fleet.schedule.bunch(rate)
    assert found == it.fleet.schedule.step


def test_who_has_left_is_forgotten(made: Make) -> None:
    it = made(www(A, B))
    it.fleet.disable([it.member("b")], now=True, user="alice", seconds=60.0)
    it.fleet.transitions.past["www/http/b"] = Past("down", 0.0)
    assert it.apply(www(A)).forgotten == (
        "www/http/b is gone; that it was disabled by the operator (alice) is forgotten",)
    assert not it.fleet.disabled and not it.fleet.cut and not it.fleet.transitions.past
    assert it.fleet.undecided == {"www/http/a"}


# -- outcomes

def test_when_all_have_had_an_outcome(made: Make) -> None:
    it = made(www(A, B))
    assert it.fleet.undecided == {"www/http/a", "www/http/b"}
    it.outcome(GOOD, "a")
    assert it.fleet.undecided == {"www/http/b"} and not it.decided
    it.outcome(BAD, "b")
    assert not it.fleet.undecided and it.decided == [1]


def test_tallies_go_with_the_states_in_a_turn(made: Make) -> None:
    it = made(www(A, B, IDLE, SORRY))
    it.begin()

    def count() -> tuple[int, int, int]:
        tally = it.fleet.tally("www/http")
        return tally.regulars, tally.up, tally.fallbacks

    assert count() == (2, 0, 0)
    it.outcome(GOOD, "idle sorry a")
    assert count() == (2, 1, 1) and it.fleet.serving("www/http") == 1
    it.outcome(BAD, "a")
    assert count() == (2, 0, 1) and it.fleet.serving("www/http") == 1
    it.fleet.disable([it.member("sorry")], now=False)
    assert count() == (2, 0, 0)
    it.outcome(BAD, "sorry")
    it.outcome(GOOD, "sorry a b")
    assert count() == (2, 2, 0) and it.fleet.serving("www/http") == 2
    it.member("a").adopt()
    it.member("a").health = 0                       # in a way that nobody was told of
    assert count() == (2, 2, 0)
    it.fleet.turn()
    assert count() == (2, 1, 0)


def test_whoever_is_alone_is_not_taken_down_by_a_client(made: Make) -> None:
    it = made(www(A, B, IDLE, SORRY))
    it.begin(up="a idle")
    alone = it.fleet._is_alone
    assert alone(it.member("a")), "what has no weight serves nobody"
    it.outcome(GOOD, "b")
    assert not alone(it.member("a")) and not alone(it.member("b"))
    it.outcome(BAD, "b")
    it.outcome(GOOD, "sorry")
    assert not alone(it.member("a")), "a fallback serves"
    assert not alone(it.member("sorry"))
    refused = Verdict("RST", "connection refused, seen by ipmon")
    it.outcome(BAD, "sorry")
    it.member("a").refuse(refused, "198.51.100.7")
    it.run(2 * MOMENT)
    assert it.member("a").eligible
    it.outcome(GOOD, "b")
    it.member("b").refuse(refused, "198.51.100.7")
    it.run(2 * MOMENT)
    assert not it.member("b").eligible


def test_who_flaps_is_held_unless_it_is_the_last(made: Make) -> None:
    it = made(www(A, B))
    it.begin(up="a b")
    for _ in range(3):
        it.outcome(BAD, "a")
        it.outcome(GOOD, "a")
    it.fleet.turn()
    assert it.member("a").seen == "held"
    it.outcome(BAD, "a b")
    it.fleet.turn()
    assert it.member("a").seen == "held", "it is down itself"
    it.outcome(GOOD, "a")
    it.fleet.turn()
    assert it.member("a").eligible
    for _ in range(9):
        it.outcome(BAD, "a")
        it.outcome(GOOD, "a")
        assert it.member("a").eligible, "nobody else serves"


def test_while_no_member_has_a_route_nothing_counts(made: Make) -> None:
    it = made(www(A, B))
    it.begin(up="a b")
    asked: list[str] = []
    reachability = it.fleet.reachability

    def leads(address: str, send: bool) -> bool:
        asked.append(address)
        return False

    reachability.leads = leads
    it.outcome(NO_ROUTE, "b")
    assert it.member("b").eligible and set(asked) == {"10.0.0.1", "10.0.0.2"}
    assert [event.kind for event in it.events] == ["blind"]
    a = it.member("a")
    a.hold(1, it.loop.now + 1.0, True)
    a.verdict = GOOD
    it.run(5.0)
    assert a.held and not it.loop.errors.total, "nobody is put back meanwhile"
    reachability.leads = lambda address, send: address == "10.0.0.2"
    it.outcome(NO_ROUTE, "a")
    assert reachability.blind, "who has no route does not end it"
    it.run(1.0)
    assert not reachability.blind and [event.kind for event in it.events] == ["blind", "sighted"]


def test_that_a_service_has_changed(made: Make) -> None:
    it = made(www(A, B))
    it.begin()
    it.changed.clear()
    it.outcome(GOOD, "a")
    assert it.changed == ["www/http"]
    it.changed.clear()
    it.member("a").weigh(50)
    assert it.changed == ["www/http"]


def test_who_hears_of_what(made: Make) -> None:
    it = made(www(A), www(B, name="kept"))
    it.begin()
    it.outcome(Verdict("L4CON", "connection refused"), "a")
    assert it.refused == ["www/http/a"] * 3
    for _ in range(3):
        it.member("b", "kept/http").heard(BAD, it.loop.now, 0.0)
    it.fleet.turn()
    assert it.news()[-2:] == ["www/http: no member is up",
                              "kept/http: no member is up; its last rules stay (when_all_down: keep)"]


# -- what an earlier run left

def test_what_was_disabled_stays_so(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    now = time.time()
    it = made(www(A, B, C), saved=Saved(
        {"www/http/a": now - 60.0, "www/http/b": None, "gone": now}, users={"www/http/a": "alice"},
        until={"www/http/b": now + 90.0}, cut=frozenset({"www/http/b", "www/http/c", "gone"})))
    a, b = it.fleet.disabled["www/http/a"], it.fleet.disabled["www/http/b"]
    assert set(it.fleet.disabled) == {"www/http/a", "www/http/b"} and it.fleet.cut == {"www/http/b"}
    assert (a.since, a.user, a.until) == (now - 60.0, "alice", None)
    assert b.since == pytest.approx(now, abs=60) and b.user == ""
    assert b.until is not None and it.loop.now + 30.0 < b.until <= it.loop.now + 90.0
    assert it.member("a").disabled and it.member("b").disabled and not it.member("c").disabled
    assert caplog.messages == ["still disabled by the operator: www/http/a, www/http/b"]
    it.run(91.0)
    assert set(it.fleet.disabled) == {"www/http/a"} and not it.member("b").disabled
    caplog.clear()
    made(www(A), saved=Saved())
    assert not caplog.messages


def test_who_was_held_is_held(made: Make) -> None:
    now = time.time()
    it = made(www(A, B, C, replace(A, name="d")), saved=Saved(
        {"www/http/b": now}, {"www/http/a": (False, now - 200.0)},
        held={**{f"www/http/{name}": Hold(2, now + 90.0, True) for name in "abc"},
              "www/http/d": Hold(3, now - 5.0, True), "gone": Hold(1, now + 9.0, True)}))
    a, c = it.member("a"), it.member("c")
    assert a.held and c.held and not it.member("b").held, "who is disabled is not held"
    assert it.loop.now - a.since == pytest.approx(200.0, abs=60) and c.since == it.loop.now
    assert a.flapping is not None and it.loop.now + 30.0 < a.flapping.hold.until <= it.loop.now + 90.0
    assert a.flapping.hold.count == 2
    over = it.member("d").flapping
    assert over is not None and not over.held and over.hold.count == 3
    it.begin()
    it.outcome(GOOD, "a")
    it.outcome(BAD, "c d")
    it.fleet.turn()
    assert a.seen == "up", "nobody else serves"


def test_what_was_known_of_each(made: Make) -> None:
    now = time.time()
    states: Mapping[str, tuple[bool, float | None]] = {
        "www/http/a": (True, now - 200.0), "www/http/b": (False, None), "gone": (True, now)}
    it = made(www(A, B), saved=Saved(states=states))
    past = it.fleet.transitions.past
    assert {name: each.seen for name, each in past.items()} == {"www/http/a": "up", "www/http/b": "down"}
    assert it.loop.now - past["www/http/a"].since == pytest.approx(200.0, abs=60)
    assert past["www/http/b"].since == it.loop.now


@pytest.mark.parametrize(("members", "states", "disabled", "empty"), [
    ((A, B), {"a": False, "b": False}, "", True), ((A, B), {"a": False}, "b", True), ((A, B), {"a": False}, "", False),
    ((A, B), {"a": True, "b": False}, "", False), ((A, IDLE), {"a": False}, "", True), ((A, IDLE), {}, "", False),
    ((A,), {}, "a", True), ((IDLE,), {}, "", False)])
def test_whether_a_service_had_nobody(made: Make, members: tuple[Member, ...], states: dict[str, bool], disabled: str,
                                      empty: bool) -> None:
    it = made(www(*members), saved=Saved({f"www/http/{name}": None for name in disabled},
                                         {f"www/http/{name}": (up, None) for name, up in states.items()}))
    assert it.fleet.transitions.empty_before == ({"www/http"} if empty else set())


# -- the operator

def test_what_is_told_of_the_operator_s_word(made: Make) -> None:
    it = made(www(A, B, C))
    it.begin(up="a b", down="c")
    it.changed.clear()
    a, b, c = (it.member(name) for name in "abc")
    it.fleet.disable([a, c], now=True, user="alice", seconds=60.0)
    assert [(event.kind, event.name) for event in it.events] == [("disabled", "www/http/a"), ("disabled", "www/http/c")]
    assert it.news() == [
        f"www/http/{name} 10.0.0.{last}:8080 {was} -> disabled: by the operator (alice), for 1m, its sessions are cut "
        f"off; 1 of 3 up" for name, last, was in (("a", 1, "up"), ("c", 3, "down"))]
    assert it.changed == ["www/http"] * 2 and it.fleet.cut == {"www/http/a", "www/http/c"}
    it.fleet.disable([a], now=False)
    assert it.fleet.cut == {"www/http/c"} and it.fleet.disabled["www/http/a"].until is None
    assert it.news() == ["www/http/a 10.0.0.1:8080 up -> disabled: by the operator, its sessions may finish; 1 of 3 up"]
    it.fleet.disable_for([a, c], "bob", 90.0)
    assert [(event.kind, event.name) for event in it.events] == [("disabled", "www/http/a"), ("disabled", "www/http/c")]
    assert it.news()[0] == "www/http/a 10.0.0.1:8080 disabled -> disabled: by the operator (bob), for 90s; 1 of 3 up"
    assert it.fleet.disabled["www/http/c"][1:] == ("bob", it.loop.now + 90.0)
    it.fleet.disable_for([a], "", None)
    assert it.news() == [
        "www/http/a 10.0.0.1:8080 disabled -> disabled: by the operator, until it is enabled; 1 of 3 up"]
    it.changed.clear()
    it.starts.clear()
    it.fleet.enable([a, c], "carol")
    assert [(event.kind, event.name) for event in it.events] == [("enabled", "www/http/a"), ("enabled", "www/http/c")]
    assert it.news() == [f"www/http/{name} 10.0.0.{last}:8080 disabled -> enabled: by the operator (carol), to be "
                         "checked first; 1 of 3 up" for name, last in (("a", 1), ("c", 3))]
    assert it.changed == ["www/http"] * 2 and not it.fleet.cut and not it.fleet.disabled and a.unconfirmed
    it.run(0.02)
    assert it.starts == ["10.0.0.1", "10.0.0.3"], "now, and not when they would be due"
    b.hold(1, it.loop.now + 90.0, True)
    it.fleet.enable([b])
    assert it.news()[-1] == "www/http/b 10.0.0.2:8080 held -> enabled: by the operator, to be checked first; 0 of 3 up"


def test_counts_within_the_operator_s_words_are_those_after_all_of_it(made: Make) -> None:
    it = made(www(A, B))
    it.begin(up="a b")
    it.fleet.tally("www/http")
    it.fleet.disable([it.member("a"), it.member("b")], now=False)
    assert all(text.endswith("; 0 of 2 up") for text in it.news())
    it.fleet.turn()
    assert it.news() == ["www/http: no member is up"]
    it.fleet.tally("www/http")
    it.fleet.enable([it.member("a")])
    it.fleet.turn()
    it.outcome(BAD, "a")
    it.fleet.turn()
    assert it.news()[-1] == "www/http: no member is up", "it is told again, since somebody has put it back"


def test_the_time_is_over(made: Make) -> None:
    it = made(www(A, B))
    it.begin(up="a b")
    it.fleet.disable([it.member("a")], now=True, seconds=60.0)
    it.run(59.9)
    assert it.fleet.disabled
    it.news()
    it.run(0.2)
    assert it.news() == ["www/http/a 10.0.0.1:8080 disabled -> enabled: the time is over for which it was disabled, "
                         "to be checked first; 1 of 2 up"]
    assert not it.fleet.disabled and not it.fleet.cut


def test_the_end(made: Make) -> None:
    it = made(www(A, B))
    it.begin(up="a b")
    it.outcome(BAD, "a b")
    it.news()
    reachability = it.fleet.reachability
    reachability.blind_since = it.loop.now
    reachability.raised()
    it.fleet.stop()
    assert it.news() == ["www/http: no member is up"], "what was not told yet"
    assert all(monitor.stopped for monitor in it.fleet.monitors.values())
    it.starts.clear()
    reachability.leads = lambda address, send: True
    it.run(60.0)
    assert it.starts == [] and reachability.blind, "nobody looks any more"
