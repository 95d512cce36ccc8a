"""The ipf rules of one family and kind as the reconciler sees them: how they are listed and changed, which are ours.

IPFilter keeps log rules and count rules in two lists, and IPv4 and IPv6 apart in what its tools show and take
(FACTS.md 2c-4, 2f). So there is a table for each that is in use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from l4ipd.ipfilter import log_rules, rdr
from l4ipd.ipfilter.listing import Iterator, Table
from l4ipd.model import Ipfilter


class FilterTable:
    """Reads listings. Log rules of ours bear one of ``tags``, or are known; of count rules, only ``known`` can tell.

    ``mark`` is what makes log rules ours, in words. All tables of ipf share an ``iterator``: their listings go through
    the same rules.
    """

    def __init__(self, settings: Ipfilter, action: str, inet6: bool, tags: Collection[int],
                 known: Callable[[str], bool], iterator: Iterator | None = None, mark: str = "") -> None:
        self.action, self.inet6, self.tags, self.known = action, inet6, frozenset(tags), known
        self.settings, self.mark = settings, mark
        self.iterator = iterator or Iterator()
        self.hits: dict[str, int] = {}              # of the last complete listing, by canonical line
        self._counted: dict[str, int] = {}          # of the one that is being read

    def forget_tags_but(self, tag: int | None) -> None:
        """Log rules that bear another have been seen, and are known."""
        self.tags = frozenset({tag} if tag is not None else ())

    @property
    def table(self) -> Table:
        """For the reconciler. It has a method of ours: kept here, both would keep each other for ever."""
        family = ("-6",) if self.inet6 else ()
        kind = "-iR" if self.action == "log" else "-aihR"
        ipf, removing = (*self.settings.ipf, *family), (*self.settings.ipf, *family, "-r", "-f", "-")
        return Table("ipf", "ipfilter.ipf and ipfilter.ipfstat", (*self.settings.ipfstat, *family, kind),
                     (*ipf, "-f", "-"), removing, removing, self._read, log_rules.feed, begin=self._begin,
                     bare=log_rules.bare, mark=self.mark, iterator=self.iterator)

    def speaks_as(self, other: FilterTable) -> bool:
        """Whether both run the same commands and take the same log rules for ours."""
        return (self.settings, self.action, self.inet6, self.tags) == (other.settings, other.action, other.inet6,
                                                                       other.tags)

    def listed(self) -> None:
        """A listing is complete."""
        self.hits, self._counted = self._counted, {}

    def _begin(self) -> None:
        self._counted = {}

    def _read(self, line: str) -> str | None:
        rule = log_rules.parse(line)
        if rule is None or rule.action != self.action or rule.inet6 != self.inet6:
            return None
        canonical = rule.line()
        if self.action == "log":
            return canonical if rule.tag in self.tags or self.known(canonical) else None
        if rule.tag is not None or not self.known(canonical):
            return None
        self._counted[canonical] = rdr.hits(line) or 0
        return canonical
