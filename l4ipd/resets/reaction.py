"""What a reset does: it takes the endpoint down, has it probed at once, or nothing.

It counts unless it answers our own probe, or is about an endpoint that is down already, or about none, or was in
ipmon's buffer before we came. What counts does what ``resets.action`` says. Only probes bring an endpoint up again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from l4ipd.checks.verdict import Verdict
from l4ipd.ipfilter import log_rules
from l4ipd.model import Endpoint
from l4ipd.resets.ipmon import Reset
from l4ipd.resets.targets import Target, Targets
from l4ipd.runtime.loop import Loop

APART = 1.0                                         # seconds between two probes that resets bring about
WORDS = {"own": "own probes", "down": "down already", "unknown": "of no endpoint", "stale": "older than we",
         "haste": "probed just now", "doubted": "not believed", "unreadable": "unreadable"}
log = logging.getLogger("l4ipd.resets")


class Reaction:
    """Weighs resets, and counts them. ``heard()`` is told of every one that somebody caused who is not we."""

    def __init__(self, loop: Loop, targets: Targets, heard: Callable[[], object]) -> None:
        self.loop, self.targets, self.heard = loop, targets, heard
        self.action = "refused"
        self.seen = self.used = 0
        self.ignored: Counter[str] = Counter()      # by the keys of WORDS; what was not used
        self._hits: dict[bool, dict[str, int]] = {}         # last readings of the counters, by whether they are of IPv6
        self._warned = False

    def weigh(self, reset: Reset, unverified: bool = False) -> None:
        """A record of ours, and not from before our time. ``unverified``, it only hastens probes."""
        self._count(self._use(reset, unverified), reset.times)

    def stale(self, reset: Reset) -> None:
        """It was in the log before we came."""
        self._count("stale", reset.times)

    def unreadable(self) -> None:
        """A record of a reset that makes no sense."""
        self._count("unreadable", 1)

    def _count(self, use: str, times: int) -> None:
        """Of resets that came together, one is used at most."""
        self.seen += times
        if use == "used":
            self.used += 1
            use, times = "haste", times - 1
        if times:
            self.ignored[use] += times

    def _use(self, reset: Reset, unverified: bool) -> str:
        targets = self.targets.at(reset.protocol, reset.address, reset.port)
        if not targets:
            return "unknown"
        if reset.port is None:
            return self._probe_soon(targets)
        if any(self.targets.is_own(target, reset.client) for target in targets):
            return "own"
        self.heard()
        if reset.refused is None and not self._warned:
            self._warned = True
            log.warning("ipmon runs without -v, so that refused connections cannot be told from those that were reset: "
                        "endpoints are probed at once, but not taken down")
        up = [each for target in targets for each in target.eligible]
        if not up:
            return "down"
        believed = self.action == "any" or (self.action == "refused" and reset.refused)
        meant = [each for each in up if _speaks_for(each.endpoint, reset.port)] if believed and not unverified else []
        if not meant:
            return self._probe_soon(targets)
        verdict = Verdict("RST", f"{_what(reset)}, seen by ipmon")
        uses = {each.refuse(verdict, reset.client) for each in meant}
        return next(use for use in ("used", "doubted", "haste") if use in uses)

    def _probe_soon(self, targets: Iterable[Target]) -> str:
        """Have who is there probed now, but not again and again."""
        now, use = self.loop.now, "haste"
        for target in targets:
            if now - target.probed >= APART:
                target.probed, use = now, "used"
                for each in target.watched:
                    each.probe_soon()
        return use

    def counted(self, inet6: bool, hits: Mapping[str, int]) -> None:
        """A reading of the counters. They do not tell whom resets were for: those of our own probes are taken off."""
        before, self._hits[inet6] = self._hits.get(inet6, {}), dict(hits)
        for line, count in hits.items():
            new = count - before.get(line, count)
            rule = log_rules.parse(line)
            if new > 0 and rule is not None:
                self._reckon(new, self._counted_at(rule))

    def _counted_at(self, rule: log_rules.Rule) -> Sequence[Target]:
        if rule.port is None:
            return self.targets.at("udp", rule.address, None)
        return self.targets.exactly("tcp", rule.address, range(rule.port, (rule.last or rule.port) + 1))

    def _reckon(self, new: int, targets: Sequence[Target]) -> None:
        own = min(new, sum(target.expected for target in targets))
        for target in targets:
            target.expected = 0
        self._count("own", own)
        up = [target for target in targets if target.eligible]
        if new > own:
            self._count(self._probe_soon(up) if up else "down" if targets else "unknown", new - own)


def _speaks_for(endpoint: Endpoint, port: int) -> bool:
    """Whether a port that refuses says something of the whole: of a range only one that is checked does.

    That nobody listens at the others now (passive FTP opens one for a moment) is as it should be.
    """
    return endpoint.ports == 1 or any(endpoint.port_of(check) == port for check in endpoint.checks)


def _what(reset: Reset) -> str:
    if reset.protocol == "udp":
        return "port unreachable"
    return "connection refused" if reset.refused else "connection reset"
