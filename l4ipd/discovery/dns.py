"""Members from the DNS: the A or AAAA records of a name; of one that begins with ``_``, its SRV records (RFC 2782).

The name is asked for again when what was said is too old, and after a failure, less and less often. What counts is a
whole answer that has somebody in it: everything else leaves things as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from ipaddress import ip_address
from typing import NamedTuple

from l4ipd.config import values
from l4ipd.discovery.query import Answer, Query
from l4ipd.discovery.source import Failed, Said, Wanted, Watcher, too_many
from l4ipd.model import Member
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop, Timer

SOONEST, LATEST = 1.0, 60.0                         # seconds for which an answer holds, whatever its TTL says
RETRY = 1.0                                         # seconds after the first failure; then twice as long, up to LATEST
AT_ONCE = 8                                         # questions for addresses of targets
HEAVIEST = 99                                       # weight of a member


class Target(NamedTuple):
    """One SRV record: a machine by its name, and how much of the load it gets."""

    host: str
    port: int
    priority: int
    weight: int


class DnsWatcher(Watcher):
    """One name."""

    def __init__(self, loop: Loop, wanted: Wanted, said: Said, failed: Failed) -> None:
        self.loop, self.wanted, self.said, self.failed = loop, wanted, said, failed
        self.kind = "AAAA" if wanted.six else "A"
        self._failures = 0
        self._next = Timer(self._ask)
        self._lookup: Lookup | None = None

    def start(self) -> None:
        self._ask()

    def stop(self) -> None:
        self.loop.drop(self._next)
        if self._lookup is not None:
            self._lookup.cancel()

    def raised(self) -> None:
        self._retry(INTERNAL)

    def _ask(self) -> None:
        self._lookup = Lookup(self.loop, self.wanted, self.kind, self._answered)

    def _answered(self, members: tuple[Member, ...], ttl: float, problem: str) -> None:
        self._lookup = None
        problem = problem or too_many(members)
        if problem:
            self._retry(problem)
            return
        self._failures = 0
        self.loop.move(self._next, self.loop.now + min(LATEST, max(SOONEST, ttl)))
        self.said(members)

    def _retry(self, problem: str) -> None:
        self.loop.move(self._next, self.loop.now + min(LATEST, RETRY * 2 ** min(self._failures, 10)))
        self._failures += 1
        self.failed(problem)


class Lookup:
    """All questions that one look at a name takes; ``done(members, ttl, problem)``: one of the two is empty."""

    def __init__(self, loop: Loop, wanted: Wanted, kind: str,
                 done: Callable[[tuple[Member, ...], float, str], object]) -> None:
        self.loop, self.wanted, self.kind, self._done = loop, wanted, kind, done
        self._targets: list[Target] = []
        self._addresses: dict[str, list[str]] = {}  # of targets, by name
        self._left: list[str] = []                  # targets whose addresses have to be asked for
        self._ttl = LATEST
        self._queries: dict[str, Query] = {}
        name = wanted.source.dns
        if name.startswith("_"):
            self._queries[name] = Query(loop, wanted.source.servers, name, "SRV", self._services)
        else:
            self._queries[name] = Query(loop, wanted.source.servers, name, kind, self._plain)

    def cancel(self) -> None:
        for query in self._queries.values():
            query.cancel()
        self._queries.clear()

    def _end(self, members: tuple[Member, ...] = (), problem: str = "") -> None:
        self.cancel()
        self._done(members, self._ttl, problem)

    def _plain(self, answer: Answer) -> None:
        if answer.problem:
            self._end(problem=answer.problem)
            return
        self._ttl = answer.ttl
        good, odd = usable(record.address for each in answer.records for record in each)
        members = tuple(Member(address, address, origin=self.wanted.source.origin) for address in good)
        self._end(members, "" if members else f"gives no address that a rule can name, only {odd}")

    def _services(self, answer: Answer) -> None:
        if answer.problem:
            self._end(problem=answer.problem)
            return
        self._ttl = answer.ttl
        self._targets = [Target(host(record.target), record.port, record.priority, record.weight)
                         for each in answer.records for record in each if host(record.target) and record.port]
        problem = too_many(self._targets) or ("" if self._targets else "says that nobody offers this service")
        if problem:
            self._end(problem=problem)
            return
        for each in answer.more:
            if each.rdtype.name == self.kind:
                self._ttl = min(self._ttl, each.ttl)
                self._addresses.setdefault(host(each.name), []).extend(
                    record.address for record in each)
        self._left = sorted({target.host for target in self._targets} - self._addresses.keys())
        self._queries.clear()
        self._resolve()

    def _resolve(self) -> None:
        """Ask for addresses of targets that did not come along."""
        while self._left and len(self._queries) < AT_ONCE:
            host = self._left.pop()
            self._queries[host] = Query(self.loop, self.wanted.source.servers, host, self.kind,
                                        partial(self._resolved, host))
        if not self._queries:
            members, odd = from_targets(self._targets, self._addresses, self.wanted)
            self._end(members, "" if members else f"gives no address that a rule can name{odd and f', only {odd}'}")

    def _resolved(self, host: str, answer: Answer) -> None:
        del self._queries[host]
        if answer.problem and not answer.absent:
            self._end(problem=f"{host}: {answer.problem}")
            return
        if not answer.absent:                       # a target that is gone is none, and the others count
            self._ttl = min(self._ttl, answer.ttl)
            self._addresses[host] = [record.address for each in answer.records for record in each]
        self._resolve()


def host(name: object) -> str:
    """A name as it is compared; empty for the root, which stands for nobody."""
    return str(name).removesuffix(".").lower()


def usable(addresses: Iterable[str]) -> tuple[list[str], str]:
    """The addresses that rules can name, sorted and each once; and one of those that are not."""
    good: dict[str, None] = {}
    odd = ""
    for address in addresses:
        try:
            good[values.address(address)] = None
        except ValueError:
            odd = address
    return sorted(good, key=_numbers), odd


def _numbers(address: str) -> tuple[int, ...]:
    return tuple(ip_address(address).packed)


def from_targets(targets: list[Target], addresses: dict[str, list[str]],
                 wanted: Wanted) -> tuple[tuple[Member, ...], str]:
    """Members from SRV records, and an address that none can have.

    Targets of the lowest priority serve, the others are fallbacks; weights keep their ratios.
    """
    first = min((target.priority for target in targets if addresses.get(target.host)), default=0)
    heavy = _weights({target.weight for target in targets})
    found: dict[tuple[str, int], Member] = {}
    names: set[str] = set()
    odd = ""
    for target in sorted(targets):
        good, strange = usable(addresses.get(target.host, ()))
        odd = strange or odd
        for address in good:
            if (address, target.port) not in found:
                name = address if address not in names else f"{address}@{target.port}"
                names.add(address)
                found[address, target.port] = Member(name, address, heavy[target.weight] if wanted.weights else 1,
                                                     target.priority != first, target.port, wanted.source.origin)
    return tuple(sorted(found.values(), key=lambda each: (_numbers(each.address), each.port or 0))), odd


def _weights(given: set[int]) -> dict[int, int]:
    """Weights of rules, at most 99, for those of SRV records, at most 65535: the smallest that keep their ratios."""
    divisor = math.gcd(*given) or 1
    most = max(given, default=0) // divisor
    scale = max(1.0, most / HEAVIEST)
    return {weight: max(1, round(weight / divisor / scale)) for weight in given}
