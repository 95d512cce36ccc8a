"""The sessions one by one, for people: who speaks to whom, and how long until the kernel forgets it.

``ipnat -lv`` tells the rest of a session's life in lines that begin with a tab, in half seconds (FACTS.md 2c-3). What
is kept until it is shown is the bytes of the listing, of those sessions that are wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from l4ipd.ipfilter.sessions import ANY, BEGIN, LONGEST, Ends, Owners
from l4ipd.model import Endpoint

RECORD = re.compile(rb"^(RDR \S+ +\d{1,5} +<- -> \S+ +\d{1,5}) +\[(\S+) (\d{1,5})\](?: (\w+))?[ \r]*\n"
                    rb"(?:\tttl (\d{1,10}) [^\n]*\n)?", re.MULTILINE)
TICKS = 2                                           # a second


@dataclass(frozen=True, slots=True)
class Session:
    """One, as the kernel tells it. ``left`` is in seconds; None: not told."""

    endpoint: Endpoint
    client: str
    client_port: int
    vip: str
    vip_port: int
    member: str
    member_port: int
    protocol: str
    left: float | None


class ListReader:
    """Takes a listing as it streams, and keeps the sessions of ``endpoints``."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self.begun = False
        self._total = 0
        self._owners = Owners(endpoints)
        self._ours: dict[Ends, tuple[Endpoint, ...]] = {}
        self._kept: list[bytes] = []
        self._rest = b"\n"

    @property
    def total(self) -> int:
        """Sessions of all kinds, so far."""
        return self._total + self._rest.count(ANY)

    @property
    def inside(self) -> bool:
        return self.begun and self._rest[-1:] not in (b"", b"\n")

    def feed(self, chunk: bytes) -> bool:
        """Never enough: see :class:`l4ipd.ipfilter.sessions.Reader`."""
        data = self._rest + chunk
        if not self.begun:
            found = BEGIN.search(data)
            if found is None:
                self._rest = data[-64:]
                return False
            self.begun, data = True, data[found.end():]
        end = data.rfind(b"\nRDR ") + 1             # what follows may not have all of its lines yet
        if len(data) - end > 4 * LONGEST:           # of other kinds
            end = data.rfind(b"\n") + 1
        records, self._rest = data[:end], data[end:]
        if len(self._rest) > 4 * LONGEST:
            self._rest = b"\0"                      # no line that we know begins with that
        self._take(records)
        return False

    def sessions(self) -> Iterator[Session]:
        """Those that were kept; to be asked when the listing has come to its end."""
        self._take(self._rest)
        self._rest = b""
        for piece in self._kept:
            for found in RECORD.finditer(piece):
                yield from self._of(found)

    def _take(self, records: bytes) -> None:
        self._total += records.count(ANY)
        kept = [found[0] for found in RECORD.finditer(records) if self._whose(found)]
        if kept:
            self._kept.append(b"".join(kept))

    def _whose(self, found: re.Match[bytes]) -> tuple[Endpoint, ...]:
        ends = found[1], found[4] or b""
        ours = self._ours.get(ends)
        if ours is None:
            ours = self._ours[ends] = tuple(self._owners.of(ends))
        return ours

    def _of(self, found: re.Match[bytes]) -> Iterator[Session]:
        _, member, port, _, _, vip, vip_port = (word.decode("ascii", "replace") for word in found[1].split())
        for endpoint in self._whose(found):
            yield Session(endpoint, found[2].decode("ascii", "replace"), int(found[3]), vip, int(vip_port), member,
                          int(port), endpoint.protocol, None if found[5] is None else int(found[5]) / TICKS)
