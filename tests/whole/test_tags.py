"""Another tag, by a reload that a kill -9 interrupts, or comes before: what bears the old one, or none, is ours in the
next run, too.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from l4ipd.events import Event
from support.simulated_daemon import CONFIG
from support.simulation import World, simulated


class Life(World):
    """A daemon whose tag changes, killed some seconds after the reload (None: before it); the next one has peace."""

    def __init__(self, directory: Path, before: str, after: str, seconds: float | None) -> None:
        super().__init__(1, directory)
        self.path, self.after_reload, self.seconds = directory / "l4ip.conf", after, seconds
        self.configure(before)
        for tool in ("ipnat", "ipf", "ipfstat", "ipmon"):
            (directory / tool).write_text("#!/bin/sh\n")
            (directory / tool).chmod(0o755)
        self.lives = 0

    def configure(self, tag: str) -> None:
        self.path.write_text(CONFIG.format(self.directory, f", tag: {tag}", ""))

    def started(self) -> None:
        assert self.daemon is not None
        self.lives += 1
        if self.lives == 1:
            self.daemon.events.listeners.append(self.heard)
            self.after(5.0, self.change)
        else:
            self.slowest = 0.02
            self.after(20.0, self.over)

    def change(self) -> None:
        self.slowest = 20.0                         # nothing comes to its end any more
        self.configure(self.after_reload)
        if self.seconds is None:
            self.kill()
        else:
            self.signal(signal.SIGHUP)

    def heard(self, event: Event) -> None:
        if event.kind == "reloaded":
            assert self.seconds is not None
            self.after(self.seconds, self.kill)


@pytest.mark.parametrize("seconds", [None, 0.05, 0.5, 3.0, 8.0])
@pytest.mark.parametrize(("before", "after"), [("no", "gw2"), ("l4ip", "gw2"), ("l4ip", "no"), ("gw22", "gw2")])
def test_what_bears_the_old_tag_goes(tmp_path: Path, before: str, after: str, seconds: float | None) -> None:
    world = Life(tmp_path, before, after, seconds)
    with simulated(world):
        world.live(world.path)
    assert world.lives == 2
    ours = sorted(line.partition(" round-robin")[2] for line in world.rules() if line not in world.foreign)
    assert ours == ["" if after == "no" else f" tag {after}"] * 3
