"""Child processes: spawn, feed, collect, time out, reap. Nothing else in the daemon creates one.

A child is spawned (never forked where that can be helped: a spawn costs the loop 0.3 ms, a fork of a large Python 4 to
7), without a shell, in a session of its own, so that it has no terminal of ours to type into, with default signals (an
ipmon that inherits SIGPIPE ignored never dies, FACTS.md 2e-15), with a small fixed environment and no descriptor but
its three pipes. It is done when it is reaped and all that it wrote is read. When its time is up, its group is sent
TERM, and KILL a second later.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from l4ipd.runtime import reaper
from l4ipd.runtime.errno_words import OURS, words
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import READ, WRITE, Loop, Timed

CHUNK = 65536
DRAIN = 64                      # chunks taken after its end; a grandchild may go on writing for ever
GRACE = 1.0                     # seconds between TERM and KILL
SEALED = 4096                   # descriptors that may be open where nobody says which are
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
    cost: float = field(default=0.0, compare=False)     # seconds of a core: its own, and ours to start and read it

    @property
    def clean(self) -> bool:
        """Exit status 0, and nothing to complain about."""
        return self.status == 0 and not self.stderr and not self.timed_out


_alive: dict[int, Child] = {}
_numbers = itertools.count(1)
_reaper = reaper.Nobody()


def environment() -> dict[str, str]:
    """What children get: a path that has the system's tools, and messages in English."""
    kept = {name: os.environ[name] for name in ("TZ", "HOME", "TMPDIR", "L4IP_SANDBOX_VERSION") if name in os.environ}
    return {"PATH": search_path(), "LC_ALL": "C", **kept}


def search_path() -> str:
    """PATH, as far as it names directories that are the same wherever one stands, and the system's own."""
    return ":".join([*filter(os.path.isabs, os.environ.get("PATH", "").split(":")), SEARCH])


def find_program(word: str) -> str | None:
    """The file that ``word`` names: itself when it has a slash, else the first executable in :func:`search_path`."""
    name = _encoded(word)
    directories = [b""] if b"/" in name else os.fsencode(search_path()).split(b":")
    paths = (os.path.join(directory, name) for directory in directories)
    return next((os.fsdecode(path) for path in paths if _is_program(path)), None)


def _is_program(path: bytes) -> bool:
    return os.path.isfile(path) and os.access(path, os.X_OK)


class Child:
    """A running child. ``done(Exit)`` is called once, always from the loop and never from the constructor.

    ``output(chunk)`` gets standard output as it comes, and returns True when it has seen enough: the pipe is closed
    then. Without it, at most ``limit`` bytes are collected for :class:`Exit`, and the same of standard error.
    ``errors(chunk)`` does the same for standard error. ``timeout`` is in seconds; None is for ever. With ``hold_stdin``
    the child's standard input stays open as long as we live, so that it can notice when we do not. A child that
    ``outlives`` us is not ended by :func:`end_all`. What a ``swept`` one leaves behind, even in a session of its own,
    is ended if its time was up, and at our end, as far as :mod:`l4ipd.runtime.reaper` can.

    Many attributes: what it was asked for, what it has said so far, and how near its end it is.
    """

    quiet = False

    def __init__(self, loop: Loop, argv: Sequence[str], *, stdin: bytes = b"", timeout: float | None,
                 done: Callable[[Exit], object], output: Callable[[bytes], bool] | None = None,
                 errors: Callable[[bytes], bool] | None = None, hold_stdin: bool = False, outlives: bool = False,
                 swept: bool = False, limit: int = 1 << 20, env: Mapping[str, str] | None = None) -> None:
        self.loop, self.limit, self.hold_stdin, self.outlives = loop, limit, hold_stdin, outlives
        self.number = next(_numbers) if swept else 0        # for what it leaves behind
        self.pid = 0
        self.timed_out = self._dying = False
        self._program = argv[0]
        self._done: Callable[[Exit], object] | None = done
        self._takers = {"stdout": output, "stderr": errors}
        self._input = memoryview(stdin)
        self._pipes: dict[str, int] = {}
        self._got: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        self.slot: list[Timed] | None = None        # it is its own timer: the end of its time, or of its grace
        self._failure: Exit | None = None           # its end, whatever its exit status will be
        self._cost = -time.thread_time()
        try:
            self._spawn(argv, environment() if env is None else env)
            self.loop.watch(self._pipes["stdout"], READ, self._read_output)
            self.loop.watch(self._pipes["stderr"], READ, self._read_errors)
            self._feed()
            if timeout is not None:
                loop.set(self, loop.clock() + timeout)
        except OSError as error:
            self._fail(_why_not(argv[0], error), error.errno or 0)
        except Exception:                           # a word that no program can be given
            loop.errors.note(f"{argv[0]} is not run")
            self._fail(f"{argv[0]}: cannot be started: {INTERNAL}")
        finally:
            self._cost += time.thread_time()

    def kill(self) -> None:
        """End it: TERM to its group now, KILL a second later. ``done`` still follows."""
        self._signal(signal.SIGTERM)
        self._dying = True
        self.loop.move(self, self.loop.clock() + GRACE)

    def give_up(self) -> None:
        """Its time is up, whoever says so: what it has started ends with it."""
        self.timed_out = True
        self.kill()

    def raised(self) -> None:
        """Whoever takes what it says has raised, or we have: nothing that it does is to be believed any more."""
        self._fail(f"{self._program}: given up: {INTERNAL}")

    # -- starting

    def _spawn(self, argv: Sequence[str], env: Mapping[str, str]) -> None:
        theirs: list[int] = []
        if not self.loop.handles(signal.SIGCHLD):   # before there is a child: it may end before we go on
            self.loop.on_signal(signal.SIGCHLD, reap)
        try:
            for name in ("stdin", "stdout", "stderr"):
                reader, writer = os.pipe()
                mine, other = (writer, reader) if name == "stdin" else (reader, writer)
                self._pipes[name] = mine
                theirs.append(other)
                os.set_blocking(mine, False)
            path = find_program(argv[0])
            if path is None:
                code = errno.EACCES if "/" in argv[0] and os.path.exists(_encoded(argv[0])) else errno.ENOENT
                raise OSError(code, os.strerror(code))
            if self.number:
                env = {**_reaper.mark(self.number), **env}
            self.pid = _start(path, list(map(_encoded, argv)), env, theirs)
            _alive[self.pid] = self
        finally:
            for fd in theirs:
                os.close(fd)

    def _fail(self, words: str, code: int = 0) -> None:
        """It is not to be had: ``done`` hears so, once, when there is nothing left to reap."""
        self._close_all()
        if self._failure is None:
            self._failure = Exit(None, error=words, errno=code)
            if self.pid in _alive:
                self._kill_now()
            else:
                self.loop.later(0, self._gone)

    def _gone(self) -> None:
        if self._failure is not None:
            self._end(self._failure)

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

    def _read_output(self) -> None:
        self._read("stdout")

    def _read_errors(self) -> None:
        self._read("stderr")

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
            return not chunk or self._hand_over(taker, chunk)
        got = self._got[name]
        got += chunk[:self.limit - len(got)]
        return not chunk

    def _hand_over(self, taker: Callable[[bytes], bool], chunk: bytes) -> bool:
        self._cost -= time.thread_time()
        try:
            return taker(chunk)
        finally:
            self._cost += time.thread_time()

    def _close(self, name: str) -> None:
        fd = self._pipes.pop(name, None)
        if fd is not None:
            self.loop.closing(fd)
            os.close(fd)

    def _close_all(self) -> None:
        for name in list(self._pipes):
            self._close(name)

    # -- ending

    def fire(self) -> None:
        """Its time is up, or the second in which it was to heed TERM."""
        if self._dying:
            self._kill_now()
        else:
            self.give_up()

    def _kill_now(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, signum: int) -> None:
        if self.pid in _alive:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signum)

    def _reaped(self, status: int, took: float) -> None:
        """Take what is still in the pipes, but do not wait for grandchildren who hold them open."""
        if not self.loop.errors.shield(f"what {self._program} said last", self._drain):
            self.raised()
        self._close_all()
        if self.timed_out:                          # whoever of its group has not heeded TERM
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        if self.number and self.timed_out:
            _reaper.end(self.pid, self.number)
        elif self.number:
            _reaper.ended(self.pid)
        self._end(self._failure or Exit(os.waitstatus_to_exitcode(status), bytes(self._got["stdout"]),
                                        bytes(self._got["stderr"]), self.timed_out, cost=self._cost + took))

    def _lose(self) -> None:
        self._close_all()
        self._end(self._failure or Exit(None, error=f"{self._program}: given up: {INTERNAL}"))

    def _drain(self) -> None:
        for name in ("stdout", "stderr"):
            for _ in range(DRAIN):
                if name not in self._pipes or self._take(name) is not False:
                    break

    def _end(self, end: Exit) -> None:
        """Let go of everything, and tell; once."""
        self.loop.clear(self)
        done, self._done = self._done, None
        self._takers, self._got, self._input = {}, {}, memoryview(b"")
        if done is not None:
            done(end)


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
        if child.number:
            _reaper.ended(pid)
    _reaper.end_all()


def adopt_orphans() -> None:
    """Have what ``swept`` children leave behind. To be called where nobody forks us any more, before there are any."""
    global _reaper
    _reaper = reaper.adopt()


def seal() -> None:
    """Let children inherit nothing that whoever has started us left open: what Python opens, they never do."""
    try:
        numbers = [int(name) for name in os.listdir("/proc/self/fd")]
    except OSError:
        numbers = list(range(SEALED))
    for fd in numbers:
        with contextlib.suppress(OSError):
            if fd > 2:
                os.set_inheritable(fd, False)


def reap() -> None:
    """Collect every child that has ended: of ours, and of those that we have adopted."""
    if _reaper.adopts:
        _reap_all()
        return
    for pid, child in list(_alive.items()):         # only ours: there may be others in this process
        try:
            ended, status, used = os.wait4(pid, os.WNOHANG)
            took = used.ru_utime + used.ru_stime
        except ChildProcessError:                   # somebody else reaped it: nothing to know any more
            ended, status, took = pid, 0xFF00, 0.0
        if ended:
            del _alive[pid]
            _bury(child, status, took)


def _bury(child: Child, status: int, took: float) -> None:
    """Whoever waits for it hears of its end, and be it that it is not known."""
    errors = child.loop.errors
    if not errors.shield(f"the end of {child._program}", child._reaped, status, took):
        errors.shield(f"that {child._program} has ended", child._lose)


def _reap_all() -> None:
    adopted = False
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status, used = os.wait4(-1, os.WNOHANG)
            if not pid:
                break
            child = _alive.pop(pid, None)
            if child is not None:
                _bury(child, status, used.ru_utime + used.ru_stime)
            adopted = adopted or child is None
    if adopted:
        _reaper.look()


def _start(path: str, argv: list[bytes], env: Mapping[str, str], pipes: Sequence[int]) -> int:
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate(pipes)]
    try:
        return os.posix_spawn(path, argv, dict(env), file_actions=actions, setsid=True, setsigmask=(),
                              setsigdef=DEFAULT_SIGNALS)
    except NotImplementedError:                     # FreeBSD: no POSIX_SPAWN_SETSID
        return _fork(path, argv, env, pipes)


def _fork(path: str, argv: list[bytes], env: Mapping[str, str], pipes: Sequence[int]) -> int:
    import subprocess  # not before a system needs it
    mask = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        process = subprocess.Popen(argv, executable=path, env=dict(env), start_new_session=True,
                                   stdin=pipes[0], stdout=pipes[1], stderr=pipes[2])
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    process.returncode = 0                          # to be reaped by us, and by nobody else
    return process.pid


def _encoded(word: str) -> bytes:
    """As it stands in the configuration, whatever the locale says of other people's text."""
    return word.encode("utf-8", "surrogateescape")


def _why_not(program: str, error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return f"{program}: no such program"
    if error.errno in (errno.EACCES, errno.ENOEXEC):
        return f"{program}: cannot be executed: {error.strerror}"
    if error.errno == errno.EAGAIN:
        return f"{program}: cannot be started: too many processes"
    why = words(error.errno) if error.errno in OURS else error.strerror
    return f"{program}: cannot be started: {why}"
