"""A NAT rule, and how ipnat prints it.

:class:`NatRule` has the fields of the real ``ipnat_t`` that l4ip can meet. Two rules are the same to the engine when
their :meth:`NatRule.key` is equal: everything counts except the line the rule came from (FACTS.md 2b-1).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.syntax.address import NORMAL, Address, Ports, show_address, show_ports, to_text

TAG_LENGTH = 16                         # what the sample shows; FACTS.md 2a-1 says 15


@dataclass(slots=True)
class NatRule:
    """Many attributes: those of ``ipnat_t``."""

    line: int = 0
    kind: str = ""                      # rdr map bimap, "rewrite in", "rewrite out"
    interfaces: tuple[str, ...] = ()
    family: int = 0
    proto: int = 0
    tcp: bool = False
    udp: bool = False
    from_form: bool = False
    not_source: bool = False
    not_destination: bool = False
    source: Address = Address()         # of the packet
    source_ports: Ports = Ports()
    destination: Address = Address()
    destination_ports: Ports = Ports()  # of the from-form
    port: int = 0                       # of the plain form: the ports of the packet
    port_top: int = 0
    new_source: Address = Address()
    new_destination: Address = Address()
    target: int = 0                     # the port it becomes
    target_top: int = 0
    fixed_target: bool = False          # port = N
    map_low: int = 0                    # ports of map rules
    map_high: int = 0
    auto_ports: bool = False
    round_robin: bool = False
    frag: bool = False
    age: tuple[int, int] = (0, 0)
    sticky: bool = False
    mssclamp: int = 0
    tag: str = ""
    purge: bool = False

    def key(self) -> tuple[object, ...]:
        """What makes it this rule and no other."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "line")

    @property
    def has_ports(self) -> bool:
        return self.tcp or self.udp


def show(rule: NatRule, *, numeric: bool = False, old: bool = False) -> str:
    """The rule as ``ipnat -l`` prints it; ``numeric`` is -R, ``old`` the spelling of version 4.1."""
    printer = _Printer(rule, numeric, old)
    if rule.kind.startswith("rewrite"):
        return printer.rewrite()
    return printer.rdr() if rule.kind == "rdr" else printer.map()


class _Printer:
    def __init__(self, rule: NatRule, numeric: bool, old: bool) -> None:
        self.rule, self.numeric, self.old = rule, numeric, old

    def rdr(self) -> str:
        rule = self.rule
        parts = self._start()
        if not rule.from_form:
            parts.append(self._address(rule.destination))
            if rule.has_ports:
                parts.append(f"port {_span(rule.port, rule.port_top)}")
        parts += ["->", self._target()]
        if rule.has_ports:
            fixed = f"= {rule.target}" if rule.fixed_target else _span(rule.target, rule.target_top)
            parts.append(f"port {fixed if not self.old or rule.fixed_target else rule.target}")
        parts.append(self._proto())
        if rule.round_robin:
            parts.append("round-robin")
        parts += self._frag_and_age()
        if rule.sticky:
            parts.append("sticky")
        if rule.mssclamp:
            parts.append(f"mssclamp {rule.mssclamp}")
        return " ".join(parts + self._tag_and_purge())

    def map(self) -> str:
        rule = self.rule
        parts = self._start()
        if not rule.from_form:
            parts.append(self._address(rule.source))
        parts += ["->", self._address(rule.new_source)]
        if rule.map_high:
            ports = "auto" if rule.auto_ports else f"{rule.map_low}:{rule.map_high}"
            parts.append(f"portmap {self._proto()} {ports}")
        if rule.tag:
            parts.append(f"tag {rule.tag}")
        if not rule.map_high and (rule.has_ports or rule.proto):
            parts.append(self._proto())
        return " ".join(parts + ["purge"] * rule.purge)

    def rewrite(self) -> str:
        rule = self.rule
        port = f",{_span(rule.target, rule.target_top)}" if rule.target else ""
        parts = [*self._start(), "->", "src", self._address(rule.new_source), "dst",
                 self._address(rule.new_destination) + port]
        return " ".join(parts + ["purge"] * rule.purge) + ";"

    # -- parts

    def _start(self) -> list[str]:
        rule = self.rule
        rewrite = rule.kind.startswith("rewrite")
        parts = [f"{rule.kind} on" if rewrite else rule.kind]
        names = rule.interfaces if len(set(rule.interfaces)) > 1 else rule.interfaces[:1]
        parts.append(",".join(names))
        if rule.family == 6 and not self.old:
            parts.append("inet6")
        if rewrite and (rule.proto or rule.has_ports):
            parts.append(f"proto {self._proto()}")
        if rule.from_form:
            parts += ["!"] * rule.not_source
            parts.append(f"from {self._object(rule.source, rule.source_ports)}")
            parts += ["!"] * rule.not_destination
            parts.append(f"to {self._object(rule.destination, rule.destination_ports)}")
        return parts

    def _object(self, address: Address, ports: Ports) -> str:
        text = self._address(address, any_word=self.old)
        return f"{text} {show_ports(ports, self.rule.proto, self.numeric)}" if ports.compare else text

    def _proto(self) -> str:
        return show_proto(self.rule)

    def _target(self) -> str:
        """4.1 prints the bare address."""
        target = self.rule.new_destination
        if self.old and target.kind == NORMAL:
            family = self.rule.family
            return to_text(target.value, family) + ("/0" if not target.value and not target.mask else "")
        return self._address(target)

    def _address(self, address: Address, any_word: bool = False) -> str:
        return show_address(address, self.rule.family, old=self.old, any_word=any_word)

    def _frag_and_age(self) -> list[str]:
        rule = self.rule
        age = [f"age {rule.age[0]}/{rule.age[1]}"] if rule.age != (0, 0) else []
        return ["frag"] * rule.frag + age

    def _tag_and_purge(self) -> list[str]:
        return ([f"tag {self.rule.tag}"] if self.rule.tag else []) + ["purge"] * self.rule.purge


def show_proto(rule: NatRule) -> str:
    if rule.tcp and rule.udp:
        return "tcp/udp"
    if rule.tcp:
        return "tcp"
    if rule.udp:
        return "udp"
    return netdb.protocol_name(rule.proto)


def _span(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"
