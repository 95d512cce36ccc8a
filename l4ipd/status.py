"""What `l4ipctl show`, SIGUSR1 and the status page tell: one row an endpoint, as data and as a table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.monitor import Monitor

HEADINGS = ("ENDPOINT", "ADDRESS", "STATE", "RULE", "SINCE", "LAST VERDICT")


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint. ``since`` is seconds since its last change of state."""

    endpoint: str
    address: str
    state: str                                      # up, down, unknown, disabled (up), disabled (down)
    loaded: str                                     # yes, no, wanted (but not in the kernel), leaving
    since: float
    verdict: str
    took: float                                     # seconds


def rows(daemon: Daemon, names: Iterable[str] | None = None) -> list[Row]:
    """The state of the endpoints in ``names``, by default of all."""
    return [row(daemon, daemon.monitors[name]) for name in (daemon.monitors if names is None else names)]


def row(daemon: Daemon, monitor: Monitor) -> Row:
    endpoint = monitor.endpoint
    verdict = str(monitor.verdict) if monitor.verdict else ""
    if monitor.trouble:
        verdict = f"LOCAL {monitor.trouble}" + (f" (before: {verdict})" if verdict else "")
    if monitor.verdict and not monitor.verdict.passed and monitor.up:
        verdict += f" ({-monitor.streak} of {endpoint.checks[0].fall} failed)"
    return Row(endpoint.name, endpoint.where, state(monitor), loaded(daemon, monitor), daemon.loop.now - monitor.since,
               verdict or "not checked yet", monitor.took)


def state(monitor: Monitor) -> str:
    """The state in a word; with what the probes see behind it where the operator overrides that."""
    seen = "up" if monitor.up else "down" if monitor.verdict else "unknown"
    return f"disabled ({seen})" if monitor.disabled else seen


def loaded(daemon: Daemon, monitor: Monitor) -> str:
    """Kernel truth beside check truth."""
    lines = daemon.lines(monitor)
    there = sum(line in daemon.rules.have for line in lines)
    wanted = sum(line in daemon.rules.want for line in lines)
    if daemon.rules.stale:
        return "unknown"
    if there == wanted == 0:
        return "no"
    if there == wanted:
        return "yes"
    return "missing" if wanted > there else "leaving"


def ago(seconds: float) -> str:
    """4s, 12m, 3h, 5d: short, for a column."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def table(lines: Sequence[Row], width: int = 0) -> list[str]:
    """The rows under their headings, in columns; cut to ``width`` if that is given."""
    cells = [HEADINGS, *((row.endpoint, row.address, row.state, row.loaded, ago(row.since), row.verdict) for row in lines)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADINGS) - 1)]
    text = ["  ".join([*(cell.ljust(size) for cell, size in zip(line, widths, strict=False)), line[-1]]) for line in cells]
    return [line[:width] if width else line for line in text]


def summary(daemon: Daemon) -> str:
    """One line on the whole."""
    up = sum(monitor.up for monitor in daemon.monitors.values())
    rules = daemon.rules
    return (f"{up} of {len(daemon.monitors)} endpoints up; {len(rules.want)} rules wanted, {len(rules.have)} in the kernel"
            f"{'; ' + (rules.problem or rules.complaint) if rules.problem or rules.complaint else ''}; "
            f"running since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(daemon.started))}")
