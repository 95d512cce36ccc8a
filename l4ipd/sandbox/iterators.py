"""What listings leave behind in the kernel: an iterator each, forgotten after some ten seconds (FACTS.md 3-3).

One that was killed or cut short stays where it was, and the next listing by the same spawner goes on from there, exit
status 0, without a complaint. While a listing of filter rules is remembered, the rule that it stands on is in use and
cannot be removed, if the listing was cut; on IPFilter 6.0.0 after a complete one, too: the last rule. Here, only the
spawner of the listing is kept from it, so that whoever looks on from outside changes nothing by looking.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from typing import TypeVar

LIFE = 10.0                             # seconds
Rule = TypeVar("Rule")


class Iterators:
    """``life`` is how long one is remembered; 0: not at all."""

    def __init__(self, clock: Callable[[], float], life: float) -> None:
        self.clock, self.life = clock, life
        self._broken_off: dict[Hashable, tuple[int, float]] = {}        # by list and spawner: where, until when
        self._in_use: dict[tuple[object, str], float] = {}              # by rule and spawner: until when

    def walk(self, name: str, spawner: str, rules: Sequence[Rule], hold: bool = False,
             hold_cut: bool = False) -> Generator[Rule, None, None]:
        """A listing of ``rules``. ``hold``: the rule that it stands on is in use; ``hold_cut``: if it was cut."""
        key = name, spawner
        place, until = self._broken_off.pop(key, (0, 0.0))
        if self.clock() >= until:
            place = 0
        try:
            while place < len(rules):
                yield rules[place]
                place += 1
        finally:
            until = self.clock() + self.life
            if place < len(rules) and spawner and self.life:
                self._broken_off[key] = place, until
            if (hold or hold_cut and place < len(rules)) and self.life and rules:
                self._in_use = {held: end for held, end in self._in_use.items() if end > self.clock()}
                self._in_use[rules[min(place, len(rules) - 1)], spawner] = until

    def in_use(self, rule: object, spawner: str) -> bool:
        return self._in_use.get((rule, spawner), 0.0) > self.clock()
