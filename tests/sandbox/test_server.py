"""The sandbox as a process, and its tools as they are run: over its socket, or without any."""

from __future__ import annotations

import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.sandbox import serve_words, tool_words
from support import ROOT, SAMPLES
from support.sandbox_tools import Result, Sandbox, eventually, free_port, sample, sandbox


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with sandbox() as running:
        yield running


def test_the_socket_is_private_and_removed(box: Sandbox) -> None:
    assert stat.S_IMODE(os.stat(box.path).st_mode) == 0o600
    box.process.terminate()
    assert box.process.wait(10) == 0
    assert not os.path.exists(box.path)


def test_it_says_what_it_is_not(box: Sandbox) -> None:
    assert "this is no production balancer" in box.stderr.read_text()


def test_a_second_one_is_refused_and_a_stale_socket_replaced(box: Sandbox) -> None:
    words = serve_words(box.path)
    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert second.returncode == 1
    assert "another sandbox answers there" in second.stderr
    box.process.kill()
    box.process.wait(10)
    assert os.path.exists(box.path)
    third = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert third.stdout is not None
    with third.stdout:
        assert third.stdout.readline() == b"ready\n"
        third.terminate()
        third.wait(10)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    """A file refuses connections as a stale socket does."""
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    for name in ("precious", "link"):
        done = subprocess.run(serve_words(str(tmp_path / name)), cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 1 and "is there, and is no socket" in done.stderr
    assert (tmp_path / "link").is_symlink() and (tmp_path / "precious").read_text() == "precious"


def test_until_eof(tmp_path: object) -> None:
    process = subprocess.Popen(serve_words(f"{tmp_path}/s", "--until-eof"), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        process.communicate(b"", timeout=10)
    assert process.returncode == 0


def test_module_and_environment(box: Sandbox) -> None:
    done = subprocess.run([sys.executable, "-m", "l4ipd.sandbox", "ipnat", "-C"], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "L4IP_SANDBOX": box.path}, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 entries flushed from NAT list\n", "")


def test_files_are_found_from_the_tools_directory(box: Sandbox, tmp_path: object) -> None:
    with open(f"{tmp_path}/rules", "w") as file:
        file.write("rdr em0 203.0.113.1 port 80 -> 10.0.0.2 port 80 tcp\n")
    done = subprocess.run([*tool_words(box.path)["ipnat"], "-f", "rules"], cwd=f"{tmp_path}", timeout=20)
    assert done.returncode == 0
    assert len(box.ipnat("-l").rules) == 1


def test_twenty_at_once(box: Sandbox) -> None:
    """samples/ipnat-input-misc.txt: twenty concurrent adds all succeed."""
    running = []
    for number in range(20):
        process = subprocess.Popen([*tool_words(box.path)["ipnat"], "-f", "-"], stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(f"rdr em0 203.0.113.1 port {80 + number} -> 10.0.0.2 port 80 tcp\n".encode())
        running.append(process)
    for process in running:
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert len(box.ipnat("-l").rules) == 20


def test_a_rude_tool_harms_nobody(box: Sandbox) -> None:
    for junk in (b"", b"a\0\0\0\2x", b"i\0\0\0\0", b"z\xff\xff\xff\xff", b"a\0\0\0\4\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(box.path)
            client.sendall(junk)
    words = b"ipnat\0/\0\0001\0-f\0-"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(box.path)
        client.sendall(b"a" + len(words).to_bytes(4, "big") + words)
        assert client.recv(5) == b"i\0\0\0\0"           # and now it goes away instead of answering
    assert box.ipnat("-l").status == 0


MISSING = re.findall(r"^(ipnat|ipmon|ipfstat) (.*?) +exit (\d+) stdout='' stderr='(.*)'$",
                     (SAMPLES / "ipnat-input-misc.txt").read_text().partition("device cannot be opened")[2]
                     .partition("==")[0], re.M)


@pytest.mark.parametrize("tool, words, status, stderr", MISSING)
def test_no_sandbox(tool: str, words: str, status: str, stderr: str) -> None:
    done = subprocess.run([*tool_words("/nonexistent/s")[tool], *words.split()], input=b"", capture_output=True,
                          timeout=20, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (int(status), b"", stderr.replace("\\n", "\n").encode())


def test_ipf_without_sandbox() -> None:
    """The same sample: an rdr rule was fed, so that there is a syntax error too. With -n no device is needed."""
    lost = Sandbox(subprocess.Popen(["true"]), "/nonexistent/s", ROOT)
    lost.process.wait(10)
    expected = re.findall(r"^ipf -f -  +exit 1 stdout='' stderr='(.*)'$", sample("ipnat-input-misc.txt"), re.M)[0]
    text = "rdr ext0 203.0.113.1 port 80 -> 10.0.0.2 port 8080 tcp"
    assert lost.run("ipf", "-f", "-", stdin=text) == Result(1, "", expected.replace("\\n", "\n"))
    assert lost.run("ipf", "-n", "-f", "-", stdin="pass in all").status == 0


def test_a_killed_ipnat_leaves_what_it_has_done(box: Sandbox) -> None:
    """Its rules are there, and are listened for."""
    port = free_port()
    text = (f"rdr lo0 127.0.0.1 port {port} -> 127.0.0.1 port 9 tcp\n"
            + "".join(f"rdr em0 203.0.113.1 port 80 -> 10.0.{n >> 8}.{n & 255} port 80 tcp\n" for n in range(30000)))
    process = subprocess.Popen([*tool_words(box.path)["ipnat"], "-f", "-"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    eventually(lambda: box.ipnat("-l").rules)
    process.kill()
    process.wait(10)
    eventually(lambda: listens(port))


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_ipnat_n_needs_no_sandbox() -> None:
    lost = Sandbox(subprocess.Popen(["true"]), "/nonexistent/s", ROOT)
    lost.process.wait(10)
    text = "rdr em0 203.0.113.1 port 80 -> 10.0.0.2 port 8080 tcp"
    assert lost.ipnat("-nv", "-f", "-", stdin=text) == Result(
        0, "rdr em0 203.0.113.1/32 port 80 -> 10.0.0.2/32 port 8080 tcp\n", "")
    assert lost.ipnat("-n", "-f", "-", stdin="rdr em0 x").status == 1


def test_the_sandbox_ends_under_a_tool(box: Sandbox) -> None:
    process = subprocess.Popen([*tool_words(box.path)["ipnat"], "-f", "-"], stdin=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    box.process.send_signal(signal.SIGTERM)
    box.process.wait(10)
    _, err = process.communicate(b"\n", timeout=10)
    assert process.returncode == 1 and err
