"""The members that sources have, put beside those of the configuration: what the daemon works with."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from l4ipd.config.ports import places, returns
from l4ipd.discovery.file import FileWatcher
from l4ipd.discovery.source import Failed, Said, Wanted, Watcher
from l4ipd.model import Cluster, Config, Member, Source
from l4ipd.runtime.loop import Loop, Timer

AGAIN = 5.0                                         # seconds after an internal error
NAMED = 3                                           # sources in trouble that are named one by one
Known = Mapping[str, Sequence[Member]]              # by Wanted.key
log = logging.getLogger("l4ipd")


class Discovery:
    """Watches the sources of a configuration. ``changed()`` is called when :meth:`fill` would give another one.

    What a source said last stays, over restarts too (:meth:`remember`), while it cannot be read, does not answer, or
    has nobody. Each trouble is told once.
    """

    def __init__(self, loop: Loop, changed: Callable[[], object]) -> None:
        self.loop, self._changed = loop, changed
        self.known: dict[str, tuple[Member, ...]] = {}
        self._watchers: dict[Wanted, Watcher] = {}
        self._clusters: dict[Wanted, list[str]] = {}    # who has asked for it
        self._told: dict[Wanted, str] = {}          # what is wrong
        self._odd: set[str] = set()                 # members that were left out, as told
        self._soon = Timer(self._is_soon)
        self._listeners: list[Callable[[], object]] = []

    def remember(self, known: Known) -> None:
        """What an earlier run knew."""
        self.known = {key: tuple(members) for key, members in known.items()}

    def listen(self, listener: Callable[[], object]) -> None:
        """Call ``listener()`` when sources have other members than before."""
        self._listeners.append(listener)

    def take_over(self, config: Config) -> Config:
        """Watch the sources of this configuration, and no others. Gives it with the members that are known by now."""
        self._clusters = who_asks(config)
        for wanted in [wanted for wanted in self._watchers if wanted not in self._clusters]:
            self._watchers.pop(wanted).stop()
            self._told.pop(wanted, None)
        keys = {wanted.key for wanted in self._clusters}
        self.known = {key: members for key, members in self.known.items() if key in keys}
        for wanted in self._clusters:
            if wanted not in self._watchers:
                self._watchers[wanted] = watch(self.loop, wanted, partial(self._said, wanted),
                                               partial(self._failed, wanted))
                self._watchers[wanted].start()
        return self.fill(config)

    def fill(self, config: Config) -> Config:
        """The configuration with the members that are known."""
        full, odd = filled(config, self.known)
        for words in odd:
            if words not in self._odd:
                log.warning("%s", words)
        self._odd = set(odd)
        return full

    def stop(self) -> None:
        self.loop.clear(self._soon)
        while self._watchers:
            self._watchers.popitem()[1].stop()

    def _said(self, wanted: Wanted, members: tuple[Member, ...]) -> None:
        who = self._who(wanted)
        if self._told.pop(wanted, ""):
            log.info("%s: there again", who)
        before = self.known.get(wanted.key)
        if before == members:
            return
        self.known[wanted.key] = members
        names, old = {each.name for each in members}, {each.name for each in before or ()}
        log.info("%s: %d members%s", who, len(members), difference(names, old) if before is not None else "")
        self.loop.move(self._soon, self.loop.now)

    def _failed(self, wanted: Wanted, problem: str) -> None:
        if self._told.get(wanted) != problem:
            self._told[wanted] = problem
            log.warning("%s", self._words(wanted))

    def raised(self) -> None:
        """What sources have said could not be taken over, or not all of it: once more, a little later."""
        self.loop.move(self._soon, self.loop.now + AGAIN)

    def _is_soon(self) -> None:
        self._changed()
        for listener in self._listeners:
            listener()

    def troubles(self) -> list[str]:
        """Which sources say nothing at present, and why."""
        told = list(self._told)
        more = len(told) - NAMED
        return [*map(self._words, told[:NAMED]), *([f"sources of members in trouble: {more} more"] if more > 0 else [])]

    def _words(self, wanted: Wanted) -> str:
        count = len(self.known.get(wanted.key, ()))
        stay = f"its {count} members of before stay" if count else "it has never given any members"
        return f"{self._who(wanted)}: {self._told[wanted]}: {stay}"

    def _who(self, wanted: Wanted) -> str:
        return f"{', '.join(self._clusters.get(wanted, ()))}: members from {wanted.source.origin}"


def watch(loop: Loop, wanted: Wanted, said: Said, failed: Failed) -> Watcher:
    """A watcher for a source, not yet started."""
    if wanted.source.file:
        return FileWatcher(loop, wanted, said, failed)
    from l4ipd.discovery.dns import DnsWatcher  # takes some time and memory: only whoever asks the DNS pays
    return DnsWatcher(loop, wanted, said, failed)


def who_asks(config: Config) -> dict[Wanted, list[str]]:
    """The sources of a configuration, and the clusters that have each."""
    found: dict[Wanted, list[str]] = {}
    for cluster in config.clusters:
        for source in cluster.sources:
            found.setdefault(_wanted(source, cluster, config), []).append(cluster.name)
    return found


def filled(config: Config, known: Known) -> tuple[Config, list[str]]:
    """The configuration with the members that are ``known``, and which of them had to be left out, in words."""
    if not any(cluster.sources for cluster in config.clusters):
        return config, []
    odd: list[str] = []
    return replace(config, clusters=tuple(_filled(cluster, config, known, odd) if cluster.sources else cluster
                                          for cluster in config.clusters)), odd


def _filled(cluster: Cluster, config: Config, known: Known, odd: list[str]) -> Cluster:
    members = list(cluster.members)
    names = {member.name: member for member in members}
    taken = {place: member for member in members for place in places(member, cluster.services)}
    for source in cluster.sources:
        for member in known.get(_wanted(source, cluster, config).key, ()):
            here = places(member, cluster.services)
            twice = names.get(member.name) or next((taken[place] for place in here if place in taken), None)
            if twice is not None or any(returns(member, cluster.addresses, each, cluster.services)
                                        for each in cluster.services):
                odd.append(f"{cluster.name}: {member.name} {member.address} from {source.origin} is left out: " +
                           (f"{twice.name} {twice.address} is there already" if twice is not None else
                            "its rule would lead to itself"))
                continue
            names[member.name] = member
            taken |= dict.fromkeys(here, member)
            members.append(replace(member, origin=source.origin))
    return replace(cluster, members=tuple(members))


def _wanted(source: Source, cluster: Cluster, config: Config) -> Wanted:
    return Wanted(source, ":" in cluster.addresses[0], config.ipfilter.tag is not None)


def difference(names: set[str], before: set[str]) -> str:
    """What is new, and what is gone, a few of each by name."""
    found = [f"{words} {', '.join(sorted(some)[:5])}{f' and {len(some) - 5} more' if len(some) > 5 else ''}"
             for words, some in (("new:", names - before), ("gone:", before - names)) if some]
    return f" ({'; '.join(found)})" if found else " (changed)"
