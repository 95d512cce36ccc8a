"""What a refused client does to an endpoint: a probe decides. On a clock that only the test moves."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.checks.verdict import Verdict, local
from l4ipd.monitor import doubt, refusals
from l4ipd.monitor.doubt import Doubt
from l4ipd.monitor.monitor import Monitor
from l4ipd.report import status
from support.monitors import BAD, GOOD, LATE, REFUSED, SLOW, Site


@pytest.fixture
def site() -> Iterator[Site]:
    yield Site()


def words(monitor: Monitor) -> str:
    return monitor.refusals.words if monitor.refusals is not None else ""


# -- a refusal that is believed

def test_a_probe_is_due_at_once_and_confirms_it(site: Site) -> None:
    one = site.members[0]
    assert one.refuse(REFUSED, "a") == "used"
    site.run(0.01)
    assert len(site.probes.flying) == 1 and one.up
    site.probes.end(BAD)
    assert not one.up and one.verdict == BAD and not one.unproved
    assert site.changes == [("up", "down")]
    assert not words(one)


def test_a_probe_that_is_over_at_once(site: Site) -> None:
    """As on a loopback address, where who refuses does so within connect(2)."""
    one, two = site.members
    site.probes.now = BAD
    one.refuse(REFUSED, "a")
    assert not one.up and one.verdict == BAD, "without a turn of the loop"
    site.probes.now = GOOD
    two.refuse(REFUSED, "a")
    assert two.up and words(two)
    site.run(1.0)
    assert two.up and site.schedule.flying == 0 and len(site.changes) == 1


def test_a_probe_that_has_to_wait_for_a_place(site: Site) -> None:
    one = site.members[0]
    site.schedule.limit = 0
    one.refuse(REFUSED, "a")
    site.run(1.0)
    assert not one.up and one.unproved and one.checker.queued
    site.schedule.limit = 10
    site.probes.now = GOOD
    site.schedule.relieve()
    assert one.up and not one.checker.queued and site.schedule.flying == 0


@pytest.mark.parametrize("verdict", [BAD, LATE, Verdict("L7STS", "503 Service Unavailable")], ids=str)
def test_any_failure_confirms_it_whatever_fall_says(site: Site, verdict: Verdict) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    site.run(0.01)
    site.probes.end(verdict)
    assert not one.up and one.outcomes.streak < 0


def test_one_that_is_contradicted_at_once_changes_nothing(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    site.run(0.01)
    site.probes.end(GOOD)
    assert one.up and not site.changes and one.changes == 1
    assert [record.getMessage() for record in caplog.records] == [
        "www/http/web1 10.0.0.1:8080: its resets are not believed for 1 s: 1 were contradicted by probes"]
    assert words(one) == "its resets are not believed for 1 s: 1 were contradicted by probes"
    assert status.verdict(one) == f"L4OK connected; {words(one)}"
    site.run(1.1)
    assert not words(one) and status.verdict(one) == "L4OK connected"


def test_while_the_probe_takes_its_time_it_is_out_and_one_pass_brings_it_back(site: Site) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    site.run(refusals.MOMENT + 0.01)
    assert not one.up and one.unproved and site.changes == [("up", "down")]
    assert one.verdict == REFUSED
    site.run(1.0)
    site.probes.end(GOOD)
    assert one.up and not one.unproved, "one pass, where rise is 2"
    assert site.changes[1:] == [("down", "up")]
    assert words(one)
    site.probes.now = BAD
    one.checker.probe_anew()
    site.run(0.1)
    assert one.up, "up beyond doubt: fall is 3"


def test_who_was_out_and_fails_comes_back_by_rise(site: Site) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    site.run(0.5)
    site.probes.end(BAD)
    assert not one.up and not one.unproved and len(site.changes) == 1 and not words(one)
    one.checker.probe_anew()
    site.run(0.01)
    site.probes.end(GOOD)
    assert not one.up
    one.checker.probe_anew()
    site.run(0.01)
    site.probes.end(GOOD)
    assert one.up


def test_a_probe_that_began_before_is_asked_again(site: Site) -> None:
    one = site.members[0]
    one.probe_soon()
    site.run(0.01)
    one.refuse(REFUSED, "a")
    site.run(0.01)
    assert site.probes.cancelled == 1 and len(site.probes.flying) == 1 and site.schedule.flying == 1


def test_refusals_while_it_is_decided_begin_nothing(site: Site) -> None:
    one = site.members[0]
    assert [one.refuse(REFUSED, str(number)) for number in range(1000)] == ["used"] + ["haste"] * 999
    site.run(0.01)
    assert [one.refuse(REFUSED, str(number)) for number in range(1000)] == ["haste"] * 1000
    assert site.probes.cancelled == 0 and len(site.probes.starts) == 1


def test_our_own_trouble_decides_nothing(site: Site) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    site.run(0.01)
    site.probes.end(local("no descriptors"))
    assert one.up
    site.run(0.2)
    assert not one.up and one.unproved
    assert len(site.probes.flying) == 1, "it is asked again at once"
    site.probes.end(GOOD)
    assert one.up


def test_with_trouble_of_ours_nobody_could_decide(site: Site) -> None:
    one = site.members[0]
    one.probe_soon()
    site.run(0.01)
    site.probes.end(local("no such program"))
    assert one.refuse(REFUSED, "a") == "used"
    site.run(1.0)
    assert one.up and len(site.probes.flying) == 1
    site.probes.end(local("no such program"))
    assert one.up


# -- the last one

def test_a_refusal_alone_never_takes_out_the_last_one(site: Site) -> None:
    one, two = site.members
    one.refuse(REFUSED, "a")
    two.refuse(REFUSED, "b")
    site.run(1.0)
    assert [one.up, two.up].count(True) == 1
    while site.probes.flying:
        site.probes.end(GOOD)
    assert one.up and two.up


def test_but_a_probe_that_confirms_it_does(site: Site) -> None:
    one, two = site.members
    two.disable()
    one.refuse(REFUSED, "a")
    site.run(1.0)
    assert one.up
    assert [one.refuse(REFUSED, "b") for _ in range(100)] == ["haste"] * 100
    assert site.probes.cancelled == 0
    site.probes.end(BAD)
    assert not one.up


def test_who_is_disabled_meanwhile_is_not_taken_out(site: Site) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    one.disable()
    site.run(1.0)
    assert one.up and not site.changes


# -- refusals that are not believed

def doubted(site: Site) -> Monitor:
    """One whose refusals are not believed for 300 s, and are those of the clients 0 to 8."""
    one = site.members[0]
    site.probes.now = GOOD
    for number in range(9):
        one.refuse(REFUSED, str(number))
        site.run(0.1)
        assert one.refusals is not None
        if number < 8:
            site.run(one.refusals.doubt.hold.until - site.clock.now + 0.01)
    assert one.up and words(one).startswith("its resets are not believed for 256 s: 9 ")
    site.probes.now = None
    site.probes.starts.clear()
    return one


def test_in_doubt_they_hasten_probes_and_no_more(site: Site) -> None:
    one = doubted(site)
    for number in range(100):
        assert one.refuse(REFUSED, f"new{number}") == "doubted"
        site.run(0.1)
        if site.probes.flying:
            site.probes.end(GOOD)
    assert one.up and not site.changes
    assert 9 <= len(site.probes.starts) <= 11, "one a second"


def test_in_doubt_a_probe_that_is_refused_confirms_it(site: Site) -> None:
    one = doubted(site)
    one.refuse(REFUSED, "new")
    site.run(0.01)
    site.probes.end(BAD)
    assert not one.up and site.changes == [("up", "down")] and one.outcomes.streak == -2
    assert not words(one), "it told the truth"


def test_in_doubt_other_failures_count_as_ever(site: Site) -> None:
    one = doubted(site)
    one.refuse(REFUSED, "new")
    site.run(0.01)
    site.probes.end(LATE)
    assert one.up and one.outcomes.streak == -1


def test_a_banned_client_does_not_use_up_the_probes_of_others(site: Site) -> None:
    """The service dies just after a probe that a banned client has brought about."""
    one = doubted(site)
    site.run(1.0)
    one.refuse(REFUSED, "3")
    site.run(0.01)
    site.probes.end(GOOD)
    one.refuse(REFUSED, "new")
    site.run(0.01)
    site.probes.end(BAD)
    assert not one.up


def test_even_a_banned_client_tells_the_truth_sometimes(site: Site) -> None:
    """All clients may come from one address."""
    one = doubted(site)
    one.refuse(REFUSED, "3")
    site.run(1.0)
    site.probes.end(BAD)
    assert not one.up


def test_a_banned_client_does_not_hide_another(site: Site) -> None:
    one = doubted(site)
    one.refuse(REFUSED, "new")
    site.run(0.01)
    one.refuse(REFUSED, "newer")
    one.refuse(REFUSED, "3")
    site.probes.end(GOOD)
    site.run(refusals.APART)
    assert len(site.probes.starts) == 2
    site.probes.end(GOOD)
    assert one.refusals is not None
    assert "newer" in one.refusals.doubt.clients and "new" not in one.refusals.doubt.clients


def test_whoever_is_refused_and_however_often_two_probes_a_second_at_most(site: Site) -> None:
    one = doubted(site)
    for number in range(1000):
        one.refuse(REFUSED, f"new{number}")
        one.refuse(REFUSED, "3")
        one.probe_soon()
        site.run(0.01)
        if site.probes.flying and number % 3 == 0:  # some in flight while others are refused
            site.probes.end(GOOD)
    assert 9 <= len(site.probes.starts) <= 21
    assert one.up and not site.changes


def test_a_quiet_time_makes_it_believed_again(site: Site) -> None:
    one = doubted(site)
    site.probes.now = GOOD
    site.run(300 + doubt.QUIET)
    one.refuse(REFUSED, "a")
    site.run(0.1)
    assert words(one) == "its resets are not believed for 1 s: 1 were contradicted by probes"


def test_a_refusal_that_came_too_late_for_a_probe_gets_one_of_its_own(site: Site) -> None:
    one = doubted(site)
    one.refuse(REFUSED, "new")
    site.run(0.01)
    one.refuse(REFUSED, "newer")                    # the probe was on its way
    site.probes.end(GOOD)
    site.run(refusals.APART)
    assert len(site.probes.starts) == 2
    site.probes.end(BAD)
    assert not one.up


def test_nothing_is_left_when_it_is_stopped(site: Site) -> None:
    one = site.members[0]
    one.refuse(REFUSED, "a")
    one.stop()
    site.run(1.0)
    assert one.up and not site.changes and not site.probes.flying and site.schedule.flying == 0


def test_a_new_check_keeps_the_doubt_and_nothing_that_waits(site: Site) -> None:
    one = doubted(site)
    one.refuse(REFUSED, "new")
    other = site.monitor(replace(SLOW, rise=1), name="web1")
    other.inherit(one)
    before = words(one)
    one.stop()
    assert before and words(other) == before
    assert other.refusals is not None and other.refusals.open is None


# -- doubt

def contradicted(it: Doubt, now: float) -> float:
    it.heard(now)
    return it.grow(now)


def test_doubt_grows_by_doubling_and_has_a_bound() -> None:
    it, now, seen = Doubt(), 0.0, []
    for _ in range(12):
        seen.append(contradicted(it, now))
        now = it.hold.until
    assert seen == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]


def test_a_quiet_time_forgets() -> None:
    it = Doubt()
    assert [contradicted(it, now) for now in (0.0, 10.0, 20.0)] == [1.0, 2.0, 4.0]
    it.contradicts("a")
    assert contradicted(it, 24.0 + doubt.QUIET - 1) == 8.0 and it.clients
    it.heard(24.0 + 2 * doubt.QUIET + 8)
    assert it.hold.count == 0 and not it.clients


def test_every_refusal_puts_off_forgetting() -> None:
    it = Doubt()
    contradicted(it, 0.0)
    for number in range(1, 10):
        it.heard(number * doubt.QUIET)
        assert it.hold.count == 1
    it.heard(10 * doubt.QUIET + 0.1)
    assert it.hold.count == 0


def test_what_is_true_restores_belief() -> None:
    it = Doubt()
    for now in (0.0, 10.0):
        contradicted(it, now)
    it.confirmed()
    assert it.hold.until < 10.0 and contradicted(it, 20.0) == 1.0


@given(st.lists(st.integers(0, 300), max_size=400))
def test_few_clients_are_remembered(clients: list[int]) -> None:
    it = Doubt()
    for client in clients:
        it.contradicts(str(client))
    last = list(dict.fromkeys(map(str, reversed(clients))))[:doubt.CLIENTS]
    assert list(it.clients) == last[::-1]


def test_the_line_as_the_manual_has_it(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    doubted(site)
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(said) == 9
    assert all(re.fullmatch(r"www/http/web1 10\.0\.0\.1:8080: its resets are not believed for \d+ s: \d were "
                            r"contradicted by probes", line) for line in said)
