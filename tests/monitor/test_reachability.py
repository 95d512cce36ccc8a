"""When the gateway is blind, and when it sees again: rules of thumb on a table of routes that the test changes."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest

from l4ipd.checks.verdict import Verdict
from l4ipd.monitor.reachability import LOOK, SLICE, Reachability
from l4ipd.runtime.loop import Loop
from support.loops import Clock, Sleeper

NO_ROUTE, LATE, REFUSED = (Verdict("L4CON", "no route to the member"), Verdict("L4TOUT", "no answer"),
                           Verdict("L4CON", "connection refused"))
GOOD = Verdict("L4OK", "connected")


class Country:
    """Members that have a route, and those that have none."""

    def __init__(self, members: Iterable[str] = ("a", "b", "c")) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleeper(self.clock))
        self.members = list(members)
        self.routes = set(self.members)
        self.hidden: set[str] = set()               # what only a datagram finds out (FreeBSD)
        self.asked: list[str] = []
        self.told: list[str] = []
        self.lines: list[tuple[str, int]] = []      # texts and levels of what was told
        self.sent: list[str] = []                   # asked about by a datagram
        self.reachability = Reachability(self.loop, lambda: self.members, self.tell, self.leads)

    def tell(self, kind: str, text: str, level: int) -> None:
        self.told.append(kind)
        self.lines.append((text, level))

    def leads(self, address: str, send: bool) -> bool:
        self.asked.append(address)
        self.sent += [address] * send
        return address in self.routes and not (send and address in self.hidden)

    def outcome(self, address: str, verdict: Verdict = NO_ROUTE, took: float = 0.0) -> bool:
        """Whether it counts."""
        return not self.reachability.discards(address, verdict, self.loop.now - took)

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        self.loop.later(seconds, lambda: None)
        while self.clock.now < end:
            self.loop.turn()


@pytest.fixture
def country() -> Country:
    return Country()


def test_one_without_a_route_counts(country: Country) -> None:
    country.routes.discard("a")
    assert country.outcome("a") and not country.told


@pytest.mark.parametrize("verdict", [NO_ROUTE, LATE, Verdict("L4CON", "port 8081: no route to the member"),
                                     Verdict("PROCERR", "exit status 7"), Verdict("L7TOUT", ""),
                                     Verdict("PROCTOUT", "")])
def test_none_with_a_route_is_blindness_at_the_first_failure(country: Country, verdict: Verdict) -> None:
    country.routes.clear()
    assert not country.outcome("a", verdict)
    assert country.told == ["blind"] and country.reachability.blind
    assert not country.outcome("b", GOOD) and not country.outcome("c") and country.told == ["blind"]


@pytest.mark.parametrize("verdict", [GOOD, REFUSED, Verdict("L7STS", "503"), Verdict("RST", "connection refused")])
def test_who_was_met_is_no_question_of_routes(country: Country, verdict: Verdict) -> None:
    country.routes.clear()
    assert country.outcome("a", verdict) and not country.told and not country.asked


def test_sighted_by_an_outcome_which_counts_if_it_began_after_that(country: Country) -> None:
    country.routes.clear()
    country.outcome("a")
    country.run(LOOK / 4)
    country.routes.add("b")
    assert not country.outcome("a") and country.told == ["blind"]
    assert country.outcome("b", GOOD, 0.01) and country.told == ["blind", "sighted"]
    country.run(1)
    assert not country.outcome("a", LATE, 1.5), "it began in the dark"
    assert country.outcome("a", LATE, 0.5) and country.told == ["blind", "sighted"]


def test_sighted_without_any_outcome(country: Country) -> None:
    country.routes.clear()
    country.outcome("a")
    country.run(20 * LOOK)
    assert country.told == ["blind"]
    country.routes.add("c")
    country.run(2 * LOOK)
    assert country.told == ["blind", "sighted"] and not country.reachability.blind
    assert country.lines[1][0].startswith("the gateway sees again: a route to c, after ")
    asked = len(country.asked)
    assert asked <= 3 * 23, "at the outcome, and at each look"
    assert not country.loop.errors.total
    country.run(20 * LOOK)
    assert len(country.asked) == asked, "and looks no more"


def test_sighted_when_there_is_nobody_left(country: Country) -> None:
    country.routes.clear()
    country.outcome("a")
    country.members.clear()
    country.run(2 * LOOK)
    assert country.told == ["blind", "sighted"]


def test_thousands_are_asked_about_only_once_and_then_some_at_a_time() -> None:
    country = Country(f"m{number}" for number in range(4 * SLICE))
    for number in range(100):                       # in one turn
        assert country.outcome(f"m{number}")
    assert country.asked == ["m0"]
    for _ in range(10):
        country.run(0.01)
        assert country.outcome("m1")
    assert country.asked == ["m0"] * 11, "who had a route is asked about first"
    country.routes.clear()
    country.run(0.01)
    assert not country.outcome("m1")
    assert len(country.asked) <= 11 + 4 * SLICE + 2
    country.asked.clear()
    country.run(1.5 * LOOK)
    assert len(country.asked) == SLICE
    country.routes.add(f"m{4 * SLICE - 1}")
    country.run(5 * LOOK)
    assert country.told == ["blind", "sighted"]


def test_a_datagram_is_sent_only_where_a_probe_found_no_way(country: Country) -> None:
    """FreeBSD's connect does not see that the interface has lost its carrier."""
    country.hidden = set(country.members)
    assert country.outcome("a", LATE) and not country.told
    country.run(0.01)
    assert not country.outcome("a", NO_ROUTE) and country.told == ["blind"]
    country.run(10 * LOOK)
    assert country.told == ["blind"]
    country.hidden.discard("b")
    country.run(2 * LOOK)
    assert country.told == ["blind", "sighted"]


def test_stopped(country: Country) -> None:
    country.routes.clear()
    country.outcome("a")
    country.reachability.stop()
    country.routes.add("a")
    country.run(10 * LOOK)
    assert country.told == ["blind"]


# -- at the edges

def test_what_is_told(country: Country) -> None:
    country.members += ["a", "b"]                   # two services
    country.routes.clear()
    country.outcome("a")
    country.clock.now = country.loop.now = country.loop.now + 12.0
    country.routes.add("b")
    country.outcome("b", GOOD)
    assert country.lines == [
        ("the gateway is blind: no route to any of its 3 members; states, rules and sessions stay as they are",
         logging.ERROR),
        ("the gateway sees again: a route to b, after 12 s in which no probe counted", logging.INFO)]
    country.run(0.01)
    country.routes.clear()
    country.outcome("a")
    country.members.clear()
    country.run(LOOK + 0.1)
    assert country.lines[3] == (
        "the gateway sees again: a route to its members, after 1 s in which no probe counted", logging.INFO)


def test_an_outcome_that_began_as_the_gateway_saw_again_does_not_count(country: Country) -> None:
    country.routes.clear()
    country.outcome("a")
    country.routes.add("b")
    assert country.outcome("b", GOOD)
    seen = country.loop.now
    assert not country.outcome("a", REFUSED), "it began at that moment"
    country.clock.now = country.loop.now = seen + 1.0
    assert not country.outcome("a", REFUSED, 1.0) and country.outcome("a", REFUSED, 0.9)
    assert country.outcome("a", GOOD, 5.0), "what passes has seen the member"


def test_while_blind_a_datagram_finds_out(country: Country) -> None:
    country.routes.clear()
    country.outcome("a")
    country.routes.add("b")
    country.hidden.add("b")
    assert not country.outcome("b", GOOD) and country.sent[-1] == "b"
    country.hidden.clear()
    assert country.outcome("b", GOOD)


def test_who_had_a_route_is_asked_about_first_and_nobody_else_at_a_start(country: Country) -> None:
    country.outcome("b", LATE)
    assert country.asked == ["b"]
    country.run(0.01)
    country.outcome("a", LATE)
    assert country.asked == ["b", "b"]
    country.run(0.01)
    country.routes.clear()
    country.asked.clear()
    country.outcome("a", LATE)
    assert country.asked == ["b", "a", "a", "b", "c"]
    country.routes.add("c")
    country.outcome("c", GOOD)
    country.asked.clear()
    country.run(0.01)
    country.outcome("a", LATE)
    assert country.asked == ["c"]


def test_looks_go_round_and_begin_with_the_first() -> None:
    country = Country(f"m{number}" for number in range(2 * SLICE))
    country.routes.clear()
    country.outcome("m5")
    for begin in (0, SLICE, 0, SLICE):
        country.asked.clear()
        country.run(LOOK)
        country.run(0.01)
        assert country.asked == [f"m{number}" for number in range(begin, begin + SLICE)]
    country.run(LOOK * 0.4)
    country.routes.add("m7")
    country.outcome("m7", GOOD)
    country.run(1.0)
    country.routes.clear()
    country.outcome("m5")
    country.asked.clear()
    country.run(LOOK + 0.01)
    assert country.asked[0] == "m0", "the next time from the first one on"


def test_a_look_that_raises_is_followed_by_the_next(country: Country) -> None:
    country.routes.clear()
    country.outcome("a")
    addresses = country.reachability.addresses

    def fail() -> list[str]:
        raise RuntimeError("a bug")
    country.reachability.addresses = fail
    country.run(3.5 * LOOK)
    assert country.loop.errors.total == 3, "and not sooner"
    country.reachability.addresses = addresses
    country.routes.add("a")
    country.run(LOOK)
    assert country.told == ["blind", "sighted"]
    country.reachability.raised()
    country.asked.clear()
    country.run(3 * LOOK)
    assert not country.asked, "not blind: nothing to look for"
