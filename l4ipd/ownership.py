"""Who else may change a file that root relies on: as sshd and sudo look at theirs."""

from __future__ import annotations

import os
import pwd
import stat
from itertools import pairwise


def loose(path: str) -> str:
    """Who but root and we may write a file or put another in its place, in words; empty if nobody, or if it is absent.

    A directory in which everybody may write does not matter to what is not theirs, if it is sticky as /tmp is.
    """
    real = os.path.realpath(path)
    places = [real]
    while places[-1] != os.path.dirname(places[-1]):
        places.append(os.path.dirname(places[-1]))
    try:
        seen = [(place, os.stat(place)) for place in places]
    except OSError:
        return ""
    for place, status in seen:
        if status.st_uid not in (0, os.geteuid()):
            return f"{place} belongs to {_name(status.st_uid)}"
    shared = {place for place, status in seen if _shared(status.st_mode, status.st_gid)}
    sticky = {place for place, status in seen if status.st_mode & stat.S_ISVTX and stat.S_ISDIR(status.st_mode)}
    if real in shared:
        return f"others may write {real}"
    for _, place in pairwise(places):
        if place in shared - sticky:
            return f"others may write in {place}"
    return ""


def _shared(mode: int, gid: int) -> bool:
    return bool(mode & stat.S_IWOTH or (mode & stat.S_IWGRP and gid != 0))


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
