"""Members' certificates that end soon: a line for each endpoint, 14 days before, and once a day from then on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from l4ipd.checks.certificates import Certificates
from l4ipd.checks.recipe import tls_of
from l4ipd.model import Endpoint
from l4ipd.monitor.monitor import Monitor
from l4ipd.runtime.loop import Loop, Timer

DAY, SOON = 86400.0, 14 * 86400.0                   # seconds
OFTEN, AT_ONCE = 600.0, 1.0                         # seconds between two looks, and after a certificate that is new
NAMED = 20                                          # endpoints a look
log = logging.getLogger("l4ipd")


class Expiry:
    """Looks at what probes have seen. ``monitors()`` are all there are, ``wall()`` the time of day."""

    def __init__(self, loop: Loop, certificates: Certificates, monitors: Callable[[], Collection[Monitor]],
                 wall: Callable[[], float] = time.time) -> None:
        self._loop, self._certificates, self._monitors, self._wall = loop, certificates, monitors, wall
        self._told: dict[str, tuple[float, float]] = {}     # by endpoint: the end that was told of, and when it was
        self._timer = Timer(self._look)
        certificates.tell(self._changed)

    def end(self, endpoint: Endpoint) -> float | None:
        """When the first of the certificates ends that an endpoint has shown, in seconds since the epoch."""
        ends = []
        for check in endpoint.checks:
            tls = tls_of(check)
            if tls is not None:
                ends.append(self._certificates.end((endpoint.address, endpoint.port_of(check), tls.name)))
        return min((end for end in ends if end is not None), default=None)

    def _changed(self) -> None:
        self._loop.set(self._timer, self._loop.now + AT_ONCE)

    def raised(self) -> None:
        """A look has: the next one must come."""
        self._loop.set(self._timer, self._loop.now + OFTEN)

    def _look(self) -> None:
        self._loop.set(self._timer, self._loop.now + OFTEN)
        now, named = self._wall(), 0
        told, self._told = self._told, {}
        for monitor in self._monitors():
            name, end = monitor.endpoint.name, self.end(monitor.endpoint)
            if end is None or end - now > SOON:
                continue
            known = told.get(name)
            if known is not None and known[0] == end and 0 <= now - known[1] < DAY:
                self._told[name] = known
                continue
            self._told[name] = end, now
            named += 1
            if named <= NAMED:
                log.warning("%s %s: %s", name, monitor.endpoint.where, words(end, now))
        more = named - NAMED
        if more > 0:
            log.warning("certificates of %d endpoints more expire within 14 days, or have expired", more)


def words(end: float, now: float) -> str:
    """``its certificate expires in 9 days, on 2026-12-07``."""
    date = time.strftime("%Y-%m-%d", time.gmtime(end))
    if end <= now:
        return f"its certificate has expired on {date}"
    days = int((end - now) / DAY)
    return f"its certificate expires in {days} day{'s' * (days != 1)}, on {date}" if days else (
        f"its certificate expires within a day, on {date}")
