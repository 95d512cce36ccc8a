"""The end of the daemon, as the kernel's tables see it: what is still to be done there is done, or said not to be.

With ``on_stop: keep`` that is the change of a moment ago, which may still wait behind a run; with ``remove`` it is all
of our rules. A tool that fails is tried again as long as there is patience, a run that is under way may come to its
end, and a rule that is in use is waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.runtime.child import GRACE
from l4ipd.runtime.loop import Loop

PATIENCE, LONGEST = 5.0, 10.0                       # seconds for tools that fail, and then for a run under way
POLITE = 2.0                                        # seconds for a listing under way that nobody needs


class Shutdown:
    """Ends the loop. ``planned()`` says whether what the tables are to hold is known; with ``thorough`` they are read
    back. ``longest`` is how long one run of a tool may take, in seconds.
    """

    def __init__(self, loop: Loop, tables: Sequence[Reconciler], planned: Callable[[], bool], thorough: bool,
                 longest: float) -> None:
        self.loop, self.tables, self.planned, self.thorough = loop, tables, planned, thorough
        self._polite = loop.now + POLITE
        self._patience = loop.now + min(longest, PATIENCE)
        self._limit = self._patience + min(longest, LONGEST) + GRACE
        for when in (self._polite, self._patience, self._limit):
            loop.later(when - loop.now, lambda: None)       # for a turn then
        loop.hook(self._look)

    def _look(self) -> None:
        now = self.loop.now
        left = [rules for rules in self.tables if not self._is_done(rules)]
        in_use = any(rules.table.iterator.quiet_until > now for rules in left)
        hopeful = not self.planned() or any(rules.busy for rules in left)
        if not (left or hopeful):
            over = now >= self._polite or not any(rules.busy for rules in self.tables)
        else:
            over = now >= (self._limit if hopeful else self._patience) and not in_use
        if over:
            self.loop.stop()

    def _is_done(self, rules: Reconciler) -> bool:
        return rules.pause or not (rules.undone or (self.thorough and not rules.settled))

    @property
    def undone(self) -> list[str]:
        """What is not as it should be, in words, a line for each table."""
        found = []
        for rules in self.tables:
            words = rules.undone or (rules.problem if self.thorough and not self._is_done(rules) else "")
            if words and not rules.pause:
                found.append(f"{rules.table.name}: {words}")
        return found
