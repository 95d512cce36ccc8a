"""Is the sensing deaf? It has no way to know by itself: no record comes also when there is nothing to record.

What gives it away: two of our own probes in a row find that a member refuses, ``ipnat -lh`` says that clients were sent
there between them, and nobody told us of a reset. Then other rules keep state for the connections, which hides the RSTs
from our log rules (FACTS.md 2d-6), or somebody else reads the log.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from l4ipd.ipfilter import rdr
from l4ipd.model import Ipfilter
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.lines import Lines
from l4ipd.runtime.loop import Loop, Timer

APART = 0.5                                         # seconds between two readings, at least
LATE = 2.0                                          # seconds after which a record must have come, by whatever way
Place = tuple[str, str, int]                        # protocol, address and port of a member
log = logging.getLogger("l4ipd.resets")


@dataclass
class Case:
    """An endpoint that is up and whose probes are refused at present."""

    place: Place
    passes: int                                     # of its probes so far: another number is another case
    sent: int | None = None                         # connections that it had been sent when last asked


class Deafness:
    """Compares what clients ran into with what was heard. ``deafened()`` is told when nothing was."""

    def __init__(self, loop: Loop, tools: Ipfilter, deafened: Callable[[], object] = lambda: None) -> None:
        self.loop, self.tools, self.deafened = loop, tools, deafened
        self.deaf = ""                              # the endpoint that gave it away
        self._cases: dict[str, Case] = {}           # by endpoint
        self._suspect = ""                          # the endpoint that will give it away if nothing is heard any more
        self._child: Child | None = None
        self._last = float("-inf")
        self._verdict = Timer(self._conclude)

    def suspect(self, place: Place, name: str, passes: int) -> None:
        """A probe of an endpoint that is up was refused: how many clients are sent there?"""
        case = self._cases.get(name)
        if case is None or (case.place, case.passes) != (place, passes):
            self._cases[name] = Case(place, passes)
        if self._child is None and self.loop.now - self._last >= APART:
            self._last = self.loop.now
            self._child = self._count()

    def heard(self) -> None:
        """A reset that a client caused was seen: the sensing is not deaf."""
        if self.deaf:
            log.info("resets are seen again: the sensing is not deaf")
        self.forget()

    def forget(self) -> None:
        """Whatever was found out was about another source, other rules, or before somebody mended them."""
        self.deaf = self._suspect = ""
        self._cases.clear()
        self.loop.clear(self._verdict)

    def raised(self) -> None:
        """To say it has raised: it is looked for again."""
        self.forget()

    def _count(self) -> Child:
        asked = dict(self._cases)
        places = {case.place for case in asked.values()}
        sent: dict[Place, int] = {}
        lines = Lines()

        def take(line: bytes) -> bool:
            text = line.decode(errors="replace")
            if text == rdr.LISTING_END:
                return True
            rule = rdr.parse(text)
            port = rdr.number(rule.target_port) if rule else None
            if rule and port is not None and (place := (rule.protocol, rule.target, port)) in places:
                sent[place] = sent.get(place, 0) + (rdr.hits(text) or 0)
            return False

        def output(chunk: bytes) -> bool:
            return self.loop.errors.each("a line of ipnat's listing is left out", take, lines.feed(chunk))

        def done(end: Exit) -> None:
            self._child = None
            for name, case in asked.items():
                if case.place in sent and self._cases.get(name) is case:    # else: heard, or well, meanwhile
                    self._compare(name, case, sent[case.place])

        return Child(self.loop, (*self.tools.ipnat, "-lh"), timeout=self.tools.timeout, done=done, output=output)

    def _compare(self, name: str, case: Case, sent: int) -> None:
        if case.sent is not None and sent > case.sent and not (self.deaf or self._suspect):
            self._suspect = name
            self.loop.set(self._verdict, self.loop.now + LATE)
        case.sent = sent

    def _conclude(self) -> None:
        self.deaf, self._suspect = self._suspect, ""
        log.warning("sensing seems deaf: %s refuses connections, clients were sent there, and no reset was seen: do "
                    "other rules keep state for them? then `source: counters` can see them; or does another ipmon read "
                    "the log?", self.deaf)
        self.deafened()
