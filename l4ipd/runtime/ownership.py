"""Who else may change a file that root relies on: as sshd and sudo look at theirs."""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator

LINKS = 40                                          # that are followed at most, as the system does


def loose(path: str) -> str:
    """Who but root and we may write a file or put another in its place, in words; empty if nobody, or if it is absent.

    Every directory on the way counts, that of a symbolic link, too. One in which everybody may write does not matter to
    what is not theirs, if it is sticky as /tmp is.
    """
    try:
        way = list(_way(path))
    except OSError:
        return ""
    return next((words for place, status in way if (words := _loose(place, status))), "")


def readable(path: str) -> str:
    """Who but its owner and root may read a file, in words; empty if nobody may, or if it is absent."""
    try:
        status = os.stat(path)
    except OSError:
        return ""
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to {_name(status.st_uid)}"
    if status.st_mode & stat.S_IROTH:
        return "everybody may"
    own = status.st_gid == 0 or (os.geteuid() != 0 and status.st_gid == os.getegid())
    return "" if own or not status.st_mode & stat.S_IRGRP else "its group may"


def _way(path: str) -> Iterator[tuple[str, os.stat_result]]:
    """The file and what leads to it, links as well as where they lead, from the root on. Raises OSError."""
    here, links = "/", 0
    yield here, os.lstat(here)
    ahead = os.path.abspath(path).split("/")
    while ahead:
        word = ahead.pop(0)
        if word in ("", "."):
            continue
        if word == "..":
            here = os.path.dirname(here)
            continue
        place = os.path.join(here, word)
        status = os.lstat(place)
        yield place, status
        if not stat.S_ISLNK(status.st_mode):
            here = place
            continue
        links += 1
        if links > LINKS:
            raise OSError(f"{path}: too many links")
        target = os.readlink(place)
        here = "/" if target.startswith("/") else here
        ahead[:0] = target.split("/")


def _loose(place: str, status: os.stat_result) -> str:
    if status.st_uid not in (0, os.geteuid()):
        return f"{place} belongs to {_name(status.st_uid)}"
    if stat.S_ISLNK(status.st_mode) or not _shared(status):
        return ""
    if not stat.S_ISDIR(status.st_mode):
        return f"others may write {place}"
    return "" if status.st_mode & stat.S_ISVTX else f"others may write in {place}"


def _shared(status: os.stat_result) -> bool:
    """Whether its mode lets others write; root's group does not count, nor that of a user who is not root."""
    own = status.st_gid == 0 or (os.geteuid() != 0 and status.st_gid == os.getegid())
    return bool(status.st_mode & (stat.S_IWOTH if own else stat.S_IWOTH | stat.S_IWGRP))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
