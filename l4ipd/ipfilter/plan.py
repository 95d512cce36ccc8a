"""Which rules we want: a pure function of which members are up.

For each service: which members *serve* (:func:`serving`), and one rule for each of their weights on each address
(:func:`rules`), in the order in which the engine should take turns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from math import gcd
from operator import add, attrgetter

from l4ipd.ipfilter.rdr import Rdr
from l4ipd.model import Config, Endpoint, Ipfilter


def serving(members: Iterable[Endpoint], up: Collection[str], last: Collection[str], keep: bool) -> list[Endpoint]:
    """The endpoints of a service that should get connections.

    ``up`` are the names of those that may get connections, ``last`` of those that served last and still may be kept.
    Fallbacks serve only while nobody else can. With nobody up at all, ``keep`` leaves those that served last.
    """
    members = list(members)
    regular = [member for member in members if member.name in up and not member.fallback]
    if regular:
        return regular
    fallbacks = [member for member in members if member.name in up]
    if fallbacks or not keep:
        return fallbacks
    return [member for member in members if member.name in last]


@dataclass(slots=True)
class Tally:
    """How many members of a service get connections: what stands behind every ``2 of 3 up``.

    A fallback counts only while it serves, and a member of weight 0 never, so that all is well when both numbers are
    the same.
    """

    regulars: int = 0                               # members that are no fallbacks, and have a weight
    up: int = 0                                     # those of them that may get connections
    fallbacks: int = 0                              # fallbacks that may

    def add(self, fallback: bool, change: int) -> None:
        """One more, or one less, that may get connections."""
        if fallback:
            self.fallbacks += change
        else:
            self.up += change

    @property
    def serving(self) -> int:
        """How many get connections."""
        return self.up or self.fallbacks

    @property
    def total(self) -> int:
        """Of how many: without the fallbacks that stand by."""
        return self.regulars + (0 if self.up else self.fallbacks)

    def __str__(self) -> str:
        return f"{self.serving} of {self.total} up"


def tally(members: Iterable[tuple[Endpoint, bool]]) -> Tally:
    """Count the members of a service, each with whether it may get connections."""
    count = Tally()
    for member, eligible in members:
        count.regulars += not member.fallback and member.weight > 0
        count.add(member.fallback, int(eligible))
    return count


def rules(members: Sequence[Endpoint], ipfilter: Ipfilter) -> list[str]:
    """The canonical lines for the serving members of one service, in the order in which they are to be loaded."""
    return arrange(members, [every_rule(member, ipfilter) for member in members])


def all_up(config: Config) -> list[str]:
    """The rules that would be wanted if every endpoint were up."""
    lines: list[str] = []
    for cluster in config.clusters:
        for _, group in groupby(cluster.endpoints(), key=attrgetter("service")):
            members = list(group)
            up = {member.name for member in members if member.weight}
            lines += rules(serving(members, up, (), cluster.keep), config.ipfilter)
    return lines


def arrange(members: Sequence[Endpoint], lines: Sequence[Sequence[str]]) -> list[str]:
    """The same from lines that are rendered already: ``lines[n]`` is :func:`every_rule` of ``members[n]``."""
    if not members:
        return []
    turns = interleave([member.weight for member in members])
    return [lines[place][nth - 1 + vip * members[place].weight]
            for vip in range(len(members[0].vips)) for place, nth in turns]


def every_rule(member: Endpoint, ipfilter: Ipfilter) -> list[str]:
    """All the lines that ``member`` has while it serves, address by address."""
    lines = []
    for vip in member.vips:
        if member.weight:
            first = rule(member, vip, 1, ipfilter).line()
            lines += [first, *(f"{first}.{nth}" for nth in range(2, member.weight + 1))]     # its end is the tag
    return lines


def rule(member: Endpoint, vip: str, nth: int, ipfilter: Ipfilter) -> Rdr:
    """The ``nth`` rule of a member, counted from 1: rules of one weight differ in their tag only (FACTS.md 2a-7)."""
    tag = ipfilter.tag if ipfilter.tag is None or nth == 1 else f"{ipfilter.tag}.{nth}"
    age = () if member.age is None else ("age", f"{member.age}/{member.age}")       # as it is listed (FACTS.md 2c-2)
    options = ("round-robin", *age, *(("sticky",) if member.sticky else ()))
    ports = member.port, member.port + member.ports - 1         # each keeps its place in the range (FACTS.md 3-14)
    return Rdr(ipfilter.interface, f"{vip}/{128 if ':' in vip else 32}", ports, member.address,
               str(member.member_port), member.protocol, options, tag)


def interleave(weights: Sequence[int]) -> list[tuple[int, int]]:
    """One round of smooth weighted round robin: (place, how many times it has been chosen).

    Weights 2 and 1 give A B A, weights 3 and 1 A A B A. Each turn everybody gains its weight; the richest is chosen,
    the first of equals, and pays the sum of all. When the weights have a divisor, so many equal rounds make the whole.
    """
    times = gcd(*weights)
    if not times:
        return []
    turns = _round([weight // times for weight in weights])
    chosen = [0] * len(weights)
    counted = []
    for place in turns * times:
        chosen[place] += 1
        counted.append((place, chosen[place]))
    return counted


def _round(weights: Sequence[int]) -> list[int]:
    """Places in their turns.

    Who weighs the same is chosen in turn, so only the next of each weight has to be looked at. What it has is told as
    one number, in which credit comes first and then the place, the lower the better.
    """
    equals: dict[int, list[int]] = {}
    for place, weight in enumerate(weights):
        if weight:
            equals.setdefault(weight, []).append(place)
    size, total = len(weights), sum(weights)
    gains = [weight * size for weight in equals]
    groups = list(equals.values())
    nexts = [0] * len(groups)
    riches = [-group[0] for group in groups]
    turns = []
    for _ in range(total):
        riches = list(map(add, riches, gains))
        best = riches.index(max(riches))
        group, at = groups[best], nexts[best]
        turns.append(group[at])
        nexts[best] = after = (at + 1) % len(group)
        riches[best] += group[at] - group[after] - (0 if after else total * size)
    return turns
