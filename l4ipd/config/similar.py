"""What may have been meant by a word that is not known: the known ones that are most like it, the best first. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from heapq import nsmallest

LONGEST = 100                                       # characters that are looked at
RANKED = 20                                         # candidates that are looked at twice


def like(text: str, known: Iterable[str], most: int, least: float = 0.6) -> list[str]:
    """What of ``known`` may be meant by ``text``, at most so many; ``least`` (0 to 1): how alike they must be.

    The fewer slips of the finger lie between, the better; where that is the same, whoever shares more with ``text``,
    then whoever is known first.
    """
    import difflib  # 0.2 MB: not before somebody has mistyped something

    text = text[:LONGEST].lower()
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(text)
    alike = []
    for place, word in enumerate(known):
        matcher.set_seq1(word[:LONGEST].lower())
        if matcher.real_quick_ratio() >= least and matcher.quick_ratio() >= least and matcher.ratio() >= least:
            alike.append((-matcher.ratio(), place, word))
    best = nsmallest(RANKED, alike)
    best.sort(key=lambda found: slips(text, found[2][:LONGEST].lower()))      # what is equal keeps its order
    return [word for _, _, word in best[:most]]


def slips(one: str, other: str) -> int:
    """How many characters have to be put in, left out, replaced or swapped with the next to make one of the other."""
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, char in enumerate(one, 1):
        line = [row]
        for column, against in enumerate(other, 1):
            cost = min(last[column] + 1, line[column - 1] + 1, last[column - 1] + (char != against))
            if row > 1 and column > 1 and char == other[column - 2] and one[row - 2] == against:
                cost = min(cost, before[column - 2] + 1)
            line.append(cost)
        before, last = last, line
    return last[-1]
