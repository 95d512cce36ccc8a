"""Every value of a byte, in every field of all that comes from outside: nothing of it is an internal error.

What is consumed is consumed as in the daemon, by the objects that do it there.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l4ipd.checks.ping import HEADER, Ping, Pinger
from l4ipd.checks.recipe import Recipe, Tls, recipe
from l4ipd.checks.tls import Tunnel
from l4ipd.checks.verdict import CODES, Verdict
from l4ipd.ipfilter import log_rules
from l4ipd.ipfilter.filter_table import FilterTable
from l4ipd.ipfilter.listing import Listing
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.sessions import Owners, Reader
from l4ipd.ipfilter.snapshot import _Reader
from l4ipd.model import Check, Cluster, Endpoint, Ipfilter, Member, Service
from l4ipd.resets.listener import Listener
from l4ipd.resets.reaction import Reaction
from l4ipd.resets.sources import Ipmon
from l4ipd.resets.targets import Targets
from l4ipd.runtime.loop import Loop
from support.certs import Authority
from support.control_server import ControlServer
from support.control_server import read_all as read_lines
from support.http_server import HttpServer, read_all
from support.members import dialog, endpoint

BYTES = [bytes([value]) for value in range(256)]


@pytest.fixture
def loop() -> Iterator[Loop]:
    it = Loop()
    yield it
    assert it.errors.total == 0, it.errors.last
    it.close()


def fields(line: bytes) -> list[tuple[int, int]]:
    """Where the fields of a line begin and end: numbers, words, and what stands between them."""
    return [found.span() for found in re.finditer(rb"\d+|[A-Za-z_-]+|[^A-Za-z_\d-]+", line)]


def variants(line: bytes) -> Iterator[bytes]:
    """``line`` with each byte in each of its fields: instead of it, in its middle, at both ends."""
    for begin, end in fields(line):
        middle = (begin + end) // 2
        for byte in BYTES:
            yield line[:begin] + byte + line[end:]
            yield line[:middle] + byte + line[middle + 1:]
            yield line[:begin] + byte + line[begin:]
            yield line[:end] + byte + line[end:]


def long_variants(line: bytes) -> Iterator[bytes]:
    """``line`` with a field that is far too long, or not there."""
    for begin, end in fields(line):
        for size in (0, 20, 300, 5000):
            yield line[:begin] + (line[begin:end] * size)[:size] + line[end:]


def all_variants(line: bytes) -> Iterator[bytes]:
    yield from variants(line)
    yield from long_variants(line)


# -- ipmon

RECORDS = [
    b"28/11/2026 10:00:00.123456 em1 @-1:-1 L 10.0.0.2,8080 -> 198.51.100.7,5000 PR tcp len 20 40 -AR 0 1001 0 IN "
    b"log-tag 4711",
    b"28/11/2026 10:00:00.123456 3x em1 @0:1 p 10.0.0.2,http-alt -> 198.51.100.7,5000 PR tcp len 20 40 -R 7 1 0 K-S IN "
    b"tag 4711 OOW",
    b"28/11/2026 10:00:00.123456 em1 @web:1 L 10.0.0.2 -> 198.51.100.7 PR icmp len 20 56 icmp unreach/port for "
    b"198.51.100.7,4000 - 10.0.0.2,domain PR udp len 20 29 IN log-tag 4711",
    b"28/11/2026 10:00:00.123456 em1 @-1:-1 L fd00::2 -> 2001:db8::7 PR icmpv6 len 40 96 icmpv6 unreach/port "
    b"IN log-tag 4711",
    b"Nov 28 10:00:00 gw ipmon[8]: 10:00:00.123456 em1 @-1:-1 L 10.0.0.2,8080 -> 198.51.100.7,5000 PR tcp len "
    b"20 40 -AR 0 1 0 IN log-tag 4711",
    b"<134>1 2026-11-28T10:00:00Z gw ipmon 8 - - 10:00:00.123456 em1 @-1:-1 L 10.0.0.2,8080 -> 198.51.100.7,5000 PR "
    b"tcp len 20 40 -AR 0 1 0 IN log-tag 4711",
    b"missed 12 ipf log entries: 7 19",
]


class Watched:
    """An endpoint of which resets tell."""

    eligible = True
    passes = 0

    def __init__(self, protocol: str, address: str, port: int) -> None:
        self.endpoint = Endpoint("a/b/c", "a", "b", "c", ("203.0.113.1",), 80, protocol, False, address, port, 1, False,
                                 (Check("tcp"),))
        self.hits = 0

    def refuse(self, verdict: Verdict, client: str) -> str:
        self.hits += 1
        return "used"

    def probe_soon(self) -> None:
        self.hits += 1


@pytest.mark.parametrize("record", RECORDS, ids=range(len(RECORDS)))
def test_lines_of_ipmon(loop: Loop, record: bytes) -> None:
    watched = [Watched("tcp", "10.0.0.2", 8080), Watched("udp", "10.0.0.2", 53), Watched("udp", "fd00::2", 53)]
    targets = Targets(loop)
    targets.use(watched)
    reaction = Reaction(loop, targets, lambda: None)
    listener = Listener(loop, reaction.weigh, reaction.stale, reaction.unreadable, lambda kind, text, level: None)
    listener.tag = 4711
    source = Ipmon(loop, ("ipmon",), "/nonexistent", listener.take, lambda problem: None)
    for line in all_variants(record):
        source._took(line + b"\n")
    before = sum(each.hits for each in watched) + listener.missed
    for target in targets._targets.values():
        target.probed = float("-inf")
    source._took(record + b"\n")
    assert sum(each.hits for each in watched) + listener.missed > before, "it is still heard"


# -- listings

RULES = [
    b"rdr em0 203.0.113.1/32 port 80 -> 10.0.0.2/32 port 8080 tcp round-robin age 30/30 sticky tag l4ip",
    b"12 rdr em0,em1 inet6 2001:db8::1/128 port 80-90 -> fd00::2/128 port 8080 tcp/udp round-robin tag l4ip.2",
    b"rdr em0 from 0/0 to 203.0.113.1/32 port = http -> 10.0.0.2,10.0.0.3 port = 8080 tcp",
    b"map em0 10.0.0.0/24 -> 0/32 portmap tcp/udp auto",
    b"\tttl 240 use 0 sumd 0/0 pr 6/6",
    b"RDR 10.0.0.2       8080  <- -> 203.0.113.1    80    [198.51.100.2 64158] tcp",
]


@pytest.mark.parametrize("rule", RULES, ids=range(len(RULES)))
def test_listings_of_ipnat(loop: Loop, rule: bytes) -> None:
    for tag in ("l4ip", None):
        want = [RULES[0].decode()]
        nat = NatTable(Ipfilter(tag=tag), Dialect(), lambda line: None, lambda want=want: want)     # type: ignore[misc]
        listing, look = Listing(nat.table, {}, loop.errors), _Reader(nat, loop.errors)
        for line in all_variants(rule) if tag else long_variants(rule):
            assert not listing.feed(line + b"\n") and not look.feed(line + b"\n")
        nat.listed()
        assert listing.feed(b"\r\nList of active sessions:\n") and look.feed(b"List of active sessions:\n")
        assert listing.complete and look.complete


@pytest.mark.parametrize("line", RULES[-1:])
def test_sessions_in_listings(line: bytes) -> None:
    service = Service("http", 80, "tcp", 8080, False, (Check("tcp"),))
    www = Cluster("www", ("203.0.113.1",), (service,), (Member("web2", "10.0.0.2"),))
    reader, owners = Reader(), Owners(www.endpoints())
    reader.feed(b"List of active sessions:\n")
    for variant in all_variants(line):
        reader.feed(variant + b"\n")
    found = [endpoint.name for ends in reader.counts for endpoint in owners.of(ends)]
    assert "www/http/web2" in found and reader.counts.total() > 1


FILTERS = [
    ("log", b"@1 log in on em1 proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R set-tag(log=4711)"),
    ("log", b"log in on em1 proto icmp from 10.0.0.2/32 to any icmp-type unreach code 3 set-tag(log=4711)"),
    ("count", b"2 80 count in on em1 proto tcp from 10.0.0.2/32 port = 8080 to any flags R/R"),
]


@pytest.mark.parametrize("action, rule", FILTERS, ids=range(len(FILTERS)))
def test_listings_of_ipfstat(loop: Loop, action: str, rule: bytes) -> None:
    reader = FilterTable(Ipfilter(), action, False, {4711}, lambda line: True)
    listing = Listing(reader.table, {}, loop.errors)
    for line in all_variants(rule):
        assert not listing.feed(line + b"\n")
    reader.listed()
    assert listing.rules
    for ours in listing.rules:
        assert (parsed := log_rules.parse(ours)) is not None and parsed.line() == ours
    assert all(hits < 10 ** 20 for hits in reader.hits.values())


# -- requests

@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    it = ControlServer(str(tmp_path_factory.mktemp("control") / "socket"))
    yield it
    assert it.loop.errors.total == 0, it.loop.errors.last
    it.close()


REQUEST = b'{"command": "echo", "pattern": "web1", "count": 3}'


def test_requests_of_l4ipctl(toy: ControlServer) -> None:
    """All in one thread: each is answered before the next comes."""
    def conversation() -> int:
        answered = 0
        for line in (*(REQUEST[:begin] + byte + REQUEST[end:] for begin, end in fields(REQUEST) for byte in BYTES),
                     *(REQUEST[:begin] + byte + REQUEST[begin:] for begin, _ in fields(REQUEST) for byte in BYTES)):
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(toy.control.path)
                with contextlib.suppress(ConnectionError):
                    client.sendall(line + b"\n")
                    answers = [json.loads(answer) for answer in read_lines(client).splitlines() if answer]
                    answered += "end" in answers[-1] if answers else 0
        return answered

    assert toy.talk(conversation) > 1000
    assert not toy.control.clients


@pytest.fixture(scope="module")
def site() -> Iterator[HttpServer]:
    it = HttpServer()
    yield it
    it.close()


WEB = [b"%bET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"GET /%b?match=%bweb HTTP/1.1\r\nHost: localhost\r\n\r\n",
       b"GET / HTTP/%b.1\r\nHost: localhost\r\n\r\n", b"GET / HTTP/1.1\r\nHost: %b\r\n%bx: y\r\n\r\n"]


def test_requests_by_http(site: HttpServer) -> None:
    requests = [line.replace(b"%b", byte) for line in WEB for byte in BYTES]
    answers: list[bytes] = []
    while requests:                                 # some at a time: an answer waits for a tick of the loop
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(site.connect()) for _ in requests[:8]]
            for client in clients:
                client.sendall(requests.pop())
                client.shutdown(socket.SHUT_WR)
            answers += map(read_all, clients)
    assert site.loop.errors.total == 0, site.loop.errors.last
    assert {answer.split(b" ", 2)[1] for answer in answers if answer} == {b"200", b"400", b"405", b"505"}
    assert all(not answer or answer.startswith(b"HTTP/1.1 ") for answer in answers)


# -- answers

def judged(what: Recipe, answer: bytes) -> Verdict:
    """The verdict on an answer that comes whole, and then the end."""
    reader = what.steps[0].expect.reader(b"") if what.steps[0].expect else None
    assert reader is not None
    for data, eof in ((answer, False), (answer, True)):
        verdict = reader.read(data, eof)
        if verdict is not None:
            return verdict
    return reader.expired(answer)


CHECKS: list[tuple[Check, bytes]] = [
    (Check("http"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"),
    (Check("http"), b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 503 Service Unavailable\r\n\r\n"),
    (Check("http", body=b"is well"), b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-Y: z\r\n\r\nall is well"),
    (Check("http", body=b"is well"), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"b\r\nall is well\r\n0\r\n\r\n"),
    (Check("tcp", dialog=dialog(("expect", b"220*"), ("send", b"QUIT\r\n"))), b"220 mail ESMTP\r\n"),
    (Check("tcp", dialog=dialog(("reject", b"-ERR"), ("expect", b"+[A-Z]*?\r\n"))), b"-ERR no\r\n+PONG x\r\n"),
    (Check("udp", send=b"x", expect=b"*ok*"), b"it is ok"),
]


@pytest.mark.parametrize("check, answer", CHECKS, ids=range(len(CHECKS)))
def test_answers_of_members(check: Check, answer: bytes) -> None:
    what = recipe(check, endpoint(check, 8080))
    for variant in (*all_variants(answer), *(answer[:length] for length in range(len(answer)))):
        verdict = judged(what, variant)
        assert verdict.code in CODES and verdict.code != "LOCAL"
        assert verdict.text.isascii() and verdict.text.isprintable() and len(verdict.text) < 300


def test_answers_of_members_that_speak_tls(tmp_path: Path) -> None:
    """Each byte in each of the first places of a record, and one of 16 in all the others."""
    server = Authority(tmp_path).server("localhost")

    def shaken(change: Callable[[bytes], bytes]) -> Verdict | bool:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        member = server.wrap_bio(incoming, outgoing, server_side=True)
        tunnel = Tunnel(Tls(None, None))
        tunnel.shake(b"")
        incoming.write(tunnel.outgoing())
        with contextlib.suppress(ssl.SSLWantReadError):
            member.do_handshake()
        flight.append(outgoing.read())
        return tunnel.shake(change(flight[-1]))

    flight: list[bytes] = []
    assert shaken(lambda data: data) is True
    for place in range(len(flight[0])):
        for byte in BYTES if place < 12 else BYTES[place % 16::64]:
            outcome = shaken(lambda data, place=place, byte=byte:         # type: ignore[misc]
                             data[:place] + byte + data[place + 1:])
            assert isinstance(outcome, bool) or outcome.code == "L6RSP" and outcome.text.isprintable()


@pytest.mark.parametrize("inet6", [False, True])
@pytest.mark.parametrize("kind", ["echo", "unreachable"])
def test_answers_to_pings(loop: Loop, inet6: bool, kind: str) -> None:
    address = "::1" if inet6 else "127.0.0.1"
    pinger = Pinger(loop, inet6)
    pinger._raw = True
    ping = Ping.__new__(Ping)
    ping._pinger, ping._sequence, ping.cookie = pinger, 7, b"0123456789abcdef"
    ping.address = socket.inet_pton(socket.AF_INET6 if inet6 else socket.AF_INET, address)
    verdicts: list[Verdict] = []
    ping._done = verdicts.append

    def take(packet: bytes) -> None:
        ping._sequence = 7
        pinger._flights[7] = ping
        pinger._take(packet, address)

    request = HEADER.pack(128 if inet6 else 8, 0, 0, pinger._identifier, 7) + ping.cookie
    head = (struct.pack("!IHBB16s16s", 6 << 28, len(request), 58, 64, ping.address, ping.address) if inet6 else
            struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(request), 0, 0, 64, 1, 0, ping.address, ping.address))
    if kind == "echo":
        packet = HEADER.pack(129 if inet6 else 0, 0, 0, pinger._identifier, 7) + ping.cookie
    else:
        packet = HEADER.pack(1 if inet6 else 3, 1, 0, 0, 0) + head + request
    packet = packet if inet6 else head[:2] + struct.pack("!H", 20 + len(packet)) + head[4:] + packet
    take(packet)
    assert len(verdicts) == 1 and verdicts[0].code in ("L4OK", "L4CON")
    for place in range(len(packet)):
        take(packet[:place])
        for byte in BYTES:
            take(packet[:place] + byte + packet[place + 1:])
    assert len(verdicts) > 100
