"""How many sessions each endpoint has: asked of the kernel when somebody wants to know, for all who want it at once.

Reading them is :mod:`l4ipd.ipfilter.session_reading`; at most one begins a second. A count is never too small. What
cannot be read is not known: the last count is told then, with its age and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from l4ipd.ipfilter import sessions
from l4ipd.ipfilter.listing import NEVER
from l4ipd.ipfilter.nat_table import NatTable
from l4ipd.ipfilter.session_reading import Reading
from l4ipd.model import Endpoint
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop, Timer

EVERY = 1.0                                         # seconds between the beginnings of two readings
KEPT = 60.0                                         # seconds until a count is too old to be shown
SLICE = 0.004                                       # seconds that the loop stands for one piece of the work
Done = Callable[["Count"], object]
Endpoints = Callable[[], Iterable[Endpoint]]


@dataclass(frozen=True, slots=True)
class Count:
    """The sessions of all endpoints as of ``began``, in the loop's time; NEVER: they were not counted yet.

    ``problem`` says why it could not be had anew; what is here then is from before.
    """

    began: float = NEVER
    by_name: Mapping[str, int] = field(default_factory=dict)        # those that have none are not in there
    total: int = 0                                  # of all, those of other people's rules too
    problem: str = ""
    names: frozenset[str] = frozenset()             # the endpoints there were then

    @property
    def known(self) -> bool:
        return self.began != NEVER

    def of(self, name: str) -> int | None:
        """How many an endpoint has; None: nobody knows."""
        return self.by_name.get(name, 0) if name in self.names else None


class SessionCount:
    """Counts for whoever wants it. ``nat()`` and ``endpoints()`` are what a reload has made of them at that moment."""

    def __init__(self, loop: Loop, nat: Callable[[], NatTable], endpoints: Endpoints) -> None:
        self.loop, self.nat, self.endpoints = loop, nat, endpoints
        self.last = Count()
        self.readings = 0
        self._waiting: list[tuple[float, Done]] = []
        self._reading: _Counting | None = None
        self._tried = NEVER
        self._timer = Timer(self._read)

    def recent(self) -> Count:
        """The last one, if it still tells something, without asking for another."""
        return self.last if self.loop.clock() - self.last.began < KEPT else Count(problem=self.last.problem)

    def want(self, done: Done, since: float = NEVER) -> None:
        """Call ``done(count)`` later, in any case: with what is at most a second old, and not begun before ``since``.

        That is for whoever has just removed a rule, and wants to know whether anybody is left. Where it could not be
        read, ``count.problem`` says so, and ``count.began`` of when it is.
        """
        self._waiting.append((since, done))
        self._go_on()

    def _go_on(self) -> None:
        if not self._waiting or self._reading is not None:
            return
        now, last = self.loop.clock(), self.last
        recent = not last.problem and now - last.began < EVERY
        fresh = recent and any(since <= last.began for since, _ in self._waiting)
        self.loop.set(self._timer, now if fresh else max(now, self._tried + EVERY))

    def _read(self) -> None:
        now, last = self.loop.clock(), self.last
        if not last.problem and now - last.began < EVERY:
            self._tell(last.began)
        if self._waiting and now - self._tried >= EVERY:
            self._tried = now
            self.readings += 1
            self._reading = _Counting(self.loop, self.nat(), self.endpoints, self._ended)
        elif self._waiting:
            self._go_on()

    def raised(self) -> None:
        """To begin has raised."""
        self._ended(Count(problem=INTERNAL))

    def _ended(self, count: Count) -> None:
        self._reading = None
        self.last = replace(self.last, problem=count.problem) if count.problem else count
        self._tell(self._tried)

    def _tell(self, began: float) -> None:
        """Those who wanted one that began then, or before."""
        count = self.last
        ready = [done for since, done in self._waiting if since <= began]
        self._waiting = [(since, done) for since, done in self._waiting if since > began]
        for done in ready:
            self.loop.errors.shield("a count of sessions is told", done, count)
        self._go_on()


class _Counting:
    """One count. ``done(count)`` is called once, and later."""

    def __init__(self, loop: Loop, nat: NatTable, endpoints: Endpoints, done: Done) -> None:
        self.loop, self.endpoints, self._done = loop, endpoints, done
        self.began = loop.clock()
        self._total = 0
        self._work: Iterator[None] = iter(())
        self._counts: dict[str, int] = {}
        self._names: list[str] = []
        Reading(loop, nat, "-l", sessions.Reader, self._read)

    def raised(self) -> None:
        """A piece of the work has."""
        self._done(Count(problem=INTERNAL))

    def _read(self, reader: sessions.Reader | None, problem: str) -> None:
        if reader is None:
            self._done(Count(problem=problem))
            return
        self._total, self._work = reader.total, self._attribute(reader)
        self.loop.later(0, self._go_on)

    def _go_on(self) -> None:
        """Whose they are, in slices."""
        until = self.loop.clock() + SLICE
        for _ in self._work:
            if self.loop.clock() >= until:
                self.loop.later(0, self._go_on)
                return
        self._done(Count(self.began, self._counts, self._total, names=frozenset(self._names)))

    def _attribute(self, reader: sessions.Reader) -> Iterator[None]:
        owners = sessions.Owners()
        for endpoint in self.endpoints():
            owners.add(endpoint)
            self._names.append(endpoint.name)
            yield
        for ends, count in reader.counts.items():
            for endpoint in owners.of(ends):
                self._counts[endpoint.name] = self._counts.get(endpoint.name, 0) + count
            yield
