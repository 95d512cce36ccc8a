"""Which rules are wanted: tables of (members, who is up) and the exact lines, and properties over random services."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd import plan
from l4ipd.ipfilter import parse, side
from l4ipd.model import Check, Cluster, Endpoint, Ipfilter, Member, Service

SETTINGS = Ipfilter(interface="em0")
VIP = "203.0.113.10"


def endpoints(*members: Member, vips: tuple[str, ...] = (VIP,), protocol: str = "tcp", sticky: bool = False,
              port: int = 80, member_port: int = 8080) -> list[Endpoint]:
    service = Service("http", port, protocol, member_port, sticky, (Check("tcp"),))
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
    ((Member("a", "fd00::2"),), {"vips": ("2001:db8::1",)}, [
        "rdr em0 inet6 2001:db8::1/128 port 80 -> fd00::2 port 8080 tcp round-robin tag l4ip"]),
    ((A,), {"vips": ("203.0.113.10", "203.0.113.11"), "protocol": "udp", "port": 53, "member_port": 5353}, [
        "rdr em0 203.0.113.10/32 port 53 -> 10.0.0.11 port 5353 udp round-robin tag l4ip",
        "rdr em0 203.0.113.11/32 port 53 -> 10.0.0.11 port 5353 udp round-robin tag l4ip"]),
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
