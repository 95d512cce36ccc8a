"""A command as a probe: exit status 0 passes, and the first line of what it said is in the verdict.

No shell, no standard input, a session of its own, and a user of its own: ``nobody`` when the daemon is root and
``user`` says nothing else, who may have so many processes and no more. At most ``limit`` commands run at a time; the
others wait, and if one waits until its deadline, that is our trouble. What it has waited it gets back: it has its whole
timeout from when it began. A command that is late is killed with its children; its verdict does not wait for that.
"""

from __future__ import annotations

import os
import pwd
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable

from l4ipd.checks.expect import printable
from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict, local
from l4ipd.runtime import run_as
from l4ipd.runtime.child import Child, Exit, find_program
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop

SAFE_USER = "nobody"
NO_WAIT = 0.02                                      # seconds: a command that began within them has not waited
PROCESSES, PER_PLACE = 1000, 16                     # that a command's user may have, all that it has counted
HEARD = 4096                                        # bytes of its output that are kept


def places() -> int:
    """How many commands may run at the same time."""
    return 4 * (os.cpu_count() or 1)


class Commands:
    """The commands that run, and those that wait for a place."""

    def __init__(self, loop: Loop, limit: int) -> None:
        self.loop, self.limit = loop, limit
        self.running = 0
        self._waiting: deque[Command] = deque()

    def admit(self, command: Command) -> None:
        if self.running < self.limit:
            self.running += 1
            command.begin()
        else:
            self._waiting.append(command)

    def forget(self, command: Command) -> None:
        self._waiting.remove(command)

    def ended(self) -> None:
        """A process is gone: its place goes to who waits longest."""
        self.running -= 1
        if self._waiting and self.running < self.limit:
            self.running += 1
            self._waiting.popleft().begin()


class Command:
    """One run of a command."""

    __slots__ = ("_commands", "_recipe", "_done", "_child", "_out", "_err", "_asked", "_waited")

    def __init__(self, commands: Commands, recipe: Recipe, done: Callable[[Verdict], object]) -> None:
        self._commands, self._recipe = commands, recipe
        self._done: Callable[[Verdict], object] | None = done      # None once it has been called, or never will be
        self._child: Child | None = None
        self._out = self._err = b""                  # the beginning of what it says
        self._asked = commands.loop.clock()
        self._waited = 0.0                          # seconds for a place, not yet given back
        commands.admit(self)

    def begin(self) -> None:
        self._waited = self._commands.loop.clock() - self._asked
        self._child = Child(self._commands.loop, _argv(self._recipe, self._commands.limit), timeout=None,
                            done=self._ended, output=self._hear, errors=self._hear_errors, swept=True)

    def expire(self) -> float | None:
        if self._done is None:
            return None
        if self._child is not None and self._waited > NO_WAIT:
            waited, self._waited = self._waited, 0.0
            return waited
        if self._child is None:
            self._abandon()
            self._say(local(f"no place to run it: {self._commands.limit} commands run already"))
        else:
            self._abandon()
            self._say(Verdict("PROCTOUT", self._words("no end within the timeout")))
        return None

    def cancel(self) -> None:
        if self._done is not None:
            self._abandon()
            self._done = None

    def _abandon(self) -> None:
        if self._child is None:
            self._commands.forget(self)
        else:
            self._child.give_up()

    def _ended(self, end: Exit) -> None:
        self._child = None
        try:
            if self._done is not None:
                self._say(self._judge(end))
        except Exception:
            self._commands.loop.errors.note("the outcome of a command")
            self._say(local(INTERNAL))
        finally:                                    # whoever waits for the place must get it
            self._commands.ended()

    def _judge(self, end: Exit) -> Verdict:
        if end.status is None:
            return local(end.error)
        if end.status == 0:
            return Verdict("PROCOK", self._line() or "exit status 0")
        said = self._err.decode(errors="replace")
        if end.status == run_as.STATUS and said.startswith(run_as.FAILURE):
            return local(printable(self._err[len(run_as.FAILURE):].partition(b"\n")[0], 1024))
        if end.status < 0:
            return Verdict("PROCERR", self._words(f"killed by {_signal_name(-end.status)}"))
        return Verdict("PROCERR", self._words(f"exit status {end.status}"))

    def _say(self, verdict: Verdict) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(verdict)

    def _words(self, what: str) -> str:
        line = self._line()
        return f"{what}: {line}" if line else what

    def _line(self) -> str:
        """The first line that it said, on standard output if there is one."""
        lines = self._out.splitlines() + self._err.splitlines()
        return next((printable(line) for line in lines if line.strip()), "")

    def _hear(self, chunk: bytes) -> bool:
        self._out += chunk[:HEARD - len(self._out)]
        return False                                # never enough: a closed pipe would kill it

    def _hear_errors(self, chunk: bytes) -> bool:
        self._err += chunk[:HEARD - len(self._err)]
        return False


def prepare_command(programs: Iterable[str], user: str | None) -> None:
    """Raises ValueError if one of them could not be run, or not as ``user``."""
    for program in sorted(programs):
        if find_program(program) is None:
            raise ValueError(f"command: {program}: no such program, or it cannot be executed")
    user = user or (SAFE_USER if os.geteuid() == 0 else None)
    if user is None:
        return
    try:
        wanted = pwd.getpwnam(user)
    except KeyError:
        raise ValueError(f"user: {user}: no such user") from None
    if os.geteuid() not in (0, wanted.pw_uid):
        raise ValueError(f"user: {user}: only root can run a command as another user")


def _argv(recipe: Recipe, places: int) -> list[str]:
    user = recipe.method.user or SAFE_USER
    if os.geteuid() != 0 or user == "root":
        return list(recipe.command)
    most = max(PROCESSES, places * PER_PLACE)
    return [sys.executable, "-I", "-S", os.path.abspath(run_as.__file__), user, str(most), *recipe.command]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
