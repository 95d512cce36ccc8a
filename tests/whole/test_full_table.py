"""The kernel's table of sessions fills up, by real udp clients: everybody who looks is told, and what helps."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.gateway import free_port, wait
from support.operated_gateway import OperatedGateway
from support.sandbox_tools import HERE, Sandbox, sandbox, udp_client, udp_member

ROOM = 5


@pytest.fixture
def small() -> Iterator[Sandbox]:
    """A kernel with a small table, which is made as the manual says."""
    with sandbox() as kernel:
        for words in (("-D",), ("-T", f"nat_table_max={ROOM}"), ("-E",)):
            assert kernel.run("ipf", *words).status == 0
        yield kernel


class Dns(OperatedGateway):
    def serve(self, member: int) -> None:
        self.site, self.vip = free_port(), free_port()
        self.configure(f"dns: {{address: {HERE}, services: {{dns: {{port: {self.vip}, protocol: udp, check: "
                       f"{{type: udp, send: ping, expect: 'ping*'}}}}}}, "
                       f"members: {{ns1: {{address: {HERE}, port: {member}}}}}}}",
                       top=f"http: {HERE}:{self.site}")
        self.start()
        wait("rule", lambda: self.kernel.ipnat("-l").stdout.count("age 30/30") == 1)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{HERE}:{self.site}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def metric(self, name: str) -> float | None:
        found = re.search(rf"^l4ip_nat_table_{name} (\S+)$", self.get("/metrics"), re.MULTILINE)
        return float(found[1]) if found else None


def answered(port: int, patience: float) -> bool:
    with udp_client(port) as client:
        client.settimeout(patience)
        client.send(b"query")
        with contextlib.suppress(OSError):
            return bool(client.recv(100))
    return False


def test_it_is_told(small: Sandbox, tmp_path: Path) -> None:
    node = Dns(small, tmp_path)
    try:
        with udp_member(b"") as member, contextlib.ExitStack() as clients:
            node.serve(member)
            wait("the first look", lambda: f"NAT table: 0 of {ROOM} sessions; 0 packets" in node.ctl("show")[1])
            assert (node.metric("sessions"), node.metric("limit"), node.metric("drops_total")) == (0, ROOM, 0)
            for _ in range(ROOM):
                client: socket.socket = clients.enter_context(udp_client(node.vip))
                client.send(b"query")
                assert client.recv(100) == b"query"
            assert not answered(node.vip, 0.3), "there is no room"
            node.wait_log(rf"^the kernel's NAT table is full: {ROOM} of {ROOM} sessions: \d+ packets of new "
                          rf"connections were dropped .*ipf -T nat_table_max={2 * ROOM}; ipf -E; see l4ipd\(8\)")
            assert "new connections are being dropped by the kernel: 5 of 5 sessions" in node.ctl("show")[1]
            assert node.metric("sessions") == ROOM and (node.metric("drops_total") or 0) >= 1
            told = json.loads(node.get("/status.json"))
            assert told["nat_table"]["limit"] == ROOM and told["nat_table"]["drops"] >= 1
            assert any("being dropped" in words for words in told["troubles"])
            assert re.search(r'l4ip_events_total{kind="table-full"} 1.0', node.get("/metrics"))
            assert "being dropped" in node.get("/")
            assert node.states() == {"ns1": "up"}, "which no probe has seen"
    finally:
        node.close()
