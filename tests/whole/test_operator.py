"""The operator's commands against a running l4ipd on the sandbox: what they change, and what survives."""

from __future__ import annotations

import contextlib
import errno
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
import sys
import termios
import threading
import time

import pytest

from l4ipd.control.disable import NOW_OR_NEVER
from l4ipd.sandbox import tool_words
from support.gateway import PATIENCE, free_port, wait
from support.operated_gateway import A, B, C, OperatedGateway


def test_show_when_ipnat_does_not_answer(node: OperatedGateway) -> None:
    node.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {node.port}, member_port: {node.inside}}}}}, "
                   f"members: {{web1: {A}}}}}", ipfilter="ipnat: /nonexistent/ipnat")
    node.start()
    wait("checked", lambda: node.states() == {"web1": "up"})
    status, out, err = node.ctl("show")
    assert status == 0 and "no such program" in out.splitlines()[-1]
    assert out.splitlines()[1].split()[3:5] == ["unknown", "-"]
    assert "warning: no connections are shown: ipnat -lhR: /nonexistent/ipnat: no such program" in err
    assert node.ctl("rules") == (1, "", "l4ipctl: ipnat -lhR: /nonexistent/ipnat: no such program\n")
    status, _, err = node.ctl("disable", "web1")
    assert status == 1 and "their rules may still be in the kernel: " in err, "it is not known to be out"
    assert node.states() == {"web1": "disabled (up)"}


def test_disable_and_enable(node: OperatedGateway) -> None:
    node.begin()
    assert node.ctl("disable", "web1") == (0, f"www/http/web1 disabled\n{NOW_OR_NEVER}\n", "")
    assert node.targets() == [B], "when the command is back, the rule is gone"
    assert node.states() == {"web1": "disabled (up)", "web2": "up", "web3": "down"}
    assert node.ctl("disable", "web1")[1] == "www/http/web1 was disabled already\n"
    assert node.ctl("disable", "web1", "--now") == (
        0, "www/http/web1 was disabled already\n",
        "l4ipctl: warning: www/http/web1: its rules were gone already; no session of them is left\n")
    node.one.stop()
    wait("seen behind it", lambda: node.states()["web1"] == "disabled (down)")
    assert node.ctl("enable", "web1")[:2] == (0, "www/http/web1 enabled: to be checked, then added\n")
    assert node.ctl("check", "web1")[0] == 1
    assert node.targets() == [B], "it is down"
    node.one.start()
    node.wait_targets(A, B)
    assert node.ctl("enable", "web1")[1] == "www/http/web1 was not disabled\n"
    web1 = f"^www/http/web1 {A}:{node.inside}"
    assert node.lines(rf"{web1} up -> disabled: by the operator \(.*\), its sessions may finish; 1 of 3 up$")
    assert node.lines(rf"{web1} disabled -> enabled: by the operator \(.*\), to be checked first; ")


def test_enable_is_checked_first_although_it_was_up(node: OperatedGateway) -> None:
    node.begin()
    node.ctl("disable", "web1")
    node.ctl("enable", "web1")
    node.wait_log(f"^www/http/web1 {A}:{node.inside} enabled -> up: L4OK connected \\(.*\\); 2 of 3 up$")
    node.wait_targets(A, B)


def test_the_last_member(node: OperatedGateway) -> None:
    node.begin()
    status, out, err = node.ctl("disable", "*")
    assert (status, err) == (0, "l4ipctl: warning: www/http: no member is left\n")
    assert len(out.splitlines()) == 4 and out.endswith(f"{NOW_OR_NEVER}\n") and node.targets() == []
    assert len(node.lines("^www/http: no member is up$")) == 1
    assert node.rows("disable", "web1")[0] == {
        "endpoint": "www/http/web1", "address": f"{A}:{node.inside}", "state": "disabled (up)", "changed": False,
        "disabled_until": None, "text": "www/http/web1 was disabled already"}


def test_sessions_may_finish_or_are_cut(node: OperatedGateway) -> None:
    node.setup(members=f"web1: {A}, web2: {{address: {B}, fallback: yes}}")
    node.start()
    node.wait_targets(A)
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")       # the head of the request is not over
        node.ctl("disable", "web1")
        node.wait_targets(B)
        client.sendall(b"\r\n")
        assert A.encode() in client.makefile("rb").read()
    node.ctl("enable", "web1")
    node.wait_targets(A)
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")
        session = f"[127.0.0.1 {client.getsockname()[1]}]"
        wait("the session", lambda: session in node.kernel.ipnat("-l").stdout)
        assert node.ctl("disable", "web1", "--now")[0] == 0
        assert session not in node.kernel.ipnat("-l").stdout
    assert node.lines("up -> disabled: by the operator \\(.*\\), its sessions are cut off; ")


def test_now_is_for_now_or_never(node: OperatedGateway) -> None:
    """IPFilter can end sessions only together with their rule, which who types this cannot know."""
    node.setup(members=f"web1: {{address: {A}, weight: 2}}, web2: {{address: {B}, fallback: yes}}")
    node.start()
    node.wait_targets(A, A)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE))
                   for _ in range(3)]
        sessions = [f"[127.0.0.1 {client.getsockname()[1]}]" for client in clients]
        wait("the sessions", lambda: all(session in node.kernel.ipnat("-l").stdout for session in sessions))
        status, out, err = node.ctl("disable", "web1")
        assert (status, out, err) == (0, f"www/http/web1 disabled\n{NOW_OR_NEVER}\n", "")
        assert "--now is for now or never" in out
        assert node.ctl("disable", "web1")[1:] == ("www/http/web1 was disabled already\n", ""), "told once"
        assert node.ctl("disable", "web1", "--now") == (
            0, "www/http/web1 was disabled already\n",
            "l4ipctl: warning: www/http/web1: its rules were gone already; sessions of them that are left: 3; IPFilter "
            "ends sessions only together with their rules: stop the service on the member: its RSTs end them\n")
        node.ctl("enable", "web1")                  # no way around it: these are other rules, with the same words
        node.wait_targets(A, A)
        assert "sessions of them that are left: 3; " in node.ctl("disable", "web1", "--now")[2]


def test_sessions_that_cannot_be_counted(node: OperatedGateway) -> None:
    words = " ".join(tool_words(node.kernel.path)["ipnat"])
    script = node.directory / "ipnat"
    script.write_text(f'#!/bin/sh\n[ "$*" != -l ] || [ ! -e {script}.broken ] || {{ echo broken >&2; exit 1; }}\n'
                      f'exec {words} "$@"\n')
    script.chmod(0o700)
    text = re.sub(r"(?m)^  ipnat: .*$", f"  ipnat: {script}", node.config.read_text())
    node.config.write_text(text.replace("300ms", "1h"))
    node.begin()
    node.ctl("disable", "web1")
    (node.directory / "ipnat.broken").touch()
    assert node.ctl("disable", "web1", "--now") == (
        0, "www/http/web1 was disabled already\n",
        "l4ipctl: warning: www/http/web1: its rules were gone already; whether sessions of them are left is not known: "
        "ipnat -l: broken\n")


def test_disabled_survives_reload_and_crash(node: OperatedGateway) -> None:
    node.begin()
    node.ctl("disable", "web1")
    node.setup(members=f"web1: {A}, web2: {B}, web3: {C}, web4: 127.0.0.14")
    assert node.ctl("reload")[:2] == (0, "configuration reloaded: 4 endpoints: 1 new, 0 changed, 0 gone\n")
    assert node.states()["web1"] == "disabled (up)"
    state = node.directory / "state.json"
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    node.ctl("disable", "web3")
    node.ctl("enable", "web3")
    node.stop(signal.SIGKILL)                       # what l4ipctl has confirmed is on the disk
    assert os.path.exists(node.socket), "left behind"
    node.start()
    wait("up again", lambda: node.states() == {"web1": "disabled (up)", "web2": "up", "web3": "down", "web4": "down"})
    assert node.targets() == [B]
    assert node.lines("^still disabled by the operator: www/http/web1$")
    node.ctl("enable", "web1")
    node.wait_targets(A, B)
    node.stop()
    assert json.loads(state.read_text())["disabled"] == {}, "written at the end"


def test_adopted_rules_of_a_disabled_member_go(node: OperatedGateway) -> None:
    node.begin()
    node.stop()
    (node.directory / "state.json").write_text(json.dumps({
        "version": 1, "written": 1.0, "disabled": {"www/http/web1": 1.0, "gone/from/here": 1.0}, "endpoints": {},
        "rules": []}))
    node.start()
    node.wait_targets(B)
    node.stop()
    assert list(json.loads((node.directory / "state.json").read_text())["disabled"]) == ["www/http/web1"]


def test_without_tags_the_state_knows_our_rules(node: OperatedGateway) -> None:
    def configure(members: str) -> None:
        node.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {node.port}, member_port: "
                       f"{node.inside}}}}}, members: {{{members}}}}}", ipfilter="tag: no")

    def targets() -> list[str]:
        listed = node.kernel.ipnat("-l").rules
        return sorted(line.split(" -> ")[1].partition("/")[0] for line in listed)

    node.kernel.add("rdr lo0 203.0.113.1/32 port 25 -> 10.0.0.7 port 25 tcp round-robin")
    configure(f"web1: {A}, web2: {B}")
    node.start()
    wait("rules", lambda: targets() == ["10.0.0.7", A, B])
    node.stop()
    configure(f"web1: {A}")
    node.start()
    wait("the rule of a member that is gone is gone, and no other", lambda: targets() == ["10.0.0.7", A])


def test_a_rehearsal_has_a_socket_of_its_own(node: OperatedGateway) -> None:
    node.setup()
    node.config.write_text("\n".join(line for line in node.config.read_text().splitlines()
                                     if not line.startswith(("control:", "state:", "  ip"))))
    node.start("--sandbox")
    node.wait_log(r"^control socket: (\S+) \(l4ipctl -s \1\)$")
    path = node.lines("^control socket: ")[0].split()[2]
    assert not path.startswith(str(node.directory))
    wait("up", lambda: node.ctl("-s", path, "show", "web[12]")[0] == 0)
    assert not node.lines("^ipnat"), "nothing is asked of a sandbox that is not there yet"
    node.stop()
    assert not os.path.exists(os.path.dirname(path)), "nothing is left"


def test_since_when_survives(node: OperatedGateway) -> None:
    node.begin()
    node.stop()
    path = node.directory / "state.json"
    state = json.loads(path.read_text())
    assert {name.rpartition("/")[2]: up for name, (up, _) in state["endpoints"].items()} == {
        "web1": True, "web2": True, "web3": False}
    for entry in state["endpoints"].values():
        entry[1] -= 1000
    path.write_text(json.dumps(state))
    node.kernel.ipnat("-r", "-f", "-", stdin=next(line for line in node.rules() if B in line) + "\n")
    node.start()
    wait("all checked", lambda: set(node.states().values()) == {"up", "down"} and node.targets() == [A, B])
    seconds = {row["endpoint"].rpartition("/")[2]: row["seconds"] for row in node.rows("show")}
    assert seconds["web1"] > 900 and seconds["web3"] > 900, "adopted, or still down: since then"
    assert seconds["web2"] < 900, "the kernel says that it was not up"


def test_a_damaged_state_is_ignored(node: OperatedGateway) -> None:
    (node.directory / "state.json").write_text("{ damaged")
    node.begin()
    assert node.lines("state.json: ignored, and kept as .*/state.json.bad: it is damaged: nothing is disabled any more")
    assert (node.directory / "state.json.bad").read_text() == "{ damaged"
    node.stop()
    assert json.loads((node.directory / "state.json").read_text())["version"] == 1


def test_a_disable_that_cannot_be_saved_says_so(node: OperatedGateway) -> None:
    text = node.config.read_text()
    node.config.write_text(text.replace(f"state: {node.directory}/state.json", "state: /proc/nowhere/state.json"))
    node.begin()
    status, out, err = node.ctl("disable", "web1")
    assert (status, out) == (1, f"www/http/web1 disabled\n{NOW_OR_NEVER}\n")
    assert "warning: this would not survive a restart: /proc/nowhere/state.json: " in err
    assert node.targets() == [B]
    assert node.ctl("enable", "web1")[0] == 1


def test_a_service_is_a_pattern(node: OperatedGateway) -> None:
    node.begin()
    assert [row["endpoint"] for row in node.rows("show", "www/http")] == [
        "www/http/web1", "www/http/web2", "www/http/web3"]
    assert "no such endpoint; did you mean www/http?" in node.ctl("show", "www/htp")[2]


def test_new_names_for_what_is_there_cut_nothing(node: OperatedGateway) -> None:
    """Cluster, service and members by other names: the rules read the same, and so do the sessions."""
    node.begin()
    text = node.config.read_text()
    with socket.create_connection(("127.0.0.1", node.port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.0\r\n")       # the head of the request is not over
        rules = node.kernel.ipnat("-l").rules
        for old, new in (("www:", "shop:"), ("http:", "web:"), ("web1:", "one:"), ("web2:", "two:")):
            text = text.replace(old, new)
        node.config.write_text(text)
        assert node.ctl("reload")[0] == 0
        wait("checked anew", lambda: all(row["code"] for row in node.rows("show")))
        assert node.states() == {"one": "up", "two": "up", "web3": "down"}
        assert node.kernel.ipnat("-l").rules == rules, "none of them was touched"
        client.sendall(b"\r\n")
        assert b"200 OK" in client.makefile("rb").read()


def test_check_while_a_probe_is_in_flight(node: OperatedGateway) -> None:
    """The verdict in flight may be about the world of before: the next one counts, and it comes at once."""
    node.one.stop()
    with socket.socket() as listener:               # accepts, says nothing
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((A, node.inside))
        listener.listen(64)
        node.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {node.port}, member_port: {node.inside}, "
                       f"check: http}}}}, members: {{web1: {A}}}}}", defaults="{interval: 1h, timeout: 1500ms}")
        node.start()
        status, out, err = node.ctl("check", "web1")    # within the first second: a probe is on its way, or about to be
        assert status == 1 and "L7TOUT" in out and not err
        with node.popen("check", "web1") as first:
            time.sleep(0.5)
            status, out, err = node.ctl("check", "web1")
            assert status == 1 and "L7TOUT" in out and not err
            first.communicate(timeout=PATIENCE)


def test_what_is_no_file_is_not_read_again(node: OperatedGateway) -> None:
    node.begin()
    node.config.rename(node.directory / "kept")
    os.mkfifo(node.config)
    status, _, err = node.ctl("reload")
    assert status == 1 and "is no regular file, and cannot be read again" in err
    os.unlink(node.config)
    (node.directory / "kept").rename(node.config)
    assert node.ctl("reload")[0] == 0


def test_reload_says_which_settings_have_changed(node: OperatedGateway) -> None:
    node.begin()
    text = node.config.read_text()
    node.config.write_text(text.replace("resync: 300ms", "resync: 400ms") + "log: {level: debug}\n")
    assert node.ctl("reload")[:2] == (0, "configuration reloaded: 3 endpoints: 0 new, 0 changed, 0 gone; settings "
                                         "changed: ipfilter.resync, log.level\n")


def test_what_waits_for_the_next_start_is_said_as_long_as_it_does(node: OperatedGateway) -> None:
    node.begin()
    text, words = node.config.read_text(), "l4ipctl: warning: log: the change takes effect at the next start\n"
    node.config.write_text(f"{text}log: {{level: debug}}\n")
    assert [node.ctl("reload")[::2] for _ in range(2)] == [(0, words), (0, words)]
    node.config.write_text(text)
    assert node.ctl("reload")[::2] == (0, ""), "it is as at the start"


@pytest.mark.skipif(not hasattr(fcntl, "F_SETPIPE_SZ"), reason="needs a pipe that is soon full")
def test_a_log_that_nobody_reads_stops_nothing(node: OperatedGateway) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen(node.command("-d", "-v"), stderr=writer, env=node.environment()) as process:
        try:
            os.close(writer)
            node.wait_targets(A, B)
            wait("full", lambda: select.select([reader], [], [], 0)[0] and fionread(reader) > 4000)
            node.two.stop()
            node.wait_targets(A)
            assert node.states() == {"web1": "up", "web2": "down", "web3": "down"}
        finally:
            os.close(reader)
            process.terminate()
            assert process.wait(PATIENCE) == 0


def fionread(fd: int) -> int:
    """The bytes that can be read."""
    return int(struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, b"    "))[0])


def test_a_second_daemon_on_the_same_socket_is_refused(node: OperatedGateway) -> None:
    node.begin()
    ended = node.run("-d", "-p", f"{node.directory}/other.pid")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{node.socket}: another program listens there, probably another l4ipd: stop it, or")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a full backlog answers with a RST")
def test_check_waits_for_a_slow_member(node: OperatedGateway) -> None:
    with socket.socket() as listener:
        listener.bind((A, 0))                       # bound, and its backlog is full: packets are dropped
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        node.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {node.port}, member_port: "
                       f"{listener.getsockname()[1]}}}}}, members: {{web1: {A}}}}}",
                       defaults="{interval: 1h, timeout: 300ms}")
        node.start()
        wait("checked", lambda: node.rows("show")[0]["code"] == "L4TOUT")
        status, out, _ = node.ctl("check", "web1")
        assert status == 1 and "L4TOUT" in out
        for filler in fillers:
            filler.close()


class Listening:
    """`l4ipctl monitor` as a process, and the lines that it has printed."""

    def __init__(self, node: OperatedGateway, *words: str) -> None:
        self.process = node.popen("monitor", *words)
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


def stir(node: OperatedGateway) -> None:
    node.ctl("disable", "web1")
    node.ctl("enable", "web1")


def stirred(node: OperatedGateway, *listening: Listening) -> bool:
    """Make events until everybody has heard of some."""
    stir(node)
    return all(len(it.lines) > 2 for it in listening)


def test_monitor(node: OperatedGateway) -> None:
    node.begin()
    text, lines = Listening(node), Listening(node, "--json")
    wait("events", lambda: stirred(node, text, lines))
    node.stop()
    assert text.end() == lines.end() == (3, "l4ipctl: l4ipd is stopping\n")
    events = [json.loads(line) for line in lines.lines]
    assert all(set(event) == {"time", "event", "name", "text"} for event in events)
    assert {"disabled", "enabled"} <= {event["event"] for event in events}
    words = [line.split() for line in text.lines]
    assert any(word[2:4] == ["disabled", "www/http/web1"] for word in words)
    assert all(len(word[0]) == 10 and len(word[1]) == 8 for word in words), "date and time"


def test_monitor_ends_quietly(node: OperatedGateway) -> None:
    node.begin()
    listening = Listening(node)
    wait("events", lambda: stirred(node, listening))
    listening.process.send_signal(signal.SIGINT)
    assert listening.end() == (0, "")
    reader, writer = os.pipe()
    os.close(reader)
    with node.popen("monitor", stdout=writer) as process:
        os.close(writer)
        wait("it noticed", lambda: (stir(node), process.poll() is not None)[1])     # type: ignore[func-returns-value]
        assert process.communicate()[1] == "" and process.returncode == 0


def test_reload(node: OperatedGateway) -> None:
    node.begin()
    node.setup(members=f"web1: {A}, web3: {C}, web4: {B}")
    assert node.ctl("reload") == (0, "configuration reloaded: 3 endpoints: 1 new, 0 changed, 1 gone\n", "")
    good = node.config.read_text()
    node.config.write_text(good + "wrong: yes\nfalse: no\n")
    status, out, err = node.ctl("reload")
    lines = err.splitlines()
    assert (status, out) == (1, "") and len(lines) == 3
    assert all(line.startswith(f"l4ipctl: {node.config}:") for line in lines[:2])
    assert lines[2] == "l4ipctl: the configuration was not reloaded: the old one goes on"
    assert list(node.states()) == ["web1", "web3", "web4"]
    node.config.unlink()
    assert "no such file" in node.ctl("reload")[2]


def test_reload_moves_the_socket(node: OperatedGateway) -> None:
    node.begin()
    text = node.config.read_text()
    node.config.write_text(text.replace("/l4ip.sock", "/other.sock"))
    status, out, err = node.ctl("reload")
    assert status == 0, "who asked is still answered"
    assert node.ctl("show")[0] == 3 and node.ctl("-s", f"{node.directory}/other.sock", "show")[0] == 1
    (node.directory / "file").touch()
    node.config.write_text(text.replace("/l4ip.sock", "/file"))
    status, _, err = node.ctl("-s", f"{node.directory}/other.sock", "reload")
    said = (f"control socket: {node.directory}/file: is there, and is no socket: remove it, or name another in "
            f"control; it is {node.directory}/other.sock still")
    assert (status, err) == (0, f"l4ipctl: warning: {said}\n") and node.lines(f"^{said}$")
    status, out, _ = node.ctl("-s", f"{node.directory}/other.sock", "show")
    assert status == 1 and said in out, "the old one stays"
    node.config.write_text(text.replace("/l4ip.sock", "/other.sock"))
    assert node.ctl("-s", f"{node.directory}/other.sock", "reload")[2] == ""
    assert "control socket" not in node.ctl("-s", f"{node.directory}/other.sock", "show")[1]


def test_a_reload_and_show_say_what_the_daemon_cannot_have(node: OperatedGateway) -> None:
    """The page's address, and the state file: what is disabled now would not survive."""
    node.begin()
    text = node.config.read_text()
    (node.directory / "file").write_text("")
    state = node.directory / "file/state.json"
    site = f"http: 192.0.2.1:{free_port()}"
    node.config.write_text(re.sub("(?m)^state: .*$", f"state: {state}", f"{text}\n{site}\n"))
    listens = f"{site}: cannot listen there: {os.strerror(errno.EADDRNOTAVAIL)}; trying again every 10 s"
    assert f"l4ipctl: warning: {listens}\n" in node.ctl("reload")[2]
    written = f"{state}: cannot be written: Not a directory: what the operator disables now would not survive a restart"
    wait("shown", lambda: f"; {listens}; " in node.ctl("show")[1] and f"; {written}; " in node.ctl("show")[1])
    assert f"l4ipctl: warning: {written}\n" in node.ctl("reload")[2], "still"
    node.config.write_text(text)
    assert node.ctl("reload")[2] == "" and "cannot" not in node.ctl("show")[1]


def test_a_socket_that_somebody_removed_comes_back(node: OperatedGateway) -> None:
    node.begin()
    os.unlink(node.socket)
    node.send(signal.SIGHUP)
    wait("the socket", lambda: node.ctl("show")[0] == 1)


def test_rules_that_differ(node: OperatedGateway) -> None:
    node.begin()
    text = node.config.read_text()
    node.config.write_text(text.replace("resync: 300ms", "resync: 1h"))
    node.ctl("reload")
    wait("settled", lambda: node.ctl("rules")[0] == 0)
    line = next(line for line in node.rules() if A in line)
    extra = line.replace(A, "10.8.8.8")
    node.kernel.ipnat("-r", "-f", "-", stdin=line + "\n")
    node.kernel.add(extra)
    status, out, _ = node.ctl("rules")
    assert status == 1
    assert f"+ {line}    # missing: about to be loaded" in out.splitlines()
    assert f"- {extra}    # leaving: about to be removed" in out.splitlines()
    assert "2 differ" in out.splitlines()[-1]
    assert node.rows("show")[0]["rule"] == "missing", "the kernel's truth"


def test_nobody_listens(node: OperatedGateway) -> None:
    node.begin()
    assert stat.S_IMODE(os.stat(node.socket).st_mode) == 0o600
    assert node.lines(f"^control socket: {node.socket} \\(l4ipctl -s {node.socket}\\)$")
    node.stop(signal.SIGKILL)
    status, _, err = node.ctl("show")
    assert status == 3 and "nobody listens: l4ipd was killed or has crashed" in err
    node.start()
    wait("reachable", lambda: node.ctl("show", "web1")[0] == 0)
    node.stop()
    assert not os.path.exists(node.socket)


def test_a_list_of_checks_says_which_one_failed(node: OperatedGateway) -> None:
    other = free_port()
    node.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {node.port}, member_port: {node.inside}, "
                   f"check: [http, {{type: tcp, port: {other}}}]}}}}, members: {{web1: {A}}}}}")
    node.start()
    node.wait_log(f"unknown -> down: L4CON port {other}: connection refused \\(1 of 1 failed, ")
    assert f" L4CON port {other}: connection refused (" in node.ctl("check", "web1")[1]
    assert node.rows("show")[0]["verdict"] == f"L4CON port {other}: connection refused"
    with socket.create_server((A, other)):
        node.wait_log("down -> up: L4OK connected ")
        node.one.status = 503
        node.wait_log(f"up -> down: L7STS port {node.inside}: 503 Service Unavailable ")


def test_nobody_drives_the_commands_that_check_an_endpoint(node: OperatedGateway) -> None:
    """Whoever may use the socket: many at once, and one after the other."""
    runs = node.directory / "runs"
    node.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {node.port}, member_port: {node.inside}, "
                   f"check: {{type: exec, user: root, command: [sh, -c, 'echo >> {runs}']}}}}}}, "
                   f"members: {{web1: {A}}}}}", defaults="{interval: 1h, timeout: 5s}")
    node.start()
    wait("checked", lambda: node.states() == {"web1": "up"})
    before, begin = len(runs.read_text()), time.monotonic()
    for _ in range(4):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(3)]
            for client in clients:
                client.connect(node.socket)
                client.sendall(b'{"command": "check", "pattern": "web1"}\n')
            for client in clients:
                assert b'"code": "PROCOK"' in client.makefile("rb").read()
    assert len(runs.read_text()) - before <= time.monotonic() - begin + 1
