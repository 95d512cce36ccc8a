"""Children, closely: what they cost, what they inherit, and those who are not ours, or not any more."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from l4ipd.runtime import child as module
from l4ipd.runtime import reaper
from l4ipd.runtime.child import Child, Exit, adopt_orphans, end_all, reap, seal
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop
from support.child_run import ChildRun


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture(params=["spawned", "forked"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where posix_spawn(3) cannot make a session, a fork does."""
    def without(*words: object, **more: object) -> int:
        raise NotImplementedError

    if request.param == "forked":
        monkeypatch.setattr(os, "posix_spawn", without)


class Run(ChildRun):
    """One of which nobody need hear."""

    def over(self) -> None:
        """It has ended, and nobody has heard of that."""
        os.waitid(os.P_PID, self.it.pid, os.WEXITED | os.WNOWAIT)


def shell(loop: Loop, script: str, timeout: float | None = 60.0, **more: object) -> Run:
    return Run(loop, "/bin/sh", "-c", script, timeout=timeout, **more)


# -- what it costs

@pytest.mark.parametrize("adopts", [False, True])
def test_its_cost_is_what_it_has_worked_and_what_we_have_for_it(loop: Loop, monkeypatch: pytest.MonkeyPatch,
                                                                adopts: bool) -> None:
    """Ours: to start it, and to take what it says; not what we do between."""
    worked, wait4, start = [1000.0], os.wait4, module._start
    monkeypatch.setattr(module, "_reaper", Recorder(adopts))
    monkeypatch.setattr(time, "thread_time", lambda: worked[0])

    def starts(*words: object) -> int:
        worked[0] += 3.0
        return start(*words)                        # type: ignore[arg-type]

    def waits(pid: int, options: int) -> tuple[int, int, object]:
        ended, status, _ = wait4(pid, options)
        return ended, status, SimpleNamespace(ru_utime=0.5, ru_stime=0.25)

    def takes(chunk: bytes) -> bool:
        worked[0] += 10.0
        return False

    monkeypatch.setattr(module, "_start", starts)
    monkeypatch.setattr(os, "wait4", waits)
    run = shell(loop, "echo one; sleep 0.1; echo two", output=takes)
    worked[0] += 500.0
    assert run.end().cost == 3.0 + 2 * 10.0 + 0.5 + 0.25


# -- what it gets

def test_it_can_be_signalled_whatever_we_block(loop: Loop, way: None) -> None:
    code = "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR1])
    try:
        assert Run(loop, sys.executable, "-I", "-S", "-c", code).end() == Exit(0, b"set()\n")
        assert {signal.SIGTERM, signal.SIGUSR1} <= signal.pthread_sigmask(signal.SIG_BLOCK, [])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_it_is_the_program_that_we_have_found_and_knows_nothing_else(loop: Loop, way: None, tmp_path: Path,
                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tool-of-ours").write_text('#!/bin/sh\necho "$ONE ${SECRET-none}"\n')
    (tmp_path / "tool-of-ours").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("SECRET", "of ours")
    assert Run(loop, "tool-of-ours", env={"ONE": "1"}).end() == Exit(0, b"1 none\n")


def test_words_are_bytes_whatever_they_say(loop: Loop, way: None) -> None:
    """As on a command line that is no UTF-8."""
    assert Run(loop, "printf", "%s", b"a\xff\xe2\x82\xac".decode(errors="surrogateescape")).end() == Exit(
        0, b"a\xff\xe2\x82\xac")


@pytest.mark.parametrize("listed", [True, False])
def test_nothing_that_was_left_open_for_us_is_inherited(monkeypatch: pytest.MonkeyPatch, listed: bool) -> None:
    """As far as the system lists it, or by its numbers; and from the first on."""
    if listed:
        if not os.path.isdir("/proc/self/fd"):
            pytest.skip("there is no /proc/self/fd")
        monkeypatch.setattr(module, "SEALED", 3)
    else:
        def unlisted(path: str) -> list[str]:
            raise FileNotFoundError
        monkeypatch.setattr(os, "listdir", unlisted)
    made = [os.open("/dev/null", os.O_RDONLY) for _ in range(3)]
    ours = [*made, 3]                               # that one is open by now, whosever it is
    before = os.get_inheritable(3)
    for fd in ours:
        os.set_inheritable(fd, True)
    seal()
    assert not any(map(os.get_inheritable, ours)) and all(map(os.get_inheritable, range(3)))
    os.set_inheritable(3, before)
    for fd in made:
        os.close(fd)


# -- what it says

def test_all_that_is_left_to_read_is_read(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 1000)
    run = shell(loop, "yes | head -c 50000; yes | head -c 40000 >&2")
    run.over()
    reap()
    assert [(len(end.stdout), len(end.stderr)) for end in run.ends] == [(50000, 40000)]


def test_whoever_takes_what_it_says_may_give_it_up(loop: Loop) -> None:
    def takes(chunk: bytes) -> bool:
        run.it.raised()
        return True

    run = shell(loop, "echo x; exec sleep 600", output=takes)
    assert run.end() == Exit(None, error=f"/bin/sh: given up: {INTERNAL}") and loop.errors.total == 0


def test_a_word_that_cannot_be_given_is_told_with_its_program(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    assert Run(loop, "echo", "a\0b").end().status is None
    assert "please report this: echo is not run" in caplog.text


# -- how it ends

def test_a_loop_that_hears_of_children_already_goes_on_as_it_does(loop: Loop) -> None:
    heard: list[bool] = []

    def hears() -> None:
        heard.append(True)
        reap()

    loop.on_signal(signal.SIGCHLD, hears)
    assert shell(loop, "exit 3").end().status == 3 and heard


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_a_group_that_is_gone_already(loop: Loop, monkeypatch: pytest.MonkeyPatch, error: type[OSError]) -> None:
    """Of one in which only zombies are left, some systems say that it may not be signalled."""
    killpg = os.killpg

    def kills(pid: int, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            killpg(pid, signum)
        raise error

    monkeypatch.setattr(os, "killpg", kills)
    one = shell(loop, "exec sleep 600", timeout=0.05).end()
    assert one.timed_out and one.status == -signal.SIGTERM
    two = shell(loop, "exec sleep 600", timeout=None)
    end_all()
    assert two.it.pid not in module._alive and loop.errors.total == 0


def test_an_end_that_nobody_can_be_told_of_is_noted(loop: Loop, monkeypatch: pytest.MonkeyPatch,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    errors = [ValueError, KeyError]

    def raises(child: Child) -> None:
        raise errors.pop(0)

    run, close_all = shell(loop, "exit 0", timeout=None), Child._close_all
    run.over()
    monkeypatch.setattr(Child, "_close_all", raises)
    reap()
    close_all(run.it)
    assert not run.ends and not errors
    assert [record.getMessage().partition("please report this: ")[2] for record in caplog.records] == [
        "the end of /bin/sh", "that /bin/sh has ended"]


# -- those whom we have adopted

class Recorder(reaper.Nobody):
    """Is told what a reaper is told."""

    def __init__(self, adopts: bool = True) -> None:
        self.adopts = adopts
        self.looks = 0

    def look(self) -> None:
        self.looks += 1


def test_orphans_are_adopted_where_the_system_can(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(module, "_reaper", reaper.Nobody())
    monkeypatch.setattr(reaper, "adopt", lambda: recorder)
    adopt_orphans()
    assert module._reaper is recorder


def test_whom_we_have_adopted_is_reaped_and_looked_after(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Among children of ours: of each its own end is told, and there may be more of the others."""
    recorder = Recorder()
    monkeypatch.setattr(module, "_reaper", recorder)
    reap()                                          # whoever was left by others
    recorder.looks = 0
    reap()
    assert recorder.looks == 0, "there is nobody at all"
    one, two, three = shell(loop, "exit 3"), shell(loop, "echo x; kill -9 $$"), shell(loop, "exec sleep 600")
    for each in (one, two):
        each.over()
    reap()
    assert (one.ends, two.ends, three.ends, recorder.looks) == ([Exit(3)], [Exit(-9, b"x\n")], [], 0)
    adopted = [os.posix_spawn("/bin/sh", ["sh", "-c", "exit 5"], {}) for _ in range(2)]
    four = shell(loop, "exit 4")
    for pid in (*adopted, four.it.pid):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    reap()
    assert (four.ends, three.ends, recorder.looks) == ([Exit(4)], [], 1)
    for pid in adopted:
        with pytest.raises(ChildProcessError):
            os.waitpid(pid, 0)
    three.it.kill()
    assert three.end().status == -signal.SIGTERM and recorder.looks == 1
