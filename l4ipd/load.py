"""Configuration files: read whole, checked against this machine, and committed only if flawless."""

from __future__ import annotations

import grp
import logging
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import replace

from l4ipd import probe
from l4ipd.child import find_program
from l4ipd.config import ConfigError, locate, parse
from l4ipd.config_warnings import warnings
from l4ipd.daemon import Daemon, Event
from l4ipd.descriptors import Room
from l4ipd.exposure import exposures
from l4ipd.internal_errors import INTERNAL
from l4ipd.model import Config
from l4ipd.rehearsal import Rehearsal

SIZE_LIMIT = 64 << 20                               # bytes of a configuration
Done = Callable[[bool, list[str]], object]          # whether it was reloaded, and what changed or what is wrong
log = logging.getLogger("l4ipd")


class Refused(Exception):
    """The start, or the reload, is refused; the lines say why."""


def load(path: str, again: bool = False) -> Config:
    """Read and check a configuration, files and programs that it names included. Raises :class:`Refused`.

    Read ``again`` is only what is a file: anything else might keep its reader waiting for ever.
    """
    try:
        with open(path, "rb", opener=_at_once if again else None) as file:
            if again and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise Refused(f"{path}: is no regular file, and cannot be read again")
            text = file.read(SIZE_LIMIT + 1)
        if len(text) > SIZE_LIMIT:
            raise Refused(f"{path}: is larger than {SIZE_LIMIT >> 20} MB")
        config = parse(text, path)
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ConfigError as error:
        raise Refused("\n".join(error.errors)) from None
    problems = [locate(text, path, where) + words for where, words in surroundings(config)]
    if problems:
        raise Refused("\n".join(problems))
    return config


def _at_once(path: str, flags: int) -> int:
    """Open a file, but do not wait for whoever might write it."""
    return os.open(path, flags | os.O_NONBLOCK)


def surroundings(config: Config) -> list[tuple[tuple[str | int, ...], str]]:
    """What the configuration needs of this machine and does not find, programs, CA files and users: where, and why."""
    problems: list[tuple[tuple[str | int, ...], str]] = []
    for cluster in config.clusters:
        for service in cluster.services:
            commands = any(check.type == "exec" for check in service.checks)
            endpoints = list(replace(cluster, services=(service,)).endpoints()) if commands else []
            place = ("clusters", cluster.name, "services", service.name, "check")
            for number, each in enumerate(service.checks, 1):
                try:
                    probe.prepare(each, endpoints)
                except ValueError as error:
                    key, _, words = str(error).partition(": ")
                    problems.append(((*place, number, key) if len(service.checks) > 1 else (*place, key), words))
    if config.control.group is not None:
        try:
            grp.getgrnam(config.control.group)
        except KeyError:
            problems.append((("control", "group"), f"{config.control.group}: no such group"))
    if config.notify and find_program(config.notify[0]) is None:
        problems.append((("notify",), f"{config.notify[0]}: no such program, or it cannot be executed"))
    return problems


def missing_tools(config: Config) -> list[str]:
    """The tools that are not here, in words. They may come later (a file system that is not mounted yet): no error."""
    settings = config.ipfilter
    tools = {"ipnat": settings.ipnat}
    if config.resets is not None:
        tools |= {"ipf": settings.ipf, "ipfstat": settings.ipfstat}
        if config.resets.source == "ipmon":
            tools["ipmon"] = settings.ipmon
    return [f"ipfilter.{key}: {words[0]}: no such program here, or it cannot be executed"
            for key, words in tools.items() if find_program(words[0]) is None]


class Reloader:
    """SIGHUP and `l4ipctl reload`. The file is read by a thread, so that the loop goes on meanwhile.

    A bad configuration changes nothing. Requests that come while a file is being read are served together by one more
    reading, since the file may have changed. It must fit into the ``room`` that is there for it, too. What was ``told``
    of, a warning, is not told of again.
    """

    def __init__(self, daemon: Daemon, path: str, rehearsal: Rehearsal | None, room: Room | None = None,
                 told: Iterable[str] = ()) -> None:
        self.daemon, self.path, self.rehearsal, self.room = daemon, path, rehearsal, room
        self._exposed: list[str] = []               # found with what is being read
        self._told = set(told)
        self._asked: list[Done] = []
        self._served: list[Done] = []

    def __call__(self, done: Done = lambda good, lines: None) -> None:
        self._asked.append(done)
        if not self._served:
            self._read()

    def _read(self) -> None:
        self._served, self._asked = self._asked, []
        try:
            self.daemon.loop.aside(self._load, self._take)
        except RuntimeError as error:               # no thread to be had
            self._take([f"{self.path}: cannot be read: {error}"])

    def _load(self) -> Config | list[str]:
        """In the thread: the configuration, or what is wrong."""
        try:
            config = load(self.path, again=True)
            if self.rehearsal is not None:
                config = self.rehearsal.adapt(config)
            self._exposed = exposures(config, self.path)
        except Refused as refusal:
            return str(refusal).splitlines()
        except Exception:
            self.daemon.loop.errors.note("a reload of the configuration")
            return [f"{self.path}: {INTERNAL}"]
        reason = self.room.refuses(config) if self.room is not None else ""
        return [f"{self.path}: {reason}"] if reason else config

    def _take(self, result: Config | list[str]) -> None:
        good = not isinstance(result, list)
        try:
            lines = self._refuse(result) if isinstance(result, list) else self._commit(result)
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
        self.daemon.tell(Event("reload-failed", "", "the configuration was not reloaded: the old one goes on: "
                               + lines[0], logging.ERROR))
        return lines

    def _commit(self, config: Config) -> list[str]:
        probe.use_prepared()
        if self.room is not None:
            self.daemon.rounds.limit = self.room.probes(config)
        before = self.daemon.config
        later = [key for key in ("pidfile", "log") if getattr(before, key) != getattr(config, key)]
        lines = [self.daemon.reload(config), *(f"{key}: the change takes effect at the next start" for key in later)]
        doubts = [*warnings(config), *self._exposed]
        lines += [*missing_tools(config), *(words for words in doubts if words not in self._told)]
        self._told = set(doubts)
        for line in lines[1:]:
            log.warning("%s", line)
        return lines
