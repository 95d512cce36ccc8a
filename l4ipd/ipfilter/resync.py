"""How often a table is read although nothing is known to have changed there: as often as that is cheap.

From the moment in which somebody else flushes our rules until we see it, clients are refused, and nothing but a listing
shows it. That costs the start of a program, and something for every rule. So all tables together may take a share of a
core, whatever their size, and the interval grows with what their listings have cost. Only for the first thousand rules
a slow machine gives more: those should be back within three seconds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from l4ipd.ipfilter.conflicts import OFTEN, WITHIN
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import Loop, Timer

SHARE = 0.004                                       # of a core, for all tables that have one budget; with what is
                                                    # around a listing, and is not measured, it comes to 0.5 %
FEW, SOON, MORE = 1000, 2.5, 0.05                   # up to so many lines it may be more, if that is in so many seconds
LAST = 3                                            # listings of which the cheapest counts: one may meet a cold cache
FORGOTTEN = 4.0                                     # intervals after which a table is not looked at any more


class Budget:
    """What the listings of several tables may cost together."""

    def __init__(self, share: float = SHARE) -> None:
        self.share = share
        self._spent: dict[int, tuple[float, int, float]] = {}   # by table: cost and lines; until when they count

    def interval(self, table: int, cost: float, lines: int, least: float, now: float) -> float:
        """Seconds from one listing of a table to the next, if all of them were to do as this one."""
        self._spent = {other: spent for other, spent in self._spent.items() if other != table and spent[2] > now}
        cost_of_all = cost + sum(cost for cost, _, _ in self._spent.values())
        lines_of_all = lines + sum(lines for _, lines, _ in self._spent.values())
        interval = cost_of_all / self.share
        if lines_of_all <= FEW:
            interval = min(interval, max(SOON, cost_of_all / MORE))
        interval = max(least, interval)
        self._spent[table] = cost, lines, now + FORGOTTEN * interval
        return interval


class Resync:
    """When one table is looked at again: ``look()``, not sooner than ``least`` seconds after the last time."""

    def __init__(self, loop: Loop, least: float, budget: Budget, look: Callable[[], object]) -> None:
        self.loop, self.least, self.budget = loop, least, budget
        self.interval = least
        self._costs: deque[float] = deque(maxlen=LAST)
        self._lines = 0
        self._timer = Timer(look)

    def listed(self, end: Exit, lines: int) -> None:
        """A listing was made, and had so many lines."""
        self._costs.append(end.cost)
        self._lines = lines

    def rest(self) -> None:
        """All is as it should be: look again when it is time to."""
        cost = min(self._costs, default=0.0)
        self.interval = self.budget.interval(id(self), cost, self._lines, self.least, self.loop.now)
        self.loop.set(self._timer, self.loop.now + self.interval)

    @property
    def often(self) -> float:
        """The seconds within which the same loss again and again is no chance."""
        return max(WITHIN, (OFTEN + 1) * self.interval)
