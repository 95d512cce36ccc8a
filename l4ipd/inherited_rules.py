"""Rules that an earlier run has left, or this one under another tag: they are ours although no tag may say so.

Each is known until it was seen: a listing may have begun in the middle of the table (FACTS.md 3-3), so that one which
does not have them proves nothing, and two that agree do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping


class InheritedRules:
    """``lines`` and ``tags`` are forgotten when the table was read."""

    def __init__(self) -> None:
        self.lines: frozenset[str] = frozenset()
        self.clusters: set[str] = set()             # of which rules were in the kernel when we came
        self.tags: set[str] = set()                 # what bears one of them has not been seen yet
        self._missing: frozenset[str] | None = None     # what the last listing did not have; None: there was none

    def remember(self, lines: Iterable[str]) -> None:
        """An earlier run has left them."""
        self.lines = frozenset(lines)

    def adopted(self, clusters: Iterable[str]) -> None:
        """Rules of theirs are in the kernel."""
        self.clusters = set(clusters)

    def retag(self, tag: str) -> None:
        """Ours bear another tag from now on."""
        self.tags.add(tag)
        self._missing = None

    def listed(self, have: Mapping[str, object]) -> None:
        """The table has been read."""
        missing = self.lines - have.keys()
        if missing == self._missing:
            self.tags.clear()                       # what bore one is known by now
            self.lines = frozenset()
        self._missing = missing
