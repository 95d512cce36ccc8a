"""The certificates that members have shown to probes, and until when they are good."""

from __future__ import annotations

from collections.abc import Callable

from l4ipd.checks.certificate import not_after

MANY = 1 << 16                                      # places: members come and go
Place = tuple[str, int, str | None]                 # address, port, and the name that was asked for


class Certificates:
    """What was seen of late. Who wants to know of every place that shows another one than before: :meth:`tell`."""

    def __init__(self) -> None:
        self._changed: Callable[[], object] = lambda: None
        self._seen: dict[Place, tuple[int, float | None]] = {}      # hash of the certificate, and its end

    def tell(self, changed: Callable[[], object]) -> None:
        """Call it from now on, and nobody else."""
        self._changed = changed

    def seen(self, place: Place, der: bytes) -> None:
        """A member has shown its certificate."""
        known, mark = self._seen.get(place), hash(der)
        if known is not None and known[0] == mark:
            return
        if len(self._seen) >= MANY:
            self._seen.clear()
        self._seen[place] = mark, not_after(der)
        self._changed()

    def end(self, place: Place) -> float | None:
        """Until when the certificate of a place is good, in seconds since the epoch; None: not known."""
        known = self._seen.get(place)
        return None if known is None else known[1]
