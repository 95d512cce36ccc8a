"""`l4ipctl disable`: take endpoints out, and answer when their rules are gone, or say that they are not.

IPFilter can end sessions only together with their rule (FACTS.md 3-4). Whoever lets them finish has no way back, and is
told so; whoever wants them cut off is told how many are left all the same, and what helps. Who waits for them to
finish is told how many are left meanwhile (:mod:`l4ipd.control.drain`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from l4ipd.config.values import bounded_duration, span
from l4ipd.control.drain import Drain
from l4ipd.control.server import Answer, Client, Refusal, Request, end
from l4ipd.daemon import Daemon
from l4ipd.ipfilter.session_count import Count
from l4ipd.model import Endpoint
from l4ipd.monitor.monitor import Monitor
from l4ipd.report import status
from l4ipd.report.text import printable
from l4ipd.runtime.state_file import StateFile
from l4ipd.runtime.user_name import user_name

SHORTEST, LONGEST = 1.0, 8760 * 3600.0             # seconds that --for may say: to a year
SETTLE = 3.0                                        # seconds that it waits for the rules to be gone
LOOK_EVERY = 0.02                                   # seconds between two looks whether they are
NOW_OR_NEVER = ("their sessions may finish; --now is for now or never: IPFilter ends sessions only together with their "
                "rules, and these are gone")
STICKY = ("sticky: clients that have a session there are still sent there, so that one who comes back before it has "
          "ended keeps them from being empty")
CANNOT_CUT = "sessions are left to finish: this ipnat cannot end them (no -p)"
log = logging.getLogger("l4ipd.control")


def how_long(request: Request) -> float | None:
    """For how many seconds to disable, by ``for``; None: until they are enabled. Raises Refusal."""
    if request.get("for") is None:
        return None
    try:
        return bounded_duration(str(request["for"]), SHORTEST, LONGEST)
    except ValueError as error:
        raise Refusal(f"for: {error}") from None


def user_of(client: Client) -> str:
    """Who asks, if the system tells."""
    return "" if client.user is None else user_name(client.user)


class Disabling:
    """One such command, until its answer is under way. ``wait``: for so many seconds, until no session is left;
    ``seconds``: how long they are to be disabled, None: until they are enabled."""

    def __init__(self, daemon: Daemon, file: StateFile, client: Client, chosen: Sequence[Monitor], now: bool,
                 wait: float | None, seconds: float | None = None) -> None:
        self.daemon, self.file, self.client, self.chosen, self.now = daemon, file, client, chosen, now
        self.wait, self.seconds = wait, seconds
        loaded = self._with_rules()
        self._before = {monitor.endpoint.name for monitor in chosen if monitor.disabled}
        self._late = {name for name in self._before if now and name not in loaded}
        self._drained = not now and any(monitor.endpoint.name in loaded for monitor in chosen)
        had = [group for group in {monitor.endpoint.group: None for monitor in chosen} if daemon.fleet.serving(group)]
        changing = [monitor for monitor in chosen
                    if not monitor.disabled or now and monitor.endpoint.name in loaded]
        changed = {monitor.endpoint.name for monitor in changing}
        retimed = [monitor for monitor in chosen
                   if monitor.endpoint.name not in changed and self._changes_time(monitor)]
        self._retimed = {monitor.endpoint.name for monitor in retimed}
        user = user_of(client)
        daemon.fleet.disable(changing, now, user, seconds)
        daemon.fleet.disable_for(retimed, user, seconds)
        daemon.fleet.settle()                       # one that is held may serve now
        self._warnings = [f"{group}: no member is left" for group in had if not daemon.fleet.serving(group)]
        if now and not self._can_cut:
            self._warnings.append(CANNOT_CUT)
        for line in self._warnings:
            log.warning("disable by the operator: %s", line)
        self._asked = file.asked if changing or retimed else 0
        self._until = daemon.loop.now + SETTLE
        daemon.loop.later(LOOK_EVERY, self._look)   # the next turn plans the rules anew

    def raised(self) -> None:
        """We have, and what became of the rules is not known."""
        self.client.raised()

    @property
    def _can_cut(self) -> bool:
        table = self.daemon.steering.rules.table
        return table.purging != table.removing

    def _with_rules(self) -> set[str]:
        """The endpoints that have a rule in the kernel, as far as we know."""
        owner = self.daemon.steering.owner
        return {owner[line].endpoint.name for line in self.daemon.steering.rules.have if line in owner}

    def _look(self) -> None:
        """Go on as soon as no rule of theirs is in the kernel any more and the state is written, or the time is up."""
        daemon, gone = self.daemon, self._gone()
        if self.client.over:
            return
        if daemon.loop.now <= self._until and not (         # what runs at present might be adding one
                gone and not daemon.steering.rules.busy and self.file.tried >= self._asked):
            daemon.loop.later(LOOK_EVERY, self._look)
        elif gone and self.now and self._can_cut:
            daemon.sessions.want(self.client.later(self._counted), since=daemon.loop.now)
        else:
            self._answer(gone)

    def _gone(self) -> bool:
        """Whether no rule of theirs is in the kernel, as far as we know."""
        return not self.daemon.steering.rules.stale and self._with_rules().isdisjoint(
            monitor.endpoint.name for monitor in self.chosen)

    def _counted(self, count: Count) -> None:
        """The rules are gone, and with them their sessions: those that are left are of rules that had gone before."""
        for monitor in self.chosen:
            endpoint = monitor.endpoint
            if count.problem and endpoint.name in self._late:
                self._warnings.append(f"{endpoint.name}: its rules were gone already; whether sessions of them are "
                                      f"left is not known: {printable(count.problem)}")
            elif not count.problem and count.of(endpoint.name):
                self._warnings.append(left(endpoint, count.by_name[endpoint.name]))
            elif endpoint.name in self._late:
                self._warnings.append(f"{endpoint.name}: its rules were gone already; no session of them is left")
        if not self.client.over:
            self._answer(True)

    def _answer(self, gone: bool) -> None:
        if self.wait is None:
            self.client.answer(self._lines(gone))
        else:
            self.client.answer(self._first_lines(gone), then=lambda: self._wait())

    def _lines(self, gone: bool) -> Iterator[Answer]:
        yield from self._endpoints()
        warnings, fine = self._problems(gone)
        summary = [NOW_OR_NEVER] if gone and self._drained and self._can_cut else []
        yield end(0 if fine else 1, warnings=warnings, summary=[*summary, *self._sticky()])

    # -- waiting

    def _first_lines(self, gone: bool) -> Iterator[Answer]:
        """What is known before anybody waits, and is not the end."""
        yield from self._endpoints()
        for line in [*self._problems(gone)[0], *self._sticky()]:
            yield {"warning": line, "text": f"warning: {line}"}

    def _wait(self) -> None:
        assert self.wait is not None
        Drain(self.daemon, self.client, [monitor.endpoint.name for monitor in self.chosen], self.wait, self._gone,
                 self._waited)

    def _waited(self, exit: int, summary: list[str], error: list[str]) -> None:
        unsaved = unsaved_words(self.file, self._asked)
        if exit and self._drained and self._can_cut:
            summary = [*summary, NOW_OR_NEVER]
        self.client.end(exit or int(bool(unsaved)), summary=summary, error=error, warnings=unsaved)

    # -- words

    def _endpoints(self) -> Iterator[Answer]:
        for monitor in self.chosen:
            name = monitor.endpoint.name
            already = name in self._before
            out = status.taken_out(self.daemon, name)
            yield {"endpoint": name, "address": monitor.endpoint.where, "state": status.state(monitor),
                   "changed": not already, "disabled_until": status.whole(out.until) if out else None,
                   "text": f"{name} {'was disabled already' if already else 'disabled'}{self._how_long(name)}"}

    def _how_long(self, name: str) -> str:
        if self.seconds is not None:
            return f"{', from now on' if name in self._before else ''} for {span(self.seconds)}"
        return ", from now on until it is enabled" if name in self._retimed else ""

    def _changes_time(self, monitor: Monitor) -> bool:
        """Whether it is for another time now that it is disabled."""
        known = self.daemon.fleet.disabled.get(monitor.endpoint.name)
        return known is not None and (self.seconds is not None or known.until is not None)

    def _problems(self, gone: bool) -> tuple[list[str], bool]:
        """What the operator ought to know, and whether all went well nevertheless."""
        warnings, unsaved = list(self._warnings), unsaved_words(self.file, self._asked)
        if not gone:
            why = self.daemon.steering.rules.problem or self.daemon.steering.rules.complaint or "see l4ipctl rules"
            warnings.append(f"their rules may still be in the kernel: {printable(why)}")
        return [*warnings, *unsaved], gone and not unsaved

    def _sticky(self) -> list[str]:
        return [STICKY] if self._drained and any(monitor.endpoint.sticky for monitor in self.chosen) else []


def left(endpoint: Endpoint, number: int) -> str:
    """What is left of what was to be cut off, and what helps."""
    helps = ("stop the service on the member: its RSTs end them" if endpoint.protocol == "tcp" else
             "they end when their clients fall silent")
    return (f"{endpoint.name}: its rules were gone already; sessions of them that are left: {number}; "
            f"IPFilter ends sessions only together with their rules: {helps}")


def unsaved_words(file: StateFile, asked: int) -> list[str]:
    """Why what was asked for would not survive a restart."""
    if file.tried < asked:
        return [f"this is not saved yet: {file.path}: the disk is slow"]
    return [f"this would not survive a restart: {file.path}: {file.failure}"] if file.failure else []
