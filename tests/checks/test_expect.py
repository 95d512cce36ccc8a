"""Expects as functions: what has been received, whole and in every beginning of it, and what that means.

Dialogs with real members are in test_probe and test_samples; here is what depends on where an answer was cut.
"""

from __future__ import annotations

import pytest

from l4ipd.checks.expect import DIALOG, Match, Page, PageReader, Status, printable
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


# -- dialogs: rejects

@pytest.mark.parametrize(("data", "words"), [
    (b"bad\n", "bad"), (b"one\nbad", "bad"), (b"one\ntwo bad\nthree\n", "two bad"), (b"\nbad\n", "bad"),
    (b"x\nbad", "bad"), (b"one bad two\n", "one bad two"),
])
@pytest.mark.parametrize("reject", [b"*bad*", b"bad"])
def test_a_reject_names_the_line(data: bytes, words: str, reject: bytes) -> None:
    assert Match(3, None, ((2, pattern(reject)),))(data, False) == says(2, f'got "{words}"')


@pytest.mark.parametrize("data", [b"bad\n", b"one\nbad\n", b"one\nis bad\nthree"])
def test_a_reject_that_takes_the_end_of_the_line_names_it_and_not_the_next(data: bytes) -> None:
    words = "is bad" if b"is" in data else "bad"
    assert Match(3, None, ((2, pattern(b"bad\n")),))(data, False) == says(2, f'got "{words}"')


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
])
def test_status(data: bytes, eof: bool, expected: Verdict | None) -> None:
    assert Status(OPEN)(data, eof) == expected


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
