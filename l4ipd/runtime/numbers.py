"""Numbers that come from outside: plain digits, and never more than can be meant. Nobody can make one overflow later.

A count of 400 digits is no float, and Python refuses to read 5,000 digits at all, after taking its time. So what is
too long is no number here, and the caller says what becomes of what it stood in.
"""

from __future__ import annotations

COUNTER = 2**64 - 1                                 # of a kernel
SERIAL = 2**32 - 1                                  # of records, of packets in a stream; a tag of records
ID = 2**31 - 1                                      # of a process
PORT = 65535


def whole(text: str | bytes, most: int) -> int | None:
    """The number that ``text`` says; None if it is none, or above ``most``."""
    if not text.isdigit() or not text.isascii() or len(text) > len(str(most)):
        return None
    number = int(text)
    return number if number <= most else None
