"""What each command of l4ipctl does to the daemon; see l4ipctl(8), and ``control`` for how it is asked and answered.

Every answer's lines have stable keys. The last one may have ``error``, ``warnings`` and ``summary``: lists of lines for
people.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from l4ipd.control import session_lines
from l4ipd.control.check_now import Checking
from l4ipd.control.clusters import Clusters
from l4ipd.control.disable import LOOK_EVERY, SETTLE, Disabling, how_long, unsaved_words, user_of
from l4ipd.control.drain import patience
from l4ipd.control.server import Answer, Client, Refusal, Request, end
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.ipfilter.snapshot import Snapshot, clashes, take_snapshot
from l4ipd.monitor.monitor import Monitor
from l4ipd.report import matching, status
from l4ipd.report.text import printable
from l4ipd.runtime.state_file import StateFile

Reload = Callable[[Callable[[bool, list[str]], object]], object]


class Commands:
    """The commands. ``reload(done)`` reads the configuration anew and calls ``done(ok, lines)``."""

    def __init__(self, daemon: Daemon, reload: Reload, file: StateFile) -> None:
        self.daemon, self.loop, self._reload, self.file = daemon, daemon.loop, reload, file

    def by_name(self) -> dict[str, Callable[[Client, Request], object]]:
        return {"show": self.show, "disable": self.disable, "enable": self.enable, "check": self.check,
                "monitor": self.monitor, "reload": self.reload, "rules": self.rules,
                "sessions": self.sessions,
                **Clusters(self.daemon, self.file).by_name()}

    # -- looking

    def show(self, client: Client, request: Request) -> None:
        """One line an endpoint; exit 1 if some are not up."""
        chosen = self._chosen(request, "*")

        def shown(seen: Snapshot) -> None:
            if seen.problem:                        # nor will the sessions be listed
                client.answer(self._rows(chosen, seen, seen.problem))
            else:
                self.daemon.sessions.want(client.later(
                    lambda count: client.answer(self._rows(chosen, seen, count.problem))))

        take_snapshot(self.loop, self.daemon.steering.nat, client.later(shown))

    def _rows(self, chosen: Sequence[Monitor], seen: Snapshot, uncounted: str) -> Iterator[Answer]:
        kernel = None if seen.problem else seen.ours
        all_up = True
        for monitor in chosen:
            row = status.row(self.daemon, monitor, kernel)
            all_up = all_up and row.serving
            yield row.data()
        warnings = [f"no connections are shown: {printable(seen.problem)}"] if seen.problem else []
        if uncounted:
            last, now = self.daemon.sessions.recent(), self.loop.now
            what = f"sessions are as of {status.ago(now - last.began)} ago" if last.known else "no sessions are shown"
            warnings.append(f"{what}: {printable(uncounted)}")
        yield end(0 if all_up else 1, summary=status.summaries(self.daemon), warnings=warnings)

    def sessions(self, client: Client, request: Request) -> None:
        """One line a session, or an endpoint with `count`; exit 1 if they cannot be had."""
        session_lines.answer(self.daemon, client, self._chosen(request, "*"), request.get("count") is True)

    def rules(self, client: Client, request: Request) -> None:
        """One line a rule that is wanted, in the kernel, or in the way; exit 1 if some differ."""
        take_snapshot(self.loop, self.daemon.steering.nat,
                      client.later(lambda seen: client.answer(self._compare(seen))))

    def _compare(self, seen: Snapshot) -> Iterator[Answer]:
        rules = self.daemon.steering.rules
        if seen.problem:
            yield end(1, error=[printable(seen.problem)])
            return
        want = list(rules.want)
        differ = 0
        for line in [*want, *(line for line in seen.ours if line not in rules.want)]:
            wanted, there = line in rules.want, line in seen.ours
            state = "ok" if wanted and there else "missing" if wanted else "leaving"
            owner = self.daemon.steering.owner.get(line)
            differ += state != "ok"
            why = "" if state == "ok" else printable(self._why(line, wanted))
            yield {"rule": line, "state": state, "endpoint": owner.endpoint.name if owner else None,
                   "connections": seen.ours.get(line), "why": why}
        foreign = clashes(seen, want)
        for line, rule, how in foreign:
            yield {"rule": printable(line), "state": "foreign", "endpoint": None, "connections": None,
                   "why": f"not ours, and {how}: it meets {rule.line()}"}
        words = f"{differ} differ" if differ else "nothing differs"
        if foreign:
            words += f"; {len(foreign)} rule{'s' * (len(foreign) > 1)} of others in the way"
        yield end(1 if differ or foreign else 0,
                  summary=[f"rules: {len(want)} wanted, {len(seen.ours)} in the kernel; {words}"])

    def _why(self, line: str, wanted: bool) -> str:
        rules = self.daemon.steering.rules
        if line in rules.held:
            held = rules.held[line]
            return held.words if held.paused else f"ipnat does not {'load' if wanted else 'remove'} it: {held.words}"
        if rules.problem or rules.complaint:
            return rules.problem or rules.complaint
        if not wanted and rules.removal(line) is None:
            return "stays until every endpoint has been checked once"
        return "about to be loaded" if wanted else "about to be removed"

    def monitor(self, client: Client, request: Request) -> None:
        """Events as they happen, until the client hangs up."""
        def tell(event: Event) -> None:
            client.send({"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event.kind, "name": event.name,
                          "text": printable(event.text)})

        client.lasting = True
        client.left = lambda: self.daemon.events.leave(tell)
        self.daemon.events.listen(tell)
        client.acknowledge()

    # -- changing

    def disable(self, client: Client, request: Request) -> None:
        """Take endpoints out; answers when their rules are gone, or says that they are not."""
        wait, seconds = patience(request), how_long(request)
        Disabling(self.daemon, self.file, client, self._chosen(request), request.get("now") is True, wait, seconds)

    def enable(self, client: Client, request: Request) -> None:
        """Put endpoints back, those that are held as well: they are checked, then added."""
        chosen = self._chosen(request)
        fresh = [monitor for monitor in chosen if monitor.disabled or monitor.held]
        names = {monitor.endpoint.name for monitor in fresh}
        self.daemon.fleet.enable(fresh, user_of(client))

        def lines() -> Iterator[Answer]:
            for monitor in chosen:
                name = monitor.endpoint.name
                words = "enabled: to be checked, then added" if name in names else "was not disabled"
                yield {"endpoint": name, "address": monitor.endpoint.where, "state": status.state(monitor),
                       "changed": name in names, "text": f"{name} {words}"}
            unsaved = unsaved_words(self.file, asked) if fresh else []
            yield end(1 if unsaved else 0, warnings=unsaved)

        asked = self.file.asked if fresh else 0
        self._when_saved(client, asked, self.loop.now + SETTLE, lines)

    def _when_saved(self, client: Client, asked: int, until: float, answers: Callable[[], Iterator[Answer]]) -> None:
        """Answer as soon as the state is written, or the time is up."""
        if self.file.tried < asked and self.loop.now <= until:
            again = client.later(lambda: self._when_saved(client, asked, until, answers))
            self.loop.later(LOOK_EVERY, again)
        elif not client.over:
            client.answer(answers())

    def check(self, client: Client, request: Request) -> None:
        """Probe now; the verdicts, as they come."""
        Checking(self.daemon.fleet.schedule, client, self._chosen(request))

    def reload(self, client: Client, request: Request) -> None:
        """Like SIGHUP, and says what has changed, or every error."""
        def done(ok: bool, lines: list[str]) -> None:
            if ok:
                client.send({"text": f"configuration reloaded: {lines[0]}"})
                client.end(0, warnings=list(lines[1:]))
            else:
                client.end(1, error=[*lines, "the configuration was not reloaded: the old one goes on"])

        self._reload(client.later(done))

    # -- helpers

    def _chosen(self, request: Request, default: str | None = None) -> list[Monitor]:
        """The endpoints of ``pattern``, one or a list of them."""
        given = request.get("pattern", default)
        patterns = [given] if isinstance(given, str) else given
        if not isinstance(patterns, list) or not patterns or not all(isinstance(each, str) for each in patterns):
            raise Refusal("which endpoints? a pattern is needed")
        try:
            names = matching.choose(patterns, list(self.daemon.fleet.monitors))
        except matching.Unclear as problem:
            raise Refusal(*map(printable, str(problem).splitlines())) from None
        return [self.daemon.fleet.monitors[name] for name in names]
