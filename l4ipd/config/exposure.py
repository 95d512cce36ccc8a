"""What decides over a gateway, and may be changed by others than root: files and programs that a configuration names.
And what is secret, and may be read by others.

A warning each, as sshd and sudo have it, from ``l4ipd -n``, at start and at a reload.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from l4ipd.checks.recipe import recipe
from l4ipd.model import Cluster, Config, Words
from l4ipd.runtime.child import find_program
from l4ipd.runtime.ownership import loose, readable


def exposures(config: Config, path: str) -> list[str]:
    """Everything of that kind; ``path`` is the configuration's own. A line each."""
    named: dict[str, str] = {}                      # by file: the first who names it
    for where, file in [("", path), *_named(config)]:
        named.setdefault(file, where)
    open_to_all = [f"{where}: {file}: may be read by others than root: {words}"
                   for file, where in dict(reversed(list(_secret(config)))).items() if (words := readable(file))]
    return open_to_all + [f"{where and f'{where}: '}{file}: may be changed by others than root: {words}"
                          for file, where in named.items() if (words := loose(file))]


def _secret(config: Config) -> Iterator[tuple[str, str]]:
    """A file that holds a secret, and where it is named."""
    for cluster in config.clusters:
        for service in cluster.services:
            for check in service.checks:
                for secret in check.secrets:
                    yield secret.file, f"{cluster.name}/{service.name}: {secret.key[0]}"
                if check.cert is not None:
                    key = "key" if check.key else "cert"
                    yield check.key or check.cert, f"{cluster.name}/{service.name}: {key}"


def _named(config: Config) -> Iterator[tuple[str, str]]:
    """Where a file is named, and the file."""
    yield from (("include", file) for file in config.files[1:])
    settings = config.ipfilter
    tools = {"ipnat": settings.ipnat}
    if config.resets is not None:
        tools |= {"ipf": settings.ipf, "ipfstat": settings.ipfstat, "ipmon": settings.ipmon}
        if config.resets.source.startswith("/"):
            yield "resets.source", config.resets.source
    for key, words in tools.items():
        yield from ((f"ipfilter.{key}", file) for file in _files(words))
    yield from (("notify", file) for file in _files(config.notify))
    for cluster in config.clusters:
        yield from ((f"{cluster.name}: members_from", source.file) for source in cluster.sources if source.file)
        yield from _of_cluster(cluster)


def _of_cluster(cluster: Cluster) -> Iterator[tuple[str, str]]:
    if any(check.type == "exec" for service in cluster.services for check in service.checks):
        for endpoint in cluster.endpoints():
            for check in endpoint.checks:
                if check.type == "exec":
                    command = recipe(check, endpoint).command
                    yield from ((f"{endpoint.group}: command", file) for file in _files(command))
    for service in cluster.services:
        for check in service.checks:
            files = [("verify", check.verify), ("cert", check.cert), ("key", check.key),
                     *((str(secret.key[0]), secret.file) for secret in check.secrets)]
            yield from ((f"{cluster.name}/{service.name}: {key}", file) for key, file in files if file)


def _files(command: Words) -> Iterator[str]:
    """The program, unless it is what runs us; and what it may be told to run: arguments that are files."""
    program = find_program(command[0]) if command else None
    if program not in (None, sys.executable):
        yield str(program)
    yield from (word for word in command[1:] if word.startswith("/") and os.path.isfile(word))
