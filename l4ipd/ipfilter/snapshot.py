"""What the kernel's NAT table says at this moment, for people: our rules with their connections, and those of others.

The reconciler has its own view of the table and its own pace. This is a look from the side, on demand, with
``ipnat -lhR`` (FACTS.md 2c-3): counts of connections before the rules, numbers instead of service names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from l4ipd.ipfilter import rdr
from l4ipd.ipfilter.nat_table import Listed, NatTable, Sides
from l4ipd.ipfilter.rdr import Rdr, explain
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.internal_errors import InternalErrors
from l4ipd.runtime.lines import Lines
from l4ipd.runtime.loop import Loop

PATIENCE = 5.0                                      # seconds: people are waiting


@dataclass
class Snapshot:
    """A listing. ``problem`` says why there is none; what is here then is no truth."""

    ours: dict[str, int | None] = field(default_factory=dict)   # canonical line -> connections so far, if it says
    foreign: list[tuple[str, Listed]] = field(default_factory=list)     # as listed, and as read
    problem: str = ""


def take_snapshot(loop: Loop, nat: NatTable, done: Callable[[Snapshot], object]) -> None:
    """Read the table as it is now; ``done`` is called later, in any case."""
    reader, iterator = _Reader(nat, loop.errors), nat.table.iterator

    def ended(end: Exit) -> None:
        if reader.complete and not end.clean:       # it did not come to the end of the sessions
            iterator.cut(loop.now)
        if not reader.complete:
            words = end.error or ("its listing was cut short" if end.clean else
                                  explain(end.status, end.stderr.decode(errors="replace"), end.timed_out))
            reader.snapshot.problem = f"ipnat -lhR: {words}"
            if end.status is not None and (end.timed_out or end.status <= 0):
                iterator.tear()
        elif iterator.came_to_its_end(loop.now):    # it began in the middle, perhaps
            take_snapshot(loop, nat, done)
            return
        done(reader.snapshot)

    Child(loop, (*nat.settings.ipnat, "-lhR"), timeout=min(nat.settings.timeout, PATIENCE), done=ended,
          output=reader.feed)


class _Reader:
    """Takes the listing as it streams, up to where the sessions begin."""

    def __init__(self, nat: NatTable, errors: InternalErrors) -> None:
        self.nat = nat
        self.snapshot = Snapshot()
        self.complete = False
        self._errors = errors
        self._lines = Lines()

    def feed(self, chunk: bytes) -> bool:
        return self._errors.each("a line of ipnat's listing is left out", self._take, self._lines.feed(chunk))

    def _take(self, raw: bytes) -> bool:
        """True at the end of the rules."""
        line = raw.decode(errors="replace").strip("\r")
        if line == rdr.LISTING_END:
            self.complete = True
            return True
        count = rdr.hits(line)
        words = line if count is None else line.partition(" ")[2]
        listed = self.nat.understand(words)
        if listed is not None:
            self._sort(listed, words, count)
        return False

    def _sort(self, listed: Listed, words: str, count: int | None) -> None:
        if self.nat.is_ours(listed):
            self.snapshot.ours[listed.line] = count
        else:
            self.snapshot.foreign.append((words, listed))


def clashes(snapshot: Snapshot, want: Iterable[str]) -> list[tuple[str, Rdr, str]]:
    """The rules of others that get in the way of those we want: (as listed, one of ours, how)."""
    sides = Sides(want)
    return [(line, ours, how) for line, listed in snapshot.foreign for ours, how in sides.clashes(listed)]
