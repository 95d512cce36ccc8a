"""Which rules are wanted: tables of (members, who is up) and the exact lines, and properties over random services."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.ipfilter import plan
from l4ipd.ipfilter.rdr import parse, side
from l4ipd.model import Check, Cluster, Config, Endpoint, Ipfilter, Member, Service

SETTINGS = Ipfilter(interface="em0")
VIP = "203.0.113.10"


def endpoints(*members: Member, vips: tuple[str, ...] = (VIP,), protocol: str = "tcp", sticky: bool = False,
              port: int = 80, member_port: int = 8080, age: int | None = None) -> list[Endpoint]:
    service = Service("http", port, protocol, member_port, sticky, (Check("tcp"),), age=age)
    return list(Cluster("www", vips, (service,), members).endpoints())


def lines(members: list[Endpoint], settings: Ipfilter = SETTINGS) -> list[str]:
    return plan.rules(members, settings)


A, B = Member("a", "10.0.0.11"), Member("b", "10.0.0.12")
SORRY = Member("sorry", "10.0.0.99", fallback=True)


@pytest.mark.parametrize(("members", "options", "expected"), [
    ((A, B), {}, [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin tag l4ip",
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.12 port 8080 tcp round-robin tag l4ip"]),
    ((Member("a", "10.0.0.11", weight=2), B), {"sticky": True}, [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin sticky tag l4ip",
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.12 port 8080 tcp round-robin sticky tag l4ip",
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin sticky tag l4ip.2"]),
    ((Member("a", "10.0.0.11", weight=0), B), {}, [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.12 port 8080 tcp round-robin tag l4ip"]),
    ((Member("a", "10.0.0.11", weight=0),), {"vips": ("203.0.113.1", "203.0.113.2")}, []),
    ((Member("a", "fd00::2"),), {"vips": ("2001:db8::1",)}, [
        "rdr em0 inet6 2001:db8::1/128 port 80 -> fd00::2 port 8080 tcp round-robin tag l4ip"]),
    ((A,), {"vips": ("203.0.113.10", "203.0.113.11"), "protocol": "udp", "port": 53, "member_port": 5353}, [
        "rdr em0 203.0.113.10/32 port 53 -> 10.0.0.11 port 5353 udp round-robin tag l4ip",
        "rdr em0 203.0.113.11/32 port 53 -> 10.0.0.11 port 5353 udp round-robin tag l4ip"]),
    ((Member("a", "10.0.0.11", weight=2),), {"protocol": "udp", "age": 30}, [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 udp round-robin age 30/30 tag l4ip",
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 udp round-robin age 30/30 tag l4ip.2"]),
    ((A,), {"age": 7200, "sticky": True}, [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin age 7200/7200 sticky tag l4ip"]),
    ((Member("a", "10.0.0.11", weight=2), B), {"vips": ("203.0.113.10", "203.0.113.11")}, [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin tag l4ip",
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.12 port 8080 tcp round-robin tag l4ip",
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin tag l4ip.2",
        "rdr em0 203.0.113.11/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin tag l4ip",
        "rdr em0 203.0.113.11/32 port 80 -> 10.0.0.12 port 8080 tcp round-robin tag l4ip",
        "rdr em0 203.0.113.11/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin tag l4ip.2"]),
    ((Member("a", "10.0.0.11", weight=2),), {"vips": ("203.0.113.1", "203.0.113.2", "203.0.113.3")}, [
        f"rdr em0 203.0.113.{vip}/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin tag {tag}"
        for vip in (1, 2, 3) for tag in ("l4ip", "l4ip.2")]),
    ((Member("a", "10.0.0.11", port=9000),), {}, [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 9000 tcp round-robin tag l4ip"]),
])
def test_exact_rules(members: tuple[Member, ...], options: dict[str, object], expected: list[str]) -> None:
    assert lines(endpoints(*members, **options)) == expected  # type: ignore[arg-type]


def test_without_tags() -> None:
    assert lines(endpoints(A), Ipfilter(interface="em0", tag=None)) == [
        "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin"]


@pytest.mark.parametrize(("up", "last", "keep", "expected"), [
    ("ab", "", False, "ab"),
    ("a", "ab", False, "a"),
    ("a sorry", "", False, "a"),                    # the fallback waits while anybody is up
    ("sorry", "a", False, "sorry"),                 # comes when nobody is
    ("sorry", "a", True, "sorry"),                  # and before the last rules are kept
    ("b sorry", "sorry", False, "b"),               # gone as soon as one is back
    ("", "ab", False, ""),
    ("", "b", True, "b"),                           # fail open
    ("", "", True, ""),
    ("a", "b", True, "a"),
])
def test_who_serves(up: str, last: str, keep: bool, expected: str) -> None:
    def names(words: str) -> set[str]:
        return {f"www/http/{name}" for word in words.split() for name in ([word] if word == "sorry" else word)}

    serving = plan.serving(endpoints(A, B, SORRY), names(up), names(last), keep)
    assert {member.name for member in serving} == names(expected)


@pytest.mark.parametrize(("up", "words"), [
    ("", "0 of 2 up"), ("a", "1 of 2 up"), ("ab", "2 of 2 up"), ("s", "1 of 3 up"), ("st", "2 of 4 up"),
    ("ast", "1 of 2 up"), ("abst", "2 of 2 up"),
])
def test_how_many_are_up(up: str, words: str) -> None:
    """A fallback counts while it serves. Changes are counted as what they lead to would be."""
    members = endpoints(A, B, *(Member(name, f"10.0.0.9{place}", fallback=True) for place, name in enumerate("stu")))
    assert str(plan.tally((each, each.member in up) for each in members)) == words
    count = plan.tally((each, False) for each in members)
    for each in members:
        count.add(each.fallback, int(each.member in up))
    assert str(count) == words
    for each in members:
        count.add(each.fallback, -int(each.member in up))
    assert count == plan.tally((each, False) for each in members)


def test_who_weighs_nothing_does_not_count() -> None:
    nothing = Member("n", "10.0.0.13", weight=0)
    assert str(plan.tally((each, each.member == "a") for each in endpoints(A, B, nothing))) == "1 of 2 up"
    config = Config(SETTINGS, (Cluster("www", (VIP,), (Service("x", 1, "tcp", 1, False, (Check("tcp"),)),),
                                       (nothing, SORRY)),))
    assert [line.split()[6] for line in plan.all_up(config)] == [SORRY.address], "the fallback serves"


@pytest.mark.parametrize(("weights", "order"), [
    ([1], "a"), ([1, 1, 1], "abc"), ([2, 1], "aba"), ([3, 1], "aaba"), ([2, 2], "abab"), ([5, 1, 1], "aabacaa"),
])
def test_turns(weights: list[int], order: str) -> None:
    assert "".join("abc"[place] for place, _ in plan.interleave(weights)) == order


@given(st.lists(st.integers(1, 20), min_size=1, max_size=6))
def test_everybody_gets_as_many_turns_as_it_weighs(weights: list[int]) -> None:
    turns = plan.interleave(weights)
    assert Counter(place for place, _ in turns) == dict(enumerate(weights))
    assert len(set(turns)) == len(turns)
    assert all(0 < nth <= weights[place] for place, nth in turns)


def smooth(weights: Sequence[int]) -> list[tuple[int, int]]:
    """The model, which takes members times turns: each turn everybody gains its weight; the richest pays for all."""
    credit, chosen = [0] * len(weights), [0] * len(weights)
    turns = []
    for _ in range(sum(weights)):
        credit = [had + weight for had, weight in zip(credit, weights, strict=True)]
        best = max(range(len(weights)), key=credit.__getitem__)
        credit[best] -= sum(weights)
        chosen[best] += 1
        turns.append((best, chosen[best]))
    return turns


@given(st.lists(st.integers(0, 99), max_size=12) | st.lists(st.sampled_from([1, 2, 4, 6, 99]), max_size=20))
def test_the_turns_are_those_of_smooth_weighted_round_robin(weights: list[int]) -> None:
    assert plan.interleave(weights) == smooth(weights)


def effort(work: Callable[[], object]) -> int:
    """How many instructions of Python ``work`` takes: that does not hang on the clock."""
    count = 0

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("weights", [[9], [7], [1, 2, 3, 5, 8]])
def test_the_effort_grows_with_the_turns_not_with_their_square(weights: list[int]) -> None:
    few, many = (effort(lambda count=count: plan.interleave(weights * count)) for count in (30, 120))  # type: ignore[misc]
    assert few < many < 5 * few
    model = [effort(lambda count=count: smooth(weights * count)) for count in (6, 24)]  # type: ignore[misc]
    assert model[1] > 8 * model[0], "which tells them apart"


def test_what_n_prints_takes_an_effort_that_grows_with_its_lines() -> None:
    count = 20

    def config(services: int, members: int) -> Config:
        return Config(SETTINGS, (Cluster("www", (VIP,), tuple(
            Service(f"s{port}", port, "tcp", port, False, (Check("tcp"),)) for port in range(1, services + 1)), tuple(
            Member(f"m{place}", f"10.0.{place // 250}.{place % 250 + 1}", 9) for place in range(members))),))

    base = effort(lambda: plan.all_up(config(count, count)))
    for more in (config(4 * count, count), config(count, 4 * count)):
        assert effort(lambda more=more: plan.all_up(more)) < 5 * base  # type: ignore[misc]
        assert len(plan.all_up(more)) == 4 * count * count * 9


def test_with_everybody_up_there_are_the_rules_of_each_service_but_not_of_its_fallbacks() -> None:
    services = tuple(Service(name, port, "tcp", port, False, (Check("tcp"),)) for name, port in (("x", 1), ("y", 2)))
    config = Config(SETTINGS, (Cluster("www", (VIP,), services, (A, SORRY)), Cluster("ftp", ("203.0.113.11",),
                                                                                   services[:1], (B,))))
    assert [line.split(" tcp ")[0] for line in plan.all_up(config)] == [
        "rdr em0 203.0.113.10/32 port 1 -> 10.0.0.11 port 1", "rdr em0 203.0.113.10/32 port 2 -> 10.0.0.11 port 2",
        "rdr em0 203.0.113.11/32 port 1 -> 10.0.0.12 port 1"]


@pytest.mark.parametrize("weight, settings", [(1, SETTINGS), (1, Ipfilter("em0", tag=None)), (12, SETTINGS),
                                              (0, SETTINGS)])
def test_every_rule_of_a_member(weight: int, settings: Ipfilter) -> None:
    member, = endpoints(Member("a", "10.0.0.11", weight), vips=(VIP, "203.0.113.11"), sticky=True)
    assert plan.every_rule(member, settings) == [plan.rule(member, vip, nth, settings).line()
                                                 for vip in member.vips for nth in range(1, weight + 1)]


@st.composite
def services(draw: st.DrawFn) -> tuple[list[Endpoint], set[str], set[str], bool]:
    members = [Member(f"m{place}", f"10.0.0.{place + 1}", draw(st.integers(1, 5)), draw(st.booleans()))
               for place in range(draw(st.integers(1, 6)))]
    those = endpoints(*members, vips=tuple(draw(st.sampled_from([("192.0.2.1",), ("192.0.2.1", "192.0.2.2")]))))
    names = [each.name for each in those]
    return those, draw(st.sets(st.sampled_from(names))), draw(st.sets(st.sampled_from(names))), draw(st.booleans())


@given(services())
def test_no_service_with_a_live_member_is_without_a_rule(
        service: tuple[list[Endpoint], set[str], set[str], bool]) -> None:
    members, up, last, keep = service
    serving = plan.serving(members, up, last, keep)
    wanted = plan.rules(serving, SETTINGS)
    assert bool(wanted) == bool(up or (keep and last))
    assert len(set(wanted)) == len(wanted), "no rule twice"
    assert {member.fallback for member in serving if member.name in up} in (set(), {True}, {False}), "never both kinds"
    assert up >= {member.name for member in serving} or not up, "nobody who is down, while anybody is up"
    for line in wanted:
        rule = parse(line)
        assert rule is not None
        assert rule.line() == line, "what we want is in canonical form"
    assert len({side(line) for line in wanted}) == (len(members[0].vips) if wanted else 0)
