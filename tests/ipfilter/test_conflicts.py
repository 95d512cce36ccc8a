"""Somebody else who removes rules of ours, or loads such that look like ours: when that is a conflict, what is said."""

from __future__ import annotations

import logging

import pytest

from l4ipd.ipfilter.conflicts import LEFT_ALONE, OFTEN, PUT_BACK, SLOWER, TOLD, WITHIN, Conflicts, Times

MARK = "the tag l4ip"
CAUSE = f"another l4ipd with {MARK} is the likely cause: give each its own; {SLOWER}"
NOBODY = f"another l4ipd, or a program that loads all rules anew, is the likely cause; {SLOWER}"
NEVER = float("inf")


def conflicts() -> Conflicts:
    """What begins with s is a leftover."""
    return Conflicts(lambda line: f"of {line}" if line.startswith("s") else "")


def lose(it: Conflicts, now: float, *lines: str, mark: str = MARK, within: float = WITHIN) -> dict[str, float]:
    """They are removed, and put back a moment later."""
    late = it.removed(list(lines), now, within, mark)
    for line in lines:
        it.put_back(line, now + 0.5, within)
    it.settle(lambda line: True)
    return late


def come(it: Conflicts, now: float, *lines: str, mark: str = MARK, within: float = WITHIN) -> None:
    """Rules that we have not loaded appear, and are removed a moment later."""
    it.appeared(lines, lines, now, within, mark)
    for line in lines:
        it.taken_out(line, now + 0.5, within)


# -- ours that are lost

def test_a_rule_that_is_lost_again_and_again_is_put_back_later_each_time() -> None:
    it = conflicts()
    late = [lose(it, float(now), "a") for now in range(0, 50, 5)]
    assert late == [{}, {}, {"a": 12.0}, {"a": 20.0}, {"a": 30.0}, {"a": 35.0}, {"a": 40.0}, {"a": 45.0}, {"a": 50.0},
                    {"a": 55.0}]
    assert (OFTEN, WITHIN, PUT_BACK) == (3, 60.0, (2.0, 5.0, 10.0))


def test_only_those_that_are_lost_often() -> None:
    it = conflicts()
    lose(it, 0.0, "a", "b")
    lose(it, 1.0, "a")
    assert lose(it, 2.0, "b", "a") == {"a": 4.0}
    assert lose(it, 3.0, "b") == {"b": 5.0}


def test_what_is_within_a_minute() -> None:
    for third, counts in ((60.5, True), (60.6, False)):
        it = conflicts()
        lose(it, 0.0, "a")
        lose(it, 30.0, "a")
        assert bool(lose(it, third, "a")) is counts
    it = conflicts()
    for now in (0.0, 200.0):
        lose(it, now, "a", within=500.0)
    assert lose(it, 400.0, "a", within=500.0), "or within as long as three looks take"


def test_what_we_have_not_put_back_was_no_loss() -> None:
    it = conflicts()
    for now in range(10):
        assert not it.removed(["a"], float(now), WITHIN, MARK)
        it.put_back("b", now + 0.5, WITHIN)


def test_what_was_put_back_and_is_there_is_not_missed_any_more() -> None:
    it = conflicts()
    it.removed(["a", "b"], 0.0, WITHIN, MARK)
    it.settle(lambda line: line == "a")
    for _ in range(3):
        it.put_back("a", 0.5, WITHIN)
    assert not it.removed(["a"], 1.0, WITHIN, MARK)
    it.settle(lambda line: line == "a")
    for _ in range(3):
        it.put_back("b", 0.5, WITHIN)
    assert it.removed(["b"], 1.0, WITHIN, MARK)


def test_what_is_said_of_losses(caplog: pytest.LogCaptureFixture) -> None:
    it = conflicts()
    lose(it, 0.0, "a")
    lose(it, 1.0, "a", "b")
    lose(it, 2.0, "b", "a")
    lose(it, 3.0, "a")
    assert caplog.messages == [
        "a rule of ours had been removed by somebody else and will be put back: a",
        "2 rules of ours had been removed by somebody else and will be put back: a",
        "2 rules of ours had been removed by somebody else and will be put back: b",
        f"a rule of ours was removed by somebody else 3 times within a minute: a: {CAUSE}",
        "a rule of ours had been removed by somebody else and will be put back: a"]
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_what_is_said_without_a_tag(caplog: pytest.LogCaptureFixture) -> None:
    it = conflicts()
    for now in range(3):
        lose(it, float(now), "a", mark="")
    assert caplog.messages[-1] == f"a rule of ours was removed by somebody else 3 times within a minute: a: {NOBODY}"
    it = conflicts()
    for now in range(4):
        come(it, float(now), "s", mark="")
    assert caplog.messages[-1] == f"a rule that no endpoint makes came back 3 times within a minute: s: {NOBODY}"
    assert "a rule of ours that no endpoint makes will be removed: s: of s" in caplog.messages


# -- others' that come

def test_a_leftover_that_comes_back_again_and_again() -> None:
    it = conflicts()
    for now in (0.0, 10.0, 20.0):
        come(it, now, "s")
        assert not it.contested(now) and not it.spared("s", now)
    it.appeared(["s"], ["s"], 30.0, WITHIN, MARK)
    assert it.contested(30.0) and it.contested_until == 30.0 + LEFT_ALONE[0] == it.due
    assert it.spared("s", 89.9) and not it.spared("s", 90.0) and not it.spared("other", 89.9)


def test_coming_is_within_a_minute_too() -> None:
    for fourth, counts in ((60.5, True), (60.6, False)):
        it = conflicts()
        for now in (0.0, 20.0, 40.0, fourth):
            come(it, now, "s")
        assert it.contested(fourth) is counts


def test_what_could_be_an_endpoints_is_no_leftover(caplog: pytest.LogCaptureFixture) -> None:
    it = conflicts()
    for now in range(10):
        come(it, float(now), "a")
    assert not it.leftovers and not it.contested(9.0) and it.due == NEVER and not caplog.messages


def test_leftovers_are_those_that_are_still_there() -> None:
    it = conflicts()
    it.appeared(["s1", "s2"], ["s1", "s2", "a"], 0.0, WITHIN, MARK)
    assert it.leftovers == {"s1", "s2"}
    it.appeared(["s3"], ["s2", "s3"], 0.0, WITHIN, MARK)
    assert it.leftovers == {"s2", "s3"} and it.due == float("-inf")
    it.appeared([], [], 0.0, WITHIN, MARK)
    assert it.leftovers == set() and it.due == NEVER


def test_what_is_said_of_leftovers(caplog: pytest.LogCaptureFixture) -> None:
    it = conflicts()
    come(it, 0.0, "s1")
    come(it, 1.0, "s1")
    come(it, 2.0, "s3", "s2", "s1")
    assert caplog.messages == [f"a rule with {MARK} that no endpoint makes will be removed: s1: of s1",
                               f"2 rules with {MARK} that no endpoint makes will be removed: s3: of s3"]
    caplog.clear()
    come(it, 3.0, "s1", "s2")
    come(it, 4.0, "s1")
    assert caplog.messages == [f"a rule that no endpoint makes came back 3 times within a minute: s1: {CAUSE}"], "once"
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


def test_so_many_are_remembered_as_told(caplog: pytest.LogCaptureFixture) -> None:
    it = conflicts()
    come(it, 0.0, *(f"s{number}" for number in range(TOLD)))
    come(it, 1.0, "sx")
    caplog.clear()
    come(it, 2.0, "sx", "s0")
    assert not caplog.messages and TOLD == 1000
    come(it, 3.0, "sy")                             # one too many: the others are forgotten
    caplog.clear()
    come(it, 4.0, "sy")
    assert not caplog.messages
    come(it, 5.0, "s0")
    assert len(caplog.messages) == 1


# -- how long leftovers are left alone

def test_each_time_is_longer_than_the_last() -> None:
    it, ends = conflicts(), []
    now = 0.0
    for _ in range(3):
        lose(it, now, "a")
        now += 1.0
    for _ in range(6):
        ends.append(it.contested_until - now + 1.0)
        now = it.contested_until + 1.0                  # it was over, and goes on at once
        for _ in range(3):
            lose(it, now, "a")
            if it.contested(now):
                break
            now += 1.0
        now += 1.0
    assert ends == [60.0, 120.0, 300.0, 600.0, 600.0, 600.0]
    assert LEFT_ALONE == (60.0, 120.0, 300.0, 600.0)


def test_after_a_long_quiet_the_next_time_is_a_short_one() -> None:
    for quiet, length in ((60.0, 120.0), (60.1, 60.0)):
        it = conflicts()
        for now in (0.0, 1.0, 2.0):
            lose(it, now, "a")
        assert it.contested_until == 62.0
        last = it.contested_until + quiet
        for now in (last - 2.0, last - 1.0, last):
            lose(it, now, "a")
        assert it.contested_until == last + length


def test_each_conflict_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    it = conflicts()
    for before in range(0, 66, 6):
        lose(it, float(before), "a")
    assert caplog.text.count("3 times within a minute") == 1
    now = it.contested_until
    for more in range(3):
        lose(it, now + more, "a")
    assert caplog.text.count("3 times within a minute") == 2


# -- how often

def test_times_are_counted_and_forgotten() -> None:
    it = Times()
    assert it.count("a", 0.0, 10.0) == 0
    assert [it.note("a", now, 10.0) for now in (0.0, 5.0, 10.0, 11.0)] == [1, 2, 3, 3]
    assert it.note("b", 12.0, 10.0) == 1
    assert [it.count("a", now, 10.0) for now in (15.0, 15.1, 21.0, 21.1)] == [3, 2, 1, 0]
    assert it.note("c", 21.0, 10.0) == 1 and set(it._times) == {"a", "b", "c"}
    assert it.note("c", 21.1, 10.0) == 2 and set(it._times) == {"b", "c"}, "a was the last time too long ago"


def test_no_more_is_kept_than_is_looked_at() -> None:
    it = Times()
    for now in range(1000):
        it.note("a", now / 1000, 10.0)
    assert OFTEN + len(PUT_BACK) <= len(it._times["a"]) <= OFTEN + len(PUT_BACK) + 1


def test_a_leftover_that_an_endpoint_makes_again_is_none() -> None:
    wanted: set[str] = set()
    it = Conflicts(lambda line: "" if line in wanted else f"of {line}")
    for now in range(OFTEN + 1):
        come(it, float(now), "s", "t")
    assert it.spared("s", OFTEN + 1.0) and it.spared("t", OFTEN + 1.0)
    wanted.add("s")
    it.appeared((), ("s", "t"), OFTEN + 1.0, WITHIN, MARK)
    assert not it.spared("s", OFTEN + 1.0) and it.spared("t", OFTEN + 1.0)
