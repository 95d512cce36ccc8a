"""What of a long table fits a terminal, the worst first. Pure, and quick to import."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

Row = Mapping[str, object]
#: states by how much somebody has to do about them; those that it does not know come between
WORST = ("down", "held", "unknown", "draining", "enabling", "disabled", "up")
AMISS = ("missing", "leaving")                      # rules
LEAST = 3                                           # rows, or clusters, that are shown on the smallest screen


class Shown(NamedTuple):
    """``rows`` for the table, and ``lines`` about the rest."""

    rows: Sequence[Row]
    lines: list[str]


def worst_first(rows: Sequence[Row]) -> list[Row]:
    """Those of a kind stay in their order, which is that of the configuration."""
    return sorted(rows, key=_badness)


def _badness(row: Row) -> tuple[int, int, bool]:
    state = str(row.get("state")).partition(" ")[0]
    place = WORST.index(state) if state in WORST else len(WORST) - 1
    return place, 0 if row.get("rule") in AMISS else 1, bool(row.get("up"))


def fit(rows: Sequence[Row], height: int) -> Shown:
    """All of them, if a screen of ``height`` lines has room; else what is not up, as far as it goes, and a line for
    each cluster. 0: there is no screen.
    """
    if not height or len(rows) <= height:
        return Shown(list(rows), [])
    ordered = worst_first(rows)
    bad = [row for row in ordered if not row.get("up")]
    clusters = _clusters(rows)
    room = max(2 * LEAST, height - 2)               # a line for what is left out of each
    shown = bad[:max(LEAST, room - min(len(clusters), max(LEAST, room // 2)))]
    more = len(bad) - len(shown)
    lines = [f"and {more} more that are not up: l4ipctl show --down | more"] if more else []
    told = clusters[:max(LEAST, room - len(shown))]
    return Shown(shown, [*lines, *told, *_rest(len(clusters) - len(told), len(rows))])


def _clusters(rows: Sequence[Row]) -> list[str]:
    """How many are up of each, those with the smallest part first."""
    total: dict[str, int] = {}
    up: dict[str, int] = {}
    for row in rows:
        name = str(row.get("endpoint")).partition("/")[0]
        total[name] = total.get(name, 0) + 1
        up[name] = up.get(name, 0) + bool(row.get("up"))
    ordered = sorted(total, key=lambda name: up[name] / total[name])
    return [f"{name}: {up[name]} of {total[name]} endpoints up" for name in ordered]


def _rest(clusters: int, rows: int) -> list[str]:
    more = f"and {clusters} clusters more; " if clusters else ""
    return [f"{more}all {rows} endpoints: l4ipctl show | more, or show with a pattern"]
