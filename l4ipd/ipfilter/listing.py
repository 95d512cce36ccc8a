"""A table of the kernel as its tools show it: the words that list and change it, and a listing, read as it streams.

A listing walks through the table by an iterator in the kernel, and may leave it there for some ten seconds (FACTS.md
3-3). One that was killed or cut short makes the next begin where it ended, with exit status 0 and no complaint; and
while the iterator is there, the rule that it stands on cannot be removed. :class:`Iterator` remembers both.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from l4ipd.ipfilter.rdr import explain
from l4ipd.model import Words
from l4ipd.runtime.child import Exit
from l4ipd.runtime.internal_errors import InternalErrors
from l4ipd.runtime.lines import Lines

IN_USE = "rule in use"
FORGOTTEN = 12.0                                    # seconds after which the kernel has surely forgotten an iterator
CUTS = 4                                            # that are remembered; nobody makes as many within that time
NEVER = float("-inf")


class Iterator:
    """What our listings of one table have left behind in the kernel."""

    def __init__(self) -> None:
        self.torn = False                           # the last one did not come to its end
        self.quiet_until = NEVER                    # none is made before, or a rule would stay in use
        self._cuts: list[float] = []                # when one was cut short behind the rules, among the sessions

    def tear(self) -> None:
        """A listing has not come to its end: the next may begin where it was, and is read for nothing."""
        self.torn = True

    def came_to_its_end(self, now: float) -> bool:
        """A listing has: whether it was the one to be read for nothing."""
        torn, self.torn = self.torn, False
        if now >= self.quiet_until:
            self.quiet_until = NEVER
        return torn

    def cut(self, now: float) -> None:
        """A listing had all of the rules, and was cut short then: one of the sessions may begin where it was."""
        self._cuts = [*self._recent(now), now][-CUTS:]

    def cuts(self, now: float) -> int:
        """How many of these the kernel may remember: each makes one listing too short, of those by the same spawner."""
        self._cuts = self._recent(now)
        return len(self._cuts)

    def _recent(self, now: float) -> list[float]:
        return [then for then in self._cuts if now - then < FORGOTTEN]

    def in_use(self, now: float) -> bool:
        """It keeps a rule from being removed: whether to be quiet and patient, or to look what there is."""
        if self.quiet_until == NEVER:
            self.quiet_until = now + FORGOTTEN
        return now < self.quiet_until


def _nothing() -> None:
    """Nothing to prepare."""


@dataclass(frozen=True)
class Table:
    """One table of the kernel, and the commands that list and change it."""

    name: str                                       # the tool, for messages
    key: str                                        # where the configuration names the tool
    listing: Words
    adding: Words
    removing: Words
    purging: Words                                  # removes the rules' sessions too; the same as removing if it cannot
    read: Callable[[str], str | None]               # a listed line -> its canonical line if the rule is ours
    feed: Callable[[str], str]                      # a canonical line -> the words for this version
    begin: Callable[[], object] = _nothing          # a listing is about to be read
    end: str | None = None                          # the line that ends a listing; None: its end does
    bare: Callable[[str], str] = str                # a listed line -> the words that remove its rule
    other: Callable[[str], str] = str               # those words -> what else may have been listed as them
    mark: str = ""                                  # what makes a rule ours: "the tag l4ip"
    iterator: Iterator = field(default_factory=Iterator, compare=False)

    def reads_as(self, other: Table) -> bool:
        """Whether a listing that was read for the other holds for this one, too."""
        return (self.listing, self.read, self.end, self.bare) == (other.listing, other.read, other.end, other.bare)

    def complaint(self, end: Exit) -> str:
        """What went wrong in a run of its tool."""
        if end.status is None:
            named = end.errno not in (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
            return end.error if named else f"{end.error}: name it in the configuration, {self.key}"
        return explain(end.status, end.stderr.decode(errors="replace"), end.timed_out)


def in_use(lines: Sequence[str], end: Exit) -> list[str]:
    """Those of the lines that were fed that the kernel calls in use; none if it complains of anything else, too."""
    said = [line for line in end.stderr.decode(errors="replace").splitlines() if line.strip()]
    if not said or not all(IN_USE in line for line in said):
        return []
    numbers = [int(found[1]) for line in said if (found := re.match(r"\d+:(\d+):", line))]
    return [lines[number - 1] for number in numbers if 0 < number <= len(lines)] or list(lines)


class Listing:
    """Reads a listing, and stops where the rules end: the sessions behind them may be a million.

    ``before`` is what the last one said: of what is there still, the copies at hand are kept.
    """

    def __init__(self, table: Table, before: Mapping[str, str], errors: InternalErrors) -> None:
        self.table, self.before = table, before
        self.rules: dict[str, str] = {}             # of ours: canonical line -> the words that remove it
        self.copies: dict[str, list[str]] = {}      # canonical line -> the words of more rules that are equal to it
        self.complete = False
        self.lines = 0
        self._errors = errors
        self._lines = Lines()
        table.begin()

    def feed(self, chunk: bytes) -> bool:
        """Take a piece; True when everything that matters was seen."""
        return self._errors.each(f"a line of the listing of {self.table.name} is left out", self._take,
                                 self._lines.feed(chunk))

    def _take(self, raw: bytes) -> bool:
        """True at the end of the rules."""
        self.lines += 1
        line = raw.decode(errors="replace").strip("\r")
        if line == self.table.end:
            self.complete = True
            return True
        if line[:1] != "\t" and (canonical := self.table.read(line)) is not None:
            self._add(canonical, self.table.bare(line))
        return False

    def _add(self, canonical: str, words: str) -> None:
        if canonical in self.rules:
            self.copies.setdefault(canonical, []).append(words)
            return
        known = self.before.get(canonical)
        self.rules[canonical] = known if known == words else words      # not another copy of the same

    def ended(self, end: Exit, now: float) -> bool:
        """Its tool has ended: whether all of it was seen. If not, what does that leave behind?"""
        if self.table.end is None:
            self.complete = end.status == 0 and not end.timed_out and not self._lines.inside
        if not self.complete and end.status is not None and (end.timed_out or end.status <= 0):
            self.table.iterator.tear()
        elif self.complete and not end.clean:       # it did not come to the end of the sessions
            self.table.iterator.cut(now)
        return self.complete
