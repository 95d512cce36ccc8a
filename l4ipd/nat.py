"""The NAT table as the reconciler sees it: how this ipnat is spoken to, whose rule is whose, and who is in the way."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from l4ipd import ipfilter, services
from l4ipd.child import Child, Exit
from l4ipd.ipfilter import Rdr
from l4ipd.loop import Loop
from l4ipd.model import Ipfilter
from l4ipd.reconcile import Table

log = logging.getLogger("l4ipd.rules")


@dataclass(frozen=True)
class Dialect:
    """What this IPFilter understands (FACTS.md 2f)."""

    version: str = ""                               # of `ipf -V`, empty if it would not say
    modern: bool = True                             # knows the word inet6: not 4.1
    purge: bool = False                             # ipnat -p ends the sessions of a removed rule
    sure: bool = True                               # ipnat has answered: False, and it has to be asked again


def find_dialect(loop: Loop, tools: Ipfilter, done: Callable[[Dialect], object]) -> None:
    """Ask the tools, without side effect: ``ipf -V``, and an ``ipnat -p`` that has nothing to do."""

    def versioned(end: Exit) -> None:
        found = re.search(rb"IP Filter: v?(\d{1,4}[\d.]{0,16}\d)", end.stdout)
        version = found[1].decode() if found else ""
        Child(loop, (*tools.ipnat, "-n", "-r", "-p", "-f", "-"), timeout=tools.timeout,
              done=lambda end: purging(version, end))

    def purging(version: str, end: Exit) -> None:
        modern = int(version.split(".")[0]) >= 5 if version else True
        unknown = is_unknown(end.stderr.decode(errors="replace"))
        done(Dialect(version, modern, end.clean, end.clean or (unknown and version != "")))

    Child(loop, (*tools.ipf, "-V"), timeout=tools.timeout, done=versioned)


def is_unknown(words: str) -> bool:
    """Whether a tool says that it does not know an option."""
    return re.search("option|usage:", words, re.IGNORECASE) is not None


@dataclass(frozen=True, slots=True)
class Foreign:
    """A listed rdr rule with a tag that is not ours, or without one."""

    line: str                                       # canonical


class NatTable:
    """Reads listings.

    ``known(line)`` is the caller's copy of a canonical line that may be ours, or None: where there are no tags, that
    makes it ours; and one copy of ten thousand lines is enough.
    """

    def __init__(self, settings: Ipfilter, dialect: Dialect, known: Callable[[str], str | None],
                 old_tags: Collection[str] = ()) -> None:
        self.settings, self.known = settings, known
        self.tags = {tag for tag in (settings.tag, *old_tags) if tag}
        self._dialect = dialect
        self._seen: dict[str, str | Foreign | None] = {}        # lines of listings; canonical, or None: no rdr
        self._count = 0                                         # of the lines of this listing
        self._strangers: dict[str, None] = {}                   # those of them that are rdr rules, and not ours
        self._warned: set[tuple[str, str]] = set()

    def speak(self, dialect: Dialect) -> None:
        """Change rules as this ipnat understands it; all are read alike."""
        self._dialect = dialect

    @property
    def table(self) -> Table:
        """For the reconciler. It has a method of ours: kept here, both would keep each other for ever."""
        ipnat, dialect = self.settings.ipnat, self._dialect
        purging = ("-p",) if dialect.purge else ()
        return Table("ipnat", "ipfilter.ipnat", (*ipnat, "-l"), (*ipnat, "-f", "-"), (*ipnat, "-r", "-f", "-"),
                     (*ipnat, "-r", *purging, "-f", "-"), self._read, _plain if dialect.modern else _without_family,
                     ipfilter.LISTING_END)

    def _read(self, line: str) -> str | None:
        self._count += 1
        if line not in self._seen:
            self._seen[line] = self._understand(line)
        read = self._seen[line]
        if isinstance(read, str) and (self.settings.tag is not None or self.known(read) is not None):
            return read
        if read is not None:
            self._strangers[line] = None            # no list: listings that are cut short may come for hours
        return None

    def _understand(self, line: str) -> str | Foreign | None:
        rule = ipfilter.parse(line, services.port)
        if rule is None:
            return None
        canonical = rule.line()
        if self.settings.tag is not None and not any(ipfilter.owned(rule.tag, ours) for ours in self.tags):
            return Foreign(canonical)
        return self.known(canonical) or canonical

    def listed(self, ours: Iterable[str], want: Iterable[str]) -> None:
        """A listing is complete: warn about rules of others that get in the way of those we want, once each."""
        mine = set(ours)
        foreign = [(line, rule) for line in self._strangers
                   if (rule := ipfilter.parse(line, services.port)) is not None and rule.line() not in mine]
        if len(self._seen) > 2 * self._count + 100:             # most of it is gone
            self._seen = {}
        self._count, self._strangers = 0, {}
        if not foreign:
            self._warned.clear()
            return
        by_vip: dict[str, dict[str, Rdr]] = {}
        for wanted in want:
            rule = ipfilter.parse(wanted)
            if rule is not None:
                by_vip.setdefault(rule.vip, {}).setdefault(ipfilter.side(wanted), rule)
        clashes = {(line, rule.line()): how for line, stranger in foreign
                   for rule in by_vip.get(stranger.vip, {}).values() if (how := ipfilter.swallows(stranger, rule))}
        for (line, hurt), how in clashes.items():
            if (line, ipfilter.side(hurt)) not in self._warned:
                log.warning("a rule that is not ours %s: remove it, or give its port up: %s: it meets ours: %s",
                            how, line, hurt)
        self._warned = {(line, ipfilter.side(hurt)) for line, hurt in clashes}


def _plain(line: str) -> str:
    return line


def _without_family(line: str) -> str:
    """IPFilter 4.1 tells the family from the address."""
    return line.replace(" inet6 ", " ", 1)
