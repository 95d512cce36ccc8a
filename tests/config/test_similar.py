"""What was meant: the best guess comes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.config.similar import like, slips


@pytest.mark.parametrize("text, known, guesses", [
    ("wbe1", ["web2", "web1", "web3"], ["web1"]),
    ("web4", ["web1", "web2", "web3"], ["web1", "web2", "web3"]),       # all as good: in their own order
    ("m22", ["m1", "m12", "m2", "m3"], ["m2", "m12"]),
    ("web10", ["web100", "web1", "web11", "web01"], ["web100", "web1", "web11"]),
    ("htpp", ["https", "http"], ["http", "https"]),
    ("intreval", ["internal", "interval"], ["interval", "internal"]),
    ("prot", ["protocol", "port"], ["port", "protocol"]),
    ("WEB1", ["web1"], ["web1"]), ("xyz", ["web1"], []), ("", ["web1"], []), ("web1", [], [])])
def test_the_best_guess_comes_first(text: str, known: list[str], guesses: list[str]) -> None:
    assert like(text, known, 3)[:len(guesses)] == guesses and len(like(text, known, 3)) <= 3
    assert like(text, known, 1) == guesses[:1]


@pytest.mark.parametrize("one, other, number", [
    ("", "", 0), ("a", "", 1), ("", "ab", 2), ("ab", "ba", 1), ("abc", "abc", 0), ("wbe1", "web1", 1),
    ("web1", "wbe2", 2), ("abc", "axc", 1), ("abc", "ac", 1), ("kitten", "sitting", 3)])
def test_slips(one: str, other: str, number: int) -> None:
    assert slips(one, other) == slips(other, one) == number


@given(st.text("abc", max_size=6), st.lists(st.text("abc", min_size=1, max_size=6), unique=True, max_size=10))
def test_nobody_closer_comes_later(text: str, known: list[str]) -> None:
    found = [slips(text, word) for word in like(text, known, 10)]
    assert found == sorted(found)
