"""The control socket, where the configuration wants it: it follows reloads by itself.

What cannot be had any more is logged, and the daemon goes on balancing.
"""

from __future__ import annotations

import logging

from l4ipd.control.server import CLIENTS, Control, Handlers
from l4ipd.control.socket_file import Unusable
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.model import Control as Settings
from l4ipd.runtime.loop import Loop

log = logging.getLogger("l4ipd.control")


class ControlService:
    """Raises :class:`Unusable` if there can be no control socket; at a reload that is logged, and the old one stays."""

    def __init__(self, loop: Loop, daemon: Daemon, settings: Settings, commands: Handlers, clients: int = CLIENTS
                 ) -> None:
        self.loop, self.daemon, self._commands, self._clients = loop, daemon, commands, clients
        self.control: Control | None = None
        self._wanted: Settings | None = None
        self._problem = ""                          # why it is not where the configuration wants it
        self._open(settings)
        daemon.events.listen(self._heard)
        daemon.around.append(lambda: self._problem)

    def close(self) -> None:
        """The socket goes."""
        if self.control is not None:
            self.control.close()

    def _heard(self, event: Event) -> None:
        settings = self.daemon.config.control
        if event.kind != "reloaded":
            return
        if settings == self._wanted and self.control is not None and self.control.reachable:
            self._problem = ""                      # a reload took back what could not be
            return
        try:
            self._open(settings)
        except Unusable as problem:
            left = f"it is {self.control.path} still" if self.control is not None else "there is none"
            self._problem = f"control socket: {problem}; {left}"
            log.error("%s", self._problem)

    def _open(self, settings: Settings) -> None:
        """Listen there; with another path, the old socket goes only when the new one is there."""
        old, new = self.control, Control(self.loop, settings.path, settings.group, self._commands, self._clients)
        if old is not None and old.path == settings.path:
            old.retire()
            self.control = None
        new.open()
        self.control, self._wanted, self._problem = new, settings, ""
        if old is not None:
            old.retire()
        log.info("control socket: %s (l4ipctl -s %s)", settings.path, settings.path)
