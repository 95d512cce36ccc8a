"""Is it the members, or is it the gateway that reaches none of them any more?

A member without a route is down for the gateway, and for the clients that it forwards. When no member at all has a
route, the gateway itself is in trouble (a cable, a switch, a routing daemon): it is *blind*. Nothing would be gained
then by taking rules out and ending sessions that may survive, so no outcome counts until a member has a route again.

The routing table is asked at the first outcome that failed, before it is counted::

               an outcome failed, and no member has a route
    SIGHTED --------------------------------------------------> BLIND, event "blind"
       ^                                                          |
       +---- a member has a route, event "sighted" <--------------+ looked for at every outcome, and every LOOK seconds

What failed of a probe that began before it had one does not count either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import islice

from l4ipd.checks import routes
from l4ipd.checks.errors import NO_ROUTE
from l4ipd.checks.verdict import Verdict
from l4ipd.runtime.loop import Loop, Timer

NEVER = float("-inf")
LOOK = 0.5                                          # seconds
SLICE = 500                                         # members that are asked about in one look: about a millisecond
SIGNS = {"L4TOUT", "L6TOUT", "L7TOUT", "PROCERR", "PROCTOUT"}       # as well as "no route": of who may have met nobody
Tell = Callable[[str, str, int], object]            # kind of event, text, level


class Reachability:
    """``addresses()`` are those of all members; ``leads(address, send)`` says whether there is a way to one, and may
    send a datagram to find out (see :mod:`l4ipd.checks.routes`).
    """

    def __init__(self, loop: Loop, addresses: Callable[[], Iterable[str]], tell: Tell,
                 leads: Callable[[str, bool], bool] = routes.leads_to) -> None:
        self.loop, self.addresses, self.tell, self.leads = loop, addresses, tell, leads
        self.blind_since: float | None = None       # on the clock of the loop
        self._over = NEVER                          # when the gateway was last blind
        self._reachable = ""                        # a member that had a route when last asked about
        self._asked = NEVER                         # the turn in which it was
        self._place = 0                             # how many of the members the present round of looks is through with
        self._timer = Timer(self._look)

    @property
    def blind(self) -> bool:
        return self.blind_since is not None

    def discards(self, address: str, verdict: Verdict, began: float) -> bool:
        """Whether an outcome about ``address``, of a probe that ``began`` then, says nothing, since we are blind."""
        if self.blind_since is not None:
            if not self.leads(address, True):
                return True
            self._regained(address)
        if verdict.passed:
            return False
        if began <= self._over:
            return True
        routeless = verdict.text.endswith(NO_ROUTE.text)
        if not (routeless or verdict.code in SIGNS) or self._any_route(address, routeless):
            return False
        self._lost()
        return True

    def stop(self) -> None:
        self.loop.clear(self._timer)

    def raised(self) -> None:
        """A look has raised: the next one will tell."""
        if self.blind:
            self.loop.set(self._timer, self.loop.now + LOOK)

    def _any_route(self, address: str, doubtful: bool) -> bool:
        """Whether any member has a route; asked once a turn, and as a rule about one member."""
        if self._asked == self.loop.now:
            return True
        likely = (self._reachable, address) if self._reachable else (address,)
        for each in (*likely, *self.addresses()):
            if self.leads(each, doubtful):
                self._reachable, self._asked = each, self.loop.now
                return True
        return False

    def _lost(self) -> None:
        self.blind_since, self._place = self.loop.now, 0
        self.loop.set(self._timer, self.loop.now + LOOK)
        count = len(set(self.addresses()))
        self.tell("blind", f"the gateway is blind: no route to any of its {count} members; states, rules and sessions "
                           "stay as they are", logging.ERROR)

    def _look(self) -> None:
        """Ask about some members, others each time; the end comes, too, when there are none any more."""
        members = list(dict.fromkeys(self.addresses()))
        if self._place >= len(members):
            self._place = 0
        some = list(islice(members, self._place, self._place + SLICE))
        self._place += SLICE
        found = next((address for address in some if self.leads(address, True)), "")
        if found or not members:
            self._regained(found)
        else:
            self.loop.set(self._timer, self.loop.now + LOOK)

    def _regained(self, address: str) -> None:
        assert self.blind_since is not None
        lasted, self.blind_since = self.loop.now - self.blind_since, None
        self._over, self._reachable = self.loop.now, address
        self.loop.clear(self._timer)
        self.tell("sighted", f"the gateway sees again: a route to {address or 'its members'}, after {lasted:.0f} s in "
                             "which no probe counted", logging.INFO)
