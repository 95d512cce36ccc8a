"""What a check gets of its surroundings, and what it leaves behind: the daemon in the foreground, on a terminal."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.checks.exec import PROCESSES
from l4ipd.runtime import reaper
from support.gateway import Gateway, free_port, wait
from support.sandbox_tools import Sandbox

A = "127.0.0.11"
pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="processes are looked up in /proc")
needs_setsid = pytest.mark.skipif(shutil.which("setsid") is None or not sys.platform.startswith("linux"),
                                  reason="needs setsid(1), and a system that lets us adopt orphans")


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    kernel.ipnat("-FC")
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()


def configure(gateway: Gateway, command: str, top: str = "", timeout: str = "300ms") -> None:
    """One endpoint, whose check runs a shell."""
    check = f"{{type: exec, timeout: {timeout}, command: [sh, -c, {json.dumps(command)}]}}"
    gateway.configure(f"www:\n  address: 127.0.0.1\n  members: {{web1: {A}}}\n"
                      f"  services: {{http: {{port: {free_port()}, check: {check}}}}}\n", top=top,
                      defaults="{interval: 1h, fast_interval: 1h, down_interval: 1h}")


def running(word: str) -> list[int]:
    """The processes that have this word in their command, and are no zombies."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")
            if word.encode() in words:
                found.append(int(name))
        except OSError:
            pass
    return found


def zombies(parent: int) -> list[str]:
    rows = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            row = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if row[0] == "Z" and int(row[1]) == parent:
            rows.append(name)
    return rows


def seconds() -> str:
    """A time to sleep that is nobody else's."""
    seconds.last = getattr(seconds, "last", 400_000 + os.getpid() % 1000 * 100) + 1     # type: ignore[attr-defined]
    return str(seconds.last)                                                           # type: ignore[attr-defined]


def test_neither_our_terminal_nor_what_was_left_open_for_us(gateway: Gateway) -> None:
    secret = gateway.directory / "secret"
    secret.write_text("root's own\n")
    configure(gateway, "echo $(stat=$(cat /proc/$$/stat); set -- ${stat##*)}; echo sid=$4 of=$$) "
                       "tty=$( (: </dev/tty) 2>/dev/null && echo yes || echo no) "
                       "seven=$( (cat <&7) 2>/dev/null || echo closed)", timeout="20s")
    pid, terminal = pty.fork()
    if pid == 0:                                    # in a session of its own, with a terminal to type into
        fd = os.open(secret, os.O_RDONLY)
        os.dup2(fd, 7)
        os.environ.update(gateway.environment())
        os.execv(sys.executable, gateway.command("-d", "-v"))
    seen = b""
    try:
        while b"PROC" not in seen:
            seen += os.read(terminal, 4096)
        line = next(line for line in seen.decode().splitlines() if "PROC" in line)
    finally:
        os.kill(pid, signal.SIGTERM)
        os.waitpid(pid, 0)
        os.close(terminal)
    words = dict(word.partition("=")[::2] for word in line.split() if "=" in word)
    assert "PROCOK" in line
    assert words["sid"] == words["of"] and (words["tty"], words["seven"]) == ("no", "closed")


@needs_setsid
def test_what_a_late_check_left_in_other_sessions_is_ended(gateway: Gateway) -> None:
    one, two, three = seconds(), seconds(), seconds()
    configure(gateway, f"setsid sh -c 'setsid sleep {one} & sleep {two}' & sleep {three}", top="",
              timeout="3s")
    gateway.start()
    wait("it is running", lambda: all(map(running, (one, two, three))))
    assert gateway.process is not None
    wait("it is over, and all of it", lambda: not any(map(running, (one, two, three))))
    gateway.wait_log("PROCTOUT no end within the timeout")
    wait("nobody is left unburied", lambda: gateway.process is not None and not zombies(gateway.process.pid))
    gateway.stop()


@needs_setsid
def test_what_checks_have_left_ends_with_us_but_nothing_of_others(gateway: Gateway) -> None:
    checks, programs = seconds(), seconds()
    configure(gateway, f"setsid sleep {checks} >/dev/null 2>&1 & exit 0", timeout="20s",
              top=f"notify: [/bin/sh, -c, 'setsid sleep {programs} >/dev/null 2>&1 & exit 0']")
    gateway.start()
    gateway.wait_log("PROCOK exit status 0")
    wait("both run", lambda: running(checks) and running(programs))
    gateway.stop()
    try:
        assert not running(checks)
        assert running(programs), "a notify program may restart a daemon"
    finally:
        for pid in running(programs):
            os.kill(pid, signal.SIGKILL)


@needs_setsid
def test_orphans_are_found_without_the_kernels_list_of_children(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen(["sleep", "600"]) as child:
        listed = reaper._children()
        monkeypatch.setattr(reaper, "open", refuse_children, raising=False)
        assert child.pid in listed and sorted(reaper._children()) == sorted(listed)
        child.kill()


def refuse_children(path: str, *words: str, **more: str) -> object:
    """A kernel that was built without CONFIG_PROC_CHILDREN."""
    if path.endswith("/children"):
        raise FileNotFoundError(path)
    return open(path, *words, **more)               # type: ignore[call-overload]


@pytest.mark.skipif(os.geteuid() != 0 or not sys.platform.startswith("linux"), reason="only root runs them as nobody")
def test_the_user_of_checks_may_have_so_many_processes_and_no_more(gateway: Gateway) -> None:
    configure(gateway, "echo $(id -un) $(grep -c . /dev/null || grep 'Max processes' /proc/self/limits)", timeout="20s")
    gateway.start("-v")
    gateway.wait_log(rf"PROCOK nobody 0 Max processes +{PROCESSES} +{PROCESSES} +processes")
