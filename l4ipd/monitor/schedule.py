"""What all monitors share: the limit of probes in flight and who waits, how they bunch, and what is counted of them."""

from __future__ import annotations

import logging
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from l4ipd.checks import verdict
from l4ipd.checks.probe import Probe
from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.monitor.unprobed import Unprobed
from l4ipd.runtime.loop import RATE, Loop

BUNCH, LONGEST_STEP = 10, 0.1                       # probes that begin together, and seconds between bunches at most
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)     # seconds, see Timing
FRESH = 1000                                        # durations that are counted at once
log = logging.getLogger("l4ipd.probe")


class Scheduled(Protocol):
    """What is asked of who waits for a place."""

    queued: bool

    def fire(self) -> object: ...


M = TypeVar("M")


class Timing:
    """A histogram of how long rounds took, in seconds. What is noted is counted FRESH at a time: that saves 0.4 us of
    25 for tcp at 10,000 probes a second.
    """

    __slots__ = ("note", "_fresh", "_counts")

    def __init__(self) -> None:
        self._fresh: list[float] = []
        self._counts = [0.0] * (len(BOUNDS) + 2)
        self.note = self._fresh.append

    def settle(self) -> None:
        """Count what was noted, if that is much."""
        if len(self._fresh) > FRESH:
            self.counts()

    def counts(self) -> list[float]:
        """How many took up to each of BOUNDS and longer than the one before, or longer than all; last, their sum."""
        for took in self._fresh:
            self._counts[bisect_left(BOUNDS, took)] += 1
        self._counts[-1] += sum(self._fresh)
        self._fresh.clear()
        return self._counts


class Schedule(Generic[M]):
    """Owned by whoever owns the monitors.

    ``changed(monitor, was)`` is called when an endpoint is in another state than it ``was``: up, down, unknown before
    the first verdict, or enabled and not confirmed yet; ``decided(monitor)`` after the first outcome of each, be it
    LOCAL.
    ``discarded(monitor, verdict, began)`` says whether an outcome that is not LOCAL, of what ``began`` then, counts for
    nothing; ``alone(monitor)`` whether nobody would serve clients without it, and ``last(monitor)`` whether no other
    member of its kind would; ``refused(monitor, verdict)`` is called when a probe could not connect;
    ``weighed(monitor)`` when its share of its weight is another; ``touched(monitor)`` when one that is held passes its
    probes again; ``blind()`` says whether no state is to change. ``limit`` is the number of probes that may be in
    flight; the others wait their turn.

    Many attributes: a third are those callbacks; what is counted at every probe is counted here, one step away.
    """

    def __init__(self, loop: Loop, limit: int, start: Callable[[Recipe, Callable[[Verdict], object]], Probe], *,
                 changed: Callable[[M, str], object], decided: Callable[[M], object],
                 discarded: Callable[[M, Verdict, float], bool] = lambda monitor, verdict, began: False,
                 alone: Callable[[M], bool] = lambda monitor: False,
                 last: Callable[[M], bool] = lambda monitor: False,
                 refused: Callable[[M, Verdict], object] = lambda monitor, verdict: None,
                 weighed: Callable[[M], object] = lambda monitor: None,
                 touched: Callable[[M], object] = lambda monitor: None,
                 blind: Callable[[], bool] = lambda: False) -> None:
        self.loop, self.limit, self.start = loop, limit, start
        self.changed, self.decided, self.discarded, self.alone = changed, decided, discarded, alone
        self.last, self.refused, self.weighed, self.touched, self.blind = last, refused, weighed, touched, blind
        self.verbose = False
        self.step = 1 / RATE                        # seconds: phases are multiples of it
        self.flying = 0
        self.late = self.skipped = 0
        self.outcomes: list[Callable[[M, Verdict], object]] = []  # who is told of the outcome of every round
        self.unprobed = Unprobed(lambda: loop.now)
        self.codes = dict.fromkeys(verdict.CODES, 0)  # outcomes of rounds, by code
        self.timings: dict[str, Timing] = {}        # by kind of check
        self.pressed = False                        # some wait, or have waited: whoever ends a probe calls relieve
        self._queue: deque[Scheduled] = deque()
        self._admitting = False
        loop.every_turn(self._settle)

    @property
    def waiting(self) -> int:
        """Probes that are due and have no place."""
        return len(self._queue)

    def allow(self, limit: int) -> None:
        """So many probes may be in flight from now on."""
        self.limit = limit

    def listen(self, told: Callable[[M, Verdict], object]) -> None:
        """Call it with the outcome of every round."""
        self.outcomes = [*self.outcomes, told]

    def leave(self, told: Callable[[M, Verdict], object]) -> None:
        """Call it no more."""
        self.outcomes = [each for each in self.outcomes if each != told]

    def log_all(self) -> None:
        """Log the outcome of every round."""
        self.verbose = True

    def bunch(self, rate: float) -> None:
        """Let some probes begin together when there are ``rate`` a second: to wake up costs more than a probe."""
        self.step = min(LONGEST_STEP, max(1, int(BUNCH / max(rate, 1.0) * RATE)) / RATE)

    def timing(self, kind: str) -> Timing:
        """The histogram of one kind of check."""
        return self.timings.setdefault(kind, Timing())

    def _settle(self) -> None:
        """In every turn of the loop."""
        for timing in self.timings.values():
            timing.settle()

    def delay(self, checker: Scheduled) -> None:
        """No place is free: it begins as soon as one is."""
        self.late += 1
        checker.queued = True
        self._queue.append(checker)
        if not self.pressed:
            self.pressed = True
            log.warning("probes are late: %d in flight, which is the limit; raise the limit of open files, "
                        "or probe less often", self.flying)

    def landed(self) -> None:
        """A probe is over: its place goes to who waits longest."""
        self.flying -= 1
        if self.pressed:
            self.relieve()

    def relieve(self) -> None:
        """A place may be free."""
        if self._admitting:                         # a probe that was over at once: the caller's caller goes on
            return
        if self._queue:
            self._admitting = True
            try:
                self._admit_waiting()
            finally:
                self._admitting = False
        if not self._queue and self.flying <= self.limit // 2:
            self.pressed = False
            log.info("probes are on time again")

    def _admit_waiting(self) -> None:
        while self._queue and self.flying < self.limit:
            checker = self._queue.popleft()
            if checker.queued:
                checker.queued = False
                checker.fire()
