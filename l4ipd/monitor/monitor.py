"""One endpoint's life: schedule, probe, health, the operator's override.

::

                timer                      all checks passed, or one failed
    WAITING ------------> PROBING ----------------------------------------------> WAITING
       ^   (or QUEUED while no descriptor is free)                                   |
       +-------------- next = previous + pace, on a phase of its name's hash <-------+

There is one timer and at most one probe per endpoint. Idle, the timer means "start"; in flight, "give up". Our own
trouble (verdict LOCAL) never moves health. Whoever owns the monitors is told of every change through :class:`Schedule`.
"""

from __future__ import annotations

import logging
import math
import zlib
from collections.abc import Sequence

from l4ipd.checks.probe import Probe
from l4ipd.checks.recipe import Recipe, which
from l4ipd.checks.verdict import PASSED, Verdict, local
from l4ipd.model import Endpoint
from l4ipd.monitor import health
from l4ipd.monitor.refusals import Refusals
from l4ipd.monitor.schedule import Schedule
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import RATE, Timed

MOMENTS = 10                                        # of a period, at least, to which probes keep
HASTE = 1.0                                         # seconds between two probes out of turn
SPREAD = 1.0                                        # seconds over which the first probes are spread
TRAIL = 60                                          # outcomes that a monitor remembers
TRAIL_MASK = (1 << TRAIL) - 1
log = logging.getLogger("l4ipd.probe")


class _Starting:
    """Stands for a probe while it is being made."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


STARTING = _Starting()


class Monitor:
    """An endpoint under watch, and its own timer (:class:`l4ipd.runtime.loop.Timed`).

    There may be ten thousand, each looked at every second: small objects stay in the processor's caches.
    """

    __slots__ = ("rounds", "endpoint", "health", "verdict", "since", "took", "tried", "disabled",
                 "unconfirmed", "queued", "stopped", "trouble", "passes", "failures", "changes", "refusals",
                 "hurried", "slot", "_check", "_top", "_fresh", "_probe", "_place", "_first", "_others", "_unrun",
                 "_due", "_hastened", "_pace", "_begun", "_prolonged", "_passing", "_before", "_past", "_usual")

    def __init__(self, rounds: Schedule[Monitor], endpoint: Endpoint, recipes: Sequence[Recipe]) -> None:
        self.rounds, self.endpoint = rounds, endpoint
        self._first, self._others = recipes[0], tuple(recipes[1:])
        self._check = check = endpoint.checks[0]    # the one that sets the pace
        self.health = health.fresh(check.rise)
        self._top = health.top(check.rise, check.fall)
        self.verdict: Verdict | None = None         # the last one that says something about the member
        self.since = rounds.loop.now                # last change of state
        self.took = 0.0                             # seconds, of the last round
        self.tried = False                          # had an outcome, be it LOCAL
        self.disabled = False                       # by the operator
        self.unconfirmed = False                    # enabled, but not yet probed since
        self.queued = self.stopped = False
        self.trouble = ""                           # why the last probe could not be run
        self.passes = self.failures = self.changes = 0
        self.refusals: Refusals | None = None       # since a client of it was refused
        self.hurried = False                        # taken down by such a refusal: probed at the fast pace
        self._fresh = rounds.timing("+".join(check.type for check in endpoint.checks)).fresh
        self._passing = False                       # how the last outcomes in a row, the present run, are
        self._before = 0                            # passes, or failures, before this run
        self._past = 0                              # the trail before this run
        self._usual: Verdict | None = None          # the outcome that would be no news: a pass, on its pace
        self.slot: list[Timed] | None = None        # idle: start; in flight: give up
        self._probe: Probe | None = None
        self._place = 0                             # which of the checks is in flight
        self._unrun: Verdict | None = None          # of a list of checks: why the first that could not be run was not
        self._due = self._begun = 0.0
        self._hastened = float("-inf")              # when somebody last had it probed out of its turn
        self._prolonged = (0.0, 0)                  # the last round, and the place in it, that was given more time
        self._pace = 0.0                            # seconds between the last two times it was due; 0: not on its phase

    # -- what others ask and tell

    @property
    def up(self) -> bool:
        return self.health >= self._check.rise

    @property
    def seen(self) -> str:
        """Its state, whatever the operator wants: up, down, or unknown before the first verdict."""
        return "up" if self.up else "down" if self.verdict is not None else "unknown"

    @property
    def streak(self) -> int:
        """How many outcomes in a row were the same; minus: failures."""
        return self.passes - self._before if self._passing else self._before - self.failures

    @property
    def trail(self) -> int:
        """The last TRAIL outcomes, a bit each: 1 passed; the last is bit 0."""
        run = min(abs(self.streak), TRAIL)
        return (self._past << run | ((1 << run) - 1 if self._passing else 0)) & TRAIL_MASK

    @property
    def eligible(self) -> bool:
        """Whether connections may be sent to it."""
        return self.fit and self.endpoint.weight > 0

    @property
    def fit(self) -> bool:
        """Whether nothing is amiss with it: up, and not held back by the operator."""
        return self.up and not self.disabled and not self.unconfirmed

    @property
    def withheld(self) -> bool:
        """Whether it gets nothing, whatever its probes say: the operator has disabled it, or given it no weight."""
        return self.disabled or not self.endpoint.weight

    @property
    def in_flight(self) -> bool:
        return self._probe is not None or self.queued

    def schedule(self) -> None:
        """Let the first probe happen soon: all the first probes are spread over a second."""
        self._due = self.rounds.loop.now + self._phase() * min(SPREAD, self._wanted_pace())
        self.rounds.loop.set(self, self._due)

    def adopt(self) -> None:
        """Its rule was found in the kernel: it is up, but its first failure takes it down."""
        self.health, self._usual = health.adopted(self._check.rise), None

    def resume(self, since: float) -> None:
        """It is as it has been ``since`` then, before we knew it: that was no change."""
        self.since, self.changes = since, 0

    def inherit(self, old: Monitor) -> None:
        """Take over from a monitor whose endpoint was checked in another way, or elsewhere."""
        self.disabled, self.unconfirmed = old.disabled, old.unconfirmed
        if (old.endpoint.address, old.endpoint.member_port) == (self.endpoint.address, self.endpoint.member_port):
            self.since = old.since
            self.refusals = Refusals(self, old.refusals.doubt) if old.refusals is not None else None
            if old.up:
                self.adopt()

    def disable(self) -> None:
        """The operator takes it out, whatever its probes say."""
        self.disabled, self.unconfirmed = True, False

    def enable(self) -> None:
        """The operator puts it back: it is checked first."""
        self.disabled, self.unconfirmed, self._usual = False, True, None

    def hasten(self) -> None:
        """Probe now, or let the probe in flight be it; once a second at most, whoever asks how often.

        Only refusals of clients may bring about more: see :mod:`l4ipd.monitor.refusals`.
        """
        when = max(self.rounds.loop.now, self._hastened + HASTE)
        if self.slot is None or self._due > when:   # else its turn comes before, or it is in flight
            self._probe_at(when)

    def probe_anew(self) -> None:
        """Probe now, and not at the next tick. One in flight may have begun too early to know."""
        self._abandon()
        if not self.in_flight and not self.stopped:
            self._probe_at(self.rounds.loop.now)
            self.rounds.loop.clear(self)
            self.fire()

    def _probe_at(self, when: float) -> None:
        if not self.in_flight and not self.stopped:
            self._due = self._hastened = when
            self._pace, self._usual = 0.0, None
            self.rounds.loop.set(self, when)

    def probe_by(self, when: float) -> bool:
        """Let the next probe be ``when`` at the latest; whether it is then for that reason."""
        if self.in_flight or self.stopped or self._due <= when:
            return False
        self._probe_at(when)
        return True

    def refuse(self, verdict: Verdict, client: str = "") -> str:
        """A client of it was refused. Returns what becomes of that: used, haste or doubted."""
        if self.rounds.spoiled(self, verdict, self.rounds.loop.now):
            return "haste"
        if self.refusals is None:
            self.refusals = Refusals(self)
        self._usual = None                          # whatever the next outcome is, it has to be judged
        return self.refusals.met(verdict, client)

    @property
    def unproved(self) -> bool:
        """Whether it is down because a client was refused, and no probe has judged that yet."""
        return self.refusals is not None and self.refusals.out

    def take_down(self, verdict: Verdict) -> None:
        """Down at once. Probes bring it up again, and they hurry."""
        was = self.seen
        self.hurried = True
        self.verdict, self.took = verdict, 0.0
        self._count(False)
        self.health, self._usual = 0, None
        self._move(was)
        self._probe_at(self.rounds.loop.now)

    def stop(self) -> None:
        """No more probes; the one in flight is abandoned."""
        self.rounds.loop.clear(self)
        self.queued = False
        self.stopped = True
        if self.refusals is not None:
            self.refusals.drop()
            self.refusals = None                    # they know us
        self._abandon()
        self._recover(False)

    def _abandon(self) -> None:
        if self._probe is not None:
            self._probe.cancel()
            self._probe = self._unrun = None
            self.rounds.landed()

    # -- a round: all checks, one after the other

    def fire(self) -> None:
        """The time has come: begin a round if a place is free, or give up."""
        rounds = self.rounds
        if self._probe is not None:
            self._overdue(self._probe)
        elif rounds.flying < rounds.limit:
            rounds.flying += 1
            self._place = 0
            clock = rounds.loop.clock
            self._begun = clock()
            self._launch(rounds, self._first, self._check.timeout)
        else:
            rounds.delay(self)

    def _overdue(self, probe: Probe) -> None:
        loop, flight = self.rounds.loop, (self._begun, self._place)
        lost = loop.lost(loop.now - self.endpoint.checks[self._place].timeout)
        if lost and self._prolonged != flight:
            self._prolonged = flight                # by what it lost while we slept, and not again and again
        else:
            lost = probe.expire() or 0.0
        if lost:
            loop.set(self, loop.now + lost)

    def raised(self) -> None:
        """Something in :meth:`fire` has: this round is over, and the next one must come."""
        if self._probe is not None:
            self.rounds.loop.errors.shield(f"a probe of {self.endpoint.name}", self._probe.cancel)
            self._done(local(INTERNAL))
        elif self.slot is None and not (self.queued or self.stopped):
            self._reschedule()

    def _launch(self, rounds: Schedule[Monitor], recipe: Recipe, timeout: float) -> None:
        loop, start = rounds.loop, rounds.start
        loop.set(self, loop.now + timeout)
        self._probe = STARTING
        try:
            probe = start(recipe, self._done)
        except Exception:
            loop.errors.note(f"a probe of {self.endpoint.name}")
            if self._probe is STARTING:
                self._done(local(INTERNAL))
            return
        if self._probe is STARTING:                 # else its verdict has come already
            self._probe = probe

    def _done(self, verdict: Verdict) -> None:
        self._probe = None
        rounds = self.rounds
        if self._others:
            outcome = self._so_far(verdict)
            if outcome is None:
                return
            verdict = outcome
        clock = rounds.loop.clock
        self.took = took = clock() - self._begun
        self._fresh.append(took)
        rounds.codes[verdict.code] += 1
        try:
            if verdict is self._usual and not (rounds.verbose or rounds.outcomes):
                self.passes += 1                    # the same again, which is nothing new: nearly always
            else:
                self._usual = None
                self._judge(verdict)
        finally:                                    # whatever happens, its next probe must come
            self._reschedule()
            rounds.flying -= 1                      # as in Schedule.landed
            if rounds.pressed:
                rounds.relieve()

    def _so_far(self, verdict: Verdict) -> Verdict | None:
        """One of several checks is through: the outcome of the round, or None if it goes on."""
        passed = verdict.code in PASSED
        if not passed and verdict.code != "LOCAL":
            self._unrun = None
            return verdict._replace(text=f"{which(self.endpoint, self._place)}: {verdict.text}")
        if not passed and self._unrun is None:
            self._unrun = verdict
        if self._place < len(self._others):         # a later one may have something to say about the member
            recipe = self._others[self._place]
            self._place += 1
            self._launch(self.rounds, recipe, self.endpoint.checks[self._place].timeout)
            return None
        unrun, self._unrun = self._unrun, None
        return unrun or verdict

    # -- outcomes

    def _judge(self, verdict: Verdict) -> None:
        """What a round's outcome means, and who has to hear of it."""
        rounds = self.rounds
        if rounds.verbose:
            log.info("%s %s: %s (%.0f ms)", self.endpoint.name, self.endpoint.where, verdict, self.took * 1000)
        if verdict.code == "LOCAL" or not rounds.spoiled(self, verdict, rounds.loop.now - self.took):
            self._weigh(verdict)
        elif self.trouble:
            self._recover(True)                     # it could be run, which is all that this outcome says
        for told in rounds.outcomes:
            told(self, verdict)

    def _weigh(self, verdict: Verdict) -> None:
        try:
            if verdict.code == "LOCAL":
                self._local(verdict)
            else:
                own = self.endpoint.checks[self._place].port in (None, self.endpoint.member_port)
                if verdict.code == "L4CON" and own:
                    errors = self.rounds.loop.errors
                    errors.shield("what sensing makes of a refusal", self.rounds.refused, self, verdict)
                self.score(verdict)
        finally:                                    # whoever was told of it may have failed
            if not self.tried:
                self.tried = True
                self.rounds.decided(self)

    def score(self, verdict: Verdict) -> None:
        """Fold a verdict into health, and tell if that changes the state."""
        is_back = self.refusals is not None and self.refusals.judged(verdict, self._begun)
        check, passed, before, was = self._check, verdict.passed, self.health, self.seen
        self.health = self._top if is_back else health.step(before, check.rise, check.fall, passed)
        if before < check.rise <= self.health:
            self.hurried = False
        self.verdict = verdict
        if self.trouble:
            self._recover(True)
        self._count(passed)
        if self.seen != was:
            self._move(was)
        elif self.unconfirmed and passed == self.up:
            self._confirm(was)

    def _move(self, was: str) -> None:
        """It is in another state than it ``was``."""
        self.since = self.rounds.loop.now
        self.changes += 1
        self._confirm(was)

    def _confirm(self, was: str) -> None:
        """Its state is beyond doubt, for the first time since it was enabled maybe."""
        was = "enabled" if self.unconfirmed else was
        self.unconfirmed = False
        self.rounds.changed(self, was)

    def _count(self, passed: bool) -> None:
        if passed != self._passing:
            self._past, self._passing = self.trail, passed
            self._before = self.passes if passed else self.failures
        if passed:
            self.passes += 1
        else:
            self.failures += 1

    def _local(self, verdict: Verdict) -> None:
        if verdict.text != self.trouble:
            self._recover(False)
            self.trouble = verdict.text
            self.rounds.unprobed.begin(self.endpoint.name, self.endpoint.where, self.seen, verdict.text)

    def _recover(self, over: bool) -> None:
        """What kept us from probing it is ``over``, or at least not counted any more."""
        if self.trouble:
            self.rounds.unprobed.end(self.endpoint.name, self.trouble, over)
            self.trouble = ""

    # -- pace

    def _wanted_pace(self) -> float:
        if self.health == self._top:
            return self._check.interval
        fast, slow = self._check.fast_interval, self._check.down_interval
        return min(fast, slow) if self.hurried else fast if self.health else slow

    def _reschedule(self) -> None:
        """The next probe: one pace after this one was due, on the phase; never in the past."""
        loop = self.rounds.loop
        due = self._settle(self._wanted_pace()) if self._usual is None else self._due + self._pace
        if due <= loop.now:
            due = self._missed(due)
        self._due = due
        loop.set(self, due)

    def _missed(self, due: float) -> float:
        """When the next probe is to be, since the moment for it is over: now if this one took so long, as those do
        that wait for a silent member; else we are late ourselves, and it has to wait for the next moment."""
        now, pace = self.rounds.loop.now, self._pace
        self.rounds.skipped += int((now - due) / pace)
        if self.took >= pace / 2:
            self._pace, self._usual = 0.0, None
            return now
        self.rounds.skipped += 1
        return self._on_phase(now, pace)

    def _settle(self, pace: float) -> float:
        """When it is due next, and what outcome would be no news then."""
        due = self._due + pace if pace == self._pace else self._on_phase(self._due, pace)
        self._pace = pace
        if self.refusals is not None and self.refusals.open is not None:
            soon = self.refusals.due(due)
            self._pace = pace if soon == due else 0.0
            return soon
        if self._passing and self.health == self._top and not (self.unconfirmed or self.trouble):
            self._usual = self.verdict
        return due

    def _phase(self) -> float:
        """Where in a period its probes are, from 0 to 1: a matter of its name."""
        return zlib.crc32(self.endpoint.name.encode()) / 2**32

    def _on_phase(self, start: float, pace: float) -> float:
        """The next time after ``start`` that is on its phase: the very same number for all of a bunch."""
        phase = self._phase() * pace
        phase -= phase % min(self.rounds.step, pace / MOMENTS)
        phase += 0.5 / RATE                         # the middle of a tick
        return phase + (math.floor((start - phase) / pace + 0.001) + 1) * pace
