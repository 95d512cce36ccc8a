"""Whether the sessions of an endpoint end with its rules: the one place that decides it. Pure.

``purge: dead``, the default: they end where nobody answers, so that a client's SYN retry reaches a living member, and
may finish where somebody does, so that a download from a member that only says 503 comes to its end. What is decided
is what is true when the rules go, and for good: IPFilter ends sessions only together with their rules (FACTS.md 3-4).
"""

from __future__ import annotations

from typing import Protocol

from l4ipd.checks.recipe import OPEN
from l4ipd.checks.verdict import CODES, Verdict
from l4ipd.model import Endpoint

SILENT = frozenset(code for code in CODES if code in ("L4CON", "RST") or code.endswith("TOUT"))


class Judged(Protocol):
    """What is asked of a monitor."""

    endpoint: Endpoint
    verdict: Verdict | None
    unconfirmed: bool

    @property
    def found(self) -> str: ...
    @property
    def withheld(self) -> bool: ...
    @property
    def unproved(self) -> bool: ...


def cuts(monitor: Judged) -> bool:
    """Whether its sessions are to end when its rules go now. Who is taken out by the operator is not dead."""
    if monitor.withheld or monitor.unconfirmed or monitor.unproved:
        return False
    if monitor.verdict is None or monitor.found != "down":
        return False
    purge = monitor.endpoint.purge
    return purge == "yes" or purge == "dead" and is_silent(monitor.verdict)


def is_silent(verdict: Verdict) -> bool:
    """Whether nobody has answered. An open port that should be closed is an answer, whatever its code."""
    return verdict.code in SILENT and not verdict.text.endswith(OPEN.text)
