"""Text for people: tables that fit a terminal, and nothing unprintable in them. Pure, and quick to import."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

Columns = Sequence[tuple[str, str]]                 # heading, key of the row
#: of ``l4ipctl show``, and of --wide
COLUMNS: Columns = (("ENDPOINT", "endpoint"), ("ADDRESS", "address"), ("STATE", "state"), ("RULE", "rule"),
                    ("SESS", "sessions"), ("SINCE", "seconds"), ("LAST VERDICT", "verdict"))
WIDE: Columns = (("ENDPOINT", "endpoint"), ("VIP", "vips"), ("ADDRESS", "address"), ("STATE", "state"),
                 ("RULE", "rule"), ("SESS", "sessions"), ("CONNS", "connections"), ("SINCE", "seconds"),
                 ("LATENCY", "milliseconds"), ("LAST VERDICT", "verdict"))
#: what goes first when the terminal is too narrow, and how many characters of the verdict are worth it
DISPENSABLE = (("vips", 30), ("address", 30), ("connections", 30), ("milliseconds", 30), ("sessions", 30),
               ("seconds", 12))
CODE = len("PROCTOUT…")                             # as much of a verdict as there has to be room for
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
    if key == "milliseconds":
        return f"{value} ms"
    if isinstance(value, (list, tuple)):
        return printable(" ".join(map(str, value)))
    return printable(str(value))


def table(rows: Sequence[Row], width: int = 0, paint: Paint | None = None, columns: Columns = COLUMNS) -> list[str]:
    """The rows under their headings, in columns; nothing is wider than ``width``, if that is given.

    Name and state are there at any width: where they do not fit into a line, the state has the next one.
    """
    cells = [{key: heading for heading, key in columns},
             *({key: cell(key, _with_origin(row) if key == "verdict" else row.get(key)) for _, key in columns}
               for row in rows)]
    sizes = {key: max(len(line[key]) for line in cells) for _, key in columns}
    if width:
        _fit(sizes, width)
    lines = []
    for number, line in enumerate(cells):
        painter = paint if number else None
        if width and _wide(sizes) > width:
            lines += _narrow(line, sizes, width, painter)
        else:
            lines.append(_line(line, sizes, painter))
    return lines


def _with_origin(row: Row) -> object:
    """The verdict and, of a member that does not stand in the configuration, where it comes from."""
    return f"{row.get('verdict')}; from {row['origin']}" if row.get("origin") else row.get("verdict")


def _fit(sizes: dict[str, int], width: int) -> None:
    """Drop columns, until at last there are names and states; the verdict is cut to what remains."""
    for key, worth in DISPENSABLE:
        if key in sizes and _left(sizes, width) < min(sizes["verdict"], worth):
            del sizes[key]
    if _left(sizes, width) < CODE:
        del sizes["verdict"]
    else:
        sizes["verdict"] = min(sizes["verdict"], _left(sizes, width))
    if _wide(sizes) > width and "verdict" not in sizes:
        del sizes["rule"]


def _wide(sizes: Mapping[str, int]) -> int:
    return sum(sizes.values()) + 2 * (len(sizes) - 1)


def _left(sizes: Mapping[str, int], width: int) -> int:
    """The room that the others leave to the verdict."""
    return width - _wide({**sizes, "verdict": 0})


def _line(cells: Mapping[str, str], sizes: Mapping[str, int], paint: Paint | None) -> str:
    shown = []
    for key, size in sizes.items():
        text = shorten(cells[key], size)
        padded = text if key == "verdict" else text.ljust(size)
        shown.append(paint(key, cells[key], padded) if paint else padded)
    return "  ".join(shown).rstrip()


def _narrow(cells: Mapping[str, str], sizes: Mapping[str, int], width: int, paint: Paint | None) -> list[str]:
    """Name and state, in one line if at all possible."""
    name, state = cells["endpoint"], cells["state"]
    for size in (sizes["endpoint"], len(name)):
        fitting = {"endpoint": size, "state": len(state)}
        if _wide(fitting) <= width:
            return [_line(cells, fitting, paint)]
    lines = [("endpoint", line) for line in wrap(name, width, "/")]
    lines += [("state", line) for line in wrap(f"  {state}", width)]
    return [paint(key, cells[key], shorten(line, width)) if paint else shorten(line, width) for key, line in lines]


def wrap(text: str, width: int, after: str = " ") -> list[str]:
    """Lines of at most ``width``, or a single word that is longer, broken after blanks only, or what else; 0: no limit.

    Those that follow the first are indented.
    """
    if not width or len(text) <= width:
        return [text]
    lines = [""]
    for word in re.findall(rf" *[^{after}]+{after}*", text):
        if lines[-1].strip() and len((lines[-1] + word).rstrip()) > width:
            lines.append("  " + word.lstrip())
        else:
            lines[-1] += word
    return [line.rstrip() for line in lines]


def shorten(text: str, size: int) -> str:
    """At most ``size`` characters, whole words if there are any, with an ellipsis where something is missing."""
    if len(text) <= size:
        return text
    cut = text[:max(0, size - 1)]
    if " " in cut.strip() and text[len(cut)] != " ":
        cut = cut[:cut.rindex(" ")]
    return cut.rstrip() + "…"[:size]
