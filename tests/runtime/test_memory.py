"""Memory: what comes and goes leaves nothing behind that a garbage collector would have to find: it seldom looks."""

from __future__ import annotations

import contextlib
import gc
import os
import socket
import types
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from l4ipd.checks.probe import Prober, prepare
from l4ipd.checks.recipe import recipe
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.ipfilter.snapshot import Snapshot, take_snapshot
from l4ipd.model import Check, Ipfilter
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop, Timer
from support.certs import Authority
from support.daemon_in_process import PATIENCE, A, B, DaemonInProcess, tick, until
from support.gateway import free_port
from support.members import Member as Server
from support.members import answers, dialog, endpoint, overcrowded, refusing, silent

ROUNDS = int(os.environ.get("L4IP_ROUNDS", "60"))   # of listings; a thousand take minutes


def ours(thing: object) -> str:
    """What kind of thing of ours it is; empty if it is none."""
    if isinstance(thing, (types.FunctionType, types.MethodType)):
        return thing.__qualname__ if (thing.__module__ or "").startswith("l4ipd") else ""
    if isinstance(thing, types.FrameType):
        return thing.f_code.co_name if f"{os.sep}l4ipd{os.sep}" in thing.f_code.co_filename else ""
    kind = type(thing)
    return kind.__qualname__ if kind.__module__.startswith("l4ipd") else ""


@contextmanager
def nothing_to_collect(loop: Loop) -> Iterator[None]:
    """While this runs, no garbage collector does; and it would find nothing of ours when the ticks have passed for
    which timers were set that were cleared, or set anew, since.
    """
    gc.collect()
    gc.disable()
    try:
        yield
        for slot in loop._slots.values():
            slot[:] = [timer for timer in slot if timer.slot is slot]
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        found = Counter(filter(None, map(ours, gc.garbage)))
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert not found


@pytest.fixture
def loop() -> Iterator[Loop]:
    it = Loop()
    tick(it)
    yield it
    it.close()


# -- timers

class Owner:
    """Whoever has a timer."""

    def __init__(self) -> None:
        self.timer = Timer(self.late)

    def late(self) -> None: ...


def test_a_cleared_timer_keeps_nobody(loop: Loop) -> None:
    gc.disable()
    try:
        for let_go in (loop.clear, loop.drop):
            owner = Owner()
            gone, others = weakref.ref(owner), [loop.later(3600, lambda: None) for _ in range(3)]
            loop.set(owner.timer, loop.clock() + 3600)
            let_go(owner.timer)
            if let_go == loop.clear:
                owner.timer.fire = loop.stop        # its callback is its owner's own affair
            del owner
            assert gone() is None and all(timer.is_set for timer in others)
    finally:
        gc.enable()


def test_timers_that_are_cleared_by_one_of_the_same_tick_do_not_hide_others(loop: Loop) -> None:
    fired: list[str] = []
    when = loop.clock() - 1
    timers: dict[str, Timer] = {}

    def first() -> None:
        fired.append("first")
        loop.clear(timers["second"])
        loop.drop(timers["fourth"])

    for name in ("first", "second", "third", "fourth", "fifth"):
        timers[name] = Timer(first if name == "first" else lambda name=name: fired.append(name))   # type: ignore[misc]
        loop.set(timers[name], when)
    until(loop, lambda: "fifth" in fired)
    assert fired == ["first", "third", "fifth"]
    loop.set(timers["second"], when)
    until(loop, lambda: "second" in fired)


# -- children

@pytest.mark.parametrize("words, how", [
    (("echo", "hello"), ""), (("sh", "-c", "exit 3"), ""), (("/nonexistent",), ""), (("sleep", "600"), "late"),
    (("sleep", "600"), "kill"), (("yes",), "enough"), (("sh", "-c", "trap '' TERM; sleep 600"), "late"),
    (("yes",), "raise"), (("nul\0",), "")])
def test_children(loop: Loop, words: tuple[str, ...], how: str) -> None:
    """Not even the time that was set for them keeps them."""
    ends: list[Exit] = []
    held: list[weakref.ref[Child]] = []

    def output(chunk: bytes) -> bool:
        if how == "raise":
            raise ValueError
        return True

    def run() -> None:
        child = Child(loop, words, timeout=0.05 if how == "late" else PATIENCE, done=ends.append,
                      output=output if how in ("enough", "raise") else None)
        held.append(weakref.ref(child))
        if how == "kill":
            child.kill()

    with nothing_to_collect(loop):
        run()
        until(loop, lambda: ends)
        assert how == "raise" or held[0]() is None  # pytest keeps the traceback


# -- listings

@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="the memory of a process is read from /proc")
def test_listings_of_2000_rules(loop: Loop, tmp_path: Path) -> None:
    """Resyncs and shows: flat after the first."""
    lines = [f"rdr em0 203.0.113.{place // 250}/32 port {8000 + place % 250} -> 10.0.0.2/32 port 8080 tcp round-robin "
             f"tag l4ip" for place in range(2000)]
    for name, count in (("-l", ""), ("-lhR", "5 ")):
        listing = ["List of active MAP/Redirect filters:", *(count + line for line in lines), "",
                   "List of active sessions:", ""]
        (tmp_path / name).write_text("\n".join(listing))
    tool = tmp_path / "ipnat"
    tool.write_text(f'#!/bin/sh\nexec cat "{tmp_path}/$1"\n')
    tool.chmod(0o755)
    nat = NatTable(Ipfilter(ipnat=(str(tool),)), Dialect(), lambda line: None)
    rules = Reconciler(loop, nat.table, PATIENCE, 3600, removal=lambda line: None,
                       listed=nat.listed)
    until(loop, lambda: rules.settled)
    rules.want = dict.fromkeys(rules.have)
    with nothing_to_collect(loop):
        for number in range(ROUNDS):
            rules.reread()
            until(loop, lambda: rules.settled)
            looks: list[Snapshot] = []
            take_snapshot(loop, nat, looks.append)
            until(loop, lambda: looks)              # noqa: B023
            assert len(rules.have) == len(looks[0].ours) == 2000 and not looks[0].problem
            if number == ROUNDS // 10:
                before = resident()
        assert resident() - before < 2e6


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- probes

HTTP = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
CHECKS = [Check("tcp"), Check("http"), Check("http", body=b"ok"), Check("http", body=b"no"), Check("https"),
          Check("tcp", dialog=dialog(("send", b"\r\n\r\n"), ("expect", b"*OK*"))), Check("ping"),
          Check("udp", send=b"x", expect=b"y"), Check("exec", command=("true",)), Check("exec", command=("/none",)),
          Check("exec", command=("sleep", "600"))]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.type)
@pytest.mark.parametrize("fate", ["answers", "refuses", "silent", "crowded", "cancelled"])
def test_probes(loop: Loop, check: Check, fate: str, tmp_path: Path) -> None:
    prober, verdicts = Prober(loop, 2), []          # type: ignore[var-annotated]
    tls = Authority(tmp_path).server("localhost") if check.type == "https" else None
    if check.type == "https":
        prepare(check)

    def run(port: int) -> None:
        """One probe, and what became of it; its deadline is soon."""
        probe = prober.start(recipe(check, endpoint(check, port)), verdicts.append)
        if fate == "cancelled":
            probe.cancel()
            return
        end = loop.clock() + (PATIENCE if fate == "answers" and check.command != ("sleep", "600") else 0.2)
        while not verdicts and loop.clock() < end:
            loop.turn()
        probe.expire()
        until(loop, lambda: verdicts)

    with contextlib.ExitStack() as stack:
        port = stack.enter_context({"refuses": refusing, "crowded": overcrowded}.get(fate, refusing)())
        if fate in ("answers", "silent", "cancelled"):
            behaviour = silent if fate == "silent" else answers(HTTP)
            port = stack.enter_context(Server(behaviour, tls)).port
        run(port)                                   # what is imported, and kept, at the first one
        verdicts.clear()
        with nothing_to_collect(loop):
            run(port)
            until(loop, lambda: not prober.commands.running)
    prober.close()


# -- the whole daemon


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[DaemonInProcess]:
    it = DaemonInProcess(tmp_path)
    yield it
    it.close()


COMMANDS: list[dict[str, Any]] = [
    {"command": "show"}, {"command": "rules"}, {"command": "disable", "pattern": "web1"},
    {"command": "disable", "pattern": "web2", "now": True}, {"command": "enable", "pattern": "*"},
    {"command": "check", "pattern": "*"}, {"command": "reload"}, {"command": "show", "pattern": "nobody"},
    {"command": "nonsense"}, {"command": 7}]


def test_sessions_of_l4ipctl(whole: DaemonInProcess) -> None:
    with nothing_to_collect(whole.loop):
        for request in COMMANDS:
            assert whole.ctl(**request)["end"]
        with socket.socket(socket.AF_UNIX) as client, socket.socket(socket.AF_UNIX) as rude:
            client.connect(whole.path)
            client.sendall(b'{"command": "monitor"}\n')
            rude.connect(whole.path)
            rude.sendall(b'{"comm')
            whole.ctl(command="disable", pattern="web1")
            whole.ctl(command="enable", pattern="web1")
            assert b'"disabled"' in client.recv(65536)
        until(whole.loop, lambda: whole.control.control is not None and not whole.control.control.clients)
        whole.until_settled()


def test_sessions_of_http(whole: DaemonInProcess) -> None:
    with nothing_to_collect(whole.loop):
        for path, status in (("/", 200), ("/metrics", 200), ("/status.json", 200), ("/healthz", 200), ("/x", 404)):
            assert whole.get(path) == whole.get(path, "HEAD") == status
            assert whole.get(path, "POST") == 405
        clients = [socket.create_connection(("127.0.0.1", whole.site)) for _ in range(30)]
        for client in clients:
            client.send(b"GET / HTT")
        whole.until_settled()
        for client in clients:
            client.close()
        until(whole.loop, lambda: whole.web.server is not None and not whole.web.server.clients)


def test_reloads(whole: DaemonInProcess) -> None:
    """Whatever a reload replaces is gone, and with it what it had."""
    configurations: list[dict[str, Any]] = [
        {"check": "tcp"}, {"check": "{type: http, path: /x}", "members": f"web1: {A}, web3: {B}"},
        {"check": "[tcp, http]"}, {"top": "notify: [/bin/sh, -c, exit]"}, {"control": "other.sock"},
        {"site": free_port()},
        {"top": f"resets: {{interface: lo0, source: {whole.directory}/log}}"}, {"top": "resets: {interface: lo0}"},
        {"top": "resets: {interface: lo0, source: counters}"}, {"check": "nonsense"}, {"check": "{type: ["},
        {"resync": "90ms"}, {}]
    with nothing_to_collect(whole.loop):
        held = weakref.WeakSet([whole.web.server, whole.control.control, whole.daemon.steering.nat])
        for each in configurations:
            path = whole.path
            whole.configure(**each)
            assert whole.ctl(path, command="reload")["end"]
            whole.until_settled()
        assert not held
