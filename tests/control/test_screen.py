"""A table of endpoints on a terminal: the worst first, what fits, no word broken; a real terminal, and a pipe."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.control.screen import WORST, fit, worst_first
from l4ipd.report.text import COLUMNS, WIDE, table
from support.control_server import answering

STATES = ("up", "down", "draining", "unknown", "held", "disabled (up)", "enabling (up)")


def row(name: str, state: str = "up", rule: str = "yes", **more: Any) -> dict[str, Any]:
    return {"endpoint": name, "address": "10.0.0.11:8080", "state": state, "up": state == "up", "disabled": False,
            "rule": rule, "sessions": 3, "connections": 17, "seconds": 90.0, "code": "L7OK",
            "verdict": "L7OK 200 and more", "milliseconds": 1.5, "origin": "",
            "vips": ["203.0.113.10:80", "203.0.113.11:80"], **more}


def rows(count: int, down: int, clusters: int = 4) -> list[dict[str, Any]]:
    """So many, of which so many are down, in the last clusters."""
    return [row(f"c{number * clusters // count}/http/web{number}", "down" if number >= count - down else "up")
            for number in range(count)]


def test_the_worst_first_and_equals_as_they_stand() -> None:
    given_rows = [row("a", "up"), row("b", "disabled (up)"), row("c", "down"), row("d", "draining"), row("e", "up"),
                  row("f", "down"), row("g", "unknown"), row("h", "up", "missing"), row("i", "held")]
    assert "".join(each["endpoint"] for each in worst_first(given_rows)) == "cfigdbhae"     # type: ignore[misc]
    assert {state.partition(" ")[0] for state in STATES} == set(WORST)


@pytest.mark.parametrize("count, down, expected_rows, first", [
    (3, 1, 3, None), (20, 0, 20, None), (21, 0, 0, "c0: 6 of 6 endpoints up"),
    (60, 0, 0, "c0: 15 of 15 endpoints up"), (60, 1, 1, "c3: 14 of 15 endpoints up"),
    (200, 3, 3, "c3: 47 of 50 endpoints up"), (200, 100, 14, "and 86 more that are not up: l4ipctl show --down | more"),
    (5000, 2500, 14, "and 2486 more that are not up: l4ipctl show --down | more")])
def test_what_fits_twenty_lines(count: int, down: int, expected_rows: int, first: str | None) -> None:
    shown = fit(rows(count, down), 20)
    assert len(shown.rows) == expected_rows and len(shown.rows) + len(shown.lines) <= 20
    assert first == (shown.lines[0] if shown.lines else None)
    if shown.lines:
        assert all(each["state"] == "down" for each in shown.rows)
        assert shown.lines[-1] == f"all {count} endpoints: l4ipctl show | more, or show with a pattern"


def test_of_many_clusters_those_that_lack_the_most_are_named() -> None:
    many = rows(5000, 60, 1000)
    shown = fit(many, 20)
    assert len(shown.rows) == 9 and len(shown.rows) + len(shown.lines) == 20
    assert shown.lines[1] == "c988: 0 of 5 endpoints up"
    assert shown.lines[-1].startswith("and 991 clusters more; all 5000 endpoints: ")
    assert fit(many, 0).rows == many, "no screen, no end"


@given(st.integers(0, 300), st.integers(0, 300), st.integers(1, 60), st.integers(8, 80))
def test_it_fits_whatever_there_is(count: int, down: int, clusters: int, height: int) -> None:
    it = rows(count, min(down, count), clusters) if count else []
    shown = fit(it, height)
    assert len(shown.rows) + len(shown.lines) <= height
    assert len(shown.rows) == count or len(shown.rows) <= down


@pytest.mark.parametrize("columns", [COLUMNS, WIDE], ids=["plain", "wide"])
@pytest.mark.parametrize("width", range(20, 201, 3))
def test_no_word_is_broken_at_any_width(columns: Any, width: int) -> None:
    it = [row("cluster/service/member1"), row("cluster/service/web2", "disabled (up)", "leaving", sessions=None,
          verdict="L7STS 503 Service Unavailable (1 of 3 failed)"),
          row("c/s/m", "enabling (up)", "missing", verdict="")]
    whole = {word for each in it for word in re.split(r"[ /]", " ".join(map(str, each.values())))} | {
        word for heading, _ in columns for word in heading.split()} | {
        "90s", "1.5", "ms", "-", "203.0.113.10:80", "203.0.113.11:80"}
    for line in table(it, width, columns=columns):
        assert len(line) <= width
        for word in re.split(r"[ /]", line):
            assert word.rstrip("…") in whole | {""}, (word, line)


def on_a_terminal(path: Path, answers: list[dict[str, Any]], *words: str, columns: int = 80, lines: int = 24,
                  **environment: str) -> str:
    """What l4ipctl prints there, which asks something that gives these answers."""
    answering(str(path), b"".join(json.dumps(each).encode() + b"\n" for each in answers))
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    kept = {name: text for name, text in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    with subprocess.Popen([sys.executable, "-m", "l4ipd.control.client", "-s", str(path), *words], stdout=follower,
                          stdin=subprocess.DEVNULL, env={**kept, "TERM": "xterm", **environment}):
        os.close(follower)
        data = b""
        while True:
            try:
                chunk = os.read(leader, 10000)
            except OSError:                         # how Linux says that nobody writes any more
                break
            if not chunk:
                break
            data += chunk
    os.close(leader)
    return data.decode().replace("\r\n", "\n")


END = {"end": True, "exit": 1, "summary": ["so many of so many endpoints up; and so on, in a line that is longer than "
                                           "the terminal is wide", "resets: ipmon alive"]}


@pytest.mark.parametrize("count", [3, 60, 200, 5000])
def test_show_fills_a_screen_and_no_more(tmp_path: Path, count: int) -> None:
    text = on_a_terminal(tmp_path / "sock", [*rows(count, 1), END], "show", NO_COLOR="1")
    lines = text.splitlines()
    assert "\x1b" not in text and all(len(line) <= 80 for line in lines) and len(lines) <= 23
    assert lines[0].startswith("ENDPOINT")
    assert f"web{count - 1} " in lines[1] and " down " in lines[1], "the worst first"
    assert lines[-1] == "resets: ipmon alive"
    if count > 20:
        assert f"c3: {count // 4 - 1} of {count // 4} endpoints up" in lines
    answering(str(tmp_path / "pipe"), b"".join(json.dumps(each).encode() + b"\n" for each in [*rows(count, 1), END]))
    piped = subprocess.run([sys.executable, "-m", "l4ipd.control.client", "-s", str(tmp_path / "pipe"), "show"],
                           capture_output=True, text=True, env={**os.environ, "COLUMNS": ""})
    assert [line.split()[0].rpartition("/web")[2] for line in piped.stdout.splitlines()[1:count + 1]] == [
        str(number) for number in range(count)], "all, in the order of the configuration"


def test_down_and_wide(tmp_path: Path) -> None:
    answers = [*rows(40, 2), END]
    text = on_a_terminal(tmp_path / "a", answers, "show", "--down", columns=200)
    assert "\x1b[31mdown" in text and "web0 " not in text and len(re.findall("^c", text, re.MULTILINE)) == 2
    text = on_a_terminal(tmp_path / "b", answers, "show", "--down", "--json")
    assert [json.loads(line)["endpoint"] for line in text.splitlines()] == ["c3/http/web38", "c3/http/web39"]
    text = on_a_terminal(tmp_path / "c", answers, "show", "--down", "--wide", columns=200, TERM="dumb")
    assert text.splitlines()[:2] == [
        "ENDPOINT       VIP                              ADDRESS         STATE  RULE  SESS  CONNS  SINCE  LATENCY  "
        "LAST VERDICT",
        "c3/http/web38  203.0.113.10:80 203.0.113.11:80  10.0.0.11:8080  down   yes   3     17     90s    1.5 ms   "
        "L7OK 200 and more"]


def test_monitor_colours_by_what_has_happened(tmp_path: Path) -> None:
    told = [{"time": "2026-11-28T10:00:00+0000", "event": kind, "name": "a", "text": f"a {kind}\x1b[2J"}
            for kind in ("up", "down", "disabled", "news")]
    text = on_a_terminal(tmp_path / "a", [*told, {"end": True, "exit": 0}], "monitor")
    assert text.splitlines() == [
        "2026-11-28 10:00:00 \x1b[32mup\x1b[0m a up\\x1b[2J", "2026-11-28 10:00:00 \x1b[31mdown\x1b[0m a down\\x1b[2J",
        "2026-11-28 10:00:00 \x1b[33mdisabled\x1b[0m a disabled\\x1b[2J", "2026-11-28 10:00:00 news a news\\x1b[2J"]
    assert "\x1b" not in on_a_terminal(tmp_path / "b", [*told, {"end": True, "exit": 0}], "monitor", NO_COLOR="1")
