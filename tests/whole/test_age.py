"""How long the kernel remembers udp clients: rules with another age take the place of others, and no query is lost."""

from __future__ import annotations

import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from support.gateway import Gateway, free_port, wait
from support.sandbox_tools import HERE, Sandbox, udp_client, udp_member

OLD = "rdr lo0 {here}/32 port {vip} -> {here} port {member} udp round-robin tag l4ip"


class Clients:
    """Query after query, each from a port of its own; counts those that nobody has answered."""

    def __init__(self, port: int) -> None:
        self.port, self.asked, self.lost, self._ending = port, 0, 0, False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ending:
            with udp_client(self.port) as client:
                client.settimeout(5)
                try:
                    client.send(b"query")
                    client.recv(100)
                except OSError:
                    self.lost += 1
            self.asked += 1

    def end(self) -> None:
        self._ending = True
        self._thread.join(20)


class Dns(Gateway):
    """Two udp members."""

    vip = 0
    members = (0, 0)

    def use(self, members: tuple[int, int], age: str = "") -> None:
        self.members = members
        self.configure(f"dns: {{address: {HERE}, services: {{dns: {{port: {self.vip}, protocol: udp{age}, "
                       "check: {type: udp, send: ping, expect: 'ping*', interval: 1s}}}, members: {"
                       + ", ".join(f"m{port}: {{address: {HERE}, port: {port}}}" for port in members) + "}}")

    def ages(self) -> list[str]:
        rules = [line for line in self.kernel.ipnat("-l").stdout.splitlines() if line.startswith("rdr")]
        return [re.sub(r".*round-robin| ?tag l4ip", "", line).strip() for line in rules if f"port {self.vip} " in line]


@pytest.fixture
def dns(kernel: Sandbox, tmp_path: Path) -> Iterator[Dns]:
    kernel.ipnat("-FC")
    it = Dns(kernel, tmp_path)
    it.vip = free_port()
    with udp_member(b"1") as one, udp_member(b"2") as two:
        it.use((one, two))
        yield it
        it.close()


@contextlib.contextmanager
def asking(port: int) -> Iterator[Clients]:
    clients = Clients(port)
    try:
        yield clients
    finally:
        clients.end()


def session_ttl(kernel: Sandbox) -> list[int]:
    return [int(ttl) for ttl in re.findall(r"^\tttl (\d+) ", kernel.ipnat("-lv").stdout, re.MULTILINE)]


def test_an_upgrade_loses_no_query(dns: Dns) -> None:
    """The rules of a version that knew no age are in the kernel; clients never meet a moment without any."""
    for member in dns.members:
        dns.kernel.add(OLD.format(here=HERE, vip=dns.vip, member=member))
    with asking(dns.vip) as clients:
        wait("it works before", lambda: clients.asked > 5)
        dns.start()
        wait("the rules have an age", lambda: dns.ages() == ["age 30/30"] * 2)
        asked = clients.asked
        wait("it works after", lambda: clients.asked > asked + 5)
    assert clients.lost == 0
    assert not dns.lines(" -> down: "), "nothing but the rules has changed"
    assert not dns.lines("l4ipd with"), "and they are nobody else's"


def test_a_reload_of_the_age_loses_no_query(dns: Dns) -> None:
    dns.start()
    wait("rules", lambda: dns.ages() == ["age 30/30"] * 2)
    with asking(dns.vip) as clients:
        wait("it works before", lambda: clients.asked > 5)
        for age, words in ((", age: 5s", "age 5/5"), (", age: no", ""), (", age: 1m", "age 60/60")):
            dns.use(dns.members, age)
            dns.send(signal.SIGHUP)
            wait(f"rules {words}", partial(lambda words: dns.ages() == [words] * 2, words))
    assert clients.lost == 0 and clients.asked > 5


def test_sessions_are_forgotten_early(dns: Dns) -> None:
    dns.start()
    wait("rules", lambda: dns.ages() == ["age 30/30"] * 2)
    with udp_client(dns.vip) as client:
        client.send(b"query")
        assert client.recv(100)
        assert session_ttl(dns.kernel) and max(session_ttl(dns.kernel)) <= 60, "half seconds; without, it is 1200"
