"""Members that come and go under a running l4ipd: real files, a real name server, a kernel, restarts."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.config.parse import parse
from l4ipd.discovery.members import Discovery, filled, who_asks
from l4ipd.discovery.source import Wanted
from l4ipd.model import Member, Source
from l4ipd.runtime.loop import Loop
from support import ROOT
from support.gateway import Gateway, wait
from support.name_server import NameServer, name_server
from support.sandbox_tools import Sandbox, free_port

NAME = "web.example.net"


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()
    kernel.ipnat("-CF")


@pytest.fixture
def server() -> Iterator[NameServer]:
    with name_server() as it:
        yield it


def configure(gateway: Gateway, port: int, *sources: str, members: str = "") -> None:
    """Its members are addresses of lo0 with a web server each, which listen on ``port``."""
    gateway.configure(f"""
        www:
          address: 127.0.0.1
          services: {{http: {{port: {free_port()}, member_port: {port}}}}}
          {members and f"members: {{{members}}}"}
          members_from: [{", ".join(f"{{{each}}}" for each in sources)}]
        """)


def l4ipctl(gateway: Gateway, *words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "l4ipd.control.client", "-s", f"{gateway.directory}/l4ip.sock"]
    return subprocess.run([*program, *words], capture_output=True, text=True, env=gateway.environment(),
                          cwd=ROOT)


def show(gateway: Gateway) -> dict[str, dict[str, object]]:
    done = l4ipctl(gateway, "--json", "show")
    return {str(row["endpoint"]): row for row in map(json.loads, done.stdout.splitlines())}


def test_a_file(gateway: Gateway, tmp_path: Path) -> None:
    port = free_port(address="127.0.7.2")
    for number in (2, 3, 4):
        gateway.web(f"127.0.7.{number}", port)
    path = tmp_path / "members.yaml"
    path.write_text("web2: 127.0.7.2\nweb3: 127.0.7.3\n")
    configure(gateway, port, f"file: {path.name}", members="web4: 127.0.7.4")
    gateway.start()
    gateway.wait_targets("127.0.7.2", "127.0.7.3", "127.0.7.4")
    assert show(gateway)["www/http/web2"]["origin"] == f"file {path}"
    assert show(gateway)["www/http/web4"]["origin"] == ""
    since = show(gateway)["www/http/web2"]["seconds"]
    path.write_text("web3x: 127.0.7.3\nweb2: 127.0.7.2\n")
    wait("the other name", lambda: show(gateway).get("www/http/web3x", {}).get("up"))
    row = show(gateway)["www/http/web2"]
    assert row["up"] and float(str(row["seconds"])) >= float(str(since)), "its place in the list does not matter"
    path.write_text("web3x: 127.0.0.\n")
    gateway.wait_log("its 2 members of before stay")
    assert gateway.targets() == ["127.0.7.2", "127.0.7.3", "127.0.7.4"]
    said = (f"www: members from file {path}: {path}:1: web3x: 127.0.0. is not an IPv4 or IPv6 address: its 2 members "
            "of before stay")
    assert f"; {said}; " in " ".join(l4ipctl(gateway, "show").stdout.split()), "as long as it is so"
    done = l4ipctl(gateway, "reload")
    assert (done.returncode, done.stderr) == (0, f"l4ipctl: warning: {said}\n")
    path.write_text("web2: 127.0.7.2\n")
    gateway.wait_targets("127.0.7.2", "127.0.7.4")
    assert "before stay" not in l4ipctl(gateway, "show").stdout + l4ipctl(gateway, "reload").stderr


def test_dns_over_a_restart(gateway: Gateway, server: NameServer) -> None:
    """What was said last holds over a kill -9, while nobody answers; and what the operator disabled does."""
    port = free_port(address="127.0.7.2")
    for number in (2, 3):
        gateway.web(f"127.0.7.{number}", port)
    server.put(NAME, "A", "127.0.7.2", "127.0.7.3")
    configure(gateway, port, f"dns: {NAME}, server: '127.0.0.1:{server.port}'")
    gateway.start()
    gateway.wait_targets("127.0.7.2", "127.0.7.3")
    assert l4ipctl(gateway, "disable", "127.0.7.3").returncode == 0
    gateway.wait_targets("127.0.7.2")
    wait("the state", lambda: "127.0.7.3" in (gateway.directory / "state.json").read_text())
    server.handler = lambda query, stream: []
    gateway.stop(signal.SIGKILL)
    gateway.start()
    gateway.wait_log("does not answer: its 2 members of before stay")
    rows = show(gateway)
    assert rows["www/http/127.0.7.2"]["up"] and rows["www/http/127.0.7.3"]["disabled"]
    assert gateway.targets() == ["127.0.7.2"]
    server.handler = None
    server.put(NAME, "A", "127.0.7.2")
    gateway.wait_log(r"members from dns web.example.net: 1 members \(gone: 127.0.7.3\)")
    assert not gateway.lines("up -> down")


def test_a_reload_takes_sources_away_and_brings_them_back(gateway: Gateway, server: NameServer) -> None:
    port = free_port(address="127.0.7.2")
    for number in (2, 3):
        gateway.web(f"127.0.7.{number}", port)
    server.put(NAME, "A", "127.0.7.2")
    configure(gateway, port, f"dns: {NAME}, server: '127.0.0.1:{server.port}'", members="web3: 127.0.7.3")
    gateway.start()
    gateway.wait_targets("127.0.7.2", "127.0.7.3")
    text = gateway.config.read_text()
    gateway.config.write_text(text.partition("members_from")[0])
    gateway.send(signal.SIGHUP)
    gateway.wait_targets("127.0.7.3")
    gateway.config.write_text(text)
    gateway.send(signal.SIGHUP)
    gateway.wait_targets("127.0.7.2", "127.0.7.3")


def test_minus_n_says_who_gives_what(gateway: Gateway, server: NameServer, tmp_path: Path) -> None:
    server.put(NAME, "A", "127.0.7.2")
    (tmp_path / "m").write_text("web9: 127.0.0.9\n")
    configure(gateway, 80, f"dns: {NAME}, server: '127.0.0.1:{server.port}'", "file: m")
    done = gateway.run("-n")
    assert done.returncode == 0
    assert [line.split(" -> ")[1].split()[0] for line in done.stdout.splitlines()] == ["127.0.7.2", "127.0.0.9"]
    assert f"www: members from dns {NAME}: 127.0.7.2\n" in done.stderr
    assert f"www: members from file {tmp_path}/m: web9\n" in done.stderr
    (tmp_path / "m").write_text("web9: 127.0.0.900\n")
    done = gateway.run("-n")
    assert done.returncode == 1
    assert done.stderr.startswith(f"www: members from file {tmp_path}/m: {tmp_path}/m:1: web9: 127.0.0.900 is not")
    (tmp_path / "m").write_text("web9: 127.0.0.9\n")
    server.put(NAME, "A")
    done = gateway.run("-n")
    assert done.returncode == 0 and "warning: www: members from dns web.example.net: " in done.stderr


CONFIG = """
ipfilter: {interface: em0, tag: %s}
clusters:
  a:
    address: 192.0.2.1
    services: {x: {port: 80, member_port: 8080}}
    members: {m1: 10.0.0.1}
    members_from: [{file: /one}, {file: /two}]
"""


def test_the_first_of_two_counts() -> None:
    config = parse(CONFIG % "l4ip", "l4ip.conf")
    known = {Wanted(Source(file="/one"), False, True).key: [
                 Member("m1", "10.0.0.7"), Member("m2", "10.0.0.1"), Member("m3", "10.0.0.3"),
                 Member("vip", "192.0.2.1", port=80)],
             Wanted(Source(file="/two"), False, True).key: [Member("m3", "10.0.0.8"), Member("m4", "10.0.0.4")]}
    full, odd = filled(config, known)
    assert [(member.name, member.address, member.origin) for member in full.clusters[0].members] == [
        ("m1", "10.0.0.1", ""), ("m3", "10.0.0.3", "file /one"), ("m4", "10.0.0.4", "file /two")]
    assert odd == ["a: m1 10.0.0.7 from file /one is left out: m1 10.0.0.1 is there already",
                   "a: m2 10.0.0.1 from file /one is left out: m1 10.0.0.1 is there already",
                   "a: vip 192.0.2.1 from file /one is left out: its rule would lead to itself",
                   "a: m3 10.0.0.8 from file /two is left out: m3 10.0.0.3 is there already"]


def test_of_many_sources_in_trouble_some_are_named(tmp_path: Path) -> None:
    loop = Loop()
    discovery = Discovery(loop, list)
    config = parse("ipfilter: {interface: em0}\nclusters:\n" + "".join(
        f"  c{number}: {{address: 10.0.0.{number}, services: {{s: {{port: 80}}}}, "
        f"members_from: [{{file: f{number}}}]}}\n"
        for number in range(1, 6)), f"{tmp_path}/l4ip.conf")
    discovery.take_over(config)
    wanted = list(who_asks(config))
    for number, each in enumerate(wanted[:4], 1):
        discovery._failed(each, f"reason {number}")
    lines = [f"c{number}: members from file {tmp_path}/f{number}: reason {number}: it has never given any members"
             for number in (1, 2, 3)]
    assert discovery.troubles() == [*lines, "sources of members in trouble: 1 more"]
    discovery._said(wanted[3], ())
    assert discovery.troubles() == lines
    discovery.stop()
    loop.close()
