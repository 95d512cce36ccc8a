"""`l4ipctl ready` is asked every second by others: it starts quickly, and answers within one whatever happens."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from l4ipd.control import ready
from support import ROOT
from support.gateway import PATIENCE
from support.operated_gateway import A, B, OperatedGateway


def l4ipctl(*words: str, **environment: str) -> tuple[int, str, str]:
    """As bin/l4ip-python runs it."""
    done = subprocess.run([sys.executable, "-m", "l4ipd.control.l4ipctl", *words], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": str(ROOT), **environment})
    return done.returncode, done.stdout, done.stderr


def test_it_is_the_program() -> None:
    assert '"l4ipctl": ("l4ipd.control.l4ipctl", "main")' in (ROOT / "bin/l4ip-python").read_text()


def test_it_imports_next_to_nothing() -> None:
    """json, argparse and socket would make its start twice as long, and the whole client three times."""
    code = f"import sys; before = {{*sys.modules}}; sys.path.insert(0, {str(ROOT)!r}); import l4ipd.control.l4ipctl; " \
           "print(*sorted(sys.modules.keys() - before))"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    bare = {"os", "stat", "posixpath", "genericpath", "_collections_abc", "_stat", "abc", "_abc", "os.path"}
    ours = {"l4ipd", "l4ipd.control", "l4ipd.control.connection", "l4ipd.control.l4ipctl", "l4ipd.control.ready"}
    assert set(done.stdout.split()) - bare == {"__future__", "_socket", *ours}


def ageless(result: tuple[int, str, str]) -> tuple[int, str, str]:
    """A second may pass between the two."""
    status, out, error = result
    return status, re.sub(r"\b\d+(s|m)\b", "N", out), error


def test_a_plain_answer_is_that_of_the_whole_client(node: OperatedGateway) -> None:
    node.begin()
    for words in (["ready"], ["ready", "www"], ["ready", "w"], ["ready", 'a"b'], ["ready", ""]):
        assert ageless(l4ipctl("-s", node.socket, *words)) == ageless(node.ctl(*words)), words
    assert l4ipctl("ready", "www", L4IP_SOCKET=node.socket) == (0, "www ready\n", "")
    assert l4ipctl("-s", node.socket, "ready", "no")[0] == 2
    assert '"ready": true' in l4ipctl("-s", node.socket, "--json", "ready")[1]
    node.ctl("leave")
    assert l4ipctl("-s", node.socket, "ready") == node.ctl("ready") == (
        1, "www unready: out of service by the operator, see l4ipctl join\n", "")
    assert ageless(l4ipctl("-s", node.socket, "rules")) == ageless(node.ctl("rules"))
    node.setup(members=f"web1: {A}, web2: {B}")
    with subprocess.Popen([sys.executable, "-m", "l4ipd.control.l4ipctl", "-s", node.socket, "ready"],
                          stdout=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(PATIENCE) == 1


def test_a_daemon_that_hangs_or_is_gone(node: OperatedGateway) -> None:
    """Less than a second: it does not wait as long as other commands do."""
    assert 0 < ready.LIMIT < 1
    node.begin()
    node.send(signal.SIGSTOP)
    try:
        for words in (("ready", "www"), ("--json", "ready")):
            assert l4ipctl("-s", node.socket, *words) == (
                3, "", f"l4ipctl: {node.socket}: l4ipd says nothing in time: it is stopped, or very busy\n")
        with_full_queue = [socket.socket(socket.AF_UNIX) for _ in range(200)]
        for each in with_full_queue:
            each.setblocking(False)
            each.connect_ex(node.socket)
        assert l4ipctl("-s", node.socket, "ready") == (
            3, "", f"l4ipctl: {node.socket}: l4ipd does not answer: it is stopped, or very busy\n")
        for each in with_full_queue:
            each.close()
    finally:
        node.send(signal.SIGCONT)
    node.stop(signal.SIGKILL)
    assert l4ipctl("-s", node.socket, "ready") == (
        3, "", f"l4ipctl: {node.socket}: nobody listens: l4ipd was killed or has crashed; start it again\n")
    os.unlink(node.socket)
    assert l4ipctl("-s", node.socket, "ready")[0] == 3


@pytest.mark.parametrize("answer, status", [
    (b'{"end": true, "exit": 3, "error": ["20 clients are being served already: try again"]}\n', 3),
    (b'{"end": true, "exit": 99}\n', 99), (b'{"cluster": "a"}\n{"end": true, "exit": 1}\n', 1),
    (b'{"text": "a\\u00e4\\n"}\n{"end": true, "exit": 0}\n', 0), (b"", 3), (b"\n", 3), (b"nonsense\n", 3),
    (b"x" * (1 << 20) + b"y", 3)])
def test_answers_that_are_not_plain(tmp_path: Path, answer: bytes, status: int) -> None:
    path = str(tmp_path / "sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            for _ in range(2):                      # it may be asked again, by the whole client
                try:
                    peer = listener.accept()[0]
                except OSError:
                    return
                with peer:
                    peer.recv(4096)
                    try:
                        peer.sendall(answer)
                    except OSError:
                        return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found, out, err = l4ipctl("-s", path, "ready")
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(PATIENCE)
    assert found == status and "Traceback" not in err
    assert bool(err) == (status == 3)
    assert out == ("a\\xe4\\x0a\n" if b"u00e4" in answer else "\n" if b"cluster" in answer else "") or "ä" in out
