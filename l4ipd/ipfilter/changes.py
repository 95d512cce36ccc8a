"""Changes that were tried since the table was read last, and what has become of them: the table says so, no exit does.

What has failed is tried again: a line that failed alone when its time has come (:mod:`l4ipd.ipfilter.held_lines`), and
all of it after a wait that becomes longer while nothing succeeds (:mod:`l4ipd.runtime.backoff`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from l4ipd.ipfilter.belief import Belief
from l4ipd.ipfilter.held_lines import Attempt, HeldLines
from l4ipd.ipfilter.listing import IN_USE, Table, in_use
from l4ipd.runtime.backoff import Backoff
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import Loop

AGAIN = 1.0                                         # seconds until a rule that is in use is tried again
LIE = "it reported success, but the kernel's table says otherwise"


class Changes:
    """``again()`` is called when the wait is over; ``name(line, words)`` tells people of a line that is not taken."""

    def __init__(self, loop: Loop, again: Callable[[], object], name: Callable[[str, str], object]) -> None:
        self.loop = loop
        self.held = HeldLines(name)
        self.backoff = Backoff(loop, again)
        self.tried: dict[str, Attempt] = {}

    @property
    def failures(self) -> list[str]:
        """The lines with which something went wrong since the table was read."""
        return [line for line, attempt in self.tried.items() if attempt.words]

    def forget(self) -> None:
        """All is as it should be, or the tools are others: nothing waits."""
        self.held.clear()
        self.backoff.succeeded()

    def text(self, command: str, line: str, table: Table, belief: Belief) -> str:
        """What to feed. A listed form may stand for two rules: if it does not remove its own, its double is tried."""
        if command == "add":
            return table.feed(line)
        held = self.held.lines.get(line)
        words = belief.copies[line][0] if command == "copy" else belief.have[line]
        doubled = held is not None and held.doubled
        return table.other(words) if doubled != (command == "copy") else words

    def begin(self, command: str, lines: list[str], belief: Belief) -> None:
        for line in lines:
            self.tried[line] = Attempt(command, "", len(lines) == 1, len(belief.copies.get(line, ())))

    def failed(self, lines: Iterable[str], words: str, broken_off: bool) -> None:
        """A run has, or was ``broken_off``: which of its lines were done, the table will say."""
        for line in lines:
            self.tried[line] = replace(self.tried[line], words=words, broken_off=broken_off)

    def in_use(self, lines: list[str], end: Exit, table: Table) -> list[str]:
        """Lines that cannot be removed as long as the kernel remembers where a listing stood (FACTS.md 3-3).

        They are tried again, with no listing in between: it would take hold of a rule itself.
        """
        now = self.loop.clock()
        stuck = in_use(lines, end)
        if not stuck or not table.iterator.in_use(now):
            return []
        for line in stuck:
            self.held.pause(line, IN_USE, now + AGAIN)
            self.tried.pop(line, None)
        return stuck

    def take(self) -> dict[str, Attempt]:
        """What was tried until now, for :meth:`judge`."""
        tried, self.tried = self.tried, {}
        return tried

    def judge(self, tried: Mapping[str, Attempt], belief: Belief) -> tuple[list[str], dict[str, Attempt]]:
        """The table was read: the lines that are done, and those that are not, each with why. Of one that was broken
        off before it was done nothing is said.
        """
        done = [line for line, attempt in tried.items() if belief.shows(attempt.command, line, attempt.copies)]
        shown = set(done)
        undone = {line: attempt if attempt.words else replace(attempt, words=LIE) for line, attempt in tried.items()
                  if not (line in shown or attempt.broken_off)}
        if done:
            self.backoff.succeeded()
            self.held.succeeded(done, self.loop.now)
        elif undone:
            self.backoff.failed()
            if self.held.failed(undone, self.loop.now):
                self.backoff.skip()
        return done, undone
