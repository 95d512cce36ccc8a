"""The edges of doubt: what it begins with, whom it remembers, and when all is forgotten."""

from __future__ import annotations

import pytest

from l4ipd.monitor.doubt import CLIENTS, QUIET, Doubt


@pytest.mark.parametrize("now", [0.0, 1e-9, 1e9])
def test_the_first_contradiction_costs_a_second_whenever_it_comes(now: float) -> None:
    it = Doubt()
    assert not it.clients
    assert it.grow(now) == 1.0


def test_as_many_clients_are_remembered_as_there_is_room_for_and_the_oldest_goes_first() -> None:
    it = Doubt()
    names = [str(number) for number in range(CLIENTS + 1)]
    for name in names[:CLIENTS]:
        it.contradicts(name)
    assert list(it.clients) == names[:CLIENTS], "all of them"
    it.contradicts(names[0])                        # again: it is the youngest now
    it.contradicts(names[CLIENTS])
    assert list(it.clients) == [*names[2:CLIENTS], names[0], names[CLIENTS]]


@pytest.mark.parametrize(("quiet", "next_one"), [(QUIET, 2.0), (QUIET + 0.5, 1.0)])
def test_a_quiet_time_is_counted_from_when_belief_came_back(quiet: float, next_one: float) -> None:
    it = Doubt()
    it.heard(0.0)
    it.grow(0.0)                                    # until 1.0
    it.contradicts("a")
    it.heard(1.0 + quiet)
    assert bool(it.clients) == (next_one > 1.0)
    assert it.grow(1.0 + quiet) == next_one


def test_thousands_of_contradictions_are_no_more_than_the_longest() -> None:
    it = Doubt()
    assert [it.grow(0.0) for _ in range(5000)][-1] == 300.0


def test_one_that_is_confirmed_clears_the_clients() -> None:
    it = Doubt()
    it.contradicts("a")
    it.grow(0.0)
    it.confirmed()
    assert not it.clients and it.grow(0.0) == 1.0
