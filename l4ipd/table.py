"""Text for people: tables that fit a terminal, and nothing unprintable in them. Pure, and quick to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

#: the columns of ``l4ipctl show``: heading, key of the row
COLUMNS = (("ENDPOINT", "endpoint"), ("ADDRESS", "address"), ("STATE", "state"), ("RULE", "rule"),
           ("CONNS", "connections"), ("SINCE", "seconds"), ("LAST VERDICT", "verdict"))
#: what goes first when the terminal is too narrow, and how many characters of the verdict are worth it
DISPENSABLE = (("address", 30), ("connections", 30), ("seconds", 12))
Row = Mapping[str, object]
Paint = Callable[[str, str, str], str]              # key, value, the cell as it is to be printed -> the cell, coloured


def printable(text: str) -> str:
    """On one line, and harmless on a terminal: what members and tools said may hold anything."""
    return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


def ago(seconds: float) -> str:
    """4s, 12m, 3h, 5d: short, for a column."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f}{unit}"
    return f"{max(0.0, seconds):.0f}s"


def cell(key: str, value: object) -> str:
    """A value as it stands in its column; what is not known is a dash."""
    if value is None:
        return "-"
    if key == "seconds" and isinstance(value, (int, float)):
        return ago(value)
    return printable(str(value))


def table(rows: Sequence[Row], width: int = 0, paint: Paint | None = None) -> list[str]:
    """The rows under their headings, in columns; nothing is wider than ``width``, if that is given."""
    cells = [{key: heading for heading, key in COLUMNS},
             *({key: cell(key, row.get(key)) for _, key in COLUMNS} for row in rows)]
    sizes = {key: max(len(line[key]) for line in cells) for _, key in COLUMNS}
    if width:
        _fit(sizes, width)
    return [_line(line, sizes, paint if number else None) for number, line in enumerate(cells)]


def _fit(sizes: dict[str, int], width: int) -> None:
    """Drop columns or make them narrower; the verdict comes last, and is cut to what remains."""
    *others, last = sizes
    for dispensable, worth in DISPENSABLE:
        if width - sum(sizes[key] + 2 for key in others) < min(sizes[last], worth):
            del sizes[dispensable]
            others.remove(dispensable)
    sizes[last] = max(0, min(sizes[last], width - sum(sizes[key] + 2 for key in others)))
    for key in reversed(others):                    # narrower still: whatever is on the left matters most
        excess = sum(sizes.values()) + 2 * (len(sizes) - 1) - width
        sizes[key] = max(0, sizes[key] - max(0, excess))


def _line(cells: Mapping[str, str], sizes: Mapping[str, int], paint: Paint | None) -> str:
    shown = []
    for key, size in sizes.items():
        text = shorten(cells[key], size)
        padded = text if key == "verdict" else text.ljust(size)
        shown.append(paint(key, cells[key], padded) if paint else padded)
    return "  ".join(shown).rstrip()


def shorten(text: str, size: int) -> str:
    """At most ``size`` characters, with an ellipsis where something is missing."""
    return text if len(text) <= size else text[:max(0, size - 1)] + "…"[:size]
