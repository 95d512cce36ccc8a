"""What -n says about the load."""

from __future__ import annotations

import pytest

from l4ipd.config.estimate import COST, DEAR, MUCH, Estimate, estimate
from l4ipd.config.parse import parse


def of(check: str, members: int) -> str:
    those = ", ".join(f"m{number}: 10.0.{number // 250}.{number % 250 + 1}" for number in range(members))
    return (f"ipfilter: {{interface: em0}}\nclusters:\n  c:\n    address: 192.0.2.1\n"
            f"    services: {{s: {{port: 80, check: {check}}}}}\n    members: {{{those}}}\n")


@pytest.mark.parametrize(("check", "members", "text", "warned"), [
    ("tcp", 10, "10 endpoints, 2 probes a second, about 0.006 % of a core, up to 10 descriptors", []),
    ("{type: tcp, interval: 100ms}", 100, "1000 probes a second, about 3 % of a core", []),
    ("[{type: tcp, interval: 1s}, http]", 10, "10 endpoints, 20 probes a second", []),
    ("{type: https, interval: 500ms}", 600, "1200 probes a second",
     ["https probes a second", "check tcp or http instead"]),
    ("{type: exec, command: [/bin/true], interval: 1s}", 100, "up to 300 descriptors", ["100 exec probes a second"]),
    ("{type: exec, command: [/bin/true], interval: 10s, timeout: 2s}", 40, "4 probes a second", []),
    ("{type: exec, command: [/bin/true], interval: 10s, timeout: 2s}", 50, "5 probes a second",
     ["about 10 commands would run at the same time if all of them hung, and 8 may"]),
    ("{type: tcp, interval: 1h}", 1500, "up to 1500 descriptors", ["raise the limit of open files"]),
])
def test_estimates(check: str, members: int, text: str, warned: list[str]) -> None:
    load = estimate(parse(of(check, members), "test"))
    assert text in str(load)
    warnings = load.warnings(1000, 8)
    assert bool(warnings) == bool(warned)
    for words in warned:
        assert words in warnings[0]


def services(text: str, members: str = "m: 10.0.0.1, n: 10.0.0.2") -> str:
    return (f"ipfilter: {{interface: em0}}\nclusters:\n  c:\n    address: 192.0.2.1\n"
            f"    services: {{{text}}}\n    members: {{{members}}}\n")


MANY = ", ".join(f"s{number}: {{port: {number}, check: %s}}" for number in range(1, 61))


@pytest.mark.parametrize(("text", "expected"), [
    (MANY % (("tcp",) * 60), "120 endpoints, 24 probes a second, about 0.072 % of a core, up to 120 descriptors"),
    (MANY % (("{type: tcp, port: 8080}",) * 60), "120 endpoints, 0.4 probes a second, about 0.0012 % of a core, "
     "up to 2 descriptors"),
    (MANY % (("ping",) * 60), "120 endpoints, 0.4 probes a second, about 0.0012 % of a core, up to 2 descriptors"),
    (MANY % (("{type: exec, command: [/bin/x]}",) * 60), "120 endpoints, 0.4 probes a second"),
    (MANY % (("{type: exec, command: [/bin/x, '{port}']}",) * 60), "120 endpoints, 24 probes a second"),
    (MANY % (("{type: exec, command: [/bin/x, '{service}']}",) * 60), "120 endpoints, 24 probes a second"),
    ("a: {port: 1}, b: {port: 2-9, check: {same_as: a}}", "4 endpoints, 0.4 probes a second"),
    ("a: {port: 1}, b: {port: 2, member_port: 1}", "4 endpoints, 0.4 probes a second"),
    ("a: {port: 1}, b: {port: 2, member_port: 1, check: {type: tcp, interval: 10s}}", "4 endpoints, 0.6 probes a sec"),
    ("a: {port: 1}, b: {port: 2, member_port: 1, check: [tcp, ping]}", "4 endpoints, 1.2 probes a second"),
])
def test_equal_checks_are_made_once(text: str, expected: str) -> None:
    assert str(estimate(parse(services(text), "test"))).startswith(expected)


def test_equal_commands_run_once() -> None:
    """Nine services of one member would be too many."""
    for check, warned in (("{type: exec, command: [/bin/x], interval: 2s, timeout: 2s}", False),
                          ("{type: exec, command: [/bin/x, '{service}'], interval: 2s, timeout: 2s}", True)):
        text = ", ".join(f"s{number}: {{port: {number}, check: {check}}}" for number in range(1, 10))
        assert bool(estimate(parse(services(text, "m: 10.0.0.1"), "test")).warnings(1000, 8)) is warned


@pytest.mark.parametrize(("check", "kind"), [
    ("tcp", "tcp"), ("ping", "ping"), ("http", "http"), ("tls", "tls"), ("https", "https"), ("redis", "protocol"),
    ("smtp", "protocol"), ("{type: smtp, tls: yes}", "protocol in TLS"),
    ("{type: smtp, starttls: yes}", "protocol in TLS"), ("{type: exec, command: [/bin/true]}", "exec")])
def test_every_check_has_its_cost(check: str, kind: str) -> None:
    load = estimate(parse(of(check, 10), "test"))
    assert load.by_type == {kind: 2.0} and load.probes == 2.0
    assert load.cpu == pytest.approx(2.0 * COST[kind])


def test_all_is_added_up() -> None:
    """Lists go at the pace of their first check, and endpoints that are checked alike are probed once."""
    text = """
ipfilter: {interface: em0}
clusters:
  a:
    address: 192.0.2.1
    services:
      s: {port: 80, check: [{type: tcp, interval: 2s}, http]}
      t: {port: 443, check: [{type: tcp, interval: 4s}, {type: exec, command: [/bin/true], timeout: 3s}]}
    members: {m: 10.0.0.1, n: 10.0.0.2, o: 10.0.0.3, p: 10.0.0.4}
  b:
    address: 192.0.2.2
    services: {s: {port: 25, check: {type: exec, command: [/bin/true], interval: 10s, timeout: 5s}},
               t: {port: 26, member_port: 26, check: {type: exec, command: [/bin/true], interval: 1s, timeout: 1s}}}
    members: {m: 10.0.0.1, n: 10.0.0.2}
"""
    load = estimate(parse(text, "test"))
    assert load.endpoints == 12 and load.descriptors == 4 + 4 * 3 + 2 * 3 + 2 * 3
    assert load.by_type == pytest.approx({"tcp": 4 / 2 + 4 / 4, "http": 4 / 2, "exec": 4 / 4 + 2 / 10 + 2 / 1})
    assert load.commands == pytest.approx(4 / 4 * 3 + 2 / 10 * 5 + 2 / 1 * 1)
    assert load.probes == pytest.approx(3 + 2 + 3.2)
    assert load.cpu == pytest.approx(3 * COST["tcp"] + 2 * COST["http"] + 3.2 * COST["exec"])


def costing(cpu: float = 0.1, descriptors: int = 10, commands: float = 1.0, **by_type: float) -> Estimate:
    return Estimate(10, 3.0, cpu, descriptors, commands, by_type or {"tcp": 3.0})


def test_words() -> None:
    assert str(costing(0.1234)) == "10 endpoints, 3 probes a second, about 12 % of a core, up to 10 descriptors"


@pytest.mark.parametrize(("load", "lines"), [
    (costing(MUCH, 1000, 8.0), []),
    (costing(0.71, tcp=5000.0, https=900.0, exec=1.0), [
        "about 0.71 cores would be needed, mostly for 900 https probes a second, and there is one: probes will be "
        "late: check tcp or http instead, or less often"]),
    (costing(1.5, tcp=50_000.0, https=1.0), [
        "about 1.5 cores would be needed, mostly for 5e+04 tcp probes a second, and there is one: probes will be late: "
        "check less often"]),
    (costing(descriptors=1001), [
        "up to 1001 probes at the same time, and 1000 descriptors for them: some will be late when members do not "
        "answer: raise the limit of open files"]),
    (costing(commands=8.25), [
        "about 8.25 commands would run at the same time if all of them hung, and 8 may: some would be late then: "
        "shorten their timeout, or run them less often"])])
def test_warnings_word_for_word(load: Estimate, lines: list[str]) -> None:
    assert load.warnings(1000, 8) == lines


def test_several_warnings_at_once() -> None:
    assert len(costing(2.0, 2000, 20.0).warnings(1000, 8)) == 3


def test_what_is_dear_is_dearer_than_what_is_recommended() -> None:
    assert min(COST[kind] for kind in DEAR) > 10 * max(COST["tcp"], COST["http"])
