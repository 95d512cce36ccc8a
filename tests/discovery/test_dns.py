"""Members from the DNS: a real server of the test's own, in good order and in every kind of trouble; then real ones."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import dns.message
import dns.name
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.discovery import query
from l4ipd.discovery.dns import DnsWatcher, Target, from_targets
from l4ipd.discovery.source import Wanted
from l4ipd.model import Member, Source
from l4ipd.runtime.loop import RATE, Loop
from support.name_server import Handler, NameServer, Said, name_server
from support.sandbox_tools import free_port

PATIENCE = 60.0
NAME, SERVICE = "web.example.net", "_http._tcp.web.example.net"


class Watched:
    """A watcher on a loop, what it said, and how late the loop was."""

    def __init__(self, loop: Loop, *servers: tuple[str, int], name: str = NAME, six: bool = False,
                 weights: bool = True) -> None:
        self.loop = loop
        self.said: list[tuple[Member, ...]] = []
        self.heard = 0.0                            # when, on the loop's clock
        self.failed: list[str] = []
        self.watcher = DnsWatcher(loop, Wanted(Source(dns=name, servers=servers), six, weights), self._heard,
                                  self.failed.append)
        self.watcher.start()

    def _heard(self, members: tuple[Member, ...]) -> None:
        self.heard = self.loop.now
        self.said.append(members)

    def until(self, done: str, count: int = 1) -> None:
        end = time.monotonic() + PATIENCE
        while len(getattr(self, done)) < count:
            assert time.monotonic() < end, (self.said, self.failed)
            self.loop.later(0.01, lambda: None)
            self.loop.turn()

    def addresses(self) -> list[str]:
        self.until("said")
        return [member.address for member in self.said[-1]]

    def problem(self) -> str:
        self.until("failed")
        assert not self.said
        return self.failed[-1]


@pytest.fixture
def loop() -> Iterator[Loop]:
    it = Loop()
    yield it
    it.close()


@pytest.fixture
def server() -> Iterator[NameServer]:
    with name_server() as it:
        yield it


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PATIENCE", 0.5)


def test_addresses(loop: Loop, server: NameServer) -> None:
    server.put(NAME, "A", "10.0.0.10", "10.0.0.9")
    server.put(NAME, "AAAA", "fd00::10", "fd00::9")
    four, six = Watched(loop, server.server), Watched(loop, server.server, six=True)
    assert four.addresses() == ["10.0.0.9", "10.0.0.10"]
    assert six.addresses() == ["fd00::9", "fd00::10"]
    assert four.said[-1][0] == Member("10.0.0.9", "10.0.0.9", origin=f"dns {NAME}")


def test_asked_again_when_it_is_old(loop: Loop, server: NameServer) -> None:
    server.put(NAME, "A", "10.0.0.1")
    server.ttl = 0
    watched = Watched(loop, server.server)
    watched.until("said", 2)
    server.put(NAME, "A", "10.0.0.2")
    watched.until("said", len(watched.said) + 1)
    assert watched.addresses() in (["10.0.0.1"], ["10.0.0.2"])
    watched.until("said", len(watched.said) + 1)
    assert watched.addresses() == ["10.0.0.2"]


@pytest.mark.parametrize("ttl, wait", [(0, 1), (7, 7), (86400, 60)])
def test_how_long_an_answer_holds(loop: Loop, server: NameServer, ttl: int, wait: int) -> None:
    server.put(NAME, "A", "10.0.0.1")
    server.ttl = ttl
    watched = Watched(loop, server.server)
    watched.until("said")
    slot = watched.watcher._next.slot
    assert slot is not None and slot in loop._slots.values()
    due = next(tick for tick, timers in loop._slots.items() if timers is slot) / RATE
    assert 0 <= due - watched.heard - wait < 0.1


def test_services(loop: Loop, server: NameServer) -> None:
    """Ports, weights, priorities; one machine with two ports; a target that is gone."""
    server.put(SERVICE, "SRV", "0 10 8080 one.example.net.", "0 20 8081 two.example.net.", "0 10 8082 one.example.net.",
               "5 1 80 sorry.example.net.", "0 1 80 gone.example.net.")
    server.put("one.example.net", "A", "10.0.0.1")
    server.put("two.example.net", "CNAME", "real.example.net.")
    server.put("real.example.net", "A", "10.0.0.2", "10.0.0.3")
    server.put("sorry.example.net", "A", "10.0.0.9")
    watched = Watched(loop, server.server, name=SERVICE)
    watched.until("said")
    assert [(each.name, each.address, each.port, each.weight, each.fallback) for each in watched.said[0]] == [
        ("10.0.0.1", "10.0.0.1", 8080, 10, False), ("10.0.0.1@8082", "10.0.0.1", 8082, 10, False),
        ("10.0.0.2", "10.0.0.2", 8081, 20, False), ("10.0.0.3", "10.0.0.3", 8081, 20, False),
        ("10.0.0.9", "10.0.0.9", 80, 1, True)]


def test_addresses_that_come_along(loop: Loop, server: NameServer) -> None:
    """As Consul does it: nobody asks for them."""
    def handler(query: dns.message.Message, stream: bool) -> Said:
        reply = dns.message.make_response(query)
        reply.answer.append(dns.rrset.from_text(f"{SERVICE}.", 0, "IN", "SRV", "1 1 8080 a.node.consul."))
        reply.additional.append(dns.rrset.from_text("a.node.consul.", 0, "IN", "A", "10.0.0.1"))
        return [reply.to_wire()]

    server.handler = handler
    watched = Watched(loop, server.server, name=SERVICE)
    assert watched.addresses() == ["10.0.0.1"]
    assert watched.said[0][0].port == 8080
    assert {kind for _, kind, _ in server.asked} == {"SRV"}


def test_a_hundred_targets(loop: Loop, server: NameServer) -> None:
    """More than one udp answer holds, and each to be asked for."""
    server.put(SERVICE, "SRV", *(f"0 1 80 m{number}.example.net." for number in range(100)))
    for number in range(100):
        server.put(f"m{number}.example.net", "A", f"10.0.1.{number + 1}")
    watched = Watched(loop, server.server, name=SERVICE)
    assert watched.addresses() == [f"10.0.1.{number + 1}" for number in range(100)]
    assert (f"{SERVICE}.", "SRV", True) in server.asked, "over tcp"


def test_one_target_in_trouble_leaves_all_as_they_are(hasty: None, loop: Loop, server: NameServer) -> None:
    server.put(SERVICE, "SRV", "0 1 80 one.example.net.", "0 1 80 two.example.net.")
    server.put("one.example.net", "A", "10.0.0.1")

    def handler(query: dns.message.Message, stream: bool) -> Said:
        return [] if "two" in str(query.question[0].name) else [server.answer(query, stream)]

    server.handler = handler
    assert Watched(loop, server.server, name=SERVICE).problem().startswith("two.example.net: name server 127.0.0.1 ")


def rcode(code: dns.rcode.Rcode) -> Handler:
    def handler(query: dns.message.Message, stream: bool) -> Said:
        reply = dns.message.make_response(query)
        reply.set_rcode(code)
        return [reply.to_wire()]
    return handler


def garbage(query: dns.message.Message, stream: bool) -> Said:
    return [query.to_wire()[:2] + b"\x80" + os.urandom(40)]


def another_question(query: dns.message.Message, stream: bool) -> Said:
    other = dns.message.make_query("evil.example.net", "A", id=query.id)
    reply = dns.message.make_response(other)
    reply.answer.append(dns.rrset.from_text("evil.example.net.", 1, "IN", "A", "10.6.6.6"))
    return [reply.to_wire()]


def aliases(query: dns.message.Message, stream: bool) -> Said:
    """A stream of CNAMEs, as long as a message can be."""
    reply = dns.message.make_response(query)
    name = str(query.question[0].name)
    for number in range(300):
        reply.answer.append(dns.rrset.from_text(name, 1, "IN", "CNAME", f"n{number}.example.net."))
        name = f"n{number}.example.net."
    return [reply.to_wire(max_size=65535)]


def circle(query: dns.message.Message, stream: bool) -> Said:
    reply = dns.message.make_response(query)
    reply.answer.append(dns.rrset.from_text(f"{NAME}.", 1, "IN", "CNAME", "b.example.net."))
    reply.answer.append(dns.rrset.from_text("b.example.net.", 1, "IN", "CNAME", f"{NAME}."))
    return [reply.to_wire()]


def truncated_for_ever(query: dns.message.Message, stream: bool) -> Said:
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.TC
    return [reply.to_wire()]


@pytest.mark.parametrize("handler, words", [
    (rcode(dns.rcode.SERVFAIL), "it failed (SERVFAIL)"),
    (rcode(dns.rcode.REFUSED), "it does not want to answer (REFUSED)"),
    (rcode(dns.rcode.NXDOMAIN), "there is no such name (NXDOMAIN)"),
    (rcode(dns.rcode.NOERROR), "the name has no A record"),
    (lambda query, stream: [], "does not answer"), (garbage, "does not answer"), (another_question, "does not answer"),
    (aliases, "its aliases have no end"), (circle, "its aliases have no end"),
    (truncated_for_ever, "its answer is cut")])
def test_trouble(loop: Loop, server: NameServer, monkeypatch: pytest.MonkeyPatch, handler: Handler,
                 words: str) -> None:
    monkeypatch.setattr(query, "PATIENCE", 0.5 if words == "does not answer" else 30.0)
    server.handler = handler
    assert Watched(loop, server.server).problem().removeprefix(
        f"name server 127.0.0.1 port {server.port}: ") == words


def test_nobody_there(loop: Loop) -> None:
    assert Watched(loop, ("127.0.0.1", free_port())).problem().endswith(": connection refused")


def test_a_flood_of_garbage(hasty: None, loop: Loop, server: NameServer) -> None:
    """One server that never stops talking does not keep us from the next."""
    server.handler = lambda query, stream: [b"\0" * 40] * 100
    with name_server() as good:
        good.put(NAME, "A", "10.0.0.1")
        assert Watched(loop, server.server, good.server).addresses() == ["10.0.0.1"]


def test_the_next_server(hasty: None, loop: Loop, server: NameServer) -> None:
    server.put(NAME, "A", "10.0.0.1")
    with name_server() as silent:
        silent.handler = lambda query, stream: []
        assert Watched(loop, ("127.0.0.1", free_port()), silent.server, server.server).addresses() == ["10.0.0.1"]


def test_addresses_that_no_rule_can_name(loop: Loop, server: NameServer) -> None:
    server.put(NAME, "A", "0.0.0.0", "224.0.0.1")
    assert Watched(loop, server.server).problem().startswith("gives no address that a rule can name, only ")


def test_too_many(loop: Loop, server: NameServer) -> None:
    server.put(NAME, "A", *(f"10.1.{number // 250}.{number % 250 + 1}" for number in range(1001)))
    assert Watched(loop, server.server).problem() == "gives 1001 members, and more than 1000 are not taken"


def test_a_large_answer_does_not_hold_the_loop(loop: Loop, server: NameServer) -> None:
    """A thousand records are read by a thread: meanwhile the loop makes turns."""
    server.put(NAME, "A", *(f"10.1.{number // 250}.{number % 250 + 1}" for number in range(1000)))
    turns = [0]
    loop.hook(lambda: turns.__setitem__(0, turns[0] + 1))
    before: list[int] = []
    read = query.read

    def slow(wire: bytes, question: bytes, kind: str) -> query.Answer | None:
        before.append(turns[0])
        while turns[0] < before[-1] + 5:            # for ever, if the loop waited for us
            time.sleep(0.001)
        return read(wire, question, kind)

    query.read = slow
    try:
        assert len(Watched(loop, server.server).addresses()) == 1000
    finally:
        query.read = read


def test_the_system_s_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    monkeypatch.setattr(query, "RESOLV_CONF", str(path))
    assert query.system_servers() == [("127.0.0.1", 53)]
    path.write_text("# nameserver 1.1.1.1\nsearch x\nnameserver 10.0.0.1\nnameserver fd00::1 \nnameserver\n"
                    "nameserver 10.0.0.2\nnameserver 10.0.0.3\n")
    assert query.system_servers() == [("10.0.0.1", 53), ("fd00::1", 53), ("10.0.0.2", 53)]


@given(st.binary(max_size=200), st.booleans())
def test_any_bytes(noise: bytes, kept: bool) -> None:
    question = dns.message.make_query(NAME, "A").to_wire()
    found = query.read(question[:2] + noise if kept else noise, question, "A")
    assert found is None or found.problem


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3), st.integers(0, 2), st.integers(0, 65535)),
                max_size=6))
def test_any_targets(found: list[tuple[str, int, int, int]]) -> None:
    targets = [Target(*each) for each in found]
    members, _ = from_targets(targets, {"a": ["10.0.0.1"], "b": ["10.0.0.1", "10.0.0.2"], "c": []},
                              Wanted(Source(dns=SERVICE), False, True))
    assert len({member.name for member in members}) == len(members)
    assert len({(member.address, member.port) for member in members}) == len(members)
    assert all(1 <= member.weight <= 99 for member in members)
    assert not members or not all(member.fallback for member in members)


# -- real name servers

DNSMASQ, UNBOUND = shutil.which("dnsmasq"), shutil.which("unbound")


@pytest.mark.skipif(DNSMASQ is None, reason="needs dnsmasq")
def test_dnsmasq(loop: Loop, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen([str(DNSMASQ), "-k", "-C", "/dev/null", "-p", str(port), "-a", "127.0.0.1", "-z", "-h",
                                "-R", "--pid-file", "--no-daemon", "--local=/example.net/",
                                f"--host-record={NAME},10.0.0.1,fd00::1",
                                f"--srv-host={SERVICE},{NAME},8080,0,5"], stderr=subprocess.DEVNULL)
    _real(loop, process, port)


@pytest.mark.skipif(UNBOUND is None, reason="needs unbound")
def test_unbound(loop: Loop, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "unbound.conf"
    config.write_text(
        f'server:\n interface: 127.0.0.1@{port}\n do-daemonize: no\n chroot: ""\n username: ""\n pidfile: ""\n'
        f' directory: "{tmp_path}"\n use-syslog: no\n logfile: ""\n module-config: "iterator"\n'
        f' local-zone: "example.net." static\n local-data: "{NAME}. 2 A 10.0.0.1"\n'
        f' local-data: "{NAME}. 2 AAAA fd00::1"\n'
        f' local-data: "{SERVICE}. 2 SRV 0 5 8080 {NAME}."\nremote-control:\n control-enable: no\n')
    process = subprocess.Popen([str(UNBOUND), "-d", "-c", str(config)], stderr=subprocess.DEVNULL)
    _real(loop, process, port)


def _real(loop: Loop, process: subprocess.Popen[bytes], port: int) -> None:
    try:
        for name, six, member in ((NAME, False, ("10.0.0.1", None)), (NAME, True, ("fd00::1", None)),
                                  (SERVICE, False, ("10.0.0.1", 8080)), (SERVICE, True, ("fd00::1", 8080))):
            watched = Watched(loop, ("127.0.0.1", port), name=name, six=six)
            assert watched.addresses() == [member[0]]
            assert watched.said[-1][0].port == member[1]
            watched.watcher.stop()
        nobody = Watched(loop, ("127.0.0.1", port), name="nobody.example.net")
        assert nobody.problem() == "there is no such name (NXDOMAIN)"
    finally:
        process.kill()
        process.wait()
