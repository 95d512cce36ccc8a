"""The outcome of a probe: one of a closed set of codes, and words for people. Pure."""

from __future__ import annotations

from typing import NamedTuple

#: every code that a verdict can have, and what it says
CODES = {
    "L4OK": "connected, and nothing more was asked",
    "L4CON": "no connection: refused, reset, or no route to the member",
    "L4TOUT": "no connection within the timeout",
    "L6OK": "the TLS handshake succeeded, and nothing more was asked",
    "L6RSP": "the TLS handshake failed",
    "L6TOUT": "the TLS handshake did not finish within the timeout",
    "L7OK": "the answer is the expected one",
    "L7STS": "the answer is well formed and says that the service is not well",
    "L7RSP": "the answer is not understood, too long, or cut short",
    "L7TOUT": "no complete answer within the timeout",
    "PROCOK": "the command exited with status 0",
    "PROCERR": "the command exited with another status, or was killed by a signal",
    "PROCTOUT": "the command did not end within the timeout",
    "RST": "the member reset a connection of a client",
    "LOCAL": "the gateway could not run the probe: says nothing about the member",
}
PASSED = frozenset({"L4OK", "L6OK", "L7OK", "PROCOK"})


class Verdict(NamedTuple):
    """The outcome of a probe: one of :data:`CODES`, and words for people."""

    code: str
    text: str

    @property
    def passed(self) -> bool:
        return self.code in PASSED

    def __str__(self) -> str:
        return f"{self.code} {self.text}" if self.text else self.code


class Leave(Verdict):
    """The member lives, and says that it wants to be left: no new connections, but its sessions may finish."""

    __slots__ = ()


def local(text: str) -> Verdict:
    """Our own trouble; never moves health."""
    return Verdict("LOCAL", text)
