"""What the sandbox process holds: the NAT table, the filter rules, the log, and whether all that is switched on."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator

from l4ipd.sandbox.engine import NatTable, Session

REFUSED, RESET, UNREACHABLE = "refused", "reset", "unreachable"
STDIN, STDOUT, STDERR = 0, 1, 2
Output = tuple[int, str]                # (STDOUT or STDERR, text); (STDIN, "") asks for the whole of standard input
Run = Generator[Output, bytes | None, int]      # a running command; returns its exit status


class Kernel:
    """``old``: play version 4.1. ``changed`` is called when rules have come or gone, before the tool is answered."""

    def __init__(self, old: bool = False, clock: Callable[[], float] = time.monotonic,
                 changed: Callable[[], object] = lambda: None) -> None:
        self.old = old
        self.enabled = True
        self.nat = NatTable(clock)
        self.changed = changed

    @property
    def version(self) -> str:
        return "v4.1.34 (512)" if self.old else "v6.0.0 (584)"

    def opened(self, session: Session) -> None:
        """A client's first packet has gone to a member."""

    def from_member(self, session: Session, kind: str) -> None:
        """A member has sent a RST (REFUSED: to the SYN; RESET: later), or an ICMP port UNREACHABLE."""


def read_file(name: str, directory: str) -> Generator[Output, bytes | None, str | OSError]:
    """The text of a rule file; ``-`` is standard input. Bytes are kept one to one."""
    if name == "-":
        data = yield STDIN, ""
        return (data or b"").decode("latin-1")
    try:
        with open(name if name.startswith("/") else f"{directory}/{name}", "rb") as file:
            return file.read().decode("latin-1")
    except OSError as error:
        return error
