"""Who cannot be probed, through the gateway's own trouble, and what the log is told of it.

Each trouble, in its words, has its endpoints. There is a line when it begins, when it meets an endpoint that is up,
when it has grown tenfold (to 10, 100, 1000 endpoints), and when it is over. Thousands may get into trouble and out of
it again and again: each is named once a minute at most, and ten of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

MINUTE, NAMED = 60.0, 10                            # seconds in which so many endpoints are named, for each trouble
REMEMBERED = 100                                    # troubles that are over
log = logging.getLogger("l4ipd.probe")


class Trouble:
    """One of them: its endpoints, and what was said."""

    def __init__(self) -> None:
        self.endpoints: set[str] = set()
        self.grown = 1                              # the power of ten that it has reached
        self.said = False                           # that it has begun
        self._minute = float("-inf")                # when the present one began, and who was named in it
        self._named: set[str] = set()

    def may_name(self, name: str, now: float) -> bool:
        if now - self._minute > MINUTE:
            self._minute = now
            self._named.clear()
        if name in self._named or len(self._named) >= NAMED:
            return False
        self._named.add(name)
        return True


class Unprobed:
    """All endpoints in trouble. ``now()`` is the clock of the loop."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._troubles: dict[str, Trouble] = {}

    def begin(self, name: str, where: str, state: str, words: str) -> None:
        """An endpoint cannot be probed any more; ``state`` is the one that it keeps."""
        trouble = self._troubles.setdefault(words, Trouble())
        trouble.endpoints.add(name)
        count = len(trouble.endpoints)
        if count >= 10 * trouble.grown:
            trouble.grown *= 10
            trouble.said = True
            log.warning("%d endpoints cannot be probed, and their states stay: LOCAL %s", count, words)
        elif (count == 1 or state == "up") and trouble.may_name(name, self._now()):
            trouble.said = True
            log.warning("%s %s: LOCAL %s; its state stays %s", name, where, words, state)

    def end(self, name: str, words: str, over: bool) -> None:
        """It is ``over`` for an endpoint; or it has another one now, or nobody asks any more."""
        trouble = self._troubles[words]
        trouble.endpoints.discard(name)
        if not trouble.endpoints:
            if trouble.said and over:
                log.info("the gateway can probe again: no more %s", words)
            trouble.grown, trouble.said = 1, False
            self._forget()

    def _forget(self) -> None:
        """Words may differ each time: those of the past are kept for a while, for the sake of their minutes."""
        past = [words for words, trouble in self._troubles.items() if not trouble.endpoints]
        for words in past[:-REMEMBERED]:
            del self._troubles[words]
