"""Whether to believe that an endpoint refuses its clients. Pure: no clock, no IO.

Anybody can cause a refusal: a client that the member's own firewall has banned, a broken neighbour. So doubt grows on
refusals, not on the member: while they are believed, one takes the endpoint out, and the probe that it brings about
decides. One that a probe contradicts costs belief for a second, the next one for two, then four, at most five minutes.
One that a probe confirms restores it, and a quiet time makes all that forgotten.
"""

from __future__ import annotations

from l4ipd.monitor.hold_down import HoldDown

FIRST, LONGEST = 1.0, 300.0                         # seconds
QUIET = 600.0                                       # seconds without a refusal, after which all is forgotten
CLIENTS = 64                                        # that are remembered


class Doubt:
    """The memory of one endpoint. Times are seconds on any one clock."""

    __slots__ = ("hold", "clients")

    def __init__(self) -> None:
        self.hold = HoldDown(FIRST, LONGEST, QUIET)         # by refusals that were contradicted: none is believed
        self.clients: dict[str, None] = {}          # whose refusals were contradicted: they may be banned

    def heard(self, now: float) -> None:
        """There is a refusal."""
        if self.hold.heard(now):
            self.clients.clear()

    def contradicts(self, client: str) -> None:
        """A probe passed after this client had been refused: it may be banned, but nobody else is refused."""
        self.clients.pop(client, None)
        self.clients[client] = None
        while len(self.clients) > CLIENTS:
            del self.clients[next(iter(self.clients))]

    def grow(self, now: float) -> float:
        """A refusal that was believed was contradicted. Returns for how many seconds none is believed now."""
        return self.hold.grow(now)

    def confirmed(self) -> None:
        """A probe found the same as a client."""
        self.hold.forget()
        self.clients.clear()
