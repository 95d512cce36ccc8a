"""The NAT table as the reconciler sees it: how this ipnat is spoken to, whose rule is whose, and who is in the way."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import lru_cache

from l4ipd.ipfilter import port_names, rdr
from l4ipd.ipfilter.listing import Iterator, Table
from l4ipd.ipfilter.rdr import Rdr
from l4ipd.model import Ipfilter
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop

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
class Listed:
    """An rdr rule that a listing had, as far as it is looked at again: of others there may be fifty thousand."""

    line: str                                       # canonical
    tagged: bool                                    # with a tag of ours
    vip: str
    ports: tuple[int, int]                          # (0, 0): every port


@lru_cache(maxsize=1024)
def _place(vip: str, ports: tuple[int, int]) -> tuple[str, tuple[int, int]]:
    """The same objects for all rules of a service."""
    return vip, ports


class NatTable:
    """Reads listings. A line is parsed once, however often it is listed.

    A rule with the tag of the settings is ours. So is one that ``known(line)`` knows: it gives the caller's copy of a
    canonical line (one copy of ten thousand lines is enough), or None. ``want`` are the rules that may be met.
    ``old_tags`` are ours, too, as long as they are in there.
    """

    def __init__(self, settings: Ipfilter, dialect: Dialect, known: Callable[[str], str | None],
                 want: Callable[[], Iterable[str]] = tuple, old_tags: Collection[str] = (),
                 iterator: Iterator | None = None) -> None:
        self.settings, self.known, self.want, self.old_tags = settings, known, want, old_tags
        self.iterator = iterator or Iterator()      # the kernel forgets nothing because we have other settings
        self._dialect = dialect
        self._seen: dict[str, Listed | None] = {}   # lines of listings; None: no rdr rule
        self._count = 0                             # of the lines of this listing
        self._met: dict[str, Listed] = {}           # those of them that are not ours, on addresses of ours
        self._ours = Sides(())
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
                     begin=self._begin, end=rdr.LISTING_END, other=_double,
                     mark=f"the tag {self.settings.tag}" if self.settings.tag else "", iterator=self.iterator)

    # -- what a line says

    def understand(self, line: str) -> Listed | None:
        """A listed rule, without a count of hits before it."""
        if line in self._seen:
            return self._seen[line]
        rule = rdr.parse(line, port_names.port)
        if rule is None:
            listed = None
        else:
            canonical = rule.line()
            listed = Listed(self.known(canonical) or canonical, rdr.owned(rule.tag, self.settings.tag),
                            *_place(rule.vip, rule.ports or (0, 0)))
        self._seen[line] = listed
        return listed

    def is_ours(self, listed: Listed) -> bool:
        return listed.tagged or self.known(listed.line) is not None or (
            bool(self.old_tags) and any(rdr.owned(_tag(listed.line), tag) for tag in self.old_tags))

    def _begin(self) -> None:
        """A listing is about to be read."""
        if len(self._seen) > 2 * self._count + 100:     # most of it is gone
            self._seen = {}
        self._count, self._met = 0, {}
        self._ours = self._ours.of(self.want())

    def _read(self, line: str) -> str | None:
        self._count += 1
        listed = self.understand(line)
        if listed is None:
            return None
        if self.is_ours(listed):
            return listed.line
        if self._ours.near(listed.vip, listed.ports):
            self._met[line] = listed
        return None

    # -- who is in the way

    def listed(self) -> None:
        """A listing is complete: warn about rules of others that get in the way of those we want, once each."""
        warned: set[tuple[str, str]] = set()
        for line, listed in self._met.items():
            for ours, how in self._ours.clashes(listed):
                key = line, rdr.side(ours.line())
                if key not in self._warned:
                    log.warning("a rule that is not ours %s: remove it, or give its port up: %s: it meets ours: %s",
                                how, line, ours.line())
                warned.add(key)
        self._warned = warned


class Sides:
    """What rules match on, by address and port, one rule of each: whom a rule of somebody else meets."""

    def __init__(self, want: Iterable[str]) -> None:
        self.want = want
        self._single: dict[str, dict[int, list[Rdr]]] = {}      # by address, and by port
        self._ranges: dict[str, list[Rdr]] = {}                 # those with a range of ports, by address
        for line in {rdr.side(line): line for line in want}.values():
            rule = _wanted(line)
            if rule is None or rule.ports is None:
                continue
            if rule.ports[0] == rule.ports[1]:
                self._single.setdefault(rule.vip, {}).setdefault(rule.ports[0], []).append(rule)
            else:
                self._ranges.setdefault(rule.vip, []).append(rule)

    def of(self, want: Iterable[str]) -> Sides:
        """The same, for these lines: it is made anew if they are others."""
        return self if want is self.want else Sides(want)

    def near(self, vip: str, ports: tuple[int, int]) -> list[Rdr]:
        """Those that may be met by a rule on this address and these ports."""
        ranges, single = self._ranges.get(vip, []), self._single.get(vip)
        if single is None:
            return ranges
        first, last = ports
        if first == last != 0:
            return [*single.get(first, ()), *ranges] if ranges else single.get(first, ranges)
        return [*(rule for rules in single.values() for rule in rules), *ranges]

    def clashes(self, listed: Listed) -> list[tuple[Rdr, str]]:
        """Those that a rule which is not ours gets in the way of, and how."""
        near = self.near(listed.vip, listed.ports)
        rule = rdr.parse(listed.line) if near else None
        return [(ours, how) for ours in near if (how := rdr.swallows(rule, ours))] if rule is not None else []


def whose(line: str, tag: str | None) -> str:
    """Whose a rule may be that is ours by its tag, but that no endpoint makes."""
    rule = rdr.parse(line)
    if rule is not None and not rdr.is_made_here(rule):
        return f"l4ipd makes no such rule: whoever has loaded it should use another tag than {tag}"
    return "it is of an earlier configuration" + (f", or of another l4ipd with the tag {tag}" if tag else "")


def _plain(line: str) -> str:
    return line


def _without_family(line: str) -> str:
    """IPFilter 4.1 tells the family from the address."""
    return line.replace(" inet6 ", " ", 1)


def _double(line: str) -> str:
    """``ext0,ext0`` is another rule than ``ext0``, and is listed like it (FACTS.md 2b-1)."""
    words = line.split(" ")
    return " ".join([words[0], f"{words[1]},{words[1]}", *words[2:]]) if "," not in words[1] else line


def _tag(line: str) -> str | None:
    """The tag in a canonical line."""
    rest = line.rpartition(" tag ")[2]
    return rest.partition(" ")[0] if rest != line else None


@lru_cache(maxsize=8192)
def _wanted(line: str) -> Rdr | None:
    return rdr.parse(line)
