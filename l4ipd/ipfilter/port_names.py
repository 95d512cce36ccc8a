"""Ports by name, as /etc/services has them: tools and logs write names where nobody told them to write numbers."""

from __future__ import annotations

import re
import socket
from functools import lru_cache

from l4ipd.ipfilter.rdr import number

NAME = re.compile(r"[\w+./-]*[A-Za-z][\w+./-]*", re.ASCII)
LONGEST = 64                                        # characters; 15 in RFC 6335


@lru_cache(maxsize=1024)
def port(word: str, protocol: str | None = None) -> int | None:
    """The port that ``word`` names, by its number or by the name of a service (of ``protocol``); None if it is none."""
    known = number(word)
    if known is not None or len(word) > LONGEST or NAME.fullmatch(word) is None:
        return known
    try:
        return socket.getservbyname(word) if protocol is None else socket.getservbyname(word, protocol)
    except OSError:
        return None
