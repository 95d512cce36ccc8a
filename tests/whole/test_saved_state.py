"""What one run leaves to the next: what is written and read back, what is ignored, and why."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd import saved_state
from l4ipd.model import Member
from l4ipd.saved_state import LONGEST_USER, OLD, SLACK, Hold, Saved, decode, encode, load
from l4ipd.state_saver import snapshot
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon, configuration

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
    assert f"{tmp_path}: ignored: Is a directory" in caplog.messages
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


# -- every key

WHOLE = Saved(
    {"a/b/c": NOW - 10, "a/b/d": None}, {"a/b/c": (True, NOW - 100), "a/b/d": (False, None), "a/b/e": (False, NOW)},
    frozenset({"rdr one", "rdr two"}), frozenset({"log", "count6"}), frozenset({0, 2**32 - 1}), frozenset({"count in"}),
    {"": NOW - 7, "www": None}, {"www": True, "mail": False}, frozenset({"a/b/d"}), frozenset({"a/b/c"}),
    {"dns": (Member("m", "10.0.0.1"), Member("n", "fd00::1", 0, True, 65535), Member("o", "10.0.0.3", 99, False, 1))},
    {"a/b/c": "alice"}, {"a/b/c": NOW + 3600.0}, {"a/b/h": Hold(2, NOW + 30.0, True)}, frozenset({"l4ip", "gw2"}))


def test_all_of_it_is_written_and_read_back() -> None:
    assert decode(encode(WHOLE, NOW), NOW) == WHOLE
    assert encode(WHOLE, NOW).endswith(b"}\n")


def test_what_is_not_known_stays_so_and_spoils_nothing() -> None:
    """A run that ends before it has looked at what it was left writes that again, and its clock may have been wrong."""
    early = decode(encode(WHOLE, NOW), NOW - 1000)
    assert early.disabled == {"a/b/c": None, "a/b/d": None} and early.left == {"": None, "www": None}
    assert decode(encode(early, NOW - 1000), NOW) == early


def test_a_file_of_the_first_version_has_less() -> None:
    data = json.loads(encode(WHOLE, NOW))
    first = {key: data[key] for key in ("version", "written", "disabled", "endpoints", "rules")}
    assert decode(json.dumps(first).encode(), NOW) == Saved(WHOLE.disabled, WHOLE.states, WHOLE.rules)
    assert decode(json.dumps({**first, "filters": {}}).encode(), NOW).tables == frozenset()
    for key in set(first) - {"version"}:
        with pytest.raises(ValueError, match="^it is damaged$"):
            decode(json.dumps({name: data[name] for name in first if name != key}).encode(), NOW)


def test_what_is_seen_of_an_endpoint() -> None:
    assert [WHOLE.seen(f"a/b/{name}") for name in "cde"] == ["up", "draining", "down"]
    held = replace(WHOLE, held={"a/b/c": Hold(2, NOW + 30.0, True), "a/b/d": Hold(2, NOW - 30.0, False)})
    assert [held.seen(f"a/b/{name}") for name in "cde"] == ["held", "draining", "down"]
    assert [WHOLE.age(f"a/b/{name}", NOW) for name in "cde"] == [100.0, 0.0, 0.0]


def test_a_long_name_of_a_user_is_cut() -> None:
    assert decode(changed(disabled_by={"a/b/c": "x" * 1000}), NOW).users == {"a/b/c": "x" * LONGEST_USER}


@pytest.mark.parametrize(("when", "now", "until"), [
    (NOW + 60, NOW + 10, NOW + 60), (NOW + 60, NOW + 90, NOW + 60),
    (NOW + 60, NOW - 500, NOW - 440),               # the clock was set back: no longer than it was
    (NOW - 60, NOW - 500, NOW - 500), (NOW - 60, NOW + 1, NOW - 60)])
def test_until_when(when: float, now: float, until: float) -> None:
    assert decode(changed(disabled_until={"a/b/c": when}), now).until == {"a/b/c": until}


@pytest.mark.parametrize("member", [
    ["m", "10.0.0.1", 100, False, None], ["m", "10.0.0.1", -1, False, None], ["m", "10.0.0.1", True, False, None],
    ["m", "10.0.0.1", 1.0, False, None], ["m", "10.0.0.1", 1, False, 0], ["m", "10.0.0.1", 1, False, 65536],
    ["m", "10.0.0.1", 1, False, "80"], ["m", "10.0.0.1", 1, False, True], ["m", "here", 1, False, None],
    ["m n", "10.0.0.1", 1, False, None], ["m", "10.0.0.1", 1, False], ["m", "10.0.0.1", 1, False, None, 1]], ids=str)
def test_a_member_that_is_none_spoils_it(member: list[object]) -> None:
    with pytest.raises(ValueError, match="^it is damaged$"):
        decode(changed(discovered={"dns": [member]}), NOW)


@pytest.mark.parametrize(("count", "good"), [
    (0, True), (1 << 20, True), ((1 << 20) + 1, False), (-1, False), (1.0, False), (True, False), ("1", False)])
def test_how_often_it_was_held(count: object, good: bool) -> None:
    """Never: it has flapped, and not enough yet."""
    text = changed(held={"a/b/c": [count, NOW + 30.0, True]})
    if good:
        assert decode(text, NOW).held == {"a/b/c": Hold(int(str(count)), NOW + 30.0, True)}
    else:
        with pytest.raises(ValueError, match="^it is damaged$"):
            decode(text, NOW)


@pytest.mark.parametrize("more, names", [
    ({"draining": 3}, "draining"), ({"cut": 3}, "cut"), ({"left": {"www": "x"}}, "left"), ({"ready": 3}, "ready"),
    ({"rdr_tags": 3}, "rdr_tags"), ({"held": {"a": 3}}, "held"), ({"held": {"a": [1, "x", True]}}, "held"),
    ({"disabled_by": 3}, "users"), ({"disabled_until": {"a": "x"}}, "until"),
    ({"disabled_until": {"a": float("inf")}}, "until"), ({"filters": {"counts": 3}}, "counts"),
    ({"filters": {"tables": 3}}, "tables"), ({"disabled": {"a": float("inf")}}, "disabled")])
def test_damage_in_any_key(more: dict[str, object], names: str) -> None:
    with pytest.raises(ValueError, match="^it is damaged$"):
        decode(changed(**more), NOW)


# -- to the second, and word for word

def test_a_time_that_is_a_little_in_the_future_is_now() -> None:
    for ahead, known in ((SLACK, NOW), (SLACK + 0.01, None)):
        assert decode(changed(disabled={"a/b/c": NOW + ahead}), NOW).disabled == {"a/b/c": known}


@pytest.mark.parametrize(("disabled", "end"), [({}, ""), ({"a/b/c": NOW},
                                                          "; what the operator disabled stays disabled")])
@pytest.mark.parametrize(("age", "words"), [(OLD, ""), (OLD + 1, "1 h old"), (3 * OLD, "3 h old"),
                                            (-1.0, "from the future")])
def test_the_line_about_its_age(age: float, words: str, disabled: dict[str, float], end: str,
                                caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = decode(changed(disabled=disabled, ready={"www": True}), NOW + age, "here")
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [f"here is {words}: since when endpoints are up or down is forgotten{end}"][:bool(words)]
    assert bool(found.states) == bool(found.ready) == (not words), "who may have been told otherwise since"


def test_one_that_was_never_written(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    assert not decode(changed(written=-1.0), NOW).states
    assert "state is of no known age: " in caplog.text
    caplog.clear()
    assert not decode(changed(written=0), NOW).states
    assert f"state is {NOW / 3600:.0f} h old: " in caplog.text


def test_words_about_what_is_no_state() -> None:
    for text, words in ((b"{", "it is damaged"), (b"[]", "it is not a state file of l4ipd"),
                        (b"{}", "it is not a state file of l4ipd"),
                        (changed(version="y" * 50), f"it is of version {'y' * 20}, and this l4ipd writes version 1"),
                        (b" " * (saved_state.SIZE_LIMIT + 1), "it is larger than 64 MB")):
        with pytest.raises(ValueError) as error:
            decode(text, NOW)
        assert str(error.value) == words
    full = changed().ljust(saved_state.SIZE_LIMIT)
    assert decode(full, NOW) == SAVED, "that is as large as it may be"


def test_a_file_is_read_at_the_time_of_day_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    path = tmp_path / "state"
    path.write_bytes(encode(Saved(states={"a/b/c": (True, 5.0)}), time.time()))
    assert load(str(path)).states == {"a/b/c": (True, 5.0)} and not caplog.records
    assert load(str(path), time.time() + 2 * OLD).states == {}
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} is 2 h old: since when endpoints are up or down is forgotten"]


def test_the_lines_about_one_that_is_of_no_use(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "state"
    path.write_text("{")
    load(str(path))
    assert [record.getMessage() for record in caplog.records] == [
        f"{path}: ignored, and kept as {path}.bad: it is damaged: nothing is disabled any more"]
    assert (tmp_path / "state.bad").read_text() == "{" and not path.exists()
    caplog.clear()
    path.write_text("{")
    (tmp_path / "state.bad").unlink()
    (tmp_path / "state.bad").mkdir()
    assert load(str(path)) == Saved() and path.read_text() == "{"
    assert [record.getMessage() for record in caplog.records] == [f"{path}: ignored: it is damaged"]


def test_what_nobody_was_told_of_yet_is_not_saved(tmp_path: Path) -> None:
    """While the kernel's table was not read, events wait; the next run has to tell of what has happened."""
    it = ScriptedDaemon(tmp_path, configuration(tmp_path), {"c/s/m1": (True, None)})
    transitions = it.daemon.fleet.transitions
    transitions.waits = True
    it.probe(BAD, 2)
    assert snapshot(it.daemon).states["c/s/m1"][0], "as the run before has said"
    transitions.begin()
    assert not snapshot(it.daemon).states["c/s/m1"][0]
    it.end()


def test_that_the_last_one_is_down_is_told_before_it_is_saved(tmp_path: Path) -> None:
    it = ScriptedDaemon(tmp_path, configuration(tmp_path))
    it.probe(GOOD, 2)
    it.verdict = BAD
    for _ in range(2):
        it.daemon.fleet.monitors["c/s/m1"].checker.probe_anew()
    assert ("down", "c/s/m1") in it.events and ("all-down", "c/s") not in it.events, "that is for the next turn"
    snapshot(it.daemon)
    assert it.events.count(("all-down", "c/s")) == 1
    it.end()


@pytest.mark.parametrize(("states", "empty"), [
    ({"m1": False, "idle": True}, True),            # what has no weight never gets anything, be it up
    ({"m1": False, "idle": False}, True), ({"m1": True, "idle": False}, False), ({"idle": True}, False), ({}, False)])
def test_a_service_that_had_nobody_up(tmp_path: Path, states: dict[str, bool], empty: bool) -> None:
    for members, found in (("m1: 10.0.0.2, idle: {address: 10.0.0.3, weight: 0}", empty),
                           ("m1: {address: 10.0.0.2, weight: 0}, idle: {address: 10.0.0.3, weight: 0}",
                            False in states.values())):
        it = ScriptedDaemon(tmp_path, configuration(tmp_path, members),
                            {f"c/s/{name}": (up, None) for name, up in states.items()})
        assert ("c/s" in it.daemon.fleet.transitions.empty_before) is found
        it.end()
