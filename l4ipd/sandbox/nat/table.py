"""The NAT engine: which member gets a new connection, and which connections there are.

Pure: no sockets, and a clock that is handed in. A packet is (protocol, source, its port, destination, its port); the
interface it came in on is not known here and is not looked at. The order of things is that of the real engine
(FACTS.md 2a-2 to 2a-8, 2b-7 to 2b-9):

- The rules for one destination form a chain. When a session is made from a ``round-robin`` rule, that rule goes to the
  end of its chain; a plain rule stays where it is, so one that has reached the head takes everything.
- A packet of a session that exists stays with it, whatever has become of the rule.
- ``sticky``: while a client has a session with (destination, port), its new ones go to the same rule, removed or not.
- Sessions end by their timeouts, which are counted in half seconds and depend on the state, or on the rule's ``age``.
- A table that is full takes no new session: packets are dropped in silence, and counted (FACTS.md 3-5).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from l4ipd.sandbox.nat.rule import NatRule
from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.syntax.address import NORMAL, RANGE, SPLIT, ports_match, to_int, to_text

TICK = 0.5                              # seconds
LIMIT = 30000                           # sessions: nat_table_max
HALF_OPEN, ESTABLISHED, CLOSED, DATAGRAM = "half-open", "established", "closed", "datagram"
TTL = {HALF_OPEN: 480, ESTABLISHED: 864000, CLOSED: 60, DATAGRAM: 1200}
Flow = tuple[int, str, int, str, int]   # protocol, source, port, destination, port
Chain = tuple[int, int, int]            # family, mask, masked destination


class RuleExists(Exception):
    """The same rule is there already; ``line`` is where that one came from."""

    def __init__(self, line: int) -> None:
        super().__init__(line)
        self.line = line


class TableFull(Exception):
    """A packet was dropped for want of a place for its session."""


@dataclass(slots=True, eq=False)
class Entry:
    """A rule in the table, or one that was removed and that sessions still refer to."""

    rule: NatRule
    hits: int = 0
    next_target: int = 0                # of a range of target ports
    second: bool = False                # whose turn it is in a pair of targets
    loaded: bool = True
    sessions: dict[Session, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.next_target = self.rule.target


@dataclass(slots=True, eq=False)
class Session:
    """One connection, or one peer of a datagram service."""

    flow: Flow
    member: str
    port: int
    entry: Entry
    state: str = HALF_OPEN
    expires: float = 0.0
    queue: tuple[str, int] = ("", 0)
    binding: Binding | None = None
    packets: list[int] = field(default_factory=lambda: [1, 0])      # in, out
    bytes: list[int] = field(default_factory=lambda: [0, 0])
    ended: Callable[[], object] | None = None                       # who wants to know that it has gone

    @property
    def family(self) -> int:
        return 6 if ":" in self.member else 4


@dataclass(slots=True, eq=False)
class Binding:
    """The host map's memory of where a sticky client belongs."""

    key: tuple[str, str, int]
    entry: Entry
    member: str
    sessions: int = 0


class NatTable:
    """Rules and sessions."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.rules: dict[tuple[object, ...], Entry] = {}
        self.sessions: dict[Flow, Session] = {}
        self.bindings: dict[tuple[str, str, int], Binding] = {}
        self.limit = LIMIT
        self.added = self.expired = 0
        self.drops = self.full = 0          # packets that were dropped, and how often a rule found no place
        self._chains: dict[Chain, dict[Entry, None]] = {}
        self._masks: dict[int, dict[int, int]] = {4: {}, 6: {}}
        self._replies: dict[Flow, Session] = {}
        self._queues: dict[tuple[str, int], dict[Session, None]] = {}

    # -- rules

    def add(self, rule: NatRule) -> Entry:
        """Put a rule at the end of the table; raises :class:`RuleExists`."""
        key = rule.key()
        if key in self.rules:
            raise RuleExists(self.rules[key].rule.line)
        self.rules[key] = entry = Entry(rule)
        if rule.kind == "rdr":
            where = self._chain(rule)
            if where not in self._chains:
                self._chains[where] = {}
                self._count_mask(where, +1)
            self._chains[where][entry] = None
        return entry

    def remove(self, rule: NatRule, purge: bool = False) -> Entry:
        """Take a rule out; its sessions go too with ``purge`` or the rule's own word. Raises KeyError."""
        entry = self.rules.pop(rule.key())
        self._unchain(entry)
        if purge or entry.rule.purge:
            self._end_all(list(entry.sessions))
        return entry

    def clear(self) -> int:
        """Take every rule out; sessions stay."""
        count = len(self.rules)
        for entry in self.rules.values():
            self._unchain(entry)
        self.rules.clear()
        return count

    # -- packets

    def packet(self, flow: Flow, size: int = 40) -> Session | None:
        """The session of this packet, made if there is none; None when no rule wants it. Raises :class:`TableFull`."""
        self.expire()
        session = self.sessions.get(flow)
        if session is None:
            return self._new(flow, size)
        session.packets[0] += 1
        session.bytes[0] += size
        self.touch(session)
        return session

    def touch(self, session: Session, state: str | None = None, reply: bool = False) -> None:
        """Start the session's timeout again, in ``state`` if given: a packet has passed, or was a ``reply``."""
        session.state = state or session.state
        age = session.entry.rule.age[reply]
        queue = session.state, round(age / TICK) or TTL[session.state]
        if session.queue in self._queues:
            self._queues[session.queue].pop(session, None)
        session.queue = queue
        session.expires = self.clock() + queue[1] * TICK
        self._queues.setdefault(queue, {})[session] = None

    def remaining(self, session: Session) -> int:
        """Ticks until the session expires."""
        return max(0, round((session.expires - self.clock()) / TICK))

    def end(self, session: Session) -> None:
        """Forget a session."""
        if self.sessions.get(session.flow) is not session:
            return
        del self.sessions[session.flow]
        self._replies.pop(self._reply(session.flow, session.member, session.port), None)
        self._queues[session.queue].pop(session, None)
        session.entry.sessions.pop(session, None)
        binding = session.binding
        if binding is not None:
            binding.sessions -= 1
            if not binding.sessions:
                del self.bindings[binding.key]

    def flush(self) -> int:
        """Forget every session; returns how many there were."""
        sessions = list(self.sessions.values())
        self._end_all(sessions)
        return len(sessions)

    def expire(self) -> None:
        """Forget what has been idle for too long."""
        now = self.clock()
        for queue in list(self._queues.values()):
            while queue:
                session = next(iter(queue))
                if session.expires > now:
                    break
                self.expired += 1
                self._end_all([session])

    def newest_first(self) -> Iterator[Session]:
        """The sessions in the order that ``ipnat -l`` prints them in; the table may change meanwhile."""
        return reversed(list(self.sessions.values()))

    # -- inside

    def _new(self, flow: Flow, size: int) -> Session | None:
        proto, source, port, destination, destination_port = flow
        family = 6 if ":" in destination else 4
        numbers = to_int(source), to_int(destination)
        full = 0
        for entry in self._candidates(family, numbers[1]):
            if matches(entry.rule, proto, numbers, port, destination_port):
                if len(self.sessions) >= self.limit:
                    full += 1
                    continue
                session = self._from_rule(entry, flow)
                if session is not None:
                    session.bytes[0] = size
                    return session
        if full:
            self.full += full
            self.drops += 1
            raise TableFull
        return None

    def _candidates(self, family: int, destination: int) -> Iterable[Entry]:
        for mask in self._masks[family]:        # made anew whenever it changes
            yield from list(self._chains.get((family, mask, destination & mask), ()))

    def _from_rule(self, entry: Entry, flow: Flow) -> Session | None:
        """Make the session; None when its replies could not be told from another's."""
        proto, source, port, destination, destination_port = flow
        key = source, destination, destination_port
        matched, binding = entry, self.bindings.get(key) if entry.rule.sticky else None
        move = entry.rule.round_robin and binding is None
        if binding is not None:
            entry, member = binding.entry, binding.member
        else:
            member, pair_done = _member(entry, destination)
            move = move and pair_done
        target = _target_port(entry, destination_port)
        reply = self._reply(flow, member, target)
        if reply in self._replies:
            return None
        session = Session(flow, member, target, entry)
        self.sessions[flow] = self._replies[reply] = session
        entry.sessions[session] = None
        self.added += 1
        matched.hits += 2 if session.family == 6 else 1     # IPv6 counts twice: ipnat-input-misc.txt, ipnat -lh
        if matched.rule.sticky:
            self._bind(session, key, binding)
        if move:
            self._rotate(matched)
        self.touch(session, DATAGRAM if proto == netdb.UDP else HALF_OPEN)
        return session

    def _bind(self, session: Session, key: tuple[str, str, int], binding: Binding | None) -> None:
        if binding is None:
            self.bindings[key] = binding = Binding(key, session.entry, session.member)
        binding.sessions += 1
        session.binding = binding

    def _rotate(self, entry: Entry) -> None:
        chain = self._chains[self._chain(entry.rule)]
        del chain[entry]
        chain[entry] = None

    def _end_all(self, sessions: list[Session]) -> None:
        for session in sessions:
            self.end(session)
        for session in sessions:
            if session.ended is not None:
                session.ended()

    def _unchain(self, entry: Entry) -> None:
        entry.loaded = False
        where = self._chain(entry.rule)
        chain = self._chains.get(where)
        if chain is not None:
            chain.pop(entry, None)
            if not chain:
                del self._chains[where]
                self._count_mask(where, -1)

    def _count_mask(self, where: Chain, change: int) -> None:
        """Know which masks there are chains for; the longest comes first."""
        family, mask, _ = where
        counts = self._masks[family]
        counts[mask] = counts.get(mask, 0) + change
        if not counts[mask]:
            del counts[mask]
        self._masks[family] = dict(sorted(counts.items(), reverse=True))

    @staticmethod
    def _chain(rule: NatRule) -> Chain:
        return rule.family, rule.destination.mask, rule.destination.value & rule.destination.mask

    @staticmethod
    def _reply(flow: Flow, member: str, port: int) -> Flow:
        return flow[0], member, port, flow[1], flow[2]


def matches(rule: NatRule, proto: int, numbers: tuple[int, int], port: int, destination_port: int) -> bool:
    """Whether a packet is for this rule. ``numbers``: source and destination."""
    if rule.has_ports:
        if not (rule.tcp if proto == netdb.TCP else rule.udp and proto == netdb.UDP):
            return False
    elif rule.proto and rule.proto != proto:
        return False
    source, destination = numbers
    if (destination & rule.destination.mask) != rule.destination.value or rule.destination.kind != NORMAL:
        return False
    if not rule.from_form:
        return not rule.port or rule.port <= destination_port <= rule.port_top
    inside = (source & rule.source.mask) == rule.source.value and rule.source.kind == NORMAL
    return inside != rule.not_source and ports_match(rule.source_ports, port) \
        and ports_match(rule.destination_ports, destination_port)


def _member(entry: Entry, destination: str) -> tuple[str, bool]:
    """The address of the member whose turn it is, and whether the rule has been through all of its members."""
    rule, target = entry.rule, entry.rule.new_destination
    if target.kind == SPLIT:
        value = target.mask if entry.second else target.value
        entry.second = not entry.second
        return to_text(value, rule.family), not entry.second
    if target.kind != RANGE and not target.value:
        return destination, True            # 0/0: only the port changes
    return to_text(target.value, rule.family), True


def _target_port(entry: Entry, port: int) -> int:
    """``port 80-90 -> port 8080`` maps 81 to 8081; a range of targets takes turns."""
    rule = entry.rule
    if not rule.target:
        return port
    low = rule.destination_ports.low if rule.from_form and rule.destination_ports.compare else rule.port
    top = rule.destination_ports.high if rule.from_form and rule.destination_ports.compare == ":" else rule.port_top
    if not rule.fixed_target and low != top and not (rule.from_form and rule.destination_ports.compare != ":"):
        return (port - low + rule.target_top) & 0xffff
    target = entry.next_target
    entry.next_target = target + 1 if target < rule.target_top else rule.target
    return target
