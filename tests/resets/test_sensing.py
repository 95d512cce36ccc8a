"""Sensing from end to end: l4ipd as a process, the sandbox as its kernel, members that die while probes are far away.

Probes are ten minutes apart, so that what happens within a test happens because a reset was seen.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from support.gateway import Gateway, free_port, wait
from support.members import overcrowded
from support.sandbox_tools import Result, Sandbox, sandbox

A, B = "127.0.0.11", "127.0.0.12"
SLOW = "{interval: 10m, fast_interval: 100ms, timeout: 100ms, rise: 2, fall: 3}"
RESETS = "resets: {interface: lo0}\n"
FOREIGN = ["log in on lo0 proto tcp from 192.0.2.1 port = 8080 to any flags R/R set-tag(log=4712)",
           "log in on lo0 proto tcp from 192.0.2.1 port = 8080 to any flags R/R"]


@pytest.fixture(scope="module", params=["6.0.0", "5.1.2", "4.1"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with sandbox("--ipfilter", request.param) as process:
        yield process


@pytest.fixture(scope="module")
def modern() -> Iterator[Sandbox]:
    with sandbox() as process:
        yield process


def prepare(kernel: Sandbox, directory: Path) -> Iterator[Gateway]:
    kernel.ipnat("-FC")
    for family in ((), ("-6",)):
        kernel.run("ipf", *family, "-Fa")
    kernel.run("ipf", "-f", "-", stdin="\n".join(FOREIGN) + "\n")
    it = Gateway(kernel, directory)
    yield it
    it.close()
    listed = kernel.run("ipfstat", "-iR").stdout
    assert all(re.search(f"{re.escape(line.partition('to any')[2])}$", listed, re.M) for line in FOREIGN)


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    yield from prepare(kernel, tmp_path)


@pytest.fixture
def new(modern: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    yield from prepare(modern, tmp_path)


def www(port: int, inside: int, check: str = "tcp", address: str = "127.0.0.1",
        members: str = f"web1: {A}, web2: {B}", protocol: str = "tcp") -> str:
    return (f"www:\n  address: {address}\n  members: {{{members}}}\n"
            f"  services: {{http: {{port: {port}, member_port: {inside}, protocol: {protocol}, check: {check}}}}}\n")


def log_rules(kernel: Sandbox, *family: str) -> list[str]:
    """The addresses and ports that our log rules are about."""
    listed = kernel.run("ipfstat", *family, "-iR").stdout
    return sorted(re.findall(r"^log in on lo0 .*?from ([^ /]+).*set-tag\(log=4711\)$", listed, re.M))


def ask(port: int, address: str = "127.0.0.1") -> bool:
    """One client; whether it got through."""
    try:
        with socket.create_connection((address, port), timeout=5) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return bool(client.recv(100))
    except ConnectionError:
        return False


def ipmons(kernel: Sandbox) -> list[int]:
    """Processes that read this kernel's log. (With COLUMNS set, ps would cut the lines short.)"""
    listed = subprocess.run(["ps", "-A", "-o", "pid=", "-o", "args="], capture_output=True, text=True,
                            env={"PATH": os.environ["PATH"]}).stdout
    return [int(line.split()[0]) for line in listed.splitlines()
            if f"{kernel.path} ipmon" in line and "/bin/sh" not in line]


def test_a_refused_client_takes_the_service_down_and_probes_bring_it_up(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    one, _ = gateway.web(A, inside), gateway.web(B, inside)
    gateway.configure(www(port, inside), top=RESETS, defaults=SLOW)
    gateway.start()
    gateway.wait_targets(A, B)
    gateway.wait_log("^resets of clients' connections are sensed, by ipmon$")
    wait("log rules", lambda: log_rules(gateway.kernel) == [A, B])
    assert ask(port) and ask(port) and len(ipmons(gateway.kernel)) == 1
    one.stop()
    assert [ask(port), ask(port)].count(False) == 1
    gateway.wait_targets(B)
    gateway.wait_log(f"^www/http/web1 {A}:{inside} up -> down: RST connection refused, seen by ipmon; 1 of 2 up$")
    assert all(ask(port) for _ in range(4))
    gateway.send(signal.SIGUSR1)
    gateway.wait_log(r"resets: ipmon alive; 1 seen, 1 used, 0 ignored; ipf rules: 2 wanted, 2 in the kernel$")
    one.start()
    gateway.wait_targets(A, B)
    gateway.wait_log(r"^www/http/web1 .* down -> up: L4OK .*; 2 of 2 up$")
    assert len(gateway.lines("held down")) == 0
    gateway.stop()
    wait("ipmon ends", lambda: not ipmons(gateway.kernel))
    assert log_rules(gateway.kernel) == [A, B], "rules stay"


def test_the_log_rules_are_kept_adopted_and_removed(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    gateway.web(A, inside)
    gateway.web(B, inside)
    one = www(port, inside)
    shared = one + www(port + 1, inside).replace("www:", "api:")
    gateway.configure(shared, top=RESETS)
    gateway.start()
    gateway.wait_targets(A, A, B, B)
    wait("one rule for members that are shared", lambda: log_rules(gateway.kernel) == [A, B])
    gateway.kernel.run("ipf", "-r", "-f", "-", stdin=f"log in on lo0 proto tcp from {A} port = {inside} to any flags "
                       "R/R set-tag(log=4711)\n")
    wait("what somebody removed is put back", lambda: log_rules(gateway.kernel) == [A, B])
    gateway.wait_log("^a rule of ours had been removed by somebody else and will be put back: log in on lo0")
    gateway.stop(signal.SIGKILL)
    wait("no ipmon outlives a kill -9", lambda: not ipmons(gateway.kernel))
    assert log_rules(gateway.kernel) == [A, B]
    gateway.configure(www(port, inside, members=f"web2: {B}"), top=RESETS)
    gateway.start()
    wait("rules of members that left go", lambda: log_rules(gateway.kernel) == [B])
    gateway.configure(www(port, inside, members=f"web2: {B}"))
    gateway.send(signal.SIGHUP)
    wait("all of ours go with the section", lambda: not log_rules(gateway.kernel))
    wait("and ipmon", lambda: not ipmons(gateway.kernel))
    gateway.configure(one, top=RESETS, ipfilter="on_stop: remove")
    gateway.send(signal.SIGHUP)
    wait("and come back with it", lambda: log_rules(gateway.kernel) == [A, B])
    gateway.stop()
    assert not log_rules(gateway.kernel) and not gateway.rules()
    assert not gateway.lines("ERROR|error|Traceback")


def test_ipv6(gateway: Gateway) -> None:
    try:
        with socket.socket(socket.AF_INET6) as trial:
            trial.bind(("::1", 0))
    except OSError:
        pytest.skip("no IPv6 here")
    port, inside = free_port(), free_port()
    web = gateway.web("::1", inside)
    gateway.configure(www(port, inside, address='"::1"', members='web1: "::1"'), top=RESETS, defaults=SLOW)
    gateway.start()
    wait("log rules", lambda: log_rules(gateway.kernel, "-6") == ["::1"])
    gateway.wait_log("sensed, by ipmon$")
    if gateway.lines("^IPFilter 4.1"):              # has no rdr rules for IPv6
        return
    gateway.wait_targets("::1")
    assert ask(port, "::1")
    web.stop()
    ask(port, "::1")
    gateway.wait_log(r"^www/http/web1 \[::1\]:\d+ up -> down: RST connection refused, seen by ipmon; 0 of 1 up$")
    gateway.wait_targets()


@pytest.mark.loopback(A)
def test_udp(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((A, inside))
        gateway.configure(www(port, inside, check="{type: udp}", members=f"web1: {A}", protocol="udp"), top=RESETS,
                          defaults=SLOW)
        gateway.start()
        gateway.wait_targets(A)
        wait("log rules", lambda: log_rules(gateway.kernel) == [A])
        gateway.wait_log("sensed, by ipmon$")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", port))
        gateway.wait_log("^www/http/web1 .* up -> down: RST port unreachable, seen by ipmon; 0 of 1 up$")
    gateway.wait_targets()


KEEP_STATE = "pass in quick on lo0 proto tcp from any to any flags S keep state\n"


def test_counters_see_what_keep_state_hides(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    one, _ = gateway.web(A, inside), gateway.web(B, inside)
    assert gateway.kernel.run("ipf", "-f", "-", stdin=KEEP_STATE) == Result(0, "", "")
    gateway.configure(www(port, inside), top="resets: {interface: lo0, source: counters}\n", defaults=SLOW)
    gateway.start()
    gateway.wait_targets(A, B)

    def counting() -> int:
        return len(re.findall(rf"^count in on lo0 .*port = {inside} to any flags R/R$", re.sub(
            r"^\d+ \d+ ", "", gateway.kernel.run("ipfstat", "-aihR").stdout, flags=re.M), re.M))

    wait("count rules", lambda: counting() == 2)
    gateway.send(signal.SIGUSR1)
    gateway.wait_log("resets: counters alive; 0 seen")
    one.stop()
    assert [ask(port), ask(port)].count(False) == 1
    gateway.wait_log(r"^www/http/web1 .* up -> down: L4CON connection refused \(3 of 3 failed, \d+ ms\); 1 of 2 up$")
    gateway.configure(www(port, inside), top=RESETS, defaults=SLOW)
    gateway.send(signal.SIGHUP)
    wait("count rules go, log rules come", lambda: counting() == 0 and log_rules(gateway.kernel) == [A, B])
    gateway.stop()
    gateway.kernel.run("ipf", "-r", "-f", "-", stdin=KEEP_STATE)


def test_deaf_sensing_is_noticed(new: Gateway) -> None:
    """Another rule keeps state: clients are refused, and no log rule sees it."""
    port, inside = free_port(), free_port()
    one, _ = new.web(A, inside), new.web(B, inside)
    assert new.kernel.run("ipf", "-f", "-", stdin=KEEP_STATE) == Result(0, "", "")
    new.configure(www(port, inside), top=RESETS, defaults="{interval: 700ms, timeout: 200ms, rise: 1, fall: 5}")
    new.start()
    new.wait_targets(A, B)
    new.wait_log("sensed, by ipmon$")
    one.stop()
    wait("somebody notices", lambda: ask(port) is None or new.lines("^sensing seems deaf: www/http/web1 refuses"))
    new.wait_log("^www/http/web1 .* up -> down: L4CON")
    wait("it is told", lambda: new.lines("^sensing seems deaf"))
    new.send(signal.SIGUSR1)
    new.wait_log("sensing of resets seems deaf: .*; a reload forgets it")
    new.wait_log("^resets: ipmon deaf?")
    new.configure(www(port, inside), top="resets: {interface: lo0, source: counters}\n",
                  defaults="{interval: 700ms, timeout: 200ms, rise: 1, fall: 5}")
    new.send(signal.SIGHUP)
    new.wait_log("configuration reloaded: ")
    told = len(new.lines("seems deaf"))
    new.send(signal.SIGUSR1)
    new.wait_log("^resets: counters alive")
    assert len(new.lines("seems deaf")) == told, "its own advice ends it"
    new.stop()
    new.kernel.run("ipf", "-r", "-f", "-", stdin=KEEP_STATE)


def test_lines_from_the_file_of_the_systems_ipmon(new: Gateway) -> None:
    port, inside = free_port(), free_port()
    one, _ = new.web(A, inside), new.web(B, inside)
    file = new.directory / "ipf.log"
    words = [sys.executable, "-m", "l4ipd.sandbox", "-s", new.kernel.path, "ipmon", "-v", str(file)]
    system = subprocess.Popen(words, cwd=ROOT)
    try:
        new.configure(www(port, inside), top=f"resets: {{interface: lo0, source: {file}}}\n", defaults=SLOW)
        new.start()
        new.wait_targets(A, B)
        wait("log rules", lambda: log_rules(new.kernel) == [A, B])
        new.wait_log("sensed, by |sensing of resets is lost")
        one.stop()
        assert [ask(port), ask(port)].count(False) == 1
        new.wait_log("^www/http/web1 .* up -> down: RST connection refused, seen by ipmon; 1 of 2 up$")
    finally:
        system.kill()
        system.wait()


def test_resets_that_probes_contradict_harm_nobody_and_a_true_one_still_counts(new: Gateway) -> None:
    """A member that has banned a client, or a neighbour that forges: a record of each member every half second."""
    port, inside = free_port(), free_port()
    one, _ = new.web(A, inside), new.web(B, inside)
    file = new.directory / "ipf.log"
    words = [sys.executable, "-m", "l4ipd.sandbox", "-s", new.kernel.path, "ipmon", "-v", str(file)]
    system = subprocess.Popen(words, cwd=ROOT)

    def forge(number: int) -> None:
        stamp = time.strftime("%d/%m/%Y %H:%M:%S", time.localtime())
        with file.open("a") as log:
            log.writelines(f"{stamp}.000000 lo0 @-1:-1 L {member},{inside} -> 198.51.100.{number},5000 PR tcp "
                           f"len 20 40 -AR 0 1001 0 IN log-tag 4711\n" for member in (A, B))

    try:
        wait("ipmon writes", file.exists)
        new.configure(www(port, inside), top=f"resets: {{interface: lo0, source: {file}}}\n", defaults=SLOW)
        new.start()
        new.wait_targets(A, B)
        wait("log rules", lambda: log_rules(new.kernel) == [A, B])
        new.wait_log("sensed, by ")
        served = 0
        for number in range(10):
            forge(number)
            end = time.monotonic() + 0.5
            while time.monotonic() < end:
                assert ask(port)
                served += 1
            assert new.targets() == [A, B]
        assert served >= 10
        doubt = r"its resets are not believed for \d+ s: \d+ were contradicted by probes"
        new.wait_log(rf"^www/http/web1 {A}:{inside}: {doubt}$", 2)
        command = [sys.executable, "-m", "l4ipd.control.client", "-s", str(new.directory / "l4ip.sock"),
                   "--json", "show"]

        def shown() -> object:
            forge(11)
            return re.search(f"L4OK connected; {doubt}", subprocess.run(command, capture_output=True, text=True,
                                                                        cwd=ROOT).stdout)

        wait("show says so", shown)
        assert not new.lines("up -> down|ended the sessions|purge: rdr")
        one.stop()
        wait("a refused client", lambda: ask(port) is False or new.targets() != [A, B])
        new.wait_log(rf"^www/http/web1 {A}:{inside} up -> down: RST connection refused, seen by ipmon; 1 of 2 up$")
        new.wait_targets(B)
        assert all(ask(port) for _ in range(4))
    finally:
        system.kill()
        system.wait()


def test_a_line_with_a_nul_in_its_port_is_left_out_and_sensing_goes_on(new: Gateway) -> None:
    port, inside = free_port(), free_port()
    one = new.web(A, inside)
    file = new.directory / "ipf.log"
    file.touch()
    new.configure(www(port, inside), top=f"resets: {{interface: lo0, source: {file}}}\n", defaults=SLOW)
    new.start()
    new.wait_targets(A)
    new.wait_log("sensed, by ")
    record = (f"28/11/2026 10:00:00.123456 lo0 @-1:-1 L {A},%s -> 198.51.100.7,5000 PR tcp len 20 40 -AR 0 1 0 IN "
              "log-tag 4711\n")
    one.stop()
    with file.open("a") as log:
        log.write(record % "8\x000" + record % ("9" * 400) + record % inside)
    new.wait_log("^www/http/web1 .* up -> down: RST connection refused, seen by ipmon; 0 of 2 up$")
    new.send(signal.SIGUSR1)
    new.wait_log("resets: .*ipf.log alive; 3 seen, 1 used, 2 ignored .2 unreadable.")
    assert not new.lines("internal error")


def test_losing_the_device_is_told_once_and_so_is_its_return(new: Gateway) -> None:
    port, inside = free_port(), free_port()
    new.web(A, inside)
    new.configure(www(port, inside, members=f"web1: {A}"), top=RESETS, defaults=SLOW)
    new.start()
    new.wait_log("sensed, by ipmon$")
    (victim,) = ipmons(new.kernel)
    os.kill(victim, signal.SIGKILL)
    new.wait_log(r"^sensing of resets is lost: ipmon: was killed by signal 9; trying again$")
    new.wait_log(r"^sensing of resets is back: ipmon is read again$")


def test_a_client_that_is_moved_to_another_member_keeps_its_request(modern: Sandbox) -> None:
    """Its member does not answer the SYN; the session is purged; what it has sent goes to who is left."""
    modern.ipnat("-FC")
    port = free_port()
    with overcrowded() as silent, socket.create_server(("127.0.0.1", 0)) as other:
        lines = [f"rdr lo0 127.0.0.1/32 port {port} -> 127.0.0.1 port {inside} tcp round-robin"
                 for inside in (silent, other.getsockname()[1])]
        modern.add(lines[0])
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(b"hello")
            wait("the sandbox has taken it", lambda: "[127.0.0.1 " in modern.ipnat("-l").stdout)
            modern.add(lines[1])
            modern.remove(lines[0], "-p")
            connection, _ = other.accept()
            with connection:
                connection.settimeout(20)
                assert connection.recv(100) == b"hello"


@pytest.mark.parametrize("source", ["ipmon", "counters"])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_rules_of_a_section_that_is_gone_at_the_next_start_go(gateway: Gateway, source: str, signum: int) -> None:
    inside = free_port()
    gateway.web(A, inside)
    clusters = www(free_port(), inside, members=f"web1: {A}")

    def ours() -> str:
        kind = "-iR" if source == "ipmon" else "-aihR"
        listed = gateway.kernel.run("ipfstat", kind).stdout
        return "".join(line for line in listed.splitlines(True) if A in line)

    gateway.configure(clusters, top=f"resets: {{interface: lo0, source: {source}}}\n", defaults=SLOW)
    gateway.start()
    gateway.wait_targets(A)
    wait("the rule", ours)
    state = gateway.directory / "state.json"
    wait("the state", lambda: state.exists() and '"tables": ["' in state.read_text())
    gateway.stop(signum)
    assert ours(), "a stop leaves the rules"
    gateway.configure(clusters, defaults=SLOW)
    gateway.start()
    wait("they go", lambda: not ours())
