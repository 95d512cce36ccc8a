"""The name of a user, from the machine's own file: a directory that is asked over the network may let us wait."""

from __future__ import annotations

import contextlib

PASSWD = "/etc/passwd"


def user_name(uid: int, path: str = PASSWD) -> str:
    """That of the first entry with this number, as getpwuid(3) has it; ``uid N`` where the file has none."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            name, *rest = line.split(":")
            if len(rest) >= 2 and rest[1] == str(uid) and name[:1] not in ("#", "+", "-", ""):
                return name
    return f"uid {uid}"
