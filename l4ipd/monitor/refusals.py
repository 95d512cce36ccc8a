"""What becomes of a refusal that a client of an endpoint has met: a probe decides, and decides at once.

::

                          probe passes: contradicted, less is believed for a while
                      +---------------------------------------------------------------> nothing
    refused, believed |   a moment without an outcome, and others serve
    -----------> CHARGED ----------------------------------------------> OUT --passes--> back at once, contradicted
                      |   probe fails: confirmed                          +--fails-----> down, confirmed
                      +---------------------------------------------------------------> down

    refused, not believed
    -----------> HINT: a probe, one a second; a refused one confirms it -> down; one that passes: nothing

Where a probe is quick, as nearly everywhere, a refusal that nobody confirms changes nothing, and one that is true costs
no time. What is OUT loses its rules but not its sessions: nothing has been proved. A refusal alone never takes out the
last one that serves.
"""

from __future__ import annotations

import logging
import math
from typing import Any, Protocol

from l4ipd.checks.verdict import Leave, Verdict
from l4ipd.model import Endpoint
from l4ipd.monitor.checker import Checker
from l4ipd.monitor.doubt import Doubt
from l4ipd.monitor.schedule import Schedule
from l4ipd.runtime.loop import Timed

MOMENT = 0.05                                       # seconds until the endpoint is taken out undecided
APART = 1.0                                         # seconds between two probes that hints bring about by themselves
SOON = 0.001                                        # seconds
NEVER = float("-inf")
log = logging.getLogger("l4ipd.resets")


class Refused(Protocol):
    """What is asked of the endpoint's monitor."""

    schedule: Schedule[Any]
    endpoint: Endpoint
    checker: Checker
    trouble: str

    @property
    def up(self) -> bool: ...
    @property
    def eligible(self) -> bool: ...
    def take_down(self, verdict: Verdict) -> object: ...


class Refusals:
    """Those of one endpoint. There is none before the first."""

    __slots__ = ("monitor", "doubt", "open", "charged", "out", "_client", "_when", "_asked", "slot")
    quiet = False

    def __init__(self, monitor: Refused, doubt: Doubt | None = None) -> None:
        self.monitor = monitor
        self.doubt = doubt or Doubt()
        self.open: Verdict | None = None            # what no probe has judged yet
        self.charged = False                        # it is believed
        self.out = False                            # the endpoint is down for no other reason
        self._client = ""
        self._when = self._asked = NEVER
        self.slot: list[Timed] | None = None        # it is its own timer

    # -- refused

    def met(self, verdict: Verdict, client: str) -> str:
        """A client met one. Returns what becomes of it: used, haste (a probe is under way), doubted."""
        now = self.monitor.schedule.loop.now
        self.doubt.heard(now)
        if self.charged:
            return "haste"
        if now < self.doubt.hold.until:
            self._ask(verdict, client, now)
            return "doubted"
        if self.monitor.trouble:                    # who should decide?
            return "used" if self._ask(verdict, client, now) else "haste"
        self.open, self._client, self._when, self.charged = verdict, client, now, True
        self.monitor.schedule.loop.set(self, now + MOMENT)
        self.monitor.checker.probe_anew()                   # it may be over at once
        return "used"

    def _ask(self, verdict: Verdict, client: str, now: float) -> bool:
        """A probe at once, if the last one is some time ago; whether it is.

        Clients whose refusals were contradicted before, who may be many and stubborn, have to do with the probes that
        anybody can hasten; the others have some of their own.
        """
        banned = client in self.doubt.clients
        if self.open is None or not banned or self._client in self.doubt.clients:
            self.open, self._client = verdict, client
        self._when = now
        if banned:
            self.monitor.checker.probe_soon()
            return False
        when = max(now, self._asked + APART)
        if self.monitor.checker.probe_by(when):
            self._asked = when
        return when == now

    def due(self, due: float) -> float:
        """When the next probe is to be, which would be ``due``: earlier if the last began before a refusal."""
        soon = max(self.monitor.schedule.loop.now + SOON, self._asked + APART)
        if self.open is None or self.charged or self._client in self.doubt.clients or soon >= due:
            return due
        self._asked = soon
        return soon

    def fire(self) -> None:
        """The probe takes its time: the endpoint is out until that is over."""
        monitor, schedule, refusal = self.monitor, self.monitor.schedule, self.open
        if refusal is None or not monitor.eligible:
            return
        if not (schedule.discarded(monitor, refusal, schedule.loop.now) or schedule.alone(monitor)):
            self.out = True
            monitor.take_down(refusal)

    def raised(self) -> None:
        """To take it out has raised: the probe that is under way will judge."""
        self.charged = False

    # -- judged

    def judged(self, verdict: Verdict, began: float) -> bool:
        """A probe that ``began`` then has said something about the member. Returns whether it is back by that alone."""
        refusal, charged, out = self.open, self.charged, self.out
        if refusal is None:
            return False
        if verdict.passed:
            if began < self._when:
                return False                        # it was asked before
            self.drop()
            if self.monitor.up or out:              # else nobody knows which probe it would have been
                self.doubt.contradicts(self._client)
            if charged:
                self._doubt()
            return out
        if isinstance(verdict, Leave):              # it lives, and need not take anybody
            self.drop()
        elif charged or verdict.code == "L4CON":
            self.drop()
            self.doubt.confirmed()
            if self.monitor.up:
                self.monitor.take_down(refusal)
        return False

    def _doubt(self) -> None:
        seconds = self.doubt.grow(self.monitor.schedule.loop.now)
        log.warning("%s %s: its resets are not believed for %.0f s: %d were contradicted by probes",
                    self.monitor.endpoint.name, self.monitor.endpoint.where, seconds, self.doubt.hold.count)

    def drop(self) -> None:
        """Nothing waits to be judged any more."""
        self.open, self.charged, self.out = None, False, False
        self.monitor.schedule.loop.clear(self)

    @property
    def words(self) -> str:
        """Why its refusals are not believed at present; empty if they are."""
        left = self.doubt.hold.until - self.monitor.schedule.loop.now
        if left <= 0:
            return ""
        return (f"its resets are not believed for {math.ceil(left)} s: "
                f"{self.doubt.hold.count} were contradicted by probes")
