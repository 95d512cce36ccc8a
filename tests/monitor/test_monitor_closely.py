"""A monitor at its edges: as it begins, what it hands on, whom it tells and with what, and the operator."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from l4ipd.checks.verdict import Verdict, local
from l4ipd.model import Endpoint
from l4ipd.monitor import health
from l4ipd.monitor.monitor import Monitor
from support.monitors import BAD, GOOD, LATE, PACE, REFUSED, World

TROUBLE = local("no descriptors")
NAME = "www/http/web1 10.0.0.1:8080"


@pytest.fixture
def world() -> World:
    return World()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records]
    caplog.clear()
    return found


def outcome(world: World, verdict: Verdict) -> None:
    """Of the next probe."""
    world.probes.now = verdict
    world.until_start()
    world.probes.now = None


def test_one_of_which_nothing_is_known(world: World) -> None:
    world.clock.now = world.loop.now = 1234.5
    one = world.monitor()
    assert (one.since, one.took, one.share, one.changes, one.passes, one.verdict) == (1234.5, 0.0, 100, 0, 0, None)
    assert (one.seen, one.trouble, one.tried, one.disabled, one.unconfirmed, one.draining, one.hurried) == (
        "unknown", "", False, False, False, False, False)
    assert one.offered is one.endpoint and not one.up and not one.fit and not one.unproved and not one.stopped
    assert one.health == health.fresh(PACE.rise)


@pytest.mark.parametrize("weight, disabled, withheld", [(1, False, False), (0, False, True), (1, True, True)])
def test_who_gets_connections(world: World, weight: int, disabled: bool, withheld: bool) -> None:
    one = world.monitor()
    one.redefine(replace(one.endpoint, weight=weight))
    if disabled:
        one.disable()
    assert not one.eligible and one.withheld == withheld, "it is not up"
    outcome(world, GOOD)
    assert one.up and one.eligible != withheld and one.fit != disabled
    one.enable()
    assert not one.fit and not one.eligible and not one.disabled, "checked first"
    one.disable()
    assert one.disabled and not one.unconfirmed


def test_every_change_has_its_time_and_is_counted(world: World) -> None:
    one = world.monitor(replace(PACE, rise=1, fall=1))
    for number, verdict in enumerate((GOOD, BAD, GOOD, LATE), 1):
        outcome(world, verdict)
        assert (one.changes, one.since) == (number, world.loop.now)
        outcome(world, verdict)
        assert one.changes == number and one.since < world.loop.now
    one.resume(17.0)
    assert (one.since, one.changes) == (17.0, 0)


def test_the_pace(world: World) -> None:
    one = world.monitor(replace(PACE, fast_interval=3.0, down_interval=1.0))
    outcome(world, GOOD)
    assert one.pace == 10.0
    outcome(world, BAD)
    assert one.pace == 3.0, "in doubt"
    one.take_down(REFUSED)
    assert one.pace == 1.0 and one.hurried, "the faster of both"
    outcome(world, GOOD)
    assert not one.up and one.pace == 1.0
    outcome(world, GOOD)
    assert one.up and one.pace == 10.0 and not one.hurried
    outcome(world, BAD)
    assert one.pace == 3.0, "as ever"


# -- what it hands on

def heir(world: World, old: Monitor, **changes: object) -> Monitor:
    it = world.monitor(replace(PACE, type="http"))
    it.endpoint = replace(it.endpoint, **changes)   # type: ignore[arg-type]
    it.inherit(old)
    return it


def test_an_heir_at_the_same_place(world: World) -> None:
    old = world.monitor()
    outcome(world, GOOD)
    old.weigh(40)
    old.refuse(REFUSED, "a")
    old.enable()
    world.clock.now += 5
    world.run(0.1)
    it = heir(world, old, weight=4)
    assert it.up and it.since == old.since < world.loop.now and it.share == 40 and it.unconfirmed
    assert it.offered == replace(it.endpoint, weight=2) and it.flapping is None
    assert it.refusals is not None and old.refusals is not None and it.refusals.doubt is old.refusals.doubt


@pytest.mark.parametrize("changes", [{"address": "10.0.0.9"}, {"member_port": 81}], ids=str)
def test_an_heir_elsewhere(world: World, changes: dict[str, object]) -> None:
    old = world.monitor()
    outcome(world, GOOD)
    old.weigh(40)
    old.refuse(REFUSED, "a")
    old.disable()
    world.run(5.0)
    it = heir(world, old, **changes)
    assert not it.up and it.since > old.since and it.share == 100 and it.refusals is None
    assert it.disabled and not it.unconfirmed, "the operator meant the name"


def test_what_concerns_no_check_is_taken_over(world: World) -> None:
    one = world.monitor()
    other: Endpoint = replace(one.endpoint, purge="no")
    one.redefine(other)
    assert one.endpoint is other


def test_nothing_is_left_of_one_that_is_stopped(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one = world.monitor()
    outcome(world, TROUBLE)
    one.refuse(REFUSED, "a")
    lines(caplog)
    one.stop()
    assert one.stopped and one.refusals is None and not one.trouble
    assert not lines(caplog), "that was not the end of its trouble"


# -- whom it tells

def test_every_outcome_is_logged_and_told_to_who_wants_it(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one, heard = world.monitor(), []
    world.schedule.log_all()
    world.schedule.listen(lambda each, verdict: heard.append((each, verdict)))
    world.until_start()
    world.clock.now += 1.5
    world.probes.end(GOOD)
    assert lines(caplog) == [f"{NAME}: L4OK connected (1500 ms)"] and one.took == 1.5
    outcome(world, BAD)
    assert heard == [(one, GOOD), (one, BAD)]


def test_what_an_agent_asks_for_is_told_when_it_is_news(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    one, told = world.monitor(), list[Monitor]()
    world.schedule.weighed = told.append
    for share in (100, 40, 40, 0):
        one.weigh(share)
    assert told == [one, one]
    assert lines(caplog) == [f"{NAME}: its agent wants 40 % of its weight, and had 100 %",
                             f"{NAME}: its agent wants 0 % of its weight, and had 40 %"]


def test_trouble_names_the_endpoint(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one = world.monitor()
    outcome(world, TROUBLE)
    outcome(world, TROUBLE)
    assert lines(caplog) == [f"{NAME}: LOCAL no descriptors; its state stays unknown"] and not one.outcomes.failures
    outcome(world, local("no memory"))
    assert lines(caplog) == [f"{NAME}: LOCAL no memory; its state stays unknown"]


def test_an_outcome_that_counts_for_nothing_ends_trouble_all_the_same(world: World,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
    """The gateway has no route, say: only its own trouble is told of, as it is none of the member's."""
    caplog.set_level(logging.INFO)
    one, asked = world.monitor(), []

    def discarded(each: Monitor, verdict: Verdict, began: float) -> bool:
        asked.append((each, verdict, began))
        return True
    world.schedule.discarded = discarded
    outcome(world, TROUBLE)
    assert one.trouble and not asked and world.decided == ["www/http/web1"], "nobody is asked about that"
    lines(caplog)
    outcome(world, BAD)
    assert asked == [(one, BAD, world.probes.starts[-1][0])]
    assert one.seen == "unknown" and one.trouble == "" and not one.outcomes.failures
    assert lines(caplog) == ["the gateway can probe again: no more no descriptors"]


def test_who_could_not_be_connected_to_is_told_of_by_one(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, refused = world.monitor(replace(PACE, rise=1, fall=1, port=8080)), []
    two = Monitor(world.schedule, replace(one.endpoint, service="https"), [], one.checker)
    one.checker.join(two)
    world.schedule.refused = lambda each, verdict: refused.append((each, verdict))
    for verdict, told in ((GOOD, []), (LATE, []), (BAD, [(one, BAD)]), (TROUBLE, []), (BAD, [(one, BAD)])):
        outcome(world, verdict)
        assert refused == told
        refused.clear()
    one.redefine(replace(one.endpoint, member_port=99))     # the probe is of another port than its clients use
    outcome(world, BAD)
    assert refused == [(two, BAD)]
    assert not caplog.records or "internal" not in caplog.text


def test_who_hears_of_that_may_fail(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one = world.monitor(replace(PACE, rise=1, fall=1))

    def fail(each: Monitor, verdict: Verdict) -> None:
        raise RuntimeError("a bug")
    world.schedule.refused = fail
    outcome(world, BAD)
    assert one.seen == "down" and "please report this: what sensing makes of a refusal" in caplog.text


def test_of_a_list_only_a_check_of_its_port_says_that_it_refuses(world: World) -> None:
    one, refused = world.monitor(replace(PACE, port=81), PACE), []
    world.schedule.refused = lambda each, verdict: refused.append(each)
    world.until_start()
    world.probes.end(BAD)
    assert not refused
    world.until_start()
    world.probes.end(GOOD)
    world.probes.end(BAD)
    assert refused == [one]


# -- several that one checker probes

def test_one_asks_for_a_probe_and_another_has_no_wish(world: World) -> None:
    one = world.monitor(replace(PACE, interval=600.0, fast_interval=600.0, down_interval=600.0))
    two = Monitor(world.schedule, replace(one.endpoint, service="https"), [], one.checker)
    one.checker.join(two)
    outcome(world, GOOD)
    one.refuse(REFUSED, "a")
    world.probes.end(GOOD)                          # which makes it doubted
    assert one.refusals is not None and one.refusals.words and two.refusals is None
    world.run(0.5)
    one.checker.probe_anew()
    world.run(0.01)
    assert one.refuse(REFUSED, "b") == "doubted", "while one is in flight that began before"
    before, world.probes.now = len(world.probes.starts), GOOD
    world.probes.end(GOOD)
    world.run(2.5)
    assert len(world.probes.starts) == before + 1 and not world.loop.errors.total
