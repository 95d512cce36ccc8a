"""What we take a table of the kernel to be: after a listing, what it said; after a change, what that should have done.

Only a finished child changes it. A listing that misses rules of ours has to be confirmed: it may have begun in the
middle (FACTS.md 3-3). It is believed when the next one misses the same, and when nothing of ours is left, as after a
flush.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping

from l4ipd.ipfilter.listing import Listing

PATIENCE = 3                                        # listings in a row, each different, until the last is believed


class Belief:
    """The rules of ours that are there."""

    def __init__(self) -> None:
        self.have: dict[str, str] = {}              # canonical line -> the words in which the kernel lists it
        self.version = 0                            # another when other rules are there
        self.copies: dict[str, list[str]] = {}      # the words of more rules that are equal to one of these
        self.stale = True                           # none of it is to be trusted
        self.proven = False                         # it was read from the kernel after the last change
        self.ever = False                           # it was read from this table at all
        self._missing: frozenset[str] = frozenset() # what the listing that is to be confirmed has not
        self._unconfirmed = 0

    def forget_table(self) -> None:
        """From now on it is another table, or may be one. What was ours stays known as ours until that is read."""
        self.stale, self.proven, self.ever = True, False, False

    def wants_another(self, listing: Listing, leaving: Container[str]) -> bool:
        """Whether a listing has to be confirmed by another. ``leaving`` are rules that we have tried to remove."""
        missing = frozenset(line for line in self.have if line not in listing.rules and line not in leaving)
        confirmed = missing == self._missing or self._unconfirmed >= PATIENCE
        if not self.ever or not missing or not listing.rules or confirmed:
            self._missing, self._unconfirmed = frozenset(), 0
            return False
        self._missing, self._unconfirmed = missing, self._unconfirmed + 1
        return True

    def take(self, listing: Listing) -> None:
        """This is how it is."""
        if listing.rules.keys() != self.have.keys():
            self.version += 1
        self.have, self.copies = listing.rules, listing.copies
        self.stale, self.proven, self.ever = False, True, True

    def amiss(self, want: Mapping[str, object], failed: Iterable[str], goes: Callable[[str], bool]) -> list[str]:
        """Rules that are there and should not be, or should be and are not, or may be either.

        ``failed`` are those with which something went wrong; ``goes(line)`` says whether one that is not wanted may go.
        """
        return [*(line for line in want if line not in self.have),
                *(line for line in self.have if line not in want and goes(line)),
                *(line for line in failed if line not in self.have and line not in want)]

    def shows(self, command: str, line: str, copies: int) -> bool:
        """Whether a change has come about; ``copies`` of the line were there before."""
        if command == "add":
            return line in self.have
        gone = line not in self.have and command != "copy"
        return gone or len(self.copies.get(line, ())) < copies

    def added(self, line: str, words: str) -> None:
        if line not in self.have:
            self.version += 1
        self.have[line] = words

    def removed(self, line: str) -> None:
        """One rule is gone; of several that are equal, another takes its place."""
        others = self.copies.get(line)
        if others:
            self.have[line] = others.pop()
        elif self.have.pop(line, None) is not None:
            self.version += 1
