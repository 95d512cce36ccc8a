"""The daemon's run: everything around it is made, until the loop ends; signals, and what a start that fails says."""

from __future__ import annotations

import argparse
import gc
import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from l4ipd import __version__
from l4ipd.checks.probe import Prober
from l4ipd.config.exposure import exposures
from l4ipd.config.files import Refused
from l4ipd.config.own_certificates import expiring
from l4ipd.config.warnings import warnings
from l4ipd.control.commands import Commands
from l4ipd.control.service import ControlService
from l4ipd.control.socket_file import Unusable
from l4ipd.daemon import Daemon
from l4ipd.descriptors import Descriptors, TooFew
from l4ipd.ipfilter.snapshot import Snapshot, take_snapshot
from l4ipd.model import Config
from l4ipd.reload import Reloader
from l4ipd.report import status
from l4ipd.report.notify import Notifier
from l4ipd.runtime.child import adopt_orphans, end_all
from l4ipd.runtime.detach import Left
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox.process import SandboxProcess
from l4ipd.state_saver import StateSaver
from l4ipd.web.site import Web

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
log = logging.getLogger("l4ipd")


class Companion(Protocol):
    """Who comes along with a daemon, and has something to clear up at the end."""

    def stop(self) -> None: ...


def allot_descriptors(config: Config, already: int) -> Descriptors:
    """The descriptors, shared out; so many are open ``already``."""
    try:
        return Descriptors(config, already)
    except TooFew as problem:
        raise Refused(str(problem)) from None


def run_daemon(options: argparse.Namespace, config: Config, descriptors: Descriptors,
               sandbox: SandboxProcess | None = None, *,
               companion: Callable[[Loop, Daemon], Companion] | None = None,
               ready: Callable[[], object] = lambda: None) -> int:
    """The daemon's life, from a loop that nobody has forked from; returns the exit status.

    A ``companion`` comes along in the demo.

    ``ready()`` is called when the control socket answers. Raises Refused if that never comes to be.
    """
    with ExitStack() as stack:
        adopt_orphans()
        loop = Loop()
        stack.callback(loop.close)
        stack.callback(end_all)
        budget = descriptors.budget
        daemon = Daemon(loop, config, budget.probes, Prober(loop, budget.commands, budget.spare))
        if options.verbose:
            daemon.fleet.schedule.log_all()
        warned = [*warnings(config), *(exposures(config, options.config) if companion is None else ()),
                  *expiring(config)]
        adapt = sandbox.adapt if sandbox is not None else _as_it_is
        reloader = Reloader(daemon, options.config, adapt, descriptors, warned)
        handle_signals(loop, daemon, reloader, sandbox is not None)
        _tell_start(config, options.config, warned)
        start = Start(loop, ready)
        begin = _surround(stack, daemon, config, reloader, budget.clients)
        if sandbox is not None:
            stack.callback(sandbox.stop)
            sandbox.start(loop, lambda: start.begin(begin), start.failed)
        else:
            start.begin(begin)
        if companion is not None:
            stack.callback(companion(loop, daemon).stop)
        loop.run()
        start.check()
        undone = _undone(daemon)
    log.info("l4ipd stopped")
    return 1 if undone and daemon.steering.removing else 0


def _tell_start(config: Config, path: str, warned: Sequence[str]) -> None:
    log.info("l4ipd %s started: %d endpoints from %s", __version__, sum(1 for _ in config.endpoints()), path)
    for warning in warned:
        log.warning("%s", warning)


def _surround(stack: ExitStack, daemon: Daemon, config: Config, reloader: Reloader, clients: int
              ) -> Callable[[], object]:
    """Make all that is around a daemon, for ``clients`` in all; ``stack`` ends it. Returns what begins its work."""
    loop = daemon.loop
    notifier = Notifier(loop, daemon, config.notify)
    daemon.events.listen(notifier.heard)
    saver = StateSaver(loop, daemon, config.state)
    control = open_control(loop, daemon, config, Commands(daemon, reloader, saver.file), clients)
    stack.callback(saver.close)                     # not of a start that was refused: the file may be another's
    stack.callback(control.close)
    stack.callback(notifier.stop)
    site = Web(loop, daemon, clients)
    stack.callback(site.stop)

    def begin() -> None:
        daemon.start(saver.saved)
        site.start()
        tune_garbage_collector()
    return begin


def _undone(daemon: Daemon) -> list[str]:
    """What was left that ought not to be, which is said."""
    undone = daemon.shutdown.undone if daemon.shutdown is not None else []
    for words in undone:
        log.error("stopped before the rules were as they should be: %s", words)
    return undone


def _as_it_is(config: Config) -> Config:
    return config


def tune_garbage_collector() -> None:
    gc.collect()
    gc.freeze()                                     # what lives as long as we do need not be looked through again
    gc.set_threshold(50_000, 20, 50)                # probes come and go without cycles: looking for them costs 10 %


class Start:
    """How far a start has come: it ends the loop when it cannot succeed."""

    def __init__(self, loop: Loop, ready: Callable[[], object]) -> None:
        self.loop, self._ready = loop, ready
        self.problem: Exception | None = None

    def begin(self, work: Callable[[], object]) -> None:
        """Everything is there, and work begins: in its next turn the loop answers."""
        work()
        self.loop.later(0, self._answering)

    def _answering(self) -> None:
        try:
            self._ready()
        except Left as left:
            self._end(left)

    def raised(self) -> None:
        """That has, for another reason: nobody was told that we answer."""
        self.failed(f"the start failed: {INTERNAL}")

    def failed(self, words: str) -> None:
        self._end(Refused(words))

    def _end(self, problem: Exception) -> None:
        self.problem = problem
        self.loop.stop()

    def check(self) -> None:
        if self.problem is not None:
            raise self.problem


def handle_signals(loop: Loop, daemon: Daemon, reload: Reloader, sandboxed: bool) -> None:
    """Do what signals ask for."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(signum, lambda: stop(daemon, sandboxed))
    loop.on_signal(signal.SIGHUP, reload)
    for name in ("SIGUSR1", "SIGINFO"):
        if hasattr(signal, name):
            loop.on_signal(getattr(signal, name), lambda: show(daemon))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


def open_control(loop: Loop, daemon: Daemon, config: Config, commands: Commands, clients: int) -> ControlService:
    try:
        return ControlService(loop, daemon, config.control, commands.by_name(), clients)
    except Unusable as problem:
        raise Refused(f"control socket: {problem}") from None


def stop(daemon: Daemon, sandboxed: bool) -> None:
    keep = daemon.config.ipfilter.on_stop == "keep"
    log.info("stopping; the rules %s", "are removed" if not keep else "end with the sandbox" if sandboxed else "stay")
    daemon.stop()


def show(daemon: Daemon) -> None:
    """SIGUSR1: what `l4ipctl show` prints, to the log."""
    def seen(kernel: Snapshot) -> None:
        for line in status.table(status.rows(daemon, kernel=None if kernel.problem else kernel.ours)):
            log.info("%s", line)
        for line in status.summaries(daemon):
            log.info("%s", line)

    take_snapshot(daemon.loop, daemon.steering.nat, seen)

