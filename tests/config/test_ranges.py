"""Ranges of ports in the configuration: how they are read, what they refuse, and the check of another service."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.config.check_section import TYPES
from l4ipd.config.estimate import estimate
from l4ipd.config.explain import explained
from l4ipd.config.parse import ConfigError, parse
from l4ipd.config.warnings import warnings
from l4ipd.discovery.members import filled
from l4ipd.discovery.source import Wanted
from l4ipd.ipfilter.plan import all_up
from l4ipd.model import Check, Config, Endpoint, Flap, Member, Service
from support.configurations import small

PING = "check: ping"


def config(services: str, members: str = "members: {m: 10.0.0.1}", more: str = "") -> Config:
    return parse(small(services=f"{{{services}}}", members=members, more=more), "l4ip.conf")


def endpoint(config: Config, name: str) -> Endpoint:
    return next(each for each in config.endpoints() if each.name == name)


def rules(config: Config) -> list[str]:
    return [line.partition("203.0.113.1/32 ")[2].partition(" round-robin")[0] for line in all_up(config)]


@pytest.mark.parametrize(("service", "rule"), [
    ("port: 40000-40999", "port 40000-40999 -> 10.0.0.1 port 40000 tcp"),
    ("port: 40000-40999, member_port: 50000", "port 40000-40999 -> 10.0.0.1 port 50000 tcp"),
    ("port: 40000 - 40001, protocol: udp", "port 40000-40001 -> 10.0.0.1 port 40000 udp"),
    ("port: 1-65535", "port 1-65535 -> 10.0.0.1 port 1 tcp"),
    ("port: 7-7", "port 7 -> 10.0.0.1 port 7 tcp"),
    ("port: 64536-65535, member_port: 1", "port 64536-65535 -> 10.0.0.1 port 1 tcp"),
])
def test_one_rule_for_a_range(service: str, rule: str) -> None:
    assert rules(config(f"s: {{{service}, {PING}}}")) == [rule]


def test_what_a_service_is_that_says_little() -> None:
    found = config("s: {port: 80}, t: {port: 81, protocol: udp, sticky: yes, check: ping}, u: {port: 82, flap: "
                   "{changes: 9}}, v: {port: 83, flap: no, age: 1m, purge: no}").clusters[0].services
    check = Check("tcp", fast_interval=1.0)
    assert found == (
        Service("s", 80, "tcp", 80, False, (check,), "dead", None, 1, "", Flap()),
        Service("t", 81, "udp", 81, True, (replace(check, type="ping"),), "yes", 30, 1, "", Flap()),
        Service("u", 82, "tcp", 82, False, (check,), "dead", None, 1, "", Flap(changes=9)),
        Service("v", 83, "tcp", 83, False, (check,), "no", 60, 1, "", None))
    assert [type(service.sticky) for service in found] == [bool] * 4
    top = config("s: {port: 80}", more="defaults: {flap: {within: 1m}, purge: yes}\n").clusters[0].services
    assert [(service.flap, service.purge) for service in top] == [(Flap(within=60.0), "yes")]


def test_weights_and_members_ports() -> None:
    """A member's own port is for services with one port."""
    found = config(f"s: {{port: 80}}, r: {{port: 100-101, member_port: 200, {PING}}}",
                   "members: {m: {address: 10.0.0.1, weight: 2, port: 8081}, n: 10.0.0.2}")
    assert rules(found) == ["port 80 -> 10.0.0.1 port 8081 tcp", "port 80 -> 10.0.0.2 port 80 tcp",
                            "port 80 -> 10.0.0.1 port 8081 tcp", "port 100-101 -> 10.0.0.1 port 200 tcp",
                            "port 100-101 -> 10.0.0.2 port 200 tcp", "port 100-101 -> 10.0.0.1 port 200 tcp"]


ERRORS: list[tuple[str, list[str]]] = [
    ("s: {port: 90-80, check: ping}", ["s.port: 90-80 ends before it begins"]),
    ("s: {port: 80-70000, check: ping}", ["s.port: 70000 is not a port (1-65535)"]),
    ("s: {port: 80-, check: ping}", ["s.port: 80- is not a port (1-65535)"]),
    ("s: {port: 80-90-99, check: ping}", ["s.port: 80-90-99 is not a port (1-65535)"]),
    ("s: {port: 80-90}", ["s.check: is missing: a range of ports has no port that stands for all: name the port that "
                          "is checked, or the service whose check stands for it: {same_as: NAME}"]),
    ("s: {port: 80-90, check: tcp}", ["s.check: a range of ports has no port that stands for all: name the port that "
                                      "is checked, or the service whose check stands for it: {same_as: NAME}"]),
    ("s: {port: 80-90, check: [ping, {type: exec, command: [/bin/true, '{port}']}]}",
     ["s.check: a range of ports has no port that stands for all for its {port}: name the port that is checked, or the "
      "service whose check stands for it: {same_as: NAME}"]),
    ("s: {port: 80-81, check: tcp}", ["s.check: a range of ports has no port that stands for all: name the port that "
                                      "is checked, or the service whose check stands for it: {same_as: NAME}"]),
    ("s: {port: 80-90, check: {type: exec, command: [/bin/true, '{member}']}}", []),
    ("s: {port: 80-90, check: nonsense}", ["s.check: nonsense is not one of " + ", ".join(TYPES)]),
    ("s: {port: 80-90, check: agent}", ["s.check.port: is missing: where the agent listens"]),
    ("s: {port: 80-90, member_port: 100-110, check: ping}",
     ["s.member_port: 100-110 is a range: write its first port, as many follow as port has"]),
    ("s: {port: 80, member_port: 100-101}",
     ["s.member_port: 100-101 is a range: write its first port, as many follow as port has"]),
    ("s: {port: 80-81, member_port: 65534, check: ping}", []),
    ("s: {port: 80-90, member_port: 65526, check: ping}",
     ["s.member_port: 65526 is the first of 11 ports, and only 10 are left"]),
    ("s: {port: 80, check: {same_as: t}}", ["s.check.same_as: t is no service of this cluster"]),
    ("s: {port: 80, check: {same_as: }}", ["s.check.same_as: has no value: give it one, or leave the key out"]),
    ("s: {port: 80, check: {same_as: c/t}}",
     ["s.check.same_as: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with a letter, a digit "
      "or _"]),
    ("ftp: {port: 21}, s: {port: 80-90, check: {same_as: fpt}}",
     ["s.check.same_as: fpt is no service of this cluster: did you mean ftp?"]),
    ("s: {port: 80, check: {same_as: s}}",
     ["s.check.same_as: is the service itself: name another one, whose check stands for it"]),
    ("a: {port: 1}, b: {port: 2, check: {same_as: a}}, s: {port: 3, check: {same_as: b}}",
     ["s.check.same_as: b has no check of its own, but that of a: name that"]),
    ("a: {port: 1}, b: {port: 2, check: {same_as: a}}, c: {port: 3, check: {same_as: b}}, "
     "s: {port: 4, check: {same_as: c}}",
     ["c.check.same_as: b has no check of its own, but that of a: name that",
      "s.check.same_as: c has no check of its own, but that of a: name that"]),
    ("s: {port: 1, check: {same_as: b}}, b: {port: 2, check: {same_as: s}}",
     ["s.check.same_as: goes round in a circle, s, b: one of them needs a check of its own"]),
    ("into: {port: 9, check: {same_as: b}}, a: {port: 1, check: {same_as: b}}, b: {port: 2, check: {same_as: c}}, "
     "c: {port: 3, check: {same_as: a}}",
     ["a.check.same_as: goes round in a circle, a, b, c: one of them needs a check of its own"]),
    (", ".join(f"s{place}: {{port: {1 + place}, check: {{same_as: s{(place + 1) % 900}}}}}" for place in range(900)),
     ["s0.check.same_as: goes round in a circle, s0, s1, s2, s3, s4 … 900 in all: one of them needs a check of its "
      "own"]),
    ("a: {port: 1, check: {same_as: a}}, s: {port: 2, check: {same_as: a}}",
     ["a.check.same_as: is the service itself: name another one, whose check stands for it"]),
    ("a: {port: 1, check: {same_as: x}}, s: {port: 2, check: {same_as: a}}",
     ["a.check.same_as: x is no service of this cluster"]),
    ("s: {port: 80, check: {same_as: '!'}}",
     ["s.check.same_as: is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with a letter, a digit "
      "or _"]),
    ("s: {port: 80, check: {same_as: [a]}}", ["s.check.same_as: one value is wanted, not a list"]),
    (", ".join(f"s{place}: {{port: {1 + place}, check: {{same_as: s{(place + 1) % 5}}}}}" for place in range(5)),
     ["s0.check.same_as: goes round in a circle, s0, s1, s2, s3, s4: one of them needs a check of its own"]),
    ("a: {port: 1}, s: {port: 3, check: {same_as: a, port: 7}}",
     ["s.check.port: unknown key; known here: same_as"]),
    ("a: {port: 1}, s: {port: 3, check: [ping, {same_as: a}]}",
     ["s.check[2]: same_as stands alone, and in no list"]),
    ("a: {port: 85}, s: {port: 80-90, check: ping}",
     ["s.port: 203.0.113.1 port 80-90 tcp overlaps port 85 of c/a (line 6)"]),
    ("s: {port: 80-90, check: ping}, t: {port: 90}",
     ["t.port: 203.0.113.1 port 90 tcp overlaps port 80-90 of c/s (line 6)"]),
    ("s: {port: 80-90, check: ping}, t: {port: 90-91, check: ping}",
     ["t.port: 203.0.113.1 port 90-91 tcp overlaps port 80-90 of c/s (line 6)"]),
    ("s: {port: 80-90, check: ping}, t: {port: 80-90, check: ping}",
     ["t.port: 203.0.113.1 port 80-90 tcp already belongs to c/s (line 6)"]),
    ("s: {port: 80-90, check: ping}, t: {port: 91}, u: {port: 80, protocol: udp, check: ping}", []),
]


@pytest.mark.parametrize(("services", "expected"), ERRORS)
def test_what_is_refused(services: str, expected: list[str]) -> None:
    found: tuple[str, ...] = ()
    try:
        config(services)
    except ConfigError as error:
        found = error.errors
    assert list(found) == [f"l4ip.conf:6: clusters.c.services.{words}" for words in expected]


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 6), st.booleans()), max_size=12))
def test_nobody_has_a_port_of_another(wanted: list[tuple[int, int, bool]]) -> None:
    """Whoever comes first has it, and whoever meets nobody gets in."""
    ports, expected, refused = dict[tuple[bool, int], str](), [], []
    for number, (first, many, udp) in enumerate(wanted):
        mine = [(udp, port) for port in range(first, first + many)]
        if any(port in ports for port in mine):
            refused.append(f"s{number}")
        else:
            ports |= dict.fromkeys(mine, f"s{number}")
            expected.append(f"s{number}")
    text = ", ".join(f"s{number}: {{port: {first}-{first + many - 1}, protocol: {'udp' if udp else 'tcp'}, {PING}}}"
                     for number, (first, many, udp) in enumerate(wanted))
    errors: tuple[str, ...] = ()
    try:
        found = config(text or "s: {port: 1}")
    except ConfigError as error:
        errors = error.errors
    else:
        assert [service.name for service in found.clusters[0].services] == (expected or ["s"])
    assert [re.findall(r"services\.(\w+)\.port: .* (?:of|to) c/(\w+) ", words)[0][0] for words in errors] == refused
    for words in errors:
        name, owner = re.findall(r"services\.(\w+)\.port: .* (?:of|to) c/(\w+) ", words)[0]
        first, many, udp = wanted[int(name[1:])]
        assert owner in {ports.get((udp, port)) for port in range(first, first + many)}


@pytest.mark.parametrize(("members", "expected"), [
    ("members: {m: {address: 10.0.0.1, port: 1}, n: {address: 10.0.0.1, port: 2}}",
     "7: clusters.c.members.n.address: 10.0.0.1 is already the address of m (line 7): their rules would be the same"),
    ("members: {m: 203.0.113.1}",
     "7: clusters.c.members.m: 203.0.113.1 port 80-90 is the cluster's own: the rule of s would lead to itself"),
])
def test_members_of_a_range(members: str, expected: str) -> None:
    with pytest.raises(ConfigError) as failure:
        config(f"s: {{port: 80-90, member_port: 85, {PING}}}", members)
    assert failure.value.errors == (f"l4ip.conf:{expected}",)


def test_members_from_elsewhere() -> None:
    """With ports of their own at one address they would have the same rule; the first of them counts."""
    found = config(f"s: {{port: 80-90, {PING}}}", "members_from: [{dns: _http._tcp.a.example}]")
    cluster, = found.clusters
    key = Wanted(cluster.sources[0], False, True).key
    full, odd = filled(found, {key: [Member("a", "10.0.0.1", port=1), Member("b", "10.0.0.1", port=2),
                                     Member("c", "203.0.113.1", port=9)]})
    assert [member.name for member in full.clusters[0].members] == ["a"]
    assert [words.partition(" is left out: ")[2] for words in odd] == [
        "a 10.0.0.1 is there already", "its rule would lead to itself"]


def test_the_check_of_another_service() -> None:
    """Where that one is, for each member, and to a command it is that one."""
    command = "{type: exec, command: [/bin/x, '{port}', '{service}']}"
    found = config(f"ftp: {{port: 21, member_port: 2121, check: [ftp, {command}]}}, "
                   "data: {port: 100-199, check: {same_as: ftp}}",
                   "members: {m: 10.0.0.1, n: {address: 10.0.0.2, port: 2222}}")
    for member, port in (("m", 2121), ("n", 2222)):
        one, two = endpoint(found, f"c/ftp/{member}"), endpoint(found, f"c/data/{member}")
        assert one.probed == two.probed == (one.address, port, one.checks, "ftp")
        assert (two.where, two.port_words) == (f"{two.address}:100-199", "100-199")
    assert explained(found)[-1] == "c/data: as c/ftp"
    assert estimate(found).probes == 4 * estimate(config("ftp: {port: 21}")).probes, "two checks of two members"


def test_what_is_said_of_a_check_is_said_once() -> None:
    found = config("a: {port: 1, protocol: udp, check: udp}, b: {port: 2-3, protocol: udp, check: {same_as: a}}")
    assert [words.partition(":")[0] for words in warnings(found)] == ["c/a"]


def test_a_command_that_is_told_of_another_service_is_another_command() -> None:
    """The service whose check it is has got another name: its command says so."""
    command = "{type: exec, command: [/bin/x, '%s']}"
    for word, same in (("{service}", False), ("{member}", True)):
        before, after = (endpoint(config(f"{name}: {{port: 21, check: {command % word}}}, "
                                         f"data: {{port: 100-199, check: {{same_as: {name}}}}}"), "c/data/m")
                         for name in ("ftp", "ftps"))
        assert (before.probed == after.probed) is same
