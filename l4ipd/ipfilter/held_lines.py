"""Lines that a tool does not take, or does not let go: found out, named, and kept from blocking the others.

After a failure nobody knows which line of a batch it was, and ipnat loses the one behind it (FACTS.md 2b-6). So batches
shrink until a line is tried alone. One that failed alone is held: the others go first, it is tried again within
seconds, and as soon as anything else succeeds. While nothing succeeds at all, the tool is to blame, and no line is
named.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from l4ipd.ipfilter.rdr import is_absent

FIRST, LONGEST = 0.2, 3.0                           # seconds until a line is tried again
BATCH = 400                                         # most lines of one run: they fit into a pipe, so that a kill -9
                                                    # can not leave ipnat with half a line
ROW, TRUST = 8, 200                                 # lines that are tried alone, one after the other, without a wait:
                                                    # while nothing succeeds, and when something just has
FEW = 3                                             # lines that are named although nothing has succeeded
STEP = 8                                            # how much smaller batches get when nothing of one is done
GOLDEN = 0.618                                      # of all lines, from one that is tried alone to the next


@dataclass(frozen=True)
class Attempt:
    """What was tried with a line since the table was read last."""

    command: str                                    # add | drain | purge | copy
    words: str = ""                                 # what the tool said when it failed
    alone: bool = False                             # in a run of its own
    copies: int = 0                                 # of the line, that were there before
    broken_off: bool = False                        # by us, for the tool hung, and works again


@dataclass
class Held:
    """A line that failed alone."""

    words: str
    until: float                                    # on the loop's clock
    tries: int = 0
    doubled: bool = False                           # the rule was not there by these words: try the others
    proven: bool = False                            # others have succeeded since it failed first
    paused: bool = False                            # left alone for another reason: no success of others shortens that
    named: set[str] = field(default_factory=set)    # what was said of it in the log


class HeldLines:
    """Which lines are tried next. ``name(line, words)`` tells people of one that is not taken."""

    def __init__(self, name: Callable[[str, str], object]) -> None:
        self.name = name
        self.lines: dict[str, Held] = {}
        self.batch = BATCH
        self.row = 0                                # lines that failed alone since anything succeeded
        self._trust = 0                             # so many may fail until the tool is to blame
        self._wished: set[str] = set()              # what was there to be done when something failed, and since
        self._after = ""                            # the line behind those that were tried last

    def __iter__(self) -> Iterator[str]:
        return iter(self.lines)

    def waits(self, line: str, now: float) -> bool:
        return line in self.lines and self.lines[line].until > now

    def choose(self, lines: list[str], now: float) -> list[str]:
        """Those of ``lines`` for the next run: some that are not held, or else some whose time has come."""
        fresh = [line for line in lines if line not in self.lines] if self.lines else lines
        if fresh:
            return self._some(fresh)
        due = [line for line in lines if not self.waits(line, now)]
        if len(due) <= ROW:
            return due[:1]
        return sorted(due, key=self._shuffle)[:BATCH]   # each time another one is lost behind one that fails

    def _some(self, fresh: list[str]) -> list[str]:
        """Lines of a kind fail together, and stand together: look elsewhere after a failure, and go on from there.

        What was not wanted before comes first.
        """
        start = 0
        if self.lines or self.batch < BATCH:
            new = [line for line in fresh if line not in self._wished]
            if new and self._wished:
                self._wished.update(new[:self.batch])
                return new[:self.batch]
            self._wished.update(new)
        if self.row:
            start = int(len(fresh) * (self.row * GOLDEN % 1))
        elif self._after in fresh:
            start = fresh.index(self._after)
        chosen = fresh[start:start + self.batch]
        self._after = fresh[(start + len(chosen)) % len(fresh)]
        return chosen

    def _shuffle(self, line: str) -> int:
        return zlib.crc32(f"{self.lines[line].tries} {line}".encode())

    def failed(self, undone: Mapping[str, Attempt], now: float) -> bool:
        """Nothing of what was tried is done. Whether others may be tried without a wait."""
        alone = [line for line, attempt in undone.items() if attempt.alone or line in self.lines]
        for line in alone:
            self._hold(line, undone[line].words, now)
        if not alone:
            self.batch = max(1, min(self.batch, len(undone)) // STEP)
            return False
        self.batch = 1
        self.row += len(alone)
        self._trust = max(0, self._trust - len(alone))
        return self._trust > 0 or self.row % ROW != 0

    def _hold(self, line: str, words: str, now: float) -> None:
        held = self.lines.setdefault(line, Held(words, now))
        held.words, held.paused = words, False
        held.tries += 1
        held.until = now + min(LONGEST, FIRST * 2 ** (min(held.tries, 10) - 1))
        if is_absent(words):
            held.doubled = not held.doubled
            held.until = now + FIRST if held.doubled else held.until
        if held.proven or (held.tries >= FEW and len(self.lines) <= FEW):
            if words not in held.named:
                self.name(line, words)
            held.named.add(words)

    def succeeded(self, done: Iterable[str], now: float) -> None:
        """The tool works: who is held may try again at once, and is to blame himself if he fails once more."""
        for line in done:
            self.lines.pop(line, None)
        self.row, self._trust = 0, TRUST
        self.grow()
        for held in self.lines.values():
            if not held.paused:
                held.proven, held.until = True, min(held.until, now)

    def grow(self) -> None:
        """A run was fine."""
        self.batch = min(BATCH, self.batch * STEP)

    def settle(self, fine: Callable[[str], bool]) -> None:
        """Let go of the lines that are as they should be, whoever has seen to that."""
        for line in [line for line in self.lines if fine(line)]:
            del self.lines[line]

    def pause(self, line: str, words: str, until: float) -> None:
        """Leave a line alone until then, for a reason that is no failure of the tool."""
        self.lines[line] = Held(words, until, paused=True)

    def clear(self) -> None:
        self.lines.clear()
        self._wished.clear()
        self.batch, self.row, self._after = BATCH, 0, ""

    def next(self, now: float) -> float:
        """When the first of those that wait is due."""
        return min((held.until for held in self.lines.values() if held.until > now), default=float("inf"))
