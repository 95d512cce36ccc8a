"""The services of a cluster: one port or a range of them, with its check, or with that of another service."""

from __future__ import annotations

from dataclasses import replace

from l4ipd.checks.recipe import PORTLESS
from l4ipd.config import values as words
from l4ipd.config.check_section import Pace, checks, same_as
from l4ipd.config.flap_section import flap
from l4ipd.config.section import Place, Section
from l4ipd.config.similar import like
from l4ipd.config.yaml_tree import Scalar, shown
from l4ipd.model import Check, Service

SERVICE = ("port", "protocol", "member_port", "sticky", "age", "purge", "flap", "check")
UDP_AGE = 30                                        # seconds; IPFilter's own ten minutes fill its table (FACTS.md 3-5)
SERVICES = "a mapping of names to services"
RANGE_CHECK = "the port that is checked, or the service whose check stands for it: {same_as: NAME}"


def services(place: Place, pace: Pace) -> list[tuple[Service, Place]]:
    """All of a cluster, each with the place of its port."""
    shared: dict[str, Place] = {}
    found = [_service(name, entry, pace, shared) for name, entry in place.named(SERVICES)]
    named = {service.name: service for service, _ in found}
    return [(replace(service, checks=_of_other(service, named, shared[service.name])), place)
            if service.same_as else (service, place) for service, place in found]


def _service(name: str, place: Place, pace: Pace, shared: dict[str, Place]) -> tuple[Service, Place]:
    """``shared`` gets the place where it says whose check stands for its own."""
    section = Section(place, SERVICE)
    if "port" not in section.entry:
        section.missing("port", "the port that clients connect to")
    port, ports = section.get("port", words.ports, (0, 1))
    protocol = section.get("protocol", lambda text: words.choice(text, ("tcp", "udp")),
                           "" if "protocol" in section.entry else "tcp")
    same, found = "", _checks(section, protocol, pace, ports > 1)
    if isinstance(found, Place):
        shared[name] = found
        same, found = found.read(words.name, ""), ()
    member_port = _member_port(section, port, ports)
    sticky = section.get("sticky", words.flag, False)
    purge = pace.purge or ("yes" if sticky else "dead")         # drained, its clients would go on being sent to it
    purge = section.get("purge", words.purge, purge)
    age = section.get("age", words.age, UDP_AGE if protocol == "udp" else None)
    return (Service(name, port, protocol, member_port, sticky, found, purge, age, ports, same,
                    flap(section, pace.flap)), section.entry.get("port", section))


def _checks(section: Section, protocol: str, pace: Pace, ranged: bool) -> tuple[Check, ...] | Place:
    """They, or where the service is named whose checks they are."""
    place = section.entry.get("check")
    if place is None and ranged:
        section.missing("check", f"a range of ports has no port that stands for all: name {RANGE_CHECK}")
    elif place is None and protocol == "udp":
        section.missing("check", "udp has none that suits every service; choose ping, or {type: udp, send: TEXT,"
                                 " expect: PATTERN}")
    elif place is None:
        place = Place(Scalar("tcp", True), section.line, section.path, section.problems)
    if place is None:
        return ()
    named = same_as(place)
    if named is not None:
        return named
    found = checks(place, protocol, pace)
    if ranged and any(_needs_port(check) for check in found):
        place.refuse(f"a range of ports has no port that stands for all: name {RANGE_CHECK}")
    return found


def _needs_port(check: Check) -> bool:
    if check.port is not None or check.type in ("", "agent"):
        return False                                # in error already, without one
    return check.type not in PORTLESS or any("{port}" in word for word in check.command)


def _member_port(section: Section, port: int, ports: int) -> int:
    """Where the members serve it, or the first port of as many."""
    place = section.entry.get("member_port")
    if place is None:
        return port
    first, many = place.read(words.ports, (0, 1))
    if many > 1:                                    # IPFilter would not keep the offset (FACTS.md 3-14)
        place.refuse(f"{shown(place.text() or '')} is a range: write its first port, as many follow as port has")
    elif first + ports - 1 > 65535:
        place.refuse(f"{first} is the first of {ports} ports, and only {65536 - first} are left")
    return first


def _of_other(service: Service, named: dict[str, Service], place: Place) -> tuple[Check, ...]:
    """The checks of the service that it names, at ``place``."""
    line = _line(service, named)
    other, last = named.get(service.same_as), line[-1]
    circle = [each.name for each in line[line.index(named[last.same_as]):]] if last.same_as in named else []
    if other is None:
        near = like(service.same_as, named, 1)
        place.refuse(f"{shown(service.same_as)} is no service of this cluster"
                     f"{f': did you mean {near[0]}?' if near else ''}")
    elif other is service:
        place.refuse("is the service itself: name another one, whose check stands for it")
    elif service.name == next((name for name in named if name in circle), None):    # told of once
        place.refuse(f"goes round in a circle, {', '.join(circle)}: one of them needs a check of its own")
    elif other.same_as and not last.same_as:
        place.refuse(f"{other.name} has no check of its own, but that of {last.name}: name that")
    return other.checks if other is not None else ()


def _line(service: Service, named: dict[str, Service]) -> list[Service]:
    """It, the service that it names, whom that one names, and so on; of a circle each once."""
    found = [service]
    while (other := named.get(found[-1].same_as)) is not None and other not in found:
        found.append(other)
    return found
