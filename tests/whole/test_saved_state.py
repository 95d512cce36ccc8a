"""What one run leaves to the next: what is written and read back, what is ignored, and why."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd import saved_state
from l4ipd.saved_state import Saved, decode, encode, load

NOW = 1_800_000_000.0
SAVED = Saved({"www/http/web1": NOW - 10}, {"www/http/web1": (True, NOW - 100), "www/http/web2": (False, NOW - 5)},
              frozenset({"rdr lo0 203.0.113.1/32 port 80 -> 10.0.0.1 port 80 tcp round-robin"}))
times = st.floats(0, NOW)


@given(st.dictionaries(st.text(), times), st.dictionaries(st.text(), st.tuples(st.booleans(), times)),
       st.frozensets(st.text()), st.frozensets(st.text()), st.frozensets(st.integers(0, 2**32 - 1)),
       st.frozensets(st.text()), st.dictionaries(st.text(), st.text(max_size=100)), st.dictionaries(st.text(), times))
def test_what_is_written_is_read_back(disabled: dict[str, float], states: dict[str, tuple[bool, float]],
                                      rules: frozenset[str], tables: frozenset[str], tags: frozenset[int],
                                      counts: frozenset[str], users: dict[str, str],
                                      until: dict[str, float]) -> None:
    saved = Saved(disabled, states, rules, tables, tags, counts, users=users, until=until)
    assert decode(encode(saved, NOW), NOW + 1) == saved


@pytest.mark.parametrize("length", range(0, len(encode(SAVED, NOW)) - 2, 7))
def test_a_file_that_was_cut_short_is_ignored(length: int) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decode(encode(SAVED, NOW)[:length], NOW)


def test_a_file_of_before_there_were_filters_is_read() -> None:
    data = json.loads(encode(SAVED, NOW))
    del data["filters"]
    assert decode(json.dumps(data).encode(), NOW) == SAVED


def changed(**more: Any) -> bytes:
    data = json.loads(encode(SAVED, NOW))
    return json.dumps({**data, **more}).encode()


@pytest.mark.parametrize("text, words", [
    (b"", "damaged"), (b"\0" * 100, "damaged"), (b"\xff\xfe", "damaged"), (b"[" * 100_000, "damaged"),
    (b"[]", "not a state file"), (b"{}", "not a state file"), (b'"version"', "not a state file"),
    (changed(version=2), "version 2, and this l4ipd writes version 1"), (changed(version="x" * 99), "version xxxx"),
    (changed(disabled=["www/http/web1"]), "damaged"), (changed(disabled={"a/b/c": "yes"}), "damaged"),
    (changed(disabled=None), "damaged"), (changed(endpoints={"a/b/c": [True]}), "damaged"),
    (changed(endpoints={"a/b/c": [True, float("nan")]}), "damaged"), (changed(rules=3), "damaged"),
    (changed(filters={"tags": [1 << 32]}), "damaged"), (changed(filters={"tags": [-1]}), "damaged"),
    (changed(filters={"tags": [10**400]}), "damaged"), (changed(disabled={"a/b/c": 10**400}), "damaged"),
    (changed(filters=3), "damaged"), (changed(filters={"tags": ["x"]}), "damaged"),
    (changed(disabled_until={"a/b/c": "soon"}), "damaged"),
    (changed(disabled_until={"a/b/c": float("nan")}), "damaged"), (changed(disabled_by=[]), "damaged"),
    (changed(written=float("inf")), "damaged"), (changed(written=10**400), "damaged"),
    (b" " * (saved_state.SIZE_LIMIT + 1), "larger than 64 MB"),
])
def test_what_is_no_state_is_ignored(text: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        decode(text, NOW)


@given(st.binary(max_size=300))
def test_garbage_is_ignored(text: bytes) -> None:
    with pytest.raises(ValueError):
        decode(text, NOW)


@pytest.mark.parametrize("age, kept", [(0, True), (3599, True), (3601, False), (1e7, False), (-1, False)])
def test_what_the_operator_disabled_never_expires(age: float, kept: bool) -> None:
    found = decode(encode(SAVED, NOW), NOW + age)
    assert found.disabled == SAVED.disabled and found.rules == SAVED.rules
    assert found.states == (SAVED.states if kept else {})


@pytest.mark.parametrize("now, left", [
    (NOW, 3600), (NOW + 600, 3000), (NOW + 3600, 0), (NOW + 1e7, 0), (NOW - 1e7, 3600), (0, 3600)])
def test_how_long_it_is_disabled_yet(now: float, left: float) -> None:
    """The time between two runs counts; but a clock that was set back, or is not set yet, makes it no longer."""
    found = decode(changed(disabled_until={"a/b/c": NOW + 3600}), now)
    assert max(0.0, found.until["a/b/c"] - now) == left


def test_what_an_older_l4ipd_reads_of_a_newer_file() -> None:
    """It knows ``disabled`` alone, whose values are since when."""
    saved = Saved({"a/b/c": NOW}, users={"a/b/c": "alice"}, until={"a/b/c": NOW + 60})
    assert json.loads(encode(saved, NOW))["disabled"] == {"a/b/c": NOW}
    assert decode(encode(saved, NOW), NOW) == saved
    older = json.loads(encode(saved, NOW))
    del older["disabled_by"], older["disabled_until"]
    assert decode(json.dumps(older).encode(), NOW) == Saved({"a/b/c": NOW})


def test_since_when() -> None:
    assert SAVED.age("www/http/web1", NOW) == 100
    assert SAVED.age("www/http/web2", NOW) == 5
    assert SAVED.age("www/http/web1", NOW - 1000) == 0, "the clock was set back"


@pytest.mark.parametrize("when, known", [
    (-1e300, None), (-1, None), (0, 0), (NOW, NOW), (NOW + 0.06, NOW), (NOW + 3600, None), (1e300, None),
    (10**300, None)])
def test_a_time_is_from_0_to_now_or_not_known(when: float, known: float | None) -> None:
    found = decode(changed(disabled={"a/b/c": when}, endpoints={"a/b/c": [True, when]}), NOW)
    assert found.disabled == {"a/b/c": known} and found.states == {"a/b/c": (True, known)}
    assert found.age("a/b/c", NOW) == (0 if known is None else NOW - known)


def test_the_reason_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert load(str(tmp_path / "none")) == Saved() and not caplog.text
    (tmp_path / "file").write_text("{")
    assert load(str(tmp_path / "file")) == Saved()
    assert f"{tmp_path}/file: ignored, and kept as {tmp_path}/file.bad: it is damaged" in caplog.text
    assert load(str(tmp_path)) == Saved()
    assert f"{tmp_path}: ignored: Is a directory" in caplog.text
    os.mkfifo(tmp_path / "fifo")                    # which nobody writes to
    assert load(str(tmp_path / "fifo")) == Saved()
    assert f"{tmp_path}/fifo: ignored: is no regular file" in caplog.text


@pytest.mark.parametrize("written, words", [
    (NOW - 7200, "2 h old"), (NOW + 1, "from the future"), (1e300, "from the future"), (-1, "of no known age"),
    (-1e300, "of no known age")])
def test_the_age_of_a_state_is_told(written: float, words: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert decode(changed(written=written), NOW).states == {}
    assert f"state is {words}: since when endpoints are up or down is forgotten" in caplog.text
