"""Refusals at the edges: at the very moment, with trouble of ours, in what order, and when something raises."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import pytest

from l4ipd.checks.verdict import Verdict, local
from l4ipd.monitor import refusals
from l4ipd.monitor.monitor import Monitor
from support.monitors import BAD, GOOD, LATE, REFUSED, SLOW, Site

TROUBLE = local("no descriptors")


@pytest.fixture
def site() -> Iterator[Site]:
    yield Site()


def doubted(site: Site, client: str = "a") -> Monitor:
    """One that is not believed for a second from now, since this client was contradicted."""
    one = site.members[0]
    assert one.refuse(REFUSED, client) == "used"
    site.run(0.01)
    site.probes.end(GOOD)
    assert one.refusals is not None and one.refusals.words and client in one.refusals.doubt.clients
    site.probes.starts.clear()
    return one


def troubled(site: Site) -> Monitor:
    """One whose last probe could not be run, and whose next one is far away."""
    one = site.members[0]
    one.probe_soon()
    site.run(0.01)
    site.probes.end(TROUBLE)
    site.probes.starts.clear()
    return one


def test_it_is_believed_again_at_the_very_moment(site: Site) -> None:
    one = doubted(site)
    until = site.loop.now + 1.0
    site.loop.now = math.nextafter(until, 0.0)
    assert one.refuse(REFUSED, "b") == "doubted"
    assert one.refusals is not None and one.refusals.words == (
        "its resets are not believed for 1 s: 1 were contradicted by probes")
    site.loop.now = until
    assert one.refusals.words == ""
    assert one.refuse(REFUSED, "b") == "used"


def test_what_is_charged_is_not_out_yet(site: Site) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    assert one.up and not one.unproved
    site.run(0.01)
    assert one.up and not one.unproved


# -- with trouble of ours

def test_the_clients_are_told_apart(site: Site) -> None:
    one = troubled(site)
    assert one.refuse(REFUSED, "a") == "used"
    assert one.refuse(REFUSED, "b") == "haste", "one a second"
    site.run(0.01)
    site.probes.end(GOOD)
    assert one.refusals is not None and "b" in one.refusals.doubt.clients and one.up
    assert not one.refusals.words, "it was not believed, so it costs nothing"


def test_a_refused_probe_confirms_it_all_the_same(site: Site) -> None:
    one = troubled(site)
    one.refuse(REFUSED, "a")
    site.run(0.01)
    site.probes.end(BAD)
    assert not one.up and site.changes == [("up", "down")]


def test_a_banned_client_only_hastens(site: Site) -> None:
    one = doubted(site)
    site.run(2.0)
    one.probe_soon()
    site.run(0.01)
    site.probes.end(TROUBLE)
    assert one.refuse(REFUSED, "a") == "haste"


def test_the_last_one_is_not_asked_again_before_its_turn(site: Site) -> None:
    """It is believed, and stays: the probe that was to judge could not be run."""
    one, two = site.members
    two.disable()
    one.refuse(REFUSED, "a")
    site.run(0.01)
    site.probes.starts.clear()
    site.probes.end(TROUBLE)
    site.run(5.0)
    assert one.up and not site.probes.starts


# -- which probe judges

def test_a_banned_client_gets_no_probe_of_its_own(site: Site) -> None:
    """It is refused while a probe is on its way that began before."""
    one = doubted(site)
    site.run(0.5)
    one.checker.probe_anew()
    site.run(0.01)
    assert one.refuse(REFUSED, "a") == "doubted"
    site.probes.starts.clear()
    site.probes.end(GOOD)
    site.run(5.0)
    assert not site.probes.starts


def test_another_client_does_and_not_in_the_past(site: Site) -> None:
    one = doubted(site)
    site.run(0.5)
    one.checker.probe_anew()
    site.run(0.01)
    assert one.refuse(REFUSED, "b") == "doubted"
    assert one.refusals is not None
    assert one.refusals.due(math.inf) > site.loop.now
    assert one.refusals.due(math.inf) == pytest.approx(site.loop.now + refusals.APART, abs=0.01), "and one a second"


def test_a_pass_of_before_brings_nobody_back(site: Site) -> None:
    """Of a member that is down, and doubted: it comes up by rise."""
    one = doubted(site)
    site.probes.now = BAD
    while one.up:
        one.checker.probe_anew()
    site.probes.now = None
    one.checker.probe_anew()
    site.run(0.01)
    assert one.refuse(REFUSED, "b") == "doubted"
    site.probes.end(GOOD)
    assert not one.up and one.refusals is not None and one.refusals.open == REFUSED


def test_the_gateway_that_reaches_nobody_takes_out_nobody(site: Site) -> None:
    one, asked = site.members[0], []

    def discarded(each: Monitor, verdict: Verdict, began: float) -> bool:
        asked.append((each, verdict, began))
        return len(asked) > 1
    site.schedule.discarded = discarded
    assert one.refuse(REFUSED, "a") == "used"
    assert asked == [(one, REFUSED, site.loop.now)]
    site.run(1.0)
    assert one.up and not site.changes and [each[:2] for each in asked] == [(one, REFUSED)] * 2
    assert asked[1][2] == pytest.approx(asked[0][2] + refusals.MOMENT, abs=0.01)
    assert one.refuse(REFUSED, "b") == "haste"


def test_without_a_route_a_refusal_says_nothing(site: Site) -> None:
    site.schedule.discarded = lambda each, verdict, began: True
    one = site.members[0]
    assert one.refuse(REFUSED, "a") == "haste"
    assert one.refusals is None and not site.probes.starts


# -- when something raises

def raising(site: Site) -> Monitor:
    """One that is out, and whoever was to be told of that has failed: its probe is under way."""
    changed = site.schedule.changed

    def fail(each: Monitor, was: str) -> None:
        site.schedule.changed = changed
        raise RuntimeError("a bug")
    one = site.members[0]
    site.schedule.changed = fail
    one.refuse(REFUSED, "a")
    site.run(1.0)
    assert site.loop.errors.total == 1 and not one.up and len(site.probes.flying) == 1
    return one


def test_the_probe_that_is_under_way_judges(site: Site) -> None:
    one = raising(site)
    site.probes.end(GOOD)
    assert one.up and one.refusals is not None and not one.refusals.words, "nobody was charged any more"


def test_and_a_late_answer_is_a_failure_as_ever(site: Site) -> None:
    one = raising(site)
    site.probes.end(LATE)
    assert not one.up and one.verdict == LATE
    assert one.refusals is not None and one.refusals.open == REFUSED, "that was no confirmation"


# -- down at once

def test_one_pass_brings_nobody_up_who_was_taken_down(site: Site) -> None:
    for number, rise in enumerate((1, 2, 3)):
        one = site.monitor(replace(SLOW, rise=rise), name=f"other{number}")
        site.probes.now = GOOD
        while not one.up:
            one.checker.probe_anew()
        one.take_down(REFUSED)
        assert not one.up and one.took == 0.0 and one.verdict == REFUSED
        for passes in range(1, rise + 1):
            one.checker.probe_anew()
            assert one.up == (passes == rise)
