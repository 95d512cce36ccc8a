"""Rules of ours that no endpoint can want any more: how long they stay all the same.

After a start or a reload such a rule may be the only one that serves its clients, until endpoints have had their first
outcomes. Reloads may come before the last of these, again and again: so no rule waits longer than outcomes can take.
"""

from __future__ import annotations

from collections.abc import Container

from l4ipd.model import Config
from l4ipd.runtime.loop import Loop

SPARE = 5.0                                         # seconds: for the spread of first probes, and a busy gateway


class ObsoleteRules:
    """Remembers since when each rule has been one."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.patience = SPARE                       # seconds
        self._since: dict[str, float] = {}

    def expect(self, config: Config) -> None:
        """First outcomes take as long as all the checks of an endpoint, and commands may have to wait for a place."""
        slowest = max((sum(check.timeout for check in service.checks)
                       for cluster in config.clusters for service in cluster.services), default=0.0)
        self.patience = 2 * slowest + SPARE

    def may_go(self, line: str, undecided: bool) -> bool:
        """Whether a rule may be removed. ``undecided``: some endpoints have had no outcome yet."""
        return self.loop.now - self._since.setdefault(line, self.loop.now) > self.patience or not undecided

    def keep_only(self, lines: Container[str], owned: Container[str]) -> None:
        """Forget those that are gone from the kernel, or have an owner again."""
        self._since = {line: since for line, since in self._since.items() if line in lines and line not in owned}
