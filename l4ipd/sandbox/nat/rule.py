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
    line: int = 0
    kind: str = ""                      # rdr map bimap map-block, "rewrite in", "divert out" ...
    interfaces: tuple[str, ...] = ()
    family: int = 0
    proto: int = 0
    tcp: bool = False
    udp: bool = False
    no: bool = False
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
    fixed_source: bool = False
    map_low: int = 0                    # ports of map rules
    map_high: int = 0
    auto_ports: bool = False
    icmp_ids: bool = False
    sequential: bool = False
    round_robin: bool = False
    frag: bool = False
    age: tuple[int, int] = (0, 0)
    sticky: bool = False
    mssclamp: int = 0
    proxy: str = ""
    proxy_config: str = ""
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
    if rule.kind.startswith(("rewrite", "divert")):
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
        if rule.no:
            return " ".join([*parts, self._proto() + ";"])
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
        if rule.proxy:
            parts.append(f"proxy {rule.proxy}")
        return " ".join(parts + self._tag_and_purge())

    def map(self) -> str:
        rule = self.rule
        parts = self._start()
        if not rule.from_form:
            parts.append(self._address(rule.source))
        if rule.no:
            return " ".join([*parts, self._proto() + ";"])
        parts += ["->", self._address(rule.new_source)]
        ports = self._map_ports()
        parts += ports + self._frag_and_age()
        if rule.mssclamp:
            parts.append(f"mssclamp {rule.mssclamp}")
        if rule.tag:
            parts.append(f"tag {rule.tag}")
        if (not ports or rule.kind == "map-block") and (rule.has_ports or rule.proto):
            parts.append(self._proto())
        if rule.purge:
            parts.append("purge")
        return " ".join(parts)

    def rewrite(self) -> str:
        rule = self.rule
        parts = self._start()
        parts += ["->", "src", self._address(rule.new_source) + self._comma(rule.map_low, rule.map_high,
                                                                           rule.fixed_source)]
        parts += ["dst", self._address(rule.new_destination) + self._comma(rule.target, rule.target_top,
                                                                           rule.fixed_target)]
        if rule.kind.startswith("divert"):
            parts.append("udp")
        if rule.purge:
            parts.append("purge")
        return " ".join(parts) + ";"

    # -- parts

    def _start(self) -> list[str]:
        rule = self.rule
        parts = ["no"] if rule.no else []
        two_way = rule.kind.startswith(("rewrite", "divert"))
        names = rule.interfaces if len(set(rule.interfaces)) > 1 else rule.interfaces[:1]
        parts += [f"{rule.kind} on" if two_way else rule.kind, ",".join(names)]
        if rule.family == 6 and not self.old:
            parts.append("inet6")
        if two_way and (rule.proto or rule.has_ports):
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
        return show_address(address, self.rule.family, old=self.old, any_word=any_word,
                            range_word=self.rule.kind != "rdr")

    def _frag_and_age(self) -> list[str]:
        rule = self.rule
        age = [f"age {rule.age[0]}/{rule.age[1]}"] if rule.age != (0, 0) else []
        return ["frag"] * rule.frag + age

    def _tag_and_purge(self) -> list[str]:
        return ([f"tag {self.rule.tag}"] if self.rule.tag else []) + ["purge"] * self.rule.purge

    def _map_ports(self) -> list[str]:
        rule = self.rule
        if rule.proxy:
            port = netdb.port_name(rule.target, rule.proto) if rule.target else ""
            return [f"proxy port {port} {rule.proxy}/{netdb.protocol_name(rule.proto)}"]
        if rule.kind == "map-block":
            return ["ports auto" if rule.map_low == 0 and rule.auto_ports else f"ports {rule.map_low}"]
        if not rule.map_low and not rule.map_high:
            return []
        ports = "auto" if rule.auto_ports else f"{rule.map_low}:{rule.map_high}"
        word = "icmpidmap" if rule.icmp_ids else "portmap"
        return [f"{word} {self._proto()} {ports}"] + ["sequential"] * rule.sequential

    def _comma(self, low: int, high: int, fixed: bool) -> str:
        if not (self.rule.has_ports or self.rule.kind.startswith("divert")) or not low:
            return ""
        return f",port = {low}" if fixed else f",{_span(low, high)}"


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
