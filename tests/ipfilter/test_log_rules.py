"""Log and count rules, held against what a real ipf took and listed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.ipfilter import log_rules, rdr
from l4ipd.ipfilter.log_rules import Rule, parse
from l4ipd.model import Check, Endpoint
from support import SAMPLES

TCP = Rule("log", "int0", "10.0.0.2", 8080, 4711)
TCP6 = Rule("log", "int0", "fd00::2", 8080, 4711)
UDP = Rule("log", "int0", "10.0.0.2", None, 4711)
UDP6 = Rule("log", "int0", "fd00::2", None, 4711)
COUNT = Rule("count", "int0", "10.0.0.2", 8080)
RANGE = Rule("log", "int0", "10.0.0.2", 50000, 4711, 50999)


def endpoint(address: str, port: int, protocol: str = "tcp", cluster: str = "www") -> Endpoint:
    return Endpoint(f"{cluster}/x/{address}", cluster, "x", address, ("203.0.113.1",), 80, protocol, False, address,
                    port, 1, False, (Check("tcp"),))


def forms() -> list[tuple[str, list[str]]]:
    """(a form that was fed, what was listed for it with numbers)."""
    rows: list[tuple[str, list[str]]] = []
    for line in (SAMPLES / "ipf-log-rules.txt").read_text().partition("== exit codes")[0].splitlines():
        if line.startswith("in    : ") and line.rstrip().endswith("exit 0"):
            rows.append((line[8:].rpartition(" | ")[0], []))
        elif (found := re.match(r"  -(?:6?iR|aih) *: (.*)", line)) and rows and found[1]:
            rows[-1][1].extend(found[1].split("  //  "))
    return rows


def test_the_forms_are_there() -> None:
    assert len(forms()) > 15 and all(listed for _, listed in forms())


@pytest.mark.parametrize(("fed", "listed"), forms(), ids=[fed for fed, _ in forms()])
def test_fed_and_listed_are_the_same_rule(fed: str, listed: list[str]) -> None:
    if "{" in fed:
        return                                      # a list of addresses: never ours, and listed as several
    for line in listed:
        assert parse(line.replace("http-alt", "8080")) == parse(fed)


@pytest.mark.parametrize(("line", "expected"), [
    ("log in on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)", TCP),
    ("@1 log in on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)", TCP),
    ("2 log in on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)", TCP),
    ("log in on int0 proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)", TCP),     # 4.1
    ("log in on int0 inet6 proto tcp from fd00::2/128 port = 8080 to any flags R/R set-tag(log=4711)", TCP6),
    ("log in on int0 inet proto tcp from 10.0.0.2/32 port 50000:50999 to any flags R/R set-tag(log=4711)", RANGE),
    ("2 80 count in on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R", COUNT),
    ("log in on int0 inet proto icmp from 10.0.0.2/32 to any icmp-type unreach code 3 set-tag(log=4711)", UDP),
    ("log in on int0 inet6 proto ipv6-icmp from fd00::2/128 to any icmp-type unreach code 4 set-tag(log=4711)", UDP6),
    ("log in on int0 inet6 proto icmp6 from fd00::2/128 to any icmp-type 1 code 4 set-tag(log=4711)", UDP6),
    ("log in on int0 proto tcp from any to any flags R/R", None),
    ("log in quick on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)", None),
    ("log in on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/FSRPAU set-tag(log=4711)", None),
    ("log in on int0 inet proto tcp from 10.0.0.0/24 port = 8080 to any flags R/R set-tag(log=4711)", None),
    ("log in on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R group 100 set-tag(log=4711)", None),
    ("log in on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711, nat=x)", None),
    ("pass in log on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)", None),
    ("log out on int0 inet proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)", None),
    ("log in on int0 inet proto icmp from 10.0.0.2/32 to any icmp-type echo code 3 set-tag(log=4711)", None),
    ("log in on int0 inet proto tcp from 10.0.0.2/32 to any flags R/R set-tag(log=4711)", None),
    ("log in on int0 inet proto udp from 10.0.0.2/32 port = 53 to any set-tag(log=4711)", None),
    ("log in on int0 inet proto gre from 10.0.0.2/32 to any icmp-type 3 code 3 set-tag(log=4711)", None),
    ("log in on int0 inet proto icmp from fd00::2/128 to any icmp-type 3 code 3 set-tag(log=4711)", None),
    ("log in on int0 inet6 proto ipv6-icmp from 10.0.0.2/32 to any icmp-type 1 code 4 set-tag(log=4711)", None),
    ("log in on int0 inet proto icmp from 10.0.0.2/32 to any icmp-type unreach code 4 set-tag(log=4711)", None),
    ("log in on int0 inet proto icmp from 10.0.0.2/32 port = 8 to any icmp-type 3 code 3 set-tag(log=4711)", None),
    ("log in on int0 inet proto tcp from 10.0.0.2/32 port = 99999 to any flags R/R set-tag(log=4711)", None),
    ("log in on int0 inet proto tcp from 10.0.0.2/32 port = 80 to any flags R/R set-tag(log=9999999999)", None),
    ("# empty list for ipfilter(in)", None),
    ("", None),
])
def test_parse(line: str, expected: Rule | None) -> None:
    assert parse(line) == expected


def test_count_rules_of_the_samples_with_their_hits() -> None:
    text = (SAMPLES / "keep-state-single-reader.txt").read_text()
    lines = [line.replace("http-alt", "8080") for line in re.findall(r"count rule +: \['(.*)'\]", text)]
    assert lines and {parse(line) for line in lines} == {COUNT}
    assert {rdr.hits(line) for line in lines} == {2}
    assert rdr.hits("count in on int0") is None
    log = re.findall(r"log rule hits : \['(.*)'\]", text)
    assert {parse(line.replace("http-alt", "8080")) for line in log} == {TCP}


@pytest.mark.parametrize(("rule", "line"), [
    (TCP, "log in on int0 proto tcp from 10.0.0.2 port = 8080 to any flags R/R set-tag(log=4711)"),
    (TCP6, "log in on int0 proto tcp from fd00::2 port = 8080 to any flags R/R set-tag(log=4711)"),
    (COUNT, "count in on int0 proto tcp from 10.0.0.2 port = 8080 to any flags R/R"),
    (UDP, "log in on int0 proto icmp from 10.0.0.2 to any icmp-type 3 code 3 set-tag(log=4711)"),
    (UDP6, "log in on int0 proto ipv6-icmp from fd00::2 to any icmp-type 1 code 4 set-tag(log=4711)"),
])
def test_line(rule: Rule, line: str) -> None:
    assert rule.line() == line
    assert parse(line) == rule
    assert parse(log_rules.feed(line)) == rule
    assert log_rules.tag(line) == rule.tag


def test_log_rules_go_first_and_count_rules_where_they_come() -> None:
    assert log_rules.feed(TCP.line()).startswith("@0 log ")
    assert log_rules.feed(COUNT.line()) == COUNT.line()


@pytest.mark.parametrize("prefix", ["", "2 ", "2 80 ", "@1 ", "2 80 @1 "])
def test_bare(prefix: str) -> None:
    assert log_rules.bare(prefix + COUNT.line()) == COUNT.line()


def test_wanted_one_for_members_that_clusters_share() -> None:
    shared = [endpoint("10.0.0.2", 8080), endpoint("10.0.0.2", 8080, cluster="api"), endpoint("10.0.0.2", 8443),
              endpoint("10.0.0.2", 53, "udp"), endpoint("10.0.0.2", 54, "udp"), endpoint("fd00::2", 8080)]
    wanted = [TCP, Rule("log", "int0", "10.0.0.2", 8443, 4711), UDP, TCP6]
    assert log_rules.wanted(shared, "int0", "log", 4711) == wanted


@given(st.builds(Rule, st.sampled_from(["log", "count"]), st.from_regex(r"\A[a-z]{1,5}[0-9]{1,3}(\.[0-9]{1,4})?\Z"),
                 st.ip_addresses().map(str), st.none() | st.integers(1, 65535), st.none() | st.integers(0, 2**32 - 1)))
def test_every_rule_is_read_back(rule: Rule) -> None:
    assert parse(rule.line()) == rule
    listed = rule.line().replace(f"from {rule.address}", f"from {rule.address}/{128 if rule.inet6 else 32}")
    assert parse(f"7 9 {listed}") == rule


@given(st.text(max_size=200))
def test_garbage_is_no_rule(text: str) -> None:
    assert parse(text) is None
