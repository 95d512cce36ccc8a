"""What `l4ipctl show`, SIGUSR1 and the status page tell: one row an endpoint, as data; and one line on the whole."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from l4ipd.model import Endpoint, host_port
from l4ipd.readiness import GATEWAY
from l4ipd.report import warnings
from l4ipd.report.text import ago as ago
from l4ipd.report.text import printable
from l4ipd.report.text import table as _table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from l4ipd.daemon import Daemon
    from l4ipd.monitor.monitor import Monitor
    from l4ipd.overrides import Disabled

UNREADY = 20                                        # clusters that are not ready and named one by one
TAKEN_OUT, NAMED = 10, 3                            # commands that are told of what is disabled, and endpoints of each
Kernel = Mapping[str, "int | None"]                 # rules of ours in the kernel -> connections that each has had


class TakenOut(NamedTuple):
    """By whom an endpoint is disabled, as far as that is known, and from when to when, in seconds since the epoch."""

    since: float
    user: str = ""
    until: float | None = None                      # None: until it is enabled

    def words(self, today: str = "") -> str:
        """In full, or without the day if it is ``today``."""
        since, until = (None if when is None else _minute(when).removeprefix(f"{today} ")
                        for when in (self.since, self.until))
        return (f"disabled{f' by {self.user}' if self.user else ''} since {since}" +
                (f", until {until}" if until is not None else ""))


@dataclass(frozen=True, slots=True)
class Row:
    """One endpoint. ``since`` is seconds since its last change of state."""

    endpoint: str
    address: str
    state: str                                      # see state()
    loaded: str                                     # yes, no, missing (wanted), leaving (not wanted), unknown
    since: float
    verdict: str
    took: float                                     # seconds
    serving: bool = False                           # up, and not held back by the operator
    disabled: TakenOut | None = None                # if the operator has disabled it
    code: str = ""                                  # of the last outcome, LOCAL included; empty before the first
    connections: int | None = None                  # None: not known
    sessions: int | None = None                     # None: not known
    origin: str = ""                                # the source that the member comes from; empty: the configuration
    vips: tuple[str, ...] = ()                      # where clients connect to, address and port each

    def data(self) -> dict[str, object]:
        """For JSON. The keys are part of the interface: l4ipctl(8)."""
        return {"endpoint": self.endpoint, "address": self.address, "state": self.state, "up": self.serving,
                "disabled": self.disabled is not None, "rule": self.loaded, "sessions": self.sessions,
                "connections": self.connections,
                "seconds": round(self.since, 1), "code": self.code, "verdict": self.verdict,
                "milliseconds": round(self.took * 1000, 1), "origin": self.origin, "vips": list(self.vips),
                "disabled_by": self.disabled.user or None if self.disabled else None,
                "disabled_since": round(self.disabled.since) if self.disabled else None,
                "disabled_until": whole(self.disabled.until) if self.disabled else None}


def rows(daemon: Daemon, names: Iterable[str] | None = None, kernel: Kernel | None = None) -> list[Row]:
    """The state of the endpoints in ``names``, by default of all."""
    monitors = daemon.fleet.monitors
    return [row(daemon, monitors[name], kernel) for name in (monitors if names is None else names)]


def row(daemon: Daemon, monitor: Monitor, kernel: Kernel | None = None) -> Row:
    """One endpoint. ``kernel`` is what the kernel says at this moment, where that has been asked."""
    endpoint = monitor.endpoint
    code = "LOCAL" if monitor.trouble else monitor.verdict.code if monitor.verdict else ""
    return Row(endpoint.name, endpoint.where, state(monitor), loaded(daemon, monitor, kernel),
               since(daemon, monitor), printable(verdict(monitor)), monitor.took, monitor.fit,
               taken_out(daemon, endpoint.name), code, connections(daemon, monitor, kernel),
               daemon.sessions.recent().of(endpoint.name), endpoint.origin, vips(endpoint))


def vips(endpoint: Endpoint) -> tuple[str, ...]:
    """Where clients connect to."""
    return tuple(host_port(vip, endpoint.port_words) for vip in endpoint.vips)


def since(daemon: Daemon, monitor: Monitor) -> float:
    """For how many seconds it has been in its state, which may be that the operator has disabled it."""
    override = daemon.fleet.disabled.get(monitor.endpoint.name)
    return daemon.loop.now - monitor.since if override is None else max(0.0, time.time() - override.since)


def taken_out(daemon: Daemon, name: str) -> TakenOut | None:
    """By whom an endpoint is disabled, and until when by the clock as it is now; None: it is not."""
    override = daemon.fleet.disabled.get(name)
    if override is None:
        return None
    until = None if override.until is None else time.time() + override.until - daemon.loop.now
    return TakenOut(override.since, override.user, until)


def whole(when: float | None) -> int | None:
    return None if when is None else round(when)


def verdict(monitor: Monitor) -> str:
    """The last verdict, in words; how far it is from changing anything; how long it is held down yet; and
    whether clients' refusals are believed."""
    doubt = monitor.refusals.words if monitor.refusals is not None else ""
    held = monitor.flapping.words if monitor.flapping is not None else ""
    return "; ".join(filter(None, (_verdict(monitor), held, doubt)))


def _verdict(monitor: Monitor) -> str:
    last = str(monitor.verdict) if monitor.verdict else ""
    if monitor.trouble:
        return f"LOCAL {monitor.trouble}" + (f" (before: {last})" if last else "")
    if monitor.verdict is None:
        return "not checked yet"
    check = monitor.endpoint.checks[0]
    if monitor.up and not monitor.verdict.passed:
        return f"{last} ({-monitor.outcomes.streak} of {check.fall} failed)"
    if monitor.seen == "draining" and monitor.health < 0:
        return f"{last} ({-monitor.health} of {check.fall} failed)"
    if not monitor.up and monitor.verdict.passed:
        return f"{last} ({monitor.outcomes.streak} of {check.rise} passed)"
    return last


def state(monitor: Monitor) -> str:
    """up, down, draining, held or unknown; ``disabled (up)`` where the operator overrides what the probes see,
    ``enabling (up)`` until the first probe after that."""
    if monitor.disabled:
        return f"disabled ({monitor.seen})"
    return "enabling (up)" if monitor.unconfirmed and monitor.up else monitor.seen


def loaded(daemon: Daemon, monitor: Monitor, kernel: Kernel | None = None) -> str:
    """Kernel truth beside check truth."""
    if kernel is None:
        if daemon.steering.rules.stale:
            return "unknown"
        known: Iterable[str] = daemon.steering.rules.have
    else:
        known = kernel
    lines = daemon.steering.lines(monitor)
    there = sum(line in known for line in lines)
    wanted = sum(line in daemon.steering.rules.want for line in lines)
    if there == wanted:
        return "yes" if wanted else "no"
    return "missing" if wanted > there else "leaving"


def connections(daemon: Daemon, monitor: Monitor, kernel: Kernel | None) -> int | None:
    """How many connections its rules have had since each was loaded."""
    counts = [kernel[line] for line in daemon.steering.lines(monitor) if line in kernel] if kernel else []
    known = [count for count in counts if count is not None]
    return sum(known) if known else None


def cluster(daemon: Daemon, name: str) -> dict[str, object]:
    """How it stands with a cluster. For JSON: the keys are part of the interface, l4ipctl(8)."""
    standing = daemon.readiness.standings[name]
    why = printable(standing.why)
    left = [when for each, when in daemon.readiness.left.items() if each in (GATEWAY, name)]
    return {"cluster": name, "ready": standing.ready, "state": standing.state, "reason": why,
            "seconds": round(daemon.loop.now - standing.since, 1), "left": bool(left),
            "text": f"{name} {standing.state}{': ' + why if why else ''}"}


def _readiness(daemon: Daemon) -> list[str]:
    """A line for each cluster that is not ready, up to a few."""
    standings = daemon.readiness.standings
    unready = [name for name, standing in standings.items() if not standing.ready]
    lines = [f"{cluster(daemon, name)['text']}, for {ago(daemon.loop.now - standings[name].since)}"
             for name in unready[:UNREADY]]
    more = [f"and {len(unready) - UNREADY} more that are unready"] if len(unready) > UNREADY else []
    return [*lines, *more]


def _taken_out(daemon: Daemon) -> list[str]:
    """Who has disabled what, since when and until when: a line for what was done at once, the latest first."""
    done: dict[Disabled, list[str]] = {}
    for name, override in daemon.fleet.disabled.items():
        done.setdefault(override, []).append(name)
    latest = sorted(done, key=lambda override: override.since, reverse=True)
    lines = [f"{out.words()}: {_names(done[each])}" for each in latest[:TAKEN_OUT]
             if (out := taken_out(daemon, done[each][0])) is not None]
    rest = sum(len(done[each]) for each in latest[TAKEN_OUT:])
    return [printable(line) for line in lines] + ([f"and {rest} more that are disabled"] if rest else [])


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _minute(when: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(when))


def table(lines: Sequence[Row], width: int = 0) -> list[str]:
    """The rows under their headings, in columns; cut to ``width`` if that is given."""
    return _table([line.data() for line in lines], width)


def summary(daemon: Daemon) -> str:
    """One line on the whole."""
    standings = daemon.readiness.standings.values()
    up = sum(monitor.fit for monitor in daemon.fleet.monitors.values())
    disabled = sum(monitor.disabled for monitor in daemon.fleet.monitors.values())
    parts = [f"{up} of {len(daemon.fleet.monitors)} endpoints up" + (f" ({disabled} disabled)" if disabled else ""),
             f"rules: {len(daemon.steering.rules.want)} wanted, {len(daemon.steering.rules.have)} in the kernel",
             *warnings.troubles(daemon),
             f"running since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(daemon.started))}",
             f"clusters: {sum(standing.ready for standing in standings)} of {len(standings)} ready"]
    return printable("; ".join(parts))


def summaries(daemon: Daemon) -> list[str]:
    """What stands below the table: the line on the whole, how full the kernel's table of sessions is, how sensing
    resets goes, which clusters are not ready, and who has disabled what.
    """
    sensing = daemon.sensing.summary()
    lines = [daemon.nat_usage.summary, printable(sensing)]
    return [summary(daemon), *filter(None, lines), *_readiness(daemon), *_taken_out(daemon)]
