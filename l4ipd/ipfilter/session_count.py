"""How many sessions each endpoint has: asked of the kernel when somebody wants to know, for all who want it at once.

::

   want --> at most one reading a second, for everybody who waits
            READING: ipnat -s, how many there are at all --> ipnat -l, all of them --enough?--> whose are they --> done
                                                              ^                       | too few
                                                              +--- how many are there now? ---+

A count is never too small. A listing that was cut short makes a later one begin in the middle, with exit status 0 and
no complaint (FACTS.md 3-3), and most listings are cut short behind the rules, by ourselves. So while the kernel may
remember one, what was read has to be as many as the kernel says there are; otherwise it is read again, once more often
than there are listings that it may remember, and the longest counts. What cannot be read is not known: the last count
is told then, with its age and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from l4ipd.ipfilter import nat_statistics, sessions
from l4ipd.ipfilter.listing import NEVER
from l4ipd.ipfilter.nat_table import NatTable
from l4ipd.ipfilter.rdr import explain
from l4ipd.model import Endpoint
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop, Timer

EVERY = 1.0                                         # seconds between the beginnings of two readings
SLICE = 0.004                                       # seconds that the loop stands for one piece of the work
ROUGHLY = 0.9                                       # of what the kernel says: some end while they are listed
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
        self._reading: _Reading | None = None
        self._tried = NEVER
        self._timer = Timer(self._read)

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
            self._reading = _Reading(self.loop, self.nat(), self.endpoints, self._ended)
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


class _Reading:
    """One count. ``done(count)`` is called once, and later."""

    def __init__(self, loop: Loop, nat: NatTable, endpoints: Endpoints, done: Done) -> None:
        self.loop, self.nat, self.endpoints, self._done = loop, nat, endpoints, done
        self.began = loop.clock()
        self._tool, self._timeout = nat.settings.ipnat, nat.settings.timeout
        self._cuts = nat.iterator.cuts(self.began)
        self._left = max(1, self._cuts)             # listings that may be too short
        self._best: sessions.Reader | None = None
        self._work: Iterator[None] = iter(())
        self._counts: dict[str, int] = {}
        self._names: list[str] = []
        if nat.iterator.quiet_until > self.began:
            loop.later(0, self._quiet)
        else:
            self._ask()

    def raised(self) -> None:
        """A piece of the work has."""
        self._fail(INTERNAL)

    def _quiet(self) -> None:
        self._fail("a rule is in use, and none can be listed until that is over")

    def _fail(self, words: str) -> None:
        self._done(Count(problem=words))

    # -- reading

    def _step(self, what: Callable[..., object], *words: object) -> None:
        """A tool has ended: go on, or say that it cannot be done."""
        if not self.loop.errors.shield("a count of sessions is given up", what, *words):
            self._fail(INTERNAL)

    def _ask(self) -> None:
        """How many are there?"""
        Child(self.loop, (*self._tool, "-s"), timeout=self._timeout, done=lambda end: self._step(self._told, end))

    def _told(self, end: Exit) -> None:
        if end.timed_out or end.status is None:
            self._fail(f"ipnat -s: {_why(end)}")
            return
        active = nat_statistics.parse(end.stdout.decode(errors="replace")).active
        best = self._best
        if best is not None and self._enough(best, active):
            self._begin_work(best)
        else:
            self._list(active)

    def _list(self, active: int | None) -> None:
        reader = sessions.Reader()
        Child(self.loop, (*self._tool, "-l"), timeout=self._timeout, output=reader.feed,
              done=lambda end: self._step(self._listed, reader, active, end))

    def _listed(self, reader: sessions.Reader, active: int | None, end: Exit) -> None:
        if not end.clean or not reader.begun or reader.inside:
            self._leave_behind(reader, end)
            self._fail(f"ipnat -l: {'its listing was cut short' if end.clean else _why(end)}")
            return
        if self._best is None or reader.total >= self._best.total:
            self._best = reader
        if self._enough(self._best, active) or not self._left:
            self._begin_work(self._best)
        else:
            self._left -= 1
            self._ask()

    def _leave_behind(self, reader: sessions.Reader, end: Exit) -> None:
        if end.status is not None and (end.timed_out or end.status <= 0):
            if reader.begun:
                self.nat.iterator.cut(self.loop.clock())
            else:
                self.nat.iterator.tear()

    def _enough(self, reader: sessions.Reader, active: int | None) -> bool:
        """Whether a listing has them all, by what the kernel says at this time, or said just before."""
        if active is None:
            return not self._cuts
        return reader.total >= (active if self._cuts else ROUGHLY * active - 10)

    # -- whose they are, in slices

    def _begin_work(self, reader: sessions.Reader) -> None:
        self._work = self._attribute(reader)
        self.loop.later(0, self._go_on)

    def _go_on(self) -> None:
        until = self.loop.clock() + SLICE
        for _ in self._work:
            if self.loop.clock() >= until:
                self.loop.later(0, self._go_on)
                return
        assert self._best is not None
        self._done(Count(self.began, self._counts, self._best.total, names=frozenset(self._names)))

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


def _why(end: Exit) -> str:
    return end.error or explain(end.status, end.stderr.decode(errors="replace"), end.timed_out)
