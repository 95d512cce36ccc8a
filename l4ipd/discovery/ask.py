"""What the sources of a configuration say at this moment: for ``l4ipd -n``."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from l4ipd.discovery.members import filled, watch, who_asks
from l4ipd.discovery.source import Wanted
from l4ipd.model import Config, Member
from l4ipd.runtime.loop import Loop

PATIENCE = 10.0                                     # seconds for all of them


class Asked(NamedTuple):
    """A configuration with the members that its sources have now."""

    config: Config
    told: Sequence[str]                             # who gave which members
    warnings: Sequence[str]                         # who said nothing, which may be different when it matters
    errors: Sequence[str]                           # what is wrong with files


def ask(config: Config) -> Asked:
    """Ask all of them once, and wait for that."""
    clusters = who_asks(config)
    if not clusters:
        return Asked(config, (), (), ())
    loop = Loop()
    known: dict[str, tuple[Member, ...]] = {}
    problems: dict[Wanted, str] = {}

    def said(wanted: Wanted, members: tuple[Member, ...]) -> None:
        known[wanted.key] = members
        problems.pop(wanted, None)
        end()

    def failed(wanted: Wanted, problem: str) -> None:
        problems.setdefault(wanted, problem)
        end()

    def end() -> None:
        if all(wanted in problems or wanted.key in known for wanted in clusters):
            loop.stop()

    watchers = [watch(loop, wanted, partial(said, wanted), partial(failed, wanted)) for wanted in clusters]
    for watcher in watchers:
        watcher.start()
    loop.later(PATIENCE, loop.stop)
    loop.run()
    for watcher in watchers:
        watcher.stop()
    loop.close()
    told: list[str] = []
    warnings: list[str] = []
    errors: list[str] = []
    for wanted, names in clusters.items():
        who = f"{', '.join(names)}: members from {wanted.source.origin}"
        if wanted.key in known:
            told.append(f"{who}: {', '.join(member.name for member in known[wanted.key])}")
        else:
            where = errors if wanted.source.file else warnings
            where.append(f"{who}: {problems.get(wanted, f'nothing within {PATIENCE:.0f} s')}")
    full, odd = filled(config, known)
    return Asked(full, told, [*warnings, *odd], errors)
