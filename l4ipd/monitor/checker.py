"""The checks of an endpoint, made on time.

::

                timer                      all checks passed, or one failed
    WAITING ------------> PROBING ----------------------------------------------> WAITING
       ^   (or QUEUED while no descriptor is free)                                   |
       +-------------- next = previous + pace, on a phase of its name's hash <-------+

There is one timer and at most one probe. Idle, the timer means "start"; in flight, "give up". What an outcome means is
the affair of who hears it: see :mod:`l4ipd.monitor.monitor`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from l4ipd.checks.probe import Probe
from l4ipd.checks.recipe import Asked, Recipe, which
from l4ipd.checks.verdict import PASSED, Leave, Verdict, local
from l4ipd.model import Endpoint
from l4ipd.monitor import pace
from l4ipd.monitor.agent import Agent
from l4ipd.monitor.schedule import Schedule
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Timed

NEVER = float("-inf")
APART = 1.0                                         # seconds between two probes out of their turn


class _Starting:
    """Stands for a probe while it is being made."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


STARTING = _Starting()
NO_AGENTS: Mapping[int, Agent] = {}                # one for all that have none, which are nearly all


class Listener(Protocol):
    """Who hears the outcomes."""

    endpoint: Endpoint

    @property
    def pace(self) -> float:
        """Seconds that it wants from one probe to the next."""

    def heard(self, verdict: Verdict, began: float, took: float) -> float:
        """All checks are through, which ``began`` then and ``took`` so many seconds. Returns the pace from now on."""

    def weigh(self, share: int) -> None:
        """Its agent wants so many percent of its weight."""

    def soonest(self, due: float) -> float:
        """When it wants the next probe, which would be ``due``."""

    def at_its_port(self) -> bool:
        """Whether the last check was of the port that its clients use."""


class Checker:
    """``recipes`` are those of the checks of an endpoint, as ``listener`` has it, or of several endpoints that are
    checked in the same way: they follow the same checker. It is its own timer (:class:`l4ipd.runtime.loop.Timed`).

    There may be ten thousand, each looked at every second: small objects stay in the processor's caches. Many
    attributes: they are one probe's way from one look to the next, and several objects would be larger than this one.
    """

    __slots__ = ("schedule", "listeners", "queued", "stopped", "slot", "asks", "_checks", "_first", "_others",
                 "_agents", "_several", "_timing", "place", "_probe", "_reserved", "_begun", "_prolonged", "_due",
                 "_pace", "_out_of_turn")
    quiet = True                                    # what is new, its listeners tell

    def __init__(self, schedule: Schedule[Any], recipes: Sequence[Recipe], listener: Listener) -> None:
        self.schedule = schedule
        self.listeners: tuple[Listener, ...] = (listener,)
        self._checks = listener.endpoint.checks
        self._first, self._others = recipes[0], tuple(recipes[1:])
        self._agents = {place: Agent(f"{listener.endpoint.name} {listener.endpoint.where}")
                        for place, check in enumerate(self._checks) if check.type == "agent"} or NO_AGENTS
        self._several = len(self._checks) > 1 or bool(self._agents)     # what one comes to is not yet the outcome
        self._timing = schedule.timing("+".join(check.type for check in self._checks))
        self.queued = self.stopped = False
        self.slot: list[Timed] | None = None        # idle: start; in flight: give up
        self.asks = False                           # a listener wants to be asked when the next probe is to be
        self.place = 0                              # which of the checks is in flight, or was the last
        self._probe: Probe | None = None
        self._reserved: Verdict | None = None       # of a list of checks, what it comes to if no later one fails: the
                                                    # member wants to be left, or the first could not be run
        self._begun = 0.0
        self._prolonged = (0.0, 0)                  # the round, and the place in it, that was given more time last
        self._due = 0.0
        self._pace = 0.0                            # seconds between the last two times it was due; 0: not on its phase
        self._out_of_turn = NEVER                   # when somebody last had it probed out of its turn

    @property
    def endpoint(self) -> Endpoint:
        """The one that it is for, or the first of them."""
        return self.listeners[0].endpoint

    @property
    def asks_first(self) -> Asked:
        """See :attr:`Recipe.asks`."""
        return self._first.asks

    # -- when

    @property
    def in_flight(self) -> bool:
        return self._probe is not None or self.queued

    def begin(self) -> None:
        """Let the first probe happen soon: all the first probes are spread over a second."""
        wanted = min(listener.pace for listener in self.listeners)
        self._due = self.schedule.loop.now + pace.first(self.endpoint.name, wanted)
        self.schedule.loop.set(self, self._due)

    def probe_soon(self) -> None:
        """Probe now, or let the probe in flight be it; once a second at most, whoever asks how often.

        Only refusals of clients may bring about more: see :mod:`l4ipd.monitor.refusals`.
        """
        when = max(self.schedule.loop.now, self._out_of_turn + APART)
        if self.slot is None or self._due > when:   # else its turn comes before, or it is in flight
            self.probe_at(when)

    def probe_anew(self) -> None:
        """Probe now, and not at the next tick. One in flight may have begun too early to know."""
        self._abandon()
        if not self.in_flight and not self.stopped:
            self.probe_at(self.schedule.loop.now)
            self.schedule.loop.clear(self)
            self.fire()

    def probe_by(self, when: float) -> bool:
        """Let the next probe be ``when`` at the latest; whether it is then for that reason."""
        if self.in_flight or self.stopped or self._due <= when:
            return False
        self.probe_at(when)
        return True

    def probe_at(self, when: float) -> None:
        """Let the next probe be ``when``, unless one is in flight."""
        if not self.in_flight and not self.stopped:
            self._due = self._out_of_turn = when
            self._pace = 0.0
            self.schedule.loop.set(self, when)

    def makes(self, recipes: Sequence[Recipe], endpoint: Endpoint) -> bool:
        """Whether these checks of an endpoint are those that are made here, at the same pace."""
        return not self.stopped and self._checks == endpoint.checks and (self._first, *self._others) == tuple(recipes)

    def join(self, listener: Listener) -> None:
        """One more listens; it need not wait for its first outcome longer than if it were alone."""
        self.listeners += (listener,)
        self.probe_by(self.schedule.loop.now + pace.first(listener.endpoint.name, listener.pace))

    def speaker(self) -> Listener | None:
        """Who tells what has happened at the port of the member: of several, one."""
        return next((each for each in self.listeners if each.at_its_port()), None)

    def leave(self, listener: Listener) -> None:
        """One does not listen any more. Without any there are no more probes; the one in flight is abandoned."""
        if listener in self.listeners:
            place = self.listeners.index(listener)
            self.listeners = self.listeners[:place] + self.listeners[place + 1:]
        if not self.listeners:
            self.schedule.loop.clear(self)
            self.queued = False
            self.stopped = True
            self._abandon()

    def _abandon(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = self._reserved = None
            self.schedule.landed()

    def _reschedule(self, wanted: float, took: float) -> None:
        """The next probe: one pace after this one was due, on the phase; never in the past."""
        loop = self.schedule.loop
        if wanted == self._pace:
            due = self._due + wanted
        else:
            due = pace.on_phase(self.endpoint.name, self._due, wanted, self.schedule.step)
            self._pace = wanted
        if due <= loop.now:
            due = self._missed(due, took)
        if self.asks:
            due = self._soonest(due)
        self._due = due
        loop.set(self, due)

    def _soonest(self, due: float) -> float:
        self.asks = False
        for listener in self.listeners:
            soonest = listener.soonest(due)
            if soonest != due:
                due, self._pace = soonest, 0.0
        return due

    def _missed(self, due: float, took: float) -> float:
        """When the next probe is to be, since the moment for it is over: now if this one took so long, as those do
        that wait for a silent member; else we are late ourselves, and it has to wait for the next moment."""
        schedule, now = self.schedule, self.schedule.loop.now
        schedule.skipped += int((now - due) / self._pace)
        if took >= self._pace / 2:
            self._pace = 0.0
            return now
        schedule.skipped += 1
        return pace.on_phase(self.endpoint.name, now, self._pace, schedule.step)

    # -- a round: all checks, one after the other

    def fire(self) -> None:
        """The time has come: begin a round if a place is free, or give up."""
        schedule = self.schedule
        if self._probe is not None:
            self._overdue(self._probe)
        elif schedule.flying < schedule.limit:
            schedule.flying += 1
            self.place = 0
            self._begun = schedule.loop.clock()
            self._launch(self._first)
        else:
            schedule.delay(self)

    def _overdue(self, probe: Probe) -> None:
        loop, flight = self.schedule.loop, (self._begun, self.place)
        lost = loop.lost(loop.now - self._checks[self.place].timeout)
        if lost and self._prolonged != flight:
            self._prolonged = flight                # by what it lost while we slept, and not again and again
        else:
            lost = probe.expire() or 0.0
        if lost:
            loop.set(self, loop.now + lost)

    def raised(self) -> None:
        """Something in :meth:`fire` has: this round is over, and the next one must come."""
        if self._probe is not None:
            self.schedule.loop.errors.shield(f"a probe of {self.endpoint.name}", self._probe.cancel)
            self._done(local(INTERNAL))
        elif self.slot is None and not (self.queued or self.stopped):
            self._reschedule(min(listener.pace for listener in self.listeners), 0.0)

    def _launch(self, recipe: Recipe) -> None:
        loop = self.schedule.loop
        loop.set(self, loop.now + self._checks[self.place].timeout)
        self._probe = STARTING
        try:
            probe = self.schedule.start(recipe, self._done)
        except Exception:
            loop.errors.note(f"a probe of {self.endpoint.name}")
            if self._probe is STARTING:
                self._done(local(INTERNAL))
            return
        if self._probe is STARTING:                 # else its verdict has come already
            self._probe = probe

    def _done(self, verdict: Verdict) -> None:
        self._probe = None
        outcome = self._so_far(verdict) if self._several else verdict
        if outcome is None:
            return
        schedule = self.schedule
        took = schedule.loop.clock() - self._begun
        self._timing.note(took)
        schedule.codes[outcome.code] += 1
        wanted = math.inf
        for listener in self.listeners:
            try:
                each = listener.heard(outcome, self._begun, took)
            except Exception:                       # whatever happens, the next probe must come
                schedule.loop.errors.note(f"what a probe of {listener.endpoint.name} means")
                each = listener.pace
            if each < wanted:
                wanted = each
        self._reschedule(wanted, took)
        schedule.landed()

    def _so_far(self, verdict: Verdict) -> Verdict | None:
        """One of several checks is through: the outcome of the round, or None if it goes on."""
        if self.place in self._agents:
            verdict, share = self._agents[self.place].heard(verdict)
            for listener in self.listeners if share is not None else ():
                listener.weigh(share or 0)
        passed, leaves = verdict.code in PASSED, isinstance(verdict, Leave)
        if not passed and verdict.code != "LOCAL":
            if self._others:
                verdict = verdict._replace(text=f"{which(self.endpoint, self.place)}: {verdict.text}")
            if not leaves:
                self._reserved = None
                return verdict
        if not passed and (self._reserved is None or leaves and self._reserved.code == "LOCAL"):
            self._reserved = verdict
        if self.place < len(self._others):         # a later one may have something to say about the member
            recipe = self._others[self.place]
            self.place += 1
            self._launch(recipe)
            return None
        reserved, self._reserved = self._reserved, None
        return reserved or verdict
