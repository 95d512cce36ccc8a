"""The ipf rules that make resets visible, looked after like those of ipnat: log rules, or counting ones.

There is a reconciler for each kind and family that is in use, or in which an earlier run may have left rules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from l4ipd.ipfilter import log_rules
from l4ipd.ipfilter.filter_table import FilterTable
from l4ipd.ipfilter.listing import Iterator
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.ipfilter.resync import Budget
from l4ipd.model import Endpoint, Ipfilter, Resets
from l4ipd.runtime.loop import Loop

COUNT_EVERY = 1.0                                   # seconds between two readings of the counters
COUNT_SHARE = 0.05                                  # of a core, for that; with very many rules it is less often
Kind = tuple[str, bool]                             # log or count, and whether IPv6
Traces = tuple[frozenset[str], frozenset[int], frozenset[str]]


class ResetRules:
    """``counted(inet6, hits)`` gets every reading of the counters of one family, by canonical line."""

    def __init__(self, loop: Loop, counted: Callable[[bool, Mapping[str, int]], object],
                 budget: Budget | None = None) -> None:
        self.loop, self.counted = loop, counted
        self._budgets = {"log": budget or Budget(), "count": Budget(COUNT_SHARE)}
        self.tables: dict[Kind, Reconciler] = {}
        self._readers: dict[Kind, FilterTable] = {}
        self._left: set[Kind] = set()               # tables in which an earlier run may have left rules
        self._tag: int | None = None                # of our log rules
        self._older: dict[Kind, set[int]] = {}      # what else they may bear in a table that was not read yet
        self._counts: frozenset[str] = frozenset()  # count rules that an earlier run has left
        self._iterator = Iterator()
        self._tools = Ipfilter()

    def remember(self, tables: Iterable[str], tags: Iterable[int], counts: Iterable[str]) -> None:
        """What an earlier run may have left in the kernel (see :meth:`traces`): it goes, unless it is wanted again."""
        self._left = {(action, name.endswith("6")) for name in tables
                      if (action := name.removesuffix("6")) in ("log", "count")}
        self._older = {kind: set(tags) for kind in self._left if kind[0] == "log"}
        self._counts = frozenset(counts)

    def traces(self) -> Traces:
        """For the state file: the tables in which rules of ours may be, their tags, and the count rules."""
        used = {kind: rules for kind, rules in self.tables.items() if rules.want or rules.have or rules.stale}
        tags = {tag for (action, _), rules in used.items() if action == "log"
                for tag in (self._tag, *map(log_rules.tag, rules.known()))}
        return (frozenset(action + "6" * inet6 for action, inet6 in used),
                frozenset(tag for tag in tags.union(*self._older.values()) if tag is not None),
                frozenset(line for (action, _), rules in used.items() if action == "count"
                          for line in (*rules.want, *rules.have)))

    def use(self, tools: Ipfilter, settings: Resets | None, endpoints: Sequence[Endpoint]) -> None:
        """Keep the rules for ``endpoints``, and take out those of the other kind."""
        before, self._tag = self._tag, None
        self._tools = tools
        want: dict[Kind, dict[str, None]] = {kind: {} for kind in self.tables.keys() | self._left}
        if settings is not None:
            action = "count" if settings.source == "counters" else "log"
            self._tag = settings.tag if action == "log" else None
            for rule in log_rules.wanted(endpoints, settings.interface, action, self._tag):
                want.setdefault((action, rule.inet6), {})[rule.line()] = None
        for kind, rules in self.tables.items():
            if before is not None and before != self._tag and kind[0] == "log" and not rules.belief.ever:
                self._older.setdefault(kind, set()).add(before)         # what bears it has not been seen yet
        for kind, lines in want.items():
            rules = self._reconciler(kind)
            rules.wish(lines)
            rules.resume()

    def _reconciler(self, kind: Kind) -> Reconciler:
        log = kind[0] == "log"
        tags = self._older.get(kind, set()) | ({self._tag} if self._tag is not None else set())
        table = FilterTable(self._tools, *kind, tags if log else (), lambda line: self._knows(kind, line),
                            self._iterator, f"resets.tag {self._tag}" if log and self._tag is not None else "")
        if kind in self._readers and self._readers[kind].speaks_as(table):
            table = self._readers[kind]
        self._readers[kind] = table
        timeout, resync = self._tools.timeout, self._tools.resync if kind[0] == "log" else COUNT_EVERY
        if kind in self.tables:
            self.tables[kind].use(table.table, timeout, resync)
        else:
            self.tables[kind] = Reconciler(self.loop, table.table, timeout, resync,
                                           removal=lambda line: "drain", listed=lambda: self._listed(kind),
                                           whose=lambda line: self._whose(kind, line), budget=self._budgets[kind[0]])
        return self.tables[kind]

    def _knows(self, kind: Kind, line: str) -> bool:
        """Whether a rule is ours, whatever it bears."""
        rules = self.tables.get(kind)
        if rules is None:
            return False
        return rules.knows(line) or line in rules.want or (line in self._counts and not rules.belief.ever)

    def _whose(self, kind: Kind, line: str) -> str:
        """Whose a rule may be that we have not loaded; count rules are ours only if we know them."""
        if kind[0] == "count" or line in self.tables[kind].want:
            return ""
        return f"it is of an earlier configuration, or of another l4ipd with resets.tag {log_rules.tag(line)}"

    def _listed(self, kind: Kind) -> None:
        reader, rules = self._readers[kind], self.tables[kind]
        reader.listed()
        self._older.pop(kind, None)                 # what bore one of those is known by now
        reader.forget_tags_but(self._tag)
        if kind[0] == "count":
            self.counted(kind[1], reader.hits)
            if all(rules.belief.ever for (action, _), rules in self.tables.items() if action == "count"):
                self._counts = frozenset()          # what was there is known by now
        if not rules.want and not rules.have:
            rules.suspend()                         # nothing of ours is there, and nothing is to be

    def stop(self, remove: bool) -> None:
        """The rules stay, unless they are to be removed."""
        for rules in self.tables.values():
            if remove:
                rules.wish({})
                rules.resume()
            else:
                rules.suspend()

    # -- how it goes

    @property
    def readable(self) -> bool:
        return all(rules.settled or not rules.problem for rules in self.tables.values())

    @property
    def trouble(self) -> str:
        return next((words for rules in self.tables.values() if (words := rules.problem or rules.complaint)), "")

    def summary(self) -> str:
        want, have = (sum(len(getattr(rules, kind)) for rules in self.tables.values()) for kind in ("want", "have"))
        return f"ipf rules: {want} wanted, {have} in the kernel"
