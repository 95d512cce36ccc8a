"""`l4ipctl ready`, `leave` and `join`: for whoever, or whatever, moves addresses between gateways."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from l4ipd.config.similar import like
from l4ipd.control.disable import LOOK_EVERY, SETTLE, unsaved_words
from l4ipd.control.server import Answer, Client, Refusal, Request, end
from l4ipd.daemon import Daemon
from l4ipd.readiness import GATEWAY
from l4ipd.report import status
from l4ipd.report.matching import shown
from l4ipd.report.text import printable
from l4ipd.runtime.state_file import StateFile


class Clusters:
    """The commands; a request names clusters in ``clusters``, a list, by default all."""

    def __init__(self, daemon: Daemon, file: StateFile) -> None:
        self.daemon, self.loop, self.file = daemon, daemon.loop, file

    def by_name(self) -> dict[str, Callable[[Client, Request], object]]:
        return {"ready": self.ready, "leave": self.leave, "join": self.join}

    def ready(self, client: Client, request: Request) -> None:
        """One line a cluster; exit 1 if some are not ready."""
        rows = [status.cluster(self.daemon, name) for name in self._chosen(request) or self._all]
        client.answer(iter([*rows, end(0 if all(row["ready"] for row in rows) else 1)]))

    def leave(self, client: Client, request: Request) -> None:
        """Take them out of service; answers when that is saved."""
        names = self._chosen(request)
        self.daemon.readiness.leave(names)
        self._answer(client, names, [])

    def join(self, client: Client, request: Request) -> None:
        """Put them back; exit 1 if that does not help, since the gateway as a whole is out of service."""
        names = self._chosen(request)
        self.daemon.readiness.join(names)
        whole = GATEWAY in self.daemon.readiness.left
        self._answer(client, names, ["the gateway as a whole is out of service: l4ipctl join"] if whole else [])

    def _answer(self, client: Client, names: Sequence[str], warnings: Sequence[str]) -> None:
        self.file.changed(urgent=True)
        asked, until = self.file.asked, self.loop.now + SETTLE

        def lines() -> Iterator[Answer]:
            yield from (status.cluster(self.daemon, name) for name in names or self._all)
            unsaved = unsaved_words(self.file, asked)
            yield end(1 if unsaved or warnings else 0, warnings=[*warnings, *unsaved])

        def look() -> None:
            if self.file.tried < asked and self.loop.now <= until:
                self.loop.later(LOOK_EVERY, client.later(look))
            elif not client.over:
                client.answer(lines())

        look()

    @property
    def _all(self) -> list[str]:
        return list(self.daemon.readiness.standings)

    def _chosen(self, request: Request) -> list[str]:
        """The clusters that are named, each once; none: all of them."""
        given = request.get("clusters", [])
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise Refusal("which clusters? a list of names is needed")
        unknown = [name for name in dict.fromkeys(given) if name not in self.daemon.readiness.standings]
        if unknown:
            raise Refusal(*map(self._unknown, unknown[:20]))
        return list(dict.fromkeys(given))

    def _unknown(self, name: str) -> str:
        near = " or ".join(like(name, self._all, 3))
        return printable(f"{shown(name)}: no such cluster{f'; did you mean {near}?' if near else ''}")
