"""l4ipctl: what it prints about a running l4ipd, how it fits a terminal, and what it says when it reaches none."""

from __future__ import annotations

import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.control import client, connection
from l4ipd.report.text import COLUMNS, ago, cell, table, wrap
from support import ROOT
from support.control_server import answering
from support.gateway import PATIENCE, wait
from support.operated_gateway import A, B, C, OperatedGateway
from support.sandbox_tools import sandbox

ROW_KEYS = {"endpoint", "address", "state", "up", "disabled", "rule", "sessions", "connections", "seconds", "code",
            "verdict", "milliseconds", "origin", "vips", "disabled_by", "disabled_since", "disabled_until"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatedGateway]:
    """One for all the tests here: none changes its state."""
    with sandbox() as kernel:
        it = OperatedGateway(kernel, tmp_path_factory.mktemp("node"))
        it.begin()
        yield it
        it.close()


def connections(node: OperatedGateway) -> int:
    return sum(row["connections"] or 0 for row in node.rows("show"))


def test_show(node: OperatedGateway) -> None:
    before = connections(node)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", node.port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(100)
    status, out, err = node.ctl("show")
    lines = out.splitlines()
    assert (status, err) == (1, "")
    assert lines[0].split() == ["ENDPOINT", "ADDRESS", "STATE", "RULE", "SESS", "SINCE", "LAST", "VERDICT"]
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["www/http/web1", f"{A}:{node.inside}", "up", "yes"], ["www/http/web2", f"{B}:{node.inside}", "up", "yes"],
        ["www/http/web3", f"{C}:{node.inside}", "down", "no"]]
    assert lines[3].endswith("L4CON connection refused")
    assert lines[4].startswith("2 of 3 endpoints up; rules: 2 wanted, 2 in the kernel; running since ")
    assert connections(node) == before + 3
    assert node.ctl("show", "web[12]")[0] == 0, "all shown are up"


def test_show_as_json(node: OperatedGateway) -> None:
    for words in (("--json", "show"), ("show", "--json")):
        status, out, _ = node.ctl(*words)
        rows = [json.loads(line) for line in out.splitlines()]
        assert status == 1 and len(rows) == 3 and all(set(row) == ROW_KEYS for row in rows)
    assert {name: rows[0][name] for name in ("endpoint", "state", "up", "disabled", "rule", "code")} == {
        "endpoint": "www/http/web1", "state": "up", "up": True, "disabled": False, "rule": "yes", "code": "L4OK"}
    assert isinstance(rows[0]["connections"], int)
    assert rows[2]["connections"] is None and rows[2]["verdict"] == "L4CON connection refused"


def test_the_signal_prints_what_show_prints(node: OperatedGateway) -> None:
    node.send(signal.SIGUSR1)
    node.wait_log("^2 of 3 endpoints up; rules: 2 wanted")
    shown = node.ctl("show")[1].splitlines()
    logged = node.text().splitlines()
    assert shown[0].split() == next(line for line in logged if line.startswith("ENDPOINT")).split()
    assert [line.split()[:4] for line in shown[1:4]] == [line.split()[:4] for line in logged   # sessions come and go
                                                         if line.startswith("www/") and " -> " not in line]


def test_unknown_patterns_on_the_command_line(node: OperatedGateway) -> None:
    for command in ("show", "disable", "enable", "check"):
        assert node.ctl(command, "wbe1") == (2, "", "l4ipctl: wbe1: no such endpoint; did you mean web1?\n")
        status, out, err = node.ctl(command, "web1", "wbe2", "[c")
        assert (status, out) == (2, ""), "nothing at all is done"
        assert err == "l4ipctl: [c: this bracket is never closed: a set of characters is written [abc]\n"
        assert node.ctl(command, "web1", "wbe2", "")[2] == (
            "l4ipctl: wbe2: no such endpoint; did you mean web2?\nl4ipctl: '': no such endpoint; see l4ipctl show\n")
    assert set(node.states().values()) == {"up", "down"}, "not even web1 was disabled"


def test_several_patterns(node: OperatedGateway) -> None:
    shown = [row["endpoint"] for row in node.rows("show", "web3", "web1", "web[1x]")]
    assert shown == ["www/http/web1", "www/http/web3"]
    assert {row["endpoint"] for row in node.rows("check", "web2", "web1")} == {"www/http/web1", "www/http/web2"}
    assert node.ctl("show", *(f"web{number}" for number in range(1, 4)))[0] == 1
    names = [f"no{number}" for number in range(2000)]
    status, _, err = node.ctl("show", *names)
    assert status == 2 and len(err.splitlines()) == 21 and err.endswith(
        "l4ipctl: and 1980 patterns more that no endpoint has\n")


def test_a_single_pattern_is_asked_for_as_1_0_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    heard: list[bytes] = []
    for words in (["show", "web1"], ["disable", "web1", "web2", "--now"], ["show"]):
        path = str(tmp_path / f"sock{len(heard)}")
        answering(path, b'{"end": true, "exit": 0}\n', heard=heard)
        assert client.main(["-s", path, *words]) == 0
    assert [json.loads(request) for request in heard] == [
        {"command": "show", "pattern": "web1"}, {"command": "disable", "pattern": ["web1", "web2"], "now": True},
        {"command": "show"}]


def test_check(node: OperatedGateway) -> None:
    status, out, err = node.ctl("check", "*")
    assert (status, err) == (1, "")
    lines = sorted(out.splitlines())
    assert lines[0].startswith(f"www/http/web1 {A}:{node.inside} L4OK connected (") and lines[0].endswith(" ms); up")
    assert lines[2].startswith(f"www/http/web3 {C}:{node.inside} L4CON connection refused (")
    assert node.ctl("check", "web1")[0] == 0
    row, = node.rows("check", "web2")
    assert set(row) == {"endpoint", "address", "state", "passed", "code", "verdict", "milliseconds"}
    assert row["passed"] is True and row["code"] == "L4OK"


def test_output_that_nobody_reads_to_the_end(node: OperatedGateway) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with node.popen("show", stdout=writer) as process:
        os.close(writer)
        assert process.communicate(timeout=PATIENCE)[1] == "" and process.returncode == 0


def test_rules(node: OperatedGateway) -> None:
    status, out, err = node.ctl("rules")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert [line.split(" -> ")[1].split()[0] for line in lines[:2]] == [A, B]
    assert all(line.startswith(f"  rdr lo0 127.0.0.1/32 port {node.port} -> ") for line in lines[:2])
    assert lines[2] == "rules: 2 wanted, 2 in the kernel; nothing differs"
    foreign = f"rdr lo0 127.0.0.1/32 port {node.port} -> 10.9.9.9 port 80 tcp"
    node.kernel.add(foreign)
    status, out, _ = node.ctl("rules")
    assert status == 1 and out.splitlines()[2].startswith(f"! rdr lo0 127.0.0.1/32 port {node.port} -> 10.9.9.9")
    assert "not ours, and takes every connection for itself: it meets rdr lo0" in out
    node.kernel.remove(foreign)
    row = node.rows("rules")[0]
    assert isinstance(row.pop("connections"), int)
    assert row == {
        "rule": f"rdr lo0 127.0.0.1/32 port {node.port} -> {A} port {node.inside} tcp round-robin tag l4ip",
        "state": "ok", "endpoint": "www/http/web1", "why": ""}


def test_no_socket(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert client.main(["-s", f"{tmp_path}/sock", "show"]) == 3
    out, err = capsys.readouterr()
    assert out == "" and f"l4ipctl: {tmp_path}/sock: there is no such socket: is l4ipd running?" in err


def test_what_is_no_socket_is_not_taken_for_a_dead_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "fifo")
    for name in ("file", "fifo", "."):
        assert client.main(["-s", f"{tmp_path}/{name}", "show"]) == 3
        assert capsys.readouterr().err == (f"l4ipctl: {tmp_path}/{name}: is no socket: name that of l4ipd, which its "
                                           "log has, with -s SOCKET\n")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(f"{tmp_path}/dead")
    assert client.main(["-s", f"{tmp_path}/dead", "show"]) == 3
    assert "nobody listens: l4ipd was killed or has crashed" in capsys.readouterr().err


@pytest.mark.parametrize("answer, words", [
    (b"", "hung up in the middle of its answer"), (b'{"text": "half"}\n', "hung up in the middle of its answer"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "this is no l4ipd"), (b"x" * 3_000_000, "this is no l4ipd"),
    (b'["end"]\n', "this is no l4ipd"), (b'{"end": true, "exit": 3, "error": ["crowded\x1b[31m"]}\n', "")])
def test_what_is_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes, words: str) -> None:
    path = str(tmp_path / "sock")
    answering(path, answer)
    assert client.main(["-s", path, "reload"]) == 3
    assert words in capsys.readouterr().err


def test_a_daemon_that_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection.lines, "__defaults__", (0.1, None))
    answering(str(tmp_path / "sock"), b"\n", hold=True)
    assert client.main(["-s", str(tmp_path / "sock"), "monitor"]) == 3
    assert "l4ipd says nothing for" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--json"], ["frobnicate"], ["disable"], ["reload", "a"], ["show", "--now"],
                                   ["-x"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        client.main(words)
    assert end.value.code == 2 and "usage: l4ipctl" in capsys.readouterr().err


def test_alone_it_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        client.main([])
    lines = capsys.readouterr().err.splitlines()
    for command in ("show", "disable", "enable", "check", "monitor", "reload", "rules", "sessions"):
        assert any(line.split()[:1] == [command] and len(line.split()) > 3 for line in lines), command


def test_it_starts_quickly() -> None:
    """By what it does not import."""
    code = "import sys, l4ipd.control.client; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert not {"yaml", "daemon", "ssl", "logging", "asyncio", "dataclasses", "l4ipd.daemon", "l4ipd.model"} & set(
        done.stdout.split())


def on_a_terminal(node: OperatedGateway, columns: int, **environment: str) -> str:
    import fcntl
    import struct
    import termios
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: text for name, text in node.environment().items() if name not in ("COLUMNS", "NO_COLOR")}
    with node.popen("show", stdout=follower, env={**kept, "L4IP_SOCKET": node.socket, "TERM": "xterm",
                                                  **environment}):
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
    return data.decode()


def test_colours_and_width(node: OperatedGateway) -> None:
    text = on_a_terminal(node, 200)
    assert "\x1b[32mup" in text and "\x1b[31mdown" in text
    assert "\x1b" not in on_a_terminal(node, 200, NO_COLOR="1")
    assert "\x1b" not in node.ctl("show")[1]
    wait("all is known", lambda: "NAT table: " in node.ctl("show")[1])
    whole = on_a_terminal(node, 300, NO_COLOR="1").splitlines()
    for columns in (100, 80, 60, 40, 20):
        lines = on_a_terminal(node, columns, NO_COLOR="1").splitlines()
        assert all(len(line) <= columns for line in lines), lines
        assert lines[1].split()[0] == "www/http/web3" and "down" in lines[1].split(), "the worst first"
        assert lines[2].split()[0] == "www/http/web1" and "up" in lines[3].split()
        assert " ".join(lines[4:]).split() == " ".join(whole[4:]).split(), "no word is broken, and none is missing"


ROW = {"endpoint": "www/http/web1", "address": "10.0.0.1:8080", "state": "disabled (up)", "rule": "yes",
       "connections": 12345, "seconds": 7200, "verdict": "L7STS 503 Service Unavailable (1 of 3 failed)"}


@pytest.mark.parametrize("width", range(1, 140))
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    rows = [ROW, {**ROW, "verdict": "x" * 300, "connections": None, "state": "up"}]
    lines = table(rows, width)
    assert all(len(line) <= width for line in lines)
    if width >= 18:
        assert any({"www/http/web1", "up"} <= set(line.split()) for line in lines)
        assert "disabled (up)" in "\n".join(lines)
        words = {word for row in rows for word in cell_words(row)} | set(" ".join(head for head, _ in COLUMNS).split())
        assert {word.rstrip("…") for line in lines for word in line.split() if "xx" not in word} <= words, "none broken"
    if width >= 80:
        assert "disabled (up)" in lines[1] and "L7STS 503" in lines[1] and len(lines) == 3


def cell_words(row: dict[str, object]) -> list[str]:
    return [word for key in row for word in cell(key, row[key]).split()]


@pytest.mark.parametrize("width, lines", [
    (60, ["www/http/web1  disabled (up)  yes   2h     L7STS 503…"]),
    (45, ["www/http/web1  disabled (up)  yes   L7STS…"]),
    (36, ["www/http/web1  disabled (up)  yes"]),
    (28, ["www/http/web1  disabled (up)"]),
    (27, ["www/http/web1", "  disabled (up)"]),
    (15, ["www/http/web1", "  disabled (up)"]),
    (12, ["www/http/", "  web1", "  disabled", "  (up)"]),
    (6, ["www/", "  htt…", "  web1", "  dis…", "  (up)"])])
def test_name_and_state_are_the_last_to_go(width: int, lines: list[str]) -> None:
    found = table([ROW], width)
    assert found[-len(lines):] == lines
    painted = table([ROW], width, lambda key, value, text: f"<{text}>" if key == "state" else text)
    assert [line.replace("<", "").replace(">", "").rstrip() for line in painted] == found


@given(st.lists(st.text("ab-", min_size=1, max_size=9)), st.integers(1, 60))
def test_lines_are_broken_between_words(words: list[str], width: int) -> None:
    lines = wrap(" ".join(words), width)
    assert " ".join(lines).split() == words
    assert all(len(line) <= width or len(line.split()) == 1 for line in lines)
    assert all(line.startswith("  ") for line in lines[1:])
    assert wrap(" ".join(words), 0) == [" ".join(words)]


def test_without_a_width_nothing_is_cut() -> None:
    lines = table([{**ROW, "verdict": "x" * 300}])
    assert lines[1].endswith("x" * 300) and all(heading in lines[0] for heading, _ in COLUMNS)
    assert table([])[0].split()[0] == "ENDPOINT"


def test_what_members_said_is_harmless() -> None:
    assert r"\x1b[2J\x0aboo" in table([{**ROW, "verdict": "\x1b[2J\nboo"}])[1]


@pytest.mark.parametrize("seconds, words", [(-1, "0s"), (0, "0s"), (1.4, "1s"), (119, "119s"), (120, "2m"),
                                            (7199, "119m"), (7200, "2h"), (172799, "47h"), (172800, "2d")])
def test_ago(seconds: float, words: str) -> None:
    assert ago(seconds) == words
