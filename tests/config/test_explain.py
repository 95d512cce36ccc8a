"""Checks in words: every type, every default, and no secret."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.config import check_section
from l4ipd.config.explain import explained
from l4ipd.config.parse import parse
from support.gateway import PATIENCE, Gateway
from support.sample_conf import SAMPLE, switched_on
from support.sandbox_tools import Sandbox

FILE = "ipfilter: {{interface: em0}}\nclusters: {{www: {{address: 192.0.2.1, members: {{m: {member}}}, services: {{" \
       "http: {{port: 80, member_port: 8080, check: {check}}}}}}}}}"
PACE = ", every 5 s (1 s in doubt), at most 2 s, up after 2, down after 3"


def lines(check: str, member: str = "10.0.0.1") -> list[str]:
    return [line.removeprefix("www/http: ") for line in explained(parse(FILE.format(check=check, member=member), "c"))]


@pytest.mark.parametrize(("check", "line"), [
    ("{type: http, path: '/healthz?token=x'}",
     f"http GET /healthz of each member's port 8080, passes on status 200-399{PACE}"),
    ("{type: http, data: secret, status: 204, drain: 503, headers: {A: secret}, interval: 500ms, timeout: 100ms}",
     "http POST / of each member's port 8080, with 6 bytes of data, passes on status 204, drains on 503, every 500 ms, "
     "at most 100 ms, up after 2, down after 3"),
    ("{type: https, body: ok, verify: yes, verify_host: member, cert: /c}",
     "https GET / of each member's port 8080, a certificate for each member's address of one of the system's CAs, ours "
     f"is /c, passes on status 200-399 with the body that is wanted{PACE}"),
    ("tcp", f"tcp connection to each member's port 8080{PACE}"),
    ("{type: tcp, closed: yes, port: 99}", f"tcp connection to each member's port 99, passes when it is refused{PACE}"),
    ("{type: tcp, dialog: [send: secret, expect: secret], send_proxy: v1, source: 10.0.0.9}",
     f"tcp dialog of 2 steps with each member's port 8080, from 10.0.0.9, behind a PROXY header v1{PACE}"),
    ("{type: tls, verify: /ca, sni: a}",
     f"tls handshake with each member's port 8080, a certificate for a of /ca{PACE}"),
    ("tls", f"tls handshake with each member's port 8080, any certificate{PACE}"),
    ("{type: ping, down_interval: 30s, rise: 1}",
     "ping of each member, every 5 s (1 s in doubt, 30 s while down), at most 2 s, up after 1, down after 3"),
    ("{type: exec, command: [/bin/x, --password, secret], user: nobody}",
     f"exec /bin/x for each member, as nobody{PACE}"),
    ("{type: smtp, starttls: yes}",
     f"smtp conversation with each member's port 8080, after STARTTLS, any certificate{PACE}"),
    ("{type: pgsql, user: u, password: secret, writable: yes}",
     f"pgsql session with each member's port 8080, as u, passes if it can be written to{PACE}"),
    ("{type: dns, name: a.example, record: mx}",
     f"dns question for a.example MX over tcp to each member's port 8080{PACE}"),
])
def test_words(check: str, line: str) -> None:
    assert lines(check) == [line]


def test_a_list_has_one_pace() -> None:
    assert lines("[tcp, {type: agent, port: 9, timeout: 1s}]") == [
        f"1 of 2: tcp connection to each member's port 8080{PACE}",
        "2 of 2: agent's word from each member's port 9, at most 1 s"]


def test_a_member_with_a_port_of_its_own() -> None:
    assert lines("tcp", "{address: 10.0.0.1, port: 81}") == [
        f"tcp connection to each member's own port, 8080 where it has none{PACE}"]


def test_everything_can_be_explained() -> None:
    shown = parse(switched_on(SAMPLE), "c")
    assert len(explained(shown)) == sum(len(service.checks) for cluster in shown.clusters
                                        for service in cluster.services)
    used = {check.type for cluster in shown.clusters for service in cluster.services for check in service.checks}
    assert used == set(check_section.TYPES)


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()


def test_n_explains_with_v_only(gateway: Gateway) -> None:
    gateway.configure("""
        www:
          address: 127.0.0.1
          services: {http: {port: 1, check: {type: http, path: /healthz}}}
          members: {m: 127.0.0.2}
        """)
    quiet, said = gateway.run("-n"), gateway.run("-n", "-v")
    line = ("www/http: http GET /healthz of each member's port 1, passes on status 200-399, every 500 ms, "
            "at most 500 ms, up after 2, down after 2\n")
    assert quiet.returncode == said.returncode == 0 and quiet.stdout == said.stdout
    assert line not in quiet.stderr and line in said.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_rules_that_cannot_be_written_are_not_said_to_be_fine(gateway: Gateway) -> None:
    gateway.configure("www: {address: 127.0.0.1, services: {http: {port: 1}}, members: {m: 127.0.0.2}}")
    with open("/dev/full", "w") as full:
        done = subprocess.run(gateway.command("-n"), stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE,
                              env=gateway.environment(), cwd=gateway.directory)
    assert (done.returncode, done.stderr) == (1, "the rules cannot be written: no space left on device\n")
