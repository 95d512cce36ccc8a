"""What every source of members has in common: who asked for it, what it said last, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from l4ipd.model import Member, Source

MOST = 1000                                         # members that one source may give
Said = Callable[[tuple[Member, ...]], object]
Failed = Callable[[str], object]


class Wanted(NamedTuple):
    """A source, and what its members have to be like: two clusters may share one."""

    source: Source
    six: bool                                       # IPv6
    weights: bool                                   # rules have tags, so that there may be more than one for a member

    @property
    def key(self) -> str:
        """What the state file calls it."""
        servers = "".join(f" {address} {port}" for address, port in self.source.servers)
        return f"{self.source.origin}{servers} {'inet6' if self.six else 'inet'}"


class Watcher:
    """Keeps one source in sight. ``said(members)`` hears when it was read or has answered, ``failed(why)`` when not.

    Neither is called before :meth:`start`, nor after :meth:`stop`.
    """

    def start(self) -> None: ...
    def stop(self) -> None: ...


def too_many(members: Sequence[object]) -> str:
    """Why so many are not taken; empty if they are not that many."""
    return f"gives {len(members)} members, and more than {MOST} are not taken" if len(members) > MOST else ""
