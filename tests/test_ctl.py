"""l4ipctl against a running l4ipd on the sandbox: every command, its words, its exit statuses; and what survives."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gateway import PATIENCE, ROOT, Gateway, free_port, wait
from sandbox_tools import Sandbox, sandbox

from l4ipd import ctl
from l4ipd.commands import match
from l4ipd.control import Refusal
from l4ipd.table import COLUMNS, ago, table

A, B, C = "127.0.0.11", "127.0.0.12", "127.0.0.13"
ROW_KEYS = {"endpoint", "address", "state", "up", "disabled", "rule", "connections", "seconds", "code", "verdict",
            "milliseconds"}


@pytest.fixture(scope="module")
def kernel() -> Iterator[Sandbox]:
    with sandbox() as process:
        yield process


class Desk(Gateway):
    """A gateway with two members that are up, and one that is not; and l4ipctl to ask it."""

    def __init__(self, kernel: Sandbox, directory: Path) -> None:
        super().__init__(kernel, directory)
        self.port, self.inside = free_port(), free_port()
        self.one, self.two = self.web(A, self.inside), self.web(B, self.inside)
        self.setup()

    def setup(self, members: str = f"web1: {A}, web2: {B}, web3: {C}", top: str = "", more: str = "") -> None:
        self.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {self.port}, member_port: {self.inside}, "
                       f"check: tcp}}}}, members: {{{members}}}{more}}}", top=top)

    def begin(self) -> None:
        self.start()
        self.wait_targets(A, B)
        wait("all checked", lambda: all(row["code"] for row in self.rows("show")))

    @property
    def socket(self) -> str:
        return f"{self.directory}/l4ip.sock"

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        environment = {name: text for name, text in self.environment().items() if name not in ("COLUMNS", "NO_COLOR")}
        return subprocess.Popen([sys.executable, "-m", "l4ipd.ctl", *words], text=True, cwd=self.directory,
                                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL,
                                   "env": {**environment, "L4IP_SOCKET": self.socket}, **more})

    def ctl(self, *words: str) -> tuple[int, str, str]:
        with self.popen(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def rows(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self.ctl("--json", *words)[1].splitlines()]

    def states(self) -> dict[str, str]:
        return {row["endpoint"].rpartition("/")[2]: row["state"] for row in self.rows("show")}


@pytest.fixture
def desk(kernel: Sandbox, tmp_path: Path) -> Iterator[Desk]:
    kernel.ipnat("-FC")
    it = Desk(kernel, tmp_path)
    yield it
    it.close()


# -- show

def test_show(desk: Desk) -> None:
    desk.begin()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", desk.port)) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert client.recv(100)
    status, out, err = desk.ctl("show")
    lines = out.splitlines()
    assert (status, err) == (1, "")
    assert lines[0].split() == ["ENDPOINT", "ADDRESS", "STATE", "RULE", "CONNS", "SINCE", "LAST", "VERDICT"]
    assert [line.split()[:4] for line in lines[1:4]] == [
        ["www/http/web1", f"{A}:{desk.inside}", "up", "yes"], ["www/http/web2", f"{B}:{desk.inside}", "up", "yes"],
        ["www/http/web3", f"{C}:{desk.inside}", "down", "no"]]
    assert lines[3].endswith("L4CON connection refused")
    assert lines[4].startswith("2 of 3 endpoints up; rules: 2 wanted, 2 in the kernel; running since ")
    assert sum(row["connections"] or 0 for row in desk.rows("show")) == 3
    assert desk.ctl("show", "web[12]")[0] == 0, "all shown are up"


def test_show_as_json(desk: Desk) -> None:
    desk.begin()
    for words in (("--json", "show"), ("show", "--json")):
        status, out, _ = desk.ctl(*words)
        rows = [json.loads(line) for line in out.splitlines()]
        assert status == 1 and len(rows) == 3 and all(set(row) == ROW_KEYS for row in rows)
    assert {name: rows[0][name] for name in ("endpoint", "state", "up", "disabled", "rule", "connections", "code")} == {
        "endpoint": "www/http/web1", "state": "up", "up": True, "disabled": False, "rule": "yes", "connections": 0,
        "code": "L4OK"}
    assert rows[2]["connections"] is None and rows[2]["verdict"] == "L4CON connection refused"


def test_the_signal_prints_what_show_prints(desk: Desk) -> None:
    desk.begin()
    desk.send(signal.SIGUSR1)
    desk.wait_log("^2 of 3 endpoints up; rules: 2 wanted")
    shown = desk.ctl("show")[1].splitlines()
    logged = desk.text().splitlines()
    assert shown[0].split() == next(line for line in logged if line.startswith("ENDPOINT")).split()
    assert [line.split()[:5] for line in shown[1:4]] == [line.split()[:5] for line in logged
                                                         if line.startswith("www/") and " -> " not in line]


def test_show_when_ipnat_does_not_answer(desk: Desk) -> None:
    desk.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {desk.port}, member_port: {desk.inside}}}}}, "
                   f"members: {{web1: {A}}}}}", ipfilter="ipnat: /nonexistent/ipnat")
    desk.start()
    wait("checked", lambda: desk.states() == {"web1": "up"})
    status, out, err = desk.ctl("show")
    assert status == 0 and "no such program" in out.splitlines()[-1]
    assert out.splitlines()[1].split()[3:5] == ["unknown", "-"]
    assert "warning: no connections are shown: ipnat -lhR: /nonexistent/ipnat: no such program" in err
    assert desk.ctl("rules") == (1, "", "l4ipctl: ipnat -lhR: /nonexistent/ipnat: no such program\n")
    status, _, err = desk.ctl("disable", "web1")
    assert status == 1 and "their rules may still be in the kernel: " in err, "it is not known to be out"
    assert desk.states() == {"web1": "disabled (up)"}


@pytest.mark.parametrize("pattern, words", [
    ("wbe1", "did you mean web1"), ("www/htpp/web1", "did you mean www/http/web1"), ("www/htp/*", "no such endpoint"),
    ("WEB1", "no such endpoint"), ("x" * 3000, "no such endpoint; see l4ipctl show")])
def test_an_unknown_pattern(desk: Desk, pattern: str, words: str) -> None:
    names = ["www/http/web1", "www/http/web2", "mail/smtp/mail1"]
    with pytest.raises(Refusal, match="no such endpoint") as refusal:
        match(pattern, names)
    assert words in refusal.value.lines[0] and len(refusal.value.lines[0]) < 300 and refusal.value.exit == 2


@pytest.mark.parametrize("pattern, found", [
    ("*", "abc"), ("web1", "a"), ("www", "ab"), ("http", "ab"), ("web*", "ab"), ("www/*", "ab"), ("*/web2", "b"),
    ("www/http/web1", "a"), ("mail", "c"), ("[m]ail", "c"), ("*1", "ac"), ("w?b2", "b"), ("*/*/*", "abc")])
def test_patterns(pattern: str, found: str) -> None:
    names = {"www/http/web1": "a", "www/http/web2": "b", "mail/smtp/mail1": "c"}
    assert "".join(names[name] for name in match(pattern, list(names))) == found


def test_unknown_patterns_on_the_command_line(desk: Desk) -> None:
    desk.begin()
    for command in ("show", "disable", "enable", "check"):
        assert desk.ctl(command, "wbe1") == (2, "", "l4ipctl: wbe1: no such endpoint; did you mean web1?\n")


# -- disable and enable

def test_disable_and_enable(desk: Desk) -> None:
    desk.begin()
    assert desk.ctl("disable", "web1") == (0, "www/http/web1 disabled\n", "")
    assert desk.targets() == [B], "when the command is back, the rule is gone"
    assert desk.states() == {"web1": "disabled (up)", "web2": "up", "web3": "down"}
    assert desk.ctl("disable", "web1")[1] == "www/http/web1 was disabled already\n"
    desk.one.stop()
    wait("seen behind it", lambda: desk.states()["web1"] == "disabled (down)")
    assert desk.ctl("enable", "web1")[:2] == (0, "www/http/web1 enabled: to be checked, then added\n")
    assert desk.ctl("check", "web1")[0] == 1
    assert desk.targets() == [B], "it is down"
    desk.one.start()
    desk.wait_targets(A, B)
    assert desk.ctl("enable", "web1")[1] == "www/http/web1 was not disabled\n"
    assert desk.lines(f"^www/http/web1 {A}:{desk.inside} up -> disabled: by the operator, its sessions may finish; "
                      "1 of 3 up$")
    assert desk.lines(f"^www/http/web1 {A}:{desk.inside} disabled -> enabled: by the operator, to be checked first; ")


def test_enable_is_checked_first_although_it_was_up(desk: Desk) -> None:
    desk.begin()
    desk.ctl("disable", "web1")
    desk.ctl("enable", "web1")
    desk.wait_log(f"^www/http/web1 {A}:{desk.inside} enabled -> up: L4OK connected \\(.*\\); 2 of 3 up$")
    desk.wait_targets(A, B)


def test_the_last_member(desk: Desk) -> None:
    desk.begin()
    status, out, err = desk.ctl("disable", "*")
    assert (status, err) == (0, "l4ipctl: warning: www/http: no member is left\n")
    assert len(out.splitlines()) == 3 and desk.targets() == []
    assert len(desk.lines("^www/http: no member is up$")) == 1
    assert desk.rows("disable", "web1")[0] == {
        "endpoint": "www/http/web1", "address": f"{A}:{desk.inside}", "state": "disabled (up)", "changed": False,
        "text": "www/http/web1 was disabled already"}


def test_sessions_may_finish_or_are_cut(desk: Desk) -> None:
    desk.setup(members=f"web1: {A}, web2: {{address: {B}, fallback: yes}}")
    desk.start()
    desk.wait_targets(A)
    with socket.create_connection(("127.0.0.1", desk.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")       # the head of the request is not over
        desk.ctl("disable", "web1")
        desk.wait_targets(B)
        client.sendall(b"\r\n")
        assert A.encode() in client.recv(1000)
    desk.ctl("enable", "web1")
    desk.wait_targets(A)
    with socket.create_connection(("127.0.0.1", desk.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        session = f"[127.0.0.1 {client.getsockname()[1]}]"
        wait("the session", lambda: session in desk.kernel.ipnat("-l").stdout)
        assert desk.ctl("disable", "web1", "--now")[0] == 0
        assert session not in desk.kernel.ipnat("-l").stdout
    assert desk.lines("up -> disabled: by the operator, its sessions are cut off; ")
    status, out, err = desk.ctl("disable", "--now", "web1")
    assert status == 0 and "its rules were gone already" in err


def test_disabled_survives_reload_and_crash(desk: Desk) -> None:
    desk.begin()
    desk.ctl("disable", "web1")
    desk.setup(members=f"web1: {A}, web2: {B}, web3: {C}, web4: 127.0.0.14")
    assert desk.ctl("reload")[:2] == (0, "configuration reloaded: 4 endpoints: 1 new, 0 changed, 0 gone\n")
    assert desk.states()["web1"] == "disabled (up)"
    state = desk.directory / "state.json"
    wait("written", lambda: state.exists() and "www/http/web1" in json.loads(state.read_text())["disabled"])
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    desk.stop(signal.SIGKILL)
    assert os.path.exists(desk.socket), "left behind"
    desk.start()
    wait("up again", lambda: desk.states() == {"web1": "disabled (up)", "web2": "up", "web3": "down", "web4": "down"})
    assert desk.targets() == [B]
    assert desk.lines("^still disabled by the operator: www/http/web1$")
    desk.ctl("enable", "web1")
    desk.wait_targets(A, B)
    desk.stop()
    assert json.loads(state.read_text())["disabled"] == {}, "written at the end"


def test_adopted_rules_of_a_disabled_member_go(desk: Desk) -> None:
    desk.begin()
    desk.stop()
    (desk.directory / "state.json").write_text(json.dumps({
        "version": 1, "written": 1.0, "disabled": {"www/http/web1": 1.0, "gone/from/here": 1.0}, "endpoints": {},
        "rules": []}))
    desk.start()
    desk.wait_targets(B)
    desk.stop()
    assert list(json.loads((desk.directory / "state.json").read_text())["disabled"]) == ["www/http/web1"]


def test_since_when_survives(desk: Desk) -> None:
    desk.begin()
    desk.stop()
    path = desk.directory / "state.json"
    state = json.loads(path.read_text())
    assert {name.rpartition("/")[2]: up for name, (up, _) in state["endpoints"].items()} == {
        "web1": True, "web2": True, "web3": False}
    for entry in state["endpoints"].values():
        entry[1] -= 1000
    path.write_text(json.dumps(state))
    desk.kernel.ipnat("-r", "-f", "-", stdin=next(line for line in desk.rules() if B in line) + "\n")
    desk.start()
    wait("all checked", lambda: set(desk.states().values()) == {"up", "down"} and desk.targets() == [A, B])
    seconds = {row["endpoint"].rpartition("/")[2]: row["seconds"] for row in desk.rows("show")}
    assert seconds["web1"] > 900 and seconds["web3"] > 900, "adopted, or still down: since then"
    assert seconds["web2"] < 900, "the kernel says that it was not up"


def test_a_damaged_state_is_ignored(desk: Desk) -> None:
    (desk.directory / "state.json").write_text("{ damaged")
    desk.begin()
    assert desk.lines("state.json: ignored: it is damaged$")
    desk.stop()
    assert json.loads((desk.directory / "state.json").read_text())["version"] == 1


# -- check, monitor, reload, rules

def test_check(desk: Desk) -> None:
    desk.begin()
    status, out, err = desk.ctl("check", "*")
    assert (status, err) == (1, "")
    lines = sorted(out.splitlines())
    assert lines[0].startswith(f"www/http/web1 {A}:{desk.inside} L4OK connected (") and lines[0].endswith(" ms); up")
    assert lines[2].startswith(f"www/http/web3 {C}:{desk.inside} L4CON connection refused (")
    assert desk.ctl("check", "web1")[0] == 0
    row, = desk.rows("check", "web2")
    assert set(row) == {"endpoint", "address", "state", "passed", "code", "verdict", "milliseconds"}
    assert row["passed"] is True and row["code"] == "L4OK"


def test_check_waits_for_a_slow_member(desk: Desk) -> None:
    with socket.socket() as listener:
        listener.bind((A, 0))                       # bound, and its backlog is full: packets are dropped
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        desk.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {desk.port}, member_port: "
                       f"{listener.getsockname()[1]}}}}}, members: {{web1: {A}}}}}",
                       defaults="{interval: 1h, timeout: 300ms}")
        desk.start()
        wait("checked", lambda: desk.rows("show")[0]["code"] == "L4TOUT")
        status, out, _ = desk.ctl("check", "web1")
        assert status == 1 and "L4TOUT" in out
        for filler in fillers:
            filler.close()


class Listening:
    """`l4ipctl monitor` as a process, and the lines that it has printed."""

    def __init__(self, desk: Desk, *words: str) -> None:
        self.process = desk.popen("monitor", *words)
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def end(self) -> tuple[int, str]:
        """Its exit status and what it said on standard error."""
        status = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        with self.process:
            assert self.process.stderr is not None
            return status, self.process.stderr.read()


def stir(desk: Desk) -> None:
    desk.ctl("disable", "web1")
    desk.ctl("enable", "web1")


def stirred(desk: Desk, *listening: Listening) -> bool:
    """Make events until everybody has heard of some."""
    stir(desk)
    return all(len(it.lines) > 2 for it in listening)


def test_monitor(desk: Desk) -> None:
    desk.begin()
    text, lines = Listening(desk), Listening(desk, "--json")
    wait("events", lambda: stirred(desk, text, lines))
    desk.stop()
    assert text.end() == lines.end() == (3, "l4ipctl: l4ipd is stopping\n")
    events = [json.loads(line) for line in lines.lines]
    assert all(set(event) == {"time", "event", "name", "text"} for event in events)
    assert {"disabled", "enabled"} <= {event["event"] for event in events}
    words = [line.split() for line in text.lines]
    assert any(word[2:4] == ["disabled", "www/http/web1"] for word in words)
    assert all(len(word[0]) == 10 and len(word[1]) == 8 for word in words), "date and time"


def test_monitor_ends_quietly(desk: Desk) -> None:
    desk.begin()
    listening = Listening(desk)
    wait("events", lambda: stirred(desk, listening))
    listening.process.send_signal(signal.SIGINT)
    assert listening.end() == (0, "")
    reader, writer = os.pipe()
    os.close(reader)
    with desk.popen("monitor", stdout=writer) as process:
        os.close(writer)
        wait("it noticed", lambda: (stir(desk), process.poll() is not None)[1])     # type: ignore[func-returns-value]
        assert process.communicate()[1] == "" and process.returncode == 0


def test_output_that_nobody_reads_to_the_end(desk: Desk) -> None:
    desk.begin()
    reader, writer = os.pipe()
    os.close(reader)
    with desk.popen("show", stdout=writer) as process:
        os.close(writer)
        assert process.communicate(timeout=PATIENCE)[1] == "" and process.returncode == 0


def test_reload(desk: Desk) -> None:
    desk.begin()
    desk.setup(members=f"web1: {A}, web3: {C}, web4: {B}")
    assert desk.ctl("reload") == (0, "configuration reloaded: 3 endpoints: 1 new, 0 changed, 1 gone\n", "")
    good = desk.config.read_text()
    desk.config.write_text(good + "wrong: yes\nfalse: no\n")
    status, out, err = desk.ctl("reload")
    lines = err.splitlines()
    assert (status, out) == (1, "") and len(lines) == 3
    assert all(line.startswith(f"l4ipctl: {desk.config}:") for line in lines[:2])
    assert lines[2] == "l4ipctl: the configuration was not reloaded: the old one goes on"
    assert list(desk.states()) == ["web1", "web3", "web4"]
    desk.config.unlink()
    assert "No such file" in desk.ctl("reload")[2]


def test_reload_moves_the_socket(desk: Desk) -> None:
    desk.begin()
    text = desk.config.read_text()
    desk.config.write_text(text.replace("/l4ip.sock", "/other.sock"))
    status, out, err = desk.ctl("reload")
    assert status == 0, "who asked is still answered"
    assert desk.ctl("show")[0] == 3 and desk.ctl("-s", f"{desk.directory}/other.sock", "show")[0] == 1
    desk.config.write_text(text.replace("/l4ip.sock", "/l4ip.conf"))      # a file is in the way
    assert desk.ctl("-s", f"{desk.directory}/other.sock", "reload")[0] == 0
    desk.wait_log("control socket: .*l4ip.conf: is there, and is no socket")
    assert desk.ctl("-s", f"{desk.directory}/other.sock", "show")[0] == 1, "the old one stays"


def test_a_socket_that_somebody_removed_comes_back(desk: Desk) -> None:
    desk.begin()
    os.unlink(desk.socket)
    desk.send(signal.SIGHUP)
    wait("the socket", lambda: desk.ctl("show")[0] == 1)


def test_rules(desk: Desk) -> None:
    desk.begin()
    status, out, err = desk.ctl("rules")
    lines = out.splitlines()
    assert (status, err) == (0, "")
    assert [line.split(" -> ")[1].split()[0] for line in lines[:2]] == [A, B]
    assert all(line.startswith(f"  rdr lo0 127.0.0.1/32 port {desk.port} -> ") for line in lines[:2])
    assert lines[2] == "rules: 2 wanted, 2 in the kernel; nothing differs"
    desk.kernel.add(f"rdr lo0 127.0.0.1/32 port {desk.port} -> 10.9.9.9 port 80 tcp")
    status, out, _ = desk.ctl("rules")
    assert status == 1 and out.splitlines()[2].startswith(f"! rdr lo0 127.0.0.1/32 port {desk.port} -> 10.9.9.9")
    assert "not ours, and takes every connection for itself: it meets rdr lo0" in out
    assert desk.rows("rules")[0] == {
        "rule": f"rdr lo0 127.0.0.1/32 port {desk.port} -> {A} port {desk.inside} tcp round-robin tag l4ip",
        "state": "ok", "endpoint": "www/http/web1", "connections": 0, "why": ""}


def test_rules_that_differ(desk: Desk) -> None:
    desk.begin()
    text = desk.config.read_text()
    desk.config.write_text(text.replace("resync: 300ms", "resync: 1h"))
    desk.ctl("reload")
    wait("settled", lambda: desk.ctl("rules")[0] == 0)
    line = next(line for line in desk.rules() if A in line)
    extra = line.replace(A, "10.8.8.8")
    desk.kernel.ipnat("-r", "-f", "-", stdin=line + "\n")
    desk.kernel.add(extra)
    status, out, _ = desk.ctl("rules")
    assert status == 1
    assert f"+ {line}    # missing: about to be loaded" in out.splitlines()
    assert f"- {extra}    # leaving: about to be removed" in out.splitlines()
    assert "2 differ" in out.splitlines()[-1]
    assert desk.rows("show")[0]["rule"] == "missing", "the kernel's truth"


# -- the daemon cannot be reached

def test_no_socket(desk: Desk) -> None:
    status, out, err = desk.ctl("show")
    assert (status, out) == (3, "") and f"{desk.socket}: there is no such socket: is l4ipd running?" in err


def test_nobody_listens(desk: Desk) -> None:
    desk.begin()
    assert stat.S_IMODE(os.stat(desk.socket).st_mode) == 0o600
    assert desk.lines(f"^control socket: {desk.socket} \\(l4ipctl -s {desk.socket}\\)$")
    desk.stop(signal.SIGKILL)
    status, _, err = desk.ctl("show")
    assert status == 3 and "nobody listens: l4ipd was killed or has crashed" in err
    desk.start()
    wait("reachable", lambda: desk.ctl("show", "web1")[0] == 0)
    desk.stop()
    assert not os.path.exists(desk.socket)


def answering(path: str, answer: bytes, hold: bool = False) -> threading.Thread:
    """Something at ``path`` that answers one client with ``answer``."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        with listener, listener.accept()[0] as client:
            client.recv(1000)
            with contextlib.suppress(BrokenPipeError):
                client.sendall(answer)
            if hold:
                client.recv(1000)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("answer, words", [
    (b"", "hung up in the middle of its answer"), (b'{"text": "half"}\n', "hung up in the middle of its answer"),
    (b"SSH-2.0-OpenSSH_9.6\r\n", "this is no l4ipd"), (b"x" * 3_000_000, "this is no l4ipd"),
    (b'["end"]\n', "this is no l4ipd"), (b'{"end": true, "exit": 3, "error": ["crowded\x1b[31m"]}\n', "")])
def test_what_is_no_daemon(tmp_path: Path, capsys: pytest.CaptureFixture[str], answer: bytes, words: str) -> None:
    path = str(tmp_path / "sock")
    answering(path, answer)
    assert ctl.main(["-s", path, "reload"]) == 3
    assert words in capsys.readouterr().err


def test_a_daemon_that_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctl, "SILENCE", 0.1)
    answering(str(tmp_path / "sock"), b"\n", hold=True)
    assert ctl.main(["-s", str(tmp_path / "sock"), "monitor"]) == 3
    assert "l4ipd says nothing for" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["frobnicate"], ["disable"], ["show", "a", "b"], ["show", "--now"], ["-x"]])
def test_usage(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        ctl.main(words)
    assert end.value.code == 2 and "usage: l4ipctl" in capsys.readouterr().err


def test_it_starts_quickly() -> None:
    """By what it does not import."""
    done = subprocess.run([sys.executable, "-c", "import sys, l4ipd.ctl; print(*sys.modules)"], capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    assert not {"yaml", "daemon", "ssl", "logging", "asyncio", "dataclasses", "l4ipd.daemon", "l4ipd.model"} & set(
        done.stdout.split())


# -- on a terminal

def on_a_terminal(desk: Desk, columns: int, **environment: str) -> str:
    import fcntl
    import struct
    import termios
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: text for name, text in desk.environment().items() if name not in ("COLUMNS", "NO_COLOR")}
    with desk.popen("show", stdout=follower, env={**kept, "L4IP_SOCKET": desk.socket, "TERM": "xterm",
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


def test_colours_and_width(desk: Desk) -> None:
    desk.begin()
    text = on_a_terminal(desk, 200)
    assert "\x1b[32mup" in text and "\x1b[31mdown" in text
    assert "\x1b" not in on_a_terminal(desk, 200, NO_COLOR="1")
    assert "\x1b" not in desk.ctl("show")[1]
    for columns in (100, 80, 60, 40):
        lines = on_a_terminal(desk, columns, NO_COLOR="1").splitlines()[:4]
        assert all(len(line) <= columns for line in lines), lines
        assert "up" in lines[1].split() and "down" in lines[3].split()


ROW = {"endpoint": "www/http/web1", "address": "10.0.0.1:8080", "state": "disabled (up)", "rule": "yes",
       "connections": 12345, "seconds": 7200, "verdict": "L7STS 503 Service Unavailable (1 of 3 failed)"}


@pytest.mark.parametrize("width", range(1, 140))
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    lines = table([ROW, {**ROW, "verdict": "x" * 300, "connections": None}], width)
    assert len(lines) == 3 and all(len(line) <= width for line in lines)
    if width >= 50:
        assert all(line.startswith("www/http/web1 ") for line in lines[1:])
    if width >= 80:
        assert "disabled (up)" in lines[1] and "L7STS 503" in lines[1]


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
