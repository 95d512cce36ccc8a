"""Who may have how many descriptors: first what the tools, the sockets and the files need, then the probes.

A gateway that cannot run ipnat is of no use, however many probes it has in flight. So whatever else may be open at the
same time is set aside before probes, waiting sockets and further clients get any; where not even that is there, the
start is refused, and says which number would do.
"""

from __future__ import annotations

import fcntl
import resource
from dataclasses import dataclass

from l4ipd.checks.exec import places
from l4ipd.checks.socket_pool import LISTS, SPARE
from l4ipd.control.server import CLIENTS
from l4ipd.model import Config

UNLIMITED = 1 << 20
LOOP = 3                                            # epoll or kqueue, and the pipe that wakes it
CHILD = 3                                           # the pipes of a program that runs,
SPAWN = 3                                           # and their other ends while one is being started
CLIENTS_LEAST = 2                                   # of each socket
FILES = 3                                           # the state, a configuration that is read, something in passing
LATER = 3                                           # opened when we have looked: pid file, syslog, a way to our parent
INHERITED = 4096                                    # descriptors that are looked at


class TooFew(Exception):
    """There are not enough descriptors; it says how many there have to be."""

    def __init__(self, limit: int, least: int) -> None:
        super().__init__(f"only {limit} open files are allowed, and {least} are the least with which this "
                         f"configuration does, {2 * least} are better: raise the limit (ulimit -n)")


@dataclass(frozen=True)
class Budget:
    """What there is, shared out."""

    clients: int                                    # of the control socket, and of the status page, each at most
    commands: int                                   # of exec checks that may run at the same time
    spare: int                                      # sockets that wait, of each kind
    probes: int                                     # in flight


def raise_limit() -> int:
    """Raise the limit of open files as far as we may; what it is then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (OSError, ValueError):
            pass                                    # then with what there is
    return UNLIMITED if soft == resource.RLIM_INFINITY else soft


def opened() -> int:
    """How many descriptors are open."""
    return sum(map(_is_open, range(INHERITED)))


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


def need(config: Config) -> int:
    """Descriptors that must be there for a configuration, besides those that are open at the start and one probe."""
    kinds = {check.type for cluster in config.clusters for service in cluster.services for check in service.checks}
    count = LOOP + FILES + SPAWN
    count += 1 + CLIENTS_LEAST * (1 + CHILD)        # the control socket: each client may ask for a listing
    count += CHILD                                  # ipnat, for the rules
    count += CHILD                                  # what the tools understand is asked meanwhile
    count += CHILD                                  # how full the kernel's table of sessions is
    count += CHILD                                  # the sessions, for whoever wants to know how many there are
    if config.resets is not None:
        count += 3 + 3 * CHILD                      # ipmon or the log file, now and rotated; ipf for both families, ps
    if config.http is not None:
        count += 1 + CLIENTS_LEAST + CHILD          # a listing for the page
    if config.notify:
        count += CHILD
    if "exec" in kinds:
        count += CHILD
    if "ping" in kinds:
        count += 2
    return count


def share(limit: int, already: int, config: Config) -> Budget:
    """Share ``limit`` descriptors out, of which so many are open ``already``. Raises :class:`TooFew`."""
    least = already + LATER + need(config) + 1
    if limit < least:
        raise TooFew(limit, least)
    rest = limit - least + 1
    more = min(CLIENTS - CLIENTS_LEAST, rest // 32)
    rest -= 2 * more * (1 + CHILD)
    commands = min(places(), 1 + rest // (8 * CHILD))
    rest -= (commands - 1) * CHILD
    spare = min(SPARE, rest // 2 // LISTS) if LISTS else 0
    return Budget(CLIENTS_LEAST + more, commands, spare, rest - LISTS * spare)


class Descriptors:
    """What was shared out at the start, held against configurations that come later. Raises :class:`TooFew`."""

    def __init__(self, config: Config, already: int) -> None:
        self.limit = raise_limit()
        self.budget = share(self.limit, already, config)
        self._need = need(config)

    def probes(self, config: Config) -> int:
        """How many may be in flight with a configuration; below 1: it does not fit in."""
        return self.budget.probes - (need(config) - self._need)

    def refuses(self, config: Config) -> str:
        """Why a configuration does not fit in; empty if it does."""
        missing = 1 - self.probes(config)
        return str(TooFew(self.limit, self.limit + missing)) if missing > 0 else ""
