"""Sensing resets: a member that refuses or resets a client says so to us too, long before its next probe is due.

::

    ResetRules: log rules --> IPFilter --> ipmon, or a log file --> Listener --> Reaction --> refuse() | probe_soon()
                count rules -> ipfstat, once a second ------------> hits ---------^

Where resets come from, whom they are about, what they do, and whether we are deaf are small parts of their own; this
one puts them together.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from l4ipd.checks.verdict import Verdict
from l4ipd.ipfilter.nat_table import Dialect
from l4ipd.ipfilter.resync import Budget
from l4ipd.model import Ipfilter, Resets
from l4ipd.resets.deafness import Deafness
from l4ipd.resets.listener import Listener
from l4ipd.resets.reaction import WORDS, Reaction
from l4ipd.resets.rules import ResetRules
from l4ipd.resets.targets import Targets, Watched
from l4ipd.runtime.loop import Loop

RECORD, LATE_RECORD = 0.3, 1.5                      # seconds until a record of our own refused probe must have come


class Sensing:
    """All of it. ``tell(kind, text, level)`` hears when sensing is lost, and when it is back.

    ``budget`` is what it may cost to read its rules back.
    """

    def __init__(self, loop: Loop, tell: Callable[[str, str, int], object], budget: Budget | None = None) -> None:
        self.settings: Resets | None = None
        self._modern = True                         # this IPFilter is no 4.1, whose ipmon is up to a second late
        self.targets = Targets(loop)
        self.deafness = Deafness(loop, Ipfilter(), lambda: self.listener.look_around())
        self.reaction = Reaction(loop, self.targets, self.deafness.heard)
        self.listener = Listener(loop, self.reaction.weigh, self.reaction.stale, self.reaction.unreadable, tell)
        self.rules = ResetRules(loop, self.reaction.counted, budget)

    def apply(self, settings: Resets | None, tools: Ipfilter, watched: Iterable[Watched], pidfile: str) -> None:
        """Take over a configuration, the first or another one."""
        self.settings, self.deafness.tools = settings, tools
        self.deafness.forget()
        watched = list(watched) if settings is not None else []
        self.targets.use(watched)
        self.rules.use(tools, settings, [each.endpoint for each in watched])
        if settings is None:
            self.listener.use("no", 0, (), "")
        else:
            self.reaction.action = settings.action
            self.listener.use(settings.source, settings.tag, tools.ipmon, pidfile)

    def speak(self, dialect: Dialect) -> None:
        """What this IPFilter understands is known."""
        self._modern = dialect.modern

    def stop(self, remove: bool) -> None:
        """Listen no more. The rules stay, unless they are to be removed."""
        self.listener.stop()
        self.deafness.forget()
        self.rules.stop(remove)

    def probe_refused(self, each: Watched, verdict: Verdict) -> None:
        """A probe of ours could not connect: the record of that will come too. And was it the first to notice?"""
        endpoint = each.endpoint
        targets = self.targets.exactly(endpoint.protocol, endpoint.address, endpoint.member_ports)
        if self.settings is None or not targets or not verdict.text.endswith("connection refused"):
            return
        self.targets.expect_own(targets[0], RECORD if self._modern and self.settings.source == "ipmon" else LATE_RECORD)
        if each.eligible and self.settings.source != "counters" and endpoint.ports == 1:
            place = endpoint.protocol, endpoint.address, endpoint.member_port
            self.deafness.suspect(place, endpoint.name, each.passes)

    # -- what it says

    @property
    def is_alive(self) -> bool:
        """Whether resets would be seen, as far as we know."""
        if self.settings is None:
            return False
        return self.rules.readable if self.settings.source == "counters" else self.listener.alive

    def summary(self) -> str:
        """One line on the whole, empty when sensing is off."""
        if self.settings is None:
            return ""
        problem, count, missed = self.listener.problem, self.reaction, self.listener.missed
        trouble = problem or self.rules.trouble
        state = "lost" if problem else "deaf?" if self.deafness.deaf else "alive" if self.is_alive else "starting"
        ignored = ", ".join(f"{number} {WORDS[why]}" for why, number in sorted(count.ignored.items()) if number)
        return (f"resets: {self.settings.source} {state}; {count.seen} seen, {count.used} used, "
                f"{sum(count.ignored.values())} ignored{' (' + ignored + ')' if ignored else ''}"
                f"{f', {missed} missed by ipmon' if missed else ''}; "
                f"{self.rules.summary()}{'; ' + trouble if trouble else ''}")
