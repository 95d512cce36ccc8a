"""The path of the control socket: ours alone from its first moment, and never taken from another that lives."""

from __future__ import annotations

import errno
import grp
import logging
import os
import socket
import stat

from l4ipd.runtime import directories

BACKLOG = 64                                        # clients that wait to be accepted
log = logging.getLogger("l4ipd.control")


class Unusable(Exception):
    """There can be no socket at that path; says why, and what to do."""


def listen(path: str, group: str | None) -> socket.socket:
    """A socket at ``path`` that only we, and ``group`` if there is one, can connect to. Raises :class:`Unusable`."""
    make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    umask = os.umask(0o177)                         # never open to others, not even for a moment
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise Unusable(f"{path}: {error.strerror or error}: name another path in control") from None
    finally:
        os.umask(umask)
    if group is not None:
        _share(path, group)
    listener.listen(BACKLOG)
    return listener


def make_way(path: str) -> None:
    """Remove the socket of a daemon that has died. Raises :class:`Unusable` for anything else at ``path``."""
    try:
        directories.make(os.path.dirname(path), 0o755)
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise Unusable(f"{path}: is there, and is no socket: remove it, or name another in control")
        if is_served(path):
            raise Unusable(f"{path}: another program listens there, probably another l4ipd: stop it, or name another "
                           "path in control")
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}: name another path in control") from None


def is_served(path: str) -> bool:
    """Whether somebody listens at ``path``; if we are not let in, it is at least not ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (0, errno.EAGAIN, errno.EINPROGRESS, errno.EACCES, errno.EPROTOTYPE)


def _share(path: str, group: str) -> None:
    """Let a group in; if that cannot be done, the socket stays ours alone."""
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
        os.chmod(path, 0o660)
    except KeyError:
        log.error("control: there is no group %s: only root can use %s", group, path)
    except OSError as error:
        log.error("control: %s cannot be given to group %s: %s", path, group, error.strerror)
