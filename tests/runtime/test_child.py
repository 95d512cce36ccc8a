"""Children, real ones: fed, collected, timed out, reaped."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l4ipd.runtime.child import Child, Exit, find_program, seal
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop
from support import ROOT, TESTS
from support.gateway import wait


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def run(loop: Loop, *argv: str, stdin: bytes = b"", timeout: float = 20, output: Callable[[bytes], bool] | None = None,
        limit: int = 1 << 20) -> Exit:
    ends: list[Exit] = []

    def done(end: Exit) -> None:
        ends.append(end)
        loop.stop()
    Child(loop, argv, stdin=stdin, timeout=timeout, done=done, output=output, limit=limit)
    assert not ends, "never from the constructor"
    loop.run()
    assert len(ends) == 1
    return ends[0]


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-I", "-S", "-c", code


def test_a_megabyte_through_cat(loop: Loop) -> None:
    text = os.urandom(1 << 20)
    end = run(loop, "cat", stdin=text)
    assert end == Exit(0, text)
    assert end.clean


def test_exit_status_and_both_outputs(loop: Loop) -> None:
    end = run(loop, "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (end.status, end.stdout, end.stderr, end.clean) == (3, b"out\n", b"err\n", False)


def test_a_child_that_does_not_read_its_input(loop: Loop) -> None:
    assert run(loop, "true", stdin=b"x" * (1 << 20)).status == 0


def test_output_is_bounded(loop: Loop) -> None:
    assert len(run(loop, *python("print('x' * 100000)"), limit=1000).stdout) == 1000


def test_enough_is_enough(loop: Loop) -> None:
    seen: list[bytes] = []

    def output(chunk: bytes) -> bool:
        seen.append(chunk)
        return True
    end = run(loop, "yes", output=output)
    assert end.status == -signal.SIGPIPE, "SIGPIPE has its default action, so it dies"
    assert len(seen) == 1


def test_a_timeout_ends_the_whole_group(loop: Loop, tmp_path: os.PathLike[str]) -> None:
    pids = os.path.join(tmp_path, "pids")
    end = run(loop, "sh", "-c", f"trap '' TERM; sleep 600 & echo $! > {pids}; while :; do sleep 1; done", timeout=0.3)
    assert end.timed_out
    assert end.status == -signal.SIGKILL
    with open(pids, encoding="ascii") as file:
        grandchild = int(file.read())
    wait("it is gone", lambda: _is_gone(grandchild))


def _is_gone(pid: int) -> bool:
    """Gone, or a zombie of whoever adopts orphans here."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        pass
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_grandchild_that_keeps_the_pipes_open_is_not_waited_for(loop: Loop) -> None:
    end = run(loop, "sh", "-c", "sleep 600 & echo $!; exit 0")
    assert end.status == 0
    os.kill(int(end.stdout), signal.SIGKILL)


@pytest.mark.parametrize(("program", "words"), [
    ("/nonexistent/ipnat", "no such program"), ("no-such-program-here", "no such program"),
    ("/etc/passwd", "cannot be executed: Permission denied"), ("/etc", "cannot be executed"),
])
def test_a_program_that_cannot_be_started(loop: Loop, program: str, words: str) -> None:
    end = run(loop, program)
    assert end.status is None
    assert words in end.error
    assert program in end.error


@pytest.mark.parametrize("forked", [False, True])
def test_a_session_of_its_own(loop: Loop, monkeypatch: pytest.MonkeyPatch, forked: bool) -> None:
    """Where posix_spawn(3) cannot do it, a fork does; then nothing that is open is inherited, sealed or not."""
    seal()                                          # the test runner, too, may have been left something
    if forked:
        def without(*words: object, **more: object) -> int:
            raise NotImplementedError
        monkeypatch.setattr(os, "posix_spawn", without)
    code = ("from support.descriptors import opened; import os\n"
            "print(os.getsid(0) == os.getpgrp() == os.getpid(), sorted(opened()))")
    code = f"import sys; sys.path.insert(0, {str(TESTS)!r})\n{code}"
    reader, writer = os.pipe()
    os.set_inheritable(writer, forked)
    end = run(loop, *python(code), stdin=b"x" * (1 << 20))
    assert end == Exit(0, b"True [0, 1, 2]\n")
    assert run(loop, "sh", "-c", "echo out; echo err >&2; exit 3") == Exit(3, b"out\n", b"err\n")
    assert run(loop, "cat", stdin=b"hello").stdout == b"hello"
    assert run(loop, "/etc/passwd").error == "/etc/passwd: cannot be executed: Permission denied"
    end = run(loop, "yes", output=lambda chunk: True)
    assert end.status == -signal.SIGPIPE
    end = run(loop, "sh", "-c", "trap '' TERM; sleep 600", timeout=0.05)
    assert end.timed_out and end.status == -signal.SIGKILL
    os.close(reader)
    os.close(writer)


def test_what_was_left_open_for_us_is_sealed() -> None:
    reader, writer = os.pipe()
    for fd in (reader, writer):
        os.set_inheritable(fd, True)
    seal()
    assert not os.get_inheritable(reader) and not os.get_inheritable(writer)
    assert all(os.get_inheritable(fd) for fd in range(3))
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("path", ["", ".", ":/bin", "/bin:", "bin:/usr/bin", "./:..:sbin", "/bin::/usr/bin", None])
def test_only_absolute_directories_are_searched(loop: Loop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                                path: str | None) -> None:
    for directory in (tmp_path, tmp_path / "bin", tmp_path / "sbin"):
        directory.mkdir(exist_ok=True)
        for name in ("ipnat-of-an-enemy", "echo"):
            (directory / name).write_text("#!/bin/sh\necho stolen\n")
            (directory / name).chmod(0o755)
    monkeypatch.chdir(tmp_path / "bin")
    (tmp_path / "bin" / "sbin").symlink_to(tmp_path / "sbin")
    if path is None:
        monkeypatch.delenv("PATH")
    else:
        monkeypatch.setenv("PATH", path)
    assert find_program("ipnat-of-an-enemy") is None
    assert run(loop, "ipnat-of-an-enemy").error == "ipnat-of-an-enemy: no such program"
    assert run(loop, "echo", "mine").stdout == b"mine\n"
    assert run(loop, "sh", "-c", "ipnat-of-an-enemy").status == 127, "nor is it by a child's own child"


def test_no_descriptor_no_mask_no_ignored_signal_is_inherited(loop: Loop) -> None:
    code = """
import os, signal
fds = []
for fd in range(3, 256):
    try:
        os.fstat(fd)
        fds.append(fd)
    except OSError:
        pass
print(*fds, sep=",", end=" ")
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), os.getpgrp() == os.getpid(), sorted(os.environ))
"""
    reader, writer = os.pipe()
    try:
        end = run(loop, *python(code))
    finally:
        os.close(reader)
        os.close(writer)
    fds, _, rest = end.stdout.decode().partition(" ")
    ours = {reader, writer, *((loop._wakeup.reader,) if loop._wakeup is not None else ())}
    assert not set(map(str, ours)) & set(fds.split(","))
    assert rest.startswith("set() True")
    assert "LC_ALL" in rest
    assert "PYTEST_CURRENT_TEST" not in rest


def descriptors() -> int:
    """How many we have open."""
    return sum(1 for fd in range(256) if is_open(fd))


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
        return True
    except OSError:
        return False


@pytest.mark.parametrize("word", ["a\0b", "\ud800"])
def test_a_word_that_no_program_can_be_given_costs_nothing(loop: Loop, word: str) -> None:
    before = descriptors()
    for _ in range(20):
        end = run(loop, "echo", word)
        assert (end.status, end.error) == (None, f"echo: cannot be started: {INTERNAL}")
    assert descriptors() - before <= 2, "but for the loop's own pipe"
    assert loop.errors.total == 20
    assert run(loop, "echo", "hello").stdout == b"hello\n"


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_one_that_cannot_be_watched_is_ended_and_told_of_once(loop: Loop, monkeypatch: pytest.MonkeyPatch, nth: int
                                                              ) -> None:
    """Linux: fs.epoll.max_user_watches. What is spawned by then has to be reaped, too."""
    loop.on_signal(signal.SIGUSR1, lambda: None)    # the loop's own pipe is watched
    before, calls, ends = descriptors(), [], []     # type: ignore[var-annotated]
    watch = loop.watch

    def full(fd: int, events: int, callback: Callable[[], object]) -> None:
        calls.append(fd)
        if len(calls) == nth:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        watch(fd, events, callback)

    monkeypatch.setattr(loop, "watch", full)
    child = Child(loop, ("sleep", "600"), stdin=b"x" * (1 << 20), timeout=20, done=ends.append)
    late = loop.later(0.5, loop.stop)
    loop.run()
    loop.clear(late)
    assert [(end.status, end.error) for end in ends] == [
        (None, "sleep: cannot be started: no room to watch another descriptor: raise fs.epoll.max_user_watches")]
    assert descriptors() == before and _is_gone(child.pid)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


EURO = """
import sys
from l4ipd.runtime.child import Child, find_program
from l4ipd.runtime.loop import Loop
loop, ends = Loop(), []
assert sys.getfilesystemencoding() == "ascii"
for words in (("echo", "5 \\u20ac"), (sys.argv[1],), ("\\u20ac/none",), ("\\u20ac",)):
    Child(loop, words, timeout=20, done=lambda end: (ends.append(end), loop.stop()))
    loop.run()
print(ascii([(end.status, end.stdout, end.error) for end in ends]))
print(find_program(sys.argv[1]) is not None, find_program("\\u20ac"))
"""


def test_words_of_the_configuration_are_passed_on_as_they_stand_in_any_locale(tmp_path: Path) -> None:
    tool = tmp_path / "price in \u20ac"
    tool.write_text("#!/bin/sh\necho told\n")
    tool.chmod(0o755)
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0",
                   "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", EURO.replace("\\\\", "\\"), str(tool)], env=environment,
                          capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [
        ascii([(0, "5 \u20ac\n".encode(), ""), (0, b"told\n", ""), (None, b"", "\u20ac/none: no such program"),
               (None, b"", "\u20ac: no such program")]), "True None"], done.stderr


def test_many_at_once_and_no_zombie(loop: Loop) -> None:
    ends: list[Exit] = []

    def done(end: Exit) -> None:
        ends.append(end)
        if len(ends) == 50:
            loop.stop()
    for number in range(50):
        Child(loop, ("sh", "-c", f"exit {number % 7}"), timeout=20, done=done)
    loop.run()
    assert sorted(end.status or 0 for end in ends) == sorted(number % 7 for number in range(50))
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
