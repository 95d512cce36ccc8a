"""Sensing in the sandbox, end to end: members that refuse and reset, ipmon as a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from l4ipd.sandbox import tool_words
from support.sandbox_tools import (
    HERE,
    Sandbox,
    connect,
    echo,
    eventually,
    free_port,
    member,
    reset,
    rule,
    sandbox,
    udp_client,
)


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with sandbox() as running:
        yield running


class Monitor:
    """A running ipmon."""

    def __init__(self, box: Sandbox, *words: str) -> None:
        self.process = subprocess.Popen([*tool_words(box.path)["ipmon"], *words], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                        env={**os.environ, "TZ": "UTC"})
        assert self.process.stdout is not None and self.process.stderr is not None
        self.stdout: IO[str] = self.process.stdout
        self.stderr: IO[str] = self.process.stderr

    def line(self) -> str:
        """The next line without its time."""
        line = self.stdout.readline()
        assert line, "ipmon has ended"
        return line if line.startswith("missed") else line.split(" ", 2)[2]


@contextlib.contextmanager
def monitor(box: Sandbox, *words: str) -> Iterator[Monitor]:
    running = Monitor(box, *words)
    too_long = threading.Timer(60, running.process.kill)        # a line that never comes must not hang the test
    too_long.start()
    with running.stdout, running.stderr:
        try:
            yield running
        finally:
            too_long.cancel()
            running.process.kill()
            running.process.wait(10)


def log_rule(port: int, options: str = "flags R/R set-tag(log=4711)") -> str:
    return f"@0 log in on int0 proto tcp from {HERE} port = {port} to any {options}\n"


def load(box: Sandbox, rule: str) -> None:
    done = box.run("ipf", "-f", "-", stdin=rule)
    assert (done.status, done.stderr) == (0, "")


def be_reset(vip: int, say: bytes = b"") -> str:
    """Connect, and return our own end of the connection that was then reset, be it before connect() returned."""
    with socket.socket() as client:
        client.bind((HERE, 0))
        port = client.getsockname()[1]
        client.settimeout(10)
        with pytest.raises(ConnectionResetError):
            client.connect((HERE, vip))
            client.sendall(say)
            client.recv(1)
    return f"{HERE},{port}"


def test_a_refusal_is_seen_at_once(box: Sandbox) -> None:
    vip, dead = free_port(), free_port()
    box.add(rule(vip, dead))
    load(box, log_rule(dead))
    with monitor(box, "-v") as ipmon:
        first = be_reset(vip)
        assert ipmon.line() == "missed 1 ipf log entries: 0 1\n"
        shape = r"int0 @-1:-1 L 127\.0\.0\.1,%d -> %s PR tcp len 20 40 -AR 0 \d+ 0 IN log-tag 4711\n"
        assert re.fullmatch(shape % (dead, first), ipmon.line())
        second = be_reset(vip)
        assert re.fullmatch(shape % (dead, second), ipmon.line())
    assert box.run("ipfstat", "-ih").stdout.startswith("2 log in on int0 inet proto tcp from 127.0.0.1/32 port = ")


def test_a_reset_later_has_a_sequence_number(box: Sandbox) -> None:
    vip = free_port()
    with member(reset) as a, monitor(box, "-v") as ipmon:
        box.add(rule(vip, a))
        load(box, log_rule(a))
        client = be_reset(vip, b"x")
        ipmon.line()
        assert re.fullmatch(rf"int0 @-1:-1 L 127\.0\.0\.1,{a} -> {client} PR tcp len 20 40 -R [1-9]\d* 0 0 IN "
                            r"log-tag 4711\n", ipmon.line())


def test_what_is_not_logged(box: Sandbox) -> None:
    """No rule, a client's reset, a connection that ends well; then one that is refused, so that there is a line."""
    vip, bad, dead = free_port(), free_port(), free_port()
    with member(echo) as a, monitor(box) as ipmon:
        box.add(rule(bad, dead))
        be_reset(bad)
        load(box, log_rule(a) + log_rule(dead))
        box.add(rule(vip, a))
        for _ in range(2):
            with connect(vip) as client:
                client.sendall(b"x")
                assert client.recv(1) == b"x"
                client.shutdown(socket.SHUT_WR)
                assert client.recv(1) == b""
        with connect(vip) as client:
            client.sendall(b"x")                            # closed with data unread: a RST from the client
        box.remove(rule(vip, a), "-p")
        last = be_reset(bad)
        assert ipmon.line() == "missed 1 ipf log entries: 0 1\n"
        assert f"-> {last} " in ipmon.line()


def test_keep_state_hides_but_is_counted(box: Sandbox) -> None:
    vip, dead = free_port(), free_port()
    box.add(rule(vip, dead))
    load(box, log_rule(dead) + f"count in on int0 proto tcp from {HERE} port = {dead} to any flags R/R\n"
              "pass in quick on ext0 proto tcp from any to any flags S keep state\n")
    be_reset(vip)
    assert box.run("ipfstat", "-aih").stdout.startswith("1 40 count in on int0 ")
    assert box.run("ipfstat", "-ih").stdout.startswith("0 log in on int0 ")


def test_udp_port_unreachable(box: Sandbox) -> None:
    vip, dead = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_DGRAM)
    box.add(rule(vip, dead, "udp"))
    load(box, "log in on int0 all\n")
    with monitor(box) as ipmon, udp_client(vip) as client:
        client.send(b"x")
        ipmon.line()
        assert ipmon.line() == (f"int0 @-1:-1 L {HERE} -> {HERE} PR icmp len 20 56 icmp unreach/port for "
                                f"{HERE},{client.getsockname()[1]} - {HERE},{dead} PR udp len 20 29 IN\n")


def test_one_reader_a_record(box: Sandbox) -> None:
    vip, dead = free_port(), free_port()
    box.add(rule(vip, dead))
    load(box, log_rule(dead))
    with monitor(box, "-P", f"{box.path}.1") as one, monitor(box, "-P", f"{box.path}.2") as two:
        eventually(lambda: os.path.exists(f"{box.path}.1") and os.path.exists(f"{box.path}.2"))     # they have begun
        for _ in range(10):
            be_reset(vip)
        box.process.terminate()
        lines = [line for reader in (one, two) for line in reader.stdout if "missed" not in line]
        assert len(lines) == len(set(lines)) == 10


def test_the_sandbox_ends_under_ipmon(box: Sandbox) -> None:
    with monitor(box) as ipmon:
        started(ipmon, box)
        box.process.terminate()
        assert ipmon.process.wait(10) == 0
        assert ipmon.stderr.read() == "0:read\n"
    assert box.process.wait(10) == 0


def started(ipmon: Monitor, box: Sandbox) -> None:
    """Wait until it reads: a record that it gets shows it."""
    vip, dead = free_port(), free_port()
    box.add(rule(vip, dead))
    load(box, log_rule(dead))
    be_reset(vip)
    while ipmon.line().startswith("missed"):
        pass


def test_signals(box: Sandbox) -> None:
    with monitor(box) as ipmon:
        started(ipmon, box)
        ipmon.process.send_signal(signal.SIGHUP)
        started(ipmon, box)
        ipmon.process.terminate()
        assert ipmon.process.wait(10) == -signal.SIGTERM


def test_its_reader_goes_away(box: Sandbox) -> None:
    """It lives until the next record, and then SIGPIPE ends it."""
    with monitor(box) as ipmon:
        started(ipmon, box)
        ipmon.stdout.close()
        assert ipmon.process.poll() is None
        vip, dead = free_port(), free_port()
        box.add(rule(vip, dead))
        load(box, log_rule(dead))
        be_reset(vip)
        assert ipmon.process.wait(10) == -signal.SIGPIPE


def test_pid_file_and_log_file(box: Sandbox, tmp_path: Path) -> None:
    with monitor(box, "-P", f"{tmp_path}/pid", f"{tmp_path}/log") as ipmon:
        eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").stat().st_size)
        assert int((tmp_path / "pid").read_text()) == ipmon.process.pid
        vip, dead = free_port(), free_port()
        box.add(rule(vip, dead))
        load(box, log_rule(dead))
        be_reset(vip)
        eventually(lambda: "log-tag" in (tmp_path / "log").read_text())


def test_killed_ipmon_leaves_the_records_to_the_next(box: Sandbox) -> None:
    vip, dead = free_port(), free_port()
    box.add(rule(vip, dead))
    load(box, log_rule(dead))
    with monitor(box) as first:
        be_reset(vip)
        first.line()
        first.line()
        first.process.kill()
        first.process.wait(10)
    eventually(lambda: be_reset(vip) and True)
    over = threading.Event()

    def again() -> None:
        while not over.wait(0.2):                   # the first may have got records that it could not write any more
            be_reset(vip)

    with monitor(box) as second:
        clients = threading.Thread(target=again, daemon=True)
        clients.start()
        try:
            assert second.line().startswith("missed ")
            assert second.line().startswith("int0 ")
        finally:
            over.set()
            clients.join()
