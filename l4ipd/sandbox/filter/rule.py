"""A filter rule, how ipfstat prints it, and which packets it is for.

Log and count rules are complete, because l4ip writes them. Of other people's rules there is enough to store, list and
remove them, and to know when ``keep state`` hides a packet from the rules behind it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.syntax.address import Address, Ports, ports_match, show_address, show_ports, to_int

TCP_FLAGS = "FSRPAUEC"                  # in the order in which rules print them
ALL_FLAGS = 0x3f                        # the mask of a plain "flags R"
ICMP_TYPES = {"echorep": 0, "unreach": 3, "squench": 4, "redir": 5, "echo": 8, "routerad": 9, "routersol": 10,
              "timex": 11, "paramprob": 12, "timest": 13, "timestrep": 14, "inforeq": 15, "inforep": 16, "maskreq": 17,
              "maskrep": 18}
ICMPV6_TYPES = {"unreach": 1, "toobig": 2, "timex": 3, "paramprob": 4, "echo": 128, "echorep": 129}
ICMP_CODES = {"net-unr": 0, "host-unr": 1, "proto-unr": 2, "port-unr": 3, "needfrag": 4, "srcfail": 5, "net-unk": 6,
              "host-unk": 7, "isolate": 8, "net-prohib": 9, "host-prohib": 10, "net-tos": 11, "host-tos": 12,
              "filter-prohib": 13, "host-preced": 14, "cutoff-preced": 15}


@dataclass(frozen=True, slots=True)
class Packet:
    """What there is to know about a packet that the sandbox makes up."""

    direction: str
    family: int
    proto: int
    source: str
    port: int
    destination: str
    destination_port: int
    flags: str = ""                     # letters of TCP_FLAGS
    size: int = 0
    icmp: tuple[int, int] = (0, 0)      # type, code


@dataclass(slots=True)
class FilterRule:
    """Many attributes: one for each word that a rule can say something with."""

    line: int = 0
    insert: int | None = None           # of @N
    action: str = ""
    direction: str = ""
    log: bool = False
    log_options: tuple[str, ...] = ()   # body first or-block
    level: str = ""
    quick: bool = False
    interfaces: tuple[str, ...] = ()
    family: int = 0
    proto: int | None = None
    tcp_udp: bool = False
    everything: bool = True             # "all": it says nothing about the packet
    not_source: bool = False
    source: Address = Address()
    source_ports: Ports = Ports()
    not_destination: bool = False
    destination: Address = Address()
    destination_ports: Ports = Ports()
    flags: tuple[int, int] | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    keep_state: bool = False
    state_options: tuple[str, ...] = ()
    keep_frags: bool = False
    head: str = ""
    group: str = ""
    log_tag: int | None = None
    copy: int = 0                       # which one of those that a list in braces makes

    def key(self) -> tuple[object, ...]:
        """What makes it this rule and no other."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self)
                     if field.name not in ("line", "insert"))

    def matches(self, packet: Packet) -> bool:
        """The interface is not looked at: the sandbox has none."""
        if packet.direction != self.direction or self.family not in (0, packet.family):
            return False
        if self.tcp_udp and packet.proto not in (netdb.TCP, netdb.UDP) or self.proto not in (None, packet.proto):
            return False
        if not (ports_match(self.source_ports, packet.port)
                and ports_match(self.destination_ports, packet.destination_port)):
            return False
        if not (_inside(self.source, packet.source) != self.not_source
                and _inside(self.destination, packet.destination) != self.not_destination):
            return False
        if self.flags is not None and flag_bits(packet.flags) & self.flags[1] != self.flags[0]:
            return False
        return self.icmp_type in (None, packet.icmp[0]) and self.icmp_code in (None, packet.icmp[1])

    @property
    def interface(self) -> str:
        return self.interfaces[0] if self.interfaces else "lo0"

    @property
    def logs(self) -> bool:
        return self.log or self.action == "log"


def flag_bits(letters: str) -> int:
    return sum(1 << TCP_FLAGS.index(letter) for letter in set(letters))


def flag_letters(bits: int) -> str:
    return "".join(letter for number, letter in enumerate(TCP_FLAGS) if bits >> number & 1)


def show(rule: FilterRule, *, numeric: bool = False, old: bool = False) -> str:
    """The rule as ipfstat prints it; ``numeric`` is -R, ``old`` the spelling of version 4.1."""
    log = " ".join(["log", *rule.log_options, *([f"level {rule.level}"] if rule.level else [])])
    parts = [log if rule.action == "log" else rule.action, rule.direction]
    parts += [log] if rule.log else []
    parts += ["quick"] * rule.quick
    if rule.interfaces:
        parts.append("on " + ",".join(rule.interfaces))
    if rule.family and not old:
        parts.append("inet6" if rule.family == 6 else "inet")
    parts += ["all"] if rule.everything else _packet_words(rule, numeric)
    return " ".join(parts + _tail_words(rule))


def _packet_words(rule: FilterRule, numeric: bool) -> list[str]:
    parts = []
    if rule.tcp_udp or rule.proto is not None:
        parts.append("proto " + ("tcp/udp" if rule.tcp_udp else netdb.protocol_name(rule.proto or 0)))
    parts.append("from " + _object(rule, rule.not_source, rule.source, rule.source_ports, numeric))
    parts.append("to " + _object(rule, rule.not_destination, rule.destination, rule.destination_ports, numeric))
    if rule.icmp_type is not None:
        types = ICMPV6_TYPES if rule.family == 6 else ICMP_TYPES
        names = {number: name for name, number in types.items()}
        parts.append(f"icmp-type {names.get(rule.icmp_type, rule.icmp_type)}")
    if rule.icmp_code is not None:
        parts.append(f"code {rule.icmp_code}")
    if rule.flags is not None:
        parts.append(f"flags {flag_letters(rule.flags[0])}/{flag_letters(rule.flags[1])}")
    return parts


def _tail_words(rule: FilterRule) -> list[str]:
    parts = []
    if rule.keep_state:
        parts.append("keep state" + (f" ({','.join(rule.state_options)})" if rule.state_options else ""))
    parts += ["keep frags"] * rule.keep_frags
    parts += [f"head {rule.head}"] if rule.head else []
    parts += [f"group {rule.group}"] if rule.group else []
    return parts + ([] if rule.log_tag is None else [f"set-tag(log={rule.log_tag})"])


def _object(rule: FilterRule, negated: bool, address: Address, ports: Ports, numeric: bool) -> str:
    text = "!" * negated + show_address(address, rule.family or 4, any_word=True)
    return f"{text} {show_ports(ports, rule.proto or 0, numeric)}" if ports.compare else text


def _inside(address: Address, other: str) -> bool:
    return to_int(other) & address.mask == address.value
