"""What ``ipnat -s`` tells of the kernel's NAT table as a whole: how many sessions it has, and what it could not take.

A count and its name a line, divided by a tab (FACTS.md 3-5, samples/ipnat-input-misc.txt). IPFilter 4.1 has other
words, several on a line; of those only the number of sessions is read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LINE = re.compile(r"^(\d{1,18})\t([a-z][\w ]*?)\s*$", re.MULTILINE | re.IGNORECASE)
IN_USE = re.compile(r"^inuse\t(\d{1,18})\b", re.MULTILINE)         # 4.1
DROPS, FULL = ("drop in", "drop out"), ("table max reached in", "table max reached out")


@dataclass(frozen=True, slots=True)
class Statistics:
    """None is what was not told."""

    active: int | None = None                       # sessions, of all rules, whoever's they are
    drops: int | None = None                        # packets that got none, for whatever reason
    full: int | None = None                         # attempts that found no place in the table


def parse(text: str) -> Statistics:
    """What the output of ``ipnat -s`` says."""
    counts = {name: int(count) for count, name in LINE.findall(text)}
    old = IN_USE.search(text)
    active = counts.get("active", int(old[1]) if old else None)
    return Statistics(active, _sum(counts, DROPS), _sum(counts, FULL))


def _sum(counts: dict[str, int], names: tuple[str, ...]) -> int | None:
    known = [counts[name] for name in names if name in counts]
    return sum(known) if known else None
