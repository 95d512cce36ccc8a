"""A file of our own that outlives us.

Written at once when that is urgent, within a second of any other change, and at the end; always whole (a temporary file
beside it, synchronized, renamed), and readable by us alone. A disk may be slow or broken: the file is written by a
thread, of which there is never more than one, and a failure is said once and costs nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable

from l4ipd.runtime import directories, regular_file
from l4ipd.runtime.loop import Loop, Timer

PAUSE = 1.0                                         # seconds between two writes
WAIT = 0.05                                         # seconds between two looks whether a write is over
RETRY = 10.0                                        # seconds after which one that failed is tried again
LAST_WAIT = 2.0                                     # seconds that the end of the program waits for the disk
log = logging.getLogger("l4ipd.state")


def write(path: str, text: bytes) -> None:
    """Replace the file as a whole, or leave it as it is. Raises OSError: also where a device, a pipe or such lies."""
    regular_file.spare_others(path)
    directory = os.path.dirname(path) or "."
    directories.make(directory, 0o700)
    draft = f"{path}.{os.getpid()}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    with contextlib.suppress(OSError):              # some file systems will not
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class StateFile:
    """Keeps the file at ``path`` as ``text()`` says, a second after :meth:`changed` if the disk lets it.

    ``failed(words)`` is told why it cannot be written, once for each reason; in the thread.
    """

    def __init__(self, loop: Loop, path: str, text: Callable[[], bytes], failed: Callable[[str], object]
                 ) -> None:
        self.loop, self.path, self._text, self._failed = loop, path, text, failed
        self.failure = ""                           # why the last write failed
        self._failed_at = path
        self.asked = self.tried = 0                 # changes so far; how many of them the last write that is over had
        self._dirty = False
        self._written: tuple[int, int, int] | None = None       # what we have written last, and where it is
        self._shared = False                        # somebody else writes it, which was said
        self._thread: threading.Thread | None = None
        self._timer = Timer(self._write)

    @property
    def unwritable(self) -> str:
        """Why it cannot be written where it is to be now; empty if it can, or nobody has tried yet."""
        return self.failure if self._failed_at == self.path else ""

    def move(self, path: str) -> None:
        """From the next write on it is there."""
        if path != self.path:
            self.path, self._written, self._shared = path, None, False

    def changed(self, urgent: bool = False) -> None:
        """Something that is saved has changed."""
        self.asked += 1
        if urgent or not self._dirty:
            self._dirty = True
            self.loop.set(self._timer, self.loop.now + (0.0 if urgent else PAUSE))

    def close(self) -> None:
        """The last write; waits for it, but not for ever."""
        self.loop.clear(self._timer)
        if self._thread is not None:
            self._thread.join(LAST_WAIT)
        if self._thread is None or not self._thread.is_alive():
            self._begin()
            assert self._thread is not None
            self._thread.join(LAST_WAIT)

    def raised(self) -> None:
        """To write has raised: what is to be saved still is."""
        self._dirty = True
        self.loop.set(self._timer, self.loop.now + RETRY)

    def _write(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self.loop.set(self._timer, self.loop.now + (WAIT if self._dirty else RETRY))        # a slow disk
        elif self._dirty or self.failure:
            self.loop.set(self._timer, self.loop.now + RETRY)
            self._begin()

    def _begin(self) -> None:
        thread = threading.Thread(target=self._save, args=(self._text(), self.asked), name="l4ipd-state", daemon=True)
        thread.start()
        self._thread, self._dirty = thread, False

    def _save(self, text: bytes, asked: int) -> None:
        """In the thread."""
        path, found = self.path, _identity(self.path)
        if self._written is not None and found is not None and found != self._written and not self._shared:
            self._shared = True
            log.error("%s: somebody else has written it since we have: two l4ipd with one state file lose what the "
                      "other has saved; give each one of its own", path)
        try:
            write(path, text)
        except OSError as error:
            words = error.strerror or str(error)
            if (words, path) != (self.failure, self._failed_at):
                self._failed(words)
            self.failure, self._failed_at = words, path
        else:
            if self.failure and path == self._failed_at:
                log.info("%s can be written again", path)
            self.failure = ""
            self._written = _identity(path) if path == self.path else None
        self.tried = asked


def _identity(path: str) -> tuple[int, int, int] | None:
    """Which file that is, and as of when; None if it cannot be told."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns
