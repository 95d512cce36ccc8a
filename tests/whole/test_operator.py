"""The operator's commands against a running l4ipd on the sandbox: what they change, and what survives."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import stat
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.control.disable import NOW_OR_NEVER
from l4ipd.sandbox import tool_words
from support.desk import A, B, C, Desk
from support.gateway import PATIENCE, free_port, wait
from support.sandbox_tools import Sandbox


@pytest.fixture
def desk(kernel: Sandbox, tmp_path: Path) -> Iterator[Desk]:
    kernel.ipnat("-FC")
    it = Desk(kernel, tmp_path)
    yield it
    it.close()


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


def test_disable_and_enable(desk: Desk) -> None:
    desk.begin()
    assert desk.ctl("disable", "web1") == (0, f"www/http/web1 disabled\n{NOW_OR_NEVER}\n", "")
    assert desk.targets() == [B], "when the command is back, the rule is gone"
    assert desk.states() == {"web1": "disabled (up)", "web2": "up", "web3": "down"}
    assert desk.ctl("disable", "web1")[1] == "www/http/web1 was disabled already\n"
    assert desk.ctl("disable", "web1", "--now") == (
        0, "www/http/web1 was disabled already\n",
        "l4ipctl: warning: www/http/web1: its rules were gone already; no session of them is left\n")
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
    assert len(out.splitlines()) == 4 and out.endswith(f"{NOW_OR_NEVER}\n") and desk.targets() == []
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
        assert A.encode() in client.makefile("rb").read()
    desk.ctl("enable", "web1")
    desk.wait_targets(A)
    with socket.create_connection(("127.0.0.1", desk.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        session = f"[127.0.0.1 {client.getsockname()[1]}]"
        wait("the session", lambda: session in desk.kernel.ipnat("-l").stdout)
        assert desk.ctl("disable", "web1", "--now")[0] == 0
        assert session not in desk.kernel.ipnat("-l").stdout
    assert desk.lines("up -> disabled: by the operator, its sessions are cut off; ")


def test_now_is_for_now_or_never(desk: Desk) -> None:
    """IPFilter can end sessions only together with their rule, which who types this cannot know."""
    desk.setup(members=f"web1: {{address: {A}, weight: 2}}, web2: {{address: {B}, fallback: yes}}")
    desk.start()
    desk.wait_targets(A, A)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", desk.port), timeout=PATIENCE))
                   for _ in range(3)]
        sessions = [f"[127.0.0.1 {client.getsockname()[1]}]" for client in clients]
        wait("the sessions", lambda: all(session in desk.kernel.ipnat("-l").stdout for session in sessions))
        status, out, err = desk.ctl("disable", "web1")
        assert (status, out, err) == (0, f"www/http/web1 disabled\n{NOW_OR_NEVER}\n", "")
        assert "--now is for now or never" in out
        assert desk.ctl("disable", "web1")[1:] == ("www/http/web1 was disabled already\n", ""), "told once"
        assert desk.ctl("disable", "web1", "--now") == (
            0, "www/http/web1 was disabled already\n",
            "l4ipctl: warning: www/http/web1: its rules were gone already; sessions of them that are left: 3; IPFilter "
            "ends sessions only together with their rules: stop the service on the member: its RSTs end them\n")
        desk.ctl("enable", "web1")                  # no way around it: these are other rules, with the same words
        desk.wait_targets(A, A)
        assert "sessions of them that are left: 3; " in desk.ctl("disable", "web1", "--now")[2]


def test_sessions_that_cannot_be_counted(desk: Desk) -> None:
    words = " ".join(tool_words(desk.kernel.path)["ipnat"])
    script = desk.directory / "ipnat"
    script.write_text(f'#!/bin/sh\n[ "$*" != -l ] || [ ! -e {script}.broken ] || {{ echo broken >&2; exit 1; }}\n'
                      f'exec {words} "$@"\n')
    script.chmod(0o700)
    text = re.sub(r"(?m)^  ipnat: .*$", f"  ipnat: {script}", desk.config.read_text())
    desk.config.write_text(text.replace("300ms", "1h"))
    desk.begin()
    desk.ctl("disable", "web1")
    (desk.directory / "ipnat.broken").touch()
    assert desk.ctl("disable", "web1", "--now") == (
        0, "www/http/web1 was disabled already\n",
        "l4ipctl: warning: www/http/web1: its rules were gone already; whether sessions of them are left is not known: "
        "ipnat -l: broken\n")


def test_disabled_survives_reload_and_crash(desk: Desk) -> None:
    desk.begin()
    desk.ctl("disable", "web1")
    desk.setup(members=f"web1: {A}, web2: {B}, web3: {C}, web4: 127.0.0.14")
    assert desk.ctl("reload")[:2] == (0, "configuration reloaded: 4 endpoints: 1 new, 0 changed, 0 gone\n")
    assert desk.states()["web1"] == "disabled (up)"
    state = desk.directory / "state.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    desk.ctl("disable", "web3")
    desk.ctl("enable", "web3")
    desk.stop(signal.SIGKILL)                       # what l4ipctl has confirmed is on the disk
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


def test_without_tags_the_state_knows_our_rules(desk: Desk) -> None:
    def configure(members: str) -> None:
        desk.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {desk.port}, member_port: "
                       f"{desk.inside}}}}}, members: {{{members}}}}}", ipfilter="tag: no")

    def targets() -> list[str]:
        listed = desk.kernel.ipnat("-l").rules
        return sorted(line.split(" -> ")[1].partition("/")[0] for line in listed)

    desk.kernel.add("rdr lo0 203.0.113.1/32 port 25 -> 10.0.0.7 port 25 tcp round-robin")
    configure(f"web1: {A}, web2: {B}")
    desk.start()
    wait("rules", lambda: targets() == ["10.0.0.7", A, B])
    desk.stop()
    configure(f"web1: {A}")
    desk.start()
    wait("the rule of a member that is gone is gone, and no other", lambda: targets() == ["10.0.0.7", A])


def test_a_rehearsal_has_a_socket_of_its_own(desk: Desk) -> None:
    desk.setup()
    desk.config.write_text("\n".join(line for line in desk.config.read_text().splitlines()
                                     if not line.startswith(("control:", "state:", "  ip"))))
    desk.start("--sandbox")
    desk.wait_log(r"^control socket: (\S+) \(l4ipctl -s \1\)$")
    path = desk.lines("^control socket: ")[0].split()[2]
    assert not path.startswith(str(desk.directory))
    wait("up", lambda: desk.ctl("-s", path, "show", "web[12]")[0] == 0)
    desk.stop()
    assert not os.path.exists(os.path.dirname(path)), "nothing is left"


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
    assert desk.lines("state.json: ignored, and kept as .*/state.json.bad: it is damaged: nothing is disabled any more")
    assert (desk.directory / "state.json.bad").read_text() == "{ damaged"
    desk.stop()
    assert json.loads((desk.directory / "state.json").read_text())["version"] == 1


def test_a_disable_that_cannot_be_saved_says_so(desk: Desk) -> None:
    text = desk.config.read_text()
    desk.config.write_text(text.replace(f"state: {desk.directory}/state.json", "state: /proc/nowhere/state.json"))
    desk.begin()
    status, out, err = desk.ctl("disable", "web1")
    assert (status, out) == (1, f"www/http/web1 disabled\n{NOW_OR_NEVER}\n")
    assert "warning: this would not survive a restart: /proc/nowhere/state.json: " in err
    assert desk.targets() == [B]
    assert desk.ctl("enable", "web1")[0] == 1


def test_a_service_is_a_pattern(desk: Desk) -> None:
    desk.begin()
    assert [row["endpoint"] for row in desk.rows("show", "www/http")] == [
        "www/http/web1", "www/http/web2", "www/http/web3"]
    assert "no such endpoint; did you mean www/http?" in desk.ctl("show", "www/htp")[2]


def test_new_names_for_what_is_there_cut_nothing(desk: Desk) -> None:
    """Cluster, service and members by other names: the rules read the same, and so do the sessions."""
    desk.begin()
    text = desk.config.read_text()
    with socket.create_connection(("127.0.0.1", desk.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")       # the head of the request is not over
        rules = desk.kernel.ipnat("-l").rules
        for old, new in (("www:", "shop:"), ("http:", "web:"), ("web1:", "one:"), ("web2:", "two:")):
            text = text.replace(old, new)
        desk.config.write_text(text)
        assert desk.ctl("reload")[0] == 0
        wait("checked anew", lambda: all(row["code"] for row in desk.rows("show")))
        assert desk.states() == {"one": "up", "two": "up", "web3": "down"}
        assert desk.kernel.ipnat("-l").rules == rules, "none of them was touched"
        client.sendall(b"\r\n")
        assert b"200 OK" in client.makefile("rb").read()


def test_check_while_a_probe_is_in_flight(desk: Desk) -> None:
    """The verdict in flight may be about the world of before: the next one counts, and it comes at once."""
    desk.one.stop()
    with socket.socket() as listener:               # accepts, says nothing
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((A, desk.inside))
        listener.listen(64)
        desk.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {desk.port}, member_port: {desk.inside}, "
                       f"check: http}}}}, members: {{web1: {A}}}}}", defaults="{interval: 1h, timeout: 1500ms}")
        desk.start()
        status, out, err = desk.ctl("check", "web1")    # within the first second: a probe is on its way, or about to be
        assert status == 1 and "L7TOUT" in out and not err
        with desk.popen("check", "web1") as first:
            time.sleep(0.5)
            status, out, err = desk.ctl("check", "web1")
            assert status == 1 and "L7TOUT" in out and not err
            first.communicate(timeout=PATIENCE)


def test_what_is_no_file_is_not_read_again(desk: Desk) -> None:
    desk.begin()
    desk.config.rename(desk.directory / "kept")
    os.mkfifo(desk.config)
    status, _, err = desk.ctl("reload")
    assert status == 1 and "is no regular file, and cannot be read again" in err
    os.unlink(desk.config)
    (desk.directory / "kept").rename(desk.config)
    assert desk.ctl("reload")[0] == 0


def test_reload_says_which_settings_have_changed(desk: Desk) -> None:
    desk.begin()
    text = desk.config.read_text()
    desk.config.write_text(text.replace("resync: 300ms", "resync: 400ms") + "log: {level: debug}\n")
    assert desk.ctl("reload")[:2] == (0, "configuration reloaded: 3 endpoints: 0 new, 0 changed, 0 gone; settings "
                                         "changed: ipfilter.resync, log.level\n")


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="needs a pipe that is soon full")
def test_a_log_that_nobody_reads_stops_nothing(desk: Desk) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(desk.command("-d", "-v"), stderr=writer, env=desk.environment()) as process:
        try:
            os.close(writer)
            desk.wait_targets(A, B)
            wait("full", lambda: select.select([reader], [], [], 0)[0] and fionread(reader) > 4000)
            desk.two.stop()
            desk.wait_targets(A)
            assert desk.states() == {"web1": "up", "web2": "down", "web3": "down"}
        finally:
            os.close(reader)
            process.terminate()
            assert process.wait(PATIENCE) == 0


def fionread(fd: int) -> int:
    """The bytes that can be read."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"    "))[0])


def test_a_second_daemon_on_the_same_socket_is_refused(desk: Desk) -> None:
    desk.begin()
    ended = desk.run("-d", "-p", f"{desk.directory}/other.pid")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{desk.socket}: another program listens there, probably another l4ipd: stop it, or")


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
    assert "no such file" in desk.ctl("reload")[2]


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


def test_a_list_of_checks_says_which_one_failed(desk: Desk) -> None:
    other = free_port()
    desk.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {desk.port}, member_port: {desk.inside}, "
                   f"check: [http, {{type: tcp, port: {other}}}]}}}}, members: {{web1: {A}}}}}")
    desk.start()
    desk.wait_log(f"unknown -> down: L4CON port {other}: connection refused \\(1 of 1 failed, ")
    assert f" L4CON port {other}: connection refused (" in desk.ctl("check", "web1")[1]
    assert desk.rows("show")[0]["verdict"] == f"L4CON port {other}: connection refused"
    with socket.create_server((A, other)):
        desk.wait_log("down -> up: L4OK connected ")
        desk.one.status = 503
        desk.wait_log(f"up -> down: L7STS port {desk.inside}: 503 Service Unavailable ")


def test_nobody_drives_the_commands_that_check_an_endpoint(desk: Desk) -> None:
    """Whoever may use the socket: many at once, and one after the other."""
    runs = desk.directory / "runs"
    desk.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {desk.port}, member_port: {desk.inside}, "
                   f"check: {{type: exec, user: root, command: [sh, -c, 'echo >> {runs}']}}}}}}, "
                   f"members: {{web1: {A}}}}}", defaults="{interval: 1h, timeout: 5s}")
    desk.start()
    wait("checked", lambda: desk.states() == {"web1": "up"})
    before, begin = len(runs.read_text()), time.monotonic()
    for _ in range(4):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
            for client in clients:
                client.connect(desk.socket)
                client.sendall(b'{"command": "check", "pattern": "web1"}\n')
            for client in clients:
                assert b'"code": "PROCOK"' in client.makefile("rb").read()
    assert len(runs.read_text()) - before <= time.monotonic() - begin + 1
