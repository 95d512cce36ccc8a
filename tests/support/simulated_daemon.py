"""One run of a daemon in simulated time, with a configuration of three members, to be ended by a signal."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

from support.simulation import REFUSES, World, simulated

CONFIG = """
pidfile: {0}/pid
control: {0}/sock
state: {0}/state.json
ipfilter: {{interface: em0, resync: 10s, ipnat: {0}/ipnat, ipf: {0}/ipf, ipfstat: {0}/ipfstat, ipmon: {0}/ipmon{1}}}
{2}
defaults: {{interval: 1s, timeout: 500ms, rise: 1, fall: 1}}
clusters:
  www:
    address: 203.0.113.10
    services: {{http: {{port: 80, member_port: 8080, check: tcp}}}}
    members: {{web1: 10.0.0.11, web2: 10.0.0.12, web3: 10.0.0.13}}
"""


class SimulatedDaemon(World):
    """One life of a daemon, that ends by a signal."""

    def __init__(self, directory: Path, more: str = "", resets: str = "", life: float = 10.0) -> None:
        super().__init__(1, directory)
        self.kernel.iterators.life = life
        self.path = directory / "l4ip.conf"
        self.path.write_text(CONFIG.format(directory, more, resets))
        for tool in ("ipnat", "ipf", "ipfstat", "ipmon"):
            (directory / tool).write_text("#!/bin/sh\n")
            (directory / tool).chmod(0o755)
        self.told = 0.0                             # when it was told to end, and when it did
        self.ended = 0.0

    def stopped(self) -> None:
        self.ended = self.now
        self._finished = True

    def go(self) -> None:
        with simulated(self):
            self.live(self.path)

    def term(self) -> None:
        self.told = self.now
        self.signal(signal.SIGTERM)

    def until(self, done: Callable[[], object], then: Callable[[], object]) -> None:
        """``then()`` as soon as ``done()``."""
        def look() -> None:
            if done():
                then()
            else:
                self.after(0.02, look)

        look()

    def ours(self) -> list[str]:
        return [line for line in self.rules() if line not in self.foreign]

    @property
    def texts(self) -> list[str]:
        return [record.getMessage() for _, record in self.log]

    def refuse(self, *members: str) -> None:
        for member in members:
            self.members[f"10.0.0.{member}", 8080] = REFUSES

    def changing(self) -> bool:
        return any("-r" in child.words and child.running for child in self.children)
