"""The HTTP server: bounded in every direction, whoever talks to it; and which names it answers to."""

from __future__ import annotations

import contextlib
import gzip
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from l4ipd.web import httpd
from l4ipd.web.httpd import Answer, Later, Request, accepts_gzip
from l4ipd.web.site import trusted
from support.gateway import wait
from support.http_server import HttpServer, read_all, status


@pytest.fixture(scope="module")
def shared() -> Iterator[HttpServer]:
    site = HttpServer()
    yield site
    site.close()


@pytest.fixture
def site() -> Iterator[HttpServer]:
    it = HttpServer()
    yield it
    it.close()


REQUESTS = [
    (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    (b"GET /x?y=1&z HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\n\r\n", 200),
    (b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    (b"GET / HTTP/1.0\r\n\r\n", 200),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", 200),
    (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi", 405),
    (b"DELETE /status.json HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", 405),
    (b"GET / HTTP/1.1\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
    (b"GET http://[/ HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /?" + b"&".join(b"a%d=1" % n for n in range(40)) + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    (b"GET /\r\n\r\n", 400),
    (b"what?\r\n\r\n", 400),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"\x00" * 20 + b"\r\n\r\n", 400),
    (b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505),
    (b"HEAD / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
    (b"GET / HTTP/1.7\r\nHost: a\r\n\r\n", 200),
    (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n0\r\n\r\n", 400),
    (b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nTRANSFER-ENCODING: chunked\r\n\r\n0\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 200),
]


@pytest.mark.parametrize(("request_bytes", "expected"), REQUESTS, ids=lambda value: str(value)[:30])
def test_requests(shared: HttpServer, request_bytes: bytes, expected: int) -> None:
    for pieces in ([request_bytes], [request_bytes[place:place + 1] for place in range(len(request_bytes))]):
        answer = shared.ask(*pieces)
        assert status(answer) == expected
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b"connection: close" in head.lower() and b"x-common: yes" in head.lower()
        assert bool(body) == (not request_bytes.startswith(b"HEAD"))
        assert (b"allow: get, head" in head.lower()) == (expected == 405)


def test_a_request_cut_short_at_any_position_gets_no_page(shared: HttpServer) -> None:
    whole = REQUESTS[0][0]
    for place in range(len(whole)):
        answer = shared.ask(whole[:place], hang_up=True)
        assert not answer or status(answer) == 400


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(max_size=300) | st.sampled_from([b"GET / HTTP/1.1\r\n", b"Host: a\r\n", b"\r\n\r\n"]),
                max_size=6))
def test_garbage_does_no_harm(shared: HttpServer, pieces: list[bytes]) -> None:
    answer = shared.ask(*pieces, hang_up=True)
    assert not answer or status(answer) in (200, 400, 405, 431)
    assert status(shared.ask(REQUESTS[0][0])) == 200


def test_an_endless_head_is_refused(shared: HttpServer) -> None:
    for endless in (b"G" * 20000, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20000):
        assert status(shared.ask(endless)) in (400, 431)


def test_head_has_the_headers_of_get(shared: HttpServer) -> None:
    got, head = (shared.ask(method + b" / HTTP/1.1\r\nHost: a\r\n\r\n") for method in (b"GET", b"HEAD"))
    assert got.partition(b"\r\n\r\n")[0] == head.partition(b"\r\n\r\n")[0]


def test_what_the_handler_is_told(site: HttpServer) -> None:
    asked: list[Request] = []

    def handler(request: Request) -> Answer:
        asked.append(request)
        return Answer(200, b"")

    site.handler = handler
    site.ask(b"GET /a/b?match=www%2F*&x=+1 HTTP/1.1\r\nHost: Some.Where:81\r\n\r\n")
    assert asked == [Request("/a/b", {"match": ["www/*"], "x": [" 1"]}, "Some.Where:81")]


def test_a_body_that_is_produced_arrives_whole_and_its_end_is_marked(site: HttpServer) -> None:
    pieces = [b"%06d" % number * 100 for number in range(1000)]
    site.handler = lambda request: Answer(200, iter(pieces))
    old = site.ask(b"GET / HTTP/1.0\r\n\r\n")
    assert old.partition(b"\r\n\r\n")[2] == b"".join(pieces)
    new = site.ask(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    assert b"transfer-encoding: chunked" in new.lower() and new.endswith(b"\r\n0\r\n\r\n")


@pytest.mark.parametrize("header, expected", [
    (b"", False), (b"gzip", True), (b"GZIP", True), (b"x-gzip", True), (b"deflate, gzip;q=1.0, *;q=0.5", True),
    (b"gzip;q=0", False), (b"gzip; q = 0.000", False), (b"*", True), (b"br, identity", False), (b"gzipped", False),
    (b"gzip;q=0.001", True), (b";,;", False)])
def test_who_takes_gzip(header: bytes, expected: bool) -> None:
    assert accepts_gzip(header) == expected


@pytest.mark.parametrize("piece", [b"x", b"some words\n" * 5000, b""])
def test_gzip(site: HttpServer, piece: bytes) -> None:
    """What is produced comes compressed to whoever asks for it, and as it is to others; all of it."""
    site.handler = lambda request: Answer(200, (piece for _ in range(300)))
    head, _, body = site.ask(b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n").partition(b"\r\n\r\n")
    assert b"\r\nContent-Encoding: gzip" in head and b"\r\nVary: Accept-Encoding" in head
    assert gzip.decompress(dechunked(body)) == piece * 300
    head, _, body = site.ask(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Encoding" not in head and b"\r\nVary: Accept-Encoding" in head
    assert dechunked(body) == piece * 300


def dechunked(body: bytes) -> bytes:
    """What a chunked body holds (RFC 9112, 7.1)."""
    found = b""
    while body:
        size, _, body = body.partition(b"\r\n")
        found += body[:int(size, 16)]
        body = body[int(size, 16) + 2:]
    return found


def test_short_answers_are_not_compressed(site: HttpServer) -> None:
    assert b"Content-Encoding" not in site.ask(b"GET / HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n")


@pytest.mark.parametrize("delay", [0.0, 0.05])
def test_an_answer_that_is_known_later(site: HttpServer, delay: float) -> None:
    def begin(go_on: Callable[[], None]) -> None:
        site.loop.later(delay, go_on)
        site.loop.later(delay, go_on)               # once is enough

    site.handler = lambda request: Later(begin, lambda: Answer(200, b"at last " + request.path.encode()))
    assert site.ask(REQUESTS[0][0]).endswith(b"\r\n\r\nat last /")
    assert site.ask(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").endswith(b"\r\n\r\n")


def test_an_answer_that_is_known_at_once_after_all(site: HttpServer) -> None:
    site.handler = lambda request: Later(lambda go_on: go_on(), lambda: Answer(200, b"quick"))
    assert site.ask(REQUESTS[0][0]).endswith(b"quick")


def test_an_answer_for_which_nobody_waits_any_more(site: HttpServer) -> None:
    waiting: list[Callable[[], None]] = []
    site.handler = lambda request: Later(waiting.append, lambda: Answer(200, b"too late"))
    with site.connect() as client:
        client.sendall(REQUESTS[0][0])
        wait("it is asked", lambda: waiting)
    site.loop.later(0, waiting[0])
    site.handler = lambda request: Answer(200, b"and on")
    assert site.ask(REQUESTS[0][0]).endswith(b"and on")
    wait("it is over", lambda: not site.server.clients)


def test_an_answer_that_breaks_later(site: HttpServer) -> None:
    site.handler = lambda request: Later(lambda go_on: site.loop.later(0, go_on), lambda: 1 / 0)    # type: ignore
    assert status(site.ask(REQUESTS[0][0])) == 500
    site.handler = lambda request: Later(lambda go_on: 1 / 0, lambda: Answer(200, b""))
    assert status(site.ask(REQUESTS[0][0])) == 500


def test_a_handler_that_breaks(site: HttpServer) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 100_000
        raise RuntimeError("on purpose")

    site.handler = lambda request: Answer(200, broken())
    answer = site.ask(REQUESTS[0][0])
    assert not answer.endswith(b"\r\n0\r\n\r\n"), "the reader can tell that something is missing"
    site.handler = lambda request: 1 / 0            # type: ignore[assignment, return-value]
    assert status(site.ask(REQUESTS[0][0])) == 500


def test_a_reader_who_does_not_read_costs_little_and_holds_nobody_up(site: HttpServer) -> None:
    produced = 0

    def endless() -> Iterator[bytes]:
        nonlocal produced
        while True:
            produced += 1000
            yield b"z" * 1000

    site.handler = lambda request: Answer(200, endless() if request.path == "/endless" else b"quick")
    with contextlib.ExitStack() as stack:
        for _ in range(httpd.CLIENTS):
            rude = stack.enter_context(site.connect())
            rude.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            rude.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        before = -1
        while produced != before:                   # until the kernel's buffers are full
            before = produced
            for _ in range(20):
                assert site.ask(REQUESTS[0][0]).endswith(b"quick")
            assert len(site.server.clients) <= httpd.CLIENTS
        assert all(len(client._connection._output) <= 2 * httpd.PIECE for client in list(site.server.clients))


def test_when_all_places_are_taken_the_one_who_ponders_longest_goes(site: HttpServer) -> None:
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(site.connect()) for _ in range(httpd.CLIENTS + 3)]
        for client in idle:
            client.sendall(b"GET / HT")
        assert status(site.ask(REQUESTS[0][0])) == 200
        assert read_all(idle[0]) == b"", "hung up on"
        idle[-1].sendall(b"TP/1.1\r\nHost: a\r\n\r\n")
        assert status(read_all(idle[-1])) == 200, "the youngest was not"


def test_time_is_bounded(site: HttpServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpd, "REQUEST_TIME", 0.05)
    monkeypatch.setattr(httpd, "ANSWER_TIME", 0.05)
    monkeypatch.setattr(httpd, "DRAIN_TIME", 0.05)
    with site.connect() as silent:
        assert silent.recv(1) == b""
    site.handler = lambda request: Answer(200, iter(lambda: b"for ever" * 1000, b""))
    assert status(site.ask(REQUESTS[0][0])) == 200, "and then it was cut"
    site.handler = lambda request: Answer(200, b"all")
    with site.connect() as lingering:
        lingering.sendall(REQUESTS[0][0])
        assert read_all(lingering).endswith(b"all")
        while site.server.clients:                  # although the client does not close
            pass


NAMES = [
    ("", True), ("localhost", True), ("LOCALHOST:8089", True), ("localhost.", True), ("a.localhost", True),
    ("127.0.0.1", True), ("127.0.0.1:8089", True), ("[::1]", True), ("[::1]:8089", True), ("10.1.2.3", True),
    (socket.gethostname(), True), ("evil.example", False), ("evil.example:8089", False), ("8089", False),
    ("localhost.evil.example", False), ("127.0.0.1.evil.example", False), ("evil@127.0.0.1", False), ("a:b:c", False),
    ("[evil]", False),
]


@pytest.mark.parametrize(("host", "expected"), NAMES)
def test_it_answers_to_names_that_nobody_can_have_given_us(host: str, expected: bool) -> None:
    assert trusted(host) == expected
    assert trusted(host, ("evil.example",)) == (expected or host.startswith("evil.example"))


def test_names_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Gw.example.net")
    assert all(map(trusted, ["gw", "gw.example.net", "GW.EXAMPLE.NET.:8089"]))
    assert not any(map(trusted, ["gw.evil.example", "example.net", "gw.example", "other.example.net"]))
