"""The HTTP side of the daemon: `/` for people, `/metrics`, `/status.json` and `/healthz` for programs.

Off unless the configuration has `http:`; until then nothing of it is imported, which saves 15 MB. There is no way to
change anything from here. If the address cannot be had, that is logged, and tried again: members come first.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
from collections.abc import Callable, Collection, Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from l4ipd import __version__
from l4ipd.ipfilter.snapshot import Snapshot, take_snapshot
from l4ipd.model import host_port
from l4ipd.report import status, warnings
from l4ipd.report.history import History
from l4ipd.report.trends import Trends
from l4ipd.runtime.lateness import Lateness
from l4ipd.runtime.loop import Loop, Timer

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.events import Event
    from l4ipd.web.httpd import Answer, Later, Request, Server

RETRY = 10.0                                        # seconds
COUNTED = 2.0                                       # seconds that an answer waits for the sessions to be counted
COUNT_AFTER, COUNTS_KEPT = 4.0, 60.0                # seconds until connections are counted anew, and until they are old
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
log = logging.getLogger("l4ipd.http")


class ConnectionCounts:
    """How many connections each rule has had, as of a moment ago. The kernel is asked only while somebody asks us."""

    def __init__(self, loop: Loop, daemon: Daemon) -> None:
        self.loop, self.daemon = loop, daemon
        self._counts: status.Kernel = {}
        self._when = float("-inf")
        self._asking = False

    def by_rule(self) -> status.Kernel:
        """Empty if it is not known. What is new is there for the next who asks."""
        age = self.loop.now - self._when
        if age > COUNT_AFTER and not (self._asking or self.daemon.steering.rules.pause or self.daemon.stopping):
            self._asking = True
            take_snapshot(self.loop, self.daemon.steering.nat, self._seen)
        return self._counts if age < COUNTS_KEPT else {}

    def _seen(self, seen: Snapshot) -> None:
        self._asking = False
        self._when = self.loop.now
        self._counts = {} if seen.problem else seen.ours


class Web:
    """Follows the `http:` of the daemon's configuration, at the start and at every reload."""

    def __init__(self, loop: Loop, daemon: Daemon, clients: int | None = None) -> None:
        self.loop, self.daemon, self._clients = loop, daemon, clients
        self.history = History()
        self.lateness = Lateness(loop)
        self.trends = Trends(loop, daemon)
        self.connections = ConnectionCounts(loop, daemon)
        self.server: Server | None = None
        self._at: tuple[str, int] | None = None
        self._pages: dict[str, Callable[[Request], Answer]] = {}
        self._retry = Timer(self._open)
        self._said = ""
        daemon.events.listen(self._heard)
        daemon.around.append(lambda: self._said)

    def start(self) -> None:
        """Listen where the configuration wants it; to be called again when it may have changed."""
        settings = self.daemon.config.http
        wanted = None if settings is None else (settings.address, settings.port)
        if wanted == self._at:
            return
        self.stop()
        self._at = wanted
        if wanted is not None:
            self._open()

    def stop(self) -> None:
        self.loop.clear(self._retry)
        self._said = ""
        self._at = None
        if self.server is not None:
            self.server.close()
            self.server = None

    def raised(self) -> None:
        """To listen has raised."""
        self.loop.set(self._retry, self.loop.now + RETRY)

    def _heard(self, event: Event) -> None:
        self.history.heard(event)
        if event.kind == "reloaded":
            self.start()

    def _open(self) -> None:
        from l4ipd.web import httpd  # not before it is needed, see above

        assert self._at is not None
        try:
            self.server = httpd.Server(self.loop, *self._at, self.respond, HEADERS, self._clients)
        except OSError as error:
            self._complain(error)
            self.loop.set(self._retry, self.loop.now + RETRY)
            return
        self._said = ""
        self._prepare()
        self.trends.start()
        log.info("http: status page at http://%s/", host_port(self._at[0], self.server.port))

    def _complain(self, error: OSError) -> None:
        assert self._at is not None
        words = os.strerror(error.errno) if error.errno else str(error)
        said = f"http: {host_port(*self._at)}: cannot listen there: {words}; trying again every {RETRY:.0f} s"
        if said != self._said:
            log.error("%s", said)
            self._said = said

    # -- what there is to see

    def _prepare(self) -> None:
        """Import what answers need now, rather than while probes wait."""
        if self._pages:
            return
        from l4ipd.web import httpd, metrics, page
        self.loop.every_turn(self.lateness.note)
        answer = httpd.Answer

        def show(request: Request) -> Answer:
            text = page.render(self.daemon, self.history, self.connections.by_rule(),
                               request.query.get("match", [""])[-1], self.trends)
            return answer(200, (piece.encode() for piece in text), "text/html; charset=utf-8",
                          {"Content-Security-Policy": page.POLICY})

        def health(request: Request) -> Answer:
            if "cluster" in request.query:
                return ready(request.query["cluster"])
            reason = warnings.unfit(self.daemon)
            return answer(503, f"{reason}\n".encode()) if reason else answer(200, b"ok\n")

        def ready(names: Sequence[str]) -> Answer:
            if not self.daemon.readiness.standings.keys() >= set(names):
                return answer(404, b"there is no such cluster\n")
            found = [status.cluster(self.daemon, name) for name in names]
            return answer(200 if all(each["ready"] for each in found) else 503,
                          "".join(f"{each['text']}\n" for each in found).encode())

        self._pages = {
            "/": show,
            "/metrics": lambda request: answer(200, metrics.render(
                self.daemon, self.history, self.lateness, self.connections.by_rule()), metrics.CONTENT_TYPE),
            "/status.json": lambda request: answer(200, status_json(self.daemon, self.connections.by_rule()),
                                                   "application/json"),
            "/healthz": health,
        }

    def respond(self, request: Request) -> Answer | Later:
        from l4ipd.web.httpd import Answer, Later
        settings = self.daemon.config.http
        if not trusted(request.host, settings.names if settings else ()):
            return Answer(421, b"this name is not known to be ours: ask by an address, or as localhost, or list it in "
                               b"http.names\n")
        page = self._pages.get(request.path)
        if page is None:
            return Answer(404, f"there is only {' '.join(self._pages)}\n".encode())
        if request.path == "/healthz" or self.daemon.stopping:
            return page(request)
        return Later(self._counted, lambda: page(request))

    def _counted(self, go_on: Callable[[], None]) -> None:
        """When the sessions are counted; without, if the tools are slow: this is where one looks what is wrong."""
        waiting = [go_on]

        def once(*_: object) -> None:
            if waiting:
                waiting.pop()()

        self.daemon.sessions.want(once)
        self.loop.later(COUNTED, once)


def trusted(host: str, names: Collection[str] = ()) -> bool:
    """Whether a request for ``host`` may be answered: by an address, or by a name that is ours or among ``names``.

    Any web site can give a name of its own our address, and so make a visitor's browser read from us, be it on loopback
    or in a network that only the visitor can reach (DNS rebinding). Nobody can give us a name without a dot, but by a
    search list; so of those, too, only the machine's own counts.
    """
    found = re.fullmatch(r"\[(.*)\](:\d*)?|([^:]*)(:\d*)?", host)
    if found is None:
        return False
    name = (found[1] or found[3] or "").lower().rstrip(".")
    own = socket.gethostname().lower().rstrip(".")
    if name in ("", "localhost", own, own.partition(".")[0], *names) or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def status_json(daemon: Daemon, counts: status.Kernel) -> Iterator[bytes]:
    """One object; its endpoints are the rows of `l4ipctl show --json`, one a line."""
    head = {"version": __version__, "summary": status.summary(daemon), "fit": not warnings.unfit(daemon),
            "troubles": warnings.troubles(daemon), "started": daemon.started,
            "rules_wanted": len(daemon.steering.rules.want),
            "rules_loaded": len(daemon.steering.rules.have),
            "nat_table": {"sessions": daemon.nat_usage.active, "limit": daemon.nat_usage.limit,
                          "drops": daemon.nat_usage.drops},
            "internal_errors": {"total": daemon.loop.errors.total, "last_hour": daemon.loop.errors.recent()}}
    head["clusters"] = [status.cluster(daemon, name) for name in daemon.readiness.standings]
    yield json.dumps(head)[:-1].encode() + b', "endpoints": ['
    before = b"\n"
    for monitor in list(daemon.fleet.monitors.values()):
        row = {**status.row(daemon, monitor).data(), "connections": status.connections(daemon, monitor, counts)}
        yield before + json.dumps(row).encode()
        before = b",\n"
    yield b"\n]}\n"
