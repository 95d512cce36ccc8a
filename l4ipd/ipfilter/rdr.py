"""The words of IPFilter: rdr rules written, read and compared. Pure text; every fact is from FACTS.md and its samples.

One rule has many spellings: as it is fed, as this version lists it, as that version lists it. All are read into an
:class:`Rdr`, whose text is the *canonical line*: two spellings have the same canonical line exactly when IPFilter takes
them for the same rule (FACTS.md 2b-1, 2c-2). Sets of canonical lines are what the rest of the daemon compares.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_network

from l4ipd.runtime.numbers import COUNTER, PORT, whole

LISTING_END = "List of active sessions:"
TAG_LENGTH = 16                                     # the rest is cut off without a word (samples/ipnat-forms.txt)
OPTIONS = ("round-robin", "frag", "age", "sticky", "mssclamp", "proxy", "purge")
WITH_VALUE = frozenset({"age", "mssclamp", "proxy", "tag"})
SPOKEN_BY_ALL = frozenset({"tcp/udp", "ip"})


@dataclass(frozen=True, slots=True)
class Rdr:
    """One redirect rule."""

    interface: str
    vip: str                                        # a network: 203.0.113.10/32
    ports: tuple[int, int] | None                   # first and last; None: no port was named
    target: str                                     # an address, or a pair or range of them
    target_port: str                                # "8080", "= 8080", "8080-8090", "" with protocol ip
    protocol: str
    options: tuple[str, ...] = ("round-robin",)     # in the order of the grammar, with their values
    tag: str | None = None
    source: str = ""                                # of the from-form: "from 0/0", "! from 198.51.100.0/24"

    @property
    def round_robin(self) -> bool:
        return "round-robin" in self.options

    def line(self, modern: bool = True) -> str:
        """The rule as it is fed to ipnat. ``modern`` is false for IPFilter 4.1, which lacks the word ``inet6``."""
        family = "inet6 " if modern and ":" in self.vip else ""
        destination = f"{self.source} to {self.vip}" if self.source else self.vip
        tail = list(self.options)
        if self.tag:
            place = len(tail) - ("purge" in tail)
            tail[place:place] = ["tag", self.tag]
        return (f"rdr {self.interface} {family}{destination}{_ports(self)} -> {self.target}"
                f"{self.target_port and ' port ' + self.target_port} {self.protocol}"
                f"{''.join(' ' + word for word in tail)}")


def _ports(rule: Rdr) -> str:
    if rule.ports is None:
        return ""
    first, last = rule.ports
    if first == last:
        return f" port = {first}" if rule.source else f" port {first}"
    return f" port {first}:{last}" if rule.source else f" port {first}-{last}"


def side(line: str) -> str:
    """What a rule matches on, its left side: rules that share it take turns."""
    return line.partition(" -> ")[0]


def without_age(line: str) -> str:
    """What is left of a canonical line: rules that share it differ in how long sessions are remembered, and no more."""
    return re.sub(r" age \d+/\d+", "", line, count=1)


def target(line: str) -> str:
    """The key under which the canonical lines that steer the same clients to the same member meet."""
    left, _, right = line.partition(" -> ")
    words = right.split()
    return f"{left.split()[-3]} {left.split()[-1]} {' '.join(words[:4])}" if len(words) > 3 else line


def owned(tag: str | None, ours: str | None) -> bool:
    """Whether a rule's tag is ``ours`` or, for a weight above 1, ``ours`` with a number: l4ip, l4ip.2, …"""
    if tag is None or ours is None or not tag.startswith(ours):
        return False
    return tag == ours or bool(re.fullmatch(r"\.([2-9]|[1-9]\d)", tag[len(ours):]))


def is_made_here(rule: Rdr) -> bool:
    """Whether l4ipd makes rules of this form, whatever its configuration."""
    options = [word for word in rule.options if not re.fullmatch(r"[\d/]+", word)]
    return (not rule.source and rule.ports is not None and rule.ports[0] > 0 and rule.protocol in ("tcp", "udp")
            and rule.vip.endswith(("/32", "/128")) and rule.target_port.isdigit() and rule.target_port != "0"
            and not re.search(r"[,-]", rule.target) and options[:1] == ["round-robin"]
            and {"round-robin", "age", "sticky"}.issuperset(options))


# -- reading

OCTET = r"(?:0|[1-9]\d?|1\d\d|2[0-4]\d|25[0-5])"
QUAD = rf"{OCTET}(?:\.{OCTET}){{3}}"
PLAIN = re.compile(rf"(?:\d+ )?rdr (\S+) ({QUAD}/32) port (\d{{1,5}}) -> ({QUAD})(?:/32)? port (\d{{1,5}}) (tcp|udp) "
                   r"round-robin(?: age (\d+/\d+))?( sticky)?(?: tag ([^\s;#]+))?")
Ports = Callable[[str], int | None]


def number(word: str) -> int | None:
    """The port that a word names. Listings have service names in a few places; see ``parse``."""
    return whole(word, PORT)


def hits(line: str) -> int | None:
    """The count that ``-h`` puts before a listed rule; None if there is none."""
    return whole(line.partition(" ")[0], COUNTER)


def parse(line: str, port: Ports = number) -> Rdr | None:
    """The rdr rule that ``line`` says, fed or listed, with a count of hits before it or not; None for anything else.

    ``port`` turns the name or number of a port into a number.
    """
    plain = PLAIN.fullmatch(line)
    if plain is not None:                           # nearly all are, and there may be fifty thousand
        interface, vip, vip_port, host, host_port, protocol, age, sticky, tag = plain.groups()
        if (first := number(vip_port)) is not None and number(host_port) is not None:
            return Rdr(interface, vip, (first, first), host, host_port, protocol, _plain_options(age, sticky),
                       tag and tag[:TAG_LENGTH])
    words = line.partition("#")[0].replace(";", " ").split()
    if words and words[0].isdigit():
        words = words[1:]
    if len(words) < 5 or words[0] != "rdr" or "->" not in words:
        return None
    arrow = words.index("->")
    try:
        return _rule(words[1], words[2:arrow], words[arrow + 1:], port)
    except (ValueError, IndexError):
        return None


@lru_cache(maxsize=256)
def _plain_options(age: str | None, sticky: str | None) -> tuple[str, ...]:
    """The same few for fifty thousand rules."""
    return ("round-robin", *(("age", age) if age else ()), *(("sticky",) if sticky else ()))


def _rule(interface: str, left: list[str], right: list[str], port: Ports) -> Rdr:
    if left[0] in ("inet", "inet6"):
        left = left[1:]
    source = ""
    if "from" in left[:2]:
        to = left.index("to")
        source = re.sub(r"\bany\b", "0/0", " ".join(left[:to]))
        left = left[to + 1:]
    if left[1:2] == ["netmask"]:
        left = [f"{left[0]}/{left[2]}", *left[3:]]
    ports = _port_range("".join(left[2:]).lstrip("="), port) if left[1:2] == ["port"] else None
    goal, right = right[0], right[1:]
    goal_port = ""
    if right[:1] == ["port"]:
        equal = right[1] == "="
        goal_port, right = ("= " + right[2], right[3:]) if equal else (right[1], right[2:])
        goal_port = re.sub(r"[A-Za-z][\w-]*", lambda name: str(_known(port(name[0]))), goal_port)
    protocol, options, tag = _tail(right, split="," in goal or "-" in goal)
    if protocol not in ("ip",):                     # ports that were not named are listed as 0 (FACTS.md 2c-2)
        ports, goal_port = ports or (0, 0), goal_port or "0"
    return Rdr(interface, _network(left[0]), ports, _host(goal), goal_port, protocol, options, tag, source)


def _tail(words: Sequence[str], split: bool) -> tuple[str, tuple[str, ...], str | None]:
    """Protocol, options in the order of the grammar, and tag, from the words after the target."""
    names = {*OPTIONS, "tag"}
    protocol = words[0] if words and words[0] not in names else "tcp/udp"
    rest = list(words[1:] if words and words[0] not in names else words)
    found: dict[str, list[str]] = {}
    while rest:
        name = rest.pop(0)
        if name not in names:
            raise ValueError(name)
        found[name] = []
        while name in WITH_VALUE and rest and rest[0] not in names:
            found[name].append(rest.pop(0))
    if "age" in found and "/" not in found["age"][0]:
        found["age"] = [f"{found['age'][0]}/{found['age'][0]}"]
    if "sticky" in found and "round-robin" not in found and not split:
        del found["sticky"]                         # dropped by ipnat, with a remark (FACTS.md 2a-1)
    tag = found["tag"][0][:TAG_LENGTH] if "tag" in found else None
    options = tuple(word for name in OPTIONS if name in found for word in (name, *found[name]))
    return {"tcpudp": "tcp/udp"}.get(protocol, protocol), options, tag


def _known(port: int | None) -> int:
    if port is None:
        raise ValueError("unknown port")
    return port


def _port_range(text: str, port: Ports) -> tuple[int, int]:
    plain = port(text)
    if plain is not None:
        return plain, plain
    first, _, last = text.replace("-", ":").partition(":")
    return _known(port(first)), _known(port(last))


def _network(text: str) -> str:
    """203.0.113.1 -> 203.0.113.1/32; any, 0/0 and 0/32 as listed."""
    if text == "any":
        return "0/0"
    if text.partition("/")[0] == "0":
        return text
    return str(ip_network(text, strict=False))


def _host(text: str) -> str:
    """10.0.0.2/32 -> 10.0.0.2; pairs and ranges as they are."""
    if "," in text or "-" in text:
        return text
    return str(ip_address(re.sub(r"/(32|128)$", "", text)))


# -- foreign rules

def swallows(foreign: Rdr, ours: Rdr) -> str | None:
    """How a rule that is not ours gets in the way of one that is: None, or words (FACTS.md 2a-4).

    A wider network is no trouble: the engine asks the rules with the longest mask first.
    """
    if foreign.vip != ours.vip or not _share_interface(foreign.interface, ours.interface):
        return None
    if not (foreign.protocol == ours.protocol or foreign.protocol in SPOKEN_BY_ALL):
        return None
    if foreign.ports is not None and foreign.ports != (0, 0) and ours.ports is not None and not (
            foreign.ports[0] <= ours.ports[1] and ours.ports[0] <= foreign.ports[1]):
        return None
    return "takes its turn among our members" if foreign.round_robin else "takes every connection for itself"


def _share_interface(one: str, other: str) -> bool:
    return "*" in (one, other) or one.partition(",")[0] == other.partition(",")[0]


# -- messages

REMEDIES = (
    ("ipfilter not enabled", "IPFilter is disabled: enable it with ipf -E"),
    ("ioctl on device denied", "IPFilter is disabled: enable it with ipf -E"),
    ("not allowed when disabled", "IPFilter is disabled: enable it with ipf -E"),
    ("open: No such file", "IPFilter is not in the kernel: load it (kldload ipl, or service ipfilter start)"),
    ("IPSTATE_NAME): No such file", "IPFilter is not in the kernel: load it (kldload ipl, or service ipfilter start)"),
    ("open device: No such file", "IPFilter is not in the kernel: load it (kldload ipl, or service ipfilter start)"),
    ("version check failed", "the tools and the kernel are of different versions of IPFilter: rebuild one of them"),
    ("Permission denied", "only root may change rules: start l4ipd as root"),
    ("Operation not permitted", "only root may change rules, and nobody at a high kern.securelevel"),
    ("Operation not supported", "a jail needs a network stack of its own for IPFilter: give it vnet"),
)


def is_absent(said: str) -> bool:
    """Whether a tool has complained that the rule to be removed is not there (FACTS.md 2b-2)."""
    return "could not be found" in said or "No such process" in said


def explain(status: int | None, stderr: str, timed_out: bool) -> str:
    """What went wrong in a run of a tool, in its own words, and the remedy where one is known."""
    said = " / ".join(line.strip() for line in stderr.splitlines() if line.strip())[:300]
    if timed_out:
        return "did not end within ipfilter.timeout and was killed" + (f": {said}" if said else "")
    for symptom, remedy in REMEDIES:
        if symptom in said:
            return f"{said} ({remedy})"
    if said:
        return said
    if status is not None and status < 0:
        return f"was killed by signal {-status}"
    return f"ended with exit status {status}"
