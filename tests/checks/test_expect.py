"""Expects as functions: what has been received, whole and in every beginning of it, and what that means.

Dialogs with real members are in test_probe and test_samples; here is what depends on where an answer was cut.
"""

from __future__ import annotations

import pytest

from l4ipd.checks.expect import DIALOG, Match, Page, PageReader, Status, printable, quoted
from l4ipd.checks.pattern import pattern
from l4ipd.checks.verdict import Leave, Verdict

OPEN = ((200, 399),)


def says(number: int, words: str) -> Verdict:
    return Verdict("L7RSP", f"step {number}: {words}")


# -- dialogs: the late rest of the last answer

EHLO = pattern(b"250-mail*")                        # the last step's: satisfied by the first line
GO = pattern(b"354*")


def step(before: bytes, *, last: bytes = b"250-mail*", answers: bool = True) -> Match:
    return Match(4, GO, (), pattern(last), answers, before)


#: what the last step had read, what came then, what it means
LATE = [
    # an answer of several lines whose end was to come: all of it is passed over
    (b"250-mail\r\n", b"250 HELP\r\n354 go\r\n", DIALOG),
    (b"250-mail\r\n250-SIZE\r\n", b"250-PIPELINING\r\n250 HELP\r\n354 go\r\n", DIALOG),
    (b"250-mail\r\n250-SI", b"ZE\r\n250-A\r\n250 HELP\r\n354 go\r\n", DIALOG),
    (b"250-mail\r\n250-SIZE\r\n", b"250-PIPELINING\r\n250 HELP\r\n550 no\r\n", says(4, 'got "550 no"')),
    (b"250-mail\r\n", b"250-PIPELINING\r\n354 is not this\r\n", None),
    (b"250-mail\r\n", b"250\r\n354 go\r\n", DIALOG),                    # a last line without words
    (b"250-mail\n25", b"0\n354 go\n", DIALOG),
    (b"250-mail\r\n2", b"50-x\r\n250 y\r\n354 go\r\n", DIALOG),
    (b"250-mail\r\n", b"2500 is no code\r\n354 go\r\n", None),
    # that had come to its end
    (b"250-mail\r\n250 HELP\r\n", b"354 go\r\n", DIALOG),
    (b"250-mail\r\n250 HELP\r\n", b"550 no\r\n", says(4, 'got "550 no"')),
    (b"250-mail\r\n250 HE", b"LP\r\n354 go\r\n", DIALOG),
    (b"250-mail\r\n250\r\n", b"550 no\r\n", says(4, 'got "550 no"')),
    # and another began
    (b"250-mail\r\n250 HELP\r\n220-x\r\n", b"354 in the middle\r\n220 y\r\n354 go\r\n", DIALOG),
    (b"250-mail\r\n250 HELP\r\n220-x\r\n", b"354 in the middle\r\n", None),
    # nothing of the kind
    (b"", b"354 go\r\n", DIALOG),
    (b"", b"550 no\r\n", says(4, 'got "550 no"')),
    (b"", b"\n", None),                             # too short to tell from the last answer's lines
]


@pytest.mark.parametrize(("before", "data", "expected"), LATE)
def test_the_rest_of_the_last_answer(before: bytes, data: bytes, expected: Verdict | None) -> None:
    assert step(before)(data, False) == expected
    for length in range(len(data)):
        early = step(before)(data[:length], False)
        assert early is None or early == expected, data[:length]
    if expected is None:
        ended = step(before)(data, True)
        assert ended is not None and not ended.passed


def test_nothing_was_asked_so_that_lines_of_one_answer_are_taken_one_by_one() -> None:
    assert step(b"250-mail\r\n", answers=False)(b"354 go\r\n", False) == DIALOG
    assert step(b"250-mail\r\n", answers=True)(b"354 go\r\n", False) is None


@pytest.mark.parametrize(("before", "data", "expected"), [
    (b"250 a\n", b"abcdef\n", None),                # shorter than 250-mail
    (b"250 a\n", b"abcdefg\n", says(4, 'got "abcdefg"')),
    (b"250 a", b"zzz\nabcdef\n", None),
    (b"250 a", b"zzz\nabcdefg\n", says(4, 'got "abcdefg"')),
])
def test_a_line_that_is_too_short_may_yet_be_the_last_answers(before: bytes, data: bytes, expected: Verdict | None
                                                              ) -> None:
    assert step(before)(data, False) == expected


def test_and_too_short_to_tell_that_it_is_not_what_is_awaited() -> None:
    expect = Match(4, pattern(b"354go*"), (), pattern(b"2*"))
    assert expect(b"250 a\nxy\n", False) is None
    assert expect(b"250 a\nxyz\n1", False) == says(4, 'got "xyz"')


def test_a_last_answer_that_was_looked_for_anywhere_has_no_lines_to_pass_over() -> None:
    assert Match(2, pattern(b"250*"), (), pattern(b"*220*"))(b"220 b\n250 ok\n", False) == says(2, 'got "220 b"')


def test_a_line_without_anything_is_not_what_is_awaited_either() -> None:
    assert Match(1, pattern(b"220*"))(b"\nab", False) == says(1, 'got ""')


@pytest.mark.parametrize("number, where", [(0, ""), (3, "step 3: ")])
def test_a_step_that_is_late(number: int, where: str) -> None:
    expect, silence = Match(number, GO), Match(number, None)
    assert expect.expired(b"") == ("L7TOUT", f"{where}no answer")
    assert expect.expired(b"35") == ("L7TOUT", f'{where}got "35"')
    assert expect.overlong(b"35") == ("L7RSP", f"{where}more than 16 KiB without what was expected")
    assert expect(b"35", True) == ("L7RSP", f'{where}connection closed after 2 bytes: "35"')
    assert expect.where == where
    for verdict in (silence.expired(b""), silence.overlong(b"35"), silence(b"", True), silence(b"35", True)):
        assert verdict == DIALOG


def test_what_one_step_has_read_is_before_the_next() -> None:
    assert step(b"").reader(b"250-mail") == step(b"250-mail")
    first = step(b"250-mail")
    assert first.reader(b"") is first


@pytest.mark.parametrize(("expect", "data", "rest"), [
    (step(b""), b"354 go\r\nand more", b" go\r\nand more"),           # as soon as it is there
    (step(b"250-mail\r\n"), b"250 HELP\r\n354 go\r\n", b" go\r\n"),
    (step(b"", last=b"2*"), b"250 a\n354 b\n", b" b\n"),
    (Match(1, pattern(b"*PONG\n")), b"+PONG\nx", b"x"), (Match(1, pattern(b"*PONG\n")), b"+PONG\n", b""),
    (Match(1, None), b"anything", b"anything"),
    (step(b""), b"550 no", b"550 no"),
])
def test_what_comes_after_the_answer_is_for_the_next_step(expect: Match, data: bytes, rest: bytes) -> None:
    assert expect.rest(data) == rest


# -- dialogs: rejects

@pytest.mark.parametrize(("data", "words"), [
    (b"bad\n", "bad"), (b"one\nbad", "bad"), (b"one\ntwo bad\nthree\n", "two bad"), (b"\nbad\n", "bad"),
    (b"x\nbad", "bad"), (b"one bad two\n", "one bad two"), (b"one\ntwo\nis bad\nfour\n", "is bad"),
])
@pytest.mark.parametrize("reject", [b"*bad*", b"bad"])
def test_a_reject_names_the_line(data: bytes, words: str, reject: bytes) -> None:
    assert Match(3, None, ((2, pattern(reject)),))(data, False) == says(2, f'got "{words}"')


@pytest.mark.parametrize("data", [b"bad\n", b"one\nbad\n", b"one\nis bad\nthree"])
def test_a_reject_that_takes_the_end_of_the_line_names_it_and_not_the_next(data: bytes) -> None:
    words = "is bad" if b"is" in data else "bad"
    assert Match(3, None, ((2, pattern(b"bad\n")),))(data, False) == says(2, f'got "{words}"')


def test_what_takes_anything_takes_the_first_byte_and_not_silence() -> None:
    nothing, anything = Match(3, GO, ((2, pattern(b"*")),)), Match(3, pattern(b"*"), ((2, pattern(b"bad")),))
    assert nothing(b"", False) is None and anything(b"", False) is None
    assert nothing(b"", True) == anything(b"", True) == says(3, "connection closed without an answer")
    assert nothing(b"354 go\n", False) == says(2, 'got "354 go"') and nothing(b"\nabc", False) == says(2, 'got ""')
    assert anything(b"bad\n", False) == DIALOG, "it was complete before"


# -- http

def test_the_statuses_that_pass() -> None:
    assert {int(line[9:12]) for line in Status(((200, 204), (302, 302))).good} == {200, 201, 202, 203, 204, 302}
    assert {int(line[9:12]) for line in Status(((98, 103),)).good} >= {101}
    assert b"HTTP/1.1 100 " not in Status(((98, 103),)).good, "another one follows it"
    assert Status(OPEN).rest(b"anything") == b""


@pytest.mark.parametrize(("data", "eof", "expected"), [
    (b"HTTP/1.1 200\n", False, Verdict("L7OK", "200")),
    (b"HTTP/1.1 200 ", False, Verdict("L7OK", "200")),
    (b"HTTP/1.1 200", False, None),
    (b"HTTP/1.1 2000", False, Verdict("L7RSP", 'not HTTP: "HTTP/1.1 2000"')),
    (b"HTTP/1.1 20x\n", False, Verdict("L7RSP", 'not HTTP: "HTTP/1.1 20x"')),
    (b"SSH-2.0-x-y-z", False, Verdict("L7RSP", 'not HTTP: "SSH-2.0-x-y-z"')),
    (b"SSH-2.0-x-y-", False, None),
    (b"x\n", False, Verdict("L7RSP", 'not HTTP: "x"')),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 ", False, Verdict("L7OK", "204")),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n", False, Verdict("L7STS", "503 No")),
    (b"HTTP/1.1 100 Continue\r\n\r\n", False, None),
    (b"HTTP/1.1 503 No", False, None),
    (b"HTTP/1.1 503 No", True, Verdict("L7STS", "503 No")),
    (b"HTTP/1.1 503 No\r\nServer: x\r\n", False, Verdict("L7STS", "503 No")),
    (b"HTTP/1.1 503 " + b"x" * 67, False, None),     # until it is more than would be shown
    (b"HTTP/1.1 503 " + b"x" * 68, False, Verdict("L7STS", "503 " + "x" * 68)),
    (b"HTTP/1.1 100 Con", True, Verdict("L7RSP", 'connection closed after 16 bytes: "HTTP/1.1 100 Con"')),
    (b"HTTP", True, Verdict("L7RSP", 'connection closed after 4 bytes: "HTTP"')),
    (b"", True, Verdict("L7RSP", "connection closed without an answer")),
])
def test_status(data: bytes, eof: bool, expected: Verdict | None) -> None:
    assert Status(OPEN)(data, eof) == expected


def test_a_status_that_is_late() -> None:
    assert Status(OPEN).expired(b"") == ("L7TOUT", "no answer")
    assert Status(OPEN).expired(b"HTTP/1.1") == ("L7TOUT", 'got "HTTP/1.1"')
    assert Status(OPEN).overlong(b"x") == ("L7RSP", "more than 16 KiB without a final status line")


@pytest.mark.parametrize(("data", "leaves"), [
    (b"HTTP/1.1 503 Service Unavailable\r\n", True), (b"HTTP/1.0 503 No\r\n", True), (b"HTTP/1.1 302 Found\r\n", True),
    (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\n", True), (b"HTTP/1.1 500 No\r\n", False),
    (b"HTTP/1.1 504 No\r\n", False)])
@pytest.mark.parametrize("with_body", [False, True])
def test_a_status_that_wants_to_be_left(data: bytes, leaves: bool, with_body: bool) -> None:
    """It counts more than what would pass, and no body is waited for."""
    status = Status(OPEN, ((302, 302), (503, 503)))
    verdict = (Page(status, pattern(b"*ready*")) if with_body else status)(data, False)
    assert verdict is not None and verdict.code == "L7STS" and isinstance(verdict, Leave) == leaves


HEAD = b"HTTP/1.1 200 OK\r\n"


def page(text: bytes = b"*ready*", method: str = "GET") -> PageReader:
    reader = Page(Status(OPEN), pattern(text), method).reader(b"")
    assert isinstance(reader, PageReader)
    return reader


#: headers and body, whether the connection has ended, what that means
PAGES = [
    (b"Content-Length: 5\r\n\r\nready", False, Verdict("L7OK", "200")),
    (b"Content-Length: 9\r\n\r\nready", False, Verdict("L7OK", "200")),
    (b"Content-Length: 4\r\n\r\nread", False, Verdict("L7RSP", '200, but no "*ready*" in the body')),
    (b"Content-Length: 9\r\n\r\nread", False, None),
    (b"Content-Length: 9\r\n\r\nread", True, Verdict("L7RSP", "connection closed before the end of the answer")),
    (b"Content-Length: 9\r\n", True, Verdict("L7RSP", "connection closed before the end of the answer")),
    (b"\r\nread", False, None),
    (b"\r\nread", True, Verdict("L7RSP", '200, but no "*ready*" in the body')),
    (b"\r\nit is ready", False, Verdict("L7OK", "200")),
    (b"Transfer-Encoding: chunked\r\n\r\n3\r\nrea\r\n2\r\ndy\r\n0\r\n\r\n", False, Verdict("L7OK", "200")),
    (b"Content-Length: 0\r\n\r\n", False, Verdict("L7RSP", '200, but no "*ready*" in the body')),
]


@pytest.mark.parametrize(("data", "eof", "expected"), PAGES)
def test_pages_whole_and_byte_by_byte(data: bytes, eof: bool, expected: Verdict | None) -> None:
    assert page().read(HEAD + data, eof) == expected
    assert Page(Status(OPEN), pattern(b"*ready*"))(HEAD + data, eof) == expected
    reader, whole = page(), HEAD + data
    verdicts = [reader.read(whole[:length], False) for length in range(len(whole) + 1)]
    if eof and verdicts[-1] is None:
        verdicts.append(reader.read(whole, True))
    assert next((verdict for verdict in verdicts if verdict is not None), None) == expected


def test_a_malformed_page_says_what_is_wrong() -> None:
    verdict = page().read(HEAD + b"Content-Length: x\r\n\r\nready", False)
    assert verdict is not None and verdict.code == "L7RSP" and verdict.text.startswith("malformed answer: ")


def test_an_empty_body_and_a_pattern_that_takes_it() -> None:
    for method, data in (("GET", b"Content-Length: 0\r\n\r\n"), ("HEAD", b"Content-Length: 9\r\n\r\n")):
        assert page(b"*", method).read(HEAD + data, False) == ("L7OK", "200")


def test_what_takes_any_body_takes_its_first_byte() -> None:
    reader = page(b"*")
    assert reader.read(HEAD + b"Content-Length: 9\r\n\r\n", False) is None
    assert reader.read(HEAD + b"Content-Length: 9\r\n\r\nx", False) == ("L7OK", "200")


def test_to_be_asked_again_without_more_is_no_end() -> None:
    reader, data = page(), HEAD + b"\r\nread"
    assert [reader.read(data, False) for _ in range(3)] == [None] * 3
    assert reader.read(data + b"y", False) == ("L7OK", "200")


def test_a_page_that_is_late() -> None:
    assert page().expired(b"") == ("L7TOUT", "no answer")
    assert page().expired(b"HTTP/1.1") == ("L7TOUT", 'got "HTTP/1.1"')
    reader = page()
    reader.read(HEAD + b"Content-Length: 9\r\n\r\nread", False)
    assert reader.expired(HEAD) == ("L7TOUT", '200, but no "*ready*" in the body so far')
    assert reader.rest(HEAD) == b""
    assert reader.overlong(HEAD) == ("L7RSP", 'more than 16 KiB without "*ready*"')


@pytest.mark.parametrize(("data", "limit", "expected"), [
    (b" " * 9 + b"x" * 100, 80, "x" * 80), (b"x" * 80, 80, "x" * 80), (b"x" * 81, 80, "x" * 77 + "..."),
    (b"  a b\t\n", 80, "a b"), (b"\0\xff\t", 80, "\\x00\\xff"), (b"", 80, ""),
])
def test_printable(data: bytes, limit: int, expected: str) -> None:
    assert printable(data, limit) == expected


@pytest.mark.parametrize(("data", "expected"), [
    (b"x" * 80, "x" * 80), (b"x" * 81, "x" * 77 + "..."), (b" a b \r\n", " a b"), (b"\r\n", "\\r\\n"), (b"", ""),
    (b"x" * 79 + b" \r\n", "x" * 79),
])
def test_quoted(data: bytes, expected: str) -> None:
    assert quoted(data) == f'"{expected}"'
