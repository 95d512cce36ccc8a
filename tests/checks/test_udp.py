"""Probes over udp and icmp, on real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from l4ipd.checks import udp
from l4ipd.checks.ping import HEADER, Pinger, checksum
from l4ipd.checks.recipe import recipe
from l4ipd.model import Check
from support import loopback
from support.descriptors import opened
from support.members import Answer, Watch, endpoint, probe, talker

UDP = Check("udp")


@contextlib.contextmanager
def nobody() -> Iterator[int]:
    """A udp port on which nobody listens: it is taken on another address only."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        loopback.need("127.0.0.2")
        sock.bind(("127.0.0.2", 0))
        yield sock.getsockname()[1]


def silent(data: bytes) -> list[bytes]:
    return []


@pytest.mark.parametrize(("check", "answer", "verdict"), [
    (UDP, silent, "L4OK no refusal"),
    (UDP, lambda data: [b"x"], "L4OK answered"),
    (UDP, lambda data: [b""], "L4OK answered"),
    (Check("udp", send=b"hi", expect=b"[hH]i*you"), lambda data: [data + b"\0\nyou"], "L7OK answered as expected"),
    (Check("udp", expect=b"yes*"), lambda data: [b"no", b"", b"oh yes", b"yes!"], "L7OK answered as expected"),
    (Check("udp", expect=b"yes*"), lambda data: [b"no\n"], 'L7RSP got "no"'),
    (Check("udp", expect=b"yes*"), lambda data: [b"no", b"512 DNS error"], 'L7RSP got "512 DNS error"'),
    (Check("udp", expect=b"yes"), silent, "L7TOUT no answer"),
    (Check("udp", expect=b"yes"), lambda data: [b"x" * 9000] * 3, 'L7RSP more than 16 KiB without what was expected'),
    (Check("udp", closed=True), silent, "L4TOUT no refusal: it is open, filtered, or there is no such machine"),
    (Check("udp", closed=True), lambda data: [b"x"], "L4CON the port is open, and should be closed"),
])
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_udp(check: Check, answer: Answer, verdict: str, address: str) -> None:
    with talker(answer, address) as (port, heard):
        assert str(probe(check, port, address, expire_when=lambda: heard)) == verdict
        assert heard == [check.send or b""]


def test_refused() -> None:
    with nobody() as port:
        for check in (UDP, Check("udp", send=b"x", expect=b"y")):
            assert probe(check, port) == ("L4CON", "connection refused")
        assert probe(Check("udp", closed=True), port) == ("L4OK", "connection refused, as it should be")


def test_a_datagram_too_long_is_our_trouble() -> None:
    with talker(silent) as (port, _):
        assert probe(Check("udp", send=b"x" * 70000), port) == ("LOCAL", "send: message too long")


# -- ping

def may_ping() -> bool:
    with Watch() as watch:
        return watch.probe(Check("ping")).code == "L4OK"


needs_icmp = pytest.mark.skipif(not may_ping(), reason="this user may not open an ICMP socket")


@needs_icmp
@pytest.mark.parametrize("address", ["127.0.0.1", "127.5.5.5", "::1"])
def test_echo(address: str) -> None:
    loopback.need(address)
    assert probe(Check("ping"), address=address) == ("L4OK", "echo answered")


@needs_icmp
def test_one_socket_for_a_thousand() -> None:
    many = loopback.is_local("127.0.3.250")         # else one address has to do for all
    with Watch() as watch:
        watch.probe(Check("ping"))
        before = opened()
        for number in range(1000):
            check = Check("ping")
            address = f"127.0.{number // 250}.{number % 250 + 1}" if many else "127.0.0.1"
            watch.prober.start(recipe(check, endpoint(check, 0, address)), watch.verdicts.append)
        assert opened() == before
        watch.turn_until(lambda: len(watch.verdicts) == 1001)
        assert {verdict.code for verdict in watch.verdicts} == {"L4OK"}


class Flight:
    """What a Pinger needs to see of a probe in flight, and the packets that would answer it."""

    def __init__(self, pinger: Pinger, address: str) -> None:
        self.verdicts: list[str] = []
        self.cookie, self.sequence = b"0123456789abcdef", 7
        self.address = socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)
        self.finish = lambda verdict: self.verdicts.append(str(verdict))
        pinger._flights[self.sequence] = self       # type: ignore[assignment]
        pinger._raw = True
        self.pinger, self.sender = pinger, address

    def reply(self, kind: int, identifier: int = 0, sequence: int = 0, cookie: bytes = b"") -> bytes:
        return HEADER.pack(kind, 0, 0, self.pinger._identifier ^ identifier, self.sequence ^ sequence) + (
            cookie or self.cookie)

    def quoting(self, kind: int, code: int, inner: bytes, target: bytes = b"") -> bytes:
        target = target or self.address
        outer = (b"\x60" + bytes(5) + b"\x3a\x40" + bytes(16) + target if len(target) == 16 else
                 b"\x45" + bytes(8) + b"\x01" + bytes(6) + target)
        return struct.pack("!BBHI", kind, code, 0, 0) + outer + inner


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_only_genuine_answers_count(address: str) -> None:
    """Fed with packets as a raw socket shows them; no packet is sent."""
    inet6 = ":" in address
    request, reply, unreachable = (128, 129, 1) if inet6 else (8, 0, 3)
    with Watch() as watch:
        pinger = Pinger(watch.loop, inet6)
        flight = Flight(pinger, address)
        other = "2001:db8::2" if inet6 else "192.0.2.2"
        echo = flight.reply(request)
        refused = [
            (flight.reply(reply, identifier=1), address), (flight.reply(reply, sequence=1), address),
            (flight.reply(reply, cookie=b"x" * 16), address), (flight.reply(reply)[:-1], address),
            (flight.reply(reply), other), (flight.reply(request), address), (b"", address),
            (flight.reply(reply)[:7], address),
            (flight.quoting(unreachable, 1, flight.reply(reply)), other),
            (flight.quoting(unreachable, 1, flight.reply(request, sequence=1)), other),
            (flight.quoting(unreachable, 1, flight.reply(request, identifier=1)), other),
            (flight.quoting(unreachable, 1, flight.reply(request, cookie=b"x" * 16)), other),
            (flight.quoting(unreachable, 1, echo, bytes(len(flight.address))), other),
            (flight.quoting(unreachable, 1, echo[:7]), other), (flight.quoting(unreachable, 1, b"")[:9], other),
        ]
        for packet, sender in refused:
            pinger._take(packet, sender)
            assert not flight.verdicts
        for packet, verdict in [(flight.reply(reply), "L4OK echo answered"),
                                (flight.quoting(unreachable, 3 if inet6 else 1, echo), "L4CON no route to the member"),
                                (flight.quoting(unreachable, 0, echo[:8]), "L4CON no route to the member"),
                                (flight.quoting(unreachable, 1 if inet6 else 13, echo), "L4CON forbidden by a filter"),
                                (flight.quoting(unreachable, 200, echo), "L4CON no route to the member")]:
            pinger._take(packet if inet6 else b"\x45" + bytes(19) + packet, address)
            assert flight.verdicts.pop() == verdict
        for length in range(200):
            for first in (0, 1, 3, 129, 0x45, 0x4F):
                pinger._take(bytes([first]) + os.urandom(length), address)
        assert not flight.verdicts


@needs_icmp
def test_expired_and_cancelled() -> None:
    with Watch() as watch:
        check = Check("ping")
        for end in ("expire", "cancel"):
            watch.verdicts.clear()
            flight = watch.prober.start(recipe(check, endpoint(check, 0)), watch.verdicts.append)
            getattr(flight, end)()
            for _ in range(5):
                watch.loop.turn()                   # the answer comes, too late
            flight.expire()
            assert [str(verdict) for verdict in watch.verdicts] == (
                ["L4TOUT no answer to the echo request"] if end == "expire" else [])


@needs_icmp
def test_all_sequence_numbers_in_use() -> None:
    with Watch() as watch:
        watch.probe(Check("ping"))
        pinger = watch.prober._pingers[0]
        pinger._flights = dict.fromkeys(range(1 << 16))     # type: ignore[assignment]
        assert watch.prober.start(recipe(Check("ping"), endpoint(Check("ping"), 0)), watch.verdicts.append)
        assert str(watch.verdicts[-1]).startswith("LOCAL 65536 echo requests are in flight")
        pinger._flights = {}


def test_checksum() -> None:
    assert checksum(bytes.fromhex("45000073000040004011" "0000" "c0a80001c0a800c7")) == 0xB861
    assert checksum(bytes.fromhex("0800" "0000" "00010001")) == 0xF7FD


def test_a_probe_that_meets_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system may give it the very port that it probes, if nobody else has it: what it hears then is itself."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def given(family: int, kind: int) -> socket.SocketType:
        sock = socket.SocketType(family, kind)
        sock.bind(("127.0.0.1", port))
        return sock

    monkeypatch.setattr(udp, "Socket", given)
    assert probe(Check("udp", send=b"x"), port) == ("L4CON", "connection refused")
    assert probe(Check("udp", send=b"x", closed=True), port).passed
