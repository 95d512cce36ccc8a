"""What a reset does: it takes the endpoint down, has it probed at once, or nothing.

It counts unless it answers our own probe, or is about an endpoint that is down already, or about none, or was in
ipmon's buffer before we came. What counts does what ``resets.action`` says. Only probes bring an endpoint up again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from l4ipd import logrules
from l4ipd.health import Verdict
from l4ipd.ipmon import Reset
from l4ipd.loop import Loop
from l4ipd.targets import Target, Targets

HASTE = 1.0                                         # seconds between two probes that resets hasten
WORDS = {"own": "own probes", "down": "down already", "unknown": "of no endpoint", "stale": "older than we",
         "haste": "probed just now", "doubted": "not believed", "unreadable": "unreadable"}
log = logging.getLogger("l4ipd.resets")


class Reaction:
    """Weighs resets, and counts them. ``heard()`` is told of every one that somebody caused who is not we."""

    def __init__(self, loop: Loop, targets: Targets, heard: Callable[[], object]) -> None:
        self.loop, self.targets, self.heard = loop, targets, heard
        self.action = "refused"
        self.seen = self.used = 0
        self.ignored: Counter[str] = Counter()      # by the keys of WORDS
        self._hits: dict[str, int] = {}             # last reading of the counters
        self._warned = False

    def weigh(self, reset: Reset, hearsay: bool = False) -> None:
        """A record of ours, and not from before our time. By ``hearsay``, it only hastens probes."""
        self.seen += reset.times
        targets = self.targets.at(reset.protocol, reset.address, reset.port)
        if not targets:
            self.ignored["unknown"] += reset.times
        elif reset.port is None:
            self._hasten(targets)
        elif self.targets.is_echo(targets[0], reset.client):
            self.ignored["own"] += reset.times
        else:
            self._judge(targets[0], reset, hearsay)

    def stale(self, reset: Reset) -> None:
        """It was in the log before we came."""
        self.seen += reset.times
        self.ignored["stale"] += reset.times

    def unreadable(self) -> None:
        """A record of a reset that names no port."""
        self.ignored["unreadable"] += 1

    def _judge(self, target: Target, reset: Reset, hearsay: bool) -> None:
        self.heard()
        up = target.eligible
        if not up:
            self.ignored["down"] += reset.times
            return
        if reset.refused is None and not self._warned:
            self._warned = True
            log.warning("ipmon runs without -v, so that refused connections cannot be told from those that were reset: "
                        "endpoints are probed at once, but not taken down")
        if not hearsay and (self.action == "any" or (self.action == "refused" and reset.refused)):
            verdict = Verdict("RST", f"{_what(reset)}, seen by ipmon")
            uses = {each.refuse(verdict, reset.client) for each in up}
            use = next(use for use in ("used", "doubted", "haste") if use in uses)
            self._count(use, 1)
            self._count("haste" if use == "used" else use, reset.times - 1)
        else:
            self._hasten([target])

    def _count(self, use: str, times: int) -> None:
        if use == "used":
            self.used += times
        elif times:
            self.ignored[use] += times

    def _hasten(self, targets: Iterable[Target]) -> None:
        now = self.loop.now
        for target in targets:
            if now - target.hastened < HASTE:
                self.ignored["haste"] += 1
                continue
            target.hastened = now
            self.used += 1
            for each in target.watched:
                each.hasten()

    def counted(self, hits: Mapping[str, int]) -> None:
        """A reading of the counters. They do not tell whom resets were for: those of our own probes are taken off."""
        for line, count in hits.items():
            new = count - self._hits.get(line, count)
            rule = logrules.parse(line)
            if new <= 0 or rule is None:
                continue
            self.seen += new
            targets = self.targets.at("udp" if rule.port is None else "tcp", rule.address, rule.port)
            own = min(new, sum(target.owed for target in targets))
            for target in targets:
                target.owed = 0
            self.ignored["own"] += own
            up = [target for target in targets if target.eligible]
            if new > own and up:
                self._hasten(up)
                self.ignored["haste"] += new - own - 1
            elif new > own:
                self.ignored["down"] += new - own
        self._hits.update(hits)


def _what(reset: Reset) -> str:
    if reset.protocol == "udp":
        return "port unreachable"
    return "connection refused" if reset.refused else "connection reset"
