"""Configuration files: read whole, and checked against this machine."""

from __future__ import annotations

import grp
import os
from collections.abc import Iterator
from dataclasses import replace

from l4ipd.checks import probe
from l4ipd.config.documents import SIZE_LIMIT, Documents
from l4ipd.config.parse import ConfigError, configuration
from l4ipd.config.secrets import filled
from l4ipd.model import Config
from l4ipd.runtime import regular_file
from l4ipd.runtime.child import find_program


class Refused(Exception):
    """The start, or the reload, is refused; the lines say why."""


def load(path: str, again: bool = False) -> Config:
    """Read and check a configuration, files and programs that it names included. Raises :class:`Refused`.

    Read ``again`` is only what is a file: anything else might keep its reader waiting for ever.
    """
    try:
        if again:
            text = regular_file.read(path, SIZE_LIMIT)
        else:
            with open(path, "rb") as file:
                text = file.read(SIZE_LIMIT + 1)
        if len(text) > SIZE_LIMIT:
            raise Refused(f"{path}: is larger than {SIZE_LIMIT >> 20} MB")
        documents = Documents(text, path)
        config, unread = filled(configuration(documents))
    except regular_file.Irregular as error:
        raise Refused(f"{path}: {error.strerror}, and cannot be read again") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except ConfigError as error:
        raise Refused("\n".join(error.errors)) from None
    problems = [documents.locate(where) + words for where, words in (*unread, *surroundings(config))]
    if problems:
        raise Refused("\n".join(problems))
    return config


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
    problems += _met(config)
    if config.control.group is not None:
        try:
            grp.getgrnam(config.control.group)
        except KeyError:
            problems.append((("control", "group"), f"{config.control.group}: no such group"))
    if config.notify and find_program(config.notify[0]) is None:
        problems.append((("notify",), f"{config.notify[0]}: no such program, or it cannot be executed"))
    return problems


def _met(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Files of ours that are another one, too: the last that is written would take its place."""
    taken = {os.path.realpath(name): "the configuration" for name in config.files}
    for key, path in (("pidfile", config.pidfile), ("control", config.control.path), ("state", config.state)):
        other = taken.setdefault(os.path.realpath(path), key)
        if other != key:
            yield (key,), f"{path} is {other}, too: name another file"


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
