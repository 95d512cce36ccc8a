"""`l4ipctl check`: probe some endpoints now, and tell each verdict as it comes."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from l4ipd.checks.verdict import Verdict
from l4ipd.control.server import Client
from l4ipd.monitor.checker import APART
from l4ipd.monitor.monitor import Monitor
from l4ipd.monitor.schedule import Schedule
from l4ipd.report import status
from l4ipd.report.text import printable
from l4ipd.runtime.loop import Timer

BATCH, BEAT = 200, 0.02                             # so many probes begin at once, every so many seconds
GRACE = 1.0 + APART                                 # seconds beyond the timeouts


class Checking:
    """One such command, until every verdict is there or the time for it is up.

    Each endpoint is probed out of its turn once a second at most, whoever asks, so that nobody can drive the commands
    that check it. A probe that is in flight already may have seen the world before the operator mended it: its verdict
    does not count, and the next one is asked for at once.
    """

    def __init__(self, schedule: Schedule[Monitor], client: Client, chosen: Sequence[Monitor]) -> None:
        self.schedule, self.client = schedule, client
        self._ahead = deque(chosen)
        self._left: dict[str, None] = {}            # who was asked and has not answered
        self._stale: set[str] = set()               # whose verdict in flight does not count
        self._failed = False
        self._beat = Timer(self._probe_some)
        self._limit = Timer(self._give_up)
        schedule.listen(self._heard)
        client.left = self._stop
        slowest = max(sum(check.timeout * (2 if check.type == "exec" else 1) for check in monitor.endpoint.checks)
                      for monitor in chosen)        # a command may have to wait for a place as long as it may run
        ahead = BEAT * len(chosen) / BATCH
        schedule.loop.set(self._limit, schedule.loop.now + 2 * slowest + ahead + GRACE)
        self._probe_some()

    def raised(self) -> None:
        """One of our timers has raised: the rest cannot be had."""
        self.client.raised()

    def _probe_some(self) -> None:
        for _ in range(min(BATCH, len(self._ahead))):
            monitor = self._ahead.popleft()
            self._left[monitor.endpoint.name] = None
            if monitor.checker.in_flight and not monitor.checker.queued:
                self._stale.add(monitor.endpoint.name)
            monitor.probe_soon()
        if self._ahead:
            self.schedule.loop.set(self._beat, self.schedule.loop.now + BEAT)

    def _heard(self, monitor: Monitor, verdict: Verdict) -> None:
        name = monitor.endpoint.name
        if name not in self._left:
            return
        if name in self._stale:
            self._stale.discard(name)
            del self._left[name]
            self._ahead.append(monitor)             # not from here: it is about to set its own timer
            self.schedule.loop.set(self._beat, self.schedule.loop.now)
            return
        del self._left[name]
        self._failed = self._failed or not verdict.passed
        self.client.send({"endpoint": name, "address": monitor.endpoint.where, "state": status.state(monitor),
                           "passed": verdict.passed, "code": verdict.code, "verdict": printable(str(verdict)),
                           "milliseconds": round(monitor.took * 1000, 1)})
        if not self._left and not self._ahead:
            self.client.end(1 if self._failed else 0)

    def _give_up(self) -> None:
        names = [*self._left, *(monitor.endpoint.name for monitor in self._ahead)]
        self.client.end(1, error=[f"{name}: no verdict in time" for name in names[:20]])

    def _stop(self) -> None:
        self.schedule.loop.drop(self._limit)
        self.schedule.loop.drop(self._beat)
        self.schedule.leave(self._heard)
