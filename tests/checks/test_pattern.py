"""Patterns: the standard library's fnmatch is the judge, and hostile data costs no time."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from l4ipd.checks.pattern import CLASSES, Pattern, pattern

MATCHES = [                                         # pattern, data, where the match ends (-1: none)
    (b"+PONG", b"+PONG\r\n", 5),
    (b"+PONG", b"-ERR\r\n+PONG\r\n", 11),
    (b"220 *", b"220 ready", 4),
    (b"220 *", b"\r\n220 ready", -1),
    (b"220 *", b"220-ready", -1),
    (b"*220 *", b"x 220 y", 6),
    (b"*220", b"x 220 y", 5),
    (b"a*b", b"xx a\r\n\0b yy", 8),
    (b"a*b*", b"xa b", -1),
    (b"a*b*", b"a xb", 4),
    (b"*", b"", 0),
    (b"?*", b"", -1),
    (b"?", b"\n", 1),
    (b"250-*250 *", b"250-a\r\n250-b\r\n250 c\r\n", 18),
    (b"\0\0?", b"x\0\0\xff", 4),
    (b"[!a-c]x", b"ax bx dx", 8),
    (b"[^a-c]x", b"ax bx dx", 8),
    (b"[]x]]", b"]]", 2),
    (b"[[:digit:][:upper:]]!", b"a! 7!", 5),
    (b"[[:nonsense:]]", b"n]", 2),
    (b"[abc", b"[abc", 4),
    (b"[", b"[", 1),
    (b"\\*\\?\\[", b"*?[", 3),
    (b"\\*", b"x", -1),
    (b"x\\*", b"ax*", 3),                           # the star is no star: not anchored
    (b"\\", b"\\", 1),
    (b"[\\]]", b"]", 1),
    (b"[z-a]", b"a-z", -1),
    (b"a*a", b"ab", -1), (b"a*a", b"aba", 3),       # each piece begins where the one before it has ended
    (b"\\ab", b"ab", 2), (b"\\ab", b"ax", -1),
    (b"[!a]x", b"!x", 2), (b"[!a]x", b"[x", 2), (b"[!a]x", b"ax", -1), (b"[!]]x", b"]x", -1),
    (b"[adz]", b"b", -1), (b"[ab]", b"X", -1), (b"[a-]x", b"-x", 2), (b"[a-]x", b"bx", -1),
    (b"[a-", b"[a-", 3), (b"[\\", b"[\\", 2),       # never closed
    (b"[\\]", b"[]", 2), (b"[\\]", b"\\", -1),
]


@pytest.mark.parametrize(("text", "data", "end"), MATCHES)
def test_table(text: bytes, data: bytes, end: int) -> None:
    assert Pattern(text).search(data) == end


def test_from_where() -> None:
    assert Pattern(b"b").search(b"ab b", 2) == 4 and Pattern(b"b*").search(b"ab b", 3) == 4
    assert Pattern(b"b*").search(b"ab b", 2) == -1


@pytest.mark.parametrize(("text", "data", "start", "hopeless"), [
    (b"220*", b"22", 0, False), (b"220*", b"221", 0, True), (b"220*", b"220", 0, False), (b"220*", b"500 no", 0, True),
    (b"220*", b"x221", 1, True), (b"220*", b"x220", 1, False), (b"220*", b"x22", 1, False), (b"2*5*", b"2 x", 0, False),
    (b"220", b"500", 0, False), (b"*220*", b"500", 0, False), (b"*", b"x", 0, False)])
def test_whether_more_may_help(text: bytes, data: bytes, start: int, hopeless: bool) -> None:
    assert Pattern(text).hopeless(data, start) == hopeless
    assert Pattern(text).hopeless(data[start:]) == hopeless


@pytest.mark.parametrize(("text", "first"), [(b"*", 0), (b"250-mail*", 8), (b"[a-z]?*xy", 2), (b"*ab*c", 2), (b"", 0)])
def test_what_the_first_piece_takes(text: bytes, first: int) -> None:
    assert Pattern(text).first == first


@pytest.mark.parametrize(("text", "anchored"), [
    (b"220 *", True), (b"a*b*", True), (b"?*", True), (b"[*", True), (b"[*]*", True), (b"220", False), (b"*", False),
    (b"**", False), (b"*a*", False), (b"a*b", False), (b"a\\*", False), (b"a[*]", False), (b"", False)])
def test_anchored(text: bytes, anchored: bool) -> None:
    assert Pattern(text).anchored is anchored


PATTERNS = st.text("ab]*?[!-\n", max_size=12)
DATA = st.text("ab]*?[!-\n\0", max_size=20)


@given(PATTERNS, DATA)
@settings(max_examples=2000, deadline=None)
def test_as_the_standard_library(text: str, data: str) -> None:
    backwards = any(text[at] == "-" and text[at - 1] > text[at + 1] for at in range(1, len(text) - 1))
    assume(not backwards)                           # of [b-a!] fnmatch.translate makes [!], which is "not nothing"
    compiled = pattern(text.encode())
    whole = text if compiled.anchored else f"*{text}*"
    assert (compiled.search(data.encode()) >= 0) == fnmatch.fnmatchcase(data, whole)


@given(PATTERNS, DATA)
@settings(max_examples=1000, deadline=None)
def test_the_shortest_prefix_decides(text: str, data: str) -> None:
    compiled = pattern(text.encode())
    end = compiled.search(data.encode())
    for length in range(len(data) + 1):
        assert compiled.search(data.encode()[:length]) == (end if 0 <= end <= length else -1)


@given(PATTERNS, DATA, DATA)
@settings(max_examples=1000, deadline=None)
def test_hopeless_is_for_ever(text: str, data: str, more: str) -> None:
    compiled = pattern(text.encode())
    if compiled.hopeless(data.encode()):
        assert compiled.search((data + more).encode()) == -1


@given(st.binary(max_size=40), st.binary(max_size=200))
@settings(max_examples=2000, deadline=None)
def test_any_bytes(text: bytes, data: bytes) -> None:
    assert -1 <= Pattern(text).search(data) <= len(data)


@pytest.mark.parametrize("text", [
    b"*a" * 200 + b"b", b"a*" * 200 + b"b", b"*" * 5000 + b"b", b"?*" * 300 + b"b", b"*[ab]" * 200 + b"c",
    b"a" * 50 + b"*b*c"])
def test_hostile_data_is_searched_in_linear_time(text: bytes) -> None:
    """Anything exponential or even cubic would not end while the test runs."""
    compiled = Pattern(text)
    for data in (b"a" * 16384, b"ab" * 8192, b"\0" * 16384):
        for _ in range(20):
            compiled.search(data)


def test_equality_is_of_the_text() -> None:
    assert Pattern(b"a*") == Pattern(b"a*") != Pattern(b"a")
    assert pattern(b"a*") is pattern(b"a*")


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_those_of_the_c_locale(name: bytes) -> None:
    patterns = {b"blank": rb"[ \t]", b"space": rb"\s", b"digit": rb"\d", b"alnum": rb"[^\W_]"}
    if name in patterns:
        judge = re.compile(patterns[name])
        for byte in range(256):
            one = bytes((byte,))
            assert (Pattern(b"[[:%s:]]" % name).search(one) == 1) == bool(judge.fullmatch(one))
