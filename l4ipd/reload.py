"""Reload: the file is read and checked aside, and committed only if flawless."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from l4ipd.checks import probe
from l4ipd.config.exposure import exposures
from l4ipd.config.files import Refused, load, missing_tools
from l4ipd.config.own_certificates import expiring
from l4ipd.config.warnings import warnings
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.model import Config
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Timer

PATIENCE, STUCK = 30.0, 4                           # seconds for one reading, and readings that may never end
Done = Callable[[bool, list[str]], object]          # whether it was reloaded, and what changed or what is wrong
log = logging.getLogger("l4ipd")


class Loaded(NamedTuple):
    """A configuration that is good, and what files that it names are to be warned of."""

    config: Config
    exposed: list[str]


class Descriptors(Protocol):
    """The descriptors that were shared out at the start (:mod:`l4ipd.descriptors`)."""

    def probes(self, config: Config) -> int: ...
    def refuses(self, config: Config) -> str: ...


class Reloader:
    """SIGHUP and `l4ipctl reload`. The file is read by a thread, so that the loop goes on meanwhile.

    A bad configuration changes nothing. Requests that come while a file is being read are served together by one more
    reading, since the file may have changed. A reading that does not end, since a file lies on a server that does not
    answer, is given up: its thread may wait, and what it finds in the end does not count.

    ``adapt`` puts the sandbox's tools in, where that is used. The configuration must get along with the ``descriptors``
    that there are, too. What was ``told`` of, a warning, is not told of again.
    """

    def __init__(self, daemon: Daemon, path: str, adapt: Callable[[Config], Config] = lambda config: config,
                 descriptors: Descriptors | None = None, told: Iterable[str] = ()) -> None:
        self.daemon, self.path, self.adapt, self.descriptors = daemon, path, adapt, descriptors
        self._told = set(told)
        self._began: Config | None = None           # the configuration of the start
        self._reading = self._readings = 0          # the number of the reading under way, 0: none; and of the last one
        self._stuck = 0                             # threads whose reading was given up
        self._patience = Timer(self._give_up)
        self._asked: list[Done] = []
        self._served: list[Done] = []

    def __call__(self, done: Done = lambda good, lines: None) -> None:
        self._asked.append(done)
        if not self._served:
            self._read()

    def _read(self) -> None:
        self._served, self._asked = self._asked, []
        if self._stuck >= STUCK:
            self._take([f"{self.path}: {self._stuck} readings of it have not ended yet: see why the files that it "
                        "names cannot be read"])
            return
        self._readings += 1
        self._reading = number = self._readings
        loop = self.daemon.loop
        try:
            loop.aside(self._load, lambda result: self._arrived(number, result))
            loop.set(self._patience, loop.now + PATIENCE)
        except Exception:                           # no thread to be had, say
            self.daemon.loop.errors.note("a reload of the configuration")
            self._take([f"{self.path}: cannot be read: {INTERNAL}"])

    def _arrived(self, number: int, result: Loaded | list[str]) -> None:
        if number != self._reading:
            self._stuck -= 1                        # given up, long ago
            return
        self.daemon.loop.clear(self._patience)
        self._take(result)

    def _give_up(self) -> None:
        self._stuck += 1
        self._take([f"{self.path}: was not read within {PATIENCE:.0f} s: does a file that it names lie on a server "
                    "that does not answer?"])

    def raised(self) -> None:
        """To give a reading up has raised: who waits for it is served by another."""
        if not self._reading:
            self._asked, self._served = self._served + self._asked, []
            self._read()

    def _load(self) -> Loaded | list[str]:
        """In the thread: the configuration, or what is wrong."""
        try:
            config = self.adapt(load(self.path, again=True))
            exposed = [*exposures(config, self.path), *expiring(config)]
            reason = self.descriptors.refuses(config) if self.descriptors is not None else ""
        except Refused as refusal:
            return str(refusal).splitlines()
        except Exception:
            self.daemon.loop.errors.note("a reload of the configuration")
            return [f"{self.path}: {INTERNAL}"]
        return [f"{self.path}: {reason}"] if reason else Loaded(config, exposed)

    def _take(self, result: Loaded | list[str]) -> None:
        self._reading = 0
        good = not isinstance(result, list)
        try:
            lines = self._refuse(result) if isinstance(result, list) else self._commit(*result)
        except Exception:
            self.daemon.loop.errors.note("a reload of the configuration, of which a part may be in force")
            good, lines = False, [f"{self.path}: {INTERNAL}; a part of it may be in force"]
        for done in self._served:
            self.daemon.loop.errors.shield("the answer to a reload", done, good, lines)
        self._served = []
        if self._asked:
            self._read()

    def _refuse(self, lines: list[str]) -> list[str]:
        for line in lines:
            log.error("%s", line)
        self.daemon.events.tell(Event("reload-failed", "", "the configuration was not reloaded: the old one goes on: "
                               + lines[0], logging.ERROR))
        return lines

    def _commit(self, config: Config, exposed: list[str]) -> list[str]:
        probe.use_prepared()
        if self.descriptors is not None:
            self.daemon.fleet.schedule.allow(self.descriptors.probes(config))
        began = self._began = self._began or self.daemon.config
        later = [key for key in ("pidfile", "log") if getattr(began, key) != getattr(config, key)]
        applied = self.daemon.reload(config)
        warned = [*warnings(config), *exposed]
        lines = [*(f"{key}: the change takes effect at the next start" for key in later), *missing_tools(config),
                 *(words for words in warned if words not in self._told)]
        self._told = set(warned)
        for line in lines:
            log.warning("%s", line)
        return [applied.summary, *applied.forgotten, *self.daemon.complaints(), *lines]     # the log has the first ones
