"""The services of a cluster: one port or a range of them, with its check, or with that of another service."""

from __future__ import annotations

from collections.abc import Mapping
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
SHOWN = 5                                           # names of a circle that are told
RANGE_CHECK = "the port that is checked, or the service whose check stands for it: {same_as: NAME}"


def services(place: Place, pace: Pace) -> list[tuple[Service, Place]]:
    """All of a cluster, each with the place of its port."""
    found = [_service(name, entry, pace) for name, entry in place.named(SERVICES)]
    same = SameAs({service.name: service for service, _, _ in found})
    return [(service if named is None else replace(service, checks=same.checks(service, named)), port)
            for service, port, named in found]


def _service(name: str, place: Place, pace: Pace) -> tuple[Service, Place, Place | None]:
    """It, the place of its port, and where it says whose checks stand for its own."""
    section = Section(place, SERVICE)
    if "port" not in section.entry:
        section.missing("port", "the port that clients connect to")
    port, ports = section.get("port", words.ports, (0, 1))
    protocol = section.get("protocol", lambda text: words.choice(text, ("tcp", "udp")),
                           "" if "protocol" in section.entry else "tcp")
    named = same_as(section.entry["check"]) if "check" in section.entry else None
    found = _checks(section, protocol, pace, ports > 1) if named is None else ()
    member_port = _member_port(section, port, ports)
    sticky = section.get("sticky", words.flag, False)
    purge = pace.purge or ("yes" if sticky else "dead")         # drained, its clients would go on being sent to it
    purge = section.get("purge", words.purge, purge)
    age = section.get("age", words.age, UDP_AGE if protocol == "udp" else None)
    return (Service(name, port, protocol, member_port, sticky, found, purge, age, ports,
                    "" if named is None else named.read(words.name, ""), flap(section, pace.flap)),
            section.entry.get("port", section), named)


def _checks(section: Section, protocol: str, pace: Pace, ranged: bool) -> tuple[Check, ...]:
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
    found = checks(place, protocol, pace)
    lost = next((check for check in found if ranged and _needs_port(check)), None)
    if lost is not None:
        asked = " for its {port}" if lost.type in PORTLESS else ""
        place.refuse(f"a range of ports has no port that stands for all{asked}: name {RANGE_CHECK}")
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


class SameAs:
    """The services of a cluster: which of them have the checks of others, and where that leads. Each is looked at once:
    there may be thousands."""

    def __init__(self, named: Mapping[str, Service]) -> None:
        self.named = named
        self._ends: dict[str, str] = {}             # the service at the end of the line, that has its own; empty: none
        self._circles: dict[str, list[str]] = {}    # by the first of them
        self._near: dict[str, list[str]] = {}       # by what is no service
        order = {name: place for place, name in enumerate(named)}
        for name in named:
            line: dict[str, None] = {}
            while name in named and name not in self._ends and name not in line and named[name].same_as:
                line[name] = None
                name = named[name].same_as
            if name in line:
                names = list(line)
                circle = names[names.index(name):]
                first = circle.index(min(circle, key=order.__getitem__))
                self._circles[circle[first]] = circle[first:] + circle[:first]
            end = "" if name in line or name not in named else self._ends.get(name, name)
            self._ends.update(dict.fromkeys(line, end))

    def checks(self, service: Service, place: Place) -> tuple[Check, ...]:
        """Those of the service that it names, at ``place``."""
        if not service.same_as:                     # in error already
            return ()
        other = self.named.get(service.same_as)
        if other is None:
            if service.same_as not in self._near:
                self._near[service.same_as] = like(service.same_as, self.named, 1)
            near = self._near[service.same_as]
            place.refuse(f"{shown(service.same_as)} is no service of this cluster"
                         f"{f': did you mean {near[0]}?' if near else ''}")
            return ()
        if other is service:
            place.refuse("is the service itself: name another one, whose check stands for it")
        elif service.name in self._circles:
            names = self._circles[service.name]
            told = ", ".join(names[:SHOWN]) + (f" … {len(names)} in all" if len(names) > SHOWN else "")
            place.refuse(f"goes round in a circle, {told}: one of them needs a check of its own")
        elif other.same_as and self._ends[other.name]:
            place.refuse(f"{other.name} has no check of its own, but that of {self._ends[other.name]}: name that")
        return other.checks
