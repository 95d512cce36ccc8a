"""The configuration: every key arrives, and no text makes the reader stumble (refusals: test_config_errors)."""

from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4ipd.checks.pattern import pattern
from l4ipd.config import check_section, members, services, values, yaml_tree
from l4ipd.config import parse as config
from l4ipd.config.parse import ConfigError, parse
from l4ipd.config.warnings import warnings
from l4ipd.model import (
    Check,
    Cluster,
    Config,
    Control,
    Endpoint,
    Flap,
    Http,
    Ipfilter,
    Log,
    Member,
    Ready,
    Resets,
    Service,
    Step,
)
from support import ROOT
from support.configurations import IPFILTER, MEMBERS, SAMPLE, small, with_check

INSTALLED = ROOT / "etc" / "l4ip.conf.sample"


def the_service(text: str) -> Service:
    return parse(text, "l4ip.conf").clusters[0].services[0]


def the_check(check: str) -> Check:
    return the_service(with_check(check)).checks[0]


# -- what is accepted

def test_the_example_of_the_manual() -> None:
    http = Check("http", interval=2, timeout=2, fast_interval=1, down_interval=2, path="/healthz", status=((200, 299),))
    https = Check("https", path="/healthz", verify="/etc/ssl/ca.pem")
    assert parse(SAMPLE, "l4ip.conf") == Config(
        ipfilter=Ipfilter("em0", "l4ip", 10, "keep", "yes", 5, ("/sbin/ipnat",), ("/sbin/ipf",), ("/sbin/ipfstat",),
                          ("/usr/sbin/ipmon",)),
        clusters=(Cluster("www", ("203.0.113.10",),
                          (Service("http", 80, "tcp", 8080, False, (http,), "yes"),
                           Service("https", 443, "tcp", 443, False, (https,), "yes")),
                          (Member("web1", "10.0.0.11"), Member("web2", "10.0.0.12", 2),
                           Member("sorry", "10.0.0.99", fallback=True)), False),),
        pidfile="/var/run/l4ip.pid", control=Control("/var/run/l4ip.sock", None), state="/var/db/l4ip/state.json",
        log=Log("daemon", "info"), http=None, notify=(), resets=Resets("em1", "ipmon", "refused", 4711))


#: of everything in the example, a piece and what may stand there instead
OTHERS = [
    ("pidfile: /var/run/l4ip.pid", "pidfile: /p"),
    ("control: /var/run/l4ip.sock", "control: {path: /c, group: wheel}"),
    ("state: /var/db/l4ip/state.json", "state: /s"), ("facility: daemon", "facility: local3"),
    ("level: info", "level: debug"), ("http: no", "http: 127.0.0.1:8089"), ("notify: []", "notify: [/bin/n, a]"),
    ("interface: em0", "interface: '*'"), ("tag: l4ip", "tag: lb"), ("resync: 10s", "resync: 1m"),
    ("on_stop: keep", "on_stop: remove"), ("purge: yes", "purge: no"), ("timeout: 5s", "timeout: 6s"),
    ("/sbin/ipnat ", "[doas, ipnat]"), ("/sbin/ipf ", "ipf"), ("/sbin/ipfstat", "ipfstat"),
    ("/usr/sbin/ipmon", "ipmon"), ("interface: em1", "interface: em2"), ("source: ipmon", "source: counters"),
    ("action: refused", "action: any"), ("tag: 4711", "tag: 1"), ("interval: 5s", "interval: 4s"),
    ("timeout: 2s", "timeout: 1s"), ("rise: 2", "rise: 1"), ("fall: 3", "fall: 1"), ("  www:", "  web:"),
    ("203.0.113.10", "203.0.113.11"), ("port: 80\n", "port: 81\n"),
    ("protocol: tcp", "protocol: udp"), ("member_port: 8080", "member_port: 8081"), ("sticky: no", "sticky: yes"),
    ("type: http,", "type: https,"), ("path: /healthz, status", "path: /, status"), ("200-299", "204"),
    ("interval: 2s", "interval: 3s"), ("verify: /etc/ssl/ca.pem", "verify: yes"), ("web1:", "w1:"),
    ("10.0.0.11", "10.0.0.21"), ("weight: 2", "weight: 0"), ("fallback: yes", "fallback: no"),
    ("when_all_down: remove", "when_all_down: keep"),
]


@pytest.mark.parametrize("old, new", OTHERS)
def test_everything_in_the_example_counts(old: str, new: str) -> None:
    """With another value in one place, another configuration comes out."""
    assert old in SAMPLE
    text = SAMPLE.replace(old, new, 1)
    if new == "protocol: udp":
        text = text.replace("type: http,", "type: http, port: 8080,")
    assert parse(text, "l4ip.conf") != parse(SAMPLE, "l4ip.conf")


def test_every_key_of_the_manual_is_known() -> None:
    known = {*config.TOP, *config.IPFILTER, *config.RESETS, *config.CLUSTER, *services.SERVICE, *members.MEMBER,
             *check_section.KEYS, *check_section.VERBS, "facility", "level", "path", "group"}
    names = {"www", "http", "https", "web1", "web2", "sorry"}
    assert set(re.findall(r"(?:^ *|[{,] *)([a-z_0-9]+):(?= |\n)", SAMPLE, re.MULTILINE)) <= known | names
    assert set(check_section.KEYS) == ({field.name for field in fields(Check)} - {"secrets"})
    for type_, keys in {
        "tcp": "dialog closed", "tls": "dialog verify sni", "http": "method path host headers status drain body",
        "https": "method path host headers status drain body verify sni verify_host cert key",
        "udp": "send expect closed", "exec": "command user",
        "ping": "",
    }.items():
        common = ["type", "interval", "timeout", "rise", "fall", "port", "fast_interval", "down_interval"]
        assert {*common, *keys.split()} <= {*check_section.COMMON, *check_section.OWN[type_]}


@pytest.mark.skipif(not INSTALLED.exists(), reason="there is no sample beside the tests")
def test_the_installed_sample() -> None:
    text = INSTALLED.read_text()
    parse(text, "l4ip.conf.sample")
    spoken = re.sub(r"^( *)#(?=- |[a-z0-9_]+:)", r"\1", text, flags=re.MULTILINE)
    assert spoken != text
    assert len(list(parse(spoken, "l4ip.conf.sample").endpoints())) > 10


def test_the_least_that_is_needed() -> None:
    found = parse(small(), "l4ip.conf")
    assert found == Config(Ipfilter("em0"), (Cluster("c", ("203.0.113.1",), (
        Service("s", 80, "tcp", 80, False, (Check("tcp"),)),), (Member("m", "10.0.0.1"),)),))
    assert found.given == {"ipfilter", "clusters"}
    assert list(found.endpoints()) == [Endpoint("c/s/m", "c", "s", "m", ("203.0.113.1",), 80, "tcp", False, "10.0.0.1",
                                                80, 1, False, (Check("tcp"),))]


TOPS: list[tuple[str, str, Any]] = [
    ("http: no", "http", None), ("http: off", "http", None), ("http: 127.0.0.1:8089", "http", Http("127.0.0.1", 8089)),
    ("http: '[::1]:80'", "http", Http("::1", 80)), ("http: 0.0.0.0:1", "http", Http("0.0.0.0", 1)),
    ("http: {listen: '127.0.0.1:1'}", "http", Http("127.0.0.1", 1)), ("http: {listen: no, names: a}", "http", None),
    ("http: {listen: '[::1]:1', names: [Gw.example.net., gw]}", "http", Http("::1", 1, ("gw.example.net", "gw"))),
    ("control: /c", "control", Control("/c")), ("control: {path: /c}", "control", Control("/c")),
    ("control: {group: wheel}", "control", Control(group="wheel")), ("control: {}", "control", Control()),
    ("log: {level: warn}", "log", Log(level="warning")), ("log: {level: error}", "log", Log(level="err")),
    ("log: {facility: local7}", "log", Log("local7")), ("log:", "log", Log()),
    ("notify: /bin/n", "notify", ("/bin/n",)), ("notify: [/bin/n, a b, '', no, 1]", "notify",
                                                ("/bin/n", "a b", "", "no", "1")),
    ("notify:", "notify", ()), ("resets: no", "resets", None), ("resets: {interface: em1}", "resets", Resets("em1")),
    ("resets: {interface: em1, source: /var/log/ipf, action: check, tag: 2147483647}", "resets",
     Resets("em1", "/var/log/ipf", "check", 2**31 - 1)),
    ("state: '/with blank'", "state", "/with blank"),
]


@pytest.mark.parametrize("line, key, value", TOPS, ids=[row[0] for row in TOPS])
def test_top_level(line: str, key: str, value: object) -> None:
    found = parse(small(more=line), "l4ip.conf")
    assert getattr(found, key) == value
    assert found.given == {"ipfilter", "clusters", key}


IPFILTERS: list[tuple[str, str, Any]] = [
    ("tag: no", "tag", None), ("tag: 'no'", "tag", None), ("tag: NO", "tag", None), ("tag: a-b_c.d", "tag", "a-b_c.d"),
    ("tag: abcdefghijkl", "tag", "abcdefghijkl"), ("tag: v1.x2", "tag", "v1.x2"), ("resync: 0.5", "resync", 0.5),
    ("resync: 1h", "resync", 3600), ("purge: on", "purge", "yes"), ("purge: FALSE", "purge", "no"),
    ("purge: dead", "purge", "dead"),
    ("timeout: 500ms", "timeout", 0.5), ("on_stop: remove", "on_stop", "remove"),
    ("ipnat: [python3, -m, x, no]", "ipnat", ("python3", "-m", "x", "no")), ("ipmon: ipmon", "ipmon", ("ipmon",)),
]


@pytest.mark.parametrize("line, key, value", IPFILTERS, ids=[row[0] for row in IPFILTERS])
def test_ipfilter(line: str, key: str, value: object) -> None:
    assert getattr(parse(small(f"ipfilter: {{interface: em0, {line}}}"), "l4ip.conf").ipfilter, key) == value


@pytest.mark.parametrize("name", ["em0", "*", "igb0.100", "vlan_3", "net-1", "aggr0123456789z"])
def test_interface(name: str) -> None:
    assert parse(small(f"ipfilter: {{interface: '{name}'}}"), "l4ip.conf").ipfilter.interface == name


ADDRESSES = [
    ("203.0.113.1", ("203.0.113.1",)), ("[203.0.113.1]", ("203.0.113.1",)), ("127.0.0.1", ("127.0.0.1",)),
    ("[203.0.113.1, '203.0.113.2']", ("203.0.113.1", "203.0.113.2")),
]


@pytest.mark.parametrize("text, value", ADDRESSES)
def test_addresses(text: str, value: tuple[str, ...]) -> None:
    assert parse(small(address=f"address: {text}"), "l4ip.conf").clusters[0].addresses == value


def test_inet6_is_normalised() -> None:
    found = parse(small(address="address: [2001:DB8:0::1, 2001:db8::2]", members="members: {m: fd00:0:0:0::1}"), "c")
    assert found.clusters[0].addresses == ("2001:db8::1", "2001:db8::2")
    assert found.clusters[0].members == (Member("m", "fd00::1"),)


def test_names_are_what_is_written() -> None:
    """Not what YAML 1.1 would make of them."""
    found = parse(small(members="members: {1: 10.0.0.1, on: 10.0.0.2, 1:30: 10.0.0.3, 0o10: 10.0.0.4, null: 10.0.0.5,"
                                " 1.50: 10.0.0.6, web@rack-1+a: 10.0.0.7, '12': 10.0.0.8}"), "l4ip.conf")
    assert [member.name for member in found.clusters[0].members] == [
        "1", "on", "1:30", "0o10", "null", "1.50", "web@rack-1+a", "12"]


def test_members() -> None:
    found = parse(small(members="members: {a: {address: 10.0.0.1, weight: 99}, b: {address: 10.0.0.2, fallback: yes},"
                                " c: {address: 10.0.0.3, port: 81}, d: {address: 10.0.0.3, port: 82}}"), "l4ip.conf")
    assert found.clusters[0].members == (Member("a", "10.0.0.1", 99), Member("b", "10.0.0.2", fallback=True),
                                         Member("c", "10.0.0.3", port=81), Member("d", "10.0.0.3", port=82))


@pytest.mark.parametrize("top, defaults, service, expected", [
    ("", "", "", "dead"), (", purge: no", "", "", "no"), (", purge: no", "purge: yes", "", "yes"),
    (", purge: no", "purge: yes", ", purge: dead", "dead"), ("", "purge: no", "", "no"), ("", "", ", purge: NO", "no"),
    ("", "", ", sticky: yes", "yes"), ("", "", ", sticky: yes, purge: no", "no"),
    ("", "purge: dead", ", sticky: yes", "dead"), (", purge: dead", "", ", sticky: yes", "dead")])
def test_whose_purge_counts(top: str, defaults: str, service: str, expected: str) -> None:
    """The service's own, else that of defaults, else that of ipfilter; without any, sticky makes the difference."""
    found = parse(small(f"ipfilter: {{interface: em0{top}}}", services=f"s: {{port: 80{service}}}",
                        more=f"defaults: {{{defaults}}}"), "l4ip.conf")
    assert [endpoint.purge for endpoint in found.endpoints()] == [expected]


@pytest.mark.parametrize("defaults, service, expected", [
    ("", "", Flap(6, 300.0)), ("flap: no", "", None), ("flap: {changes: 4}", "", Flap(4, 300.0)),
    ("flap: {within: 1m}", "", Flap(6, 60.0)), ("flap: {changes: 4, within: 1m}", "", Flap(4, 60.0)),
    ("flap: no", ", flap: {within: 10s}", Flap(6, 10.0)),
    ("flap: {changes: 4}", ", flap: {within: 10s}", Flap(4, 10.0)),
    ("flap: {changes: 4}", ", flap: OFF", None), ("flap: {}", "", Flap())])
def test_whose_flap_counts(defaults: str, service: str, expected: Flap | None) -> None:
    """The service's own, else that of defaults; where one of both says less, the rest is that of before."""
    found = parse(small(services=f"s: {{port: 80{service}}}", more=f"defaults: {{{defaults}}}"), "l4ip.conf")
    assert [endpoint.flap for endpoint in found.endpoints()] == [expected]


@pytest.mark.parametrize("service, age", [
    ("port: 53, protocol: udp, check: ping", 30), ("port: 53, protocol: udp, check: ping, age: 5", 5),
    ("port: 53, protocol: udp, check: ping, age: 1m", 60), ("port: 53, protocol: udp, check: ping, age: no", None),
    ("port: 80", None), ("port: 80, age: 2h", 7200), ("port: 80, age: 1s", 1), ("port: 80, age: 120h", 432000)])
def test_age(service: str, age: int | None) -> None:
    """Of udp, ten minutes would fill the table; of tcp, it is for the kernel to say."""
    found = parse(small(services=f"s: {{{service}}}"), "l4ip.conf")
    assert [endpoint.age for endpoint in found.endpoints()] == [age]


def test_when_all_down() -> None:
    assert parse(small(members=MEMBERS + "\n    when_all_down: keep"), "l4ip.conf").clusters[0].keep


def test_tcp_and_udp_share_a_port_and_members_an_address() -> None:
    text = small(services="t: {port: 53}\n      u: {port: 53, protocol: udp, check: ping}", more="""\
  d:
    address: 203.0.113.1
    services: {t: {port: 54, member_port: 53}}
    members: {x: 10.0.0.1}
""")
    assert [endpoint.name for endpoint in parse(text, "l4ip.conf").endpoints()] == ["c/t/m", "c/u/m", "d/t/x"]


CHECKS: list[tuple[str, Check]] = [
    ("tcp", Check("tcp")), ("ping", Check("ping")), ("http", Check("http")), ("{type: tls}", Check("tls")),
    ("{type: tcp, interval: 1s}", Check("tcp", 1, 1, 2, 3, 1, 1)),
    ("{type: tcp, interval: 0.5}", Check("tcp", .5, .5, 2, 3, .5, .5)),
    ("{type: tcp, interval: 10s, timeout: 10s}", Check("tcp", 10, 10, 2, 3, 1, 10)),
    ("{type: tcp, fast_interval: 500ms, down_interval: 1m}", Check("tcp", 5, 2, 2, 3, .5, 60)),
    ("{type: tcp, fast_interval: 50ms, down_interval: 1s, timeout: 5s}", Check("tcp", 5, 5, 2, 3, .05, 1)),
    ("{type: tcp, rise: 1, fall: 100, port: 65535, close: fin}",
     Check("tcp", rise=1, fall=100, port=65535, close="fin")),
    ("{type: tcp, closed: yes}", Check("tcp", closed=True)),
    ("{type: tcp, dialog: [expect: 220 *, send: 'a%0d%0A%25 é', reject: '%2A%00[!%5D]%5cn*']}", Check("tcp", dialog=(
        Step("expect", b"220 *"), Step("send", b"a\r\n% \xc3\xa9"), Step("reject", b"\\*\0[!\\]]\\\\n*")))),
    ("{type: tcp, dialog: [expect: '\\%2A\\\\%2A%41\\%41']}", Check("tcp", dialog=(
        Step("expect", b"\\*\\\\\\*A\\A"),))),
    ("{type: http, status: 200, body: ok}", Check("http", status=((200, 200),), body=b"ok")),
    ("{type: http, status: [204, 205, 304-305], body: ok}",
     Check("http", status=((204, 204), (205, 205), (304, 305)), body=b"ok")),
    ("{type: tls, verify: no, sni: a.example}", Check("tls", sni="a.example")),
    ("{type: tls, verify: yes}", Check("tls", verify="")), ("{type: tls, verify: /ca}", Check("tls", verify="/ca")),
    ("{type: http, method: OPTIONS, path: '/a?b=%20#c', host: 'x:81', body: '*ok*'}",
     Check("http", method="OPTIONS", path="/a?b=%20#c", host="x:81", body=b"*ok*")),
    ("{type: tls, sni: 'fd00::1'}", Check("tls", sni="fd00::1")),
    ("{type: exec, command: [curl, '%{http_code}', '{print}', '{report}', '{port}']}",
     Check("exec", command=("curl", "%{http_code}", "{print}", "{report}", "{port}"))),
    ("{type: http, host: '[::1]:81', headers: {X-A: b c, Y: '', Authorization: Basic eDp5}}",
     Check("http", host="[::1]:81", headers=(("X-A", "b c"), ("Y", ""), ("Authorization", "Basic eDp5")))),
    ("{type: http, drain: []}", Check("http")),
    ("{type: http, drain: 503}", Check("http", drain=((503, 503),))),
    ("{type: https, status: 200, drain: [404, '500 - 503']}",
     Check("https", status=((200, 200),), drain=((404, 404), (500, 503)))),
    ("{type: http, drain: 302}", Check("http", drain=((302, 302),))),
    ("{type: http, status: 200}", Check("http", status=((200, 200),))),
    ("{type: http, status: [200, 301-302]}", Check("http", status=((200, 200), (301, 302)))),
    ("{type: http, status: '200, 204 - 206'}", Check("http", status=((200, 200), (204, 206)))),
    ("{type: udp, port: 53, send: x, expect: '*'}", Check("udp", port=53, send=b"x", expect=b"*")),
    ("{type: udp, port: 53, closed: yes, send: x}", Check("udp", port=53, closed=True, send=b"x")),
    ("{type: exec, command: [/bin/c, '{address}:{port}', '{}', '{a b}', '', no], user: nobody}",
     Check("exec", command=("/bin/c", "{address}:{port}", "{}", "{a b}", "", "no"), user="nobody")),
    ("{type: exec, command: [true]}", Check("exec", command=("true",))),
    ("{type: exec, command: /bin/true}", Check("exec", command=("/bin/true",))),
]


@pytest.mark.parametrize("text, check", CHECKS, ids=[row[0] for row in CHECKS])
def test_check(text: str, check: Check) -> None:
    assert the_check(text) == check


def test_the_pace_comes_from_the_defaults_and_the_check_overrides_it() -> None:
    text = with_check("{type: tcp, interval: 20s, rise: 9}")
    defaults = "defaults: {interval: 10s, timeout: 3s, rise: 5, fall: 6, fast_interval: 3s}"
    assert the_service(text + defaults).checks == (Check("tcp", 20, 3, 9, 6, 3, 20),)
    assert the_service(text + "defaults: {interval: 1s}").checks == (Check("tcp", 20, 2, 9, 3, 1, 20),)
    both = with_check("[tcp, tls]") + "defaults: {interval: 9s, fast_interval: 3s, down_interval: 7s}"
    assert the_service(both).checks == (Check("tcp", 9, 2, 2, 3, 3, 7), Check("tls", 9, 2, 2, 3, 3, 7))


def test_the_first_check_of_a_list_sets_the_pace() -> None:
    text = with_check("[{type: ping, interval: 4s, fall: 9, timeout: 1s}, tcp, {type: http, timeout: 3s}]")
    assert the_service(text).checks == (Check("ping", 4, 1, 2, 9, 1, 4), Check("tcp", 4, 2, 2, 9, 1, 4),
                                        Check("http", 4, 3, 2, 9, 1, 4))


def with_defaults(defaults: str, check: str) -> tuple[Check, ...]:
    return the_service(f"defaults: {defaults}\n{with_check(check)}").checks


@pytest.mark.parametrize("defaults, check, sources", [
    ("{}", "tcp", [None]), ("{source: 10.9.9.9}", "tcp", ["10.9.9.9"]),
    ("{source: 10.9.9.9}", "{type: tcp, source: 10.8.8.8}", ["10.8.8.8"]),
    ("{source: 10.9.9.9}", "[tcp, {type: http, path: /}]", ["10.9.9.9"] * 2),
    ("{source: 10.9.9.9}", "[tcp, {type: http, source: 10.8.8.8}, tcp]", ["10.9.9.9", "10.8.8.8", "10.9.9.9"]),
    ("{}", "[{type: tcp, source: 10.8.8.8}, tcp]", ["10.8.8.8", None]),
])
def test_whose_source_counts(defaults: str, check: str, sources: list[str | None]) -> None:
    """A later check has that of the defaults, not that of the first: it may go elsewhere."""
    assert [each.source for each in with_defaults(defaults, check)] == sources


@pytest.mark.parametrize("defaults, check, paces", [
    ("{}", "tcp", [(5, 1, 5)]), ("{interval: 500ms}", "tcp", [(.5, .5, .5)]),
    ("{fast_interval: 2s, down_interval: 20s}", "tcp", [(5, 2, 20)]),
    ("{fast_interval: 2s}", "{type: tcp, interval: 10s, down_interval: 30s}", [(10, 2, 30)]),
    ("{down_interval: 20s}", "{type: tcp, fast_interval: 3s}", [(5, 3, 20)]),
    ("{fast_interval: 2s, down_interval: 20s}", "[{type: tcp, interval: 9s}, tcp]", [(9, 2, 20)] * 2),
])
def test_the_paces_of_doubt_and_of_what_is_down(defaults: str, check: str,
                                                paces: list[tuple[float, float, float]]) -> None:
    found = with_defaults(defaults, check)
    assert [(each.interval, each.fast_interval, each.down_interval) for each in found] == paces


@pytest.mark.parametrize("protocol, more, over", [
    ("udp", "", "udp"), ("tcp", "", "tcp"), ("udp", ", tls: 'no'", "udp"), ("udp", ", tls: 'yes'", "tcp"),
    ("udp", ", send_proxy: v2", "tcp"), ("tcp", ", send_proxy: v1", "tcp"),
    ("udp", ", over: tcp", "tcp"), ("tcp", ", over: udp", "udp"),
])
def test_what_a_dns_check_is_spoken_over(protocol: str, more: str, over: str) -> None:
    service = f"s: {{port: 53, protocol: {protocol}, check: {{type: dns, name: example.org{more}}}}}"
    assert [check.over for check in the_service(small(services=service)).checks] == [over]


@pytest.mark.parametrize("check, password", [
    ("{type: ldap, user: cn=x, password: secret}", b"secret"), ("{type: pgsql, user: x, writable: yes}", None),
    ("{type: mysql, user: x, password: secret, writable: yes}", b"secret"),
])
def test_who_logs_in(check: str, password: bytes | None) -> None:
    found = the_check(check)
    assert found.user and found.password == password


def test_aliases_and_merges() -> None:
    text = small("ipfilter: &i {interface: &n em0}", services="""\
s: &s {port: 80, check: &k {type: http, path: /a, rise: 4}}
      t: {<<: *s, port: 81, check: {<<: [*k, {path: /no, fall: 9}], type: http}}""",
                 members="members: &m {m: 10.0.0.1}", more="""\
  d: {address: 203.0.113.2, services: {s: *s}, members: *m}
resets: {interface: *n}
""")
    found = parse(text, "l4ip.conf")
    check = Check("http", rise=4, path="/a")
    assert [service.checks for service in found.clusters[0].services] == [
        (check,), (Check("http", rise=4, fall=9, path="/a"),)]
    assert found.clusters[0].services[1].port == 81
    assert found.clusters[1].members == found.clusters[0].members
    assert found.resets == Resets("em0")


@pytest.mark.parametrize("text", [
    SAMPLE.encode(), b"\xef\xbb\xbf" + SAMPLE.encode(), SAMPLE.replace("\n", "\r\n"), "---\n" + SAMPLE + "...\n",
    "%YAML 1.1\n---\n" + SAMPLE, SAMPLE.replace("port: 80\n", "port: !!int 80\n"),
    SAMPLE.replace("port: 80\n", "port: '80'\n"),
])
def test_spellings_of_a_file(text: str | bytes) -> None:
    assert parse(text, "l4ip.conf") == parse(SAMPLE, "l4ip.conf")


def test_a_reload_of_the_same_text_compares_equal() -> None:
    one, other = parse(SAMPLE, "a"), parse(SAMPLE, "b")
    assert one == other and hash(one) == hash(other)


@pytest.mark.parametrize("text, seconds", [("500ms", .5), ("2s", 2), ("1m", 60), ("1h", 3600), ("3", 3), (".5", .5),
                                           ("1.5m", 90), ("1100ms", 1.1)])
def test_duration(text: str, seconds: float) -> None:
    assert values.duration(text) == seconds
    assert values.duration(values.span(seconds)) == seconds


# -- what is worth a warning

UDP = "s: {port: 80, protocol: udp, check: %s}"
HTTP = "s: {port: 80, check: {type: http, %s}}"
WARNINGS: list[tuple[str, list[str]]] = [
    (SAMPLE, ["www/https: verify has no name to verify, so that any certificate of these authorities will do: add sni, "
              "host or verify_host"]),
    (small(services=UDP % "udp"), ["c/s: a udp check without expect cannot see a dead host: add send and expect, or a"
                                   " ping check beside it"]),
    (small(services=UDP % "[udp, ping]"), []),
    (small(services=UDP % "{type: udp, send: x, expect: y}"), []),
    (small(services=UDP % "{type: udp, closed: yes}"), []),
    (small("ipfilter: {interface: em0, purge: no}", services="s: {port: 80, sticky: yes}"),
     ["c/s: sticky with purge: no keeps sending a member's clients to it after it went down, until their sessions"
      " end"]),
    (small(services="s: {port: 80, sticky: yes}"), []),
    (small(services="s: {port: 80, sticky: yes, check: {type: http, drain: 503}}"),
     ["c/s: sticky keeps sending a draining member's clients to it, until their sessions end"]),
    (small("ipfilter: {interface: em0, purge: dead}", services="s: {port: 80, sticky: yes}"),
     ["c/s: sticky with purge: dead keeps sending a member's clients to it after a check that got an answer took it"
      " down, until their sessions end"]),
    (small(members="members: {a: {address: 10.0.0.1, weight: 0}}"),
     ["c: every member has weight 0 or is a fallback: nobody serves, and it is never ready"]),
    (small(members="members: {a: {address: 10.0.0.1, weight: 0}, b: {address: 10.0.0.2, fallback: yes}}"),
     ["c: every member has weight 0 or is a fallback: only fallbacks serve, and it is never ready"]),
    (small(members="members: {a: {address: 10.0.0.1, weight: 0}, b: 10.0.0.2}"), []),
    (small(members="members: {a: {address: 10.0.0.1, weight: 0}}\n    members_from: [{file: f}]"), []),
    (small(more="http: 0.0.0.0:80"),
     ["http: 0.0.0.0 is not a loopback address: whoever can reach it can read the status"]),
    (small(more="http: '[::1]:80'"), []),
    (small(services=HTTP % "path: /, headers: {Authorization: 'Bearer ${TOKEN}', X-A: a}"),
     ["c/s: headers.Authorization: ${TOKEN} is taken as it stands: variables are not replaced"]),
    (small(services=HTTP % "headers: {X: '${TOKEN:-secret}', Y: '$(cat /secret)', Z: 'Basic $TOKEN'}"),
     ["c/s: headers.X: ${TOKEN} is taken as it stands: variables are not replaced",
      "c/s: headers.Y: $(...) is taken as it stands: variables are not replaced",
      "c/s: headers.Z: $TOKEN is taken as it stands: variables are not replaced"]),
    (small(services=HTTP % "path: '/${a}?b', headers: {Host: '{member}.example.net'}, body: 'x{address}y'"),
     ["c/s: path: ${a} is taken as it stands: variables are not replaced",
      "c/s: headers.Host: {member} is taken as it stands: it is replaced in commands only",
      "c/s: body: {address} is taken as it stands: it is replaced in commands only"]),
    (small(services="s: {port: 80, check: {type: tcp, dialog: [expect: '220*', send: 'AUTH ${PASSWORD}%0d%0a']}}"),
     ["c/s: dialog[2].send: ${PASSWORD} is taken as it stands: variables are not replaced"]),
    (small(services=UDP % "{type: udp, send: '${A}', expect: '{port}'}"),
     ["c/s: send: ${A} is taken as it stands: variables are not replaced",
      "c/s: expect: {port} is taken as it stands: it is replaced in commands only"]),
    (small(services=HTTP % "path: '/$metadata?$top=1', headers: {A: 'pa$$WORD', B: '$4', C: '{x}', D: '$'}"), []),
    (small(services="s: {port: 80, check: {type: tls, verify: yes}}"),
     ["c/s: verify has no name to verify, so that any certificate of these authorities will do: add sni or"
      " verify_host"]),
    (small(services="s: {port: 80, check: {type: https, verify: /etc/ca.pem}}"),
     ["c/s: verify has no name to verify, so that any certificate of these authorities will do: add sni,"
      " host or verify_host"]),
    (small(services="s: {port: 80, check: {type: https, verify: /etc/ca.pem, verify_host: member}}"), []),
    (small(services="s: {port: 80, check: {type: https, verify: yes, host: 'www.example.org:8443'}}"), []),
    (small(services="s: {port: 80, check: {type: tls, verify: yes, sni: 192.0.2.1}}"), []),
    (small(services="s: {port: 80, check: {type: tls, sni: www.example.org}}"), []),
    (small(services="s: {port: 80, check: {type: exec, command: [sh, -c, 'nc -z {address} ${SOME}']}}"), []),
]


@pytest.mark.parametrize("text, expected", WARNINGS)
def test_warnings(text: str, expected: list[str]) -> None:
    assert warnings(parse(text, "l4ip.conf")) == expected


# -- sizes

def address_of(number: int) -> str:
    return f"10.{number // 62500}.{number // 250 % 250}.{number % 250 + 1}"


@pytest.mark.parametrize("clusters, members", [(1, 10000), (100, 100)])
def test_ten_thousand_endpoints(clusters: int, members: int) -> None:
    text = [f"{IPFILTER}\nclusters:"]
    for cluster in range(clusters):
        text.append(f"  c{cluster}:\n    address: 203.0.113.{cluster + 1}\n    services: {{s: {{port: 80}}}}")
        text.append("    members:")
        text += [f"      m{number}: {{address: {address_of(cluster * members + number)}, weight: 2}}"
                 for number in range(members)]
    found = list(parse("\n".join(text), "l4ip.conf").endpoints())
    assert len({endpoint.name for endpoint in found}) == 10000
    assert found[-1].address == address_of(9999)


# -- whatever the text

def survives(text: str | bytes) -> None:
    """It is read, or refused in lines of the house's form; nothing else is raised."""
    try:
        parse(text, "l4ip.conf")
    except ConfigError as error:
        assert error.errors
        for line in error.errors:
            assert re.fullmatch(r"l4ip\.conf:[1-9][0-9]*: .+", line) and line.isprintable(), line


@pytest.fixture(params=["libyaml", "pure"])
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both of PyYAML's parsers, since not every machine has the one in C."""
    if request.param == "pure":
        monkeypatch.setattr(yaml_tree, "Loader", yaml.BaseLoader)
    return str(request.param)


FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
WORDS = st.sampled_from(re.findall(r"[\w./-]+|[^\w\s]|\n *", SAMPLE))
KEYS = [*config.TOP, *config.IPFILTER, *config.RESETS, *config.CLUSTER, *services.SERVICE, *members.MEMBER,
        *check_section.KEYS, *check_section.VERBS, "<<", "www"]
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=20),
                    st.sampled_from([*check_section.TYPES, "10.0.0.1", "fd00::1", "em0", "no", "/a", "%0d", "220 *",
                                     "5s"]))
TREES = st.recursive(SCALARS, lambda inner: st.one_of(
    st.lists(inner, max_size=4),
    st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=8)), inner, max_size=6)), max_leaves=25)
PLACES = ["ipfilter", "resets", "defaults", "log", "control", "check", "services", "members", "address"]


@FUZZ
@given(st.binary(max_size=300))
def test_any_bytes(loader: str, data: bytes) -> None:
    survives(data)


@FUZZ
@given(st.lists(st.one_of(WORDS, st.sampled_from(["\t", "&a ", "*a ", "!x ", "<<: *a", "? ", "\x85", "---\n"])),
                max_size=60).map("".join))
def test_any_words(loader: str, text: str) -> None:
    survives(text)


@FUZZ
@given(st.integers(0, len(SAMPLE)), st.integers(0, 12), st.one_of(WORDS, st.text(max_size=6), st.binary(max_size=6)))
def test_any_change_of_the_example(loader: str, place: int, length: int, new: str | bytes) -> None:
    data = SAMPLE.encode()
    piece = new if isinstance(new, bytes) else new.encode("utf-8", "surrogatepass")
    survives(data[:place] + piece + data[place + length:])


@FUZZ
@given(TREES)
def test_any_tree(loader: str, tree: object) -> None:
    survives(yaml.safe_dump(tree, allow_unicode=True))


@FUZZ
@given(st.sampled_from(PLACES), TREES)
def test_any_tree_in_its_place(loader: str, key: str, tree: object) -> None:
    config_tree = yaml.safe_load(SAMPLE)
    cluster = config_tree["clusters"]["www"]
    owner = cluster["services"]["http"] if key == "check" else cluster if key in cluster else config_tree
    owner[key] = tree
    survives(yaml.safe_dump(config_tree, allow_unicode=True))


@pytest.mark.parametrize("cut", range(0, len(SAMPLE), 7))
def test_the_example_cut_short(cut: int) -> None:
    survives(SAMPLE[:cut])


def test_both_parsers_read_the_same(loader: str) -> None:
    found = parse(SAMPLE, "l4ip.conf")
    assert found.clusters[0].services[0].checks[0].path == "/healthz"
    assert found.ipfilter == Ipfilter("em0", resync=10.0, purge="yes", ipnat=("/sbin/ipnat",), ipf=("/sbin/ipf",),
                                      ipfstat=("/sbin/ipfstat",), ipmon=("/usr/sbin/ipmon",))
    assert found.http is None


@FUZZ
@given(st.text(max_size=30))
def test_what_goes_into_rules_has_no_surprises(text: str) -> None:
    """Whatever these readers let through is one plain word."""
    for reader in (values.interface, values.tag, values.name, values.address):
        try:
            value = reader(text)
        except ValueError:
            continue
        assert value is None or re.fullmatch(r"[A-Za-z0-9_.:@+-]+", value)


@FUZZ
@given(st.binary(min_size=1, max_size=40))
def test_any_byte_can_be_written(data: bytes) -> None:
    text = "".join(f"%{byte:02x}" for byte in data)
    assert values.octets(text) == data
    assert pattern(values.pattern(text)).search(data) == len(data)


def test_when_a_cluster_is_ready() -> None:
    def ready(text: str) -> Ready:
        config = parse("ipfilter: {interface: em0}\nclusters:\n  c: {address: 203.0.113.1, services: {s: {port: 80}}, "
                       f"members: {{a: 10.0.0.1, b: 10.0.0.2, f: {{address: 10.0.0.3, fallback: yes}}}}{text}}}", "f")
        return config.clusters[0].ready

    assert ready("") == Ready("all", 1)
    assert ready(", ready: {members: 2}") == Ready("all", 2)
    assert ready(", ready: {services: any}") == Ready("any", 1)
    for text, words in (("{members: 3}", "ready.members: 3 would never be ready: 2 of the members count"),
                        ("{members: 0}", "ready.members: 0 is not a number of members (1-9999)"),
                        ("{services: some}", "ready.services: some is not one of all, any"),
                        ("{service: all}", "ready.service: unknown key, did you mean services?"),
                        ("yes", "ready: is a mapping: {services: all, members: 1}, or one of both")):
        with pytest.raises(ConfigError) as refusal:
            ready(f", ready: {text}")
        assert f"clusters.c.{words}" in refusal.value.errors[0]
