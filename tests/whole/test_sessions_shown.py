"""How many sessions there are, and which, as the operator sees them: with real clients, on the sandbox."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.sandbox import tool_words
from support.downloads import Download, Shop, download_of
from support.gateway import free_port, wait
from support.operated_gateway import A, B, OperatedGateway
from support.sandbox_tools import Sandbox, sandbox

VIP = "127.0.0.1"
WEB1, WEB2 = "www/http/web1", "www/http/web2"


@pytest.fixture(scope="module", params=["5.1.2", "6.0.0"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """The one lists sessions with their protocol, the other without."""
    with sandbox("--ipfilter", request.param) as process:
        yield process


class Node(OperatedGateway):
    """Two shops behind a gateway with a status page."""

    def setup(self, members: str = f"web1: {A}, web2: {B}", top: str = "", more: str = "") -> None:
        self.site = free_port()
        self.configure(f"www: {{address: {VIP}, services: {{http: {{port: {self.port}, member_port: {self.inside}, "
                       f"check: http}}}}, members: {{{members}}}}}", top=f"http: {VIP}:{self.site}\n{top}")

    def web(self, address: str, port: int, name: str = "") -> Shop:
        shop = Shop(address, port, name)
        self.webs.append(shop)
        return shop

    def begin(self) -> None:
        self.start()
        self.wait_targets(A, B)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(f"http://{VIP}:{self.site}{path}", timeout=30) as answer:
            return str(answer.read().decode())

    def numbers(self) -> dict[str, int | None]:
        return {row["endpoint"]: row["sessions"] for row in self.rows("show")}

    def downloads(self, first: int, second: int) -> list[Download]:
        return [download_of(name, VIP, self.port) for name in (A,) * first + (B,) * second]

    def words(self, tool: str) -> tuple[str, ...]:
        return tool_words(self.kernel.path)[tool]


@pytest.fixture
def node(kernel: Sandbox, tmp_path: Path) -> Iterator[Node]:
    kernel.ipnat("-FC")
    it = Node(kernel, tmp_path)
    yield it
    for web in it.webs:
        assert isinstance(web, Shop)
        web.finish()
    it.close()


def metric(text: str, endpoint: str) -> float | None:
    found = re.search(rf'^l4ip_sessions{{endpoint="{endpoint}"}} (\S+)$', text, re.MULTILINE)
    return float(found[1]) if found else None


def test_everywhere(node: Node) -> None:
    node.begin()
    assert node.numbers() == {WEB1: 0, WEB2: 0}
    downloads = node.downloads(2, 1)
    listed = node.kernel.ipnat("-l").stdout
    there = {WEB1: listed.count(f"RDR {A} "), WEB2: listed.count(f"RDR {B} ")}
    assert there[WEB1] >= 2 and there[WEB2] >= 1
    wait("it is shown", lambda: node.numbers() == there)
    table = node.ctl("show")[1].splitlines()
    assert table[0].split()[4] == "SESS" and [line.split()[4] for line in table[1:3]] == list(map(str, there.values()))
    text = node.get("/metrics")
    assert {name: metric(text, name) for name in there} == there
    rows = json.loads(node.get("/status.json"))["endpoints"]
    assert {row["endpoint"]: row["sessions"] for row in rows} == there
    page = re.sub(r"<[^>]*>", " ", node.get("/"))
    for number in there.values():
        assert f" {number} session" in page
    assert len(downloads) == 3


def test_the_command(node: Node) -> None:
    node.begin()
    node.downloads(1, 1)
    listed = [line for line in node.kernel.ipnat("-l").stdout.splitlines() if line.startswith("RDR")]
    status, out, err = node.ctl("sessions")
    assert (status, err) == (0, "") and len(out.splitlines()) == len(listed)
    line = re.compile(rf"www/http/web[12] 127\.0\.0\.1:\d+ -> {re.escape(VIP)}:{node.port} -> 127\.0\.0\.\d+:"
                      rf"{node.inside} tcp, \d+[smhd] left")
    assert all(line.fullmatch(each) for each in out.splitlines())
    rows = [json.loads(each) for each in node.ctl("--json", "sessions", "web1")[1].splitlines()]
    assert rows and {row["endpoint"] for row in rows} == {WEB1} and {row["member"] for row in rows} == {A}
    for row in rows:
        told = f"RDR {A:<15} {node.inside:<5} <- -> {VIP:<15} {node.port:<5} [{row['client']} {row['client_port']}]"
        assert told in [each.removesuffix(" tcp") for each in listed]
        assert row["seconds_left"] > 0 and (row["vip"], row["vip_port"]) == (VIP, node.port)
    ours = sum(f" {A} " in each for each in listed)
    words = f"{ours:7} {WEB1} {A}:{node.inside}\nsessions: {ours} of 1 endpoints; {len(listed)} in the kernel's table\n"
    wait("it is counted", lambda: node.ctl("sessions", "--count", "web1") == (0, words, ""))
    assert [json.loads(each)["sessions"] for each in node.ctl("sessions", "--count", "--json")[1].splitlines()] == [
        ours, len(listed) - ours]
    assert node.ctl("sessions", "nobody")[0] == 2


def test_of_rules_that_are_gone(node: Node) -> None:
    """A disabled member, and one that a restart finds so, still has what it has."""
    node.begin()
    node.downloads(1, 0)
    before = node.kernel.ipnat("-l").stdout.count(f"RDR {A} ")
    assert node.ctl("disable", "web1")[0] == 0
    wait("counted", lambda: node.numbers()[WEB1] == before)
    node.stop()
    node.start()
    assert node.states()["web1"].startswith("disabled") and node.numbers()[WEB1] == before
    node.kernel.ipnat("-F")
    wait("none is left", lambda: node.numbers()[WEB1] == 0)


def test_when_they_cannot_be_counted(node: Node, tmp_path: Path) -> None:
    """ipnat lists rules, but fails with sessions: nothing is shown, and why; the page does not wait for ever."""
    node.begin()
    node.downloads(1, 0)
    tool = tmp_path / "ipnat"
    words = " ".join(node.words("ipnat"))
    tool.write_text(f'#!/bin/sh\ncase "$*" in -l|-lv) {words} "$@" | sed "/active sessions/q"; echo boom >&2\n'
                    f'exit 1 ;;\nesac\nexec {words} "$@"\n')
    tool.chmod(0o755)
    text = node.config.read_text()
    node.config.write_text(text.replace(f"ipnat: [{', '.join(node.words('ipnat'))}]", f"ipnat: {tool}"))
    assert node.ctl("reload")[0] == 0
    status, out, err = node.ctl("sessions", "--count")
    assert (status, out) == (1, "") and "l4ipctl: sessions cannot be counted: ipnat -l: boom" in err
    status, out, err = node.ctl("sessions")
    assert (status, out) == (1, "") and "l4ipctl: sessions cannot be listed: ipnat -lv: boom" in err
    assert node.numbers() == {WEB1: None, WEB2: None}
    assert "warning: no sessions are shown: ipnat -l: boom" in node.ctl("show")[2]
    text = node.get("/metrics")
    assert metric(text, WEB1) is None and "l4ip_endpoint_up" in text


def test_a_tool_that_hangs_holds_no_page_up(node: Node, tmp_path: Path) -> None:
    """This is where one looks what is wrong: the page comes without the sessions, and says what hangs."""
    tool, hang = tmp_path / "ipnat", tmp_path / "hang"
    words = " ".join(node.words("ipnat"))
    tool.write_text(f'#!/bin/sh\n[ -e {hang} ] && exec sleep 600\nexec {words} "$@"\n')
    tool.chmod(0o755)
    text = node.config.read_text()
    node.config.write_text(text.replace(f"ipnat: [{', '.join(node.words('ipnat'))}]", f"ipnat: {tool}\n  timeout: 1h"))
    node.begin()
    hang.touch()
    for path, words in (("/metrics", "l4ip_endpoint_up"), ("/status.json", WEB1), ("/", "web1")):
        assert words in node.get(path), "within the patience of a client, and far sooner than the tool"
    assert metric(node.get("/metrics"), WEB1) is None
    hang.unlink()
