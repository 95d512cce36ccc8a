"""The members of a cluster: those that stand in the configuration, and where more come from: files, and the DNS."""

from __future__ import annotations

import os
from sys import intern

from l4ipd.config import values as words
from l4ipd.config.section import Place, Section
from l4ipd.config.yaml_tree import Mapping, Problems, tree
from l4ipd.model import Member, Source

MEMBER = ("address", "port", "weight", "fallback")
SOURCE = ("file", "dns", "server")
WHAT = "a mapping of names to addresses"
PORT = 53                                           # of name servers


def members(place: Place, tagged: bool) -> list[tuple[Member, Place]]:
    """The value of ``members``, and the place of each address; ``tagged``: the rules of one member may differ."""
    return [_member(name, entry, tagged) for name, entry in place.named(WHAT)]


def _member(name: str, place: Place, tagged: bool) -> tuple[Member, Place]:
    name = intern(name)                             # the same few names in a hundred clusters
    if not isinstance(place.node, Mapping):
        return Member(name, place.read(words.address, "")), place
    section = Section(place, MEMBER)
    if "address" not in section.entry:
        section.missing("address", "where the member is reached, numeric")
    weight = section.get("weight", lambda text: words.number(text, 0, 99, "a weight"), 1)
    if weight > 1 and not tagged:
        section.entry["weight"].refuse(f"weight {weight} needs a tag: the rules of one member differ in nothing else,"
                                       " and ipfilter.tag is no")
    return (Member(name, section.get("address", words.address, ""), weight, section.get("fallback", words.flag, False),
                   section.get("port", words.port, None)), section.entry.get("address", section))


def check_family(six: bool, found: list[tuple[str, Place]]) -> None:
    """Refuse the addresses that are not of the cluster's family."""
    family, other = ("IPv6", "IPv4") if six else ("IPv4", "IPv6")
    for address, place in found:
        if address and (":" in address) != six:
            place.refuse(f"{address} is {other} and the cluster is {family}, as its first address is: an rdr rule"
                         " cannot cross, make two clusters")


def read_members(text: bytes, name: str, six: bool, tagged: bool) -> tuple[tuple[Member, ...], tuple[str, ...]]:
    """What a file of members, ``name``, holds, and what is wrong with it: then there are none."""
    problems = Problems(name)
    root = tree(text, problems, f"the file is empty: {WHAT} is wanted", "web1: 10.0.0.11")
    found = members(Place(root, 1, "", problems), tagged) if root is not None else []
    check_family(six, [(member.address, place) for member, place in found])
    seen: dict[tuple[str, int | None], tuple[Member, Place]] = {}
    for member, place in found:
        other, before = seen.setdefault((member.address, member.port), (member, place))
        if other is not member and member.address:
            place.refuse(f"{member.address} is already the address of {other.name} (line {before.line})")
    lines = problems.lines()
    return () if lines else tuple(member for member, _ in found), lines


def sources(place: Place) -> tuple[Source, ...]:
    """The value of ``members_from``."""
    return tuple(_source(Section(item, SOURCE)) for item in place.items("a list of {file: FILE} and {dns: NAME}"))


def _source(section: Section) -> Source:
    given = [key for key in ("file", "dns") if key in section.entry]
    if isinstance(section.node, Mapping) and len(given) != 1:
        section.refuse("one of file and dns is wanted")
    if "server" in section.entry and given == ["file"]:
        section.entry["server"].refuse("a file has no server, only dns")
    file = section.get("file", words.file_name, "")
    servers = section.entry["server"].items("a name server, or a list of them", single=True) \
        if "server" in section.entry else []
    return Source(os.path.abspath(os.path.join(os.path.dirname(section.problems.name), file)) if file else "",
                  section.get("dns", words.dns_name, ""),
                  tuple(each for item in servers if (each := item.read(_server, None)) is not None))


def _server(text: str) -> tuple[str, int]:
    """ADDRESS, or ADDRESS:PORT with an IPv6 address in brackets."""
    address, colon, port = text.rpartition(":")
    if text.startswith("[") and text.endswith("]") or not colon or text.count(":") > 1 and not address.endswith("]"):
        address, port = text, str(PORT)
    bracketed = address.startswith("[") and address.endswith("]")
    return words.our_address(address[1:-1] if bracketed else address), words.port(port)
