"""Bytes that come in pieces, cut into lines of bounded length: the same, whatever the pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.runtime.lines import LONGEST, Lines

TEXTS = st.text("aaab\n\r", max_size=40).map(str.encode)


def naive(text: bytes, longest: int) -> tuple[list[bytes], int, bool]:
    """The lines of the whole, how many are too long, the last one included, and whether it has no end yet."""
    *lines, rest = text.split(b"\n")
    return ([line for line in lines if len(line) <= longest],
            sum(len(line) > longest for line in (*lines, rest)), rest != b"")


@given(TEXTS, st.lists(st.integers(0, 40), max_size=8), st.integers(1, 6))
def test_any_pieces(text: bytes, cuts: list[int], longest: int) -> None:
    it, got, fed = Lines(longest), [], b""
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    for start, end in zip(edges, edges[1:], strict=False):
        got += it.feed(text[start:end])
        fed += text[start:end]
        assert (got, it.dropped, it.inside) == naive(fed, longest)


def test_the_bound() -> None:
    it = Lines()
    assert LONGEST == it.longest == 1024
    assert it.feed(b"x" * 1024 + b"\n") == [b"x" * 1024] and it.dropped == 0
    assert it.feed(b"x" * 1025 + b"\n") == [] and it.dropped == 1


@pytest.mark.parametrize("longest", [1, 5])
def test_of_a_line_that_never_ends_nothing_is_kept(longest: int) -> None:
    it = Lines(longest)
    for _ in range(1000):
        assert it.feed(b"xxx") == [] and len(it._rest) <= longest and it.inside
    assert it.dropped == 1
    assert it.feed(b"x\nab\n") == ([b"ab"] if longest > 1 else [])
    assert not it.inside
