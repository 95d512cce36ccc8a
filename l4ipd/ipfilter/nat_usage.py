"""How full the kernel's NAT table is: watched all the time, since a full one is an outage that no probe sees.

When it is full, the packets of new connections are dropped in silence, those of every service and of whatever else is
translated, while connections to the members themselves pass (FACTS.md 3-5). ``ipnat -s`` tells how many sessions there
are and how often there was no room; it walks through nothing, so that it costs as little as starting a program does.
``ipf -T nat_table_max`` tells how many there may be; 4.1 has no such word, and no limit is known then.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

from l4ipd.ipfilter import nat_statistics
from l4ipd.ipfilter.nat_statistics import Statistics
from l4ipd.model import Ipfilter
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop, Timer

FIRST, EVERY, SELDOM = 1.0, 10.0, 60.0              # seconds until the first look; and between two
SHARE = 0.001                                       # of a core, that looking may take
ASK_LIMIT = 6                                       # of these, until the limit is read again
HIGH, RELIEVED = 0.8, 0.7                           # of the limit: when there is a warning, and when it is forgotten
QUIET = 60.0                                        # seconds without a drop until it is over
LIMIT = re.compile(rb"^nat_table_max\t.*\bcurrent (\d{1,12})\s*$", re.MULTILINE)
MORE = "see l4ipd(8), THE TABLE OF SESSIONS"
log = logging.getLogger("l4ipd.rules")
Tell = Callable[[str, str, int], object]


class NatUsage:
    """Looks every ten seconds, where that is cheap. ``settings()`` are what a reload has made of them.

    ``tell(kind, text, level)`` hears of the events table-full and table-free.
    """

    def __init__(self, loop: Loop, settings: Callable[[], Ipfilter], tell: Tell) -> None:
        self.loop, self.settings, self.tell = loop, settings, tell
        self.active: int | None = None              # sessions, whoever's they are; None: not known
        self.limit: int | None = None
        self.drops: int | None = None               # packets of new connections, since the kernel counts
        self.high = self.dropping = False
        self._before: Statistics | None = None      # what was told the last time that something was
        self._when = self._dropped = 0.0            # when that was, and when it told of drops
        self._looks = 0
        self._timer = Timer(self._look)
        self._ended = False

    def start(self) -> None:
        self.loop.set(self._timer, self.loop.now + FIRST)

    def stop(self) -> None:
        self._ended = True
        self.loop.drop(self._timer)

    def raised(self) -> None:
        """A look has."""
        self._again()

    @property
    def trouble(self) -> str:
        """What is wrong at present, in words; empty if nothing is."""
        if self.dropping:
            return f"new connections are being dropped by the kernel: {self._filled}; {MORE}"
        return f"the kernel's NAT table is getting full: {self._filled}; {MORE}" if self.high else ""

    @property
    def summary(self) -> str:
        """One line; empty if nothing is known."""
        if self.active is None:
            return ""
        lost = "" if self.drops is None else f"; {self.drops} packets of new connections dropped"
        return f"NAT table: {self._filled}{lost}"

    @property
    def _filled(self) -> str:
        if self.active is None:
            return "how many sessions it has is not known"
        return f"{self.active} of {self.limit} sessions" if self.limit is not None else f"{self.active} sessions"

    # -- looking

    def _again(self, cost: float = 0.0) -> None:
        if not self._ended:
            self.loop.set(self._timer, self.loop.clock() + min(SELDOM, max(EVERY, cost / SHARE)))

    def _look(self) -> None:
        settings = self.settings()
        Child(self.loop, (*settings.ipnat, "-s"), timeout=settings.timeout, done=self._told)

    def _told(self, end: Exit) -> None:
        if self._ended:
            return
        self._again(end.cost)                       # before anything can raise
        if end.timed_out or end.status != 0:
            self.active = None                      # the reconciler says what is wrong with the tool
            return
        found = nat_statistics.parse(end.stdout.decode(errors="replace"))
        self._looks += 1
        if self._looks % ASK_LIMIT == 1 or self._is_high(found):    # or it may just have been raised
            settings = self.settings()
            Child(self.loop, (*settings.ipf, "-T", "nat_table_max"), timeout=settings.timeout,
                  done=lambda end: self._limited(found, end))
        else:
            self._judge(found)

    def _limited(self, found: Statistics, end: Exit) -> None:
        told = LIMIT.search(end.stdout)
        if told is not None:
            self.limit = int(told[1])
        elif not end.timed_out:
            self.limit = None
        if not self._ended:
            self._judge(found)

    def _is_high(self, found: Statistics) -> bool:
        return self.limit is not None and found.active is not None and found.active >= HIGH * self.limit

    # -- judging

    def _judge(self, found: Statistics) -> None:
        before, now = self._before, self.loop.clock()
        seconds, self._when, self._before = now - self._when, now, found
        self.active, self.drops = found.active, found.drops
        if before is not None:
            self._judge_drops(_rise(before.drops, found.drops), _rise(before.full, found.full), seconds)
        high = self._is_high(found)
        if high and not (self.high or self.dropping):
            log.warning("the kernel's NAT table is getting full: %s; %s", self._filled, self._remedy)
        share = HIGH if not self.high else RELIEVED
        self.high = self.limit is not None and (found.active or 0) >= share * self.limit

    def _judge_drops(self, drops: int, full: int, seconds: float) -> None:
        now = self.loop.clock()
        if drops or full:
            self._dropped = now
            if not self.dropping:
                self.dropping = True
                self.tell("table-full", self._words(drops or full, bool(full), seconds), logging.ERROR)
        elif self.dropping and now - self._dropped >= QUIET:
            self.dropping = False
            self.tell("table-free", "the kernel drops no new connections any more, for a minute now: its NAT table has "
                      f"{self._filled}", logging.INFO)

    def _words(self, drops: int, full: bool, seconds: float) -> str:
        if full:
            return (f"the kernel's NAT table is full: {self._filled}: {drops} packets of new connections were dropped "
                    f"in {seconds:.0f} s; {self._remedy}")
        return (f"the kernel drops new connections, although its NAT table is not full: {self._filled}: {drops} "
                f"packets of new connections were dropped in {seconds:.0f} s; see ipnat -s")

    @property
    def _remedy(self) -> str:
        """What helps. The limit can be changed only while IPFilter is off, which drops every rule."""
        more = 2 * self.limit if self.limit else 100_000
        return ("let services have a shorter age, or make room, which drops every rule and session for a moment: "
                f"ipf -D; ipf -T nat_table_max={more}; ipf -E; {MORE}")


def _rise(before: int | None, now: int | None) -> int:
    """None where the kernel has begun to count anew."""
    return max(0, now - before) if before is not None and now is not None else 0
