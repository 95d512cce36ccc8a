"""When a cluster is ready, word for word and to the moment: a daemon whose probes, clock and kernel the test plays."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict, local
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.ipfilter.held_lines import Held
from l4ipd.ipfilter.nat_table import Dialect
from l4ipd.model import Cluster, Config, Ipfilter, Member, Ready
from l4ipd.readiness import GRACE, LATE, Standing
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from support.balancer import BAD, GOOD, cluster, web

TIMEOUT = 3.0                                       # seconds, of ipnat
LATEST = TIMEOUT + LATE
UNREAD = "ipnat: the kernel's rules have not been read yet"
UNCHECKED = "not every endpoint has been checked yet"
LEFT = "out of service by the operator, see l4ipctl join"
BLIND = "the gateway is blind: no member has a route"
AS_BEFORE = "www ready as before: http 2 of 2 up"


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Silent:
    """A probe that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


def www(*members: Member, ready: Ready | None = None, services: tuple[str, ...] = ("http",)) -> Cluster:
    return replace(cluster("www", *(members or web(2)), services=services), ready=ready or Ready())


MAIL = replace(cluster("mail", Member("mx", "10.0.9.1"), services=("smtp",)), addresses=("203.0.113.25",))


class Gateway:
    """Nothing is known of members and rules, but what ``saved`` has from before."""

    def __init__(self, *clusters: Cluster, saved: Saved | None = None) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock)
        self.daemon = Daemon(self.loop, Config(), 100)
        self.daemon.fleet.schedule.start = self.probe
        self.told: list[str] = []
        self.daemon.events.listeners = [self.heard]
        self.steering, self.readiness = self.daemon.steering, self.daemon.readiness
        self.rules = self.steering.rules
        self.steering._speak(Dialect(sure=True))    # so that no tool is asked
        self.apply(*(clusters or (www(),)))
        self.daemon.fleet.restore(saved or Saved())
        self.readiness.restore(saved or Saved())
        self.daemon._turn()

    def probe(self, recipe: Recipe, done: Callable[[Verdict], object]) -> Silent:
        return Silent()

    def heard(self, event: Event) -> None:
        if event.kind in ("ready", "unready"):
            assert event.level == (logging.INFO if event.kind == "ready" else logging.WARNING)
            assert event.text.startswith(f"{event.name} ")
            self.told.append(event.text)

    def apply(self, *clusters: Cluster) -> None:
        self.daemon.apply(Config(Ipfilter(interface="em0", timeout=TIMEOUT), clusters))

    def outcome(self, verdict: Verdict, *names: str) -> None:
        """Of a probe of each, which takes no time; by default of all."""
        monitors = self.daemon.fleet.monitors
        for name in names or list(monitors):
            for _ in range(3):
                monitors[name].heard(verdict, self.loop.now, 0.0)
        self.daemon._turn()

    def read(self, *lines: str) -> None:
        """The table is read, and has these rules, or all that are wanted."""
        have = {line: line for line in lines or self.rules.want}
        self.rules.belief.take(SimpleNamespace(rules=have, copies={}))      # type: ignore[arg-type]
        self.steering._listed()
        self.daemon._turn()

    def lose(self) -> None:
        """All rules are gone from the kernel."""
        for line in list(self.rules.have):
            self.rules.belief.removed(line)

    def begin(self) -> None:
        """All are up, and the kernel has their rules."""
        self.outcome(GOOD)
        self.read()
        self.news()

    def pass_time(self, seconds: float) -> None:
        self.clock.now += seconds
        for _ in range(2):                          # the tick on which it is due, and what was due
            self.clock.now += 0.01
            self.loop.later(-1, lambda: None)       # so that it does not sleep
            self.loop.turn()

    def news(self) -> list[str]:
        told, self.told = self.told, []
        return told

    def standing(self, name: str = "www") -> Standing:
        return self.readiness.standings[name]

    def why(self, name: str = "www") -> str:
        standing = self.standing(name)
        assert standing.ready is (not standing.why) and standing.state == ("unready" if standing.why else "ready")
        return standing.why


@pytest.fixture
def made() -> Iterator[Callable[..., Gateway]]:
    gateways: list[Gateway] = []

    def make(*clusters: Cluster, saved: Saved | None = None) -> Gateway:
        gateways.append(Gateway(*clusters, saved=saved))
        return gateways[-1]

    yield make
    for gateway in gateways:
        gateway.loop.close()


Make = Callable[..., Gateway]


# -- a start

def test_a_first_start(made: Make) -> None:
    it = made()
    assert it.why() == UNCHECKED and not it.news()
    it.outcome(GOOD, "www/http/web2")
    assert it.why() == UNCHECKED
    it.outcome(GOOD, "www/http/web1")
    assert it.why() == UNREAD and not it.news()
    it.pass_time(1.0)
    it.read()
    assert it.why() == "" and it.news() == ["www unknown -> ready: http 2 of 2 up"]
    assert it.standing().since == it.loop.now and it.readiness.told() == {"www": True}
    it.pass_time(20.0)
    assert it.standing().since == it.loop.now - 20.02 and not it.news(), "told once"


def test_before_anything_was_looked_at() -> None:
    standing = Standing(www(), 5.0)
    assert (standing.ready, standing.state, standing.why) == (False, "unready", "not looked at yet")
    assert standing.since == 5.0 and standing.told is None and standing.troubled is None and standing.unproved is None


def test_the_table_is_read_before_the_outcomes_are_known(made: Make) -> None:
    it = made()
    it.read()
    assert it.why() == UNCHECKED
    it.outcome(GOOD, "www/http/web1")
    assert it.why() == UNCHECKED and not it.news()
    it.outcome(BAD, "www/http/web2")
    assert it.why() == "http has the rules of 0 members in the kernel"
    it.read()
    assert it.news() == ["www unknown -> ready: http 1 of 2 up"]


def test_nobody_is_up_at_a_start(made: Make) -> None:
    """Which is said as soon as it is known: by the table, too, which may have the rules of members that serve."""
    it = made()
    it.outcome(BAD)
    assert it.why() == "http 0 of 2 up" and not it.news()
    it.read()
    assert it.news() == ["www unknown -> unready: http 0 of 2 up"]
    it.outcome(GOOD, "www/http/web1")
    assert not it.news() and it.why() == "http has the rules of 0 members in the kernel"
    it.read()
    assert it.news() == ["www unready -> ready: http 1 of 2 up"]


def test_one_that_has_had_no_outcome_is_waited_for_whatever_the_others_are(made: Make) -> None:
    it = made()
    it.read()
    it.outcome(BAD, "www/http/web1")
    it.pass_time(60.0)
    assert it.why() == UNCHECKED and not it.news()


@pytest.mark.parametrize(("before", "words"), [(True, "ready as before"), (False, "unready -> ready")])
def test_what_the_last_run_said(made: Make, before: bool, words: str, caplog: pytest.LogCaptureFixture) -> None:
    """As before is no news, where rules are there still."""
    caplog.set_level(logging.INFO)
    for rules in (True, False):
        it = made(saved=Saved(ready={"www": before, "gone": True}))
        assert it.readiness.told() == {"www": before}
        monitors = it.daemon.fleet.monitors.values() if rules else ()
        it.read(*(line for monitor in monitors for line in it.steering.lines(monitor)))
        it.outcome(GOOD)
        it.read()
        line = f"www {words}: http 2 of 2 up"
        silent = before and rules
        assert it.news() == ([] if silent else [line])
        assert (line in caplog.messages) is silent
        assert it.readiness.told() == {"www": True} and it.readiness.before == {}
        caplog.clear()


def test_unready_is_told_even_if_it_was_before(made: Make) -> None:
    it = made(saved=Saved(ready={"www": False}))
    it.read()
    it.outcome(BAD)
    assert it.news() == ["www unready as before: http 0 of 2 up"]


# -- trouble with the rules

TROUBLES: dict[str, tuple[Callable[[Gateway], object], str]] = {
    "problem": (lambda it: it.rules.faults.unread("ipnat", "no such device"), "ipnat: no such device"),
    "other table": (lambda it: it.rules.belief.forget_table(), UNREAD),
    "dialect": (lambda it: it.rules.hold_changes(True), UNREAD),
    "gone": (lambda it: it.lose(), "http has the rules of 0 members in the kernel")}


@pytest.mark.parametrize("what", TROUBLES)
def test_a_moment_of_trouble_is_nothing(made: Make, what: str) -> None:
    it = made()
    it.begin()
    since = it.standing().since
    trouble, words = TROUBLES[what]
    trouble(it)
    it.daemon._turn()
    assert it.why() == ""
    it.pass_time(GRACE - 0.1)
    assert it.why() == "" and not it.news()
    it.rules.faults.read("ipnat")
    it.rules.hold_changes(False)
    it.read()
    it.pass_time(0.1)
    assert it.why() == "" and not it.news() and it.standing().since == since
    trouble(it)
    it.daemon._turn()
    it.pass_time(GRACE - 0.1)
    assert it.why() == "", "another moment begins"
    it.pass_time(0.1)
    assert it.why() == words and it.news() == [f"www ready -> unready: {words}"]
    assert it.standing().since == it.loop.now
    assert it.readiness.told() == {"www": False}
    it.rules.faults.read("ipnat")
    it.rules.hold_changes(False)
    it.read()
    assert it.news() == ["www unready -> ready: http 2 of 2 up"], "that takes no grace"


def test_in_trouble_nothing_becomes_ready(made: Make) -> None:
    it = made()
    it.begin()
    it.outcome(BAD)
    it.read()
    assert it.news() == ["www ready -> unready: http 0 of 2 up"]
    it.rules.faults.unread("ipnat", "no such device")
    it.outcome(GOOD)
    assert it.why() == "ipnat: no such device" and not it.news()
    it.pass_time(GRACE / 2)
    it.rules.faults.read("ipnat")
    it.read()
    it.news()
    it.rules.faults.unread("ipnat", "no such device")
    it.daemon._turn()
    it.pass_time(GRACE - 0.1)
    assert it.why() == "", "what was before it was ready does not count"


def test_what_has_other_reasons_is_no_moment_of_trouble(made: Make) -> None:
    it = made()
    it.begin()
    it.rules.faults.unread("ipnat", "no such device")
    it.daemon._turn()
    it.outcome(BAD)
    assert it.news() == ["www ready -> unready: http 0 of 2 up"]


@pytest.mark.parametrize("fault", ["problem", "complaint", "held", "slow"])
@pytest.mark.parametrize("before", [{}, {"www": False}, {"www": True}], ids=str)
def test_tools_that_fail_at_a_start(made: Make, fault: str, before: dict[str, bool]) -> None:
    """Said after a moment; where the last run said ready, as late as the table may be right; of slow ones, nothing."""
    it = made(saved=Saved(ready=before))
    it.outcome(GOOD)
    if fault == "problem":
        it.rules.faults.unread("ipnat", "no such device")
    elif fault == "complaint":
        it.rules.faults.unchanged("ipnat", "no such device")
    elif fault == "held":
        it.rules._changes.held.lines[next(iter(it.rules.want))] = Held("no such device", 1e9)
    it.daemon.fleet.transitions.begin()
    it.daemon._turn()
    patience = LATEST if before.get("www") else GRACE
    it.pass_time(patience - 0.1)
    assert it.why() and not it.news()
    it.pass_time(0.2)
    if fault == "slow":
        it.pass_time(60.0)
        assert not it.news() and it.why() == UNREAD
    else:
        state = {None: "unknown -> unready", False: "unready as before", True: "ready -> unready"}[before.get("www")]
        assert it.news() == [f"www {state}: {it.why()}"]
    it.rules.faults.read("ipnat")
    it.rules.faults.over()
    it.rules._changes.held.lines.clear()
    it.read()
    silent = fault == "slow" and before.get("www")  # its rules were there
    assert it.why() == "" and len(it.news()) == (0 if silent else 1)


def test_tools_that_fail_before_nobody_can_wait_any_longer(made: Make) -> None:
    """What was found in the table is not known yet, and so what is up."""
    it = made()
    it.outcome(BAD)
    it.rules.faults.unread("ipnat", "no such device")
    it.daemon._turn()
    it.pass_time(60.0)
    assert not it.news()
    it.daemon.fleet.transitions.begin()
    it.daemon._turn()
    assert it.news() == ["www unknown -> unready: http 0 of 2 up"]


def test_a_complaint_alone_is_no_trouble(made: Make) -> None:
    """As long as members enough have their rules."""
    it = made()
    it.begin()
    it.rules.faults.unchanged("ipnat", "no such device")
    it.daemon._turn()
    it.pass_time(60.0)
    assert it.why() == "" and not it.news()


def hold(it: Gateway, line: str, words: str, paused: bool = False) -> None:
    """A run of ipnat has ended in that."""
    it.rules._changes.held.lines[line] = Held(words, 1e9, paused=paused)
    it.rules._runner.runs += 1


def test_rules_that_are_refused(made: Make) -> None:
    it = made(www(), MAIL)
    it.begin()
    lines = {name.rpartition("/")[2]: it.steering.lines(monitor)[0]
             for name, monitor in it.daemon.fleet.monitors.items()}
    hold(it, "rdr of nobody", "nobody's")
    hold(it, lines["web2"], "left alone", paused=True)
    hold(it, lines["mx"], "not that one")
    it.rules.belief.removed(lines["mx"])
    it.daemon._turn()
    it.pass_time(GRACE + 0.1)
    assert it.why() == "" and it.why("mail") == "smtp has the rules of 0 members in the kernel: not that one"
    assert it.news() == [f"mail ready -> unready: {it.why('mail')}"]
    hold(it, lines["mx"], "not that one", paused=True)
    it.daemon._turn()
    assert it.why("mail") == "smtp has the rules of 0 members in the kernel"


def test_a_rule_that_does_not_go(made: Make) -> None:
    it = made(www(), MAIL)
    it.begin()
    line = it.steering.lines(it.daemon.fleet.monitors["www/http/web2"])[0]
    it.outcome(BAD, "www/http/web2")
    assert line not in it.rules.want and line in it.rules.have
    hold(it, next(iter(it.rules.want)), "not that one")     # which is there: whatever was tried
    it.daemon._turn()
    it.pass_time(GRACE + 0.1)
    assert it.why() == ""
    hold(it, line, "it stays")
    it.daemon._turn()
    it.pass_time(GRACE + 0.1)
    assert it.why() == f"{line} stays in the kernel: it stays" and it.why("mail") == ""
    hold(it, line, "it stays", paused=True)
    it.daemon._turn()
    assert it.why() == ""


# -- who is up

def test_one_of_two_is_enough_and_a_fallback_is_none(made: Make) -> None:
    sorry = Member("sorry", "10.0.0.9", fallback=True)
    it = made(www(*web(2), sorry))
    it.begin()
    it.outcome(BAD, "www/http/web1")
    assert it.why() == ""
    it.outcome(BAD, "www/http/web2")
    assert it.why() == "http 0 of 2 up" and it.news() == ["www ready -> unready: http 0 of 2 up"]


@pytest.mark.parametrize(("ready", "words"), [
    (Ready("all", 2), "http 1 of 2 up, 2 wanted, alt 1 of 2 up, 2 wanted, c 1 of 2 up, 2 wanted, and 1 services more"),
    (Ready("any", 2), "http 1 of 2 up, 2 wanted, alt 1 of 2 up, 2 wanted, c 1 of 2 up, 2 wanted, and 1 services more"),
    (Ready("all", 1), ""), (Ready("any", 1), "")])
def test_services_and_members(made: Make, ready: Ready, words: str) -> None:
    """Three services are named, of those that are short."""
    services = ("http", "alt", "c", "d")
    it = made(www(ready=ready, services=services))
    it.outcome(GOOD)
    it.read()
    assert it.news() == ["www unknown -> ready: http 2 of 2 up, alt 2 of 2 up, c 2 of 2 up, and 1 services more"]
    for count, service in enumerate(services, 1):
        assert it.why() == ("" if count == 1 or ready.services == "any" or not words else
                            ", ".join(f"{name} 1 of 2 up, 2 wanted" for name in services[:count - 1]))
        it.outcome(BAD, f"www/{service}/web1")
    assert it.why() == words
    it.outcome(BAD)
    assert it.why() == ", ".join(f"{name} 0 of 2 up{', 2 wanted' if ready.members > 1 else ''}"
                                 for name in services[:3]) + ", and 1 services more"


def test_three_services_are_all_named(made: Make) -> None:
    it = made(www(services=("http", "alt", "c")))
    it.outcome(GOOD)
    it.read()
    assert it.news() == ["www unknown -> ready: http 2 of 2 up, alt 2 of 2 up, c 2 of 2 up"]
    it.outcome(BAD)
    assert it.why() == "http 0 of 2 up, alt 0 of 2 up, c 0 of 2 up"


def test_rules_of_fewer_members_than_are_wanted(made: Make) -> None:
    it = made(www(ready=Ready(members=2)))
    it.outcome(GOOD)
    it.read(next(iter(it.rules.want)))
    assert it.why() == "http has the rules of 1 members in the kernel"
    it.read()
    assert it.why() == ""


def test_a_service_without_members(made: Make) -> None:
    """While its source names nobody; another service of it counts, where any is enough."""
    empty = replace(www(ready=Ready("all")), members=())
    it = made(empty)
    it.read()
    it.daemon._turn()
    assert it.why() == "http has no members" and it.news() == ["www unknown -> unready: http has no members"]


def test_services_that_nobody_has_are_not_numbered(made: Make) -> None:
    it = made(www(ready=Ready("any"), services=("http", "alt")))
    it.daemon.fleet.groups.pop("www/alt")
    it.outcome(GOOD)
    it.read()
    assert it.news() == ["www unknown -> ready: http 2 of 2 up"]


def test_a_gateway_that_is_blind(made: Make) -> None:
    """That is told at once, also at a start of which nothing else is known."""
    it = made()
    it.begin()
    reachability = it.daemon.fleet.reachability
    reachability.blind_since = it.loop.now
    it.daemon._turn()
    assert it.why() == BLIND and it.news() == [f"www ready -> unready: {BLIND}"]
    reachability.blind_since = None
    it.daemon._turn()
    assert it.news() == ["www unready -> ready: http 2 of 2 up"]
    new = made()
    new.daemon.fleet.reachability.blind_since = new.loop.now
    new.daemon._turn()
    assert new.why() == BLIND and not new.news()
    new.daemon.fleet.transitions.begin()
    new.daemon._turn()
    assert new.news() == [f"www unknown -> unready: {BLIND}"]


# -- the operator

def test_leave_and_join(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = made(www(), MAIL)
    it.begin()
    before = time.time()
    it.readiness.leave(["www"])
    assert it.why() == LEFT and it.why("mail") == "" and it.news() == [f"www ready -> unready: {LEFT}"]
    since = it.readiness.left["www"]
    assert before <= since <= time.time()
    it.readiness.left["www"] = since - 60.0
    it.readiness.leave(["www"])
    assert it.readiness.left == {"www": since - 60.0}, "it has been out since then"
    it.readiness.leave([])
    assert set(it.readiness.left) == {"www", ""} and it.news() == [f"mail ready -> unready: {LEFT}"]
    it.readiness.join(["www"])
    assert set(it.readiness.left) == {""} and it.why() == LEFT
    it.readiness.join(["www"])
    it.readiness.leave(["mail"])
    it.readiness.join([])
    assert it.readiness.left == {}
    assert it.news() == ["www unready -> ready: http 2 of 2 up", "mail unready -> ready: smtp 1 of 1 up"]
    assert [line for line in caplog.messages if "by the operator" in line and "->" not in line] == [
        "www: out of service by the operator", "the gateway: out of service by the operator",
        "www: back in service by the operator", "mail: out of service by the operator",
        "the gateway: back in service by the operator", "mail: back in service by the operator"]


def test_what_is_out_stays_out(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = made(www(), MAIL, saved=Saved(left={"www": 5.0, "": None, "gone": 5.0}))
    assert it.readiness.left["www"] == 5.0 and set(it.readiness.left) == {"www", ""}
    assert abs(it.readiness.left[""] - time.time()) < 300, "not known: from now on"
    assert "still out of service by the operator: www, the gateway" in caplog.messages
    assert it.why() == it.why("mail") == LEFT and not it.news()
    it.read()
    assert it.news() == [f"www unknown -> unready: {LEFT}", f"mail unknown -> unready: {LEFT}"], "whatever is up"
    it.apply(MAIL)
    assert set(it.readiness.left) == {""}
    caplog.clear()
    made()
    assert not caplog.messages


# -- reloads, and the end

def test_a_reload_keeps_what_is_known(made: Make) -> None:
    it = made(www(), MAIL)
    it.begin()
    it.pass_time(30.0)
    it.apply(www(*web(3)))
    it.daemon._turn()
    assert it.why() == "" and it.standing().since < it.loop.now - 29 and not it.news()
    assert list(it.readiness.standings) == ["www"]
    it.apply(www(*web(3), ready=Ready(members=3)))
    it.daemon._turn()
    assert it.news() == [], "nobody knows yet what the third is"
    it.outcome(BAD, "www/http/web3")
    assert it.news() == ["www ready -> unready: http 2 of 3 up, 3 wanted"]
    it.apply(www(*web(3)), MAIL)
    it.daemon._turn()
    assert it.news() == ["www unready -> ready: http 2 of 3 up"] and it.why("mail") == UNCHECKED
    assert it.standing("mail").since == it.loop.now


def test_a_reload_before_anything_was_told_brings_more_to_be_checked(made: Make) -> None:
    it = made(saved=Saved(ready={"www": True}))
    it.outcome(GOOD)
    it.apply(www(*web(3)))
    it.read()
    assert it.why() == UNCHECKED and not it.news()
    assert it.readiness.told() == {"www": True}
    it.apply(MAIL)
    assert it.readiness.told() == {}


TWO = ("http", "alt")


@pytest.mark.parametrize(("services", "words"), [("all", "http 0 of 2 up, alt 0 of 2 up"), ("any", "")])
def test_the_best_is_hoped_of_a_service_that_is_new(made: Make, services: str, words: str) -> None:
    """Also in the place of one that nobody serves any more, where any is enough."""
    it = made(www())
    it.begin()
    it.apply(www(services=TWO, ready=Ready(services)))
    it.daemon._turn()
    assert it.why() == ""
    it.outcome(BAD, "www/http/web1", "www/http/web2")
    assert it.why() == words
    it.outcome(local("no memory"), "www/alt/web1")
    assert it.why() == words, "one of its members is not known yet"
    it.outcome(local("no memory"), "www/alt/web2")
    assert it.why() == "http 0 of 2 up, alt 0 of 2 up", "nobody knows how long that takes"
    assert it.news() == [f"www ready -> unready: {it.why()}"]


def test_what_was_not_ready_hopes_nothing(made: Make) -> None:
    it = made(www())
    it.begin()
    it.outcome(BAD)
    it.apply(www(*web(3)))
    it.daemon._turn()
    assert it.why() == "http 0 of 3 up"


def test_who_is_disabled_gives_no_hope(made: Make) -> None:
    it = made(www())
    it.begin()
    it.apply(www(services=TWO))
    it.daemon.fleet.disable([it.daemon.fleet.monitors[f"www/alt/web{number}"] for number in (1, 2)], now=False)
    it.daemon._turn()
    assert it.why() == "alt 0 of 2 up"


def test_a_new_source_has_a_moment_to_name_somebody(made: Make) -> None:
    it = made(www())
    it.begin()
    it.apply(replace(www(), members=()))
    it.daemon._turn()
    assert it.why() == ""
    it.pass_time(LATE - 0.1)
    assert it.why() == "" and not it.news()
    it.pass_time(0.2)
    assert it.why() == "http has no members" and len(it.news()) == 1 and not it.loop.errors.total


def test_a_source_of_another_cluster_that_changes_all_the_time_does_not_prolong_it(made: Make) -> None:
    it, empty = made(www(), MAIL), replace(www(), members=())
    it.begin()
    it.apply(empty, MAIL)
    for number in range(int(LATE) + 1):
        it.pass_time(1.0)
        it.apply(empty, replace(MAIL, members=(Member("mx", f"10.0.9.{2 + number % 2}"),)))
    it.daemon._turn()
    assert it.why() == "http has no members"


def test_the_end_is_no_reason_to_move_an_address(made: Make) -> None:
    it = made()
    it.begin()
    it.readiness.stop()
    assert it.why() == "l4ipd stops"
    it.readiness.touch("www/http")
    it.daemon.fleet.reachability.blind_since = it.loop.now
    it.daemon._turn()
    assert it.why() == "l4ipd stops" and not it.news() and it.readiness.told() == {"www": True}


# -- looking

def test_it_is_looked_at_what_was_touched_and_no_more(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made(www(), MAIL)
    looked: list[str] = []
    look = it.readiness._look

    def note(standing: Standing) -> None:
        looked.append(standing.cluster.name)
        look(standing)

    monkeypatch.setattr(it.readiness, "_look", note)
    it.daemon._turn()
    assert looked == [], "that outcomes are still to come is nothing new"
    it.begin()
    looked.clear()
    it.rules._runner.runs += 1
    it.daemon._turn()
    assert looked == [], "a run of ipnat has changed nothing"
    it.readiness.touch("mail/smtp")
    it.readiness.touch("gone/smtp")
    it.daemon._turn()
    it.daemon._turn()
    assert looked == ["mail"]
    hold(it, "rdr of nobody", "nobody's")
    it.daemon._turn()
    it.daemon._turn()
    assert looked == ["mail", "www", "mail"], "what is held may be another after every run"
    it.rules._changes.held.lines.clear()
    it.apply(www(), replace(MAIL, members=(*MAIL.members, Member("mx2", "10.0.9.2"))))
    it.daemon._turn()
    looked.clear()
    it.outcome(local("no memory"), "mail/smtp/mx2")
    assert looked == [], "nobody has waited for that"
