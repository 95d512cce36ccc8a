"""The pid file: a lockfile that says who runs, and a lock of the kernel's on it that says whether it still does.

The file alone proves nothing: after a crash it stays, and its number may belong to somebody else by now. So the daemon
that owns it keeps it locked; the kernel lets go when the process is gone, however that happened.

Only we may read it, and the lock is one of fcntl(2) for writing: flock(2) can be had by who may read a file, as those
that older versions have left may be. Such a lock is lost as soon as the process closes any descriptor of the file, so
nothing here opens it again.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from types import TracebackType

import lockfile
from daemon.pidfile import TimeoutPIDLockFile

from l4ipd.runtime import directories
from l4ipd.runtime.numbers import ID, whole

LONGEST = 32                                        # bytes of a pid file


class Running(Exception):
    """Another l4ipd holds the pid file. ``pid`` may be None while it is just starting."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(pid)
        self.pid = pid


def clear(path: str) -> int | None:
    """Look for a pid file at ``path``: raise :class:`Running` if its owner lives, remove it if it was left behind.

    Returns the pid in the file that was removed, None if there was no file. Raises OSError if it cannot be read or
    removed, or is something else.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST:
            raise OSError(errno.EEXIST, "something is there that is no pid file")
        pid = _read(fd)
        if not _lock(fd, fcntl.LOCK_EX) and not _lock(fd, fcntl.LOCK_SH):   # some reader's lock hinders the first only
            raise Running(pid)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):    # not another's, made since we looked
                os.unlink(path)
        return pid or 0
    finally:
        os.close(fd)


def check_writable(path: str) -> None:
    """Raise OSError if a pid file could not be made at ``path``. To be called while standard error is still there.

    Its directory is made if it is missing: /var/run may be empty after a boot.
    """
    directories.make(os.path.dirname(path), 0o755)
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
        umask = os.umask(0o077)
        try:
            self._file.acquire()
        except (lockfile.AlreadyLocked, lockfile.LockTimeout):
            raise Running(self._file.read_pid()) from None
        except lockfile.LockFailed as error:
            raise OSError(str(error)) from None
        finally:
            os.umask(umask)
        try:
            self._fd = os.open(self.path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise Running(None) from None           # who took it for one that was left behind
        if not _lock(self._fd, fcntl.LOCK_EX) or not self._is_ours():   # or is about to
            pid = _read(self._fd)
            os.close(self._fd)
            raise Running(pid if pid != os.getpid() else None)
        return self

    def _is_ours(self) -> bool:
        """Whether what we have locked is still the file at the path, and names us."""
        return self._is_there() and _read(self._fd) == os.getpid()

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self.path))
        except OSError:
            return False

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None,
                 trace: TracebackType | None) -> None:
        with contextlib.suppress(OSError):
            if self._is_there():
                os.unlink(self.path)
        os.close(self._fd)


def _lock(fd: int, kind: int) -> bool:
    """Take a lock, to write or only to read, and say whether it could be had."""
    try:
        fcntl.lockf(fd, kind | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):      # EAGAIN or EACCES: fcntl(2) leaves that to the system
        return False
    return True


def _read(fd: int) -> int | None:
    return whole(os.pread(fd, LONGEST, 0).strip(), ID)
