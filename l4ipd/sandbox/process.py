"""`--sandbox`: the daemon as it is, with the sandbox's tools in place of the system's.

The sandbox is a process of its own that ends when we do; its socket lies in a private directory, and so do the pid
file, the state and the control socket unless the configuration says where.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace

from l4ipd.model import Config, Control
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox import serve_words, tool_words

log = logging.getLogger("l4ipd")


class SandboxProcess:
    """A sandbox for one daemon."""

    def __init__(self) -> None:
        self.directory = tempfile.mkdtemp(prefix="l4ip-")
        self.socket = os.path.join(self.directory, "ipfilter.sock")
        self._child: Child | None = None
        self._ready: Callable[[], object] | None = None
        self._failed: Callable[[str], object] = log.error
        self._complaint = ""                        # the last line that it has said

    def adapt(self, config: Config) -> Config:
        """``config`` with the sandbox's tools, and with private places for what it does not place itself."""
        tools = tool_words(self.socket)
        return replace(
            config, ipfilter=replace(config.ipfilter, ipnat=tools["ipnat"], ipf=tools["ipf"], ipfstat=tools["ipfstat"],
                                     ipmon=tools["ipmon"]),
            pidfile=config.pidfile if "pidfile" in config.given else os.path.join(self.directory, "l4ip.pid"),
            control=config.control if "control" in config.given else Control(os.path.join(self.directory, "l4ip.sock")),
            state=config.state if "state" in config.given else os.path.join(self.directory, "state.json"))

    def start(self, loop: Loop, ready: Callable[[], object], failed: Callable[[str], object]) -> None:
        """Start the sandbox, and call ``ready()`` when it serves, or ``failed(words)`` when it never will."""
        self._ready, self._failed = ready, failed
        words = serve_words(self.socket, "--until-eof")
        self._child = Child(loop, words, timeout=None, done=self._ended, output=self._said, errors=self._complained,
                            hold_stdin=True, env={**os.environ, "LC_ALL": "C"})

    def stop(self) -> None:
        """End the sandbox and clear its directory away."""
        if self._child is not None:
            self._child.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _said(self, chunk: bytes) -> bool:
        if self._ready is not None and b"ready" in chunk:
            ready, self._ready, self._failed = self._ready, None, log.error
            ready()
        return False

    def _ended(self, end: Exit) -> None:
        said = self._complaint if end.status is not None and end.status > 0 else ""     # else somebody has ended it
        why = end.error or said or f"exit status {end.status}"
        self._failed(f"the sandbox has ended: {why}")

    def _complained(self, chunk: bytes) -> bool:
        for line in chunk.decode(errors="replace").splitlines():
            self._complaint = line.removeprefix("sandbox: ")
            log.warning("sandbox: %s", self._complaint)
        return False
