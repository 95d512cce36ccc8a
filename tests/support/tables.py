"""A table whose rules are words: ``a#2`` is a copy of ``a``, and ``-a`` is somebody else's."""

from __future__ import annotations

from l4ipd.ipfilter.listing import Iterator, Listing, Table
from l4ipd.runtime.child import Exit
from l4ipd.runtime.internal_errors import InternalErrors

END = "the end"


def read(line: str) -> str | None:
    if line == "raise":
        raise ValueError(line)
    return line.partition("#")[0] if line and line[0] not in "-#" else None


def table(end: str | None = END, iterator: Iterator | None = None) -> Table:
    return Table("tool", "section.tool", ("tool", "-l"), ("tool", "-f"), ("tool", "-r"), ("tool", "-r", "-p"), read,
                 str, end=end, iterator=iterator or Iterator())


def listing(*lines: str, of: Table | None = None, before: dict[str, str] | None = None) -> Listing:
    """One that has come to its end."""
    it = Listing(of or table(), before or {}, InternalErrors())
    it.feed("".join(f"{line}\n" for line in (*lines, END)).encode())
    assert it.ended(Exit(0), 0.0)
    return it
