"""Sockets that are used again: no probe notices, nor does a member."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import socket
import stat
import sys
from collections.abc import Iterator

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from l4ipd.checks import socket_pool, tcp
from l4ipd.checks.probe import Probe
from l4ipd.checks.recipe import KINDS, recipe
from l4ipd.model import Check
from l4ipd.runtime import loop
from l4ipd.runtime.loop import WRITE, Loop
from l4ipd.runtime.poller import Portable
from support.descriptors import opened
from support.members import Member, Watch, answers, dialog, endpoint, overcrowded, refusing, send, silent

pytestmark = pytest.mark.skipif(socket_pool.CONNECT is None, reason="connections cannot be dissolved here")
TCP, FIN, HTTP = Check("tcp"), Check("tcp", close="fin"), Check("http")
BODY, RESET = Check("http", body=b"well"), Check("http", close="reset")
GREETED = Check("tcp", dialog=dialog(("expect", b"220*")))
TALK = Check("tcp", dialog=dialog(("expect", b"220*"), ("send", b"QUIT\r\n"), ("expect", b"221*")))
TWICE = Check("tcp", dialog=dialog(("send", b"GET / HTTP/1.0\r\n\r\n"), ("expect", b"HTTP/*"), ("expect", b"Content*")))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nwell"


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch() as watch:
        yield watch


def ours() -> set[int]:
    """The tcp sockets that are no listeners, by the numbers that the kernel has for them."""
    found = set()
    for fd in opened():
        with contextlib.suppress(OSError):
            if stat.S_ISSOCK(os.fstat(fd).st_mode):
                with socket.socket(fileno=os.dup(fd)) as sock:
                    if sock.type == socket.SOCK_STREAM and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        found.add(os.fstat(fd).st_ino)
    return found


class Ender(Member):
    """Answers, and ends its side with the very same packet; what it then sees of the other side is in ``saw``."""

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__(lambda member, client: self.serve(client), address=address)
        self.saw: queue.Queue[str] = queue.Queue()

    def serve(self, client: socket.socket) -> None:
        self.read(client)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
        client.send(OK, socket.MSG_MORE)
        client.shutdown(socket.SHUT_WR)
        try:
            self.saw.put("data" if client.recv(10) else "end")
        except ConnectionResetError:
            self.saw.put("reset")


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_one_socket_for_many_probes(watch: Watch, address: str) -> None:
    with Ender(address) as member, Member(silent, address=address) as other:
        before = ours()
        assert watch.probe(TCP, other.port, address) == ("L4OK", "connected")
        kept = ours() - before
        assert len(kept) == 1
        for _ in range(5):
            assert watch.probe(HTTP, member.port, address) == ("L7OK", "200")
            assert watch.probe(TCP, other.port, address) == ("L4OK", "connected")
            assert watch.probe(BODY, member.port, address).code == "L7OK"
            assert watch.probe(TCP, member.port, address) == ("L4OK", "connected")
        assert kept <= ours()


def test_the_member_sees_a_polite_end(watch: Watch) -> None:
    with Ender() as member:
        for _ in range(3):
            assert watch.probe(HTTP, member.port).code == "L7OK"
            assert member.saw.get(timeout=10) == "end"
        assert watch.probe(RESET, member.port).code == "L7OK"
        assert member.saw.get(timeout=10) == "reset"


@pytest.mark.parametrize("without", ["the system's help", "what the poller tells", "success"])
def test_without_it_connections_are_closed(without: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if without == "the system's help":
        monkeypatch.setattr(socket_pool, "CONNECT", None)
    elif without == "success":
        monkeypatch.setattr(socket_pool, "CONNECT", lambda fd, address, size: -1)
    else:
        monkeypatch.setattr(loop, "best_poller", Portable)
    with Ender() as member, Watch() as watch:
        before = ours()
        for _ in range(3):
            assert watch.probe(TCP, member.port) == ("L4OK", "connected")
        assert ours() <= before
        for _ in range(20):
            assert watch.probe(HTTP, member.port) == ("L7OK", "200")
            assert member.saw.get(timeout=10) == "end"
        assert len(ours() - before) <= 1


def test_one_whose_member_does_not_end_is_closed(watch: Watch) -> None:
    with Member(stays) as member:
        before = ours()
        for check in (HTTP, FIN):
            assert watch.probe(check, member.port).code[2:] == "OK"
            member.over.set()
            watch.turn_until(lambda: ours() <= before)
            member.over.clear()


def test_one_that_is_watched_in_another_way_is_closed(watch: Watch) -> None:
    """The answer to both steps and the end come at once, and between the steps more is waited for."""
    with Ender() as member:
        before = ours()
        for _ in range(10):
            assert watch.probe(TWICE, member.port).code == "L7OK"
            assert member.saw.get(timeout=10) == "end"
            watch.turn_until(lambda: ours() <= before)
            assert watch.probe(TCP, member.port).code == "L4OK"
            watch.prober.close()


def segments(sock: socket.SocketType) -> int:
    """How many it has sent (struct tcp_info of Linux)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 140)[136:], sys.byteorder)


@pytest.mark.parametrize(("check", "speaks_first"), [
    (TCP, False), (HTTP, False), (TWICE, False), (GREETED, True), (TALK, True), (Check("tcp", closed=True), False),
    (Check("https"), False), (Check("tls", dialog=GREETED.dialog), False)])     # in TLS we speak first anyway
def test_who_speaks_first(check: Check, speaks_first: bool) -> None:
    for address in ("127.0.0.1", "::1"):
        assert KINDS[recipe(check, endpoint(check, 80, address)).method.kind] == (":" in address, speaks_first)


@pytest.mark.parametrize("kind", KINDS)
def test_where_we_speak_first_the_handshake_ends_with_what_we_say(kind: tuple[bool, bool]) -> None:
    address, speaks_first = ("127.0.0.1", "::1")[kind[0]], kind[1]
    with Ender(address) as member:
        loop = Loop()
        pool = socket_pool.Sockets(loop, *kind)
        for _ in range(3):
            sock = pool.take()
            sock.connect_ex((address, member.port))
            loop.watch_connect(sock.fileno(), lambda: None)
            loop.turn()
            assert loop.events == WRITE
            assert segments(sock) == 1 + speaks_first
            pool.end(sock, sock.fileno(), True, loop.events)
        pool.close()
        loop.close()


@pytest.mark.parametrize("check", [TCP, HTTP])
def test_a_connection_to_itself_leaves_nothing(watch: Watch, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    """As happens when the kernel picks the port of the member, where nobody listens, for the probe's own side."""
    with refusing() as port:
        pass
    sock = socket_pool.Socket(socket.AF_INET, socket_pool.KIND)
    sock.bind(("127.0.0.1", port))
    with monkeypatch.context() as patched:
        patched.setattr(socket_pool.Sockets, "take", lambda self: sock)
        assert watch.probe(check, port).code == "L4CON"
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))             # not in TIME_WAIT


def test_one_to_itself_at_an_address_that_was_none_of_ours(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a member that answers is taken for foreign, so long as our end has another; but not for ever."""
    monkeypatch.setattr(tcp, "ELSEWHERE", 0.05)
    with Ender("127.0.0.2") as member:
        assert watch.probe(TCP, member.port, "127.0.0.2").code == "L4OK"
    over = watch.loop.later(0.1, lambda: None)
    watch.turn_until(lambda: not over.is_set)
    sock = socket_pool.Socket(socket.AF_INET, socket_pool.KIND)
    sock.bind(("127.0.0.2", 0))
    monkeypatch.setattr(socket_pool.Sockets, "take", lambda self: sock)
    assert watch.probe(TCP, sock.getsockname()[1], "127.0.0.2").code == "L4CON"


def test_no_more_are_kept_than_may_be(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket_pool, "SPARE", 3)
    with Ender() as member, Watch() as watch:
        before = ours()
        for check, most in ((TCP, 3), (HTTP, 6)):
            watch.verdicts.clear()
            for _ in range(20):
                watch.prober.start(recipe(check, endpoint(check, member.port)), watch.verdicts.append)
            watch.turn_until(lambda: len(watch.verdicts) == 20)
            assert {verdict.code for verdict in watch.verdicts} <= {"L4OK", "L7OK"}
            for _ in range(20 if check is HTTP else 0):
                assert member.saw.get(timeout=10) == "end"
            assert 1 <= len(ours() - before) <= most
        watch.prober.close()
        assert ours() <= before


def test_one_in_which_the_next_connection_fails_is_not_kept(watch: Watch) -> None:
    with Member(silent) as member, refusing() as closed, overcrowded() as full:
        before = ours()
        for port, when, code in ((closed, None, "L4CON"), (full, lambda: True, "L4TOUT")):
            assert watch.probe(TCP, member.port).code == "L4OK"
            assert len(ours() - before) == 1
            assert watch.probe(TCP, port, expire_when=when).code == code
            assert ours() <= before


def greets(member: Member, client: socket.socket) -> None:
    send(client, b"220 welcome\r\n")
    member.read(client, b"\r\n")
    send(client, b"221 bye\r\n")


def stays(member: Member, client: socket.socket) -> None:
    member.read(client)
    send(client, OK)
    member.hang()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), bunch=st.integers(1, 12))
def test_probes_with_used_sockets_say_what_new_ones_say(seed: int, bunch: int) -> None:
    """Members and checks of all kinds in any order, some at the same time, some given up."""
    dice = random.Random(seed)
    with contextlib.ExitStack() as stack:
        ends, slow = stack.enter_context(Ender()), stack.enter_context(Member(answers(OK, 20)))
        greeting, staying = stack.enter_context(Member(greets)), stack.enter_context(Member(stays))
        cut, quiet = stack.enter_context(Member(answers(OK[:20]))), stack.enter_context(Member(silent))
        closed, watch = stack.enter_context(refusing()), stack.enter_context(Watch())
        kinds = [(TCP, ends.port, "L4OK"), (FIN, ends.port, "L4OK"), (TCP, quiet.port, "L4OK"), (TCP, closed, "L4CON"),
                 (HTTP, ends.port, "L7OK"), (TWICE, ends.port, "L7OK"), (BODY, ends.port, "L7OK"),
                 (RESET, ends.port, "L7OK"), (HTTP, slow.port, "L7OK"), (BODY, slow.port, "L7OK"),
                 (HTTP, staying.port, "L7OK"), (HTTP, cut.port, "L7OK"), (BODY, cut.port, "L7RSP"),
                 (HTTP, closed, "L4CON"), (GREETED, greeting.port, "L7OK"), (TALK, greeting.port, "L7OK"),
                 (HTTP, greeting.port, "L7RSP"), (HTTP, quiet.port, "L7TOUT")]
        for _ in range(30 // bunch + 1):
            probes(watch, [dice.choice(kinds) for _ in range(bunch)], dice)


def probes(watch: Watch, kinds: list[tuple[Check, int, str]], dice: random.Random) -> None:
    """Probes at the same time: each says what is expected of its kind, or is given up."""
    told: list[tuple[str, str]] = []
    silences = []

    def start(check: Check, port: int, code: str) -> Probe:
        return watch.prober.start(recipe(check, endpoint(check, port)),
                                  lambda verdict: told.append((code, verdict.code)))

    for kind in kinds:
        probe = start(*kind)
        if kind[-1] == "L7TOUT":
            silences.append(probe)
    watch.turn_until(lambda: len(told) == len(kinds) - len(silences))
    for _ in range(3 if silences else 0):           # what has arrived beats a deadline
        watch.loop.turn()
    for probe in silences:
        if dice.random() < 0.5:
            probe.cancel()
            told.append(("", ""))
        probe.expire()
    assert len(told) == len(kinds)
    assert all(expected == seen for expected, seen in told), told
