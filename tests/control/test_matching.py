"""Which endpoints are meant, and what is said to who means none."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.report import matching
from l4ipd.report.matching import MOST_WILD, Unclear, choose, matcher

NAMES = {"www/http/web1": "a", "www/http/web2": "b", "mail/smtp/mail1": "c"}


@pytest.mark.parametrize("patterns, found", [
    ("*", "abc"), ("web1", "a"), ("www", "ab"), ("http", "ab"), ("web*", "ab"), ("www/*", "ab"), ("*/web2", "b"),
    ("www/http/web1", "a"), ("mail", "c"), ("[m]ail", "c"), ("*1", "ac"), ("w?b2", "b"), ("*/*/*", "abc"),
    ("www/http", "ab"), ("www/h*", "ab"), ("[!w]*", "abc"), ("[]m]ail1", "c"), ("[!]w]ail1", "c"),
    ("web2 web1", "ab"), ("mail1 www", "abc"), ("mail1 ma* mail", "c"), ("*/smtp/* web1", "ac")])
def test_who_is_meant(patterns: str, found: str) -> None:
    words = patterns.split()
    assert "".join(NAMES[name] for name in choose(words, list(NAMES))) == found
    assert "".join(NAMES[name] for name in filter(matcher(words), NAMES)) == found


@pytest.mark.parametrize("pattern, words", [
    ("wbe1", "did you mean web1?"), ("www/htpp/web1", "did you mean www/http/web1"),
    ("www/htp", "no such endpoint; did you mean www/http?"), ("www/htp/*", "no such endpoint"),
    ("wb1*", "did you mean web1"), ("WEB1", "no such endpoint; did you mean web1 or web2?"),
    ("wbe*", "no such endpoint; see l4ipctl show"),
    ("x" * 3000, "no such endpoint; see l4ipctl show"), ("x" * 3000 + "*", "is longer than 500 characters"),
    ("", "'': no such endpoint"),
    ("[c", "[c: this bracket is never closed"), ("web[12", "never closed"), ("[]", "never closed"),
    ("[!]", "never closed"), ("[a]b[", "never closed"), ("a[b]*/[", "never closed"), ("mail/[x]", "no such endpoint")])
def test_nobody_is_meant(pattern: str, words: str) -> None:
    with pytest.raises(Unclear) as unclear:
        choose([pattern], list(NAMES))
    assert words in str(unclear.value) and len(str(unclear.value)) < 300
    assert "\n" not in str(unclear.value)


def test_each_pattern_has_to_mean_somebody() -> None:
    with pytest.raises(Unclear) as unclear:
        choose(["web1", "wbe2", "web2", "mali1"], list(NAMES))
    assert str(unclear.value).splitlines() == ["wbe2: no such endpoint; did you mean web2?",
                                               "mali1: no such endpoint; did you mean mail1 or mail?"]


def test_what_would_take_long_is_not_done() -> None:
    with pytest.raises(Unclear, match="more than 20 patterns with"):
        matcher([f"{number}*" for number in range(MOST_WILD + 1)])
    assert choose([*(f"{number}*w*" for number in range(MOST_WILD - 1)), *["*"] * 9, *["web1"] * 99],
                  [f"{number}w/a/web1" for number in range(MOST_WILD)])
    with pytest.raises(Unclear) as unclear:
        choose([f"no{number}" for number in range(1000)], list(NAMES))
    lines = str(unclear.value).splitlines()
    assert len(lines) == matching.TOLD + 1 and lines[-1] == "and 980 patterns more that no endpoint has"


WORDS = st.text("ab1", min_size=1, max_size=3)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS).map("/".join), unique=True, max_size=8),
       st.text("ab1*?/[]!", max_size=6))
def test_it_is_fnmatch(names: list[str], pattern: str) -> None:
    """The model: what the manual says, word by word."""
    def meant(name: str) -> bool:
        parts = name.split("/")
        also = {0: parts, 1: ["/".join(parts[:2])]}.get(pattern.count("/"), [])
        return any(fnmatchcase(each, pattern) for each in (name, *also))

    try:
        found = choose([pattern], names)
    except Unclear:
        found = []
    assert found == list(filter(meant, names))
