"""Somebody else who removes rules of ours, or loads such that look like ours: most likely another l4ipd with our tag.

It takes our rules for leftovers of its own, as we take its rules for leftovers of ours, and two of them would go on for
ever. So whoever loses the same rule three times within a minute, or removes one that comes back as often, says it and
slows down: it puts such rules back less often, and leaves alone for minutes what it would remove as a leftover. Two
that both do that do not disturb each other any more.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable

OFTEN, WITHIN = 3, 60.0                             # times of one rule, seconds
PUT_BACK = (2.0, 5.0, 10.0)                         # seconds until such a rule is put back, the longer the oftener
LEFT_ALONE = (60.0, 120.0, 300.0, 600.0)            # seconds in which no leftover is removed
LOST = "somebody else removes it again and again"
SLOWER = "such rules are put back less often now, and what no endpoint makes is left alone for a while"
TOLD = 1000                                         # rules of which it is remembered that they were told of
log = logging.getLogger("l4ipd.rules")


class Conflicts:
    """What they have done to one table. ``mark`` is what makes a rule ours, in words: "the tag l4ip", or empty.

    ``whose(line)`` tells of a rule that we have not loaded whose it may be; it is empty if it could be an endpoint's.
    """

    def __init__(self, whose: Callable[[str], str]) -> None:
        self.whose = whose
        self.leftovers: set[str] = set()            # rules of ours that we have not loaded, and no endpoint makes
        self.contested_until = float("-inf")        # if nothing more happens
        self._told: set[str] = set()
        self._losses = Times()                      # rules that were lost, and put back
        self._returns = Times()                     # leftovers that were removed, and came back
        self._missed: set[str] = set()              # lines that are lost, to be put back
        self._level = 0                             # how often it was prolonged

    def contested(self, now: float) -> bool:
        """Whether somebody else changes what is ours, again and again."""
        return now < self.contested_until

    def spared(self, line: str, now: float) -> bool:
        """Whether a rule is not to be removed at present."""
        return line in self.leftovers and self.contested(now)

    @property
    def due(self) -> float:
        """When those that are spared are not any more."""
        return self.contested_until if self.leftovers else float("inf")

    def appeared(self, lines: Iterable[str], there: Container[str], now: float, within: float, mark: str) -> None:
        """Rules of ours that we have not loaded; ``there`` are all that are in the table."""
        new = {line: words for line in lines if (words := self.whose(line))}
        self.leftovers = {line for line in self.leftovers if line in there and self.whose(line)}.union(new)
        untold = [line for line in new if line not in self._told]
        if untold:
            self._told = set(untold) if len(self._told) > TOLD else self._told | set(untold)
            log.warning("%s %s that no endpoint makes will be removed: %s: %s",
                        f"{len(untold)} rules" if len(untold) > 1 else "a rule", f"with {mark}" if mark else "of ours",
                        untold[0], new[untold[0]])
        often = [line for line in new if self._returns.count(line, now, within) >= OFTEN]
        if often and self._declare(now, within):
            log.warning("a rule that no endpoint makes came back %d times within a minute: %s: %s; %s", OFTEN, often[0],
                        _cause(mark), SLOWER)

    def removed(self, lines: list[str], now: float, within: float, mark: str) -> dict[str, float]:
        """They have removed rules that should be there: those that we lose too often, and when to put them back."""
        log.warning("%s of ours had been removed by somebody else and will be put back: %s",
                    f"{len(lines)} rules" if len(lines) > 1 else "a rule", lines[0])
        self._missed.update(lines)
        late: dict[str, float] = {}
        for line in lines:
            often = 1 + self._losses.count(line, now, within) - OFTEN
            if often >= 0:
                late[line] = now + PUT_BACK[min(often, len(PUT_BACK) - 1)]
        if late and self._declare(now, within):
            log.warning("a rule of ours was removed by somebody else %d times within a minute: %s: %s; %s",
                        OFTEN, next(iter(late)), _cause(mark), SLOWER)
        return late

    def put_back(self, line: str, now: float, within: float) -> None:
        """A rule that was lost is loaded again. Only now it is sure that it was: a listing may have left it out."""
        if line in self._missed:
            self._losses.note(line, now, within)

    def taken_out(self, line: str, now: float, within: float) -> None:
        """A rule is removed. Should it come back, then somebody has loaded it: that counts if it is a leftover."""
        if self.whose(line):
            self._returns.note(line, now, within)

    def settle(self, fine: Callable[[str], bool]) -> None:
        """What is as it should be is not missed any more."""
        if self._missed:
            self._missed = {line for line in self._missed if not fine(line)}

    def _declare(self, now: float, within: float) -> bool:
        """There is a conflict. Whether that is news."""
        news = not self.contested(now)
        if now - self.contested_until > within:
            self._level = 0
        self.contested_until = now + LEFT_ALONE[min(self._level, len(LEFT_ALONE) - 1)]
        self._level += 1
        return news


class Times:
    """When something happened to a line, of late."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = {}

    def note(self, line: str, now: float, within: float) -> int:
        """It happens now: how often it has within that time."""
        for old in [old for old, times in self._times.items() if now - times[-1] > within]:
            del self._times[old]
        self._times[line] = [*self._times.get(line, ())[-OFTEN - len(PUT_BACK):], now]
        return self.count(line, now, within)

    def count(self, line: str, now: float, within: float) -> int:
        return sum(now - then <= within for then in self._times.get(line, ()))


def _cause(mark: str) -> str:
    if mark:
        return f"another l4ipd with {mark} is the likely cause: give each its own"
    return "another l4ipd, or a program that loads all rules anew, is the likely cause"
