"""YAML text -> Config, or all errors with their lines.

``parse`` is the whole of it. It never stops at the first error, and raises nothing but ConfigError, whatever the text.
Each error is a complete line: ``l4ip.conf:12: clusters.www.services.http.port: 70000 is not a port (1-65535)``.
The keys are those of the manual page l4ip.conf(5); single words are read in :mod:`values`, services and
checks in :mod:`services` and :mod:`check_section`.
"""

from __future__ import annotations

from dataclasses import replace

from l4ipd.config import members
from l4ipd.config import values as words
from l4ipd.config.check_section import Pace, defaults
from l4ipd.config.documents import Document, Documents
from l4ipd.config.ports import Taken, places, returns
from l4ipd.config.section import Place, Section
from l4ipd.config.services import SERVICES
from l4ipd.config.services import services as read_services
from l4ipd.config.yaml_tree import Mapping, Scalar, Sequence
from l4ipd.model import Cluster, Config, Control, Http, Ipfilter, Log, Member, Ready, Resets, Service, Words

TOP = ("include", "pidfile", "control", "state", "log", "http", "notify", "ipfilter", "resets", "defaults", "clusters")
INCLUDED = ("include", "defaults", "clusters")        # what may stand in a file that is included
IPFILTER = ("interface", "tag", "resync", "on_stop", "purge", "timeout", "ipnat", "ipf", "ipfstat", "ipmon")
RESETS = ("interface", "source", "action", "tag")
CLUSTER = ("address", "services", "members", "members_from", "when_all_down", "ready")
READY = ("services", "members")
HTTP = ("listen", "names")
EMPTY = Scalar("", True)


class ConfigError(Exception):
    """What is wrong with a configuration: ``errors`` are complete lines, in the order of the file."""

    def __init__(self, errors: tuple[str, ...]) -> None:
        super().__init__("\n".join(errors))
        self.errors = errors


def parse(text: str | bytes, name: str) -> Config:
    """The configuration that ``text`` is, and what it includes; ``name`` is the file's. Raises :class:`ConfigError`."""
    return configuration(Documents(text, name))


def configuration(documents: Documents) -> Config:
    """What the files say. Raises :class:`ConfigError`."""
    root = documents.first.root
    config = Config() if root is None else _config(documents)
    problems = documents.problems()
    if problems:
        raise ConfigError(problems)
    return config


def _config(documents: Documents) -> Config:
    tops = {document: _top(document) for document in documents.all}
    top = tops[documents.first]
    plain = Config()
    ipfilter, purge = _ipfilter(top)
    return Config(
        ipfilter=ipfilter,
        clusters=_clusters(tops, ipfilter.tag, Pace(purge=purge)),
        pidfile=top.get("pidfile", words.path, plain.pidfile),
        control=_control(top, plain.control),
        state=top.get("state", words.path, plain.state),
        log=_log(top, plain.log),
        http=_http(top),
        notify=top.entry["notify"].command(words.path) if "notify" in top.entry else (),
        resets=_resets(top),
        given=frozenset(top.entry),
        files=tuple(document.name for document in documents.all))


def _top(document: Document) -> Section:
    """What stands at the top of a file. Refuses what only the first one may have."""
    place = Place(document.root or Mapping(), 1, "", document.problems)
    if document.includer is None:
        return Section(place, TOP)
    items = dict(place.entries("a mapping"))
    for key in [key for key in items if key in TOP and key not in INCLUDED]:
        items[key].refuse(f"may stand in the first file only: one that is included has {' and '.join(INCLUDED[1:])}")
    return Section(Place(Mapping({key: (entry.line, entry.node) for key, entry in items.items()
                                  if key in INCLUDED or key not in TOP}), 1, "", document.problems), INCLUDED)


def _control(top: Section, plain: Control) -> Control:
    place = top.entry.get("control")
    if place is None:
        return plain
    if not isinstance(place.node, Mapping):
        return Control(place.read(words.socket_path, plain.path))
    section = Section(place, ("path", "group"))
    return Control(section.get("path", words.socket_path, plain.path), section.get("group", words.user, None))


def _http(top: Section) -> Http | None:
    place = top.entry.get("http")
    if place is None:
        return None
    if not isinstance(place.node, Mapping):
        found = place.read(words.listener, None)
        return found and Http(*found)
    section = Section(place, HTTP)
    if "listen" not in section.entry:
        section.missing("listen", "ADDRESS:PORT, such as 127.0.0.1:8089")
    names = section.entry["names"].items("a list of names", single=True) if "names" in section.entry else []
    found = section.get("listen", words.listener, None)
    listed = tuple(name.read(words.own_name, "") for name in names)
    return found and Http(*found, listed)


def _log(top: Section, plain: Log) -> Log:
    place = top.entry.get("log")
    if place is None:
        return plain
    section = Section(place, ("facility", "level"))
    return Log(section.get("facility", lambda text: words.choice(text, words.FACILITIES), plain.facility),
               section.get("level", words.level, plain.level))


def _tool(section: Section, key: str, default: Words) -> Words:
    place = section.entry.get(key)
    if place is None:
        return default
    command = place.command(words.program)
    if isinstance(place.node, Sequence) and not command or isinstance(place.node, Scalar) and place.node.empty:
        place.refuse("is empty: a path, a bare name, or a list of words")
    return command


def _ipfilter(top: Section) -> tuple[Ipfilter, str | None]:
    """The section, and what it says of ``purge``, if anything."""
    section = Section(top.entry.get("ipfilter") or Place(EMPTY, top.line, "ipfilter", top.problems), IPFILTER)
    if "interface" not in section.entry:
        section.missing("interface", "where clients come in, the rdr rules are on it")
    plain = Ipfilter()
    purge = section.get("purge", words.purge, None)
    return Ipfilter(
        interface=section.get("interface", words.any_interface, plain.interface),
        tag=section.get("tag", words.tag, plain.tag),
        resync=section.get("resync", lambda text: words.bounded_duration(text, 0.05, 86400), plain.resync),
        on_stop=section.get("on_stop", lambda text: words.choice(text, ("keep", "remove")), plain.on_stop),
        purge=purge or plain.purge,
        timeout=section.get("timeout", lambda text: words.bounded_duration(text, 0.05, 3600), plain.timeout),
        ipnat=_tool(section, "ipnat", plain.ipnat),
        ipf=_tool(section, "ipf", plain.ipf),
        ipfstat=_tool(section, "ipfstat", plain.ipfstat),
        ipmon=_tool(section, "ipmon", plain.ipmon)), purge


def _resets(top: Section) -> Resets | None:
    place = top.entry.get("resets")
    if place is None or isinstance(place.node, Scalar) and words.is_no(place.node.text):
        return None
    section = Section(place, RESETS)
    if "interface" not in section.entry:
        section.missing("interface", "where the members' packets come in")
    plain = Resets("")
    return Resets(
        section.get("interface", words.interface, plain.interface),
        section.get("source", words.source, plain.source),
        section.get("action", lambda text: words.choice(text, ("refused", "any", "check")), plain.action),
        section.get("tag", lambda text: words.number(text, 1, 2**31 - 1), plain.tag))


def _clusters(tops: dict[Document, Section], tag: str | None, plain: Pace) -> tuple[Cluster, ...]:
    """Those of all files. The ``defaults`` of a file are for its own clusters, and those of files that it includes."""
    taken = Taken()
    named: dict[str, Place] = {}
    found = []
    paces: dict[Document | None, Pace] = {None: plain}
    for document, top in tops.items():
        before = paces[document.includer]
        paces[document] = defaults(top.entry["defaults"], before) if "defaults" in top.entry else before
        if "clusters" in top.entry:
            for name, entry in top.entry["clusters"].named("a mapping of names to clusters"):
                if named.setdefault(name, entry) is not entry:
                    entry.refuse(f"there is such a cluster already ({named[name].seen_from(entry)})")
                found.append(_cluster(name, Section(entry, CLUSTER), tag, paces[document], taken))
        elif document.root is not None and ("include" not in top.entry or len(tops) == 1):
            top.missing("clusters", "at least one cluster, with its address, services and members")
    return tuple(found)


def _cluster(name: str, section: Section, tag: str | None, pace: Pace, taken: Taken) -> Cluster:
    addresses = _addresses(section)
    services: list[tuple[Service, Place]] = []
    found: list[tuple[Member, Place]] = []
    more = members.sources(section.entry["members_from"]) if "members_from" in section.entry else ()
    if "services" in section.entry:
        services = read_services(section.entry["services"], _of_family(pace, addresses))
    else:
        section.missing("services", SERVICES)
    if "members" in section.entry:
        found = members.members(section.entry["members"], tag is not None)
    elif not more:
        section.missing("members", f"{members.WHAT}, or members_from")
    if addresses:
        six = ":" in addresses[0][0]
        members.check_family(six, [*addresses, *((member.address, place) for member, place in found)])
        _check_sources(six, services)
    _check_members(section, services, found, bool(more))
    _check_ports(name, [address for address, _ in addresses], services, found, taken)
    regulars = 0 if more else sum(not member.fallback and member.weight > 0 for member, _ in found)
    keep = section.get("when_all_down", lambda text: words.choice(text, ("remove", "keep")), "remove") == "keep"
    return Cluster(name, tuple(address for address, _ in addresses), tuple(service for service, _ in services),
                   tuple(member for member, _ in found), keep, _ready(section, regulars), more)


def _ready(section: Section, regulars: int) -> Ready:
    """When the cluster is ready; ``regulars`` is how many members would count, 0: that changes."""
    place = section.entry.get("ready")
    if place is None:
        return Ready()
    if not isinstance(place.node, Mapping):
        place.refuse("is a mapping: {services: all, members: 1}, or one of both")
        return Ready()
    section = Section(place, READY)
    least = section.get("members", lambda text: words.number(text, 1, 9999, "a number of members"), 1)
    if least > regulars > 0:
        section.entry["members"].refuse(f"{least} would never be ready: {regulars} of the members "
                                        "count, as fallbacks and those of weight 0 do not")
    return Ready(section.get("services", lambda text: words.choice(text, ("all", "any")), "all"), least)


def _addresses(section: Section) -> list[tuple[str, Place]]:
    """The cluster's own addresses."""
    place = section.entry.get("address")
    if place is None:
        section.missing("address", "the IPv4 or IPv6 address that clients connect to, or a list of them")
        return []
    found: dict[str, Place] = {}
    items = place.items("an address or a list of them", single=True)
    if not items:
        place.refuse("has no value: the address that clients connect to, or a list of them")
    for item in items:
        address = item.read(words.address, "")
        if address in found:
            item.refuse(f"{address} is given twice")
        elif address:
            found[address] = item
    return list(found.items())


def _of_family(pace: Pace, addresses: list[tuple[str, Place]]) -> Pace:
    """The source that ``defaults`` names is for the clusters of its family."""
    six = bool(addresses) and ":" in addresses[0][0]
    return pace if pace.source is None or (":" in pace.source) == six else replace(pace, source=None)


def _check_sources(six: bool, services: list[tuple[Service, Place]]) -> None:
    family, other = ("IPv6", "IPv4") if six else ("IPv4", "IPv6")
    for service, place in services:
        for source in {check.source for check in service.checks if check.source and (":" in check.source) != six}:
            place.refuse(f"the source {source} of its check is {other}, and its members are {family}")


def _check_members(section: Section, services: list[tuple[Service, Place]],
                   found: list[tuple[Member, Place]], more: bool) -> None:
    """No two members on one address and port: their rules would be the same."""
    seen: dict[tuple[str, int, int], tuple[str, int]] = {}
    for member, place in found:
        for where in places(member, [service for service, _ in services]) or {(member.address, member.port or 0, 1)}:
            name, line = seen.setdefault(where, (member.name, place.line))
            if member.address and name != member.name:
                place.refuse(f"{member.address} is already the address of {name} (line {line}): their rules would be"
                             " the same")
                break
    if found and not more and all(member.fallback for member, _ in found):
        section.entry["members"].refuse("every member is a fallback: one at least must be an ordinary member")


def _check_ports(cluster: str, vips: list[str], services: list[tuple[Service, Place]],
                 found: list[tuple[Member, Place]], taken: Taken) -> None:
    """No two services on one address, port and protocol; no rule that leads to itself."""
    for service, place in services:
        if not service.port or not service.protocol:
            continue                                # in error already
        for vip in vips:
            if not taken.take(vip, service, f"{cluster}/{service.name}", place):
                break
        for member, spot in found:
            if returns(member, vips, service, [service]):
                spot.refuse(f"{member.address} port {service.port_words} is the cluster's own: the rule of "
                            f"{service.name} would lead to itself")
