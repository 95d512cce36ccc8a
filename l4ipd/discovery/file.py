"""Members from a file: what ``members:`` holds, as YAML. A thread looks at it once a second, and reads what changed.

A file that is being written is left alone: it counts when it was the same in two looks. A rename over it, a write in
place, and a symbolic link that leads elsewhere now are all the same: the file has another identity, size or time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

from l4ipd.config.members import read_members
from l4ipd.discovery.source import Failed, Said, Wanted, Watcher, too_many
from l4ipd.model import Member
from l4ipd.runtime import regular_file
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop, Timer

LOOK = 1.0                                          # seconds between two looks
STUCK = 30.0                                        # seconds after which a look is late
SIZE_LIMIT = 4 << 20                                # bytes
Version = tuple[int, int, int, int, int]


class Found(NamedTuple):
    """What a look has found: ``members`` are None where there is nothing new, or nothing good, as ``problem`` says."""

    version: Version | None
    members: tuple[Member, ...] | None = None
    problem: str = ""


class FileWatcher(Watcher):
    """One file."""

    def __init__(self, loop: Loop, wanted: Wanted, said: Said, failed: Failed) -> None:
        self.loop, self.wanted, self.said, self.failed = loop, wanted, said, failed
        self._seen: Version | None = None           # in the last look
        self._read: Version | None = None           # what was read, or found wrong
        self._stopped = False
        self._next = Timer(self._look)
        self._late = Timer(self._is_late)

    def start(self) -> None:
        self._look()

    def stop(self) -> None:
        self._stopped = True
        self.loop.drop(self._next)
        self.loop.drop(self._late)

    def raised(self) -> None:
        """A look could not even begin: the next may."""
        if not self._stopped:
            self.loop.move(self._next, self.loop.now + LOOK)
            self.failed(INTERNAL)

    def _look(self) -> None:
        seen, read = self._seen, self._read
        self.loop.aside(lambda: look(self.wanted, seen, read), self._looked)
        self.loop.move(self._late, self.loop.now + STUCK)

    def _is_late(self) -> None:
        self.failed(f"cannot be read within {STUCK:.0f} s: does it lie on a server that does not answer?")

    def _looked(self, found: Found) -> None:
        if self._stopped:
            return
        self.loop.clear(self._late)
        self.loop.move(self._next, self.loop.now + LOOK)
        self._seen = found.version
        if found.members is not None or found.problem:
            self._read = found.version
        if found.members is not None:
            self.said(found.members)
        elif found.problem:
            self.failed(found.problem)


def look(wanted: Wanted, seen: Version | None, read: Version | None) -> Found:
    """In a thread: the file, if it is another than was ``read``, and the same as was ``seen`` last. Raises nothing."""
    path = wanted.source.file
    try:
        version = _version(os.stat(path))
        if version == read or version != seen and seen is not None:
            return Found(version)
        text = regular_file.read(path, SIZE_LIMIT)
        if _version(os.stat(path)) != version:
            return Found(None)
    except OSError as error:
        return Found(None, problem=f"cannot be read: {(error.strerror or str(error)).lower()}")
    if len(text) > SIZE_LIMIT:
        return Found(version, problem=f"is larger than {SIZE_LIMIT >> 20} MB")
    try:
        members, errors = read_members(text, path, wanted.six, wanted.weights)
    except Exception:                               # whatever it is, the loop must hear
        return Found(version, problem=INTERNAL)
    problem = _words(errors) if errors else too_many(members)
    return Found(version, None if problem else members, problem)


def _version(status: os.stat_result) -> Version:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _words(errors: Sequence[str]) -> str:
    more = len(errors) - 1
    return errors[0] + (f" (and {more} more error{'s' * (more > 1)})" if more else "")
