"""The program itself, as a process, with real members, real signals, and the sandbox as its kernel."""

from __future__ import annotations

import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd import __version__
from l4ipd.sandbox import tool_words
from support.gateway import PATIENCE, Gateway, free_port, wait
from support.sandbox_tools import Sandbox

A, B, C = "127.0.0.11", "127.0.0.12", "127.0.0.13"
FOREIGN = ["map ext0 10.0.0.0/24 -> 0/32", "rdr ext0 203.0.113.1/32 port 25 -> 10.0.0.7 port 25 tcp"]


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    kernel.ipnat("-FC")
    for line in FOREIGN:
        kernel.add(line)
    foreign = kernel.ipnat("-l").rules
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()
    listed = kernel.ipnat("-l").rules
    assert [line for line in listed if line in foreign] == foreign, "a rule that is not ours was touched"


def www(port: int, member_port: int, members: str, check: str = "{type: http, path: /healthz}", more: str = "") -> str:
    return f"""
        www:
          address: 127.0.0.1
          services: {{http: {{port: {port}, member_port: {member_port}, check: {check}}}}}
          members: {{{members}}}
          {more}
        """


def test_the_main_job(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    one, two = gateway.web(A, inside), gateway.web(B, inside)
    gateway.configure(www(port, inside, f"web1: {A}, web2: {B}"))
    gateway.start()
    gateway.wait_targets(A, B)
    gateway.wait_log(f"^www/http/web1 {A}:{inside} unknown -> up: L7OK 200 \\(1 of 1 passed, \\d+ ms\\); [12] of 2 up$")
    one.status = 503
    gateway.wait_targets(B)
    gateway.wait_log(f"^www/http/web1 {A}:{inside} up -> down: L7STS 503 Service Unavailable "
                     r"\(2 of 2 failed, \d+ ms\); 1 of 2 up$")
    two.stop()
    gateway.wait_targets()
    gateway.wait_log(r"^www/http/web2 .* up -> down: L4CON connection refused \(2 of 2 failed, \d+ ms\); 0 of 2 up$")
    gateway.wait_log("^www/http: no member is up$")
    one.status = 204
    gateway.wait_targets(A)
    gateway.wait_log(r"^www/http/web1 .* down -> up: L7OK 204 \(2 of 2 passed, \d+ ms\); 1 of 2 up$")
    assert gateway.stop() == 0
    assert gateway.targets() == [A], "a stop leaves the rules"
    assert not gateway.pidfile.exists()


def test_kill_9_and_start_again_leave_no_gap_and_no_duplicate(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    for address in (A, B):
        gateway.web(address, inside)
    gateway.configure(www(port, inside, f"web1: {A}, web2: {{address: {B}, weight: 2}}"),
                      defaults="{interval: 3s, timeout: 3s}")       # a busy machine must not fail a first probe
    gateway.start()
    gateway.wait_targets(A, B, B)
    before = gateway.rules()
    for times in range(1, 4):
        gateway.stop(signal.SIGKILL)
        gateway.start()
        wait("the pid file names the new process",
             lambda: gateway.process and gateway.pidfile.read_text().strip() == str(gateway.process.pid))
        end = time.monotonic() + 0.7
        while time.monotonic() < end:               # a listing after one that was cut may begin in the middle
            assert before in (gateway.rules(), gateway.rules())
        gateway.wait_log("3 rules of ours are in the kernel already: adopted", times)
        gateway.send(signal.SIGUSR1)
        gateway.wait_log("2 of 2 endpoints up", times)
    assert len(gateway.lines("3 rules of ours are in the kernel already: adopted")) == 3
    assert not gateway.lines("error|already exists|up -> down")
    assert gateway.lines("was left behind by process")


def test_what_the_configuration_no_longer_has_is_removed_after_the_new_is_there(gateway: Gateway) -> None:
    """Between two runs sticky is switched on and a member goes: never an instant without a rule."""
    port, inside = free_port(), free_port()
    for address in (A, B):
        gateway.web(address, inside)
    for address in (A, C):
        gateway.kernel.add(f"rdr lo0 127.0.0.1/32 port {port} -> {address} port {inside} tcp round-robin tag l4ip")
    gateway.configure(www(port, inside, f"web1: {A}, web2: {B}").replace("check:", "sticky: yes, check:"))
    gateway.start()
    seen = []
    end = time.monotonic() + PATIENCE
    while not (len(gateway.rules()) == 2 and all(" sticky " in rule for rule in gateway.rules())):
        seen.append(gateway.rules())
        assert time.monotonic() < end, gateway.text()
    assert all(seen), "there was always a rule"


def test_reload(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    for address in (A, B, C):
        gateway.web(address, inside)
    gateway.configure(www(port, inside, f"web1: {A}, web2: {B}"))
    gateway.start()
    gateway.wait_targets(A, B)
    gateway.configure(www(port, 70000, f"web1: {A}, web2: webserver").replace("address:", "adress:"))
    gateway.send(signal.SIGHUP)
    gateway.wait_log("the configuration was not reloaded: the old one goes on")
    assert gateway.lines(r"l4ip.conf:\d+: clusters.www.services.http.member_port: 70000 is not a port")
    assert gateway.lines(r"l4ip.conf:\d+: clusters.www.adress: .*address")
    assert gateway.lines(r"l4ip.conf:\d+: clusters.www.members.web2: ")
    assert gateway.targets() == sorted([A, B])
    gateway.configure(www(port, inside, f"web1: {A}, web3: {{address: {C}, weight: 2}}"))
    gateway.send(signal.SIGHUP)
    gateway.wait_targets(A, C, C)
    gateway.wait_log("configuration reloaded: 2 endpoints: 1 new, 0 changed, 1 gone")
    assert not gateway.lines("-> down")
    assert len(gateway.lines("web1 .* unknown -> up")) == 1, "what did not change keeps its state"
    gateway.config.unlink()
    gateway.send(signal.SIGHUP)
    gateway.wait_log("l4ip.conf: cannot be read: no such file or directory", 1)
    assert not gateway.ended()


def test_a_changed_check_keeps_the_rule_until_it_fails(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    web = gateway.web(A, inside)
    gateway.configure(www(port, inside, f"web1: {A}"))
    gateway.start()
    gateway.wait_targets(A)
    web.status = 404
    gateway.configure(www(port, inside, f"web1: {A}", "{type: http, status: 404}"))
    gateway.send(signal.SIGHUP)
    gateway.wait_log("1 changed")
    end = time.monotonic() + 1
    while time.monotonic() < end:
        assert gateway.targets() == [A]
    assert not gateway.lines("up -> down")


def test_somebody_flushes_the_table(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    gateway.web(A, inside)
    gateway.configure(www(port, inside, f"web1: {A}"))
    gateway.start()
    gateway.wait_targets(A)
    gateway.wait_log("up: L7OK")
    time.sleep(0.5)                                 # let it read back
    for line in gateway.rules():
        gateway.kernel.remove(line)
    gateway.wait_targets(A)
    gateway.wait_log("a rule of ours had been removed by somebody else and will be put back")


def test_on_stop_remove(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    gateway.web(A, inside)
    gateway.configure(www(port, inside, f"web1: {A}"), ipfilter="on_stop: remove")
    gateway.start()
    gateway.wait_targets(A)
    assert gateway.stop(signal.SIGINT) == 0
    assert gateway.targets() == []


def test_fallback_and_keep_over_a_restart(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    one, sorry = gateway.web(A, inside), gateway.web(C, inside)
    gateway.configure(www(port, inside, f"web1: {A}, sorry: {{address: {C}, fallback: yes}}",
                          more="when_all_down: keep"))
    gateway.start()
    gateway.wait_targets(A)
    gateway.wait_log("sorry .* unknown -> up")
    one.stop()
    gateway.wait_targets(C)
    one.start()
    gateway.wait_targets(A)
    sorry.stop()
    gateway.wait_log("sorry .* up -> down")
    one.stop()
    gateway.wait_log("www/http: no member is up; its last rules stay")
    assert gateway.targets() == [A]
    gateway.stop(signal.SIGKILL)
    gateway.start()
    gateway.wait_log("www/http: no member is up; its last rules stay", 2)
    time.sleep(1)
    assert gateway.targets() == [A]


def test_a_process_that_was_stopped_declares_nobody_down(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    gateway.web(A, inside)
    members = ", ".join(f"web{n}: 127.0.1.{n}" for n in range(1, 61))
    for n in range(1, 61):
        gateway.web(f"127.0.1.{n}", inside)
    gateway.configure(www(port, inside, members), defaults="{interval: 1s, timeout: 900ms, rise: 1, fall: 1}")
    gateway.start()
    gateway.wait_log("60 of 60 up")
    for _ in range(2):
        gateway.send(signal.SIGSTOP)
        time.sleep(2)
        gateway.send(signal.SIGCONT)
        time.sleep(1.5)
    assert not gateway.lines("up -> down")


def test_fewer_descriptors_than_members(gateway: Gateway) -> None:
    """Overload shows as probes that are late, never as members that are down."""
    inside = free_port()
    silent = socket.create_server((A, inside), backlog=512)     # accepts, and never says a word
    members = ", ".join(f"web{n}: 127.0.2.{n}" for n in range(1, 121))
    for n in range(1, 121):
        gateway.web(f"127.0.2.{n}", inside)
    gateway.configure(www(free_port(), inside, f"slow: {A}, {members}"),
                      defaults="{interval: 1s, timeout: 900ms, rise: 1, fall: 1}")
    gateway.start(preexec=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (70, 70)))
    gateway.wait_log("120 of 121 up")
    time.sleep(2)
    assert not gateway.lines("up -> down")
    assert not gateway.lines("too many open files")
    silent.close()


def test_unreachable_silent_and_talkative_members(gateway: Gateway) -> None:
    inside = free_port()
    silent = socket.create_server((A, inside))
    talker = socket.create_server((B, inside))

    def talk() -> None:
        while True:
            try:
                connection, _ = talker.accept()
                with connection:
                    connection.sendall(b"HTTP/1.1 " + b"x" * 1_000_000)
            except OSError:
                return

    threading.Thread(target=talk, daemon=True).start()
    gateway.configure(www(free_port(), inside, f"silent: {A}, talker: {B}, away: 240.0.0.1, refused: {C}"))
    gateway.start("-v")
    gateway.wait_log(f"silent {A}:{inside}: L7TOUT")
    gateway.wait_log(f"talker {B}:{inside}: L7RSP")
    gateway.wait_log(f"refused {C}:{inside}: L4CON connection refused")
    gateway.wait_log(f"^www/http/refused {C}:{inside} unknown -> down: L4CON connection refused "
                     r"\(1 of 1 failed, \d+ ms\); 0 of 4 up$")
    gateway.wait_log("^www/http: no member is up$")
    gateway.wait_log("away 240.0.0.1:.*: (LOCAL|L4CON|L4TOUT)")
    assert gateway.targets() == []
    assert not gateway.lines("internal error")
    silent.close()
    talker.close()


def test_ipfilter_is_disabled_and_enabled_again(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    gateway.web(A, inside)
    gateway.configure(www(port, inside, f"web1: {A}"))
    assert gateway.kernel.run("ipf", "-D").status == 0
    try:
        gateway.start()
        gateway.wait_log(r"ipnat: 42:ioctl\(SIOCGNATS\) ipfilter not enabled .* \(IPFilter is disabled: .* ipf -E\)")
        gateway.wait_log("web1 .* unknown -> up")
        time.sleep(1)
        assert len(gateway.lines("^ipnat: .*not enabled")) == 1, "said once"
    finally:
        gateway.kernel.run("ipf", "-E")
    gateway.wait_targets(A)
    gateway.wait_log("ipnat works again")


def test_who_is_down_from_the_start_is_told_to_programs_once(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    told = gateway.directory / "told"
    script = gateway.directory / "notify"
    script.write_text(f"#!/bin/sh\necho $1 $2 >>{told}\n")
    script.chmod(0o755)

    def down() -> int:
        return told.read_text().splitlines().count("down www/http/web1") if told.exists() else 0

    gateway.configure(www(port, inside, f"web1: {A}"), top=f"notify: {script}")
    gateway.start()
    wait("the program", down)
    gateway.configure(www(port, inside, f"web1: {A}", "tcp"), top=f"notify: {script}")
    gateway.send(signal.SIGHUP)
    gateway.wait_log("web1 .* unknown -> down: L4CON connection refused", 2)
    gateway.stop()
    gateway.start()                                 # the state file knows
    gateway.wait_log("web1 .* unknown -> down: L4CON connection refused", 3)
    gateway.wait_log("^www/http: no member is up$", 2)
    gateway.stop()
    lines = told.read_text().splitlines()
    assert [line for line in lines if line != "unready www"] == ["down www/http/web1", "all-down www/http", "reloaded"]


def test_status_on_sigusr1(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    gateway.web(A, inside)
    gateway.configure(www(port, inside, f"web1: {A}, web2: {B}"))
    gateway.start()
    gateway.wait_targets(A)
    gateway.wait_log("unknown -> up")

    def asked() -> list[str]:
        gateway.send(signal.SIGUSR1)
        time.sleep(0.2)
        return gateway.lines(f"^www/http/web1 +{A}:{inside} +up +yes ")

    wait("a settled table", asked)
    assert gateway.lines(f"^www/http/web2 +{B}:{inside} +down +no +.* L4CON connection refused")
    assert gateway.lines("1 of 2 endpoints up")


# -- the command line

def test_check_prints_the_rules(gateway: Gateway) -> None:
    members = f"web1: {{address: {A}, weight: 2}}, web2: {B}, sorry: {{address: {C}, fallback: yes}}"
    gateway.configure(www(80, 8080, members))
    end = gateway.run("-n")
    assert end.returncode == 0, end.stderr
    rule = "rdr lo0 127.0.0.1/32 port 80 -> {} port 8080 tcp round-robin tag {}"
    assert end.stdout.splitlines() == [rule.format(A, "l4ip"), rule.format(B, "l4ip"), rule.format(A, "l4ip.2")]
    assert end.stderr.splitlines()[-1] == "configuration OK"


def test_errors_are_said_before_anything_happens(gateway: Gateway) -> None:
    gateway.configure(www(80, 70000, f"web1: {A}, web1: {B}"))
    for options in ((), ("-d",), ("-n",)):
        end = gateway.run(*options)
        assert end.returncode == 1
        assert len(end.stderr.splitlines()) == 2, end.stderr
        assert all(line.startswith(f"{gateway.config}:") for line in end.stderr.splitlines())
    assert not gateway.pidfile.exists()


def test_usage_and_version(gateway: Gateway) -> None:
    assert gateway.run("--nonsense").returncode == 2
    for option in ("-V", "--version"):
        end = gateway.run(option)
        assert (end.returncode, end.stdout) == (0, f"l4ipd {__version__}\n")


def test_what_the_machine_does_not_have_is_said_with_its_line(gateway: Gateway) -> None:
    gateway.configure("""
        www:
          address: 127.0.0.1
          services:
            a: {port: 1080, check: {type: https, verify: /nonexistent/ca.pem}}
            b:
              port: 1081
              check:
                - tcp
                - {type: exec, command: ["/nonexistent/{service}-check"]}
          members: {web1: 127.0.0.11}
        """, top="notify: /nonexistent/notify", ipfilter="ipnat: /nonexistent/ipnat")
    lines = gateway.config.read_text().splitlines()
    ended = gateway.run("-n")
    assert ended.returncode == 1
    for words, fragment in (("clusters.www.services.a.check.verify: /nonexistent/ca.pem: cannot be read", "ca.pem"),
                            ("clusters.www.services.b.check[2].command: /nonexistent/b-check: no such", "{service}"),
                            ("notify: /nonexistent/notify: no such program", "notify:")):
        number = next(number for number, line in enumerate(lines, 1) if fragment in line)
        assert f"{gateway.config}:{number}: {words}" in ended.stderr
    gateway.configure("www: {address: 127.0.0.1, services: {a: {port: 1080}}, members: {web1: 127.0.0.11}}",
                      ipfilter="ipnat: /nonexistent/ipnat")
    ended = gateway.run("-n")
    assert ended.returncode == 0 and "configuration OK" in ended.stderr
    assert "warning: ipfilter.ipnat: /nonexistent/ipnat: no such program here" in ended.stderr


def test_a_second_start_is_refused_while_somebody_can_read_why(gateway: Gateway) -> None:
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"))
    gateway.start()
    assert gateway.process is not None
    wait("the pid file", gateway.pidfile.exists)
    for options in ((), ("-d",)):
        end = gateway.run(*options)
        assert end.returncode == 1
        assert end.stderr == f"l4ipd is already running, pid {gateway.process.pid} ({gateway.pidfile})\n"
    other = gateway.directory / "other.pid"
    gateway.config.write_text(gateway.config.read_text().replace("/l4ip.sock", "/other.sock"))
    elsewhere = subprocess.Popen(gateway.command("-d", "-p", str(other)), stderr=subprocess.DEVNULL,
                                 env=gateway.environment())
    wait("the other pid file", lambda: other.exists() and other.read_text().strip() == str(elsewhere.pid))
    elsewhere.terminate()
    assert elsewhere.wait(PATIENCE) == 0


READER = """
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX)
fcntl.lockf(file, fcntl.LOCK_SH)
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("options", [(), ("-d",)], ids=["detached", "in the foreground"])
def test_the_pid_file_is_ours_alone_and_no_reader_s_lock_hinders(gateway: Gateway, options: tuple[str, ...]) -> None:
    """One of before that all may read, and that somebody has locked, was left behind by a crash."""
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"))
    gateway.pidfile.write_text("999999999\n")
    gateway.pidfile.chmod(0o644)
    umask = os.umask(0)
    try:
        with subprocess.Popen([sys.executable, "-c", READER, str(gateway.pidfile)], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE) as reader:
            assert reader.stdout is not None and reader.stdout.readline() == b"locked\n"
            begin(gateway, *options)
            reader.communicate()
    finally:
        os.umask(umask)
    pid = int(gateway.pidfile.read_text())
    assert pid != 999999999 and stat.S_IMODE(gateway.pidfile.stat().st_mode) == 0o600
    assert gateway.run().stderr == f"l4ipd is already running, pid {pid} ({gateway.pidfile})\n", "it is locked"
    os.kill(pid, signal.SIGTERM)
    wait("its end", lambda: not gateway.pidfile.exists())


def begin(gateway: Gateway, *options: str) -> None:
    """Start it, in the foreground or detached."""
    if options:
        gateway.start()
        wait("its socket", (gateway.directory / "l4ip.sock").exists)
    else:
        done = gateway.run()
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("umask", [0, 0o077])
@pytest.mark.parametrize("options", [(), ("-d",)], ids=["detached", "in the foreground"])
def test_directories_that_are_missing_are_made_as_they_have_to_be(gateway: Gateway, options: tuple[str, ...],
                                                                  umask: int) -> None:
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"))
    text = gateway.config.read_text().replace("/state.json", "/db/l4ip/state.json")
    text = text.replace("/l4ip.sock", "/run/l4ip/l4ip.sock")
    gateway.pidfile = gateway.directory / "pids/l4ip/l4ip.pid"
    gateway.config.write_text(text.replace("/l4ip.pid", "/pids/l4ip/l4ip.pid"))
    (gateway.directory / "l4ip.sock").symlink_to(gateway.directory / "run/l4ip/l4ip.sock")
    before = os.umask(umask)
    try:
        begin(gateway, *options)
    finally:
        os.umask(before)
    os.kill(int(gateway.pidfile.read_text()), signal.SIGTERM)
    wait("its end", lambda: not gateway.pidfile.exists())
    assert (gateway.directory / "db/l4ip/state.json").exists()
    modes = {path: stat.S_IMODE((gateway.directory / path).stat().st_mode)
             for path in ("run", "run/l4ip", "pids", "pids/l4ip", "db", "db/l4ip")}
    assert modes == {"run": 0o755, "run/l4ip": 0o755, "pids": 0o755, "pids/l4ip": 0o755, "db": 0o755, "db/l4ip": 0o700}


@pytest.mark.parametrize("content", ["# sshd: all\n" * 10, ""], ids=["a file", "a fifo"])
def test_what_is_no_pid_file_is_left_alone(gateway: Gateway, content: str) -> None:
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"))
    if content:
        gateway.pidfile.write_text(content)
    else:
        os.mkfifo(gateway.pidfile)
    end = gateway.run()
    assert end.returncode == 1
    assert end.stderr.startswith(f"{gateway.pidfile}: cannot create the pid file: something is there that is no pid")
    assert gateway.pidfile.read_text() == content if content else gateway.pidfile.is_fifo()


@pytest.mark.parametrize("left", ["999999999\n", "", "garbage\n", f"{os.getpid()}\n"],
                         ids=["nobody", "empty", "garbage", "another program"])
def test_a_pid_file_that_was_left_behind_is_replaced(gateway: Gateway, left: str) -> None:
    """Also one whose number belongs to somebody else by now."""
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"))
    gateway.pidfile.write_text(left)
    gateway.start()
    wait("the pid file", lambda: gateway.process and gateway.pidfile.read_text() == f"{gateway.process.pid}\n")
    assert gateway.stop() == 0
    assert not gateway.pidfile.exists()


def test_a_pid_file_that_cannot_be_written(gateway: Gateway) -> None:
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"))
    (gateway.directory / "file").write_text("")
    end = gateway.run("-p", str(gateway.directory / "file" / "pid"))
    assert end.returncode == 1
    assert "cannot create the pid file: Not a directory" in end.stderr


def test_detached(gateway: Gateway) -> None:
    """As a daemon: the start returns, the process is its own session, and TERM ends it."""
    port, inside = free_port(), free_port()
    gateway.web(A, inside)
    gateway.configure(www(port, inside, f"web1: {A}"))
    end = gateway.run()
    assert (end.returncode, end.stdout, end.stderr) == (0, "", "")
    pid = int(gateway.pidfile.read_text())
    try:
        gateway.wait_targets(A)
        assert os.getsid(pid) != os.getsid(0)
        assert os.getpgid(pid) != os.getpgid(0)
        if sys.platform == "linux":
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
            assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
        os.kill(pid, signal.SIGHUP)
        time.sleep(0.3)
        os.kill(pid, 0)
    finally:
        os.kill(pid, signal.SIGTERM)
    wait("its end", lambda: not gateway.pidfile.exists())


# -- clients

def test_a_client_that_retries_gets_through_a_failover(gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    one, two = gateway.web(A, inside, "one"), gateway.web(B, inside, "two")
    gateway.configure(www(port, inside, f"web1: {A}, web2: {B}"))
    gateway.start()
    gateway.wait_targets(A, B)
    assert {ask(port) for _ in range(4)} == {"one", "two"}
    one.stop()
    assert {retry(port) for _ in range(4)} == {"two"}
    gateway.wait_targets(B)
    assert {ask(port) for _ in range(4)} == {"two"}
    one.start()
    gateway.wait_targets(A, B)
    assert {ask(port) for _ in range(4)} == {"one", "two"}
    two.stop()


def ask(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        answer = b""
        while chunk := connection.recv(4096):
            answer += chunk
    return answer.rpartition(b"\r\n\r\n")[2].decode()


def retry(port: int) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            answer = ask(port)
        except ConnectionError:
            continue
        if answer:
            return answer
    raise AssertionError("never got through")


# -- what an enemy has tried

def test_an_ipnat_that_is_there_only_later_is_asked_again_what_it_can(gateway: Gateway) -> None:
    """At boot the daemon may be up before IPFilter is: it must not believe for ever that sessions cannot be ended."""
    port, inside = free_port(), free_port()
    web = gateway.web(A, inside)
    tool = gateway.directory / "ipnat"
    gateway.configure(www(port, inside, f"web1: {A}"), ipfilter=f"ipnat: {tool}\npurge: yes")
    gateway.start()
    gateway.wait_log("ipnat: .*: no such program: name it in the configuration")
    words = " ".join(tool_words(gateway.kernel.path)["ipnat"])
    tool.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    tool.chmod(0o755)
    gateway.wait_targets(A)
    gateway.wait_log("ends the sessions of failed members")
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\n")       # and no more: the session stays
        wait("the session", lambda: f" {inside} " in gateway.kernel.ipnat("-l").stdout.partition("sessions:")[2])
        web.status = 500
        gateway.wait_targets()
        wait("its end", lambda: f" {inside} " not in gateway.kernel.ipnat("-l").stdout.partition("sessions:")[2])


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(gateway: Gateway, closed: str) -> None:
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"))
    words = " ".join(gateway.command())
    start = subprocess.run(["sh", "-c", f"exec {words} {closed}"], env=gateway.environment(), timeout=PATIENCE)
    assert start.returncode == 0
    os.kill(int(gateway.pidfile.read_text()), signal.SIGTERM)
    wait("its end", lambda: not gateway.pidfile.exists())


def test_no_child_is_left_behind(gateway: Gateway) -> None:
    tool = gateway.directory / "ipnat"
    pids = gateway.directory / "pids"
    tool.write_text(f'#!/bin/sh\ntrap "" TERM\necho $$ >> {pids}\nsleep 600\n')
    tool.chmod(0o755)
    gateway.configure(www(free_port(), free_port(), f"web1: {A}"), ipfilter=f"ipnat: {tool}\ntimeout: 60s")
    gateway.start()
    wait("a child", lambda: pids.exists() and pids.read_text().strip())
    assert gateway.stop() == 0
    for pid in pids.read_text().split():
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid), 0)


def test_whoever_reads_our_output_may_stop(gateway: Gateway) -> None:
    gateway.configure(www(80, 8080, f"web1: {A}"))
    end = subprocess.run(["sh", "-c", f"{' '.join(gateway.command('-n'))} | true"], capture_output=True, text=True,
                         env=gateway.environment(), timeout=PATIENCE)
    assert "Traceback" not in end.stderr


# -- the table, with real tools

def test_two_with_one_tag_name_each_other_and_come_to_rest(gateway: Gateway, kernel: Sandbox, tmp_path: Path) -> None:
    """They would remove each other's rules for ever."""
    other = Gateway(kernel, tmp_path / "other")
    other.directory.mkdir()
    inside = free_port()
    for address in (A, B):
        gateway.web(address, inside)
    try:
        gateway.configure(www(free_port(), inside, f"web1: {A}"))
        other.configure(www(free_port(), inside, f"web1: {B}"))
        gateway.start()
        other.start()
        pattern = "within a minute: rdr lo0 .* another l4ipd with the tag l4ip is the likely cause: give each its own"
        wait("both say it", lambda: gateway.lines(pattern) and other.lines(pattern))
        wait("both have their rules", lambda: gateway.targets() == [A, B])
        gateway.wait_log("no endpoint makes will be removed: rdr lo0 .* of another l4ipd with the tag l4ip")
    finally:
        other.close()


def test_a_listing_that_begins_in_the_middle_alarms_nobody(gateway: Gateway, kernel: Sandbox) -> None:
    """After one that was killed: 3,000 rules of others, and ours before and behind them."""
    tool, slow = gateway.directory / "ipnat", gateway.directory / "slow"
    words = " ".join(tool_words(kernel.path)["ipnat"])
    tool.write_text(f'#!/bin/sh\ncase "$*" in *-l*) [ -e {slow} ] && (sleep 0.08; kill -9 $$) >/dev/null 2>&1 & ;;\n'
                    f'esac\nexec {words} "$@"\n')
    tool.chmod(0o755)
    inside = free_port()
    gateway.web(A, inside)
    gateway.configure(www(free_port(), inside, f"web1: {A}"), ipfilter=f"ipnat: {tool}")
    gateway.start()
    gateway.wait_targets(A)
    text = "".join(f"rdr em0 203.0.113.9/32 port {n} -> 10.0.0.9 port 80 tcp tag other\n" for n in range(1000, 9000))
    assert kernel.ipnat("-f", "-", stdin=text).status == 0
    try:
        slow.touch()
        gateway.wait_log("ipnat: was killed by signal 9; trying again")
        slow.unlink()
        gateway.wait_log("ipnat works again")
        time.sleep(1.0)                             # three more listings
    finally:
        kernel.ipnat("-r", "-f", "-", stdin=text)
    assert not gateway.lines("somebody else|put back") and gateway.targets() == [A]
