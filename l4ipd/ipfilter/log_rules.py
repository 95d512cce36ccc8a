"""The ipf rules that make members' refusals visible: written, read and compared. Pure text; from FACTS.md 2d, 2f.

A *log* rule has ipmon print every RST of an endpoint, a *count* rule only counts them, but sees them also when other
rules keep state. Neither changes what passes. For udp endpoints it is the ICMP "port unreachable" of the member.

What ipf takes for one rule has one canonical line here. Forms that were run with a real ipf: all those with ``proto
tcp`` (samples/ipf-log-rules.txt). From reading its grammar and its printer only: those with ``icmp-type`` or a range of
ports (``port 50000:50999``, listed as fed; ipnat's from-form, by the same code, was run), and IPFilter 4.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from l4ipd.model import Endpoint
from l4ipd.runtime.numbers import PORT, SERIAL, whole

PREFIX = re.compile(r"(?:\d+ ){0,2}(?:@\d+ )?")     # hits, bytes, number: as the flags of ipfstat will have it
RULE = re.compile(r"(?P<action>log|count) in on (?P<interface>\S+) (?:family )?(?:inet6? )?proto (?P<protocol>\S+) "
                  r"from (?P<address>[^\s/]+)(?:/32|/128)?"
                  r"(?: port (?P<one>= )?(?P<port>\d{1,5})(?::(?P<last>\d{1,5}))?)? to any"
                  r"(?: flags (?P<flags>\S+))?(?: icmp-type (?P<type>\S+) code (?P<code>\S+))?"
                  r"(?: set-tag\(log=(?P<tag>\d{1,10})\))?")
PROTOCOLS = {"tcp": "tcp", "6": "tcp", "icmp": "icmp", "1": "icmp", "ipv6-icmp": "ipv6-icmp", "icmp6": "ipv6-icmp",
             "icmpv6": "ipv6-icmp", "58": "ipv6-icmp"}
UNREACHABLE = {"icmp": ({"3", "unreach"}, {"3", "port-unr"}), "ipv6-icmp": ({"1", "unreach"}, {"4"})}
NUMBERS = {"icmp": "icmp-type 3 code 3", "ipv6-icmp": "icmp-type 1 code 4"}


@dataclass(frozen=True, slots=True)
class Rule:
    """Log or count the refusals of one member: RSTs of a tcp ``port``, or, without one, ICMP port unreachables.

    A range of ports goes from ``port`` to ``last``.
    """

    action: str                                     # log | count
    interface: str
    address: str
    port: int | None
    tag: int | None = None                          # count rules have none: they leave no trace in the log
    last: int | None = None

    @property
    def inet6(self) -> bool:
        return ":" in self.address

    def line(self) -> str:
        """The canonical line, which every version of ipf takes."""
        tag = "" if self.tag is None else f" set-tag(log={self.tag})"
        if self.port is not None:
            ports = f"= {self.port}" if self.last is None else f"{self.port}:{self.last}"
            what = f"proto tcp from {self.address} port {ports} to any flags R/R"
        else:
            protocol = "ipv6-icmp" if self.inet6 else "icmp"
            what = f"proto {protocol} from {self.address} to any {NUMBERS[protocol]}"
        return f"{self.action} in on {self.interface} {what}{tag}"


def wanted(endpoints: Iterable[Endpoint], interface: str, action: str, tag: int | None) -> list[Rule]:
    """The rules for ``endpoints``, each once however many endpoints share it."""
    return list(dict.fromkeys(_rule(endpoint, interface, action, tag) for endpoint in endpoints))


def _rule(endpoint: Endpoint, interface: str, action: str, tag: int | None) -> Rule:
    if endpoint.protocol != "tcp":
        return Rule(action, interface, endpoint.address, None, tag)
    return Rule(action, interface, endpoint.address, endpoint.member_port, tag,
                endpoint.member_ports[-1] if endpoint.ports > 1 else None)


def feed(line: str) -> str:
    """How a canonical line is given to ``ipf -f -``: log rules go first, before any that is ``quick``."""
    return f"@0 {line}" if line.startswith("log ") else line


def bare(line: str) -> str:
    """A listed line without what ipfstat puts in front: the words that remove the rule."""
    return line[PREFIX.match(line).end():] if line[:1] in "0123456789@" else line  # type: ignore[union-attr]


def tag(line: str) -> int | None:
    """The number that a canonical line bears."""
    number = line.rpartition(" set-tag(log=")[2]
    return int(number[:-1]) if number != line else None


def parse(line: str) -> Rule | None:
    """The rule of the kind above that ``line`` says, fed or listed; None for any other, however like ours it is."""
    found = RULE.fullmatch(bare(line).strip())
    if found is None:
        return None
    protocol = PROTOCOLS.get(found["protocol"], "")
    if protocol == "tcp":
        fits = (found["port"] is not None and found["flags"] == "R/R" and found["type"] is None
                and (found["one"] is None) == (found["last"] is not None))
    else:
        kind, code = UNREACHABLE.get(protocol, (set(), set()))
        fits = found["port"] is None and found["flags"] is None and found["type"] in kind and found["code"] in code
    address = _address(found["address"])
    if not fits or address is None or (protocol != "tcp" and (":" in address) != (protocol == "ipv6-icmp")):
        return None
    numbers = {"port": PORT, "last": PORT, "tag": SERIAL}
    port, last, tag = (whole(found[name] or "", kind) for name, kind in numbers.items())
    if any((value is None) != (found[name] is None) for name, value in zip(numbers, (port, last, tag), strict=True)):
        return None
    if last is not None and (port is None or last <= port):
        return None
    return Rule(found["action"], found["interface"], address, port, tag, last)


def _address(text: str) -> str | None:
    try:
        return str(ip_address(text))
    except ValueError:                              # any, a network, a name
        return None
