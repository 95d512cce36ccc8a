"""What the status page shows and what it leaves out: one quick look at every endpoint, whose results are few."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from l4ipd.ipfilter.plan import Tally, tally
from l4ipd.report import matching, warnings

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.monitor.monitor import Monitor

SHOWN = 300                                         # endpoints on one page


@dataclass
class Group:
    """A service: its members, and those of them that are shown."""

    name: str
    members: list[Monitor]
    tally: Tally
    shown: list[Monitor]
    amiss: set[Monitor] = field(default_factory=set)           # members that are not just up, or ruled as wanted

    @property
    def cluster(self) -> str:
        return self.members[0].endpoint.cluster


@dataclass
class Overview:
    """The whole, in the order of the configuration."""

    groups: list[Group] = field(default_factory=list)          # those with something to show
    tones: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("ok", "warn", "bad", "off", "unk"), 0))
    endpoints: int = 0
    services: int = 0
    empty: list[str] = field(default_factory=list)             # services that nobody serves
    ailing: list[Monitor] = field(default_factory=list)        # down, or up with failures
    matched: int = 0
    left_out: int = 0
    unfit: str = ""
    unclear: str = ""                                          # what is wrong with the pattern


def tone(monitor: Monitor) -> str:
    """ok, warn (up, but failing), bad (down, or held down), off (disabled or draining) or unk (never checked)."""
    if monitor.disabled or monitor.seen == "draining":
        return "off"
    if monitor.up and not monitor.held:
        return "warn" if monitor.outcomes.streak < 0 or monitor.trouble else "ok"
    return "bad" if monitor.verdict else "unk"


def look(daemon: Daemon, pattern: str = "", limit: int = SHOWN) -> Overview:
    """Count everybody; choose at most ``limit`` of the endpoints that match, those with something amiss first.

    ``pattern`` may be several, with blanks or commas between them.
    """
    overview = Overview(unfit=warnings.unfit(daemon))
    try:
        matches = matching.matcher(pattern.replace(",", " ").split() or ["*"])
    except matching.Unclear as problem:
        overview.unclear, matches = str(problem), lambda name: False
    odd = _oddly_ruled(daemon)
    chosen: dict[Monitor, None] = {}
    rest: list[Monitor] = []
    for name, members in daemon.fleet.groups.items():
        amiss = set()
        for monitor in members:
            kind = tone(monitor)
            if kind != "ok" or monitor in odd:
                amiss.add(monitor)
            overview.tones[kind] += 1
            if kind in ("bad", "warn"):
                overview.ailing.append(monitor)
            if matches(monitor.endpoint.name):
                overview.matched += 1
                if monitor not in amiss:
                    rest.append(monitor)
                elif len(chosen) < limit:
                    chosen[monitor] = None
        overview.endpoints += len(members)
        overview.services += 1
        count = tally((monitor.endpoint, monitor.eligible) for monitor in members)
        if not count.serving and any(monitor.verdict for monitor in members):
            overview.empty.append(name)
        overview.groups.append(Group(name, members, count, [], amiss))
    chosen |= dict.fromkeys(rest[:limit - len(chosen)])
    overview.left_out = overview.matched - len(chosen)
    for group in overview.groups:
        group.shown = [monitor for monitor in group.members if monitor in chosen]
    overview.groups = [group for group in overview.groups if group.shown]
    return overview


def _oddly_ruled(daemon: Daemon) -> set[Monitor]:
    """Those whose rules in the kernel are not as wanted."""
    different = daemon.steering.rules.want.keys() ^ daemon.steering.rules.have.keys()
    return {daemon.steering.owner[line] for line in different if line in daemon.steering.owner}
