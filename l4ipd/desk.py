"""The operator's desk: control socket, notify program and state file, as the configuration wants them at present.

It follows reloads by itself. Nothing here is vital once it was there: what cannot be had any more is logged, and the
daemon goes on balancing.
"""

from __future__ import annotations

import logging
import time

from l4ipd.control.commands import Commands, Reload
from l4ipd.control.server import CLIENTS, Control, Unusable
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.model import Config
from l4ipd.model import Control as ControlSettings
from l4ipd.report.notify import Notifier
from l4ipd.runtime.loop import Loop
from l4ipd.state import Saved, Store, load

log = logging.getLogger("l4ipd.control")


class Desk:
    """To be made before the daemon is started, which has to be told what an earlier run left behind: ``saved``.

    Raises :class:`Unusable` if there can be no control socket; at a reload that is logged, and the old one stays.
    """

    def __init__(self, loop: Loop, daemon: Daemon, config: Config, reload: Reload, clients: int = CLIENTS) -> None:
        self.loop, self.daemon, self._clients = loop, daemon, clients
        self.notifier = Notifier(loop, daemon, config.notify)
        self.store = Store(loop, config.state, self._snapshot)
        self.commands = Commands(daemon, reload, self.store).by_name()
        self.control: Control | None = None
        self._wanted: ControlSettings | None = None
        self.saved = load(config.state)             # what an earlier run left behind
        daemon.events.listen(self.notifier.heard)
        daemon.events.listen(self._heard)
        self._open(config.control)

    def close(self) -> None:
        """The end: the socket goes, the state is written."""
        self.notifier.stop()
        if self.control is not None:
            self.control.close()
        self.store.close()

    def _heard(self, event: Event) -> None:
        if event.kind == "reloaded":
            self._follow(self.daemon.config)
        self.store.changed(urgent=event.kind in ("disabled", "enabled", "reloaded"))

    def _follow(self, config: Config) -> None:
        self.notifier.use(config.notify)
        self.store.path = config.state
        if config.control != self._wanted or self.control is None or not self.control.reachable:
            try:
                self._open(config.control)
            except Unusable as problem:
                log.error("control socket: %s", problem)

    def _open(self, settings: ControlSettings) -> None:
        """Listen there; with another path, the old socket goes only when the new one is there."""
        old, new = self.control, Control(self.loop, settings.path, settings.group, self.commands, self._clients)
        if old is not None and old.path == settings.path:
            old.retire()
            self.control = None
        new.open()
        self.control, self._wanted = new, settings
        if old is not None:
            old.retire()
        log.info("control socket: %s (l4ipctl -s %s)", settings.path, settings.path)

    def _snapshot(self) -> Saved:
        daemon = self.daemon
        if not daemon.fleet.monitors:                     # not started yet
            return self.saved
        began = time.time() - self.loop.now
        states = {name: (past.up, round(began + past.since, 1)) for name, past in daemon.fleet.transitions.past.items()}
        states |= {name: (monitor.up, round(began + monitor.since, 1))
                   for name, monitor in daemon.fleet.monitors.items() if monitor.seen != "unknown"}
        return Saved(daemon.fleet.disabled, states, daemon.steering.unmarked(), *daemon.sensing.rules.traces())
