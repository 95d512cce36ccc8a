"""One endpoint's state: what the outcomes of its checks mean, what its clients met, and what the operator wants.

An outcome comes from the :class:`~l4ipd.monitor.checker.Checker`, and a refusal that a client has met from whoever
hears of those. Our own trouble (verdict LOCAL) never moves health. Whoever owns the monitors is told of every change
through :class:`~l4ipd.monitor.schedule.Schedule`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Leave, Verdict
from l4ipd.model import Endpoint
from l4ipd.monitor import health
from l4ipd.monitor.checker import Checker
from l4ipd.monitor.flapping import Flapping
from l4ipd.monitor.outcomes import Outcomes
from l4ipd.monitor.refusals import Refusals
from l4ipd.monitor.schedule import Schedule

log = logging.getLogger("l4ipd.probe")


class Monitor:
    """An endpoint under watch.

    Many attributes: there may be ten thousand, and to divide one into several objects would take memory for each.
    """

    __slots__ = ("schedule", "endpoint", "checker", "health", "verdict", "since", "took", "outcomes", "changes",
                 "tried", "disabled", "unconfirmed", "draining", "trouble", "refusals", "flapping", "hurried", "share",
                 "_top", "_offered", "_check")

    def __init__(self, schedule: Schedule[Monitor], endpoint: Endpoint, recipes: Sequence[Recipe],
                 checker: Checker | None = None) -> None:
        self.schedule, self.endpoint = schedule, endpoint
        self._check = check = endpoint.checks[0]    # the one that sets the pace
        self.health = health.fresh(check.rise)
        self._top = health.top(check.rise, check.fall)
        self.verdict: Verdict | None = None         # the last one that says something about the member
        self.since = schedule.loop.now              # last change of state
        self.took = 0.0                             # seconds, of the last round
        self.outcomes = Outcomes()
        self.changes = 0                            # of state
        self.tried = False                          # had an outcome, be it LOCAL
        self.disabled = False                       # by the operator
        self.unconfirmed = False                    # enabled, but not yet probed since
        self.draining = False                       # it lives, and has said that it wants to be left
        self.trouble = ""                           # why the last probe could not be run
        self.refusals: Refusals | None = None       # since a client of it was refused
        self.flapping: Flapping | None = None       # since its state has changed
        self.share = 100                            # percent of its weight that its agent asks for
        self._offered: tuple[Endpoint, Endpoint] | None = None      # see offered
        self.checker = checker or Checker(schedule, recipes, self)
        self.hurried = False                        # taken down by such a refusal: probed at the fast pace

    # -- what others ask

    @property
    def up(self) -> bool:
        return self.health >= self._check.rise

    @property
    def held(self) -> bool:
        """Whether it is held down, whatever its probes say, since it flaps."""
        return self.flapping is not None and self.flapping.held

    @property
    def seen(self) -> str:
        """Its state, whatever the operator wants: what its probes have found, or held."""
        return "held" if self.held else self.found

    @property
    def found(self) -> str:
        """What its probes have found: up, down, draining, or unknown before the first verdict."""
        if self.draining:
            return "draining"
        return "up" if self.up else "down" if self.verdict is not None else "unknown"

    @property
    def eligible(self) -> bool:
        """Whether connections may be sent to it."""
        return self.fit and self.endpoint.weight > 0

    @property
    def fit(self) -> bool:
        """Whether nothing is amiss with it: up, not held, and not held back by the operator."""
        return self.up and not self.disabled and not self.unconfirmed and not self.held

    @property
    def withheld(self) -> bool:
        """Whether it gets nothing, whatever its probes say: the operator has disabled it, or given it no weight."""
        return self.disabled or not self.endpoint.weight

    @property
    def offered(self) -> Endpoint:
        """The endpoint as clients are to be sent to it: with the weight that its agent leaves it, one unit at least."""
        endpoint = self.endpoint
        if self.share == 100:
            return endpoint
        if self._offered is None or self._offered[0] is not endpoint:
            weight = -(-endpoint.weight * self.share // 100)        # rounded up
            self._offered = endpoint, replace(endpoint, weight=weight)
        return self._offered[1]

    @property
    def passes(self) -> int:
        """How many of its probes have passed."""
        return self.outcomes.passes

    @property
    def unproved(self) -> bool:
        """Whether it is down because a client was refused, and no probe has judged that yet."""
        return self.refusals is not None and self.refusals.out

    @property
    def stopped(self) -> bool:
        """Whether nobody watches it any more."""
        return self not in self.checker.listeners

    @property
    def pace(self) -> float:
        """Seconds until its next probe: fast while the outcome is in doubt."""
        check = self._check
        if self.health == self._top or self.draining and not self.health:
            return check.interval
        fast, slow = check.fast_interval, check.down_interval
        return min(fast, slow) if self.hurried else fast if self.health else slow

    def soonest(self, due: float) -> float:
        """When its next probe is to be, which would be ``due``: earlier if a refusal waits to be judged."""
        return due if self.refusals is None else self.refusals.due(due)

    def probe_soon(self) -> None:
        """Probe it soon: see :meth:`Checker.probe_soon`."""
        self.checker.probe_soon()

    # -- what it was, and what the operator wants

    def adopt(self) -> None:
        """Its rule was found in the kernel: it is up, but its first failure takes it down."""
        self.health = health.adopted(self._check.rise)

    def resume(self, since: float) -> None:
        """It is as it has been ``since`` then, before we knew it: that was no change."""
        self.since, self.changes = since, 0

    def inherit(self, old: Monitor) -> None:
        """Take over from a monitor whose endpoint was checked in another way, or elsewhere."""
        self.disabled, self.unconfirmed = old.disabled, old.unconfirmed
        if (old.endpoint.address, old.endpoint.member_port) == (self.endpoint.address, self.endpoint.member_port):
            self.since = old.since
            self.refusals = Refusals(self, old.refusals.doubt) if old.refusals is not None else None
            self.flapping = Flapping(self, old.flapping) if old.flapping is not None else None
            if self.held:                           # it must be known what it is when that ends
                self.verdict = old.verdict
            self.share = old.share
            if old.up:
                self.adopt()

    def redefine(self, endpoint: Endpoint) -> None:
        """It is another in what does not concern its checks."""
        self.endpoint = endpoint

    def disable(self) -> None:
        """The operator takes it out, whatever its probes say."""
        self.disabled, self.unconfirmed = True, False
        self._forget_flapping()

    def enable(self) -> None:
        """The operator puts it back: it is checked first."""
        self.disabled, self.unconfirmed = False, True
        self.since = self.schedule.loop.now
        self._forget_flapping()

    def stop(self) -> None:
        """No more probes; the one in flight is abandoned."""
        if self.refusals is not None:
            self.refusals.drop()
            self.refusals = None                    # they know us
        if self.flapping is not None:
            self.flapping.stop()
        self.checker.leave(self)
        self._recover(False)

    # -- what its clients meet

    def refuse(self, verdict: Verdict, client: str) -> str:
        """A client of it was refused. Returns what becomes of that: used, haste or doubted."""
        if self.schedule.discarded(self, verdict, self.schedule.loop.now):
            return "haste"
        if self.refusals is None:
            self.refusals = Refusals(self)
        return self.refusals.met(verdict, client)

    def take_down(self, verdict: Verdict) -> None:
        """Down at once. Probes bring it up again, and they hurry."""
        was = self.seen
        self.hurried = True
        self.verdict, self.took = verdict, 0.0
        self.outcomes.add(False)
        self.health = 0
        if self.seen != was:
            self._move(was)
        self.checker.probe_at(self.schedule.loop.now)

    # -- outcomes

    def weigh(self, share: int) -> None:
        """Its agent asks for so many percent of its weight."""
        if share != self.share:
            log.info("%s %s: its agent wants %d %% of its weight, and had %d %%", self.endpoint.name,
                     self.endpoint.where, share, self.share)
            self.share, self._offered = share, None
            self.schedule.loop.news()
            self.schedule.weighed(self)

    def heard(self, verdict: Verdict, began: float, took: float) -> float:
        """What an outcome means, and who has to hear of it. Returns the pace from now on."""
        schedule, self.took = self.schedule, took
        if verdict is self.verdict and self._steady and not (schedule.verbose or schedule.outcomes):
            self.outcomes.add(True)                 # the same again, which is nothing new: nearly always, and
            return self._check.interval             # to know it here saves 0.9 us of 21 for tcp
        schedule.loop.news()
        if schedule.verbose:
            log.info("%s %s: %s (%.0f ms)", self.endpoint.name, self.endpoint.where, verdict, took * 1000)
        if verdict.code == "LOCAL" or not schedule.discarded(self, verdict, began):
            self._weigh(verdict, began)
        elif self.trouble:
            self._recover(True)                     # it could be run, which is all that this outcome says
        for told in schedule.outcomes:
            told(self, verdict)
        if self.refusals is not None:
            self.checker.asks = True
        return self.pace

    def _weigh(self, verdict: Verdict, began: float) -> None:
        try:
            if verdict.code == "LOCAL":
                self._local(verdict)
            else:
                if verdict.code == "L4CON" and self.checker.speaker() is self:
                    errors = self.schedule.loop.errors
                    errors.shield("what sensing makes of a refusal", self.schedule.refused, self, verdict)
                self.score(verdict, began)
        finally:                                    # whoever was told of it may have failed
            if not self.tried:
                self.tried = True
                self.schedule.decided(self)

    @property
    def _steady(self) -> bool:
        """Whether it is up beyond doubt, so that one more pass would change nothing."""
        return (self.health == self._top and not (self.outcomes.failed & 1 or self.unconfirmed or self.trouble)
                and (self.refusals is None or self.refusals.open is None))

    def at_its_port(self) -> bool:
        """Whether the last check was of the port that its clients use."""
        return self.endpoint.is_at_its_port(self.endpoint.checks[self.checker.place])

    def score(self, verdict: Verdict, began: float) -> None:
        """Fold a verdict of a probe that ``began`` then into health, and tell if that changes the state."""
        unproved, first = self.unproved, self.verdict is None
        is_back = self.refusals is not None and self.refusals.judged(verdict, began)
        passed, was_up, was = verdict.passed, self.up, self.seen
        self.health = self._top if is_back else self._step(verdict)
        if self.up and not was_up:
            self.hurried = False
        self.verdict = verdict
        if self.trouble:
            self._recover(True)
        self.outcomes.add(passed)
        if self.held:
            self._stay(was_up and not first)
        elif self.seen != was:
            self._move(was, counts=not (is_back or first))
        elif self.unconfirmed and passed == self.up:
            self._confirm(was)
        elif unproved and not self.unproved:        # what a client met is true
            self._count_change()
            if self.held:
                self._move(was, counts=False)

    def _step(self, verdict: Verdict) -> int:
        """The health after one more verdict."""
        rise, fall = self._check.rise, self._check.fall
        if isinstance(verdict, Leave):
            self.draining = True
            return 0
        if not self.draining:
            return health.step(self.health, rise, fall, verdict.passed)
        now = health.step_draining(self.health, rise, fall, verdict.passed)
        self.draining = -fall < now < rise
        return now if self.draining else max(now, 0)

    def _move(self, was: str, counts: bool = True) -> None:
        """It is in another state than it ``was``; ``counts``: for real, so that it may flap."""
        self.changes += 1
        if counts:
            self._count_change()
        self._confirm(was)

    def _confirm(self, was: str) -> None:
        """Its state is beyond doubt, for the first time since it was enabled maybe."""
        self.since = self.schedule.loop.now
        was = "enabled" if self.unconfirmed else was
        self.unconfirmed = False
        self.schedule.changed(self, was)

    # -- flapping

    def _count_change(self) -> None:
        """Its state has changed, by itself: if too often, it is held from now on."""
        flap = self.endpoint.flap
        if flap is not None and not (self.withheld or self.unconfirmed or self.unproved):
            if self.flapping is None:
                self.flapping = Flapping(self)
            self.flapping.changed(flap)

    def _stay(self, was_up: bool) -> None:
        """An outcome while it is held; ``was_up``: by outcomes before."""
        if self.flapping is not None and self.flapping.over:
            self.release()
        elif self.up and not was_up:
            self.schedule.touched(self)             # it may be the last one

    def release(self, why: str = "") -> None:
        """It is held no longer; ``why`` if its time has not come."""
        if self.flapping is not None and self.held:
            self.flapping.end(why)
            self._move("held", counts=False)

    def hold(self, count: int, until: float, held: bool) -> None:
        """As often and as long as an earlier run has held it down."""
        if self.endpoint.flap is not None:
            self.flapping = Flapping(self)
            self.flapping.resume(count, until, held)

    def _forget_flapping(self) -> None:
        if self.flapping is not None:
            self.flapping.drop()
            self.flapping = None

    # -- our own trouble

    def _local(self, verdict: Verdict) -> None:
        if verdict.text != self.trouble:
            self._recover(False)
            self.trouble = verdict.text
            self.schedule.unprobed.begin(self.endpoint.name, self.endpoint.where, self.seen, verdict.text)

    def _recover(self, over: bool) -> None:
        """What kept us from probing it is ``over``, or at least not counted any more."""
        if self.trouble:
            self.schedule.unprobed.end(self.endpoint.name, self.trouble, over)
            self.trouble = ""
