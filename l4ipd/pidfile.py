"""The pid file: a lockfile that says who runs, and a lock of the kernel's on it that says whether it still does.

The file alone proves nothing: after a crash it stays, and its number may belong to somebody else by now. So the daemon
that owns it keeps it flock(2)ed; the kernel lets go when the process is gone, however that happened.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from types import TracebackType

import lockfile
from daemon.pidfile import TimeoutPIDLockFile

from l4ipd.numbers import ID, whole


class Running(Exception):
    """Another l4ipd holds the pid file. ``pid`` may be None while it is just starting."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


def clear(path: str) -> int | None:
    """Look for a pid file at ``path``: raise :class:`Running` if its owner lives, remove it if it was left behind.

    Returns the pid in the file that was removed, None if there was no file. Raises OSError if it cannot be read or
    removed.
    """
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    try:
        pid = _read(fd)
        if not _lock(fd):
            raise Running(pid)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):    # not another's, made since we looked
                os.unlink(path)
        return pid or 0
    finally:
        os.close(fd)


def check_writable(path: str) -> None:
    """Raise OSError if a pid file could not be made at ``path``. To be called while standard error is still there."""
    probe = f"{path}.{os.getpid()}"
    os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    os.unlink(probe)


class PidFile:
    """A context: the pid file exists, names this process, and is locked."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = TimeoutPIDLockFile(path, -1)   # never wait
        self._fd = -1

    def __enter__(self) -> PidFile:
        try:
            self._file.acquire()
        except (lockfile.AlreadyLocked, lockfile.LockTimeout):
            raise Running(self._file.read_pid()) from None
        except lockfile.LockFailed as error:
            raise OSError(str(error)) from None
        self._fd = os.open(self.path, os.O_RDONLY)
        if not _lock(self._fd) or not self._is_ours():      # somebody took it for one that was left behind
            pid = _read(self._fd)
            os.close(self._fd)
            raise Running(pid)
        return self

    def _is_ours(self) -> bool:
        """Whether what we have locked is still the file at the path, and names us."""
        try:
            return (os.path.samestat(os.fstat(self._fd), os.stat(self.path))
                    and self._file.read_pid() == os.getpid())
        except OSError:
            return False

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        with contextlib.suppress(lockfile.Error, OSError):
            self._file.release()
        os.close(self._fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(fd: int) -> int | None:
    return whole(os.read(fd, 32).strip(), ID)
