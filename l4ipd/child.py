"""Child processes: spawn, feed, collect, time out, reap. Nothing else in the daemon creates one.

A child is spawned (never forked: a spawn costs the loop 0.3 ms, a fork of a large Python 4 to 7), without a shell, in a
process group of its own, with default signals (an ipmon that inherits SIGPIPE ignored never dies, FACTS.md 2e-15), with
a small fixed environment and no descriptor but its three pipes. It is done when it is reaped and all that it wrote is
read. When its time is up, its group is sent TERM, and KILL a second later.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from l4ipd.loop import READ, WRITE, Loop

CHUNK = 65536
DRAIN = 64                      # chunks taken after its end; a grandchild may go on writing for ever
GRACE = 1.0                     # seconds between TERM and KILL
SEARCH = "/sbin:/usr/sbin:/usr/local/sbin:/bin:/usr/bin:/usr/local/bin"
DEFAULT_SIGNALS = [signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGQUIT,
                   signal.SIGCHLD, signal.SIGUSR1, signal.SIGUSR2]


@dataclass(frozen=True, slots=True)
class Exit:
    """How a child ended."""

    status: int | None              # exit code; minus the number of the signal that killed it; None: never started
    stdout: bytes = b""
    stderr: bytes = b""
    timed_out: bool = False
    error: str = ""                 # why it could not be started
    errno: int = 0

    @property
    def clean(self) -> bool:
        """Exit status 0, and nothing to complain about."""
        return self.status == 0 and not self.stderr and not self.timed_out


_alive: dict[int, Child] = {}


def environment() -> dict[str, str]:
    """What children get: a path that has the system's tools, and messages in English."""
    kept = {name: os.environ[name] for name in ("TZ", "HOME", "TMPDIR", "L4IP_SANDBOX_VERSION") if name in os.environ}
    return {"PATH": search_path(), "LC_ALL": "C", **kept}


def search_path() -> str:
    return f"{os.environ['PATH']}:{SEARCH}" if os.environ.get("PATH") else SEARCH


def find_program(word: str) -> str | None:
    """The file that ``word`` names: itself when it has a slash, else the first executable in PATH and the sbins."""
    return shutil.which(word, path=search_path())


class Child:
    """A running child. ``done(Exit)`` is called once, always from the loop and never from the constructor.

    ``output(chunk)`` gets standard output as it comes, and returns True when it has seen enough: the pipe is closed
    then. Without it, at most ``limit`` bytes are collected for :class:`Exit`, and the same of standard error.
    ``errors(chunk)`` does the same for standard error. ``timeout`` is in seconds; None is for ever. With ``hold_stdin``
    the child's standard input stays open as long as we live, so that it can notice when we do not. A child that
    ``outlives`` us is not ended by :func:`end_all`.
    """

    def __init__(self, loop: Loop, argv: Sequence[str], *, stdin: bytes = b"", timeout: float | None,
                 done: Callable[[Exit], object], output: Callable[[bytes], bool] | None = None,
                 errors: Callable[[bytes], bool] | None = None, hold_stdin: bool = False, outlives: bool = False,
                 limit: int = 1 << 20, env: Mapping[str, str] | None = None) -> None:
        self.loop, self.done, self.limit, self.hold_stdin = loop, done, limit, hold_stdin
        self.outlives = outlives
        self._takers = {"stdout": output, "stderr": errors}
        self.pid = 0
        self.timed_out = False
        self._input = memoryview(stdin)
        self._pipes: dict[str, int] = {}
        self._got: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self._timer = None
        try:
            self._spawn(argv, environment() if env is None else env)
        except OSError as error:
            self._close_all()
            failure = Exit(None, error=_why_not(argv[0], error), errno=error.errno or 0)
            loop.later(0, lambda: self.done(failure))
            return
        if timeout is not None:
            self._timer = loop.later(timeout, self._time_out)

    def kill(self) -> None:
        """End it: TERM to its group now, KILL a second later. ``done`` still follows."""
        self._signal(signal.SIGTERM)
        if self._timer is not None:
            self.loop.clear(self._timer)
        self._timer = self.loop.later(GRACE, lambda: self._signal(signal.SIGKILL))

    # -- starting

    def _spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        ours: dict[str, int] = {}
        theirs: list[int] = []
        if not self.loop.handles(signal.SIGCHLD):   # before there is a child: it may end before we go on
            self.loop.on_signal(signal.SIGCHLD, reap)
        try:
            for name in ("stdin", "stdout", "stderr"):
                reader, writer = os.pipe()
                mine, other = (writer, reader) if name == "stdin" else (reader, writer)
                ours[name] = mine
                theirs.append(other)
                os.set_blocking(mine, False)
            actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(theirs)]
            path = find_program(argv[0])
            if path is None:
                code = errno.EACCES if "/" in argv[0] and os.path.exists(argv[0]) else errno.ENOENT
                raise OSError(code, os.strerror(code))
            self.pid = os.posix_spawn(path, list(argv), dict(env), file_actions=actions, setpgroup=0, setsigmask=(),
                                      setsigdef=DEFAULT_SIGNALS)
        finally:
            self._pipes = ours
            for fd in theirs:
                os.close(fd)
        _alive[self.pid] = self
        self.loop.watch(ours["stdout"], READ, lambda: self._read("stdout"))
        self.loop.watch(ours["stderr"], READ, lambda: self._read("stderr"))
        self._feed()

    # -- talking

    def _feed(self) -> None:
        fd = self._pipes["stdin"]
        try:
            while self._input:
                self._input = self._input[os.write(fd, self._input[:CHUNK]):]
        except BlockingIOError:
            self.loop.watch(fd, WRITE, self._feed)
            return
        except BrokenPipeError:
            pass                                    # it does not want to know; its exit status will tell
        if not self.hold_stdin:
            self._close("stdin")

    def _read(self, name: str) -> None:
        """Read once. At end of file, or when its taker has seen enough, close."""
        if self._take(name):
            self._close(name)

    def _take(self, name: str) -> bool | None:
        """Read once: True at the end, False when there may be more, None when there is nothing at present."""
        try:
            chunk = os.read(self._pipes[name], CHUNK)
        except BlockingIOError:
            return None
        taker = self._takers[name]
        if taker is not None:
            return not chunk or taker(chunk)
        got = self._got[name]
        got += chunk[:self.limit - len(got)]
        return not chunk

    def _close(self, name: str) -> None:
        fd = self._pipes.pop(name, None)
        if fd is not None:
            self.loop.closing(fd)
            os.close(fd)

    def _close_all(self) -> None:
        for name in list(self._pipes):
            self._close(name)

    # -- ending

    def _time_out(self) -> None:
        self.timed_out = True
        self._timer = None
        self.kill()

    def _signal(self, signum: int) -> None:
        if self.pid in _alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signum)

    def _reaped(self, status: int) -> None:
        """Take what is still in the pipes, but do not wait for grandchildren who hold them open."""
        if self._timer is not None:
            self.loop.clear(self._timer)
        for name in ("stdout", "stderr"):
            for _ in range(DRAIN):
                if name not in self._pipes or self._take(name) is not False:
                    break
        self._close_all()
        if self.timed_out:                          # whoever of its group has not heeded TERM
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        self.done(Exit(os.waitstatus_to_exitcode(status), bytes(self._got["stdout"]), bytes(self._got["stderr"]),
                       self.timed_out))


def end_all() -> None:
    """Leave nobody behind: KILL the group of every child that is still there, and reap it."""
    for pid, child in list(_alive.items()):
        if child.outlives:
            continue
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
        del _alive[pid]


def reap() -> None:
    """Collect every child of ours that has ended, and only ours."""
    for pid, child in list(_alive.items()):
        try:
            ended, status = os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:                   # somebody else reaped it: nothing to know any more
            ended, status = pid, 0xFF00
        if ended:
            del _alive[pid]
            child._reaped(status)


def _why_not(program: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{program}: no such program"
    if error.errno in (errno.EACCES, errno.ENOEXEC):
        return f"{program}: cannot be executed: {error.strerror}"
    return f"{program}: cannot be started: {error.strerror}"
