"""Listens to one source of resets, the one that the configuration names, and makes of its lines what happened.

``heard(reset, unverified)`` gets every record of our own log rules, and whether somebody else than ipmon may have
written it; ``stale(reset)`` those that were in the log before we came; ``unreadable()`` is told of records that make no
sense; ``tell(kind, text, level)`` hears when sensing is lost, and when it is back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from l4ipd.ipfilter import port_names
from l4ipd.model import Words
from l4ipd.resets import ipmon, sources
from l4ipd.runtime import ownership
from l4ipd.runtime.loop import Loop

BUFFERED = 5.0                                      # seconds after ipmon's start in which its lines may be old
log = logging.getLogger("l4ipd.resets")
Heard = Callable[[ipmon.Reset, bool], object]
Stale = Callable[[ipmon.Reset], object]
Tell = Callable[[str, str, int], object]


class Buffered:
    """The records that were in the kernel's buffer before an ipmon was started: ``began`` by its own clock, the wall's,
    and ``at`` by ours. Without, there are none.
    """

    def __init__(self, began: float = 0.0, at: float = 0.0) -> None:
        self._until = at + BUFFERED
        self._began = time.strftime("%Y%m%d%H%M%S", time.localtime(began)) + f"{began % 1:.6f}"[1:] if began else ""

    def holds(self, when: str, now: float) -> bool:
        """Whether a record of ``when`` is one of them. The first that is not ends the question."""
        if not self._began or not when:
            return False
        if when >= self._began or now > self._until:
            self._began = ""
            return False
        return True


class Listener:
    """Idle until :meth:`use`."""

    def __init__(self, loop: Loop, heard: Heard, stale: Stale, unreadable: Callable[[], object], tell: Tell) -> None:
        self.loop, self.heard, self.stale, self.unreadable, self.tell = loop, heard, stale, unreadable, tell
        self.source = "no"                          # ipmon | counters | a path | no
        self.tag = 0                                # of our log rules
        self.alive = False
        self.problem = ""                           # why it is not
        self.missed = 0                             # records, as ipmon says
        self.unverified = False                     # others may have written what we read
        self._source: sources.Ipmon | sources.LogFile | None = None
        self._started_as: tuple[str, Words, str] = ("no", (), "")
        self._said = False
        self._buffered = Buffered()

    def use(self, source: str, tag: int, program: Words, pidfile: str) -> None:
        """Listen there. Nothing is started anew that is listened to already."""
        self.tag = tag
        wanted = (source, program, pidfile)
        if wanted == self._started_as:
            return
        self.stop()
        self.source, self._started_as = source, wanted
        self.alive, self.problem, self._said, self._buffered = False, "", False, Buffered()
        self.unverified = False
        if source == "ipmon":
            self._source = sources.Ipmon(self.loop, program, pidfile, self.take, self._told, self._begin)
            self.look_around()
        elif source not in ("no", "counters"):
            self._source = sources.LogFile(self.loop, source, self.take, self._told, self._opened)
        if self._source is not None:
            self._source.start()

    def stop(self) -> None:
        if self._source is not None:
            self._source.stop()
            self._source = None

    def look_around(self) -> None:
        """Is there another reader of the log?"""
        if self.source == "ipmon":
            _, program, _ = self._started_as
            sources.others(self.loop, program[0] if program else "", self._others)

    def _others(self, pids: list[int]) -> None:
        if pids and self.source == "ipmon":
            log.warning("another ipmon runs (pid %s): a record goes to one reader only, so that resets will be missed: "
                        "stop it, or give the file that it writes as resets.source", ", ".join(map(str, pids)))

    def _told(self, problem: str) -> None:
        was, self.alive, self.problem = self.problem, not problem, problem
        if problem and problem != was:
            self.tell("sensing-lost", f"sensing of resets is lost: {problem}; trying again", logging.WARNING)
        elif was and not problem:
            self.tell("sensing-back", f"sensing of resets is back: {self.source} is read again", logging.INFO)
        elif not self._said:
            log.info("resets of clients' connections are sensed, by %s", self.source)
        self._said = True

    # -- lines

    def take(self, line: bytes) -> None:
        """A line of the source."""
        if self._shared(line) and not self.unverified:
            self.unverified = True
            log.warning("%s: anybody can have such lines written there by way of syslogd, so that they only hasten "
                        "probes: let ipmon write a file of its own, as ipmon -D -v FILE does", self.source)
        try:
            reset = ipmon.parse(line, port_names.port)
        except ValueError:
            self.unreadable()
            return
        if reset is not None and reset.tag == self.tag:
            if self._buffered.holds(reset.when, self.loop.now):
                self.stale(reset)
            else:
                self.heard(reset, self.unverified)
        elif line.startswith(b"missed "):
            self.missed += ipmon.missed(line)

    def _shared(self, line: bytes) -> bool:
        return self.source != "ipmon" and ipmon.by_syslogd(line)

    def _opened(self) -> None:
        """A log file is there, or another one in its place."""
        loose = ownership.loose(self.source)
        if loose and not self.unverified:
            self.unverified = True
            log.warning("%s: %s, so that what it says only hastens probes", self.source, loose)

    def _begin(self) -> None:
        self._buffered = Buffered(time.time(), self.loop.clock())
