"""Which rules are loaded or removed next.

Clients of a dead member hurt most, so its rules go first, unless they are the last of their service and others are
about to come: add before remove.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from l4ipd.ipfilter.belief import Belief
from l4ipd.ipfilter.held_lines import HeldLines
from l4ipd.ipfilter.rdr import side


def next_batch(want: Mapping[str, object], belief: Belief, held: HeldLines, now: float,
               removal: Callable[[str], str | None]) -> tuple[str, list[str]]:
    """The most urgent batch: (add | drain | purge | copy, lines); no lines: there is nothing to do at present.

    ``removal(line)`` says how a rule that is not wanted is to go: "purge", "drain", or None for not yet.
    """
    missing = [line for line in want if line not in belief.have and not held.waits(line, now)]
    going: dict[str, list[str]] = {"purge": [], "drain": []}
    for line in belief.have:
        if line not in want and not held.waits(line, now):
            way = removal(line)
            if way is not None:
                going[way].append(line)
    waiting = {side(line) for line in missing} if going["purge"] else set()
    for command, lines in (("purge", [line for line in going["purge"] if side(line) not in waiting]),
                           ("add", missing), ("drain", going["drain"]),
                           ("copy", [line for line in belief.copies if not held.waits(line, now)])):
        if lines:
            return command, held.choose(lines, now)
    return "", []
