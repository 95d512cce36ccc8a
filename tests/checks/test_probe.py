"""Probes over tcp against real members that misbehave at every step."""

from __future__ import annotations

import errno
import socket
import threading

import pytest

from l4ipd.checks import errors
from l4ipd.checks.probe import prepare
from l4ipd.checks.recipe import recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check
from l4ipd.runtime import loop
from support.descriptors import opened
from support.loops import POLLERS
from support.members import (
    Member,
    Watch,
    answers,
    dialog,
    endless,
    endpoint,
    overcrowded,
    probe,
    refusing,
    reset,
    resets,
    send,
    silent,
)

TCP, HTTP = Check("tcp"), Check("http")
BODY = Check("http", body=b"all is well")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nConnection: close\r\n\r\nall is well"
PING = Check("tcp", dialog=dialog(("send", b"PING\r\n\r\n"), ("expect", b"+PONG")))
MAIL = Check("tcp", dialog=dialog(("expect", b"220*"), ("send", b"EHLO l4ip\r\n"), ("reject", b"5[0-9][0-9] *"),
                                  ("expect", b"250*"), ("send", b"QUIT\r\n"), ("expect", b"*221 *")))


@pytest.fixture(params=POLLERS, ids=lambda poller: poller.__name__, autouse=True)
def poller(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every system's way to wait that this one has: they differ in what they tell, and in how often."""
    monkeypatch.setattr(loop, "best_poller", request.param)


def smtp(piece: int, *lines: bytes) -> Member:
    """A mail server that says ``lines``, ``piece`` bytes at a time, each but the first in reply to a line."""
    def behaviour(member: Member, client: socket.socket) -> None:
        for number, line in enumerate(lines):
            if number:
                member.read(client, b"\r\n")
            send(client, line, piece)
        member.hang()
    return Member(behaviour)


@pytest.mark.parametrize("piece", [0, 1, 7])
def test_a_member_that_speaks_before_it_is_asked(piece: int) -> None:
    """Connected and readable come in one report; the answer is waited for all the same, in pieces too."""
    banner, asked = threading.Event(), threading.Event()

    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(b"welcome\r\n")
        banner.set()
        member.read(client, b"\r\n\r\n")
        asked.set()
        send(client, b"+PONG\r\n", piece)
        member.hang()

    with Member(behaviour) as member, Watch() as watch:
        watch.prober.start(recipe(PING, endpoint(PING, member.port)), watch.verdicts.append)
        banner.wait(10)
        watch.turn_until(lambda: watch.verdicts)
        assert asked.is_set()
        assert watch.verdicts == [("L7OK", "dialog complete")]


# -- connecting

def test_connected() -> None:
    with Member(silent) as member:
        assert probe(TCP, member.port) == ("L4OK", "connected")


def test_ipv6() -> None:
    with Member(answers(OK), address="::1") as member:
        assert probe(TCP, member.port, "::1") == ("L4OK", "connected")
        assert probe(HTTP, member.port, "::1") == ("L7OK", "200")
        assert b"\r\nHost: [::1]:%d\r\n" % member.port in member.requests[-1]


@pytest.mark.parametrize("check", [TCP, HTTP, Check("https"), MAIL])
def test_refused(check: Check) -> None:
    with refusing() as port:
        assert probe(check, port) == ("L4CON", "connection refused")


@pytest.mark.parametrize("check", [TCP, HTTP, Check("tls")])
def test_full_backlog(check: Check) -> None:
    with overcrowded() as port:
        verdict = probe(check, port, expire_when=lambda: True)
        assert verdict == ("L4TOUT", "no answer to the connection attempt")


def test_closed_ports() -> None:
    closed = Check("tcp", closed=True)
    with refusing() as port:
        assert probe(closed, port) == ("L4OK", "connection refused, as it should be")
    with Member(silent) as member:
        assert probe(closed, member.port) == ("L4CON", "the port is open, and should be closed")
    with overcrowded() as port:
        assert probe(closed, port, expire_when=lambda: True).code == "L4TOUT"


def test_another_port() -> None:
    with Member(silent) as member, refusing() as port:
        assert probe(Check("tcp", port=member.port), port).code == "L4OK"


@pytest.mark.parametrize(("close", "seen"), [(None, "reset"), ("reset", "reset"), ("fin", "end")])
def test_how_a_connection_ends(close: str | None, seen: str) -> None:
    """A RST may come before the handshake is complete for the member: then it never sees the connection at all."""
    saw: list[str] = []
    over = threading.Event()

    def behaviour(member: Member, client: socket.socket) -> None:
        try:
            saw.append("data" if client.recv(10) else "end")
        except ConnectionResetError:
            saw.append("reset")
        over.set()

    with Member(behaviour) as member:
        assert probe(Check("tcp", close=close), member.port).code == "L4OK"
        over.wait(5 if close == "fin" else 0.05)
        assert saw in ([seen], [] if seen == "reset" else [seen])


# -- http

@pytest.mark.parametrize("piece", [0, 1, 5])
@pytest.mark.parametrize(("check", "answer", "verdict"), [
    (HTTP, OK, "L7OK 200"),
    (HTTP, b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "L7STS 503 Service Unavailable"),
    (HTTP, b"HTTP/1.1 100 Continue\r\n\r\n" + OK, "L7OK 200"),
    (HTTP, b"SSH-2.0-OpenSSH_9.6\r\n", 'L7RSP not HTTP: "SSH-2.0-O'),
    (HTTP, b"", "L7RSP connection closed without an answer"),
    (HTTP, b"HTTP/1.1 2", 'L7RSP connection closed after 10 bytes: "HTTP/1.1 2"'),
    (BODY, OK, "L7OK 200"),
    (BODY, OK.replace(b"well", b"lost"), 'L7RSP 200, but no "all is well" in the body'),
    (BODY, OK[:-1], "L7RSP connection closed before the end of the answer"),
])
def test_http(check: Check, answer: bytes, verdict: str, piece: int) -> None:
    with Member(answers(answer, piece)) as member:
        assert str(probe(check, member.port)).startswith(verdict)


def test_http_request_as_the_member_sees_it() -> None:
    with Member(answers(OK)) as member:
        probe(Check("http", method="HEAD", path="/x?y=%20", headers=(("X-Check", "1"),)), member.port)
        assert member.requests[0].startswith(b"HEAD /x?y=%20 HTTP/1.1\r\nHost: 127.0.0.1:")
        assert b"\r\nX-Check: 1\r\n" in member.requests[0]


@pytest.mark.parametrize("check", [HTTP, BODY, PING, MAIL])
def test_reset_at_once(check: Check) -> None:
    with Member(resets) as member:
        verdict = probe(check, member.port)
        assert verdict.code in ("L7RSP", "L4CON")
        assert verdict.text.endswith(("connection reset", "connection closed by the member"))


@pytest.mark.parametrize(("check", "begun"), [
    (HTTP, b"HTTP/1.1 "), (BODY, OK[:-3]), (PING, b"+PO"), (PING, b"")])
def test_reset_in_mid_answer(check: Check, begun: bytes) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        member.read(client)
        client.sendall(begun)
        reset(client)

    with Member(behaviour) as member:
        verdict = str(probe(check, member.port))
        assert verdict.startswith("L7RSP ") and "connection reset" in verdict
        assert not begun or f"after {len(begun)} bytes" in verdict


def test_a_member_that_says_why_and_resets() -> None:
    """One that closes without having read the request: the kernel's RST must not make us forget its words."""
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(b"-ERR max number of clients reached\r\n")
        client.recv(1)
        client.close()                              # the rest is unread

    with Member(behaviour) as member:
        check = Check("tcp", dialog=dialog(("send", b"PING\r\n"), ("expect", b"*+PONG")))
        assert str(probe(check, member.port)) == (
            'L7RSP step 2: connection reset after 36 bytes: "-ERR max number of clients reached"')


@pytest.mark.parametrize(("check", "begun", "verdict"), [
    (HTTP, b"", "L7TOUT no answer"),
    (HTTP, b"HTTP/1.1 20", 'L7TOUT got "HTTP/1.1 20"'),
    (BODY, OK[:-3], 'L7TOUT 200, but no "all is well" in the body so far'),
    (PING, b"-ERR\r\n", 'L7TOUT step 2: got "-ERR"'),
    (PING, b"", "L7TOUT step 2: no answer"),
])
def test_silence_in_mid_answer(check: Check, begun: bytes, verdict: str) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        member.read(client)
        client.sendall(begun)
        member.hang()

    with Member(behaviour) as member:
        assert str(probe(check, member.port, expire_when=member.busy.is_set)) == verdict


@pytest.mark.parametrize(("check", "start", "verdict"), [
    (HTTP, b"", "L7RSP not HTTP"),
    (HTTP, b"HTTP/1.1 200", "L7RSP not HTTP"),
    (HTTP, b"HTTP/1.1 404 ", "L7STS 404 xxxxx"),
    (HTTP, b"HTTP/1.1 100 ", "L7RSP more than 16 KiB without a final status line"),
    (BODY, b"HTTP/1.1 200 ", "L7RSP malformed answer"),
    (BODY, b"HTTP/1.1 200 OK\r\n\r\n", 'L7RSP more than 16 KiB without "all is well"'),
    (BODY, b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n", 'L7RSP more than 16 KiB without "all is well"'),
    (PING, b"", 'L7RSP step 2: more than 16 KiB without what was expected'),
    (MAIL, b"", 'L7RSP step 1: more than 16 KiB without what was expected'),
])
def test_endless(check: Check, start: bytes, verdict: str) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(start)
        endless(member, client)

    with Member(behaviour) as member:
        assert str(probe(check, member.port)).startswith(verdict)


def test_a_member_that_reads_nothing() -> None:
    check = Check("tcp", dialog=dialog(("send", b"x" * (1 << 24)), ("expect", b"y")))
    with Member(silent) as member:
        verdict = probe(check, member.port, expire_when=member.busy.is_set)
        assert verdict == ("L7TOUT", "step 2: the member does not take what is sent")


def test_a_large_request_in_pieces() -> None:
    check = Check("tcp", dialog=dialog(("send", b"x" * (1 << 24)), ("expect", b"thanks")))

    def behaviour(member: Member, client: socket.socket) -> None:
        left = 1 << 24
        while left:
            left -= len(client.recv(1 << 20))
        client.sendall(b"thanks")

    with Member(behaviour) as member:
        assert probe(check, member.port).code == "L7OK"


# -- dialogs

GREETING, HELLO, BYE = b"220 mail ESMTP\r\n", b"250-mail\r\n250-SIZE\r\n250 HELP\r\n", b"221 bye\r\n"


@pytest.mark.parametrize("piece", [0, 1, 3])
@pytest.mark.parametrize(("lines", "verdict"), [
    ((GREETING, HELLO, BYE), "L7OK dialog complete"),
    ((b"220-mail\r\n220-it is\r\n220 ready\r\n", HELLO, BYE), "L7OK dialog complete"),
    ((b"554 go away\r\n",), 'L7RSP step 1: got "554 go away"'),
    ((GREETING, b"512 DNS error\r\n"), 'L7RSP step 3: got "512'),
    ((GREETING, b"421 busy\r\n"), 'L7RSP step 4: got "421 busy"'),
])
def test_mail(lines: tuple[bytes, ...], verdict: str, piece: int) -> None:
    with smtp(piece, *lines) as member:
        assert str(probe(MAIL, member.port)).startswith(verdict)


def test_a_dialog_that_stops() -> None:
    with smtp(0, GREETING, b"") as member:
        assert str(probe(MAIL, member.port, expire_when=member.busy.is_set)) == "L7TOUT step 4: no answer"


@pytest.mark.parametrize("said", [b"", b"22", GREETING, GREETING + b"250"])
def test_a_dialog_that_is_closed_early(said: bytes) -> None:
    with Member(lambda member, client: client.sendall(said)) as member:
        verdict = probe(MAIL, member.port)
        assert verdict.code == "L7RSP" and "connection" in verdict.text


def test_binary_data() -> None:
    check = Check("tcp", dialog=dialog(("send", b"\0\xff\r\n\r\n"), ("expect", b"\0?\n[\x80-\xff]*\0")))
    with Member(answers(b"\0\r\n\xfe...\0", 1)) as member:
        assert probe(check, member.port).code == "L7OK"


def test_several_answers_at_once() -> None:
    check = Check("tcp", dialog=dialog(("expect", b"+OK"), ("expect", b"+PONG"), ("expect", b"+BYE*")))
    with Member(lambda member, client: client.sendall(b"+OK\r\n+PONG\r\n+BYE\r\n")) as member:
        assert probe(check, member.port).code == "L7OK"


def test_hundreds_of_steps() -> None:
    check = Check("tcp", dialog=dialog(*[("expect", b"a")] * 900))
    with Member(lambda member, client: client.sendall(b"a" * 900)) as member:
        assert probe(check, member.port).code == "L7OK"


def test_rejects_alone_pass_in_silence() -> None:
    check = Check("tcp", dialog=dialog(("send", b"x\r\n\r\n"), ("reject", b"ERR")))
    with Member(answers(b"fine")) as member:
        assert probe(check, member.port).code == "L7OK"
    with Member(answers(b"an ERR", 1)) as member:
        assert str(probe(check, member.port)) == 'L7RSP step 2: got "an ERR"'
    with Member(silent) as member:
        assert probe(check, member.port, expire_when=member.busy.is_set).code == "L7OK"


def test_sending_alone() -> None:
    check = Check("tcp", dialog=dialog(("send", b"x\r\n\r\n")))
    with Member(answers(b"")) as member:
        assert probe(check, member.port).code == "L7OK"


# -- whose fault

NO_ROUTE = "L4CON no route to the member"
OURS = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ENOSPC", "EADDRNOTAVAIL", "EADDRINUSE", "EAGAIN", "EPERM",
        "EAFNOSUPPORT", "EPROTONOSUPPORT", "EBADF", "EALREADY", "EISCONN")
ROUTELESS = {"ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN"}
#: what each error means when connect fails at once, when it fails later, and when a receive or a send does after that
BLAME = {
    "ECONNREFUSED": ("L4CON", "L4CON", "L7RSP", "L7RSP"), "ECONNRESET": ("L4CON", "L4CON", "L7RSP", "L7RSP"),
    "ECONNABORTED": ("L4CON", "L4CON", "L7RSP", "L7RSP"),   # FreeBSD: FACTS.md 3-9
    "ETIMEDOUT": ("L4TOUT", "L4TOUT", "L7RSP", "L7RSP"),
    "EACCES": ("LOCAL", "L4CON", "L7RSP", "LOCAL"),         # FreeBSD: our own filter, at once (3-10); ICMPv6 later
    **dict.fromkeys(OURS, ("LOCAL",) * 4),
    **dict.fromkeys(("EPIPE", "EPROTO", "ENOPROTOOPT", "EINVAL", "EMSGSIZE"), ("LOCAL", "L4CON", "L7RSP", "L7RSP")),
    **dict.fromkeys(ROUTELESS, ("L4CON",) * 4),             # FreeBSD: 3-10
}


@pytest.mark.parametrize("name", [*sorted(BLAME), "0", "99999"])
def test_blame(name: str) -> None:
    error = int(name) if name.isdigit() else getattr(errno, name)
    verdicts = (errors.at_once(error, "connect"), errors.later(error), errors.broken(error, "L7RSP"),
                errors.broken(error, "L7RSP", sending=True))
    assert tuple(verdict.code for verdict in verdicts) == BLAME.get(name, ("LOCAL", "L4CON", "L7RSP", "L7RSP"))
    assert all((str(verdict) == NO_ROUTE) == (name in ROUTELESS) for verdict in verdicts)


# -- letting go

def test_cancel_and_no_descriptor_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, refusing() as refused, Watch() as watch:
        port = deaf.getsockname()[1]
        before = opened()
        for check, where in [(TCP, port), (HTTP, port), (Check("https"), port), (TCP, refused), (Check("udp"), port)]:
            watch.verdicts.clear()
            flight = watch.prober.start(recipe(check, endpoint(check, where)), watch.verdicts.append)
            for _ in range(3):
                if watch.verdicts:
                    break
                watch.loop.turn()
            had = list(watch.verdicts)
            flight.cancel()
            flight.expire()
            for _ in range(3):
                watch.loop.turn()
            assert watch.verdicts == had
        watch.prober.close()
        assert opened() == before


def test_a_thousand_at_once() -> None:
    with Member(answers(OK, 9)) as member, Watch() as watch:
        for _ in range(100):
            for check in (TCP, HTTP, BODY):
                watch.prober.start(recipe(check, endpoint(check, member.port)), watch.verdicts.append)
        watch.turn_until(lambda: len(watch.verdicts) == 300)
        assert all(verdict.passed for verdict in watch.verdicts), set(watch.verdicts)


def test_preparing_what_needs_nothing() -> None:
    for check in (TCP, HTTP, Check("udp"), Check("ping"), Check("tls")):
        prepare(check)


def test_verdicts_are_tuples() -> None:
    assert Verdict("L4OK", "connected") == ("L4OK", "connected")
