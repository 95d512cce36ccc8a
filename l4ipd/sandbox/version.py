"""The versions of IPFilter that the sandbox plays, and how they differ where l4ip meets them (FACTS.md 2f and 3)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Version:
    number: str
    shown: str                  # by ipf -V
    old: bool = False           # 4.1: another grammar and other words, no -p, failures do not show in the exit status
    freebsd: bool = False       # in FreeBSD's kernel: both families in one listing, protocols of sessions, -D forgets

    @property
    def colon(self) -> str:
        """Behind what failed, in a complaint: ``ioctl(delete rule): rule in use``."""
        return ":" if self.freebsd else ""


VERSIONS = {version.number: version for version in (
    Version("4.1", "v4.1.34 (512)", old=True),
    Version("5.1.2", "v5.1.2 (584)", freebsd=True),
    Version("6.0.0", "v6.0.0 (584)"))}
NEWEST = VERSIONS["6.0.0"]
VARIABLE = "L4IP_SANDBOX_VERSION"       # of the environment: one of these
