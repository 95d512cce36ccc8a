"""Where ipmon's lines come from: an ipmon of our own, or the file into which the system's own ipmon writes.

Both take care of themselves: what dies is started again with a back-off, what is rotated is opened again. Lines go to
``take(line)`` as they come, never many at a time; ``told(problem)`` hears why nothing can come, and "" when it can.

Nobody but one process may read /dev/ipl, so none of ours may outlive us, not even after a kill -9. No two systems agree
on how a process learns that its parent died, so a shell of four lines stands between: it holds the reading end of a
pipe whose other end only we have, and ends ipmon when that pipe does. That needs nothing but POSIX.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Collection

from l4ipd.ipfilter.rdr import explain
from l4ipd.model import Words
from l4ipd.resets.ipmon import Lines, is_record
from l4ipd.resets.other_name import NAME, OtherName
from l4ipd.runtime.child import Child, Exit, find_program
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop, Timer
from l4ipd.runtime.numbers import ID, whole

SHELL = "/bin/sh"
KEEPER = """exec 3<&0
"$@" </dev/null 3<&- & child=$!
{ while read -r line; do :; done; kill "$child"; } <&3 3<&- >/dev/null 2>&1 & watcher=$!
exec 3<&- 2>/dev/null
wait "$child"; status=$?
kill "$watcher"; wait "$watcher"
exit "$status"
"""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0                # seconds between two starts of ipmon
LEFT_OUT = "a line of ipmon's is left out"
SETTLED = 0.3                                       # seconds after which a child that is still there works
STEADY = 60.0                                       # seconds after which a death is no longer one in a row
CHUNK = 65536
POLL = 0.1                                          # seconds between two looks at a log file
PAUSE = 1.0                                         # seconds after an internal error
PATIENCE = 5.0                                      # seconds that a rotated file may be absent
KEPT = 3                                            # files that were rotated, the last one included, that are read
OTHERS_AGAIN = 2.0                                  # seconds until another ipmon is looked for a second time
LISTING_LIMIT = 16 << 20                            # bytes of a listing of all processes
Take = Callable[[bytes], object]
Told = Callable[[str], object]


class Ipmon:
    """Keeps an ipmon running. ``began()`` is called before each start."""

    def __init__(self, loop: Loop, words: Words, pidfile: str, take: Take, told: Told,
                 began: Callable[[], object] = lambda: None) -> None:
        self.loop, self.words, self.pidfile, self.take, self.told, self.began = loop, words, pidfile, take, told, began
        self.starts = 0
        self._name = OtherName(f"{pidfile.removesuffix('.pid')}.d")
        self._child: Child | None = None
        self._lines = Lines()
        self._wait = FIRST_WAIT
        self._since = 0.0
        self._stopped = False
        self._works = Timer(self._is_well)
        self._again = Timer(self.start)

    def start(self) -> None:
        program = find_program(self.words[0])
        if program is None:
            self._retry(f"{self.words[0]}: no such program: name it in the configuration, ipfilter.ipmon")
            return
        self.began()
        self._lines = Lines()
        self.starts += 1
        self._since = self.loop.clock()
        # 4.1 always writes a pid file: not over that of the system's ipmon (FACTS.md 2f)
        self._child = Child(self.loop, (SHELL, "-c", KEEPER, "l4ipd", self._name.of(program), *self.words[1:], "-v",
                                        "-P", self.pidfile),
                            timeout=None, done=self._ended, output=self._took, hold_stdin=True)
        self.loop.set(self._works, self._since + SETTLED)

    def stop(self) -> None:
        self._stopped = True
        self.loop.drop(self._works)
        self.loop.drop(self._again)
        if self._child is not None:
            self._child.kill()
        with contextlib.suppress(OSError):
            os.unlink(self.pidfile)
        self._name.remove()

    def raised(self) -> None:
        """One of our timers has raised: whatever was to happen happens later."""
        if not self._stopped and self._child is None:
            self._retry(INTERNAL)

    def _took(self, chunk: bytes) -> bool:
        return self._stopped or self.loop.errors.each(LEFT_OUT, self._take, self._lines.feed(chunk))

    def _take(self, line: bytes) -> bool:
        self.take(line)
        return self._stopped                        # by what the line has brought about

    def _is_well(self) -> None:
        self.told("")

    def _ended(self, end: Exit) -> None:
        self._child = None
        if self._stopped:
            return
        self.loop.clear(self._works)
        if self.loop.clock() - self._since > STEADY:
            self._wait = FIRST_WAIT
        status = end.status if end.status is None or end.status <= 128 else 128 - end.status     # as shells tell it
        said = end.stderr.decode(errors="replace")
        words = end.error.removeprefix(f"{SHELL}: ") or explain(status, said, timed_out=False)
        self._retry(words if words.startswith("ipmon") else f"ipmon: {words}")

    def _retry(self, words: str) -> None:
        self.loop.set(self._again, self.loop.clock() + self._wait)      # whatever becomes of what is told
        self._wait = min(LONGEST_WAIT, self._wait * 2)
        self.told(words)


class Tail:
    """One open file, of which the end is read. Raises OSError if there is none, or it is none."""

    def __init__(self, path: str) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
        status = os.fstat(self.fd)
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
            self.close()
            raise OSError(errno.EINVAL, "Is a directory" if stat.S_ISDIR(status.st_mode) else "Is no file")
        self.identity = status.st_dev, status.st_ino
        self.position = 0
        self.lines = Lines()
        self.spoken = False                         # a record of ipmon's was in it

    def close(self) -> None:
        os.close(self.fd)

    def skip(self, offset: int, whence: int) -> None:
        with contextlib.suppress(OSError):          # a named pipe has no end
            self.position = os.lseek(self.fd, offset, whence)

    def read(self) -> tuple[list[bytes], bool]:
        """The lines that are complete now, and whether there may be more at once."""
        try:
            chunk = os.read(self.fd, CHUNK)
        except BlockingIOError:                     # a named pipe with nothing in it
            chunk = b""
        self.position += len(chunk)
        lines = self.lines.feed(chunk)
        self.spoken = self.spoken or any(map(is_record, lines))
        return lines, len(chunk) == CHUNK

    def rewind_if_cut(self) -> None:
        status = os.fstat(self.fd)
        if status.st_size < self.position and stat.S_ISREG(status.st_mode):
            self.position = os.lseek(self.fd, 0, os.SEEK_SET)
            self.lines = Lines()                    # the rest of a line is gone


class LogFile:
    """Follows a file that somebody else writes, over rotation and truncation. What it holds at the start is old.

    Who writes it is told of a rotation, or notices it, some time after the new file is there: the old one is read on,
    until ipmon has written into the new one. ``opened()`` is called for each.
    """

    def __init__(self, loop: Loop, path: str, take: Take, told: Told,
                 opened: Callable[[], object] = lambda: None) -> None:
        self.loop, self.path, self.take, self.told, self.opened = loop, path, take, told, opened
        self._tails: list[Tail] = []                # the newest at last
        self._lost: tuple[tuple[int, int], int] | None = None   # what could not be read on, and from where
        self._proven = False                        # it could be read
        self._absent = 0.0                          # since when, 0: it is there
        self._timer = Timer(self._look)

    def start(self) -> None:
        self._open(at_end=True)
        self.loop.set(self._timer, self.loop.clock() + POLL)

    def stop(self) -> None:
        self.loop.drop(self._timer)
        while self._tails:
            self._tails.pop().close()

    def raised(self) -> None:
        """Somewhere on the way of a piece that we have read: that one is lost."""
        self._proven = False
        self.loop.set(self._timer, self.loop.clock() + PAUSE)
        self.told(f"{self.path}: {INTERNAL}")

    def _look(self) -> None:
        """One bounded step: read a piece, or at the end see whether the file is still the one it was."""
        more = False
        try:
            more = self._read()
            if not more:
                self._compare()
        except OSError as error:
            self._give_up()
            self.told(f"{self.path}: {error.strerror}")
        self.loop.set(self._timer, self.loop.clock() + (0 if more else POLL))

    def _read(self) -> bool:
        more = False
        for tail in self._tails:
            lines, has_more = tail.read()
            more = more or has_more
            if tail is self._tails[-1] and not self._proven:
                self._proven = True
                self.told("")
            self.loop.errors.each(LEFT_OUT, self.take, lines)
        return more

    def _compare(self) -> None:
        for tail in self._tails:
            tail.rewind_if_cut()
        while len(self._tails) > 1 and self._tails[-1].spoken:
            self._tails.pop(0).close()
        try:
            status = os.stat(self.path)
        except FileNotFoundError as error:
            now = self.loop.clock()
            self._absent = self._absent or now
            if now - self._absent > PATIENCE:
                self.told(f"{self.path}: {error.strerror}")
            return
        if self._absent:
            self._absent, self._proven = 0.0, False
        if not self._tails or (status.st_dev, status.st_ino) != self._tails[-1].identity:
            self._open(at_end=False)

    def _open(self, at_end: bool) -> None:
        try:
            tail = Tail(self.path)
        except OSError as error:
            self.told(f"{self.path}: {error.strerror}")
            return
        if at_end:
            tail.skip(0, os.SEEK_END)
        elif self._lost is not None and self._lost[0] == tail.identity:
            tail.skip(self._lost[1], os.SEEK_SET)
        self._tails.append(tail)
        if len(self._tails) > KEPT:
            self._tails.pop(0).close()
        self._lost, self._proven = None, False
        self.opened()

    def _give_up(self) -> None:
        """It cannot be read any more: when it can, it is read on from here."""
        if self._tails:
            self._lost = self._tails[-1].identity, self._tails[-1].position
        while self._tails:
            self._tails.pop().close()


def others(loop: Loop, program: str, done: Callable[[list[int]], object]) -> None:
    """Find out which ipmons run beside ours, the ``program``: a record goes to one reader only (FACTS.md 2e-11).

    Whoever is there only once may be what an earlier run left behind, which is about to end. Where ``program`` is no
    ipmon, as in the sandbox, others do not matter.
    """
    path = find_program(program)
    if path is None or "ipmon" not in {os.path.basename(path), os.path.basename(os.path.realpath(path))}:
        return
    names = {"ipmon", NAME, os.path.basename(path)}

    def first(before: list[int]) -> None:
        if before:
            loop.later(OTHERS_AGAIN, lambda: _look_around(loop, names, lambda pids: second(before, pids)))

    def second(before: list[int], pids: list[int]) -> None:
        done([pid for pid in pids if pid in before])

    _look_around(loop, names, first)


def _look_around(loop: Loop, names: Collection[str], done: Callable[[list[int]], object]) -> None:
    def read(end: Exit) -> None:
        done(strangers(end.stdout.decode(errors="replace"), names, os.getpid()))

    Child(loop, ("ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "args="), timeout=5.0, done=read, limit=LISTING_LIMIT)


def strangers(listing: str, names: Collection[str], ours: int) -> list[int]:
    """The processes in a listing of ps that have one of ``names``, and neither are ``ours`` nor descend from it."""
    rows = [row for line in listing.splitlines() if len(row := line.split(None, 2)) == 3 and whole(row[0], ID)]
    parents = {row[0]: row[1] for row in rows}

    def descends(pid: str) -> bool:
        seen = set()
        while pid in parents and pid not in seen:
            if pid == str(ours):
                return True
            seen.add(pid)
            pid = parents[pid]
        return False

    return [int(row[0]) for row in rows
            if row[2].split()[0].rpartition("/")[2].rstrip(":") in names and not descends(row[0])]
