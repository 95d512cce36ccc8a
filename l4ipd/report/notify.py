"""The `notify:` program: run for every event, one after the other, in the order in which they happened.

It is called with the words of the configuration and three more, EVENT NAME TEXT:

- EVENT: ``up down draining held disabled enabled all-down repaired reloaded reload-failed sensing-lost sensing-back
  blind sighted ready unready table-full table-free``;
- NAME: the endpoint (``www/http/web1``), the service (``www/http``) for all-down, the cluster (``www``) for
  ready and unready, or nothing;
- TEXT: the line of the log.

The environment has these, empty where they do not apply:

- ``L4IP_EVENT L4IP_NAME L4IP_TEXT``: the same; ``L4IP_TIME``: when it happened, seconds since the epoch;
- ``L4IP_CLUSTER L4IP_SERVICE L4IP_MEMBER``: the parts of NAME; ``L4IP_VIP``: the cluster's addresses;
- ``L4IP_ADDRESS L4IP_PORT``: the member's;
- ``L4IP_STATE``: up, down, draining, held, unknown, disabled (up), …; ``L4IP_CODE L4IP_REASON``: the last verdict; of a
  cluster: ready or unready, and why not;
- ``L4IP_UP L4IP_TOTAL``: how many members of the service get connections, of how many; as in the line of the log, a
  fallback counts only while it serves.

They say what was true when the event happened. Nothing is run at a start, nor at a reload that changes an endpoint, for
what is as it was. A program that does not end within
30 s is killed; one that fails is logged; neither stops the queue. When more than 1000 events wait, the oldest are
dropped, which is logged.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from l4ipd.model import Words
from l4ipd.report import status
from l4ipd.report.text import printable
from l4ipd.runtime.child import Child, Exit, environment
from l4ipd.runtime.loop import Loop

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.events import Event

TIME_LIMIT = 30.0                                   # seconds
QUEUE_LIMIT = 1000
TEXT_LIMIT = 1000                                   # characters of TEXT
OUTPUT_LIMIT = 4096                                 # bytes
log = logging.getLogger("l4ipd.notify")


class Call(NamedTuple):
    """One run to come."""

    event: str
    name: str
    text: str
    facts: dict[str, str]


class Notifier:
    """A listener of the daemon that runs ``words``, none: no program; what a reload says holds for what comes after."""

    def __init__(self, loop: Loop, daemon: Daemon, words: Words = ()) -> None:
        self.loop, self.daemon, self.words = loop, daemon, words
        self.runs = self.failures = self.dropped = 0
        self._queue: deque[Call] = deque()
        self._child: Child | None = None
        self._lost = 0                              # events dropped since the queue was last empty

    def heard(self, event: Event) -> None:
        """Queue an event."""
        if self.words:
            self._queue_up(event)
        if event.kind == "reloaded":
            self.use(self.daemon.config.notify)

    def _queue_up(self, event: Event) -> None:
        facts = describe(self.daemon, event)
        self._queue.append(Call(facts["L4IP_EVENT"], facts["L4IP_NAME"], facts["L4IP_TEXT"], facts))
        if len(self._queue) > QUEUE_LIMIT:
            self._drop()
        if self._child is None:
            self._next()

    def use(self, words: Words) -> None:
        """Run another program from now on."""
        self.words = words
        if not words:
            self._queue.clear()

    def stop(self) -> None:
        """Run nothing more. What runs already may end in its own time."""
        if self._queue:
            log.warning("notify: %d events were not reported: l4ipd stops", len(self._queue))
        self._queue.clear()
        self.words = ()

    def _drop(self) -> None:
        self._queue.popleft()
        self.dropped += 1
        self._lost += 1
        if self._lost == 1:
            log.error("notify: %s is too slow: %d events wait; the oldest are dropped", self.words[0], QUEUE_LIMIT)

    def _next(self) -> None:
        if not self._queue:
            if self._lost:
                log.error("notify: %d events were dropped", self._lost)
                self._lost = 0
            return
        call = self._queue.popleft()
        self.runs += 1
        self._child = Child(self.loop, (*self.words, call.event, call.name, call.text), timeout=TIME_LIMIT,
                            done=lambda end: self._ended(call, end), limit=OUTPUT_LIMIT, outlives=True,
                            env={**environment(), **call.facts})

    def _ended(self, call: Call, end: Exit) -> None:
        self._child = None
        self._next()
        problem = how_bad(end)
        if problem:
            self.failures += 1
            log.error("notify: %s %s %s: %s", self.words[0] if self.words else "the program", call.event, call.name,
                      problem)


def how_bad(end: Exit) -> str:
    """What is wrong with how a program ended; empty if nothing is."""
    if end.status is None:
        return end.error
    said = printable((end.stderr or end.stdout).decode(errors="replace").strip().partition("\n")[0][:200])
    if end.timed_out:
        words = f"did not end within {TIME_LIMIT:.0f} s and was killed"
    elif end.status < 0:
        words = f"was killed by signal {-end.status}"
    elif end.status:
        words = f"exit status {end.status}"
    else:
        return ""
    return f"{words}: {said}" if said else words


def describe(daemon: Daemon, event: Event) -> dict[str, str]:
    """The environment for an event; all of it exists always."""
    cluster, service, member, *_ = [*event.name.split("/"), "", "", ""]
    facts = dict.fromkeys(("L4IP_VIP", "L4IP_ADDRESS", "L4IP_PORT", "L4IP_STATE", "L4IP_CODE", "L4IP_REASON", "L4IP_UP",
                           "L4IP_TOTAL"), "")
    facts |= {"L4IP_EVENT": event.kind, "L4IP_NAME": event.name, "L4IP_TEXT": event.text[:TEXT_LIMIT],
              "L4IP_TIME": f"{time.time():.3f}", "L4IP_CLUSTER": cluster, "L4IP_SERVICE": service,
              "L4IP_MEMBER": member}
    members = daemon.fleet.groups.get(f"{cluster}/{service}", ())
    if members:
        tally = daemon.fleet.tally(f"{cluster}/{service}")
        facts |= {"L4IP_UP": str(tally.serving), "L4IP_TOTAL": str(tally.total),
                  "L4IP_VIP": " ".join(members[0].endpoint.vips)}
    standing = daemon.readiness.standings.get(event.name)
    if standing is not None:
        facts |= {"L4IP_VIP": " ".join(standing.cluster.addresses), "L4IP_STATE": standing.state,
                  "L4IP_REASON": standing.why[:TEXT_LIMIT]}
    monitor = daemon.fleet.monitors.get(event.name)
    if monitor is not None:
        row = status.row(daemon, monitor)
        facts |= {"L4IP_ADDRESS": monitor.endpoint.address, "L4IP_PORT": monitor.endpoint.member_port_words,
                  "L4IP_STATE": row.state, "L4IP_CODE": row.code, "L4IP_REASON": row.verdict[:TEXT_LIMIT]}
    return {name: _argument(text) for name, text in facts.items()}


def _argument(text: str) -> str:
    """What may be handed to a program in any locale: members may have said anything."""
    return printable(text).encode("ascii", "backslashreplace").decode()
