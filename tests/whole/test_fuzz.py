"""What comes from outside, spoilt: lines of ipmon's and requests at the control socket, by chance and in any pieces.

Whatever it was, nobody is taken down whom no line named, nothing is kept of it, nothing it says grows without bounds,
and what comes next is understood. See ``chance`` for how to repeat a run.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from l4ipd.checks.verdict import Verdict
from l4ipd.control.commands import Commands
from l4ipd.control.server import Control
from l4ipd.daemon import Daemon
from l4ipd.model import Check, Cluster, Config, Ipfilter, Member, Resets, Service
from l4ipd.report.history import History
from l4ipd.runtime.lateness import Lateness
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.state_file import StateFile
from l4ipd.web.metrics import render
from support import SAMPLES
from support.chance import repeat, spoil
from support.descriptors import opened

SECONDS = 5.0
PASS = Verdict("L4OK", "connected")
PATIENCE = 30.0
RECORDS = (SAMPLES / "ipmon-samples.txt").read_bytes().splitlines()
NAMED, NEVER_NAMED, LAST = "10.0.0.2", "10.77.77.77", "10.99.99.99"


class Over:
    """A probe that is over, or that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


@contextmanager
def daemon(directory: Path, ipmon: Path, answers: bool) -> Iterator[Daemon]:
    """One whose three members are up; no tool of it is there but an ipmon. It lives a hundred times as fast as we.

    ``answers``: probes pass at once; else there is no answer to any.
    """
    loop = Loop(clock=lambda: time.monotonic() * 100)
    none = (str(directory / "no-tool"),)
    config = Config(Ipfilter("em0", ipnat=none, ipf=none, ipfstat=none, ipmon=(str(ipmon),)),
                    (Cluster("www", ("203.0.113.10",),
                             (Service("web", 80, "tcp", 8080, False, (Check("tcp", interval=36e4, timeout=1e5),)),
                              Service("dns", 53, "udp", 53, False, (Check("udp", interval=36e4, timeout=1e5),))),
                             tuple(Member(f"m{number}", address)
                                   for number, address in enumerate((NAMED, NEVER_NAMED, LAST)))),),
                    pidfile=str(directory / "pid"), state=str(directory / "state"), resets=Resets("em1"))
    it = Daemon(loop, Config(), 100)
    it.fleet.schedule.start = lambda recipe, done: (done(PASS) if answers else None, Over())[1]
    it.apply(config)
    for monitor in it.fleet.monitors.values():
        monitor.score(PASS, 0.0)

    def tick() -> None:
        loop.later(0.01, tick)                      # keeps turns from lasting

    tick()
    yield it
    it.sensing.stop(remove=False)
    loop.close()


def until(loop: Loop, what: Any) -> None:
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end, "it never happened"
        loop.turn()


def internal_errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.exc_info or "internal error" in record.message]


def descriptors() -> int:
    return len(opened())


# -- ipmon

def spoilt_lines(chance: random.Random) -> bytes:
    """Samples and records of ours, most of them spoilt. The last is good, and about LAST."""
    stamp = time.strftime("%d/%m/%Y %H:%M:%S.9", time.localtime(time.time() + 3600)).encode()
    ours = [stamp + b" em1 @-1:-1 L 10.0.0.2,8080 -> 198.51.100.7,5000 PR tcp len 20 40 -AR 0 1001 0 IN log-tag 4711",
            stamp + b" 5x em1 @0:1 L 10.0.0.2,8080 -> fd00::7,5000 PR tcp len 20 40 -R 77 0 0 K-S IN log-tag 4711 bad",
            b"Nov 28 10:00:00 gw ipmon[77]: 10:00:00.123456 em1 @0:1 p 10.0.0.2,8080 -> 198.51.100.7,5000 PR tcp "
            b"len 20 40 -AR 0 1001 0 IN log-tag 4711",
            stamp + b" em1 @-1:-1 L 10.0.0.2 -> 198.51.100.7 PR icmp len 20 56 icmp unreach/port for "
            b"198.51.100.7,4000 - 10.0.0.2,53 PR udp len 20 29 IN log-tag 4711",
            stamp + b" em1 @-1:-1 L fd00::2 -> fd00::7 PR icmpv6 len 40 96 icmpv6 unreach/port IN log-tag 4711",
            b"missed 12 ipf log entries: 7 19"]
    lines = [spoil(chance, chance.choice(chance.choice((ours, RECORDS)))) for _ in range(300)]
    return b"\n".join([*lines, ours[0].replace(b"10.0.0.2", LAST.encode())]) + b"\n"


def test_lines_of_ipmon(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ipmon, lines = tmp_path / "ipmon", tmp_path / "lines"
    ipmon.write_text(f"#!/bin/sh\ncat {lines}\nexec sleep 600\n")
    ipmon.chmod(0o755)
    caplog.set_level(logging.WARNING, "l4ipd")

    def run(seed: int) -> None:
        lines.write_bytes(spoilt_lines(random.Random(seed)))
        with daemon(tmp_path, ipmon, answers=False) as it:
            last = it.fleet.monitors[f"www/web/m{2}"]
            until(it.loop, lambda: not last.up)
            assert all(it.fleet.monitors[f"www/{service}/m1"].up for service in ("web", "dns")), "nobody named it"
            assert it.fleet.monitors["www/dns/m2"].up
            assert it.sensing.is_alive or not it.sensing.listener.problem
            assert len(it.sensing.summary()) < 400
            text = b"".join(render(it, History(), Lateness(it.loop), {}))
            assert b"l4ip_resets" in text and len(text) < 100_000
            assert max(map(len, text.splitlines())) < 1000
            assert internal_errors(caplog) == []

    assert repeat(run, SECONDS)


# -- the control socket

COMMANDS = ["show", "disable", "enable", "check", "monitor", "reload", "rules", "", "nothing", "end"]
VALUES: list[Any] = [None, True, False, 0, -1, 1e308, 10**400, "", "*", "www", "www/web/m0", "[c", "[", "m0\0",
                     "\ud800", "*" * 200, "?" * 5000, "[a-z]*" * 500, [], {}, ["m0", "m1"], [["m0"]], ["*"] * 3000,
                     {"a": {"b": []}}, [None, 5]]
KEYS = ["pattern", "patterns", "now", "wait", "command", "clusters", "end", "exit", ""]


def spoilt_request(chance: random.Random) -> tuple[bytes, bool]:
    """A request, and whether it is whole: an object on a line, and nothing behind it."""
    request = {"command": chance.choice(COMMANDS), **{chance.choice(KEYS): chance.choice(VALUES)
                                                      for _ in range(chance.choice((0, 1, 1, 2, 3)))}}
    text = json.dumps(request, ensure_ascii=chance.random() < 0.9).encode("utf-8", "surrogatepass")
    if chance.random() < 0.5:
        return text + b"\n", True
    return spoil(chance, text) + chance.choice((b"", b"\n", b"\n\n", b"\n{}", b"\r\n")), False


class Client:
    """One connection, whose words go out in pieces while the loop turns."""

    def __init__(self, loop: Loop, path: Path) -> None:
        self.loop = loop
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.socket.setblocking(False)
        self.answer, self.over = b"", False

    def say(self, words: bytes, chance: random.Random) -> None:
        while words and not self.over:
            size = chance.choice((1, 10, 1000, 100_000)) if chance.random() < 50 / len(words) else 100_000
            try:
                self.socket.send(words[:size])
            except BlockingIOError:
                size = 0
            except OSError:
                self.over = True
            words = words[size:]
            self.listen()

    def listen(self) -> bool:
        """Take what has come; whether the other side has hung up."""
        self.loop.turn()
        try:
            chunk = self.socket.recv(65536)
            self.answer, self.over = self.answer + chunk, not chunk
        except BlockingIOError:
            pass
        except ConnectionResetError:                # it did not read all that we said
            self.over = True
        return self.over

    def close(self) -> None:
        self.socket.close()
        for _ in range(3):
            self.loop.turn()

    def last(self) -> Any:
        """The line that ends the answer, which is the only one of its kind."""
        lines = [json.loads(line) for line in self.answer.splitlines() if line]
        assert [line.get("end", False) for line in lines] == [False] * (len(lines) - 1) + [True]
        assert isinstance(lines[-1]["exit"], int)
        return lines[-1]


def test_requests(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "l4ipd")
    with daemon(tmp_path, tmp_path / "no-tool", answers=True) as it:
        file = StateFile(it.loop, str(tmp_path / "state.json"), bytes, print)
        commands = Commands(it, lambda done: done(True, ["nothing changed"]), file).by_name()
        control = Control(it.loop, str(tmp_path / "sock"), None, commands)
        control.open()
        ask(it.loop, tmp_path / "sock", random.Random(0))
        before, listeners = descriptors(), len(it.events.listeners)

        def run(seed: int) -> None:
            chance = random.Random(seed)
            for _ in range(10):
                request, whole = spoilt_request(chance)
                client = Client(it.loop, tmp_path / "sock")
                client.say(request, chance)
                if whole and b'"monitor"' not in request:
                    until(it.loop, client.listen)
                    client.last()
                client.close()
            ask(it.loop, tmp_path / "sock", chance)
            until(it.loop, lambda: not control.clients)
            assert (descriptors(), len(it.events.listeners)) == (before, listeners)
            assert internal_errors(caplog) == []

        assert repeat(run, SECONDS)
        control.close()
        file.close()


def ask(loop: Loop, path: Path, chance: random.Random) -> None:
    """A good request has its answer."""
    client = Client(loop, path)
    client.say(b'{"command": "show"}\n', chance)
    until(loop, client.listen)
    assert client.last()["exit"] in (0, 1)
    assert client.answer.count(b'"endpoint"') == 6
    client.close()
