"""Ports and ranges of ports: who has which, and which would meet. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from l4ipd.config.section import Place
from l4ipd.model import Member, Service, port_range


class Taken:
    """Which service has an address, port and protocol already."""

    def __init__(self) -> None:
        self._single: dict[tuple[str, int, str], tuple[str, Place]] = {}            # the service's name, and its port's
        self._ranges: dict[tuple[str, str], list[tuple[range, str, Place]]] = {}    # by address and protocol
        self._ports: dict[tuple[str, str], dict[int, None]] = {}                    # single ones, likewise

    def take(self, vip: str, service: Service, name: str, place: Place) -> bool:
        """Whether it is this service's from now on; else it is refused."""
        met = next(self._met(vip, service), None)
        if met is not None:
            ports, owner, before = met
            how = "already belongs to" if str(ports) == service.port_words else f"overlaps port {ports} of"
            place.refuse(f"{vip} port {service.port_words} {service.protocol} {how} {owner} "
                         f"({before.seen_from(place)})")
        elif service.ports > 1:
            self._ranges.setdefault((vip, service.protocol), []).append((_ports(service), name, place))
        else:
            self._single[vip, service.port, service.protocol] = name, place
            self._ports.setdefault((vip, service.protocol), {})[service.port] = None
        return met is None

    def _met(self, vip: str, service: Service) -> Iterator[tuple[str, str, Place]]:
        """Those who have one of its ports: which, who, and where that stands."""
        mine = _ports(service)
        singles = mine if service.ports == 1 else (
            port for port in self._ports.get((vip, service.protocol), ()) if port in mine)
        for port in singles:
            if (vip, port, service.protocol) in self._single:
                yield str(port), *self._single[vip, port, service.protocol]
        for ports, owner, place in self._ranges.get((vip, service.protocol), ()):
            if meet(ports, mine):
                yield port_range(ports.start, len(ports)), owner, place


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
