"""The sandbox's network: listens where the rdr rules say that clients connect, and relays them to the members.

:meth:`Relay.sync` compares the rules with the sockets, after every change and before the tool that made it is answered.
A rule whose address is not this machine's is kept without traffic, and one line says so; it is tried again from time to
time. When the last rule of an address and port goes, so does the socket; connections that exist go on, and a datagram
socket stays for as long as there are sessions that answer through it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable

from l4ipd.model import host_port
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.nat.rule import NatRule
from l4ipd.sandbox.nat.table import Entry
from l4ipd.sandbox.relay.tcp import TcpListener
from l4ipd.sandbox.relay.udp import UdpListener
from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.syntax.address import NORMAL, bits_of, to_text

MOST_PORTS = 1024                       # of one rule; more are not listened on
RETRY = 5.0                             # seconds
MOST_NAMED = 5                          # ports, or ranges of them, of one address in a line for people
Place = tuple[int, str, int]            # protocol, address, port


class Relay:
    """All listening sockets. ``warn`` gets a line for people."""

    def __init__(self, loop: Loop, kernel: Kernel, warn: Callable[[str], object]) -> None:
        self.loop, self.kernel, self.warn = loop, kernel, warn
        self.listeners: dict[Place, TcpListener | UdpListener] = {}
        self._known: dict[Entry, dict[Place, None]] = {}        # what each rule wants
        self._failed: dict[Place, str] = {}
        self._warned: set[object] = set()
        self._timer = loop.later(RETRY, self._tick)

    def sync(self) -> None:
        """Listen on what the rules want, and on nothing else."""
        known, self._known = self._known, {}
        wanted: dict[Place, None] = {}
        for entry in self.kernel.nat.rules.values():
            places = known[entry] if entry in known else self._places(entry.rule)
            self._known[entry] = places
            wanted.update(places)
        for place in [place for place in self.listeners if place not in wanted]:
            if not self.listeners[place].busy:
                self.listeners.pop(place).close()
        self._failed = {place: why for place, why in self._failed.items() if place in wanted}
        self._open([place for place in wanted if place not in self.listeners and place not in self._failed])

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.close()
        self.listeners.clear()

    def _places(self, rule: NatRule) -> dict[Place, None]:
        if rule.kind != "rdr":
            return {}
        low, top = rule.port, rule.port_top
        if rule.from_form:
            ports = rule.destination_ports
            low, top = (ports.low, ports.high or ports.low) if ports.compare in ("=", ":") else (0, 0)
        destination = rule.destination
        full = destination.kind == NORMAL and bits_of(destination.mask, rule.family) == (
            128 if rule.family == 6 else 32)
        if not full or not destination.value or not low or not rule.has_ports:
            self._warn_once(rule.key(), f"rule of line {rule.line}: not listened for: it names no single address and"
                                        " no port")
            return {}
        address = to_text(destination.value, rule.family)
        protocols = [netdb.TCP] * rule.tcp + [netdb.UDP] * rule.udp
        if top - low >= MOST_PORTS:
            for proto in protocols:
                where = _where(proto, address, f"{low}-{top}")
                self._warn_once(where, f"{where}: not listened for, its rules get no traffic: more than {MOST_PORTS}"
                                       " ports")
            return {}
        return dict.fromkeys((proto, address, port) for proto in protocols for port in range(low, top + 1))

    def _warn_once(self, key: object, words: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            self.warn(words)

    def _open(self, places: Iterable[Place]) -> None:
        for place in places:
            proto, address, port = place
            try:
                listener = TcpListener if proto == netdb.TCP else UdpListener
                self.listeners[place] = listener(self.loop, self.kernel, address, port)
            except OSError as error:
                self._failed[place] = os.strerror(error.errno or errno.EINVAL)
        self._complain()

    def _complain(self) -> None:
        """Of an address whose ports fail for one reason there is one line, be they a range of a thousand."""
        new = [failure for failure in self._failed.items() if failure not in self._warned]
        self._warned.update(new)
        found: dict[tuple[int, str, str], list[int]] = {}
        for (proto, address, port), why in new:
            found.setdefault((proto, address, why), []).append(port)
        for (proto, address, why), ports in found.items():
            where = _where(proto, address, _listed(sorted(ports)))
            self.warn(f"{where}: cannot listen there, its rules get no traffic: {why}")

    def _tick(self) -> None:
        """What is only due now and then: sessions that have expired, addresses that failed."""
        self._timer = self.loop.later(RETRY, self._tick)
        self.kernel.nat.expire()
        self.sync()                     # closes what was only kept for its sessions
        again, self._failed = self._failed, {}
        self._open(again)


def _where(proto: int, address: str, ports: str) -> str:
    return f"{host_port(address, ports)}/{'tcp' if proto == netdb.TCP else 'udp'}"


def _listed(ports: list[int]) -> str:
    """``80``, ``80,443``, ``40000-40999``; of many that do not follow each other the first ones."""
    runs: list[list[int]] = []
    for port in ports:
        if runs and runs[-1][-1] == port - 1:
            runs[-1][1:] = [port]
        else:
            runs.append([port])
    more = f",... ({len(ports)} ports)" if len(runs) > MOST_NAMED else ""
    return ",".join("-".join(map(str, run)) for run in runs[:MOST_NAMED]) + more
