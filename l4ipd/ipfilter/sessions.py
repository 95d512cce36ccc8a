"""The sessions in the kernel's NAT table: what stands behind the rules in ``ipnat -l``, and whose they are.

A session belongs to whom its member, port, VIP, port and protocol say, whether its rule is still there or not
(FACTS.md 3-2). They may be a hundred thousand, so they are not looked at one by one: of a piece of the listing, all
sessions with the same ends are counted at once, and whose these are is asked once for each pair of ends.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from ipaddress import ip_address

from l4ipd.model import Endpoint

LONGEST = 1024                                      # bytes of a line; the longest that is known has about 130
BEGIN = re.compile(rb"\nList of active sessions:\r?\n")
#: "RDR 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 64158] tcp": its ends, and the protocol, which
#: only some versions tell
ENDS = re.compile(rb"^(RDR \S+ +\d{1,5} +<- -> \S+ +\d{1,5}) +\[\S+ \d{1,5}\](?: (\w+))?[ \r]*$", re.MULTILINE)
ANY = b" <- ->"                                     # in every session's line, of rdr rules or others
Ends = tuple[bytes, bytes]                          # up to the client, and the protocol or nothing


class Reader:
    """Takes a listing as it streams. It has no more than a piece and a line of it at a time."""

    def __init__(self) -> None:
        self.counts: Counter[Ends] = Counter()
        self.total = 0                              # sessions of all kinds
        self.begun = False                          # the rules are behind us
        self._rest = b"\n"

    @property
    def inside(self) -> bool:
        """What has come so far does not end with a line's end."""
        return self.begun and bool(self._rest)

    def feed(self, chunk: bytes) -> bool:
        """Take a piece. It has never seen enough: a listing that is cut short harms the next (FACTS.md 3-3)."""
        data = self._rest + chunk
        if not self.begun:
            found = BEGIN.search(data)
            if found is None:
                self._rest = data[-64:]
                return False
            self.begun, data = True, data[found.end():]
        lines, _, rest = data.rpartition(b"\n")
        self._rest = rest if len(rest) <= LONGEST else b"\0"        # no line that we know begins with that
        self.total += lines.count(ANY)
        self.counts.update(ENDS.findall(lines))
        return False


class Owners:
    """Whose a session is. An endpoint is added by :meth:`add`, so that ten thousand need not be at once."""

    def __init__(self, endpoints: Iterable[Endpoint] = ()) -> None:
        self._of: dict[tuple[str, int, str, int], list[Endpoint]] = {}      # two, where both tcp and udp are served
        self._ranges: dict[tuple[str, str], list[Endpoint]] = {}            # those with a range of ports
        for endpoint in endpoints:
            self.add(endpoint)

    def add(self, endpoint: Endpoint) -> None:
        for vip in endpoint.vips:
            if endpoint.ports > 1:
                self._ranges.setdefault((endpoint.address, vip), []).append(endpoint)
                continue
            side = endpoint.address, endpoint.member_port, vip, endpoint.port
            self._of.setdefault(side, []).append(endpoint)

    def of(self, ends: Ends) -> Iterator[Endpoint]:
        """Several, if the line does not tell the protocol and it may be either's."""
        protocol, *words = (word.decode("ascii", "replace") for word in (ends[1], *ends[0].split()))
        _, member, port, _, _, vip, vip_port = words
        side = _canonical(member), int(port), _canonical(vip), int(vip_port)
        for endpoint in (*self._of.get(side, ()), *self._ranged(*side)):
            if protocol in ("", endpoint.protocol):
                yield endpoint

    def _ranged(self, member: str, port: int, vip: str, vip_port: int) -> Iterator[Endpoint]:
        """A port keeps its place in the range."""
        for endpoint in self._ranges.get((member, vip), ()):
            if port in endpoint.member_ports and port - endpoint.member_port == vip_port - endpoint.port:
                yield endpoint


def _canonical(address: str) -> str:
    """As the configuration has it. Of IPv4 there is only one spelling."""
    try:
        return str(ip_address(address)) if ":" in address else address
    except ValueError:
        return address
