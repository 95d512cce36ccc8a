"""The filter's rule lists, and what they do with a packet: count it, log it, or not see it because of ``keep state``.

Blocking is not done: the sandbox passes every connection. What is followed is who gets to see a packet (FACTS.md 2d):
counting comes before state, state before the rules, a log rule never decides, and nothing behind a matching ``quick``
rule is reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from l4ipd.sandbox.filterrule import FilterRule, Packet


@dataclass(slots=True, eq=False)
class Loaded:
    """A rule in a list."""

    rule: FilterRule
    hits: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Logged:
    """A packet that a rule logs: what ipmon needs to know besides the packet."""

    rule: FilterRule
    action: str                         # L, p or b
    group: str
    number: int
    kept_state: bool = False


class FilterTable:
    """Two sets of rules, the active one and one to load and swap."""

    def __init__(self) -> None:
        self.sets: list[list[Loaded]] = [[], []]
        self.active = 0
        self._keys: list[dict[tuple[object, ...], Loaded]] = [{}, {}]

    def add(self, rule: FilterRule, which: int) -> bool:
        """False when the rule is there already. ``@N`` counts in the rule's own list."""
        key = rule.key()
        if key in self._keys[which]:
            return False
        loaded = Loaded(rule)
        self._keys[which][key] = loaded
        rules = self.sets[which]
        at = len(rules)
        if rule.insert is not None:
            alike = [number for number, other in enumerate(rules) if _same_list(other.rule, rule)]
            at = alike[rule.insert] if rule.insert < len(alike) else at
        rules.insert(at, loaded)
        return True

    def remove(self, rule: FilterRule, which: int) -> bool:
        loaded = self._keys[which].pop(rule.key(), None)
        if loaded is None:
            return False
        self.sets[which].remove(loaded)
        return True

    def flush(self, which: int, directions: tuple[str, ...]) -> int:
        before = self.sets[which]
        self.sets[which] = kept = [loaded for loaded in before if loaded.rule.direction not in directions]
        self._keys[which] = {loaded.rule.key(): loaded for loaded in kept}
        return len(before) - len(kept)

    def listed(self, which: int, direction: str, counting: bool, inet6: bool) -> list[Loaded]:
        """One list as ipfstat shows it: rules without a group first."""
        found = [loaded for loaded in self.sets[which]
                 if loaded.rule.direction == direction and (loaded.rule.action == "count") == counting
                 and loaded.rule.family in (0, 6 if inet6 else 4)]
        return sorted(found, key=lambda loaded: loaded.rule.group)

    # -- packets

    def state_rule(self, packet: Packet) -> Logged | None:
        """The rule that keeps state for a connection that begins with ``packet``, if one does."""
        if not any(loaded.rule.keep_state for loaded in self.sets[self.active]):
            return None
        decided = None
        for number, loaded in self._numbered(packet.direction, ""):
            if loaded.rule.action != "log" and loaded.rule.matches(packet):
                decided = number, loaded.rule
                if loaded.rule.quick:
                    break
        if decided is None or not decided[1].keep_state:
            return None
        return Logged(decided[1], "p", decided[1].group or "0", decided[0], kept_state=True)

    def count(self, packet: Packet) -> None:
        for loaded in self.sets[self.active]:
            if loaded.rule.action == "count" and loaded.rule.matches(packet):
                loaded.hits += 1
                loaded.bytes += packet.size

    def pass_through(self, packet: Packet) -> list[Logged]:
        """Which rules log the packet, on its way through all of them."""
        logged: list[Logged] = []
        decided: Logged | None = None
        group = ""
        again = True
        while again:
            again = False
            for number, loaded in self._numbered(packet.direction, group):
                rule = loaded.rule
                if not rule.matches(packet):
                    continue
                loaded.hits += 1
                loaded.bytes += packet.size
                if rule.action == "log":
                    logged.append(Logged(rule, "L", *(("-1", -1) if decided is None else
                                                      (decided.group, decided.number))))
                    continue
                decided = Logged(rule, "b" if rule.action == "block" else "p", rule.group or "0", number)
                if rule.head:
                    group, again = rule.head, True
                if rule.quick or rule.head:
                    break
        if decided is not None and decided.rule.log:
            logged.append(decided)
        return logged

    def _numbered(self, direction: str, group: str) -> Iterator[tuple[int, Loaded]]:
        number = 0
        for loaded in self.sets[self.active]:
            rule = loaded.rule
            if rule.direction == direction and rule.group == group and rule.action != "count":
                number += 1
                yield number, loaded


def _same_list(one: FilterRule, other: FilterRule) -> bool:
    return (one.direction, one.group, one.action == "count") == (other.direction, other.group, other.action == "count")
