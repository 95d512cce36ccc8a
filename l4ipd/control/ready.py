"""`l4ipctl ready` on the client's side: others run it every second, and want an answer within one.

So it imports next to nothing, and gives up before the second is over. A plain question and a plain answer are written
and read by hand, without even json; whatever else comes is left to the whole client.
"""

from __future__ import annotations

import os
import sys
import time

from l4ipd.control.connection import DEFAULT_SOCKET, Unreachable, lines

LIMIT = 0.8                                         # seconds until there is an answer, or the reason why not
LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.:@+-")
UNREACHABLE = 3
END = b'{"end": true, "exit": '
TEXT = b'"text": "'


def ask(path: str, request: bytes) -> list[bytes]:
    """The lines of the answer, or :class:`Unreachable` before the second is over."""
    return list(lines(path, request, LIMIT, time.monotonic() + LIMIT))


def attempt(words: list[str]) -> int | None:
    """Do what a plain ``[-s SOCKET] ready [CLUSTER...]`` asks for; None: it is not that, or not so plain."""
    path = os.environ.get("L4IP_SOCKET") or DEFAULT_SOCKET
    if len(words) > 2 and words[0] == "-s" and words[1]:
        path, words = words[1], words[2:]
    names = words[1:]
    if words[:1] != ["ready"] or not all(map(_is_plain, names)):
        return None
    listed = '", "'.join(names)
    clusters = f', "clusters": ["{listed}"]' if names else ""
    try:
        answer = ask(path, f'{{"command": "ready"{clusters}}}'.encode())
    except Unreachable as problem:
        return _cannot(problem)
    return _tell(answer)


def _is_plain(name: str) -> bool:
    return bool(name) and name[0] != "-" and LETTERS.issuperset(name)


def _cannot(problem: Unreachable) -> int:
    if sys.stderr is not None:
        print(f"l4ipctl: {problem}", file=sys.stderr)
    return UNREACHABLE


def _tell(answer: list[bytes]) -> int | None:
    """Print an answer of the usual kind, and return its exit status."""
    *rows, end = answer or [b""]
    status = end[len(END):-1]
    if not end.startswith(END) or status not in (b"0", b"1") or not all(
            TEXT in row and b"\\" not in row for row in rows):
        return None
    if sys.stdout is not None:
        for row in rows:
            print(row.partition(TEXT)[2].partition(b'"')[0].decode("ascii"))
        sys.stdout.flush()
    return int(status)
