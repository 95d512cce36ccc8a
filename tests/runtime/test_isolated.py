"""Root's programs run what root meant, wherever root stands, and whatever the environment says."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.runtime import isolated
from l4ipd.sandbox import serve_words
from support.gateway import PATIENCE, Gateway, free_port, wait
from support.hostile_directory import HostileDirectory
from support.sandbox_tools import Sandbox


@pytest.fixture
def trap(tmp_path: Path) -> HostileDirectory:
    (tmp_path / "trap").mkdir()
    return HostileDirectory(tmp_path / "trap")


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()


def test_the_trap_springs(trap: HostileDirectory) -> None:
    subprocess.run([isolated.words("l4ipd")[0], "-m", "l4ipd", "-V"], cwd=trap.directory, capture_output=True)
    assert trap.sprung.exists()


@pytest.mark.parametrize("words", [isolated.words("l4ipd", "-V"), isolated.words("l4ipd.control.client", "-h"),
                                   isolated.words("l4ipd.demo", "-h"), isolated.words("l4ipd.sandbox", "-h"),
                                   (*serve_words("/nonexistent/socket"), "-h")], ids=lambda words: words[3])
def test_our_programs_in_a_hostile_place(trap: HostileDirectory, words: tuple[str, ...]) -> None:
    assert words[1] == "-I" and os.path.isabs(words[2])
    done = subprocess.run(words, cwd=trap.directory, env=trap.environment, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr and ("usage: " in done.stdout or done.stdout.startswith("l4ipd "))
    assert not trap.sprung.exists()


def test_the_sandbox_and_all_tools_in_a_hostile_place(trap: HostileDirectory, gateway: Gateway) -> None:
    port, inside = free_port(), free_port()
    gateway.web("127.0.0.11", inside)
    gateway.config.write_text(
        f"ipfilter: {{interface: lo0, resync: 200ms}}\nresets: {{interface: lo0}}\nnotify: []\nclusters:\n  www:\n"
        f"    address: 127.0.0.1\n    members: {{web1: 127.0.0.11}}\n    services:\n"
        f"      http: {{port: {port}, member_port: {inside}, check: {{type: exec, command: [sh, -c, 'exit 0']}}}}\n")
    with gateway.log.open("wb") as log:
        process = subprocess.Popen(isolated.words("l4ipd", "-d", "--sandbox", "-c", str(gateway.config)), stderr=log,
                                   cwd=trap.directory, env=trap.environment)
    try:
        wait(f"up and sensed:\n{gateway.text()}", lambda: gateway.lines("web1 .* -> up: PROCOK")
             and gateway.lines("resets of clients' connections are sensed") or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0, gateway.text()
    assert not trap.sprung.exists()


def test_the_demo_in_a_hostile_place(trap: HostileDirectory, gateway: Gateway) -> None:
    with gateway.log.open("wb") as log:
        process = subprocess.Popen(isolated.words("l4ipd", "--demo"), stderr=log, cwd=trap.directory,
                                   env=trap.environment)
    try:
        wait("its servers answer", lambda: gateway.lines("was answered by: web") and gateway.lines("are up")
             or process.poll() is not None)
        os.kill(int(gateway.lines("kill ")[0].partition("kill ")[2].split()[0]), signal.SIGKILL)
        wait("how to start it again", lambda: gateway.lines("start it again") or process.poll() is not None)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    hint = gateway.lines("start it again with: ")[0].partition("again with: ")[2].split()
    assert tuple(hint) == isolated.words("l4ipd.demo", "web1", hint[-1])
    assert not trap.sprung.exists()
