"""Is the sensing deaf? It has no way to know by itself: no record comes also when there is nothing to record.

What gives it away: our own probes find that a member refuses, ``ipnat -lh`` says that clients were sent there since the
last time they did, and nobody told us of a reset. Then other rules keep state for the connections, which hides the RSTs
from our log rules (FACTS.md 2d-6), or somebody else reads the log.
"""

from __future__ import annotations

import logging

from l4ipd import ipfilter
from l4ipd.child import Child, Exit
from l4ipd.lines import Lines
from l4ipd.loop import Loop
from l4ipd.model import Ipfilter

APART = 0.5                                         # seconds between two readings, at least
Place = tuple[str, int]                             # address and port of a member
log = logging.getLogger("l4ipd.resets")


class Hearing:
    """Compares what clients ran into with what was heard."""

    def __init__(self, loop: Loop, tools: Ipfilter) -> None:
        self.loop, self.tools = loop, tools
        self.deaf = ""                              # the endpoint that gave it away
        self._names: dict[Place, str] = {}          # endpoints in question
        self._before: dict[Place, int] = {}         # connections that they had been sent when last asked
        self._child: Child | None = None
        self._last = float("-inf")

    def doubt(self, place: Place, name: str) -> None:
        """A probe of an endpoint that is up was refused: how many clients are sent there?"""
        self._names[place] = name
        if self._child is None and self.loop.now - self._last >= APART:
            self._last = self.loop.now
            self._child = self._count()

    def heard(self, place: Place) -> None:
        """A reset of a client was seen: this member is heard, and the sensing not deaf."""
        self._names.pop(place, None)
        self._before.pop(place, None)
        if self.deaf:
            log.info("resets are seen again: the sensing is not deaf")
            self.deaf = ""

    def settled(self, place: Place) -> None:
        """The endpoint is out of question."""
        self._names.pop(place, None)
        self._before.pop(place, None)

    def _count(self) -> Child:
        asked = set(self._names)
        hits = dict.fromkeys(asked, 0)
        known: set[Place] = set()
        lines = Lines()

        def take(line: bytes) -> bool:
            text = line.decode(errors="replace")
            if text == ipfilter.LISTING_END:
                return True
            rule = ipfilter.parse(text)
            port = ipfilter.number(rule.target_port) if rule else None
            if rule and port is not None and (rule.target, port) in hits:
                known.add((rule.target, port))
                hits[rule.target, port] += ipfilter.hits(text) or 0
            return False

        def output(chunk: bytes) -> bool:
            return self.loop.errors.each("a line of ipnat's listing is left out", take, lines.feed(chunk))

        def done(end: Exit) -> None:
            self._child = None
            self._compare({place: hits[place] for place in known})

        return Child(self.loop, (*self.tools.ipnat, "-lh"), timeout=self.tools.timeout, done=done, output=output)

    def _compare(self, hits: dict[Place, int]) -> None:
        for place, count in hits.items():
            name = self._names.get(place)
            before = self._before.get(place)
            if name is None:                        # heard meanwhile
                continue
            if before is not None and count > before and not self.deaf:
                self.deaf = name
                log.warning("sensing seems deaf: %s refuses connections, clients were sent there, and no reset was "
                            "seen: do other rules keep state for them? then `source: counters` can see them; or does "
                            "another ipmon read the log?", name)
            self._before[place] = count
