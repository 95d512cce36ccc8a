"""What -n says about the load."""

from __future__ import annotations

import pytest

from l4ipd.config.estimate import estimate
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
