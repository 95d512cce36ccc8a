"""Which endpoints a pattern means: the same for l4ipctl, the control socket and the status page. Pure.

A pattern is fnmatch(3) on the whole name, ``cluster/service/member``; one without a slash also matches any one part of
it, one with a single slash also cluster and service. Of several, any.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Sequence

from l4ipd.config.similar import like

LONGEST = 500                                       # characters of a pattern
WILD = re.compile(r"[*?[]")
MOST_WILD = 20                                      # patterns in one go that need more than a look into a dictionary
TOLD, GUESSED = 20, 3                               # patterns without an endpoint that are named, and guessed at
CANDIDATES = 2000                                   # names that are searched for near matches
Matches = Callable[[str], bool]                     # of a name


class Unclear(ValueError):
    """A pattern cannot be meant as it stands, or means nothing; says why."""


def matcher(patterns: Iterable[str]) -> Matches:
    """Whether a name is meant by any of ``patterns``. Raises :class:`Unclear`."""
    each = [_one(pattern) for pattern in _few(patterns)]
    return each[0] if len(each) == 1 else lambda name: any(matches(name) for matches in each)


def choose(patterns: Iterable[str], names: Sequence[str]) -> list[str]:
    """The names that ``patterns`` mean, in their own order, each once.

    Raises :class:`Unclear`, also when one of them means nothing: a line each, with what may have been meant.
    """
    few = _few(patterns)
    chosen: set[str] = set()
    lost = []
    index = _index(names) if any(not WILD.search(pattern) for pattern in few) else {}
    for pattern in few:
        found = list(filter(_one(pattern), names)) if WILD.search(pattern) else index.get(pattern, [])
        chosen.update(found)
        if not found:
            lost.append(pattern)
    if lost:
        raise Unclear("\n".join(_lost(lost, names)))
    return [name for name in names if name in chosen]


def _few(patterns: Iterable[str]) -> list[str]:
    few = list(dict.fromkeys(patterns))
    if sum(WILD.search(pattern) is not None for pattern in few) > MOST_WILD:
        raise Unclear(f"more than {MOST_WILD} patterns with *, ? or [: use fewer, or names")
    return few


def _index(names: Iterable[str]) -> dict[str, list[str]]:
    """By each word without * that means them: the names."""
    index: dict[str, list[str]] = {}
    for name in names:
        for word in {name, name.rpartition("/")[0], *name.split("/")}:
            index.setdefault(word, []).append(name)
    return index


def _one(pattern: str) -> Matches:
    if not WILD.search(pattern):
        return _plain(pattern)
    if len(pattern) > LONGEST:
        raise Unclear(f"{pattern[:50]}...: is longer than {LONGEST} characters")
    if _is_open(pattern):
        raise Unclear(f"{pattern}: this bracket is never closed: a set of characters is written [abc]")
    found = re.compile(fnmatch.translate(pattern)).match
    slashes = pattern.count("/")
    if not slashes:
        return lambda name: found(name) is not None or any(map(found, name.split("/")))
    if slashes == 1:
        return lambda name: (found(name) or found(name.rpartition("/")[0])) is not None
    return lambda name: found(name) is not None


def _plain(word: str) -> Matches:
    slashes = word.count("/")
    if not slashes:
        return lambda name: word in name.split("/")
    if slashes == 1:
        return lambda name: name.startswith(word) and name.rpartition("/")[0] == word
    return lambda name: name == word


def _is_open(pattern: str) -> bool:
    """Whether a bracket begins a set that never ends: fnmatch takes it for itself then, and no name has one."""
    at = pattern.find("[")
    while at >= 0:
        begin = at + 2 if pattern[at + 1:at + 2] == "!" else at + 1
        end = pattern.find("]", begin + 1)          # one that comes first belongs to the set
        if end < 0:
            return True
        at = pattern.find("[", end)
    return False


def _lost(patterns: Sequence[str], names: Sequence[str]) -> list[str]:
    """A line for each pattern that means nothing; guesses take time, so there are a few of them only."""
    lines = [f"{shown(pattern)}: no such endpoint{_near(pattern, names) if number < GUESSED else ''}"
             for number, pattern in enumerate(patterns[:TOLD])]
    more = len(patterns) - len(lines)
    return [*lines, f"and {more} patterns more that no endpoint has"] if more else lines


def shown(pattern: str) -> str:
    return pattern[:100] or "''"


def _near(pattern: str, names: Sequence[str]) -> str:
    slashes = pattern.count("/")
    if slashes > 1:
        known: Iterable[str] = names
    elif slashes:
        known = (name.rpartition("/")[0] for name in names)
    else:
        known = (part for name in names for part in name.split("/"))
    near = like(WILD.sub("", pattern), list(dict.fromkeys(known))[:CANDIDATES], 3)
    if near:
        return f"; did you mean {' or '.join(near)}?"
    return "; see l4ipctl show" if names else "; the configuration has none"
