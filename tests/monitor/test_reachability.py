"""When the gateway is blind, and when it sees again: rules of thumb on a table of routes that the test changes."""

from __future__ import annotations

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
        self.reachability = Reachability(self.loop, lambda: self.members,
                                         lambda kind, text, level: self.told.append(kind), self.leads)

    def leads(self, address: str, send: bool) -> bool:
        self.asked.append(address)
        return address in self.routes and not (send and address in self.hidden)

    def outcome(self, address: str, verdict: Verdict = NO_ROUTE, took: float = 0.0) -> bool:
        """Whether it counts."""
        return not self.reachability.spoils(address, verdict, self.loop.now - took)

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
    asked = len(country.asked)
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
