"""What agents say in the middle of a round, and what it means that one is silent: nothing, but it is told."""

from __future__ import annotations

import logging

from l4ipd.checks.protocols.agent import Weighed
from l4ipd.checks.verdict import Verdict, local

WORDS = ("L7OK", "L7STS")                           # codes of what an agent has said; any other is its silence
log = logging.getLogger("l4ipd.probe")


class Agent:
    """The agent of one endpoint, ``name`` at ``where``."""

    __slots__ = ("_name", "_last", "_silence")

    def __init__(self, name: str) -> None:
        self._name = name
        self._last: Verdict | None = None           # what it said last
        self._silence = ""                          # why nothing is heard from it

    def heard(self, verdict: Verdict) -> tuple[Verdict, int | None]:
        """What a probe of it comes to, and the share of the weight that it asks for, if it says so."""
        if verdict.code in WORDS:
            if self._silence:
                log.info("%s: its agent is heard again: %s", self._name, verdict)
                self._silence = ""
            self._last = verdict
            return verdict, verdict.share if isinstance(verdict, Weighed) else None
        if str(verdict) != self._silence:
            self._silence = str(verdict)
            before = f"what it said last stays: {self._last.text}" if self._last else "nothing was heard from it yet"
            log.warning("%s: its agent is silent: %s; %s", self._name, verdict, before)
        return self._last or local(f"the agent is silent: {verdict}"), None
