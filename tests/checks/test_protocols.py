"""Protocols by name against what servers say: ``samples/protocols.txt``, whole, byte by byte, and cut short.

No socket is needed for that: a conversation is read as a probe reads it. How probes carry it out, TLS in the middle of
it included, is tested with members on loopback.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import pytest

from l4ipd.checks.conversation import SPEAKS, Conversation
from l4ipd.checks.protocols import dns, lines, redis
from l4ipd.checks.recipe import recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.config.parse import parse
from l4ipd.model import Check
from support import SAMPLES
from support.certs import Authority
from support.members import Member, endpoint, probe

SALTED = cache(hashlib.pbkdf2_hmac)
NONCE = "fixednonce0123456789"
FILE = "ipfilter: {{interface: em0}}\nclusters: {{c: {{address: 192.0.2.1, members: {{m: 10.0.0.1}}, services: {{s: " \
       "{{port: 1, check: {}}}}}}}}}"


@dataclass(frozen=True)
class Recorded:
    title: str
    check: Check
    verdict: str
    turns: tuple[tuple[str, bytes], ...]


def parsed(block: str) -> Recorded:
    title, check, verdict, *said = block.splitlines()
    turns: list[tuple[str, bytes]] = []
    for line in said:
        side, text = line[0], line[3:].encode().decode("unicode_escape").encode("latin-1")
        before = turns.pop()[1] if turns and turns[-1][0] == side else b""
        turns.append((side, before + text))
    found = parse(FILE.format(check), "c").clusters[0].services[0].checks[0]
    return Recorded(title, found, verdict.removeprefix("-> "), tuple(turns))


BLOCKS = re.split(r"^== ", (SAMPLES / "protocols.txt").read_text("ascii"), flags=re.MULTILINE)[1:]
RECORDED = [parsed(block.strip("\n")) for block in BLOCKS]


class Play:
    """A conversation that is fed: what it says is in ``said``."""

    def __init__(self, check: Check) -> None:
        step = recipe(check, endpoint(check, 1)).steps[0]
        assert step.expect is not None
        reader = step.expect.reader(b"")
        assert isinstance(reader, Conversation)
        self.reader, self.said, self.data = reader, step.send, b""
        self.verdict: Verdict | None = None

    def feed(self, data: bytes, eof: bool = False) -> None:
        self.data += data
        while self.verdict is None and (outcome := self.reader.read(self.data, eof)) is not None:
            if outcome is not SPEAKS:
                self.verdict = outcome
                return
            self.said += self.reader.say.before + self.reader.say.send
            self.data = self.data[self.reader.say.used:]
            self.verdict = self.reader.say.verdict


@pytest.fixture(autouse=True)
def nonce(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "token_urlsafe", lambda size: NONCE)
    monkeypatch.setattr(hashlib, "pbkdf2_hmac", SALTED)     # the same few, again and again


def title(recorded: Recorded) -> str:
    return recorded.title


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[at:at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("recorded", RECORDED, ids=title)
@pytest.mark.parametrize("size", [1 << 16, 1, 7])
def test_what_was_recorded(recorded: Recorded, size: int) -> None:
    play = Play(recorded.check)
    for side, data in recorded.turns:
        if side == "C":
            assert play.said == data
            play.said = b""
        else:
            assert play.verdict is None and not play.said
            for piece in cut(data, size):
                play.feed(piece)
    if "another protocol" in recorded.title and size < 50:      # it is quoted as far as it has come
        assert str(play.verdict).partition('"')[0] == recorded.verdict.partition('"')[0]
    else:
        assert str(play.verdict) == recorded.verdict and play.said == b""


@pytest.mark.parametrize("recorded", RECORDED, ids=title)
def test_cut_short_anywhere(recorded: Recorded) -> None:
    """Whatever has come, the end of the connection is a verdict, and never a pass too early; so is silence."""
    for turn, (side, data) in enumerate(recorded.turns):
        for size in range(len(data)) if side == "S" else ():
            for silent in (False, True):
                play = Play(recorded.check)
                for before, earlier in recorded.turns[:turn]:
                    play.feed(earlier if before == "S" else b"")
                play.feed(data[:size])
                if play.verdict is None and silent:
                    assert play.reader.expired(play.data).code == "L7TOUT"
                elif play.verdict is None:
                    play.feed(b"", True)
                    assert play.verdict is not None and not play.verdict.passed
                else:                                       # it knows already, as from the first line of a refusal
                    assert not play.verdict.passed or str(play.verdict) == recorded.verdict


@pytest.mark.parametrize("kind", ["smtp", "imap", "pop3", "ftp", "ssh", "redis", "mysql", "pgsql", "ldap"])
def test_garbage_is_judged_and_nothing_is_raised(kind: str) -> None:
    samples = [data for each in RECORDED for side, data in each.turns if side == "S"]
    for garbage in [b"\0" * 50, b"\xff" * 50, b"x" * 5000, b"\r\n" * 50, b"0\x84\xff\xff\xff\xff", b"$-1\r\n",
                    b"$99999999\r\n", b"R\xff\xff\xff\xff", b"R\0\0\0\4", b"\1\0\0\0\n", b"\3\0\0\0\xff\1\2",
                    b"0\3\2\1\1", b"0\0", *samples]:
        play = Play(Check(kind))
        play.feed(garbage)
        play.feed(garbage, True)
        assert play.verdict is not None


def test_answers_to_datagrams() -> None:
    query = dns.question("www.example.org", "A")
    good = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + query[12:] + b"\xc0\x0c\0\1\0\1\0\0\0\1\0\4\1\2\3\4"
    assert dns.judged(query, good) == ("L7OK", "NOERROR")
    others = [b"", good[:11], b"zz" + good[2:], good[:2] + b"\x01" + good[3:], good.replace(b"www", b"ftp"),
              good[:2] + b"\xa1" + good[3:]]
    assert [dns.judged(query, each) for each in others] == [None] * len(others)
    assert dns.judged(query, good.upper().replace(query[:2].upper(), query[:2])) == ("L7OK", "NOERROR")
    for code, word in ((1, "FORMERR"), (2, "SERVFAIL"), (5, "REFUSED"), (15, "rcode 15")):
        assert dns.judged(query, good[:3] + bytes([0x80 | code]) + good[4:]) == ("L7STS", word)


def test_a_datagram_with_an_error_decides_and_one_for_others_does_not() -> None:
    check = Check("dns", name="www.example.org", over="udp")
    query = dns.question("www.example.org", "A")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.setblocking(False)

        def answered() -> bool:
            try:
                data, peer = server.recvfrom(1000)
            except BlockingIOError:
                return False
            assert data == query
            server.sendto(b"zz" + query[2:3] + b"\x80" + query[4:], peer)
            server.sendto(query[:2] + b"\x81\x82" + query[4:], peer)
            return False

        assert probe(check, server.getsockname()[1], expire_when=answered) == ("L7STS", "SERVFAIL")


# -- over a real connection

@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


def mail(context: ssl.SSLContext, extra: bytes = b"") -> Callable[[Member, socket.socket], None]:
    """A mail server that begins TLS when asked; ``extra`` is what somebody on the way has slipped in before."""
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(b"220 mail\r\n")
        member.read(client, b"\r\n")
        client.sendall(b"250-mail\r\n250 STARTTLS\r\n")
        member.read(client, b"\r\n")
        client.sendall(b"220 go ahead\r\n" + extra)
        with context.wrap_socket(client, server_side=True) as inner:
            member.read(inner, b"\r\n")
            inner.sendall(b"250 mail\r\n")
            member.read(inner, b"\r\n")
            inner.sendall(b"221 bye\r\n")
    return behaviour


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("extra", [b"", b"250 forged\r\n221 forged\r\n"])
def test_tls_in_the_middle(authority: Authority, newest: ssl.TLSVersion, extra: bytes) -> None:
    context = authority.server("127.0.0.1")
    context.maximum_version = newest
    check = Check("smtp", starttls=True, verify=str(authority.path), verify_host="member")
    with Member(mail(context, extra)) as member:
        assert probe(check, member.port) == ("L7OK", "ready")
        assert member.requests == [b"EHLO l4ip\r\n", b"STARTTLS\r\n", b"EHLO l4ip\r\n", b"QUIT\r\n"]
    with Member(mail(authority.server("127.0.0.9"))) as member:
        assert probe(check, member.port) == ("L6RSP", "certificate is not for 127.0.0.1, the member")


def test_a_handshake_that_does_not_come(authority: Authority) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(b"+OK hello\r\n")
        member.read(client, b"\r\n")
        client.sendall(b"+OK begin\r\n")
        client.recv(1)
        member.hang()

    with Member(behaviour) as member:
        assert probe(Check("pop3", starttls=True), member.port, expire_when=member.busy.is_set) == (
            "L6TOUT", "no answer to the TLS handshake")


def test_silence_after_the_greeting() -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(b"220 hello\r\n25")
        member.read(client, b"\r\n")
        member.hang()

    with Member(behaviour) as member:
        verdict = probe(Check("smtp"), member.port, expire_when=member.busy.is_set)
        assert verdict == ("L7TOUT", 'got "25"')


def test_frames() -> None:
    assert lines.reply(b"250-a\r\n250-b\r\n250 c\r\nrest") == ((250, "250 c", (b"250-a", b"250-b", b"250 c")), 21)
    assert lines.reply(b"211-a\n anything\n211\n") == ((211, "211", (b"211-a", b" anything", b"211")), 20)
    assert lines.reply(b"250-a\r\n251 b\r\n") is None
    assert redis.answer(b"$3\r\nabc\r\n+") == (b"$abc", 9) and redis.answer(b"$-1\r\n") == (b"$", 5)
    assert redis.command(b"AUTH", b"a\r\n") == b"*2\r\n$4\r\nAUTH\r\n$3\r\na\r\n\r\n"
    with pytest.raises(ValueError):
        lines.line(b"x" * 5000)
