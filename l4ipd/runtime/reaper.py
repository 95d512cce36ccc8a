"""An end to what checks leave behind: processes that have left the session of their command, and go on without it.

A process whose parent has ended becomes a child of ours where the system can do that, and not of init's. Whose it was:

- Linux (PR_SET_CHILD_SUBREAPER, prctl(2)) does not tell, so commands get a mark into their environment, by which what
  they have started is known, too. One that takes the mark out of it is not found.
- FreeBSD (PROC_REAP_ACQUIRE, procctl(2)) knows from which child of ours each process descends, and ends them by that.

Elsewhere such processes survive, as they do when we are killed. Others than checks may leave behind what they like: a
notify program may restart a daemon.
"""

from __future__ import annotations

import contextlib
import os
import signal
import struct
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

MARK = "L4IP_CHECK"
LOOKS = 3                                           # without finding one more, until a command has left nothing
ROUNDS = 100                                        # of looks at the end, however fast they multiply
KEPT = 1000                                         # ended commands that FreeBSD's reaper is asked about at the end
SET_CHILD_SUBREAPER = 36                            # linux/prctl.h
P_PID, REAP_ACQUIRE, REAP_KILL, KILL_SUBTREE = 0, 2, 6, 2       # sys/wait.h, sys/procctl.h
REAPER_KILL = struct.Struct("@iIiIi60x")            # signal, flags, subtree; how many were killed, who could not be


class Nobody:
    """A system that gives orphans to init."""

    adopts = False

    def mark(self, number: int) -> dict[str, str]:
        """What a command gets into its environment."""
        return {}

    def end(self, pid: int, number: int) -> None:
        """The command with this mark, which was process ``pid``, is over and was late: KILL what is left of it."""

    def ended(self, pid: int) -> None:
        """The command that was process ``pid`` is over, and may have left something that is to end with us."""

    def look(self) -> None:
        """Somebody whom we have adopted has ended: there may be more of the same."""

    def end_all(self) -> None:
        """We end: KILL what all commands have left."""


class Subreaper(Nobody):
    """Linux. Raises OSError if it cannot be."""

    adopts = True

    def __init__(self) -> None:
        import ctypes  # as in sockets
        if ctypes.CDLL(None, use_errno=True).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
        self._token = os.urandom(8).hex()          # secrets would bring OpenSSL along, 5 MB
        self._wanted: dict[bytes, int] = {}         # marks -> how many more looks

    def mark(self, number: int) -> dict[str, str]:
        return {MARK: f"{self._token}.{number}"}

    def end(self, pid: int, number: int) -> None:
        self._wanted[f"{self._token}.{number}".encode()] = LOOKS
        self.look()

    def look(self) -> None:
        if self._wanted:
            found = {mark for pid, mark in _adopted() if mark in self._wanted and _kill(pid)}
            self._wanted = {mark: LOOKS if mark in found else left - 1
                            for mark, left in self._wanted.items() if mark in found or left > 1}

    def end_all(self) -> None:
        ours = self._token.encode()
        for _ in range(ROUNDS):
            found = [pid for pid, mark in _adopted() if mark.startswith(ours) and _kill(pid)]
            for pid in found:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, 0)
            if not found:
                return


class Procreaper(Nobody):
    """FreeBSD. Raises OSError if it cannot be."""

    adopts = True

    def __init__(self) -> None:
        import ctypes
        self._ctypes: Any = ctypes
        self._procctl: Any = ctypes.CDLL(None, use_errno=True).procctl
        if self._control(REAP_ACQUIRE, None):
            raise OSError(ctypes.get_errno(), "procctl")
        self._left: deque[int] = deque(maxlen=KEPT)

    def end(self, pid: int, number: int) -> None:
        self._control(REAP_KILL, REAPER_KILL.pack(signal.SIGKILL, KILL_SUBTREE, pid, 0, 0))

    def ended(self, pid: int) -> None:
        self._left.append(pid)

    def end_all(self) -> None:
        while self._left:
            self.end(self._left.popleft(), 0)

    def _control(self, command: int, data: bytes | None) -> int:
        ctypes = self._ctypes
        buffer = None if data is None else ctypes.create_string_buffer(data, len(data))
        result: int = self._procctl(ctypes.c_int(P_PID), ctypes.c_int64(os.getpid()), ctypes.c_int(command), buffer)
        return result


def adopt() -> Nobody:
    """Adopt orphans from now on, if this system can. To be called where nobody forks us any more: it is not inherited.
    """
    with contextlib.suppress(OSError, ImportError, AttributeError):
        if sys.platform.startswith("linux"):
            return Subreaper()
        if sys.platform.startswith("freebsd"):
            return Procreaper()
    return Nobody()


def _adopted() -> Iterator[tuple[int, bytes]]:
    """Children of ours, those that we have started too, and the mark of each."""
    for pid in _children():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
            for word in file.read().split(b"\0"):
                name, _, value = word.partition(b"=")
                if name == MARK.encode():
                    yield pid, value
                    break


def _children() -> list[int]:
    own = os.getpid()
    try:
        with open(f"/proc/self/task/{own}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except OSError:                                 # a kernel without CONFIG_PROC_CHILDREN
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == own]


def _parent(pid: str) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", "rb") as file:
        return int(file.read().rpartition(b")")[2].split()[1])
    return 0


def _kill(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False
