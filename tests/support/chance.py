"""Tests by chance: runs made from one number each, as many as fit into some seconds, and a way to repeat one.

A run that fails says its number; with L4IP_SEED=NUMBER that one is made again, and only that. L4IP_SECONDS=60 gives
every such test more time than it has by default, and with L4IP_RUNS=30 the same thirty are made each time. Sets have an
order of their own in each process: with PYTHONHASHSEED=0, too, all is the same.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator


def repeat(run: Callable[[int], object], seconds: float) -> int:
    """Call ``run(seed)`` again and again; returns how often."""
    if "L4IP_SEED" in os.environ:
        run(int(os.environ["L4IP_SEED"]))
        return 1
    count = 0
    for seed in range(int(os.environ["L4IP_RUNS"])) if "L4IP_RUNS" in os.environ else _new(seconds):
        try:
            run(seed)
        except BaseException as error:
            error.args = (f"L4IP_SEED={seed}: {error}",)
            raise
        count += 1
    return count


def _new(seconds: float) -> Iterator[int]:
    """Numbers that nobody has thought of, one at least, until the time is over."""
    chance = random.Random(os.urandom(8))
    end = time.monotonic() + float(os.environ.get("L4IP_SECONDS", seconds))
    yield chance.randrange(10**9)
    while time.monotonic() < end:
        yield chance.randrange(10**9)


def spoil(chance: random.Random, text: bytes) -> bytes:
    """The same with something wrong in it: any byte anywhere, pieces lost, doubled and moved, numbers out of bounds."""
    for _ in range(chance.choice((0, 1, 1, 1, 2, 5))):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 1, 2, 8, 40)))
        text = text[:start] + chance.choice((
            bytes([chance.randrange(256)]), b"", text[start:end] * 2, text[start:end] * 300, chance.choice(NUMBERS),
            bytes(chance.randrange(256) for _ in range(10)), text[:start][-20:])) + text[end:]
    return text


NUMBERS = [b"0", b"-1", b"65535", b"65536", b"4294967295", b"18446744073709551616", b"9" * 400, b"1e999", b"0x10",
           b"\xb2", "\u0663".encode()]
