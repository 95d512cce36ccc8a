"""Ports and ranges of ports: who has which, and which would meet. Pure."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterable
from typing import NamedTuple

from l4ipd.config.section import Place
from l4ipd.model import Member, Service, port_range


class Owner(NamedTuple):
    """Who has some ports."""

    ports: range
    name: str                                       # the service's
    place: Place                                    # where its port stands


class Taken:
    """Which service has an address, port and protocol already."""

    def __init__(self) -> None:
        self._owners: dict[tuple[str, str], list[Owner]] = {}       # by address and protocol; sorted, and none meet

    def take(self, vip: str, service: Service, name: str, place: Place) -> bool:
        """Whether it is this service's from now on; else it is refused."""
        owners, mine = self._owners.setdefault((vip, service.protocol), []), _ports(service)
        after = bisect(owners, mine.start, key=lambda owner: owner.ports.start)
        for other in owners[max(after - 1, 0):after + 1]:           # the others are farther away
            if meet(other.ports, mine):
                words = port_range(other.ports.start, len(other.ports))
                how = "already belongs to" if other.ports == mine else f"overlaps port {words} of"
                place.refuse(f"{vip} port {service.port_words} {service.protocol} {how} {other.name} "
                             f"({other.place.seen_from(place)})")
                return False
        owners.insert(after, Owner(mine, name, place))
        return True


def meet(one: range, other: range) -> bool:
    """Whether two ranges have a port in common."""
    return one.start < other.stop and other.start < one.stop


def places(member: Member, services: Iterable[Service]) -> set[tuple[str, int, int]]:
    """Where a member would get connections: its address, the first port, and how many."""
    return {(member.address, service.port_of(member), service.ports) for service in services}


def returns(member: Member, vips: Collection[str], target: Service, services: Iterable[Service]) -> bool:
    """Whether the rule of ``target`` would send clients to where those of ``services`` come in."""
    first = target.port_of(member)
    return member.address in vips and any(meet(range(first, first + target.ports), _ports(each)) for each in services)


def _ports(service: Service) -> range:
    return range(service.port, service.port + service.ports)
