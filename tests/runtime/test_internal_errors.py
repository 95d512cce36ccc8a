"""An exception must not end a source: each consumer raises in turn, with real processes and sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import l4ipd.steering
from l4ipd.checks.exec import Command
from l4ipd.checks.ping import Pinger
from l4ipd.checks.probe import Prober
from l4ipd.checks.recipe import recipe
from l4ipd.checks.tcp import Stream
from l4ipd.checks.udp import Datagram
from l4ipd.checks.verdict import Verdict
from l4ipd.control import server, socket_file
from l4ipd.control.service import ControlService
from l4ipd.daemon import Daemon
from l4ipd.events import Event, Events
from l4ipd.fleet import Fleet
from l4ipd.ipfilter import snapshot
from l4ipd.ipfilter.belief import Belief
from l4ipd.ipfilter.held_lines import HeldLines
from l4ipd.ipfilter.listing import Listing
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.ipfilter.runner import Runner
from l4ipd.model import Check, Ipfilter, Resets
from l4ipd.monitor.monitor import Monitor
from l4ipd.readiness import Readiness
from l4ipd.report.notify import Notifier
from l4ipd.resets import sources, targets
from l4ipd.resets.reaction import Reaction
from l4ipd.runtime import backoff, stream_server
from l4ipd.runtime.child import Child, Exit, end_all
from l4ipd.runtime.internal_errors import INTERNAL, InternalErrors
from l4ipd.runtime.lines import Lines
from l4ipd.runtime.loop import READ, Loop
from l4ipd.runtime.state_file import StateFile
from l4ipd.runtime.stream_server import Connection
from l4ipd.service_rules import ServiceRules
from l4ipd.state_saver import StateSaver
from l4ipd.transitions import Transitions
from l4ipd.web import httpd
from l4ipd.web.httpd import Client, Server
from support import sensing_bench
from support.certs import Authority
from support.control_server import ControlServer
from support.daemon_in_process import A, B, DaemonInProcess
from support.gateway import wait
from support.http_server import HttpServer, status
from support.members import Member, answers, endpoint

PATIENCE = 30.0


class Bug(Exception):
    """What nobody expects."""


def fails(monkeypatch: pytest.MonkeyPatch, where: Any, name: str, times: int = 1) -> list[None]:
    """Let a method raise the first ``times`` it is called; what it has raised."""
    original, raised = getattr(where, name), []     # type: ignore[var-annotated]

    def method(*arguments: object, **more: object) -> object:
        if len(raised) < times:
            raised.append(None)
            raise Bug(name)
        return original(*arguments, **more)

    monkeypatch.setattr(where, name, method)
    return raised


@pytest.fixture
def loop() -> Iterator[Loop]:
    end_all()                                       # what other tests have left would raise in the place of ours
    it = Loop()
    yield it
    it.close()


def until(loop: Loop, done: Callable[[], object]) -> None:
    end = loop.clock() + PATIENCE
    while not done():
        assert loop.clock() < end, "never happened"
        loop.later(0.01, lambda: None)
        loop.turn()


# -- the count

def test_each_kind_has_one_traceback_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    now = 1e6
    errors = InternalErrors(lambda: now)
    for number in range(100):
        for mistake in (lambda: [][0], lambda: 1 // 0):
            assert not errors.shield(f"line {number}", mistake)
    assert errors.shield("nothing", len, "")
    assert errors.total == errors.recent() == 200
    assert sum(record.exc_info is not None for record in caplog.records) == 2
    assert [record.getMessage().rpartition(": ")[2] for record in caplog.records] == [
        "line 0", "line 0", "line 9", "line 9", "line 99", "line 99"]
    assert all("please report this" in record.getMessage() for record in caplog.records)
    now += 59 * 60
    assert errors.recent() == 200 and errors.last.startswith("ZeroDivisionError in ")
    now += 2 * 60
    assert errors.recent() == 0 and errors.total == 200


def test_the_kind_is_named_by_the_innermost_line_of_ours() -> None:
    errors = InternalErrors()
    errors.shield("x", targets.own_address, None)
    assert errors.last.startswith("TypeError in resets/targets.py:")


# -- the loop

class Owner:
    """Whoever has callbacks in a loop."""

    def __init__(self) -> None:
        self.heard = 0

    def callback(self) -> None:
        raise Bug

    def raised(self) -> None:
        self.heard += 1


def test_the_owner_of_a_descriptor_hears_that_it_was_let_go(loop: Loop) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"x")
    owner, after = Owner(), []
    loop.watch(reader, READ, owner.callback)
    loop.turn()
    assert owner.heard == 1 and loop.errors.total == 1
    loop.later(0.0, lambda: after.append(1))
    until(loop, lambda: after)
    assert owner.heard == 1, "it was let go"
    loop.watch(reader, READ, lambda: after.append(2))
    until(loop, lambda: 2 in after)
    os.close(reader)
    os.close(writer)


def test_the_owner_of_a_timer_hears_that_it_raised(loop: Loop) -> None:
    owner = Owner()
    loop.later(0.0, owner.callback)
    until(loop, lambda: owner.heard)
    assert owner.heard == loop.errors.total == 1


def test_a_descriptor_that_is_somebody_elses_by_now_stays_watched(loop: Loop) -> None:
    """The callback closes its own, which another opens and has watched, and only then raises."""
    one, other = socket.socketpair()
    seen: list[bytes] = []

    class Careless(Owner):
        def callback(self) -> None:
            number = one.fileno()
            loop.closing(number)
            one.close()
            self.new = socket.socketpair()
            assert self.new[0].fileno() == number
            loop.watch(number, READ, lambda: seen.append(self.new[0].recv(9)))
            raise Bug

    owner = Careless()
    loop.watch(one.fileno(), READ, owner.callback)
    other.send(b"x")
    until(loop, lambda: owner.heard)
    owner.new[1].send(b"hello")
    until(loop, lambda: seen)
    assert seen == [b"hello"]


def test_signals_and_threads_go_on_after_the_loops_own_pipe_broke(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    loop.on_signal(signal.SIGUSR1, lambda: seen.append("signal"))
    assert loop._wakeup is not None
    reader = loop._wakeup.reader
    read = os.read

    def broken(fd: int, size: int) -> bytes:
        if fd == reader and not seen:
            seen.append("broken")
            raise OSError(5, "a disaster")
        return read(fd, size)

    monkeypatch.setattr(os, "read", broken)
    os.kill(os.getpid(), signal.SIGUSR1)
    until(loop, lambda: seen)
    os.kill(os.getpid(), signal.SIGUSR1)
    until(loop, lambda: "signal" in seen)
    loop.aside(lambda: "thread", seen.append)
    until(loop, lambda: "thread" in seen)
    assert seen == ["broken", "signal", "thread"] and loop.errors.total == 1


# -- children

def ended(loop: Loop, *argv: str, **more: Any) -> Exit:
    ends: list[Exit] = []
    Child(loop, argv, timeout=PATIENCE, done=ends.append, **more)
    until(loop, lambda: ends)
    return ends[0]


@pytest.mark.parametrize("stream", ["output", "errors"])
def test_a_child_whose_reader_raises_is_ended_and_not_believed(loop: Loop, stream: str) -> None:
    def take(chunk: bytes) -> bool:
        raise Bug

    script = "trap '' TERM; echo out; echo err >&2; sleep 600"
    end = ended(loop, "sh", "-c", script, **{stream: take})
    assert (end.status, end.error, end.clean) == (None, f"sh: given up: {INTERNAL}", False)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_child_whose_last_words_cannot_be_read(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = fails(monkeypatch, Child, "_drain")
    assert ended(loop, "true").error == f"true: given up: {INTERNAL}"
    assert raised


def test_one_whose_end_nobody_could_bear_costs_the_others_nothing(loop: Loop) -> None:
    ends: list[Exit] = []

    def unbearable(end: Exit) -> None:
        raise Bug

    with contextlib.ExitStack() as stack:
        stack.callback(signal.pthread_sigmask, signal.SIG_UNBLOCK, {signal.SIGCHLD})
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})          # so that they are reaped together
        children = [Child(loop, ("true",), timeout=PATIENCE, done=done)
                    for done in (ends.append, unbearable, ends.append, unbearable, ends.append)]
        for child in children:
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    until(loop, lambda: len(ends) == 3)
    assert [end.status for end in ends] == [0, 0, 0] and loop.errors.total == 2


# -- sensing

def test_a_line_that_cannot_be_borne_costs_that_line(bench: sensing_bench.Bench, device: sensing_bench.Device,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    raised = fails(monkeypatch, Reaction, "_use")
    monitor = bench.add()
    bench.begin()
    bench.until(lambda: device.pids)
    device.write(sensing_bench.line(when=time.time() + 1))
    bench.until(lambda: raised)
    assert monitor.up
    device.write(sensing_bench.line(when=time.time() + 1))
    bench.until(lambda: not monitor.up)
    assert len(device.pids) == 1 and not bench.told and bench.loop.errors.total == 1


def test_an_ipmon_whose_pipe_was_given_up_is_started_again(
        bench: sensing_bench.Bench, device: sensing_bench.Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIRST_WAIT", 0.02)
    monitor = bench.add()
    bench.begin()
    bench.until(lambda: bench.sensing.is_alive)
    fails(monkeypatch, Lines, "feed")
    device.write(sensing_bench.line(when=time.time() + 1))
    bench.until(lambda: [kind for kind, _ in bench.told] == ["sensing-lost", "sensing-back"])
    assert bench.told[0][1] == f"sensing of resets is lost: ipmon: given up: {INTERNAL}; trying again"
    assert monitor.up and bench.loop.errors.total == 1
    device.write(sensing_bench.line(when=time.time() + 1))
    bench.until(lambda: not monitor.up)
    assert len(device.pids) == 2


def test_an_ipmon_that_could_not_be_started_again_is(bench: sensing_bench.Bench, device: sensing_bench.Device,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIRST_WAIT", 0.02)
    bench.begin()
    bench.until(lambda: bench.sensing.is_alive)
    fails(monkeypatch, sources, "find_program")
    os.kill(device.pids[0], signal.SIGKILL)
    bench.until(lambda: bench.told and bench.told[-1][0] == "sensing-back")
    assert len(device.pids) == 2


@pytest.mark.parametrize("where, name", [(Lines, "feed"), (sources.LogFile, "_read"), (sources.LogFile, "_compare")
                                         ], ids=lambda value: getattr(value, "__name__", value))
def test_a_log_file_is_read_on(bench: sensing_bench.Bench, monkeypatch: pytest.MonkeyPatch, where: Any, name: str,
                               tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "PAUSE", 0.02)
    path = tmp_path / "log"
    path.write_bytes(sensing_bench.line())            # old: read again, it would take the member down
    bench.settings = Resets("em1", str(path))
    monitor = bench.add()
    bench.begin()
    bench.until(lambda: bench.sensing.is_alive)
    raised = fails(monkeypatch, where, name)
    with path.open("ab") as log:
        log.write(sensing_bench.line("10.0.0.9"))
    bench.until(lambda: raised and [kind for kind, _ in bench.told] == ["sensing-lost", "sensing-back"])
    assert INTERNAL in bench.told[0][1] and bench.loop.errors.total == 1 and monitor.up
    with path.open("ab") as log:
        log.write(sensing_bench.line())
    bench.until(lambda: not monitor.up)


# -- listings

RULES = [f"rdr em0 203.0.113.1/32 port 80 -> 10.0.0.{member} port 8080 tcp round-robin tag l4ip"
         for member in (2, 3, 4)]
IPNAT = """case "$*" in
*-r*) sed 's/.*/removed/' >/dev/null ;;
*-f*) cat >>"$0.rules" ;;
*) echo 'List of active MAP/Redirect filters:'; cat "$0.rules" 2>/dev/null; echo; echo 'List of active sessions:' ;;
esac
"""


class Steering:
    """A reconciler, and an ipnat that never forgets a rule."""

    def __init__(self, loop: Loop, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(backoff, "FIRST", 0.02)
        tool = directory / "ipnat"
        tool.write_text(f"#!/bin/sh\n{IPNAT}")
        tool.chmod(0o755)
        self.loop = loop
        self.nat = NatTable(Ipfilter(ipnat=(str(tool),)), Dialect(), lambda line: None)
        self.it = Reconciler(loop, self.nat.table, PATIENCE, 0.2, removal=lambda line: "drain")

    def want(self, *lines: str) -> None:
        self.it.want = dict.fromkeys(lines)
        self.it.touch()

    def settle(self, *lines: str) -> None:
        until(self.loop, lambda: self.it.settled and list(self.it.have) == list(lines))


@pytest.fixture
def steering(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Steering:
    return Steering(loop, tmp_path, monkeypatch)


@pytest.mark.parametrize("where, name", [
    (Listing, "feed"), (Reconciler, "_was_listed"), (Reconciler, "_changed"), (HeldLines, "choose"),
    (Reconciler, "_list"), (Reconciler, "_believe"), (Reconciler, "_judge"), (Reconciler, "_run"), (Runner, "start"),
    (Belief, "take"), (Lines, "feed"),
], ids=lambda value: getattr(value, "__name__", value))
def test_the_rules_are_right_in_the_end(steering: Steering, monkeypatch: pytest.MonkeyPatch, where: Any, name: str
                                        ) -> None:
    steering.want(*RULES[:2])
    steering.settle(*RULES[:2])
    raised = fails(monkeypatch, where, name)
    steering.want(*RULES)
    steering.settle(*RULES)
    until(steering.loop, lambda: raised)
    steering.settle(*RULES)
    runs = steering.it.runs
    until(steering.loop, lambda: steering.it.runs > runs + 1)
    assert steering.loop.errors.total == 1, "and it is read back as ever"


def test_a_line_of_a_listing_that_cannot_be_borne_is_left_out(steering: Steering,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    steering.want(*RULES)
    steering.settle(*RULES)
    understand = NatTable.understand

    def picky(self: NatTable, line: str) -> object:
        if "10.0.0.3" in line:
            raise Bug
        return understand(self, line)

    monkeypatch.setattr(NatTable, "understand", picky)
    steering.nat._seen.clear()
    steering.want(RULES[0], RULES[2])
    steering.it.reread()
    steering.settle(RULES[0], RULES[2])
    assert not steering.it.faults.runs


@pytest.mark.parametrize("where, name", [(snapshot._Reader, "feed"), (snapshot._Reader, "_sort")],
                         ids=lambda value: getattr(value, "__name__", value))
def test_a_look_that_fails_says_so(steering: Steering, monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    steering.want(*RULES)
    steering.settle(*RULES)
    fails(monkeypatch, where, name)
    looks: list[snapshot.Snapshot] = []
    snapshot.take_snapshot(steering.loop, steering.nat, looks.append)
    until(steering.loop, lambda: looks)
    if name == "feed":
        assert INTERNAL in looks[0].problem
    else:
        assert list(looks[0].ours) == RULES[1:] and not looks[0].problem
    snapshot.take_snapshot(steering.loop, steering.nat, looks.append)
    until(steering.loop, lambda: len(looks) > 1)
    assert list(looks[1].ours) == RULES and not looks[1].problem


# -- l4ipctl

@pytest.fixture
def toy(tmp_path: Path) -> Iterator[ControlServer]:
    it = ControlServer(str(tmp_path / "socket"))
    yield it
    it.close()


@pytest.mark.parametrize("name", ["sent", "_await"])
def test_a_client_that_raises_when_all_is_said_has_its_answer(toy: ControlServer, monkeypatch: pytest.MonkeyPatch,
                                                              name: str) -> None:
    raised = fails(monkeypatch, server.Client, name)
    assert [line.get("number") for line in toy.ask(command="many", count=3)] == [0, 1, 2, None]
    assert raised and not toy.control.clients and toy.loop.errors.total == 1


@pytest.mark.parametrize("name", ["received", "_parse", "answer", "_produce"])
def test_a_client_that_raises_ends_and_says_so(toy: ControlServer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    raised = fails(monkeypatch, server.Client, name)
    assert toy.ask(command="many", count=3)[-1] == {"end": True, "exit": 1, "error": [server.FAILED]}
    assert raised and not toy.control.clients and toy.loop.errors.total == 1
    assert toy.ask(command="many", count=3)[-1] == {"end": True, "exit": 0}


@pytest.mark.parametrize("name", ["expired", "later"])
def test_one_that_raises_later_ends_and_says_so(toy: ControlServer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def fail() -> None:
        raise Bug

    monkeypatch.setattr(server, "SIGN_OF_LIFE", 0.02)
    if name == "expired":
        fails(monkeypatch, server.Client, "expired")
    else:
        toy.control.commands = {"wait": lambda client, request: toy.loop.later(0.02, client.later(fail))}
    assert toy.ask(command="wait")[-1] == {"end": True, "exit": 1, "error": [server.FAILED]}
    assert not toy.control.clients and toy.loop.errors.total == 1


def test_the_listener_of_the_control_socket_is_replaced(toy: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    raised = fails(monkeypatch, server, "Client")
    with contextlib.suppress(ConnectionError):
        toy.ask(command="many", count=3)
    assert raised and toy.control.reachable
    assert toy.ask(command="many", count=3)[-1] == {"end": True, "exit": 0}


def test_a_control_socket_that_cannot_be_had_at_once_is_tried_again(toy: ControlServer,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "AGAIN", 0.02)
    fails(monkeypatch, server, "Client")
    tries: list[None] = []
    listen = socket_file.listen

    def unusable(path: str, group: str | None) -> socket.socket:
        tries.append(None)
        if len(tries) < 3:
            raise socket_file.Unusable("not now")
        return listen(path, group)

    monkeypatch.setattr(socket_file, "listen", unusable)
    with contextlib.suppress(ConnectionError):
        toy.ask(command="many", count=3)
    toy.until(lambda: len(tries) == 3)
    assert toy.ask(command="many", count=3)[-1] == {"end": True, "exit": 0}


# -- http

@pytest.fixture
def site() -> Iterator[HttpServer]:
    it = HttpServer()
    yield it
    it.close()


def served(site: HttpServer) -> bool:
    """Whether a client gets an answer: at first the listener may be a dying one, or none."""
    with contextlib.suppress(ConnectionError):
        answer = site.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        return answer != b"" and status(answer) == 200
    return False


@pytest.mark.parametrize("where, name", [
    (Client, "received"), (Client, "sent"), (Client, "_begin"), (Client, "_say"), (Client, "produce"),
    (Client, "_parse"), (Client, "_drain"), (Server, "_make_place"), (httpd, "Client"), (Connection, "_read"),
    (Connection, "flush")])
def test_http_goes_on(site: HttpServer, monkeypatch: pytest.MonkeyPatch, where: Any, name: str) -> None:
    if name == "_make_place":
        site.server._most = 0
    raised = fails(monkeypatch, where, name)
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        site.ask(request)
    site.server._most = 16
    wait("an answer", lambda: served(site))
    assert raised and site.loop.errors.total == 1
    with site.connect() as client:                  # the failed one is gone, not only forgotten
        client.sendall(request)
        wait("the failed one is let go", lambda: len(site.server.clients) < 2)


def test_an_http_listener_that_cannot_be_had_at_once_is_tried_again(site: HttpServer,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_server, "AGAIN", 0.02)
    tries: list[None] = []
    bind = Server._bind

    def unusable(self: Server) -> socket.socket:
        tries.append(None)
        if len(tries) < 3:
            raise OSError(98, "taken")
        return bind(self)

    monkeypatch.setattr(Server, "_bind", unusable)
    fails(monkeypatch, httpd, "Client")
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    with contextlib.suppress(ConnectionError):
        site.ask(request)
    wait("an answer", lambda: served(site))
    assert len(tries) == 3


# -- probes

HTTP = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


def verdict(loop: Loop, prober: Prober, check: Check, port: int) -> Verdict:
    verdicts: list[Verdict] = []
    prober.start(recipe(check, endpoint(check, port)), verdicts.append)
    until(loop, lambda: verdicts)
    assert len(verdicts) == 1
    return verdicts[0]


@pytest.fixture
def prober(loop: Loop) -> Iterator[Prober]:
    it = Prober(loop, 1)
    yield it
    it.close()


@pytest.mark.parametrize("name", ["_connected", "_flush", "_receive", "_judge"])
def test_a_probe_over_tcp_that_raises_is_our_trouble(loop: Loop, prober: Prober, monkeypatch: pytest.MonkeyPatch,
                                                     name: str) -> None:
    with Member(answers(HTTP)) as member:
        raised = fails(monkeypatch, Stream, name)
        assert verdict(loop, prober, Check("http"), member.port) == Verdict("LOCAL", INTERNAL)
        assert raised and verdict(loop, prober, Check("http"), member.port) == Verdict("L7OK", "200")


@pytest.mark.parametrize("name", ["_begin_tls", "_shake", "_unseal", "_next"])
def test_a_probe_inside_tls_that_raises_is_our_trouble(loop: Loop, prober: Prober, monkeypatch: pytest.MonkeyPatch,
                                                       name: str, tmp_path: Path) -> None:
    with Member(answers(HTTP), Authority(tmp_path).server("localhost")) as member:
        raised = fails(monkeypatch, Stream, name)
        assert verdict(loop, prober, Check("https"), member.port) == Verdict("LOCAL", INTERNAL)
        assert raised and verdict(loop, prober, Check("https"), member.port) == Verdict("L7OK", "200")


def test_a_probe_over_udp_that_raises_is_our_trouble(loop: Loop, prober: Prober,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as member:
        member.bind(("127.0.0.1", 0))
        port = member.getsockname()[1]

        def answer() -> None:
            data, whom = member.recvfrom(100)
            member.sendto(b"pong", whom)

        loop.watch(member.fileno(), READ, answer)
        raised = fails(monkeypatch, Datagram, "_judge")
        check = Check("udp", send=b"ping")
        assert verdict(loop, prober, check, port) == Verdict("LOCAL", INTERNAL)
        assert raised and verdict(loop, prober, check, port) == Verdict("L4OK", "answered")
        loop.unwatch(member.fileno())


def test_a_ping_whose_answer_raises_is_our_trouble(loop: Loop, prober: Prober, monkeypatch: pytest.MonkeyPatch) -> None:
    if prober._pingers[0]._open() is not None:
        pytest.skip("no ICMP socket for us here")
    raised = fails(monkeypatch, Pinger, "_take")
    verdicts: list[Verdict] = []
    check = Check("ping")
    for _ in range(5):                              # they share a socket
        prober.start(recipe(check, endpoint(check, 80)), verdicts.append)
    until(loop, lambda: len(verdicts) == 5)
    assert raised and verdicts == [Verdict("LOCAL", INTERNAL)] * 5
    assert verdict(loop, prober, check, 80).passed


@pytest.mark.parametrize("name", ["_judge", "_hear"])
def test_a_command_whose_end_raises_is_our_trouble_and_frees_its_place(
        loop: Loop, prober: Prober, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    raised = fails(monkeypatch, Command, name)
    check = Check("exec", command=("echo", "hello"), user="root" if os.geteuid() == 0 else None)
    found = verdict(loop, prober, check, 80)
    assert found.code == "LOCAL" and INTERNAL in found.text and raised
    assert verdict(loop, prober, check, 80) == Verdict("PROCOK", "hello"), "there is one place only"
    assert not prober.commands.running


def test_a_command_that_cannot_be_spawned_frees_its_place(loop: Loop, prober: Prober) -> None:
    user = "root" if os.geteuid() == 0 else None
    for _ in range(3):
        found = verdict(loop, prober, Check("exec", command=("echo", "\ud800"), user=user), 80)
        assert (found.code, prober.commands.running) == ("LOCAL", 0)
    assert verdict(loop, prober, Check("exec", command=("echo", "€"), user=user), 80).passed


# -- monitors

def test_an_endpoint_whose_deadline_raises_is_probed_again(bench: sensing_bench.Bench) -> None:
    class Broken:
        def expire(self) -> None:
            raise Bug

        def cancel(self) -> None:
            raise Bug

    bench.schedule.start = lambda what, done: Broken()
    check = Check("tcp", interval=0.05, timeout=0.02, fast_interval=0.05, down_interval=0.05)
    monitor = bench.add(check=check)
    monitor.checker.begin()
    bench.until(lambda: bench.schedule.codes["LOCAL"] > 2)
    assert monitor.up and monitor.trouble == INTERNAL
    bench.schedule.start = bench._probe
    bench.until(lambda: not monitor.trouble)
    assert bench.schedule.flying == 0


def test_what_sensing_makes_of_a_refusal_does_not_keep_an_endpoint_up(bench: sensing_bench.Bench) -> None:
    def refused(monitor: Monitor, verdict: Verdict) -> None:
        raise Bug

    bench.schedule.refused = refused
    bench.verdict = sensing_bench.DEAD
    check = Check("tcp", interval=0.05, timeout=0.02, fast_interval=0.05, down_interval=0.05, fall=2)
    monitor = bench.add(check=check)
    monitor.checker.begin()
    bench.until(lambda: not monitor.up)


# -- the whole daemon

@pytest.mark.parametrize("where, name", [
    (Child, "_reaped"), (Child, "_close_all"), (Child, "_end"), (Loop, "aside"), (Daemon, "_turn"), (Events, "tell"),
    (l4ipd.steering.Steering, "_listed"), (l4ipd.steering.Steering, "_adopt"), (ServiceRules, "plan"),
    (Fleet, "turn"), (Monitor, "heard"), (StateFile, "_begin"), (Notifier, "_ended"), (StateSaver, "_heard"),
    (ControlService, "_heard"), (Transitions, "begin"), (Readiness, "turn"), (Readiness, "_look"),
], ids=lambda value: getattr(value, "__name__", value))
def test_wherever_it_happens_all_is_well_afterwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any,
                                                    name: str) -> None:
    raised = fails(monkeypatch, where, name)
    whole, rules = DaemonInProcess(tmp_path), tmp_path / "rules"
    for top in ("notify: [/bin/sh, -c, exit]", ""):         # one of these may be refused, and says so
        whole.configure(top=top)
        assert whole.ctl(command="reload")["end"]
    whole.ctl(command="disable", pattern="web1")
    whole.ctl(command="enable", pattern="web1")
    until(whole.loop, lambda: raised)
    for members in (f"web1: {A}", f"web1: {A}, web2: {B}"):
        whole.configure(members=members)
        assert whole.ctl(command="reload")["exit"] == 0
        until(whole.loop, lambda: len(rules.read_text().splitlines()) == members.count("web"))      # noqa: B023
    events: list[Event] = []
    whole.daemon.events.listen(events.append)
    whole.members[1].status = 503
    until(whole.loop, lambda: len(rules.read_text().splitlines()) == 1)
    whole.members[1].status = 200
    whole.until_settled()
    kinds = [event.kind for event in events if event.name == "www/http/web2"]
    assert (kinds[0], kinds[-1]) == ("down", "up"), "and again, maybe, where a busy machine is too slow for a probe"
    until(whole.loop, lambda: whole.ctl(command="show")["exit"] == 0)
    until(whole.loop, lambda: json.loads((tmp_path / "state.json").read_text())["disabled"] == {})
    until(whole.loop, lambda: whole.control.control and not whole.control.control.clients)
    whole.close()


# -- whoever watches

def test_every_callback_belongs_to_somebody_who_hears_of_it() -> None:
    """Whatever class hands a method of its own to the loop has :meth:`raised`, as an Owner should."""
    import ast

    import l4ipd
    deaf = []
    for path in sorted(Path(l4ipd.__file__).parent.rglob("*.py")):
        if Path(l4ipd.__file__).parent / "sandbox" in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and path.stem != "demo" and _hands_out(node) and not _hears(node):
                deaf.append(f"{path.stem}.{node.name}")
    assert not deaf


CANNOT_RAISE = {"touch", "reread", "stop", "_when_settled"}


def _hands_out(node: Any) -> bool:
    """Whether the loop is given a method of this class."""
    import ast
    for call in ast.walk(node):
        if isinstance(call, ast.Call):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if name in ("set", "move") and call.args and getattr(call.args[0], "id", "") == "self":
                return True                         # it is its own timer
            if name in ("watch", "watch_connect", "watch_answer", "later", "Timer") and any(
                    isinstance(word, ast.Attribute) and isinstance(word.value, ast.Name) and word.value.id == "self"
                    and word.attr not in CANNOT_RAISE and not word.attr.endswith("fd") for word in call.args):
                return True
    return False


def _hears(node: Any) -> bool:
    import ast
    return any(isinstance(part, ast.FunctionDef) and part.name == "raised" or isinstance(part, ast.Assign)
               and any(isinstance(name, ast.Name) and name.id == "raised" for name in part.targets)
               for part in node.body)
