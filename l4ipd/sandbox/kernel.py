"""What the sandbox process holds: the NAT table, the filter rules, the log, and whether all that is switched on.

The relays tell it what the members do; it works out who counts and who logs the packets that a real gateway would have
seen (FACTS.md 2d-8): a member's RST has its real address and port as source and the client's as destination, and its
sequence number is 0 exactly when it refuses a SYN.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

from l4ipd.sandbox.filter.log_device import LogDevice, Record
from l4ipd.sandbox.filter.rule import FilterRule, Packet
from l4ipd.sandbox.filter.table import FilterTable, Logged
from l4ipd.sandbox.iterators import Iterators
from l4ipd.sandbox.nat.table import Flow, NatTable, Session
from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.version import NEWEST, Version

REFUSED, RESET, UNREACHABLE = "refused", "reset", "unreachable"
_NOBODY = Logged(FilterRule(), "", "", 0)       # of a record that nobody has logged yet


class Kernel:
    """``changed`` is called when rules have come or gone, before the tool is answered.

    ``iterator_life``: how long what a listing leaves behind is remembered, in seconds.
    """

    def __init__(self, version: Version = NEWEST, clock: Callable[[], float] = time.monotonic,
                 changed: Callable[[], object] = lambda: None, iterator_life: float = 0.0) -> None:
        self.version = version
        self.enabled = True
        self.log_flags: list[str] = []
        self.nat = NatTable(clock)
        self.filter = FilterTable()
        self.log = LogDevice()
        self.iterators = Iterators(clock, iterator_life)
        self.changed = changed
        self._states: dict[Session, Logged] = {}        # connections for which a filter rule keeps state

    def switch(self, on: bool) -> None:
        """``ipf -E`` and ``ipf -D``, by which FreeBSD's forgets every rule and session (FACTS.md 3-6)."""
        if self.enabled and not on and self.version.freebsd:
            self.nat.clear()
            self.nat.flush()
            self.filter = FilterTable()
            self.forget_states()
            self.changed()
        self.enabled = on

    def packet(self, flow: Flow, size: int = 40) -> Session | None:
        """The session of a client's packet; None when no rule wants it, or all is switched off (``ipf -D``)."""
        return self.nat.packet(flow, size) if self.enabled else None

    def opened(self, session: Session) -> None:
        """A client's first packet has gone to a member: a rule may keep state for it, on its way in or on."""
        proto, source, port, _, _ = session.flow
        flags = "S" if proto == netdb.TCP else ""
        for direction in ("in", "out"):
            packet = Packet(direction, session.family, proto, source, port, session.member, session.port, flags)
            state = self.filter.state_rule(packet)
            if state is not None:
                self._states[session] = state
                return
        self._states.pop(session, None)

    def closed(self, session: Session) -> None:
        """The connection is over, and so is its state."""
        self._states.pop(session, None)

    def forget_states(self) -> None:
        self._states.clear()

    def from_member(self, session: Session, kind: str, size: int = 0) -> None:
        """A member has sent a RST (REFUSED: to the SYN; RESET: later), or an ICMP port UNREACHABLE.

        ``size``: bytes of the datagram that is unreachable.
        """
        if not self.enabled:
            return
        record = _unreachable(session, size) if kind == UNREACHABLE else _reset(session, kind)
        self.filter.count(record.packet)
        state = self._states.get(session)
        if state is not None:
            if state.rule.log:
                self._log_state(record, state, session)
            return
        for logged in self.filter.pass_through(record.packet):
            self._log(record, logged)

    def _log(self, like: Record, logged: Logged, packet: Packet | None = None, translated: bool = False) -> None:
        self.log.append(Record(packet or like.packet, logged, logged.rule.interface, like.sequence, like.acknowledged,
                               like.window, translated, like.inner))

    def _log_state(self, record: Record, state: Logged, session: Session) -> None:
        """A rule that logs and keeps state logs every packet, on its way in and out (FACTS.md 2d-7b)."""
        self._log(record, state)
        if record.inner is None:
            packet = record.packet
            out = Packet("out", packet.family, packet.proto, session.flow[3], session.flow[4], packet.destination,
                         packet.destination_port, packet.flags, packet.size)
            self._log(record, state, out, translated=True)


def _reset(session: Session, kind: str) -> Record:
    """Numbers are made from the connection: not 0, and the same each time."""
    proto, client, port, _, _ = session.flow
    some = zlib.crc32(repr(session.flow).encode()) | 1
    packet = Packet("in", session.family, proto, session.member, session.port, client, port,
                    "AR" if kind == REFUSED else "R", 60 if session.family == 6 else 40)
    sequence, acknowledged = (0, some) if kind == REFUSED else (some, 0)
    return Record(packet, _NOBODY, "", sequence, acknowledged)


def _unreachable(session: Session, size: int) -> Record:
    proto, client, port, _, _ = session.flow
    family, header = session.family, 40 if session.family == 6 else 20
    inner = Packet("in", family, proto, client, port, session.member, session.port, size=header + 8 + size)
    icmp = (netdb.ICMPV6, (1, 4)) if family == 6 else (netdb.ICMP, (3, 3))
    quoted = inner.size if family == 6 else header + 8
    packet = Packet("in", family, icmp[0], session.member, 0, client, 0, size=header + 8 + quoted, icmp=icmp[1])
    return Record(packet, _NOBODY, "", inner=inner)
