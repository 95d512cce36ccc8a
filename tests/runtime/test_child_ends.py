"""How children end, real ones: by themselves, when their time is up, when nobody wants them, and when we end."""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from l4ipd.runtime import child as module
from l4ipd.runtime import reaper
from l4ipd.runtime.child import Child, Exit, end_all, environment, find_program, reap, search_path
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop
from support.child_run import ChildRun
from support.gateway import wait


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


class Run(ChildRun):
    """That of a script of the shell, of which nothing is left when it has ended."""

    def __init__(self, loop: Loop, script: str, timeout: float | None = 60.0, **more: object) -> None:
        super().__init__(loop, "/bin/sh", "-c", script, timeout=timeout, **more)

    def end(self) -> Exit:
        end = super().end()
        assert self.it.slot is None and not self.it._pipes
        return end

    def until(self, path: Path) -> int:
        """It has written a number there."""
        def look() -> None:
            if path.exists() and path.read_text().endswith("\n"):
                self.loop.stop()
            else:
                self.loop.later(0.01, look)

        self.loop.later(0, look)
        self.loop.run()
        return int(path.read_text())


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def keeps(seen: list[bytes]) -> Callable[[bytes], bool]:
    """For what it says: takes all of it."""
    def take(chunk: bytes) -> bool:
        seen.append(chunk)
        return False

    return take


# -- what an end says

@pytest.mark.parametrize(("end", "clean"), [
    (Exit(0), True), (Exit(0, b"out"), True), (Exit(0, b"", b"err"), False), (Exit(1), False), (Exit(-9), False),
    (Exit(None), False), (Exit(0, timed_out=True), False), (Exit(0, cost=1.0), True),
])
def test_what_is_clean(end: Exit, clean: bool) -> None:
    assert end.clean is clean


def test_costs_are_no_part_of_what_is_compared() -> None:
    assert Exit(0, cost=1.0) == Exit(0) and Exit(0).cost == 0.0


def test_what_it_has_cost(loop: Loop) -> None:
    """Its own time, and ours to start and read it."""
    end = Run(loop, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done").end()
    assert 0.005 < end.cost < 30.0
    slept = Run(loop, "exec sleep 0.3").end()
    assert 0.0 < slept.cost < 0.25, "no time in which nobody works"


def test_what_we_do_with_its_output_is_of_its_cost(loop: Loop) -> None:
    def slow(chunk: bytes) -> bool:
        end = time.thread_time() + 0.2
        while time.thread_time() < end:
            pass
        return False

    began = time.thread_time()
    cost = Run(loop, "echo x", output=slow).end().cost
    ours = time.thread_time() - began
    assert 0.2 <= cost < ours + 0.3, "and no more than we have worked, and it"


# -- when its time is up

def test_one_that_ends_well_when_its_time_is_up_is_no_success(loop: Loop) -> None:
    end = Run(loop, "trap 'echo bye; exit 0' TERM; while :; do sleep 0.02; done", timeout=0.2).end()
    assert (end.status, end.stdout, end.timed_out, end.clean) == (0, b"bye\n", True, False)


def test_what_it_has_started_ends_with_it_though_it_heeds_nothing(loop: Loop, tmp_path: Path) -> None:
    script = f"(trap '' TERM; echo $$ >/dev/null; exec sleep 600) & echo $! >{tmp_path}/pid; exec sleep 600"
    run = Run(loop, script, timeout=None)
    grandchild = run.until(tmp_path / "pid")
    run.it.give_up()
    assert run.end().timed_out
    wait("it is gone", lambda: is_gone(grandchild))


def test_of_one_that_ends_by_itself_others_live_on(loop: Loop, tmp_path: Path) -> None:
    run = Run(loop, f"sleep 600 >/dev/null 2>&1 & echo $! >{tmp_path}/pid")
    assert run.end() == Exit(0)
    grandchild = int((tmp_path / "pid").read_text())
    assert not is_gone(grandchild)
    os.kill(grandchild, signal.SIGKILL)


def test_one_that_does_not_heed_term_is_killed_a_second_later(loop: Loop, tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.GRACE == 1.0
    monkeypatch.setattr(module, "GRACE", 0.2)
    script = f"trap 'echo $$ >{tmp_path}/term' TERM; echo $$ >{tmp_path}/pid; while :; do sleep 0.02; done"
    run = Run(loop, script, timeout=None)
    run.until(tmp_path / "pid")
    run.it.kill()
    end = run.end()
    assert (end.status, end.timed_out) == (-signal.SIGKILL, False) and (tmp_path / "term").exists()


def test_without_a_timeout_it_has_all_the_time_it_wants(loop: Loop) -> None:
    assert Run(loop, "sleep 0.2; echo x", timeout=None).end() == Exit(0, b"x\n")


def test_to_kill_what_has_ended_is_nothing(loop: Loop) -> None:
    run = Run(loop, "exit 3")
    assert run.end().status == 3
    assert run.it.pid not in module._alive
    run.it._signal(signal.SIGKILL)                  # the number may be somebody else's by now


def test_the_time_is_measured_from_its_beginning(loop: Loop) -> None:
    """The loop's idea of now may be old: a turn may have taken long."""
    loop.now -= 1000.0
    assert Run(loop, "sleep 0.1; echo x", timeout=60.0).end() == Exit(0, b"x\n")


# -- talking

def test_errors_are_handed_on_as_they_come(loop: Loop) -> None:
    seen: list[bytes] = []
    end = Run(loop, "echo one >&2; echo out; sleep 0.1; echo two >&2", errors=keeps(seen)).end()
    assert b"".join(seen) == b"one\ntwo\n" and end == Exit(0, b"out\n")


def test_errors_are_bounded_too(loop: Loop) -> None:
    end = Run(loop, "i=0; while [ $i -lt 100 ]; do echo 0123456789 >&2; echo 0123456789; i=$((i+1)); done",
              limit=55).end()
    assert len(end.stderr) == len(end.stdout) == 55


def test_its_input_is_held_open_if_it_is_to_notice_our_end(loop: Loop, tmp_path: Path) -> None:
    run = Run(loop, f"read -r line; echo \"$line\"; echo $$ >{tmp_path}/pid; read -r line; echo over", stdin=b"hello\n",
              hold_stdin=True)
    run.until(tmp_path / "pid")
    assert "stdin" in run.it._pipes and not run.ends
    run.it._close("stdin")
    assert run.end() == Exit(0, b"hello\nover\n")


def test_otherwise_it_ends_with_what_it_is_fed(loop: Loop) -> None:
    assert Run(loop, "cat; echo over", stdin=b"hello\n").end() == Exit(0, b"hello\nover\n")
    assert Run(loop, "cat; echo over").end() == Exit(0, b"over\n")


def test_all_that_it_has_said_is_read_though_it_has_ended(loop: Loop) -> None:
    """More than one read takes, and some of it when it is gone."""
    assert len(Run(loop, "yes | head -c 300000", limit=1 << 20).end().stdout) == 300000
    seen: list[bytes] = []
    run = Run(loop, "yes | head -c 60000; yes | head -c 60000 >&2", output=keeps(seen))
    os.waitid(os.P_PID, run.it.pid, os.WEXITED | os.WNOWAIT)
    end = run.end()
    assert sum(map(len, seen)) == 60000 == len(end.stderr)


def test_one_that_inherited_its_pipe_and_goes_on_writing_is_not_read_for_ever(loop: Loop) -> None:
    end = Run(loop, "yes & echo $! >&2", limit=1 << 30).end()
    os.kill(int(end.stderr), signal.SIGKILL)
    assert end.status == 0


@pytest.mark.parametrize("stream", ["output", "errors"])
def test_whoever_takes_what_it_says_may_raise(loop: Loop, stream: str, caplog: pytest.LogCaptureFixture) -> None:
    def raises(chunk: bytes) -> bool:
        raise ValueError

    takers: dict[str, Any] = {stream: raises}
    end = Run(loop, "echo x; echo y >&2; exec sleep 600", **takers).end()
    assert end == Exit(None, error=f"/bin/sh: given up: {INTERNAL}")


def test_or_at_its_very_end(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    def raises(chunk: bytes) -> bool:
        raise ValueError

    run = Run(loop, "echo x", output=raises)
    os.waitid(os.P_PID, run.it.pid, os.WEXITED | os.WNOWAIT)
    reap()
    assert run.ends == [Exit(None, error=f"/bin/sh: given up: {INTERNAL}")]
    assert "what /bin/sh said last" in caplog.text


def test_whatever_raises_at_its_end_it_is_told_of(loop: Loop, monkeypatch: pytest.MonkeyPatch,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    run, close_all, calls = Run(loop, "exit 0"), Child._close_all, []

    def once(self: Child) -> None:
        calls.append(self)
        if len(calls) == 1:
            raise ValueError
        close_all(self)

    monkeypatch.setattr(Child, "_close_all", once)
    assert run.end() == Exit(None, error=f"/bin/sh: given up: {INTERNAL}") and "the end of /bin/sh" in caplog.text


# -- what it leaves behind

class Recorder(reaper.Nobody):
    """Is told what a reaper is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def mark(self, number: int) -> dict[str, str]:
        return {"MARK": str(number)}

    def end(self, pid: int, number: int) -> None:
        self.told.append(("end", pid, number))

    def ended(self, pid: int) -> None:
        self.told.append(("ended", pid))

    def end_all(self) -> None:
        self.told.append(("end all",))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    it = Recorder()
    monkeypatch.setattr(module, "_reaper", it)
    return it


def test_what_is_left_of_one_that_is_swept(loop: Loop, recorder: Recorder) -> None:
    one = Run(loop, 'echo "$MARK"', swept=True)
    assert one.end().stdout == f"{one.it.number}\n".encode() and recorder.told == [("ended", one.it.pid)]
    two = Run(loop, "exec sleep 600", timeout=0.05, swept=True)
    two.end()
    assert recorder.told[1:] == [("end", two.it.pid, two.it.number)] and two.it.number != one.it.number
    three = Run(loop, "exec sleep 600", timeout=None, swept=True)
    end_all()
    assert recorder.told[2:] == [("ended", three.it.pid), ("end all",)]


def test_others_are_not_swept(loop: Loop, recorder: Recorder) -> None:
    assert Run(loop, 'echo "${MARK-none}"').end().stdout == b"none\n"
    Run(loop, "exec sleep 600", timeout=0.05).end()
    Run(loop, "exec sleep 600", timeout=None)
    assert recorder.told == []
    end_all()
    assert recorder.told == [("end all",)]


# -- our own end

def test_at_our_end_nobody_is_left_but_who_outlives_us(loop: Loop, tmp_path: Path) -> None:
    one = Run(loop, f"trap '' TERM; sleep 600 & echo $! >{tmp_path}/one; wait", timeout=None)
    two = Run(loop, f"echo $$ >{tmp_path}/two; exec sleep 600", timeout=None, outlives=True)
    three = Run(loop, "exec sleep 600", timeout=None)
    grandchild, stays = one.until(tmp_path / "one"), two.until(tmp_path / "two")
    end_all()
    assert three.it.pid not in module._alive and is_gone(three.it.pid)
    assert not one.ends and one.it.pid not in module._alive
    with pytest.raises(ChildProcessError):          # it was reaped
        os.waitpid(one.it.pid, os.WNOHANG)
    wait("the grandchild ends", lambda: is_gone(grandchild))
    assert not is_gone(stays) and module._alive[stays] is two.it
    two.it.kill()
    assert two.end().status == -signal.SIGTERM


def test_end_all_does_not_mind_one_that_somebody_else_has_reaped(loop: Loop) -> None:
    run = Run(loop, "exit 0", timeout=None)
    os.waitpid(run.it.pid, 0)
    end_all()
    assert run.it.pid not in module._alive


def test_to_kill_one_that_somebody_else_has_reaped_is_nothing(loop: Loop) -> None:
    run = Run(loop, "exit 3", timeout=None)
    os.waitpid(run.it.pid, 0)
    run.it.kill()
    assert run.end() == Exit(255)


def test_of_one_that_somebody_else_has_reaped_nothing_is_known(loop: Loop) -> None:
    run = Run(loop, "exit 3", timeout=None)
    os.waitpid(run.it.pid, 0)
    reap()
    assert run.ends == [Exit(255)] and not run.ends[0].clean
    assert run.it.pid not in module._alive


# -- what it gets

def test_its_environment(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TZ", "HOME", "TMPDIR", "L4IP_SANDBOX_VERSION", "SECRET"):
        monkeypatch.setenv(name, f"of {name}")
    monkeypatch.setenv("PATH", "/opt/x:relative::/opt/y")
    path = f"/opt/x:/opt/y:{module.SEARCH}"
    assert search_path() == path
    assert environment() == {"PATH": path, "LC_ALL": "C", "TZ": "of TZ", "HOME": "of HOME", "TMPDIR": "of TMPDIR",
                             "L4IP_SANDBOX_VERSION": "of L4IP_SANDBOX_VERSION"}
    monkeypatch.delenv("TZ")
    assert "TZ" not in environment()
    assert Run(loop, 'echo "$LC_ALL $HOME ${SECRET-none}"').end().stdout == b"C of HOME none\n"
    assert Run(loop, 'echo "$ONE ${HOME-none}"', env={"ONE": "1"}).end().stdout == b"1 none\n"


def test_which_program_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for directory in (first, second):
        directory.mkdir()
        (directory / "tool").write_text("#!/bin/sh\n")
        (directory / "tool").chmod(0o755)
    monkeypatch.setenv("PATH", f"{first}:{second}")
    assert find_program("tool") == str(first / "tool")
    (first / "tool").chmod(0o644)
    assert find_program("tool") == str(second / "tool")
    (second / "tool").unlink()
    (second / "tool").mkdir()
    assert find_program("tool") is None and find_program(str(first / "tool")) is None
    monkeypatch.chdir(tmp_path)
    (first / "tool").chmod(0o755)
    assert find_program("a/tool") == "a/tool"


@pytest.mark.parametrize(("number", "words"), [
    (errno.ENOENT, "x: no such program"),
    (errno.EACCES, "x: cannot be executed: denied"),
    (errno.ENOEXEC, "x: cannot be executed: denied"),
    (errno.EAGAIN, "x: cannot be started: too many processes"),
    (errno.EMFILE, "x: cannot be started: too many open files: raise the limit of this process"),
    (errno.E2BIG, "x: cannot be started: denied"),
])
def test_why_one_cannot_be_started(number: int, words: str) -> None:
    assert module._why_not("x", OSError(number, "denied")) == words


def test_no_descriptor_is_left(loop: Loop) -> None:
    Run(loop, "exit 0").end()
    before = set(os.listdir("/dev/fd"))
    assert Run(loop, "echo x; echo y >&2", stdin=b"z").end() == Exit(0, b"x\n", b"y\n")
    failed: list[Exit] = []
    Child(loop, ("/no/such/tool",), timeout=None, done=failed.append)
    assert not failed
    loop.later(0.05, loop.stop)
    loop.run()
    assert [(end.status, end.errno) for end in failed] == [(None, errno.ENOENT)]
    assert set(os.listdir("/dev/fd")) == before


def test_one_that_is_no_program_is_told_as_such(loop: Loop, tmp_path: Path) -> None:
    (tmp_path / "tool").write_text("x")
    failed: list[Exit] = []

    def done(end: Exit) -> None:
        failed.append(end)
        loop.stop()

    Child(loop, (str(tmp_path / "tool"),), timeout=60.0, done=done)
    loop.run()
    assert failed == [Exit(None, error=f"{tmp_path}/tool: cannot be executed: Permission denied", errno=errno.EACCES)]


def test_it_is_not_done_twice(loop: Loop) -> None:
    run = Run(loop, "exec sleep 600", timeout=None)
    run.it.raised()
    run.it.raised()
    end = run.end()
    assert end.error == f"/bin/sh: given up: {INTERNAL}" and end.status is None
    run.it._gone()
    run.it._lose()
    assert len(run.ends) == 1


def test_a_child_that_is_not_swept_has_no_number(loop: Loop) -> None:
    one, two = Run(loop, "exit 0", swept=True), Run(loop, "exit 0")
    assert one.it.number > 0 == two.it.number
    one.loop.later(60.0, loop.stop)
    while not (one.ends and two.ends):
        loop.run()
