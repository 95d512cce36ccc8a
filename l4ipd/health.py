"""Codes, verdicts, and how verdicts become up or down. Pure: no clock, no input, no output.

The health of an endpoint is one integer, HAProxy's counter::

      0 ......... rise-1 | rise ........... rise+fall-1
      down, climbing     | up, descending           top

A pass climbs one and, once up, goes to the top; a failure descends one and, once down, goes to the bottom. So it takes
``rise`` passes in a row to come up and ``fall`` failures in a row to go down.
"""

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


def local(text: str) -> Verdict:
    """Our own trouble; never moves health."""
    return Verdict("LOCAL", text)


def top(rise: int, fall: int) -> int:
    """The health of an endpoint that is up beyond doubt."""
    return rise + fall - 1


def step(health: int, rise: int, fall: int, passed: bool) -> int:
    """The health after one more verdict."""
    if passed:
        return health + 1 if health + 1 < rise else rise + fall - 1
    return health - 1 if health > rise else 0


def fresh(rise: int) -> int:
    """The health of an endpoint never seen before: down, and its first pass brings it up."""
    return rise - 1


def adopted(rise: int) -> int:
    """The health of an endpoint whose rule was found in the kernel: up, and its first failure takes it down."""
    return rise
