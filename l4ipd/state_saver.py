"""Saves what the next run has to know, as the daemon's events tell that it has changed."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping

from l4ipd import saved_state
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.monitor.monitor import Monitor
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.state_file import StateFile
from l4ipd.saved_state import Hold, Saved

URGENT = ("disabled", "enabled", "reloaded")        # events: somebody may be told that this survives a restart
log = logging.getLogger("l4ipd.state")


class StateSaver:
    """To be made before the daemon is started, which has to be told what an earlier run left behind: ``saved``."""

    def __init__(self, loop: Loop, daemon: Daemon, path: str) -> None:
        self.daemon = daemon
        self.saved = saved_state.load(path)
        self.file = StateFile(loop, path, self._text, self._failed)
        daemon.events.listen(self._heard)
        daemon.discovery.listen(self.file.changed)
        daemon.around.append(lambda: self._words(self.file.unwritable) if self.file.unwritable else "")

    def close(self) -> None:
        """The last write."""
        self.file.close()

    def _heard(self, event: Event) -> None:
        if event.kind == "reloaded":
            self.file.move(self.daemon.config.state)
        self.file.changed(urgent=event.kind in URGENT)

    def _failed(self, words: str) -> None:
        log.error("%s", self._words(words))

    def _words(self, why: str) -> str:
        return f"{self.file.path}: cannot be written: {why}: what the operator disables now would not survive a restart"

    def _text(self) -> bytes:
        return saved_state.encode(snapshot(self.daemon) if self.daemon.fleet.monitors else self.saved, time.time())


def snapshot(daemon: Daemon) -> Saved:
    """What the next run has to know of one that was started."""
    fleet, began = daemon.fleet, time.time() - daemon.loop.now
    fleet.settle()                                  # what is saved counts as told
    known = {name: (past.seen, past.since) for name, past in fleet.transitions.past.items()}
    known |= {name: (monitor.seen, monitor.since) for name, monitor in fleet.monitors.items()
              if monitor.seen != "unknown" and fleet.transitions.is_told(monitor)}
    states = {name: (seen == "up", round(began + since, 1)) for name, (seen, since) in known.items()}
    draining = frozenset(name for name, (seen, _) in known.items() if seen == "draining")
    since = {name: each.since for name, each in fleet.disabled.items()}
    users = {name: each.user for name, each in fleet.disabled.items() if each.user}
    until = {name: round(began + each.until, 1) for name, each in fleet.disabled.items() if each.until is not None}
    return Saved(since, states, daemon.steering.unmarked(), *daemon.sensing.rules.traces(),
                 daemon.readiness.left, daemon.readiness.told(), draining, frozenset(fleet.cut),
                 dict(daemon.discovery.known), users, until, _holds(fleet.monitors, began),
                 daemon.steering.tags())


def _holds(monitors: Mapping[str, Monitor], began: float) -> dict[str, Hold]:
    """``began`` is when the loop's clock was 0."""
    return {name: Hold(each.flapping.hold.count, round(began + each.flapping.hold.until, 1), each.held)
            for name, each in monitors.items() if each.flapping is not None and each.flapping.hold.count}
