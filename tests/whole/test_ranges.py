"""A service with a range of ports, with real clients and members on the sandbox: one rule, the check of another."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.ipfilter import rdr
from support.gateway import free_port, wait
from support.operated_gateway import A, B, OperatedGateway
from support.sandbox_tools import Sandbox, has_ipv6, sandbox

VIP, MANY = "127.0.0.1", 3


@pytest.fixture(scope="module", params=["4.1", "5.1.2"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with sandbox("--ipfilter", request.param) as process:
        yield process


def free_range(first: int) -> int:
    """The first of so many ports in a row that are free on every loopback address, for now."""
    while True:
        made: list[socket.socket] = []
        try:
            for port in range(first, first + MANY):
                made.append(socket.socket())
                made[-1].bind(("", port))
            return first
        except OSError:
            first += MANY
        finally:
            for each in made:
                each.close()


class Node(OperatedGateway):
    """A control port, which is checked, and a range that stands and falls with it."""

    def setup(self, members: str = f"web1: {{address: {A}, weight: 2}}, web2: {B}", top: str = "",
              more: str = "") -> None:
        self.first, self.inner = free_range(21000), free_range(25000)
        self.configure(f"www: {{address: {VIP}, members: {{{members}}}, services: {{"
                       f"control: {{port: {self.port}, member_port: {self.inside}, check: tcp}}, "
                       f"data: {{port: {self.words(self.first)}, member_port: {self.inner}, "
                       f"check: {{same_as: control}}}}}}}}", top=top, defaults="{interval: 500ms, rise: 1, fall: 2}")
        for address in (A, B):
            for port in range(self.inner, self.inner + MANY):
                self.web(address, port, f"{address}:{port - self.inner}")

    @staticmethod
    def words(first: int) -> str:
        return f"{first}-{first + MANY - 1}"

    def data(self) -> list[str]:
        """Where the rules of the range lead to, in their turns."""
        return [line.split(" -> ")[1] for line in self.rules() if f"port {self.words(self.first)} ->" in line]

    def wait_data(self, *addresses: str) -> None:
        wait(f"rules to {addresses}; {self.data()}\n{self.text()}",
             lambda: sorted(line.split()[0] for line in self.data()) == sorted(addresses))

    def get(self, port: int) -> str:
        with urllib.request.urlopen(f"http://{VIP}:{self.first + port}/", timeout=30) as answer:
            return str(answer.read().decode())


@pytest.fixture
def node(kernel: Sandbox, tmp_path: Path) -> Iterator[Node]:
    kernel.ipnat("-CF")
    it = Node(kernel, tmp_path)
    it.start()
    it.wait_data(A, A, B)
    yield it
    it.close()


def test_every_port_of_a_range_reaches_its_own_at_each_member(node: Node) -> None:
    assert sorted(node.data()) == [f"{A} port {node.inner} tcp round-robin tag l4ip",
                                   f"{A} port {node.inner} tcp round-robin tag l4ip.2",
                                   f"{B} port {node.inner} tcp round-robin tag l4ip"]
    for port in range(MANY):
        assert Counter(node.get(port) for _ in range(6)) == {f"{A}:{port}": 4, f"{B}:{port}": 2}


def test_a_range_falls_with_the_service_it_is_checked_as(node: Node) -> None:
    node.one.stop()
    node.wait_log(f"^www/data/web1 {A}:{node.words(node.inner)} up -> down: L4CON")
    node.wait_data(B)
    assert {node.get(port) for port in range(MANY)} == {f"{B}:{port}" for port in range(MANY)}
    node.one.start()
    node.wait_data(A, A, B)


def test_what_is_shown_of_a_range(node: Node) -> None:
    with socket.create_connection((VIP, node.first)), socket.create_connection((VIP, node.first + 2)), \
            socket.create_connection((VIP, node.first + 1)):
        rows = {row["endpoint"]: row for row in node.rows("show", "--wide", "data")}
        assert {row["address"] for row in rows.values()} == {f"{address}:{node.words(node.inner)}"
                                                             for address in (A, B)}
        assert all(row["vips"] == [f"{VIP}:{node.words(node.first)}"] for row in rows.values())
        listed = node.rows("sessions", "data")
        for row in listed:
            assert row["member_port"] - node.inner == row["vip_port"] - node.first
            assert row["endpoint"] == f"www/data/web{1 if row['member'] == A else 2}"
        assert len(listed) == 3 and {row["vip_port"] for row in listed} == {node.first + each for each in range(MANY)}


def test_whose_the_rules_of_a_range_are(node: Node) -> None:
    node.kernel.add(f"rdr lo0 {VIP}/32 port {node.first + 2} -> {B} port {node.inside} tcp")
    node.wait_log("a rule that is not ours takes every connection for itself")
    rows = {row["rule"]: row for row in node.rows("rules")}
    mine = [row for rule, row in rows.items() if f"port {node.words(node.first)} ->" in rule]
    assert Counter((row["state"], row["endpoint"]) for row in mine) == {("ok", "www/data/web1"): 2,
                                                                       ("ok", "www/data/web2"): 1}
    foreign = next(row for rule, row in rows.items() if f"port {node.first + 2} ->" in rule)
    assert (foreign["state"], foreign["endpoint"]) == ("foreign", None)
    assert f"it meets rdr lo0 {VIP}/32 port {node.words(node.first)} -> " in foreign["why"]


def test_rules_with_ranges_are_adopted_and_put_back(node: Node) -> None:
    node.stop(signal.SIGKILL)
    before = node.kernel.ipnat("-l").rules
    node.start()
    wait("checked", lambda: all(row["code"] for row in node.rows("show")))
    assert node.kernel.ipnat("-l").rules == before and not node.lines("will be removed|had been removed|put back")
    node.kernel.ipnat("-CF")
    node.wait_data(A, A, B)
    node.wait_log("had been removed by somebody else")


def test_a_rule_of_somebody_else_within_the_range(node: Node) -> None:
    line = f"rdr lo0 {VIP}/32 port {node.first + 1} -> {B} port {node.inside} tcp"
    node.kernel.add(line)
    node.wait_log("a rule that is not ours takes every connection for itself")
    told, = node.lines("a rule that is not ours")
    foreign, _, ours = told.partition(" it meets ours: ")
    assert f"port {node.first + 1} -> {B}" in foreign and f"port {node.words(node.first)}" in ours
    node.kernel.remove(line)
    assert rdr.parse(line) is not None


def test_a_reload_to_another_range(node: Node) -> None:
    """The rules change; what the probes know stays, as they are made elsewhere."""
    text = node.config.read_text()
    node.config.write_text(text.replace(f"port: {node.words(node.first)}, member_port: {node.inner}",
                                        f"port: {node.first}-{node.first + 1}, member_port: {node.inner + 1}"))
    code, out, err = node.ctl("reload")
    assert code == 0, out + err
    wait("the smaller range", lambda: sorted(line.partition(" port ")[2] for line in node.rules() if "port "
                                             f"{node.first}-{node.first + 1} -> {A} port {node.inner + 1} " in line))
    wait("the other one is gone", lambda: not node.data())
    assert {node.get(0)[-1], node.get(1)[-1]} == {"1", "2"}
    assert not node.lines("www/data/.* up -> ")


@pytest.mark.parametrize("source", ["ipmon", "counters"])
def test_a_refusal_counts_at_the_port_that_is_checked(node: Node, source: str) -> None:
    """Nobody listens at another port of the range: that is as it should be. Probes are far apart."""
    words = f"port: {node.words(node.first)}, member_port: {node.inner}, check: "
    node.config.write_text(node.config.read_text().replace(f"{words}{{same_as: control}}", f"{words}{{type: tcp, port: "
        f"{node.inner}, interval: 10m, fast_interval: 100ms}}") + f"resets: {{interface: lo0, source: {source}}}\n")
    code, out, err = node.ctl("reload")
    assert code == 0, out + err
    kind = "log" if source == "ipmon" else "count"
    wait("sensing", lambda: any(f"{source} alive" in line for line in resets(node)))
    wait("rules", lambda: len([line for line in node.kernel.run("ipfstat", "-iR" if kind == "log" else "-aiR").stdout
                               .splitlines() if kind in line and f"port {node.inner}:{node.inner + MANY - 1} to" in line
                               ]) == 2)
    wait("up", lambda: all(row["state"] == "up" and row["code"] for row in node.rows("show", "data")))
    checked, other = (next(web for web in node.webs if web.name == f"{A}:{port}") for port in (0, 1))
    other.stop()
    refused(node, 1)
    wait("sensed", lambda: any(re.search(r" [1-9]\d* seen", line) for line in resets(node)))
    assert all(row["state"] == "up" for row in node.rows("show", "data"))
    checked.stop()
    refused(node, 0)
    node.wait_log(f"^www/data/web1 {A}:{node.words(node.inner)} up -> down: "
                  + ("RST connection refused, seen by ipmon|L4CON connection refused" if kind == "log" else "L4CON"))
    node.wait_data(B)
    assert not node.lines("are not believed")


@pytest.mark.parametrize("address", [VIP, "::1"])
def test_a_range_of_udp(node: Node, address: str, request: pytest.FixtureRequest) -> None:
    """Real datagrams, also of IPv6; who answers is checked over tcp, as another service is."""
    if ":" in address and (request.node.callspec.params["kernel"] == "4.1" or not has_ipv6()):
        pytest.skip("no IPv6 on loopback, or none in this IPFilter's rdr rules")
    sink = node.web(address, free_port())
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(each) for each in datagram_sockets(address)]
        inner, outer = servers[0].getsockname()[1], datagram_sockets(address)
        vip = outer[0].getsockname()[1]
        for each in outer:
            each.close()
        node.config.write_text(node.config.read_text() + f"  media: {{address: '{address}', members: {{m: '{address}'"
            f"}}, services: {{control: {{port: {free_port()}, member_port: {sink.port}}}, rtp: {{port: "
            f"{vip}-{vip + MANY - 1}, protocol: udp, member_port: {inner}, check: {{same_as: control}}}}}}}}\n")
        code, out, err = node.ctl("reload")
        assert code == 0, out + err
        wait("its rule", lambda: any(f"port {vip}-{vip + MANY - 1} -> {address} port {inner} udp" in line
                                     for line in node.rules()))
        for place in (2, 0, 1):
            with socket.socket(servers[0].family, socket.SOCK_DGRAM) as client:
                client.settimeout(30)
                client.connect((address, vip + place))
                client.send(b"question")
                data, sender = servers[place].recvfrom(99)
                servers[place].sendto(data + b" answered", sender)
                assert client.recv(99) == b"question answered"
        assert {(row["vip_port"] - vip, row["member_port"] - inner) for row in node.rows("sessions", "media/rtp")} == {
            (place, place) for place in range(MANY)}
        assert {row["sessions"] for row in node.rows("show", "media/rtp")} == {MANY}
        sink.stop()
        node.wait_log("^media/rtp/m .* up -> down: L4CON")


def datagram_sockets(address: str) -> list[socket.socket]:
    """On so many ports in a row."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for first in range(22000, 32000, MANY):
        made = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(MANY)]
        try:
            for place, each in enumerate(made):
                each.settimeout(30)
                each.bind((address, first + place))
            return made
        except OSError:
            for each in made:
                each.close()
    raise AssertionError("no ports")


def test_sessions_of_a_range_end_with_a_member_that_is_dead(node: Node, request: pytest.FixtureRequest) -> None:
    if request.node.callspec.params["kernel"] == "4.1":
        pytest.skip("it cannot end sessions")
    with contextlib.ExitStack() as stack:
        held = clients(node, stack)
        node.one.stop()
        node.wait_data(B)
        assert over(held[A]), "by the gateway: the member would have gone on"
        assert goes_on(held[B])


def test_a_range_is_drained_and_cut_by_the_operator(node: Node, request: pytest.FixtureRequest) -> None:
    with contextlib.ExitStack() as stack:
        held = clients(node, stack)
        assert node.ctl("disable", "www/data/web1")[0] == 0
        node.wait_data(B)
        assert {row["endpoint"] for row in node.rows("sessions", "data")} == {"www/data/web1", "www/data/web2"}
        assert goes_on(held[A])
        assert node.ctl("enable", "www/data/web1")[0] == 0
        node.wait_data(A, A, B)
    if request.node.callspec.params["kernel"] == "4.1":
        return
    with contextlib.ExitStack() as stack:
        held = clients(node, stack)
        assert node.ctl("disable", "--now", "www/data/web1")[0] == 0
        node.wait_data(B)
        assert over(held[A]) and goes_on(held[B])
        assert node.rows("show", "control")[0]["state"] == "up", "the service whose check it is goes on"


def clients(node: Node, stack: contextlib.ExitStack) -> dict[str, socket.socket]:
    """Connections to the last port of the range, by the member that they lead to."""
    found: dict[str, socket.socket] = {}
    for _ in range(3):
        client = stack.enter_context(socket.create_connection((VIP, node.first + MANY - 1), timeout=30))
        found[member_of(node, client.getsockname()[1])] = client
    assert found.keys() == {A, B}
    return found


def member_of(node: Node, client_port: int) -> str:
    """Whose session it is."""
    found: list[str] = []

    def listed() -> bool:
        found.extend(row["member"] for row in node.rows("sessions", "data") if row["client_port"] == client_port)
        return bool(found)

    wait("its session", listed)
    return found[0]


def over(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def goes_on(client: socket.socket) -> bool:
    client.sendall(b"GET / HTTP/1.0\r\n\r\n")
    return client.recv(99).startswith(b"HTTP/1.0 200")


def test_a_reload_to_a_single_port_and_back(node: Node) -> None:
    """What is known of the endpoints stays, as their checks are those of another service."""
    before, since = {row["endpoint"]: row["seconds"] for row in node.rows("show", "data")}, time.monotonic()
    text, told = node.config.read_text(), len(node.text().splitlines())
    range_words, single = f"port: {node.words(node.first)}, member_port: ", f"port: {node.first}, member_port: "
    for words in (text.replace(range_words, single), text):
        node.config.write_text(words)
        code, out, err = node.ctl("reload")
        assert code == 0 and "4 endpoints: 0 new, 2 changed, 0 gone" in out, out + err
        ports = node.words(node.first) if words == text else str(node.first)
        wait_alone(node, {f"rdr lo0 {VIP}/32 port {ports} -> {address} port {node.inner} tcp round-robin tag l4ip{more}"
                          for address, more in ((A, ""), (A, ".2"), (B, ""))})
        assert {node.get(0) for _ in range(3)} == {f"{A}:0", f"{B}:0"}
        passed = time.monotonic() - since
        for row in node.rows("show", "data"):
            assert row["state"] == "up" and row["seconds"] >= before[row["endpoint"]] + passed - 0.2, "as before"
    assert Counter(node.get(2) for _ in range(6)) == {f"{A}:2": 4, f"{B}:2": 2}
    more = node.text().splitlines()[told:]
    assert all(line.startswith("configuration reloaded: ") for line in more), more


def wait_alone(node: Node, expected: set[str]) -> None:
    """These are the only rules beside those of the service that is checked."""
    wait(f"the rules {expected} alone", lambda: expected == {
        line for line in node.rules() if f" {node.port} ->" not in line})


def refused(node: Node, port: int) -> None:
    """One client at least is."""
    for _ in range(6):
        try:
            node.get(port)
        except OSError:
            return
    raise AssertionError("nobody was refused")


def resets(node: Node) -> list[str]:
    node.send(signal.SIGUSR1)
    return node.lines("^resets: .* seen, ")
