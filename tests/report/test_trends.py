"""What the status page remembers: an hour of latency, a day of states, and how much of the time a service was there."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.report import trends
from l4ipd.report.trends import DOWN, MINUTES, OFF, QUARTERS, UNKNOWN, UP, Trends
from l4ipd.web import graphs
from support.balancer import BAD, GOOD, balancer, cluster, feed, settle, web

NAME = "www/http/web1"


def took(daemon: Daemon, milliseconds: float) -> None:
    daemon.fleet.monitors[NAME].took = milliseconds / 1000


def test_the_last_hour_is_kept_and_nothing_before() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        it = Trends(daemon.loop, daemon)
        assert it.latency(NAME) == [None] * MINUTES
        feed(daemon, NAME, GOOD)
        for minute in range(MINUTES + 10):
            took(daemon, minute)
            it.look()
        seen = it.latency(NAME)
        assert [value is not None for value in seen] == [True] * MINUTES
        assert seen == [pytest.approx(minute, rel=0.05) for minute in range(10, MINUTES + 10)]
        feed(daemon, NAME, BAD)
        it.look()
        assert it.latency(NAME)[-1] is None, "what failed took no time that means anything"


def test_the_worst_of_each_quarter_is_kept_for_a_day() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        it = Trends(daemon.loop, daemon)
        it.start()
        it.look()
        assert it.states(NAME) == [UNKNOWN] * QUARTERS
        for quarter in range(4):
            feed(daemon, NAME, *[GOOD] * 2)
            if quarter == 1:                        # shorter than a minute: only the event tells
                feed(daemon, NAME, *[BAD] * 3)
                it.heard(Event("down", NAME, ""))
                feed(daemon, NAME, *[GOOD] * 2)
            daemon.fleet.monitors[NAME].disabled = quarter == 2
            for _ in range(14 if quarter == 0 else 15):
                it.look()
        assert it.states(NAME)[-5:] == [UP, DOWN, OFF, UP, UNKNOWN]
        for _ in range(15 * QUARTERS):
            it.look()
        assert it.states(NAME) == [UP] * (QUARTERS - 1) + [UNKNOWN]


def test_one_that_is_held_is_down_whatever_its_probes_say() -> None:
    with balancer(cluster("www", *web(2))) as daemon:
        feed(daemon, NAME, *[GOOD] * 2)
        monitor = daemon.fleet.monitors[NAME]
        assert trends.state(monitor) == UP
        monitor.hold(1, daemon.loop.now + 30.0, True)
        assert monitor.up and trends.state(monitor) == DOWN


def test_how_much_of_the_time_a_service_was_available() -> None:
    with balancer(cluster("www", *web(2))) as daemon:
        it = Trends(daemon.loop, daemon)
        assert it.availability("www/http") is None, "nothing is known yet"
        feed(daemon, NAME, GOOD)
        known = it.availability("www/http")
        assert known is not None and known.share == 1.0
        begin = known.last
        known.count(begin + 30.0, True)
        feed(daemon, NAME, *[BAD] * 3)
        known.count(begin + 60.0, False)            # it was there until this moment
        known.count(begin + 80.0, False)
        assert (known.known, known.available) == (80.0, 60.0) and known.share == 0.75


def test_who_is_gone_is_forgotten() -> None:
    with balancer(cluster("www", *web(1)), cluster("mail", *web(1))) as daemon:
        it = Trends(daemon.loop, daemon)
        for name in (NAME, "mail/http/web1"):
            feed(daemon, name, GOOD)
        it.look()
        assert it.states("mail/http/web1")[-1] == UP and it.availability("mail/http")
        del daemon.fleet.monitors["mail/http/web1"], daemon.fleet.groups["mail/http"]
        it.look()
        assert it.states("mail/http/web1") == [UNKNOWN] * QUARTERS and it.availability("mail/http") is None
        assert it.states(NAME)[-1] == UP


def test_many_are_looked_at_in_bunches(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the loop, and nobody is left out."""
    monkeypatch.setattr(trends, "FIRST", 0.0)
    with balancer(*(cluster(f"c{number}", *web(150)) for number in range(8))) as daemon:
        for name in daemon.fleet.monitors:
            feed(daemon, name, GOOD)
        settle(daemon)
        it = Trends(daemon.loop, daemon)
        it.start()
        turns = 0
        while not it.looks:
            daemon.loop.turn()
            turns += 1
            assert turns < 10_000
        assert turns >= 3 and all(it.states(name)[-1] == UP for name in daemon.fleet.monitors)


@given(st.floats(0, 10))
def test_a_byte_holds_a_duration(seconds: float) -> None:
    byte = trends.step(seconds)
    assert 1 <= byte <= 255
    assert trends.milliseconds(byte) == pytest.approx(seconds * 1000, rel=0.05, abs=0.05)


@given(st.lists(st.none() | st.floats(0, 10_000), min_size=MINUTES, max_size=MINUTES))
def test_any_hour_can_be_drawn(latency: list[float | None]) -> None:
    drawn = graphs.line(latency)
    assert bool(drawn) == any(value is not None for value in latency)
    assert "nan" not in drawn and "inf" not in drawn


@given(st.lists(st.integers(0, 3), min_size=QUARTERS, max_size=QUARTERS))
def test_any_day_can_be_drawn(states: list[int]) -> None:
    drawn = graphs.day(states)
    assert f'viewBox="0 0 {QUARTERS} ' in drawn
    assert ("down in" in drawn) == (DOWN in states) and ("disabled" in drawn) == (OFF in states)
