"""From states to wanted rules, step by step: what is asked of the tools, adopted, planned, and how a rule is to go.

The reconciler starts nothing here: the test says what is in the kernel, and what the tools have answered.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from l4ipd import steering as module
from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.ipfilter.listing import Listing
from l4ipd.ipfilter.nat_table import Dialect
from l4ipd.ipfilter.rdr import LISTING_END
from l4ipd.model import Cluster, Config, Ipfilter, Member
from l4ipd.monitor.monitor import Monitor
from l4ipd.obsolete_rules import SPARE
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import Loop
from l4ipd.saved_state import Saved
from l4ipd.steering import Steering
from support.balancer import BAD, GOOD, cluster
from support.loops import Clock, Sleeper

TOOLS = Ipfilter(interface="em0", timeout=3.0)
KNOWN = Dialect("5.1.2", True, True)
A, B = Member("a", "10.0.0.1"), Member("b", "10.0.0.2")
RULE = "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.{} port 8080 tcp round-robin tag l4ip"
ONE, TWO = RULE.format(1), RULE.format(2)
STRANGE = "rdr em0 203.0.113.99/32 port 80 -> 10.9.9.9 port 80 tcp round-robin tag l4ip"
REFUSED = Verdict("L4CON", "connection refused")


class Silent:
    """A probe that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


def www(*members: Member, **more: object) -> Cluster:
    made = cluster("www", *(members or (A, B)))
    return replace(made, services=(replace(made.services[0], **more),))     # type: ignore[arg-type]


class Gateway:
    def __init__(self, *clusters: Cluster, settings: Ipfilter = TOOLS) -> None:
        clock = Clock()
        self.clock, self.loop = clock, Loop(clock, Sleeper(clock))
        self.asked: list[tuple[Ipfilter, Callable[[Dialect], object]]] = []
        self.config = Config(settings, clusters or (www(),))
        self.daemon = Daemon(self.loop, self.config, 100)
        self.steering: Steering = self.daemon.steering
        self.rules = self.steering.rules
        self.spoken: list[Dialect] = []
        self.daemon.sensing.speak = self.spoken.append      # type: ignore[method-assign, assignment]
        self.daemon.fleet.schedule.start = self.probe
        self.events: list[Event] = []
        self.daemon.events.listeners = [self.events.append]
        self.daemon.apply(self.config)

    def probe(self, recipe: Recipe, done: Callable[[Verdict], object]) -> Silent:
        return Silent()

    def ask(self, loop: Loop, tools: Ipfilter, done: Callable[[Dialect], object]) -> None:
        assert loop is self.loop
        self.asked.append((tools, done))

    def start(self, saved: Saved | None = None) -> None:
        self.steering.start(saved or Saved())
        self.rules.suspend()                        # there are no tools

    def answer(self, dialect: Dialect = KNOWN) -> None:
        self.asked.pop(0)[1](dialect)

    def apply(self, *clusters: Cluster, **settings: object) -> None:
        self.config = Config(replace(self.config.ipfilter, **settings), clusters or self.config.clusters)  # type: ignore[arg-type]
        self.daemon.apply(self.config)

    def member(self, name: str) -> Monitor:
        return self.daemon.fleet.monitors[f"www/http/{name}"]

    def outcome(self, verdict: Verdict, *names: str) -> None:
        for name in names * 3:
            self.member(name).heard(verdict, self.loop.now, 0.0)
        self.steering.turn()

    def read(self, *lines: str) -> None:
        """The table is listed so, as often as it takes to be believed."""
        for _ in range(2):
            listing = Listing(self.rules.table, self.rules.have, self.loop.errors)
            listing.feed("\n".join(("List of active MAP/Redirect filters:", *lines, "", LISTING_END, "")).encode())
            self.rules._was_listed(listing, Exit(0), False)
            if not self.rules.stale:
                return
        raise AssertionError("it is not believed")

    def begin(self) -> None:
        self.start()
        self.answer()
        self.outcome(GOOD, "a", "b")
        self.read(ONE, TWO)

    def want(self) -> list[str]:
        return list(self.rules.want)

    def run(self, seconds: float) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()


Make = Callable[..., Gateway]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    gateways: list[Gateway] = []

    def make(*clusters: Cluster, settings: Ipfilter = TOOLS) -> Gateway:
        gateways.append(Gateway(*clusters, settings=settings))
        monkeypatch.setattr(module, "find_dialect", gateways[-1].ask)
        return gateways[-1]

    yield make
    for gateway in gateways:
        gateway.loop.close()


# -- what the tools understand

def test_before_the_tools_have_answered_nothing_is_changed(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = made()
    assert it.rules.pause and not it.steering.dialect.sure
    it.steering.start(Saved())
    assert not it.rules.pause and it.rules.look_only and [tools for tools, _ in it.asked] == [TOOLS]
    it.rules.suspend()
    it.read()
    assert len(it.asked) == 1, "that is under way"
    caplog.clear()
    it.answer()
    assert not it.rules.look_only and it.steering.dialect is KNOWN and it.spoken == [KNOWN]
    assert it.rules.table.purging == ("ipnat", "-r", "-p", "-f", "-")
    assert caplog.messages == ["IPFilter 5.1.2; ipnat ends the sessions of failed members (-p)"]
    it.read()
    assert not it.asked


@pytest.mark.parametrize(("dialect", "words"), [
    (Dialect("4.1", False, False), ["IPFilter 4.1; ipnat cannot end sessions (no -p): those of failed members end in "
                                    "their own time"]),
    (Dialect("", True, False), []), (Dialect("5.1.2", True, True, sure=False), [])])
def test_what_the_log_says_of_the_tools(made: Make, dialect: Dialect, words: list[str],
                                        caplog: pytest.LogCaptureFixture) -> None:
    it = made()
    it.start()
    caplog.set_level(logging.INFO)
    it.answer(dialect)
    assert caplog.messages == words
    it.apply(ipf=("ipf2",))
    it.read()
    caplog.clear()
    it.answer(replace(dialect))
    it.steering._speak(replace(dialect))
    assert caplog.messages == words, "once, and again of others"


def test_who_could_not_say_is_asked_again_after_each_listing(made: Make) -> None:
    it = made()
    it.start()
    it.answer(Dialect(sure=False))
    it.read()
    assert len(it.asked) == 1
    it.read()
    assert len(it.asked) == 1, "not twice at a time"
    it.answer()
    it.read()
    assert not it.asked


@pytest.mark.parametrize(("purge", "words", "again"), [
    (True, "unknown option -- p", True), (False, "unknown option -- p", False), (True, "no such device", False)])
def test_a_tool_that_does_not_know_what_it_said_it_knows(made: Make, purge: bool, words: str, again: bool) -> None:
    it = made()
    it.start()
    it.answer(replace(KNOWN, purge=purge))
    it.rules.faults.complaint = words
    it.read()
    assert bool(it.asked) is again


def test_the_answer_of_another_tool_is_not_believed(made: Make) -> None:
    it = made()
    it.start()
    for number, tool in enumerate(("ipnat", "ipf")):
        it.apply(**{tool: (f"other{number}",)})
        it.answer()
        assert it.spoken == [] and it.rules.look_only
        assert len(it.asked) == 1 and getattr(it.asked[0][0], tool) == (f"other{number}",)
    it.apply(timeout=4.0)
    it.answer()
    assert it.spoken == [KNOWN], "that is the same tool"


@pytest.mark.parametrize(("more", "sure"), [
    ({"ipnat": ("other",)}, False), ({"ipf": ("other",)}, False), ({"tag": "other"}, True), ({"resync": 9.0}, True)],
    ids=str)
def test_a_reload_of_the_tools(made: Make, more: dict[str, object], sure: bool) -> None:
    it = made()
    it.begin()
    iterator, nat = it.steering.nat.iterator, it.steering.nat
    it.apply(timeout=7.0, **more)
    assert it.steering.dialect == replace(KNOWN, sure=sure)
    assert it.steering.nat is not nat and it.steering.nat.iterator is iterator
    assert it.steering.nat.old_tags is it.steering.inherited.tags
    assert it.rules.table == it.steering.nat.table and it.rules.timeout == 7.0
    assert it.rules.resync.least == more.get("resync", TOOLS.resync)
    assert it.rules.table.purging[1:] == ("-r", "-p", "-f", "-"), "until we know better"
    assert it.rules.belief.stale, "it is read again"


def test_a_reload_of_other_things_leaves_the_table_alone(made: Make) -> None:
    it = made()
    it.begin()
    nat = it.steering.nat
    it.apply(www(A))
    assert it.steering.nat is nat and not it.rules.belief.stale
    assert list(it.steering.owner) == [ONE]


# -- the table at the start

def test_whose_rules_are_there_is_up(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    it = made()
    it.start()
    it.answer()
    assert it.daemon.fleet.transitions.waits
    it.steering.turn()
    it.read(ONE)
    assert it.member("a").eligible and not it.member("b").up and it.want() == [ONE]
    assert not it.daemon.fleet.transitions.waits and it.steering.inherited.clusters == {"www"}
    assert "1 rules of ours are in the kernel already: adopted" in caplog.messages
    it.outcome(BAD, "a")
    it.read(ONE)
    assert not it.member("a").up, "that is done once"
    caplog.clear()
    new = made()
    new.start()
    new.read()
    assert not caplog.messages and not new.steering.inherited.clusters


def test_what_fails_in_it_is_done_again_after_the_next_listing(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()
    it.start()
    it.answer()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(it.daemon.fleet.transitions, "found", lambda monitor: 1 / 0)
        it.read(ONE)
    it.read(ONE)
    assert it.member("a").eligible


def test_one_rule_of_a_weight_is_enough_and_one_of_another_age(made: Make) -> None:
    it = made(www(replace(A, weight=3), age=60))
    it.start()
    it.answer()
    it.read(f"{ONE}.2")
    assert it.member("a").up


@pytest.mark.parametrize("asked", [False, True])
def test_a_table_that_is_not_read_in_time_is_not_waited_for(made: Make, asked: bool) -> None:
    it = made()
    it.start()
    if asked:                                       # and what the timer did has failed once
        it.steering.raised()
    it.run(TOOLS.timeout - 0.1)
    assert it.daemon.fleet.transitions.waits
    it.run(0.2)
    assert not it.daemon.fleet.transitions.waits
    it.daemon.fleet.transitions.waits = True        # as if it did
    it.steering.raised()
    it.run(TOOLS.timeout + 0.1)
    assert not it.daemon.fleet.transitions.waits, "it is tried again"


def test_that_time_is_over_says_nothing_once_it_was_read(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()
    it.start()
    it.read()
    monkeypatch.setattr(it.daemon.fleet.transitions, "begin", lambda: 1 / 0)
    it.run(TOOLS.timeout + 1.0)
    assert not it.loop.errors.total


def test_what_the_last_run_left(made: Make) -> None:
    it = made()
    it.start(Saved(rules=frozenset({STRANGE}), rdr_tags=frozenset({"old", "l4ip"})))
    assert it.steering.inherited.lines == {STRANGE} and it.steering.inherited.tags == {"old"}
    assert it.steering.tags() == {"old", "l4ip"}
    assert it.steering._known(STRANGE) == STRANGE
    it.apply(tag=None)
    assert it.steering.tags() == {"old", "l4ip"}, "it was not read yet"


def test_a_tag_that_was_read_before_it_changed_is_not_looked_for(made: Make) -> None:
    """What bears it is known."""
    it = made()
    it.begin()
    it.apply(tag="new")
    assert it.steering.tags() == {"new"} and it.steering.unmarked() == {ONE, TWO}
    it.apply(tag=None)
    assert it.steering.tags() == frozenset()
    first = made()
    first.apply(tag="new")
    assert first.steering.tags() == {"l4ip", "new"}


@pytest.mark.parametrize(("tag", "line", "marked"), [
    ("l4ip", "rdr x tag l4ip", True), ("l4ip", "rdr x tag l4ip.2", True), ("l4ip", "rdr x tag l4ip2", False),
    ("l4ip", "rdr x", False), (None, "rdr x", False), (None, "rdr x tag l4ip", False)])
def test_rules_that_the_next_run_cannot_tell(made: Make, tag: str | None, line: str, marked: bool) -> None:
    it = made(settings=replace(TOOLS, tag=tag))
    it.rules.belief.have = {line: line}
    assert it.steering.unmarked() == (frozenset() if marked else {line})


# -- what the reconciler asks

def test_rules_without_a_tag_are_known_by_what_they_are_also_after_a_reload(made: Make) -> None:
    it = made(settings=replace(TOOLS, tag=None))
    bare = ONE.removesuffix(" tag l4ip")
    for _ in range(2):
        it.start(Saved(rules=frozenset({"rdr of before"})))
        it.answer()
        it.read(bare, STRANGE.removesuffix(" tag l4ip"))
        assert list(it.rules.have) == [bare] and it.rules.want == {bare: None}
        it.apply(resync=9.0)


def test_rules_with_a_tag_of_before_are_ours(made: Make) -> None:
    it = made()
    it.start(Saved(rdr_tags=frozenset({"old"})))
    it.answer()
    it.read(STRANGE.replace("l4ip", "old"), STRANGE.replace("l4ip", "other"))
    assert list(it.rules.have) == [STRANGE.replace("l4ip", "old")]


def test_rules_of_others_that_are_in_the_way_are_told_of_also_after_a_reload(made: Make,
                                                                            caplog: pytest.LogCaptureFixture) -> None:
    it = made()
    it.begin()
    theirs = ONE.replace("10.0.0.1", "10.9.9.9").replace(" tag l4ip", "")
    for _ in range(2):
        caplog.clear()
        it.read(theirs, ONE, TWO)
        assert [line for line in caplog.messages if line.startswith("a rule that is not ours ") and theirs in line]
        it.apply(resync=9.0)


def test_rules_that_somebody_else_has_removed_are_told_of(made: Make, caplog: pytest.LogCaptureFixture) -> None:
    it = made()
    it.begin()
    it.read(TWO)
    assert [event.text for event in it.events if event.kind == "repaired"] == ["1 rules were put back"]
    caplog.clear()
    it.read(TWO, ONE)
    assert not caplog.messages
    it.read(TWO, ONE, STRANGE)
    assert "it is of an earlier configuration, or of another l4ipd with the tag l4ip" in caplog.text


def test_how_long_and_how_often(made: Make) -> None:
    it = made()
    assert (it.rules.timeout, it.rules.resync.least) == (TOOLS.timeout, TOOLS.resync)
    assert it.rules.resync.budget is it.daemon.sensing.rules._budgets["log"], "all tables have one"


# -- planning

def test_states_are_planned_once_a_turn_and_not_while_a_run_is_under_way(made: Make,
                                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()
    it.begin()
    assert it.want() == [ONE, TWO] and it.steering.planned
    touched: list[int] = []
    monkeypatch.setattr(it.rules, "touch", lambda: touched.append(1))
    it.steering.turn()
    assert touched == [], "nothing has changed"
    monkeypatch.setattr(type(it.rules), "busy", property(lambda rules: True))
    it.outcome(BAD, "a")
    assert it.want() == [ONE, TWO] and not it.steering.planned
    monkeypatch.setattr(type(it.rules), "busy", property(lambda rules: False))
    it.steering.turn()
    assert it.want() == [TWO] and it.steering.planned and touched


def test_what_changes_nothing_does_not_hurry_a_tool_that_fails(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    it = made()
    it.begin()
    hurried: list[int] = []
    monkeypatch.setattr(it.rules, "hurry", lambda: hurried.append(1))
    want = it.rules.want
    it.steering.changed("www/http")
    it.steering.changed("gone/http")
    it.rules._dirty = False
    it.steering.turn()
    assert it.rules.want is want and not hurried and it.rules._dirty, "but whether a rule may go is looked at"
    it.apply(www(B, A))
    it.steering.turn()
    assert it.want() == [TWO, ONE] and hurried == [1], "in another order"


def test_is_loaded(made: Make) -> None:
    vips = ("203.0.113.10", "203.0.113.11")
    it = made(replace(www(replace(A, weight=2), B), addresses=vips))
    it.begin()
    other = ONE.replace("113.10", "113.11")
    for have, loaded in (((ONE, other), True), ((ONE,), False), ((other,), False), ((f"{ONE}.2", other), False),
                         ((TWO,), False)):
        it.read(*have)
        assert it.steering.is_loaded(it.member("a")) is loaded, have
    it.read(ONE, other)
    assert not it.steering.is_loaded(it.member("b"))
    it.read(ONE, other, TWO)
    assert not it.steering.is_loaded(it.member("b")), "on one address"
    it.read(ONE, other, TWO, TWO.replace("113.10", "113.11"))
    assert it.steering.is_loaded(it.member("b"))
    it.outcome(BAD, "a")
    assert not it.steering.is_loaded(it.member("a")), "whose rules are to go"
    it.outcome(GOOD, "a")
    it.member("a").weigh(1)
    assert it.steering.is_loaded(it.member("a"))


# -- how a rule goes

def test_how_a_rule_goes(made: Make) -> None:
    it = made()
    it.begin()
    removal = it.steering._removal
    assert removal(ONE) == "drain"
    it.outcome(REFUSED, "a")
    assert removal(ONE) == "purge"
    it.outcome(BAD, "a")                            # it has answered
    assert removal(ONE) == "drain"
    it.daemon.fleet.disable([it.member("b")], now=True)
    assert removal(TWO) == "purge"
    it.daemon.fleet.disable([it.member("b")], now=False)
    assert removal(TWO) == "drain"
    assert removal(STRANGE) == "drain", "all have had an outcome"
    it.steering.stop(True)
    it.outcome(REFUSED, "a")
    assert removal(ONE) == "drain", "at the end nobody is cut off"


def test_a_rule_of_nobody_waits_for_outcomes(made: Make) -> None:
    it = made()
    it.start()
    it.answer()
    it.read(STRANGE)
    assert it.steering._removal(STRANGE) is None
    it.outcome(GOOD, "a")
    assert it.steering._removal(STRANGE) is None
    patience = 2 * it.config.clusters[0].services[0].checks[0].timeout + SPARE
    it.loop.now += patience
    assert it.steering._removal(STRANGE) is None
    other = STRANGE.replace("10.9.9.9", "10.9.9.8")
    it.read(STRANGE, other)
    assert it.steering._removal(other) is None and it.rules.undone == f"a rule is not loaded: {ONE}"
    it.loop.now += 0.1
    assert it.steering._removal(STRANGE) == "drain" and it.rules.undone == f"2 rules are not loaded: {ONE}"
    assert it.steering._removal(other) is None, "each has its time"
    it.read()
    it.read(STRANGE)
    assert it.steering._removal(STRANGE) is None, "it was gone meanwhile"


def test_whose_a_rule_may_be(made: Make) -> None:
    it = made(www(age=60))
    aged = ONE.replace("round-robin", "round-robin age 60/60")
    for line in (aged, ONE, ONE.replace("round-robin", "round-robin age 7/7")):
        assert it.steering._whose(line) == "", "ours, of now or of another age"
    assert it.steering._whose(STRANGE) == "it is of an earlier configuration, or of another l4ipd with the tag l4ip"
    it.apply(www(Member("c", "10.0.0.3"), age=60))
    assert it.steering._whose(ONE) and not it.steering._whose(RULE.format(3)), "after a reload, by that"


def test_ours_is_what_we_have_or_had(made: Make) -> None:
    it = made()
    it.begin()
    copy = "".join(list(ONE))
    assert it.steering._known(copy) is it.steering.lines(it.member("a"))[0], "one copy is enough"
    assert it.steering._known(STRANGE) is None
    it.rules.belief.have[STRANGE] = STRANGE
    assert it.steering._known(STRANGE) == STRANGE
    assert list(it.steering._want()) == [ONE, TWO]


# -- a reload that gives rules to others

def test_a_new_name_is_the_same_member(made: Make) -> None:
    it = made(replace(www(), keep=True))
    it.begin()
    it.member("a").since = since = it.loop.now - 500.0
    it.outcome(BAD, "b")
    it.apply(replace(www(Member("new", "10.0.0.1"), Member("other", "10.0.0.2")), keep=True))
    assert it.member("new").eligible and it.member("new").since == since and it.member("new").changes == 0
    assert it.member("other").seen == "unknown", "who was down is not up by another name"
    it.steering.turn()
    assert it.want() == [ONE]
    it.outcome(BAD, "new")
    assert it.want() == [ONE], "its rules are those that are kept"


@pytest.mark.parametrize("keep", [True, False])
def test_rules_that_are_kept_stay_under_other_names(made: Make, keep: bool) -> None:
    """Of the last one that was up, and of nobody else; it is down as before. So it is under a third name."""
    it = made(replace(www(), keep=True))
    it.begin()
    it.outcome(BAD, "b")
    it.outcome(BAD, "a")
    assert it.want() == [ONE], "with nobody up the last rule stays"
    for first, second in ("new", "other"), ("newer", "another"):
        it.apply(replace(www(Member(first, "10.0.0.1"), Member(second, "10.0.0.2")), keep=keep))
        it.outcome(BAD, first)
        it.outcome(BAD, second)
        assert it.want() == ([ONE] if keep else []) and not it.member(first).eligible
    it.outcome(GOOD, "another")
    assert it.want() == [TWO], "until somebody is up"


def test_who_is_known_already_is_what_it_is(made: Make) -> None:
    """Two members change places."""
    it = made()
    it.begin()
    it.outcome(BAD, "b")
    it.apply(www(replace(A, name="b"), replace(B, name="a")))
    assert not it.member("a").up and it.member("b").eligible


# -- the end, and what is told

@pytest.mark.parametrize("remove", [False, True])
def test_the_end(made: Make, remove: bool) -> None:
    it = made()
    it.begin()
    for name in "a":
        for _ in range(3):
            it.member(name).heard(BAD, it.loop.now, 0.0)
    it.steering.stop(remove)
    assert it.steering.planned is remove and it.rules.hasty is not remove
    assert it.want() == ([] if remove else [ONE, TWO])
    it.steering.changed("www/http")
    it.steering.turn()
    assert it.want() == ([] if remove else [TWO]) and it.steering.planned


def test_that_rules_were_put_back_is_told(made: Make) -> None:
    it = made()
    it.steering._repaired([ONE, TWO])
    assert it.events == [Event("repaired", "", "2 rules were put back", logging.DEBUG)]
