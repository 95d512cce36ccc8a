"""A service with a range of ports, with real clients and members on the sandbox: one rule, the check of another."""

from __future__ import annotations

import re
import signal
import socket
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.ipfilter import rdr
from support.gateway import wait
from support.operated_gateway import A, B, OperatedGateway
from support.sandbox_tools import Sandbox, sandbox

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
