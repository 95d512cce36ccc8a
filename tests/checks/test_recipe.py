"""Recipes, and what decides on answers: whole, byte by byte, cut short at every position, and at random."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd import __version__
from l4ipd.checks.expect import EXCERPT, LATE, LIMIT, Expect, Match, Page, Status, printable
from l4ipd.checks.pattern import pattern
from l4ipd.checks.recipe import Recipe, Tls, recipe, which
from l4ipd.checks.verdict import CODES, Verdict
from l4ipd.model import Check
from support.members import dialog, endpoint

FINE = ((200, 399),)
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def http(*ranges: tuple[int, int]) -> Status:
    return Status(ranges or FINE)


def page(text: bytes, *ranges: tuple[int, int], method: str = "GET") -> Page:
    return Page(http(*ranges), pattern(text), method)


def match(expect: bytes | None, *rejects: bytes, **others: object) -> Match:
    return Match(len(rejects) + 1, None if expect is None else pattern(expect),
                 tuple((number, pattern(text)) for number, text in enumerate(rejects, 1)), **others)  # type: ignore[arg-type]


#: an answer of several lines was taken for complete after its first, and something was sent then
MAIL: dict[str, object] = {"before": b"250-first\r\n", "last": pattern(b"250*"), "answers": True}
ROWS: list[tuple[Expect, bytes, str]] = [           # expect, answer (the member closes then), verdict
    (http(), b"HTTP/1.1 200 OK\r\n\r\n", "L7OK 200"),
    (http(), b"HTTP/1.1 200\r\n\r\n", "L7OK 200"),
    (http(), b"HTTP/1.0 200 \r\n\r\n", "L7OK 200"),
    (http(), b"HTTP/1.1 200 OK\n\n", "L7OK 200"),
    (http(), b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", "L7OK 302"),
    (http((200, 200), (404, 404)), b"HTTP/1.1 404 Not Found\r\n\r\n", "L7OK 404"),
    (http(), b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "L7STS 503 Service Unavailable"),
    (http(), b"HTTP/1.1 503\r\n\r\n", "L7STS 503"),
    (http((200, 200)), b"HTTP/1.1 204 No\tContent\x1b[31m\r\n\r\n", r"L7STS 204 No\tContent\x1b[31m"),
    (http(), b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", "L7OK 200"),
    (http(), b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 100 C\n\nHTTP/1.1 500 Oh\r\n\r\n", "L7STS 500 Oh"),
    (http((100, 199)), b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 Switching Protocols\r\n\r\n", "L7OK 101"),
    (http(), b"SSH-2.0-OpenSSH_9.6\r\n", 'L7RSP not HTTP: "SSH-2.0-OpenS'),
    (http(), b"HTTP/1.1 2000 OK\r\n", 'L7RSP not HTTP: "HTTP/1.1 2000'),
    (http(), b"HTTP/1.1 099 OK\r\n", 'L7RSP not HTTP: "HTTP/1.1 099'),
    (http(), b"HTTP/2 200\r\n", 'L7RSP not HTTP: "HTTP/2 200'),
    (http(), b"\x16\x03\x01\0\0", r'L7RSP connection closed after 5 bytes: "\x16\x03\x01\x00\x00"'),
    (http(), b"\n", 'L7RSP not HTTP: "\\n"'),
    (http(), b"\r\nHTTP/1.1 200 OK\r\n", 'L7RSP not HTTP: "\\r\\nHTTP/1.1 200 OK"'),
    (http(), b" HTTP/1.1 200 OK\r\n", 'L7RSP not HTTP: " HTTP/1.1 200 OK"'),
    (http(), b"\tHTTP/1.1 200 OK\r\n", 'L7RSP not HTTP: "\\tHTTP/1.1 200 OK"'),
    (http(), b"HTTP/1.1 100 Continue\r\n\r\n\r\nHTTP/1.1 200 OK\r\n", 'L7RSP not HTTP: "\\r\\nHTTP/1.1 200 OK"'),
    (http(), b"", "L7RSP connection closed without an answer"),
    (http(), b"HTTP/1.1 100 Continue\r\n\r\n", "L7RSP connection closed without an answer"),
    (page(b"ok"), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nis ok", "L7OK 200"),
    (page(b"ok*"), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nis ok", 'L7RSP 200, but no "ok*" in the body'),
    (page(b"is*"), b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nis ok", "L7OK 200"),
    (page(b"is ok"), CHUNKED + b"3\r\nis \r\n2;x=y\r\nok\r\n0\r\n\r\n", "L7OK 200"),
    (page(b"ok\r\n2"), CHUNKED + b"3\r\nok\r\n2\r\n\n2\r\n0\r\n\r\n", "L7RSP malformed answer"),
    (page(b"is ok"), CHUNKED + b"3\r\nis \r\n", "L7RSP connection closed before the end of the answer"),
    (page(b"is ok"), CHUNKED + b"zz\r\n", "L7RSP malformed answer: illegal chunk header"),
    (page(b"is ok"), b"HTTP/1.0 200 OK\r\n\r\nit is\nnot ok", 'L7RSP 200, but no "is ok" in the body'),
    (page(b"is*ok"), b"HTTP/1.0 200 OK\r\n\r\nit is\nnot ok", "L7OK 200"),
    (page(b"x"), b"HTTP/1.1 200 OK\r\nX-Header: x\r\nContent-Length: 0\r\n\r\n", 'L7RSP 200, but no "x" in the body'),
    (page(b"x"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "L7RSP connection closed before the end"),
    (page(b"x"), b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nax", 'L7RSP 200, but no "x" in the body'),
    (page(b"x"), b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx", "L7RSP malformed answer"),
    (page(b"x"), b"HTTP/1.1 200 OK\r\nbad header\r\n\r\nx", "L7RSP malformed answer"),
    (page(b"x"), b"HTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\nx", "L7STS 500 Oh"),
    (page(b"x", (500, 500)), b"HTTP/1.1 500 Oh\r\nContent-Length: 1\r\n\r\nx", "L7OK 500"),
    (page(b"x"), b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx", "L7OK 200"),
    (page(b"x", method="HEAD"), b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", 'L7RSP 200, but no "x" in the body'),
    (page(b"*"), b"HTTP/1.1 204 No Content\r\n\r\n", "L7OK 204"),
    (page(b"\0[\xf0-\xff]"), b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\0\xfe", "L7OK 200"),
    (page(b"x"), b"not HTTP at all", 'L7RSP not HTTP: "not HTTP at a'),
    (match(b"+PONG"), b"+PONG\r\n", "L7OK dialog complete"),
    (match(b"+PONG"), b"-ERR no\r\n", r'L7RSP step 1: connection closed after 9 bytes: "-ERR no"'),
    (match(b"+PONG"), b"", "L7RSP step 1: connection closed without an answer"),
    (match(b"220 *"), b"220 mail\r\n", "L7OK dialog complete"),
    (match(b"220 *"), b"220-mail\r\n220 mail\r\n", 'L7RSP step 1: got "220-mail"'),
    (match(b"220 *"), b"512 DNS error\r\n", 'L7RSP step 1: got "512 DNS error"'),
    (match(b"220 *"), b"512 DNS error", 'L7RSP step 1: connection closed after 13 bytes: "512 DNS error"'),
    (match(b"220*"), b" 220 mail\r\n", 'L7RSP step 1: got " 220 mail"'),
    (match(b"220*"), b"\r\n220 mail\r\n", r'L7RSP step 1: got "\r"'),
    (match(b"220?*ready*"), b"220-a\r\n220 ready\r\n", "L7OK dialog complete"),
    (match(b"*"), b"\0", "L7OK dialog complete"),
    (match(b"OK", b"ERR*"), b"ERR not OK\r\n", 'L7RSP step 1: got "ERR'),
    (match(b"OK", b"NO", b"BAD"), b"200 OK NO BAD\r\n", "L7OK dialog complete"),
    (match(b"OK", b"NO", b"BAD"), b"hm\r\nBAD, not OK\r\n", 'L7RSP step 2: got "BAD'),
    (match(b"?K", b"OK"), b"OK", 'L7RSP step 1: got "OK"'),
    (match(None, b"ERR"), b"fine", "L7OK dialog complete"),
    (match(None, b"ERR"), b"", "L7OK dialog complete"),
    (match(None, b"ERR"), b"some\nERR there\n", 'L7RSP step 1: got "ERR'),
    (match(b"250*", before=b"220 first"), b" rest of it\r\n250 ok\r\n", "L7OK dialog complete"),
    (match(b"250*", before=b"220 first"), b" rest of it\r\n500 no\r\n", 'L7RSP step 1: got "500 no"'),
    (match(b"250*", before=b"220 fir", last=pattern(b"220*")), b"st\r\n220-a\r\n220 b\r\n250 ok\r\n",
     "L7OK dialog complete"),
    (match(b"250*", last=pattern(b"220*")), b"220 b\r\n250 ok\r\n", "L7OK dialog complete"),
    (match(b"250*", last=pattern(b"220*")), b"220 b\r\n500 no\r\n250 ok\r\n", 'L7RSP step 1: got "500 no"'),
    (match(b"250*"), b"220 b\r\n250 ok\r\n", 'L7RSP step 1: got "220 b"'),
    (match(b"250*", b"5*", **MAIL), b"250 last\r\n550 no\r\n", 'L7RSP step 1: got "550 no"'),
    (match(b"250*", b"5*", **MAIL), b"250-more\r\n250\r\n250 ok\r\n", "L7OK dialog complete"),
    (match(b"250*", b"5*", **MAIL), b"5 of\r\n250 last\r\n250 ok\r\n", "L7OK dialog complete"),
    (match(b"250*", **{**MAIL, "before": b"250-a\r\n25"}), b"0 last\r\n500 no\r\n", 'L7RSP step 1: got "500 no"'),
    (match(b"250*", **{**MAIL, "before": b"250-a\r\n250 b\r\n"}), b"250 ok\r\n", "L7OK dialog complete"),
    (match(b"220 *", before=b"220-", last=pattern(b"220-*")), b"a\r\n220 b\r\n", "L7OK dialog complete"),
    (Match(0, pattern(b"*")), b"", "L7OK dialog complete"),
]


def ask(expect: Expect, data: bytes, cuts: list[int], before: bytes = b"") -> tuple[Verdict, int]:
    """What a probe would get when the data arrives in pieces that end at ``cuts``, then eof; and how much it read."""
    reader = expect.reader(before)
    for cut in cuts:
        verdict = reader.read(data[:cut], False)
        if verdict is not None:
            return verdict, cut
    verdict = reader.read(data, True)
    assert verdict is not None
    return verdict, len(data)


@pytest.mark.parametrize(("expect", "data", "wanted"), ROWS)
def test_whole_and_in_pieces(expect: Expect, data: bytes, wanted: str) -> None:
    whole, _ = ask(expect, data, [len(data)] if data else [])
    assert str(whole).startswith(wanted)
    for piece in (1, 2, 7):
        verdict, _ = ask(expect, data, [*range(piece, len(data), piece), len(data)])
        assert verdict.code == whole.code
        assert str(verdict).startswith(wanted.split(":")[0])


@pytest.mark.parametrize(("expect", "data", "wanted"), ROWS)
def test_cut_short_at_every_position(expect: Expect, data: bytes, wanted: str) -> None:
    """Too little never passes, enough always does, and everything gets a verdict."""
    whole, needed = ask(expect, data, list(range(1, len(data) + 1)))
    silence_passes = isinstance(expect, Match) and expect.pattern is None
    for length in range(len(data)):
        verdict, _ = ask(expect, data[:length], list(range(1, length + 1)))
        at_once, _ = ask(expect, data[:length], [])
        for each in (verdict, at_once):
            assert each.code in CODES and each.text and each.text.isprintable()
            if not silence_passes and not (isinstance(expect, Page) and whole.passed):
                assert each.passed == (whole.passed and length >= needed), (length, each)


@pytest.mark.parametrize(("expect", "data", "wanted"), ROWS)
def test_too_late_and_too_long(expect: Expect, data: bytes, wanted: str) -> None:
    reader = expect.reader(b"")
    for length in range(len(data)):
        if reader.read(data[:length], False) is None:
            for verdict in (reader.expired(data[:length]), reader.overlong(data[:length])):
                assert verdict.text.isprintable() and len(verdict.text) < 3 * EXCERPT
                assert not verdict.passed or (isinstance(expect, Match) and expect.pattern is None)


def test_decided_as_early_as_can_be() -> None:
    rows: list[tuple[Expect, bytes, int]] = [
            (http(), b"HTTP/1.1 200 OK\r\nServer: x\r\n\r\n", 13), (match(b"220 *"), b"220 mail\r\n", 4),
            (page(b"ok"), b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\nok and more", 43),
            (page(b"ok"), b"HTTP/1.1 500 Oh\r\nContent-Length: 9000\r\n\r\n", 17)]
    for expect, data, needed in rows:
        assert ask(expect, data, list(range(1, len(data) + 1)))[1] == needed


EXPECTS: list[Expect] = [http(), http((100, 999)), page(b"x*y"), page(b"*", (100, 999)), page(b"x", method="HEAD"),
                         match(b"220 *"), match(b"a*b", b"c", b"?d*"), match(None, b"x"),
                         match(b"250*", before=b"220 first", last=pattern(b"2?0*"))]
PIECES = [b"HTTP/1.1 ", b"200", b"100", b"503", b" OK", b"\r\n", b"\n", b"\r\n\r\n", b"Content-Length: ", b"3", b"-1",
          b"Transfer-Encoding: chunked", b"5\r\n", b"0\r\n\r\n", b"250 ", b"220 ", b"\0", b"\xff", b"a", b"x",
          b"y" * 300, b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n", b"Connection: close\r\n", b"x" * 5000]


@pytest.mark.parametrize("expect", EXPECTS)
def test_ten_thousand_random_answers(expect: Expect) -> None:
    chance = random.Random(1)
    for number in range(10000):
        if number % 2:
            data = chance.randbytes(chance.randrange(40))
        else:
            data = b"".join(chance.choices(PIECES, k=chance.randrange(12)))
        if number % 3 == 0:
            data = b"HTTP/1.1 200 OK\r\n" + data
        cuts = sorted(chance.sample(range(len(data) + 1), min(3, len(data) + 1)))
        verdict, _ = ask(expect, data, [cut for cut in cuts if cut], data[:chance.randrange(3)])
        assert verdict.code in CODES and verdict.text.isprintable() and verdict.text.isascii()
        assert len(verdict.text) < 3 * EXCERPT


@given(st.binary(max_size=300))
@settings(max_examples=500, deadline=None)
def test_printable(data: bytes) -> None:
    text = printable(data)
    assert text.isascii() and (text.isprintable() or not text) and len(text) <= EXCERPT


@given(st.sampled_from([b"220*", b"+OK", b"a*b*", b"?"]), st.sampled_from([b"250*", b"+PONG", b"2*0*"]),
       st.lists(st.sampled_from([b"220", b"250 ", b"\r\n", b"a", b"b", b"+OK", b"+PONG", b"500 no"]), max_size=6),
       st.integers(1, 5))
@settings(max_examples=1000, deadline=None)
def test_two_expects_in_a_row_do_not_depend_on_the_pieces(first: bytes, second: bytes, words: list[bytes],
                                                         piece: int) -> None:
    steps = recipe(Check("tcp", dialog=dialog(("expect", first), ("expect", second))), endpoint(Check("tcp"), 1)).steps
    data = b"".join(words)

    def play(cuts: list[int]) -> str:
        before = start = 0
        for step in steps:
            assert step.expect is not None
            reader = step.expect.reader(data[before:start])
            for cut in [*(cut for cut in cuts if cut > start), None]:
                verdict = reader.read(data[start:cut], cut is None)
                if verdict is not None:
                    break
            assert verdict is not None
            if not verdict.passed:
                return verdict.code + verdict.text[:7]
            before, start = start, (cut or len(data)) - len(reader.rest(data[start:cut]))
        return "passed"

    assert play([len(data)]) == play([*range(piece, len(data), piece), len(data)])


# -- recipes

def request(check: Check, address: str = "127.0.0.1", port: int = 8080) -> bytes:
    made = recipe(check, endpoint(check, port, address))
    return made.steps[0].send + made.host + made.steps[0].tail


def test_the_request() -> None:
    assert request(Check("http")) == (f"GET / HTTP/1.1\r\nHost: 127.0.0.1:8080\r\nUser-Agent: l4ip/{__version__}\r\n"
                                      "Accept: */*\r\nConnection: close\r\n\r\n").encode()
    assert b"\r\nHost: [fd00::1]:8080\r\n" in request(Check("http"), "fd00::1")
    assert b"\r\nHost: www.example.org\r\n" in request(Check("http", host="www.example.org"))
    assert b"\r\nContent-Length: 0\r\n" in request(Check("http", method="POST"))


def test_own_headers_replace_ours() -> None:
    sent = request(Check("http", headers=(("user-agent", "me"), ("HOST", "x"), ("Cookie", "a=\u00e9"))))
    assert sent.lower().count(b"host:") == sent.lower().count(b"user-agent:") == 1
    assert b"user-agent: me\r\nHOST: x\r\nCookie: a=\xc3\xa9\r\n\r\n" in sent


def made(check: Check, port: int = 8080, address: str = "10.0.0.1") -> Recipe:
    return recipe(check, endpoint(check, port, address))


def test_recipes_compare_by_value() -> None:
    for check in (Check("http", body=b"x"), Check("tcp", dialog=dialog(("send", b"x"), ("expect", b"y*")))):
        assert made(check) == made(check) and hash(made(check)) == hash(made(check))
        assert made(check) != made(check, 8081) != made(Check("tcp"), 8081)


def test_what_members_have_in_common_is_shared() -> None:
    check = Check("http", body=b"x", host="www.example.org")
    assert made(check, address="10.0.0.1").steps is made(check, address="10.0.0.2").steps
    check = Check("http", body=b"x")
    assert made(check, address="10.0.0.1").steps[0].expect is made(check, address="10.0.0.2").steps[0].expect


@pytest.mark.parametrize(("check", "reset"), [
    (Check("tcp"), True), (Check("tcp", close="fin"), False), (Check("http"), False),
    (Check("http", close="reset"), True), (Check("tls"), False), (Check("tcp", closed=True), True),
    (Check("tcp", dialog=dialog(("send", b"x"))), False)])
def test_a_connection_that_said_nothing_is_reset(check: Check, reset: bool) -> None:
    assert made(check).method.reset is reset


@pytest.mark.parametrize(("check", "tls"), [
    (Check("tcp", sni="x"), None), (Check("tls"), Tls(None, None)), (Check("tls", host="x"), Tls(None, None)),
    (Check("https", host="www.example.org:8443", verify=""), Tls("", "www.example.org")),
    (Check("https", host="www.example.org", sni="other"), Tls(None, "other")),
    (Check("https", host="[fd00::1]:443", verify="/ca"), Tls("/ca", "fd00::1")),
    (Check("https", host="10.0.0.1"), Tls(None, "10.0.0.1"))])
def test_names_for_tls(check: Check, tls: Tls | None) -> None:
    assert made(check).method.tls == tls


def test_the_words_of_a_command() -> None:
    words = ("/x", "{address}:{port}", "{cluster}/{service}/{member}", "{other} {}", "%s")
    check = Check("exec", command=words, port=99)
    assert made(check).command == ("/x", "10.0.0.1:99", "www/http/web1", "{other} {}", "%s")


def test_more_interim_answers_than_python_can_nest() -> None:
    interim = b"HTTP/1.1 100\n\n" * 1100
    assert http()(interim, False) is None
    assert http()(interim + b"HTTP/1.1 204\n", False) == ("L7OK", "204")


def test_late_lines_without_end_cost_little() -> None:
    """Each of so many lines might be the last answer's: only some of them are tried."""
    expect = match(b"250*", last=pattern(b"2*x*"))
    assert len(expect._starts(b"2\n" * 8000 + b"x")) == LATE


def test_a_dialog_in_exchanges() -> None:
    steps = made(Check("tcp", dialog=dialog(
        ("expect", b"220*"), ("send", b"a"), ("send", b"b"), ("reject", b"5*"), ("expect", b"250*"),
        ("send", b"c")))).steps
    assert [step.send for step in steps] == [b"", b"ab", b"c"]
    assert steps[1].expect == Match(5, pattern(b"250*"), ((4, pattern(b"5*")),), pattern(b"220*"), True)
    assert steps[2].expect is None


def test_a_limit_is_a_limit() -> None:
    assert LIMIT == 16384


@pytest.mark.parametrize("checks, names", [
    ([Check("http"), Check("tcp", port=8081)], ["port 8080", "port 8081"]),
    ([Check("tcp"), Check("tcp", port=8080)], ["check 1", "check 2"]),
    ([Check("tcp"), Check("ping")], ["port 8080", "ping"]),
    ([Check("ping"), Check("udp"), Check("http", path="/a?token=x"), Check("http", path="/b")],
     ["ping", "udp", "/a", "/b"]),
    ([Check("http", path="/a?x"), Check("https", path="/a?y"), Check("tcp", port=1)], ["http", "https", "port 1"]),
    ([Check("http", path="/a?x"), Check("http", path="/a?y")], ["check 1", "check 2"]),
    ([Check("https", path="/a"), Check("https", path="/b")], ["/a", "/b"]),
    ([Check("exec", command=("a",), port=1), Check("exec", command=("b",), port=2)], ["check 1", "check 2"])])
def test_what_tells_a_check_of_a_list_from_the_others(checks: list[Check], names: list[str]) -> None:
    it = replace(endpoint(checks[0], 8080), checks=tuple(checks))
    assert [which(it, place) for place in range(len(checks))] == names
