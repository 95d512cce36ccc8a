"""Fnmatch over bytes, searched in what a member has sent so far.

``*`` is any bytes (newlines and NUL too), ``?`` one byte, ``[a-z]`` ``[!a-z]`` ``[[:digit:]]`` one byte of a set, and a
backslash takes the next byte literally. Where it may begin:

- a pattern that ends in ``*`` and does not begin with one is *anchored*: ``220 *`` must match from the start;
- any other is looked for anywhere: ``+PONG``, ``*PONG``, ``*PONG*`` and ``a*b`` mean what they seem to.

A stream has no end before it is closed, so nothing is ever anchored there: a pattern is found as soon as the shortest
prefix of the data that holds it has arrived. The pieces between the stars are searched one after the other, leftmost
first, so the time is linear in the data, whatever the data is.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from functools import lru_cache

CLASSES = {
    b"alnum": string.ascii_letters + string.digits, b"alpha": string.ascii_letters, b"blank": " \t",
    b"cntrl": "".join(map(chr, range(32))) + "\x7f", b"digit": string.digits,
    b"graph": "".join(map(chr, range(33, 127))), b"lower": string.ascii_lowercase,
    b"print": "".join(map(chr, range(32, 127))), b"punct": string.punctuation, b"space": " \t\n\v\f\r",
    b"upper": string.ascii_uppercase, b"xdigit": string.hexdigits,
}
STAR = None                                         # among the atoms of a pattern
ANY = frozenset(range(256))


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. Two patterns of the same text are equal."""

    text: bytes
    anchored: bool = field(init=False, compare=False)
    pieces: tuple[re.Pattern[bytes], ...] = field(init=False, compare=False, repr=False)
    first: int = field(init=False, compare=False, repr=False)      # bytes that the first piece takes

    def __post_init__(self) -> None:
        atoms = _atoms(self.text)
        pieces = _pieces(atoms)
        object.__setattr__(self, "pieces", tuple(_compiled(piece) for piece in pieces))
        object.__setattr__(self, "anchored", bool(pieces) and atoms[0] is not STAR and atoms[-1] is STAR)
        object.__setattr__(self, "first", len(pieces[0]) if pieces else 0)

    def search(self, data: bytes, start: int = 0) -> int:
        """Where the shortest stretch from ``start`` that holds a match ends; -1 without a match."""
        end = start
        for number, piece in enumerate(self.pieces):
            search = piece.match if self.anchored and not number else piece.search
            found = search(data, end)
            if found is None:
                return -1
            end = found.end()
        return end

    def hopeless(self, data: bytes, start: int = 0) -> bool:
        """Whether no further byte can make this pattern match."""
        return self.anchored and len(data) - start >= self.first and self.pieces[0].match(data, start) is None


@lru_cache(maxsize=1024)
def pattern(text: bytes) -> Pattern:
    """The pattern ``text``; the same object for the same text."""
    return Pattern(text)


def _atoms(text: bytes) -> list[frozenset[int] | None]:
    """What each position of a pattern takes: a set of bytes, or STAR."""
    atoms: list[frozenset[int] | None] = []
    at = 0
    while at < len(text):
        byte = text[at]
        at += 1
        if byte == 0x2A:                            # *
            atoms.append(STAR)
        elif byte == 0x3F:                          # ?
            atoms.append(ANY)
        elif byte == 0x5B and (bracket := _bracket(text, at)):
            atoms.append(bracket[0])
            at = bracket[1]
        elif byte == 0x5C and at < len(text):       # a backslash
            atoms.append(frozenset((text[at],)))
            at += 1
        else:
            atoms.append(frozenset((byte,)))
    return atoms


def _bracket(text: bytes, at: int) -> tuple[frozenset[int], int] | None:
    """The set that a bracket expression stands for and where it ends; None when it is never closed."""
    members: set[int] = set()
    negated = text[at:at + 1] in (b"!", b"^")
    begin = at = at + negated
    while at < len(text):
        if text[at] == 0x5D and at > begin:         # ], which is a literal when it comes first
            return (ANY - members if negated else frozenset(members)), at + 1
        named = re.compile(rb"\[:([a-z]+):\]").match(text, at)
        if named and named[1] in CLASSES:
            members.update(CLASSES[named[1]].encode())
            at = named.end()
            continue
        low, at = _literal(text, at)
        high = low
        if text[at:at + 1] == b"-" and text[at + 1:at + 2] not in (b"]", b""):
            high, at = _literal(text, at + 1)
        members.update(range(low, high + 1))
    return None


def _literal(text: bytes, at: int) -> tuple[int, int]:
    if text[at] == 0x5C and at + 1 < len(text):
        at += 1
    return text[at], at + 1


def _pieces(atoms: list[frozenset[int] | None]) -> list[list[frozenset[int]]]:
    pieces: list[list[frozenset[int]]] = [[]]
    for atom in atoms:
        if atom is STAR:
            pieces.append([])
        else:
            pieces[-1].append(atom)
    return [piece for piece in pieces if piece]


def _compiled(piece: list[frozenset[int]]) -> re.Pattern[bytes]:
    return re.compile(b"".join(map(_source, piece)), re.DOTALL)


def _source(members: frozenset[int]) -> bytes:
    if members == ANY:
        return b"."
    if len(members) == 1:
        return re.escape(bytes(members))
    return b"[" + b"".join(b"\\x%02x" % member for member in sorted(members)) + b"]" if members else b"(?!)"
