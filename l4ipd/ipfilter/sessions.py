"""The sessions in the kernel's NAT table, counted by endpoint: what stands behind the rules in ``ipnat -l``.

A session belongs to whom its member, port and VIP say, whether its rule is still there or not (FACTS.md 3-2). They may
be a hundred thousand, so they are read only when somebody wants to know, and as the listing streams.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable

from l4ipd.ipfilter import rdr
from l4ipd.ipfilter.rdr import explain
from l4ipd.model import Endpoint, Words
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.internal_errors import InternalErrors
from l4ipd.runtime.lines import Lines
from l4ipd.runtime.loop import Loop

PATIENCE = 5.0                                      # seconds: people are waiting
#: member, port, VIP, port, client, its port and, on some versions, the protocol
SESSION = re.compile(r"RDR (\S+) +(\d+) +<- -> (\S+) +(\d+) +\[(\S+) (\d+)\](?: (\w+))?$")
Side = tuple[str, str, str, str]                    # member, port, VIP, port, as text
Counted = Callable[["dict[str, int]", str], object]     # by name of endpoint; why they are not known, or nothing


def count(loop: Loop, ipnat: Words, timeout: float, endpoints: Iterable[Endpoint], done: Counted) -> None:
    """Count the sessions of ``endpoints`` as of now; ``done`` is called later, in any case."""
    tally = Tally(endpoints, loop.errors)

    def ended(end: Exit) -> None:
        problem = ""
        if not (end.clean and tally.complete):
            problem = end.error or ("its listing was cut short" if end.clean else
                                    explain(end.status, end.stderr.decode(errors="replace"), end.timed_out))
        done(dict(tally.counts), problem and f"ipnat -l: {problem}")

    Child(loop, (*ipnat, "-l"), timeout=min(timeout, PATIENCE), done=ended, output=tally.feed)


class Tally:
    """Takes a listing as it streams."""

    def __init__(self, endpoints: Iterable[Endpoint], errors: InternalErrors) -> None:
        self._whose: dict[Side, list[Endpoint]] = {}        # two, where one port serves over tcp and udp
        for endpoint in endpoints:
            for vip in endpoint.vips:
                side = (endpoint.address, str(endpoint.member_port), vip, str(endpoint.port))
                self._whose.setdefault(side, []).append(endpoint)
        self.counts: Counter[str] = Counter()
        self.complete = False                       # the sessions have begun: rules may be many, and cut short
        self._errors = errors
        self._lines = Lines()

    def feed(self, chunk: bytes) -> bool:
        return self._errors.each("a line of ipnat's listing is left out", self._take, self._lines.feed(chunk))

    def _take(self, line: bytes) -> None:
        if not self.complete:
            self.complete = line.strip() == rdr.LISTING_END.encode()
            return
        found = SESSION.match(line.decode(errors="replace").rstrip())
        if found is None:
            return
        member, port, vip, vip_port, _, _, protocol = found.groups()
        for endpoint in self._whose.get((member, port, vip, vip_port), ()):
            if protocol in (None, endpoint.protocol):
                self.counts[endpoint.name] += 1
