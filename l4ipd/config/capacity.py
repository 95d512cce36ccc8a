"""How many new sessions a second the kernel's NAT table bears, by how long it remembers them. Pure.

The table has room for 30,000 unless it was told otherwise (nat_table_max), and all services share it. A udp session is
remembered for ten minutes after its last packet, a tcp one for half a minute after its end (FACTS.md 3-5).
"""

from __future__ import annotations

from l4ipd.config.values import span
from l4ipd.model import Config

ROOM = 30_000                                       # sessions
UDP = 600                                           # seconds, without `age`


def lines(config: Config) -> list[str]:
    """What `l4ipd -n` says of it: a line for each age that the rules have, and for udp in any case."""
    ages = dict.fromkeys((service.protocol, service.age) for cluster in config.clusters for service in cluster.services
                         if service.age is not None or service.protocol == "udp")
    return [_line(protocol, age) for protocol, age in ages]


def _line(protocol: str, age: int | None) -> str:
    words = f"age {span(age)}" if age is not None else f"IPFilter's own age, {span(UDP)}"
    rate = ROOM / (age or UDP)
    shown = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
    return f"{protocol}, {words}: up to {shown} new sessions a second before the table is full"
