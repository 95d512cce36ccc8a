"""What an operator ought to know of the daemon's own state, in words; nothing of it is about a member's health."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from l4ipd.report.text import ago

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.ipfilter.reconcile import Reconciler

NAMED = 3                                           # rules that are named one by one


def unfit(daemon: Daemon) -> str:
    """Why the daemon cannot vouch for the rules that steer traffic at present; empty if it can."""
    if daemon.stopping:
        return "stopping"
    if daemon.fleet.reachability.blind:
        return "the gateway is blind: no member has a route"
    rules = daemon.steering.rules
    name = rules.table.name
    if rules.problem or rules.complaint:
        return f"{name}: {rules.problem or rules.complaint}"
    if rules.held:
        return f"{name}: {_refused(rules)[0]}"
    if rules.stale:
        return f"{name}: the kernel's rules have not been read yet"
    if rules.look_only:
        return f"{name}: what it understands is not known yet"
    return ""


def troubles(daemon: Daemon) -> list[str]:
    """Everything that is wrong with us, one thing a line."""
    found = [line for rules in tables(daemon) for line in _of_table(rules)]
    since = daemon.fleet.reachability.blind_since
    if since is not None:
        found.insert(0, f"the gateway is blind, for {ago(daemon.loop.now - since)}: no member has a route; states, "
                        "rules and sessions stay as they are")
    if daemon.nat_usage.trouble:
        found.append(daemon.nat_usage.trouble)
    sensing = daemon.sensing
    if sensing.settings is not None and sensing.listener.problem:
        found.append(f"sensing of resets is lost: {sensing.listener.problem}")
    elif sensing.settings is not None and sensing.deafness.deaf:
        found.append("sensing of resets seems deaf: probes were refused while clients were forwarded, and no reset "
                     "was seen; see l4ipd(8), SENSING RESETS; a reload forgets it")
    waiting = daemon.fleet.schedule.waiting
    if waiting:
        found.append(f"probes are late: {waiting} wait for a free descriptor; raise the limit of open files, "
                     "or probe less often")
    errors = daemon.loop.errors
    count = errors.recent()
    if count:
        found.append(f"internal errors in the last hour: {count}, the last a {errors.last}: see the log, and please "
                     "report it")
    local: dict[str, int] = {}
    for monitor in daemon.fleet.monitors.values():
        if monitor.trouble:
            local[monitor.trouble] = local.get(monitor.trouble, 0) + 1
    found += [f"the gateway cannot probe {count} endpoint{'s' * (count > 1)}, whose state stays: {words}"
              for words, count in list(local.items())[:NAMED]]
    return found + daemon.complaints()


def tables(daemon: Daemon) -> list[Reconciler]:
    """The tables of the kernel that we look after."""
    return [daemon.steering.rules, *daemon.sensing.rules.tables.values()]


def _of_table(rules: Reconciler) -> Iterator[str]:
    name = rules.table.name
    if rules.problem:
        yield f"{name}: {rules.problem}; what is said of rules here is from before"
    elif rules.complaint and not rules.held:
        yield f"{name}: {rules.complaint}"
    for line in _refused(rules):
        yield f"{name}: {line}"
    if rules.contested:
        yield f"{name}: rules are removed, or come back, again and again: another l4ipd with our tag? see the log"


def _refused(rules: Reconciler) -> list[str]:
    refused = [f"{held.words}: {line}" if held.paused else
               f"does not {'load' if line in rules.want else 'remove'} this rule: {line}: {held.words}"
               for line, held in list(rules.held.items())[:NAMED]]
    more = len(rules.held) - len(refused)
    return [*refused, f"and {more} rules more"] if more > 0 else refused
