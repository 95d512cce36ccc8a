"""One reading of the sessions in the kernel's NAT table, that has all of them.

::

   ipnat -s, how many there are at all --> ipnat -l, all of them --enough?--> done
                                              ^                      | too few
                                              +-- how many are there now? --+

A listing that was cut short makes a later one begin in the middle, with exit status 0 and no complaint (FACTS.md 3-3),
and most listings are cut short behind the rules, by ourselves. So while the kernel may remember one, what was read has
to be as many as the kernel says there are; otherwise it is read again, once more often than there are listings that it
may remember, and the longest counts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from l4ipd.ipfilter import nat_statistics
from l4ipd.ipfilter.nat_table import NatTable
from l4ipd.ipfilter.rdr import explain
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop

ROUGHLY = 0.9                                       # of what the kernel says: some end while they are listed


class Reader(Protocol):
    """Takes a listing, to its end."""

    begun: bool                                     # the rules are behind us

    @property
    def total(self) -> int: ...                     # sessions of all kinds, so far
    @property
    def inside(self) -> bool: ...                   # a line that has no end yet
    def feed(self, chunk: bytes) -> bool: ...


AnyReader = TypeVar("AnyReader", bound=Reader)


class Reading(Generic[AnyReader]):
    """``done(reader, problem)`` is called once, and later: with a reader that has all, or with why there is none.

    ``options`` are those of ipnat, ``make()`` gives a reader of what it says.
    """

    def __init__(self, loop: Loop, nat: NatTable, options: str, make: Callable[[], AnyReader],
                 done: Callable[[AnyReader | None, str], object]) -> None:
        self.loop, self.nat, self._options, self._make, self._done = loop, nat, options, make, done
        began = loop.clock()
        self._tool, self._timeout = nat.settings.ipnat, nat.settings.timeout
        self._cuts = nat.iterator.cuts(began)
        self._left = max(1, self._cuts)             # listings that may be too short
        self._best: AnyReader | None = None
        if nat.iterator.quiet_until > began:
            loop.later(0, self._quiet)
        else:
            self._ask()

    def raised(self) -> None:
        self._fail(INTERNAL)

    def _quiet(self) -> None:
        self._fail("a rule is in use, and none can be listed until that is over")

    def _fail(self, words: str) -> None:
        self._done(None, words)

    def _step(self, what: Callable[..., object], *words: object) -> None:
        """A tool has ended: go on, or say that it cannot be done."""
        if not self.loop.errors.shield("a reading of sessions is given up", what, *words):
            self._fail(INTERNAL)

    def _ask(self) -> None:
        """How many are there?"""
        Child(self.loop, (*self._tool, "-s"), timeout=self._timeout, done=lambda end: self._step(self._told, end))

    def _told(self, end: Exit) -> None:
        if end.timed_out or end.status is None:
            self._fail(f"ipnat -s: {_why(end)}")
            return
        active = nat_statistics.parse(end.stdout.decode(errors="replace")).active
        if self._best is not None and self._enough(self._best, active):
            self._done(self._best, "")
        else:
            self._list(active)

    def _list(self, active: int | None) -> None:
        reader = self._make()
        Child(self.loop, (*self._tool, self._options), timeout=self._timeout, output=reader.feed,
              done=lambda end: self._step(self._listed, reader, active, end))

    def _listed(self, reader: AnyReader, active: int | None, end: Exit) -> None:
        if not end.clean or not reader.begun or reader.inside:
            self._leave_behind(reader, end)
            self._fail(f"ipnat {self._options}: {'its listing was cut short' if end.clean else _why(end)}")
            return
        if self._best is None or reader.total >= self._best.total:
            self._best = reader
        if self._enough(self._best, active) or not self._left:
            self._done(self._best, "")
        else:
            self._left -= 1
            self._ask()

    def _leave_behind(self, reader: AnyReader, end: Exit) -> None:
        if end.status is not None and (end.timed_out or end.status <= 0):
            if reader.begun:
                self.nat.iterator.cut(self.loop.clock())
            else:
                self.nat.iterator.tear()

    def _enough(self, reader: AnyReader, active: int | None) -> bool:
        """Whether a listing has them all, by what the kernel says at this time, or said just before."""
        if active is None:
            return not self._cuts
        return reader.total >= (active if self._cuts else ROUGHLY * active - 10)


def _why(end: Exit) -> str:
    return end.error or explain(end.status, end.stderr.decode(errors="replace"), end.timed_out)
