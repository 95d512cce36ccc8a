"""Whom a reset is about: the ports of members and the endpoints there; and which resets our own probes have caused."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from ipaddress import ip_address
from typing import Protocol

from l4ipd.checks.verdict import Verdict
from l4ipd.model import Endpoint
from l4ipd.runtime.loop import Loop

OWN_FOR = 30.0                                      # seconds that our own address towards a member is remembered


class Watched(Protocol):
    """What is asked of an endpoint's monitor."""

    endpoint: Endpoint

    @property
    def passes(self) -> int: ...
    @property
    def eligible(self) -> bool: ...
    def refuse(self, verdict: Verdict, client: str) -> str: ...
    def probe_soon(self) -> object: ...


class Target:
    """One port of one member, or a range of them, and the endpoints that are there."""

    __slots__ = ("address", "ports", "watched", "probed", "expected", "expected_until", "own", "own_until")

    def __init__(self, address: str, ports: range) -> None:
        self.address, self.ports = address, ports
        self.watched: list[Watched] = []
        self.probed = float("-inf")                 # when a reset last had it probed
        self.expected, self.expected_until = 0, 0.0     # records that our own refused probes have yet to cause
        self.own, self.own_until = "", 0.0          # our address towards it

    @property
    def eligible(self) -> list[Watched]:
        """The endpoints there to which clients are sent."""
        return [each for each in self.watched if each.eligible]


class Targets:
    """All of them. To be found is one look into a dictionary, and one at the ranges of ports that a member has."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._targets: dict[tuple[str, str, range], Target] = {}        # by protocol, address and ports
        self._ranges: dict[tuple[str, str], list[Target]] = {}  # those of more than one port, by protocol and address
        self._udp: dict[str, list[Target]] = {}     # by address: for records that do not tell the port

    def use(self, watched: Iterable[Watched]) -> None:
        """These are to be found from now on. A port that stays keeps its memory."""
        old, self._targets, self._ranges, self._udp = self._targets, {}, {}, {}
        for each in watched:
            endpoint = each.endpoint
            key = endpoint.protocol, endpoint.address, endpoint.member_ports
            if key not in self._targets:
                target = self._targets[key] = old.get(key) or Target(endpoint.address, endpoint.member_ports)
                target.watched = []
                if endpoint.ports > 1:
                    self._ranges.setdefault((endpoint.protocol, endpoint.address), []).append(target)
                if endpoint.protocol == "udp":
                    self._udp.setdefault(endpoint.address, []).append(target)
            self._targets[key].watched.append(each)

    def at(self, protocol: str, address: str, port: int | None) -> Sequence[Target]:
        """Who is meant, several where a range has that port, too; without one it may be any udp port of the member."""
        if port is None:
            return self._udp.get(address, ())
        one = self._targets.get((protocol, address, range(port, port + 1)))
        ranges = self._ranges.get((protocol, address), ())
        return (*(() if one is None else (one,)), *(target for target in ranges if port in target.ports))

    def exactly(self, protocol: str, address: str, ports: range) -> Sequence[Target]:
        """Who has these ports, and no others."""
        target = self._targets.get((protocol, address, ports))
        return () if target is None else (target,)

    def expect_own(self, target: Target, seconds: float) -> None:
        """A probe of ours was refused: the record of that is due within some seconds."""
        now = self.loop.now
        target.expected = (target.expected if now < target.expected_until else 0) + 1
        target.expected_until = now + seconds

    def is_own(self, target: Target, client: str) -> bool:
        """Whether it answers a probe of ours: no evidence twice.

        Of a member on this very machine, as the sandbox has them, clients may have our address too: there only as many
        are ours as our probes were refused.
        """
        now = self.loop.now
        if now > target.own_until:
            target.own, target.own_until = own_address(target.address), now + OWN_FOR
        if client != target.own:
            return False
        if client != target.address and not ip_address(client).is_loopback:
            return True
        if target.expected and now < target.expected_until:
            target.expected -= 1
            return True
        return False


def own_address(address: str) -> str:
    """Our own address towards ``address``: where its answers to our probes go. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(ip_address(probe.getsockname()[0].partition("%")[0]))
    except OSError:
        return ""
