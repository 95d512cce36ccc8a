"""BER and DER as far as certificates and LDAP need them (X.690): tags of one byte, lengths that are said. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

LENGTH_MAX = 4                                      # bytes in which a length is said


class Element(NamedTuple):
    """One element; ``end`` is where the next one begins."""

    tag: int
    content: bytes
    end: int


def element(data: bytes, at: int = 0) -> Element | None:
    """The element that begins at ``at``, None if it is not complete. Raises ValueError for what can be none."""
    if at + 2 > len(data):
        return None
    start, length = at + 2, data[at + 1]
    if length & 0x80:
        size = length & 0x7F
        if not 1 <= size <= LENGTH_MAX:
            raise ValueError("not an element of BER with a length")
        length = int.from_bytes(data[start:start + size], "big")
        start += size
    end = start + length
    return None if end > len(data) else Element(data[at], data[start:end], end)


def elements(content: bytes) -> Iterator[Element]:
    """The elements that another one is made of. Raises ValueError if it is not made of such."""
    at = 0
    while at < len(content):
        found = element(content, at)
        if found is None:
            raise ValueError("an element is cut short")
        yield found
        at = found.end


def encoded(tag: int, *parts: bytes) -> bytes:
    """An element."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes((tag, size)) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(length))) + length + content
