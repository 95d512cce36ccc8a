"""The filter's rule lists, and what they do with a packet: count it, log it, or not see it because of ``keep state``.

Blocking is not done: the sandbox passes every connection. What is followed is who gets to see a packet (FACTS.md 2d):
counting comes before state, state before the rules, a log rule never decides, and nothing behind a matching ``quick``
rule is reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from l4ipd.sandbox.filter.rule import FilterRule, Packet


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


List = tuple[str, str, bool]            # direction, group, whether it is for counting


class FilterTable:
    """Two sets of rule lists, the active one and one to load and swap."""

    def __init__(self) -> None:
        self.active = 0
        self._lists: list[dict[List, list[Loaded]]] = [{}, {}]
        self._keys: list[dict[tuple[object, ...], Loaded]] = [{}, {}]
        self._keeping: list[int] = [0, 0]               # how many rules keep state

    def add(self, rule: FilterRule, which: int) -> bool:
        """False when the rule is there already. ``@N`` counts in the rule's own list."""
        key = rule.key()
        if key in self._keys[which]:
            return False
        loaded = Loaded(rule)
        self._keys[which][key] = loaded
        rules = self._lists[which].setdefault(_list(rule), [])
        rules.insert(len(rules) if rule.insert is None else rule.insert, loaded)
        self._keeping[which] += rule.keep_state
        return True

    def find(self, rule: FilterRule, which: int) -> Loaded | None:
        return self._keys[which].get(rule.key())

    def remove(self, rule: FilterRule, which: int) -> bool:
        loaded = self._keys[which].pop(rule.key(), None)
        if loaded is None:
            return False
        self._lists[which][_list(rule)].remove(loaded)
        self._keeping[which] -= rule.keep_state
        return True

    def flush(self, which: int, directions: tuple[str, ...]) -> int:
        before = len(self._keys[which])
        self._lists[which] = {name: rules for name, rules in self._lists[which].items() if name[0] not in directions}
        kept = [loaded for rules in self._lists[which].values() for loaded in rules]
        self._keys[which] = {loaded.rule.key(): loaded for loaded in kept}
        self._keeping[which] = sum(loaded.rule.keep_state for loaded in kept)
        return before - len(kept)

    def listed(self, which: int, direction: str, counting: bool) -> list[Loaded]:
        """One list as the kernel gives it to ipfstat, which shows one family of it: rules without a group first."""
        lists = self._lists[which]
        names = sorted(name for name in lists if (name[0], name[2]) == (direction, counting))
        return [loaded for name in names for loaded in lists[name]]

    # -- packets

    def state_rule(self, packet: Packet) -> Logged | None:
        """The rule that keeps state for a connection that begins with ``packet``, if one does."""
        if not self._keeping[self.active]:
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
        for loaded in self._lists[self.active].get((packet.direction, "", True), ()):
            if loaded.rule.matches(packet):
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
        return enumerate(self._lists[self.active].get((direction, group, False), ()), 1)


def _list(rule: FilterRule) -> List:
    return rule.direction, rule.group, rule.action == "count"
