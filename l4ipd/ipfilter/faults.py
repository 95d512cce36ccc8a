"""What goes wrong with the tools of one table, and what the log is told of it: each thing once, until all is well."""

from __future__ import annotations

import logging

log = logging.getLogger("l4ipd.rules")


class Faults:
    """``name`` is that of the table, for people."""

    def __init__(self) -> None:
        self.runs = 0                               # that failed
        self.problem = ""                           # why the table cannot be read at present
        self.complaint = ""                         # what the last failed change said, until all is as wanted
        self._said: set[str] = set()                # what was logged of changes since all was as wanted

    def unread(self, name: str, words: str) -> None:
        """A listing has failed."""
        self.runs += 1
        if words != self.problem:
            log.error("%s: %s; trying again", name, words)
            self.problem = words

    def read(self, name: str) -> None:
        if self.problem:
            log.info("%s works again", name)
            self.problem = ""

    def unchanged(self, name: str, words: str) -> None:
        """Changes do not come about."""
        if words not in self._said:
            log.error("%s: %s; trying again", name, words)
            self._said.add(words)
        self.complaint = words

    def over(self) -> None:
        """All is as wanted."""
        self.complaint = ""
        self._said.clear()
