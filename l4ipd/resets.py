"""Sensing resets: a member that refuses or resets a client says so to us too, long before its next probe is due.

::

    log rules --> IPFilter --> ipmon, or a log file --> lines --> Reset --> target --> refuse() | hasten()
    count rules -> ipfstat, once a second ------------> hits ---------------^

A reset is one look into a dictionary. It counts unless it answers our own probe, or is about an endpoint that is down
already, or about none, or was in ipmon's buffer before we came. What counts takes the endpoint down, or has it probed
now, as ``resets.action`` says. Only probes bring an endpoint up again.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import Protocol

from l4ipd import ipmon, logrules, sources
from l4ipd.filters import FilterTable
from l4ipd.health import Verdict
from l4ipd.hearing import Hearing
from l4ipd.loop import Loop
from l4ipd.model import Endpoint, Ipfilter, Resets
from l4ipd.reconcile import Reconciler

HASTE = 1.0                                         # seconds between two probes that resets hasten
COUNT_EVERY = 1.0                                   # seconds between two readings of the counters
ECHO, LATE_ECHO = 0.3, 1.5                          # seconds until a record of our own refused probe must have come
BUFFERED = 5.0                                      # seconds after ipmon's start in which its lines may be old
OWN_FOR = 30.0                                      # seconds that our own address towards a member is remembered
WORDS = {"own": "own probes", "down": "down already", "unknown": "of no endpoint", "stale": "older than we",
         "haste": "probed just now"}
log = logging.getLogger("l4ipd.resets")


class Watched(Protocol):
    """What is asked of an endpoint's monitor."""

    endpoint: Endpoint

    @property
    def eligible(self) -> bool: ...
    def refuse(self, verdict: Verdict) -> None: ...
    def hasten(self) -> None: ...


class Target:
    """One port of one member, and the endpoints that are there."""

    __slots__ = ("address", "port", "watched", "hastened", "owed", "owed_until", "own", "own_until")

    def __init__(self, address: str, port: int) -> None:
        self.address, self.port = address, port
        self.watched: list[Watched] = []
        self.hastened = float("-inf")
        self.owed, self.owed_until = 0, 0.0         # records that our own refused probes have yet to cause
        self.own, self.own_until = "", 0.0          # our address towards it


class Sensing:
    """All of it. ``tell(kind, text, level)`` hears when sensing is lost, and when it is back."""

    def __init__(self, loop: Loop, tell: Callable[[str, str, int], object]) -> None:
        self.loop, self.tell = loop, tell
        self.settings: Resets | None = None
        self.tools = Ipfilter()
        self.modern = True                          # this IPFilter is no 4.1, whose ipmon is up to a second late
        self.alive = False
        self.problem = ""                           # why it is not
        self.seen = self.used = self.missed = self.repairs = 0
        self.ignored: Counter[str] = Counter()      # by the keys of WORDS
        self.rules: dict[tuple[str, bool], Reconciler] = {}     # by kind (log, count), and whether IPv6
        self.hearing = Hearing(loop, self.tools)
        self._tables: dict[tuple[str, bool], FilterTable] = {}
        self._left: set[tuple[str, bool]] = set()   # tables in which an earlier run may have left rules
        self._targets: dict[tuple[str, str, int], Target] = {}  # by protocol, address and port
        self._udp: dict[str, list[Target]] = {}     # by address: for records that do not tell the port
        self._tags: set[int] = set()                # that our log rules have had
        self._counts: set[str] = set()              # count rules that we have wanted
        self._hits: dict[str, int] = {}             # last reading of the counters
        self._source: sources.Ipmon | sources.LogFile | None = None
        self._started_as: tuple[object, ...] = ()
        self._lines = ipmon.Lines()
        self._began, self._began_at = "", 0.0       # when this ipmon was started: local time, and on our clock
        self._said = False
        self._warned: set[str] = set()

    # -- configuration

    def apply(self, settings: Resets | None, tools: Ipfilter, watched: Iterable[Watched], pidfile: str) -> None:
        """Take over a configuration, the first or another one."""
        self.settings, self.tools, self.hearing.tools = settings, tools, tools
        watched = list(watched) if settings is not None else []
        self._aim(watched)
        action = "count" if settings is not None and settings.source == "counters" else "log"
        self._want([each.endpoint for each in watched], action)
        self._listen(pidfile)

    def _aim(self, watched: Sequence[Watched]) -> None:
        old, self._targets, self._udp = self._targets, {}, {}
        for each in watched:
            endpoint = each.endpoint
            key = endpoint.protocol, endpoint.address, endpoint.member_port
            if key not in self._targets:
                target = self._targets[key] = old.get(key) or Target(endpoint.address, endpoint.member_port)
                target.watched = []
                if endpoint.protocol == "udp":
                    self._udp.setdefault(endpoint.address, []).append(target)
            self._targets[key].watched.append(each)

    def remember(self, tables: Iterable[str], tags: Iterable[int], counts: Iterable[str]) -> None:
        """What an earlier run may have left in the kernel (see :meth:`traces`): it goes, unless it is wanted again."""
        self._left = {(action, name.endswith("6")) for name in tables
                      if (action := name.removesuffix("6")) in ("log", "count")}
        self._tags.update(tags)
        self._counts.update(counts)

    def traces(self) -> tuple[frozenset[str], frozenset[int], frozenset[str]]:
        """For the state file: the tables in which rules of ours may be, their tags, and the count rules."""
        used = {key: rules for key, rules in self.rules.items() if rules.want or rules.have or rules.stale}
        return (frozenset(action + "6" * inet6 for action, inet6 in used),
                frozenset(self._tags if any(action == "log" for action, _ in used) else ()),
                frozenset(line for (action, _), rules in used.items() if action == "count"
                          for line in (*rules.want, *rules.have)))

    def _want(self, endpoints: Sequence[Endpoint], action: str) -> None:
        """Have the reconcilers keep the rules for ``endpoints``, and take out those of the other kind."""
        want: dict[tuple[str, bool], dict[str, None]] = {key: {} for key in self.rules.keys() | self._left}
        if self.settings is not None:
            tag = self.settings.tag if action == "log" else None
            if tag is not None:
                self._tags.add(tag)
            for rule in logrules.wanted(endpoints, self.settings.interface, action, tag):
                want.setdefault((action, rule.inet6), {})[rule.line()] = None
                if action == "count":
                    self._counts.add(rule.line())
        for key, lines in want.items():
            rules = self._reconciler(*key)
            rules.want = lines
            rules.pause = False
            rules.touch()

    def _reconciler(self, action: str, inet6: bool) -> Reconciler:
        key = action, inet6
        table = FilterTable(self.tools, action, inet6, self._tags, self._counts.__contains__)
        if key in self._tables and self._tables[key].speaks_as(table):
            table = self._tables[key]
        self._tables[key] = table
        resync = self.tools.resync if action == "log" else COUNT_EVERY
        if key in self.rules:
            self.rules[key].use(table.table, self.tools.timeout, resync)
        else:
            self.rules[key] = Reconciler(self.loop, table.table, self.tools.timeout, resync,
                                         removal=lambda line: "drain", listed=lambda: self._listed(key),
                                         repaired=self._repaired)
        return self.rules[key]

    def _repaired(self, lines: list[str]) -> None:
        self.repairs += len(lines)

    def _listed(self, key: tuple[str, bool]) -> None:
        table, rules = self._tables[key], self.rules[key]
        table.listed()
        if key[0] == "count":
            self._counted(table.hits)
        if not rules.want and not rules.have:
            rules.pause = True                      # nothing of ours is there, and nothing is to be

    # -- where it comes from

    @property
    def source(self) -> str:
        return self.settings.source if self.settings is not None else "no"

    def _listen(self, pidfile: str) -> None:
        wanted = (self.source, self.tools.ipmon, pidfile) if self.settings is not None else ()
        if wanted == self._started_as:
            return
        if self._source is not None:
            self._source.stop()
            self._source = None
        self._started_as = wanted
        self.alive, self.problem, self._said = False, "", False
        self._lines = ipmon.Lines()
        if self.source == "ipmon":
            self._source = sources.Ipmon(self.loop, self.tools.ipmon, pidfile, self.take, self._told, self._begin)
            sources.others(self.loop, self.tools.ipmon[0], self._others)
        elif self.source not in ("no", "counters"):
            self._source = sources.LogFile(self.loop, self.source, self.take, self._told)
        if self._source is not None:
            self._source.start()

    def _others(self, pids: list[int]) -> None:
        if pids and self.source == "ipmon":
            log.warning("another ipmon runs (pid %s): a record goes to one reader only, so that resets will be missed: "
                        "stop it, or give the file that it writes as resets.source", ", ".join(map(str, pids)))

    def _begin(self) -> None:
        now = time.time()
        self._began = time.strftime("%Y%m%d%H%M%S", time.localtime(now)) + f"{now % 1:.6f}"[1:]
        self._began_at = self.loop.clock()
        self._lines = ipmon.Lines()

    def _told(self, problem: str) -> None:
        was, self.alive, self.problem = self.problem, not problem, problem
        if problem and problem != was:
            self.tell("sensing-lost", f"sensing of resets is lost: {problem}; trying again", logging.WARNING)
        elif was and not problem:
            self.tell("sensing-back", f"sensing of resets is back: {self.source} is read again", logging.INFO)
        elif not self._said:
            log.info("resets of clients' connections are sensed, by %s", self.source)
        self._said = True

    def stop(self, remove: bool) -> None:
        """Listen no more. The rules stay, unless they are to be removed."""
        if self._source is not None:
            self._source.stop()
            self._source = None
        for rules in self.rules.values():
            rules.want = {} if remove else rules.want
            rules.pause = not remove
            rules.touch()

    @property
    def settled(self) -> bool:
        """No rule waits to be changed, as far as that is possible."""
        return all(rules.pause or rules.settled or (rules.problem and not rules.busy) for rules in self.rules.values())

    # -- what it means

    def take(self, chunk: bytes) -> None:
        """Bytes of ipmon's lines, in any pieces."""
        for line in self._lines.feed(chunk):
            reset = ipmon.parse(line, _port)
            if reset is not None and self.settings is not None and reset.tag == self.settings.tag:
                self._weigh(reset)
            elif line.startswith(b"missed "):
                self.missed += ipmon.missed(line)

    def _weigh(self, reset: ipmon.Reset) -> None:
        self.seen += reset.times
        if self._is_stale(reset.when):
            self.ignored["stale"] += reset.times
        elif reset.port is None:
            targets = self._udp.get(reset.address, [])
            self._hasten(targets) if targets else self._ignore("unknown", reset.times)
        else:
            target = self._targets.get((reset.protocol, reset.address, reset.port))
            if target is None:
                self._ignore("unknown", reset.times)
            elif self._is_echo(target, reset.client):
                self._ignore("own", reset.times)
            else:
                self._judge(target, reset)

    def _judge(self, target: Target, reset: ipmon.Reset) -> None:
        assert self.settings is not None
        up = [each for each in target.watched if each.eligible]
        if not up:
            self._ignore("down", reset.times)
            return
        self.hearing.heard((target.address, target.port))
        if reset.refused is None:
            self._warn("no seq", "ipmon runs without -v, so that refused connections cannot be told from those that "
                       "were reset: endpoints are probed at once, but not taken down")
        if self.settings.action == "any" or (self.settings.action == "refused" and reset.refused):
            self.used += 1
            self.ignored["down"] += reset.times - 1
            verdict = Verdict("RST", f"{_what(reset)}, seen by ipmon")
            for each in up:
                each.refuse(verdict)
        else:
            self._hasten([target])

    def _hasten(self, targets: Iterable[Target]) -> None:
        now = self.loop.now
        for target in targets:
            if now - target.hastened < HASTE:
                self._ignore("haste", 1)
                continue
            target.hastened = now
            self.used += 1
            for each in target.watched:
                each.hasten()

    def _ignore(self, why: str, times: int) -> None:
        self.ignored[why] += times

    def _is_stale(self, when: str) -> bool:
        """Whether it was in the buffer before our ipmon read it. The first that is not ends the question."""
        if not self._began or not when:
            return False
        if when >= self._began or self.loop.now - self._began_at > BUFFERED:
            self._began = ""
            return False
        return True

    def _is_echo(self, target: Target, client: str) -> bool:
        """Whether it answers a probe of ours: no evidence twice.

        Of a member on this very machine, as the sandbox has them, clients may have our address too: there only as many
        are ours as our probes were refused.
        """
        now = self.loop.now
        if now > target.own_until:
            target.own, target.own_until = own_address(target.address), now + OWN_FOR
        if client != target.own:
            return False
        if client != target.address and not ip_address(client).is_loopback:
            return True
        if target.owed and now < target.owed_until:
            target.owed -= 1
            return True
        return False

    def probe_refused(self, each: Watched, verdict: Verdict) -> None:
        """A probe of ours could not connect: the record of that will come too. And was it the first to notice?"""
        endpoint = each.endpoint
        target = self._targets.get((endpoint.protocol, endpoint.address, endpoint.member_port))
        if self.settings is None or target is None or verdict.text != "connection refused":
            return
        now = self.loop.now
        target.owed = (target.owed if now < target.owed_until else 0) + 1
        target.owed_until = now + (ECHO if self.modern and self.source == "ipmon" else LATE_ECHO)
        if each.eligible and self.source != "counters":
            self.hearing.doubt((target.address, target.port), endpoint.name)

    def _counted(self, hits: dict[str, int]) -> None:
        """A reading of the counters. They do not tell whom resets were for: those of our own probes are taken off."""
        for line, count in hits.items():
            new = count - self._hits.get(line, count)
            rule = logrules.parse(line)
            if new <= 0 or rule is None:
                continue
            self.seen += new
            targets = self._udp.get(rule.address, []) if rule.port is None else [
                target for target in (self._targets.get(("tcp", rule.address, rule.port)),) if target is not None]
            own = min(new, sum(target.owed for target in targets))
            for target in targets:
                target.owed = 0
            self._ignore("own", own)
            up = [target for target in targets if any(each.eligible for each in target.watched)]
            if new > own and up:
                self._hasten(up)
                self._ignore("haste", new - own - 1)
            elif new > own:
                self._ignore("down", new - own)
        self._hits.update(hits)

    def _warn(self, key: str, text: str) -> None:
        if key not in self._warned:
            self._warned.add(key)
            log.warning("%s", text)

    # -- what it says

    def summary(self) -> str:
        """One line on the whole, empty when sensing is off."""
        if self.settings is None:
            return ""
        have = sum(len(rules.have) for rules in self.rules.values())
        want = sum(len(rules.want) for rules in self.rules.values())
        trouble = self.problem or next((words for rules in self.rules.values()
                                        if (words := rules.problem or rules.complaint)), "")
        state = "lost" if self.problem else "deaf?" if self.hearing.deaf else "alive" if self.is_alive else "starting"
        ignored = ", ".join(f"{count} {WORDS[why]}" for why, count in sorted(self.ignored.items()) if count)
        return (f"resets: {self.source} {state}; {self.seen} seen, {self.used} used, "
                f"{sum(self.ignored.values())} ignored{' (' + ignored + ')' if ignored else ''}"
                f"{f', {self.missed} lost by ipmon' if self.missed else ''}; "
                f"{want} rules wanted, {have} in the kernel{'; ' + trouble if trouble else ''}")

    @property
    def is_alive(self) -> bool:
        """Whether resets would be seen, as far as we know."""
        if self.settings is None:
            return False
        if self.source == "counters":
            return all(rules.settled or not rules.problem for rules in self.rules.values())
        return self.alive


def own_address(address: str) -> str:
    """Our own address towards ``address``: where its answers to our probes go. Nothing is sent."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(ip_address(probe.getsockname()[0].partition("%")[0]))
    except OSError:
        return ""


def _what(reset: ipmon.Reset) -> str:
    if reset.protocol == "udp":
        return "port unreachable"
    return "connection refused" if reset.refused else "connection reset"


@lru_cache(maxsize=1024)
def _port(word: str, protocol: str) -> int | None:
    if word.isascii() and word.isdigit():
        return int(word)
    try:
        return socket.getservbyname(word, protocol)
    except OSError:
        return None
