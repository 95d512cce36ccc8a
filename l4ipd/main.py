"""l4ipd: arguments, start-up errors while somebody can read them, pid file, detaching, signals, exit status."""

from __future__ import annotations

import argparse
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Protocol

from l4ipd import __version__
from l4ipd.checks.probe import Prober
from l4ipd.config import capacity
from l4ipd.config.estimate import Estimate, estimate
from l4ipd.config.explain import explained
from l4ipd.config.exposure import exposures
from l4ipd.config.files import Refused, load, missing_tools
from l4ipd.config.own_certificates import expiring
from l4ipd.config.warnings import warnings
from l4ipd.control.commands import Commands
from l4ipd.control.service import ControlService
from l4ipd.control.socket_file import Unusable, is_served
from l4ipd.daemon import Daemon
from l4ipd.descriptors import CHILD, Descriptors, TooFew, opened
from l4ipd.discovery.ask import ask
from l4ipd.ipfilter import plan
from l4ipd.ipfilter.host import shortcomings
from l4ipd.ipfilter.rdr import REMEDIES, explain
from l4ipd.ipfilter.snapshot import Snapshot, take_snapshot
from l4ipd.model import Config, Ipfilter
from l4ipd.reload import Reloader
from l4ipd.report import status
from l4ipd.report.notify import Notifier
from l4ipd.runtime import logs, pidfile
from l4ipd.runtime.child import Child, Exit, adopt_orphans, end_all, seal
from l4ipd.runtime.detach import Left, detach
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox.process import SandboxProcess
from l4ipd.state_saver import StateSaver
from l4ipd.web.site import Web

DEFAULT_CONFIG = "/usr/local/etc/l4ip.conf"
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1}
log = logging.getLogger("l4ipd")


def parser() -> argparse.ArgumentParser:
    """The command line; the manual is held against it by a test."""
    words = argparse.ArgumentParser(prog="l4ipd", allow_abbrev=False, description=(
        "Checks the servers behind an IPFilter gateway and keeps one round-robin rdr rule for each that is up."))
    add = words.add_argument
    add("-c", metavar="FILE", dest="config", default=DEFAULT_CONFIG, help="configuration (%(default)s)")
    add("-d", dest="foreground", action="store_true", help="stay in the foreground, log to standard error")
    add("-n", dest="check", action="store_true", help="check the configuration, print the rules, and exit")
    add("-v", dest="verbose", action="store_true", help="also log every probe; with -n: explain each check")
    add("-p", metavar="FILE", dest="pidfile", help="pid file (overrides the configuration)")
    add("-V", "--version", action="version", version=f"l4ipd {__version__}", help="print the version and exit")
    add("--sandbox", action="store_true", help="use the built-in IPFilter sandbox")
    add("--demo", action="store_true", help="a tour in the sandbox, in the foreground, until ^C")
    return words


class Companion(Protocol):
    """Who comes along with a daemon, and has something to clear up at the end."""

    def stop(self) -> None: ...


def main(argv: Sequence[str] | None = None, tour: Callable[[bool], int] | None = None) -> int:
    """Exit status 0: fine; 1: configuration or start-up error; 2: usage. ``tour(verbose)`` is what --demo does."""
    open_standard_streams()
    seal()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)    # whoever sends one this early means the daemon that is to come
    options = parser().parse_args(argv)
    if options.demo and (options.check or options.pidfile or options.config != DEFAULT_CONFIG):
        parser().error("--demo brings everything along: it goes with none of -c, -n and -p")
    try:
        if options.demo and tour is not None:
            return tour(options.verbose)
        config = load(options.config)
        if options.check and options.sandbox:
            with ExitStack() as stack:
                sandbox = SandboxProcess()
                stack.callback(sandbox.stop)
                return check(sandbox.adapt(config), options.config, options.verbose, at_home=False)
        if options.check:
            return check(config, options.config, options.verbose)
        with ExitStack() as stack:
            return serve(options, config, stack)
    except Refused as refusal:
        logging.shutdown()                          # its lines come before
        print(refusal, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    except BrokenPipeError:                         # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1


def open_standard_streams() -> None:
    """Let descriptors 0 to 2 lead somewhere: what is opened next would take their place, and be written to."""
    for fd, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)          # the lowest that is free: fd
            setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115


# -- the configuration

def check(config: Config, path: str, verbose: bool = False, at_home: bool = True) -> int:
    """-n: print the rules that would be loaded if every endpoint were up, and with ``verbose`` each check in words.

    ``at_home``: this machine is the gateway.
    """
    asked = ask(config)
    if asked.flaws:
        raise Refused("\n".join(asked.flaws))
    config = asked.config
    lines = plan.all_up(config)
    show_rules(lines)
    load = estimate(config)
    for words in (*asked.told, *(explained(config) if verbose else ())):
        print(words, file=sys.stderr)
    for warning in (*asked.doubts, *warnings(config), *exposures(config, path), *expiring(config),
                    *missing_tools(config), *shortages(config, load), *(shortcomings(config) if at_home else ())):
        print(f"warning: {warning}", file=sys.stderr)
    for line in (str(load), *capacity.lines(config)):
        print(f"load: {line}", file=sys.stderr)
    refusal = rehearse(config.ipfilter, lines)
    if refusal:
        print(f"ipnat -n refuses these rules: {refusal}", file=sys.stderr)
        return 1
    print("configuration OK", file=sys.stderr)
    return 0


def show_rules(lines: list[str]) -> None:
    """Print them. Raises Refused where that cannot be: whoever compares them with others must not believe a part."""
    try:
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
    except BrokenPipeError:
        raise
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)    # what is buffered would be tried again at the end
        raise Refused(f"the rules cannot be written: {(error.strerror or str(error)).lower()}") from None


def shortages(config: Config, load: Estimate) -> list[str]:
    """What this machine does not have enough of, as far as a process with our limits can tell."""
    try:
        budget = Descriptors(config, 3).budget
    except TooFew as problem:
        return [str(problem)]
    return load.warnings(budget.probes, budget.commands)


def rehearse(settings: Ipfilter, lines: list[str]) -> str:
    """Let ipnat parse the rules without loading them, if it can be used here. Returns what it has against them."""
    loop = Loop()
    ends: list[Exit] = []

    def done(end: Exit) -> None:
        ends.append(end)
        loop.stop()

    Child(loop, (*settings.ipnat, "-n", "-f", "-"), stdin="".join(f"{line}\n" for line in lines).encode(),
          timeout=settings.timeout, done=done)
    loop.run()
    loop.close()
    said = ends[0].stderr.decode(errors="replace")
    if ends[0].clean or ends[0].status is None or any(symptom in said for symptom, _ in REMEDIES):
        return ""
    return explain(ends[0].status, said, ends[0].timed_out)


# -- running

def serve(options: argparse.Namespace, config: Config, stack: ExitStack) -> int:
    """Everything from the first look at the pid file to the end of the loop."""
    sandbox = SandboxProcess() if options.sandbox else None
    if sandbox is not None:
        stack.callback(sandbox.stop)
        config = sandbox.adapt(config)
    path = os.path.abspath(options.pidfile or config.pidfile)
    left_behind = refuse_if_served(path, config.control.path)
    already = (opened() if options.foreground else 3) + (CHILD if sandbox is not None else 0)
    descriptors = allot_descriptors(config, already)
    options.config = os.path.abspath(options.config)

    def run_alone(ready: Callable[[], object]) -> int:
        hold_pidfile(path, left_behind, stack)
        return run(options, config, descriptors, sandbox, ready=ready)

    if options.foreground:
        logs.to_stderr(config.log)
        for warning in missing_tools(config):
            log.warning("%s", warning)
        return run_alone(lambda: None)
    for warning in (*missing_tools(config), *exposures(config, options.config)):
        print(f"warning: {warning}", file=sys.stderr)
    return in_background(config, stack, run_alone)


def in_background(config: Config, stack: ExitStack, run_alone: Callable[[Callable[[], object]], int]) -> int:
    """Lead a daemon's life while the command waits until it is ready. What hinders that is said here and there."""
    command = detach(stack)
    logs.to_syslog(config.log)
    try:
        return run_alone(command.ready)
    except Refused as refusal:
        log.error("%s", refusal)
        print(refusal, file=sys.stderr, flush=True)
        command.said()
    except Left:
        log.error("whoever started l4ipd did not wait until it was ready: it ends")
    return 0


def hold_pidfile(path: str, left_behind: int | None, stack: ExitStack) -> None:
    """Hold the pid file, until ``stack`` ends. Raises Refused."""
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)   # whoever reads the pid file may send one: it waits for the loop
    try:
        stack.enter_context(pidfile.PidFile(path))
    except pidfile.Running as running:              # between our look and now
        raise Refused(f"l4ipd is already running, pid {running.pid or 'unknown'} ({path})") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be taken: {error}") from None
    if left_behind is not None:
        log.warning("%s was left behind by process %s, which is gone: replaced", path, left_behind or "?")


def refuse_if_served(path: str, control: str) -> int | None:
    """Refuse the start while standard error is there to say why."""
    try:
        left_behind = pidfile.clear(path)
        pidfile.check_writable(path)
    except pidfile.Running as running:
        raise Refused(f"l4ipd is already running, pid {running.pid or 'unknown'} ({path})") from None
    except OSError as error:
        raise Refused(f"{path}: cannot create the pid file: {error.strerror} (start as root, or name another with -p)"
                      ) from None
    if os.path.exists(control) and is_served(control):
        raise Refused(f"{control}: another program listens there, probably another l4ipd: stop it, or give this one a "
                      "control, a pidfile, a state and a tag of its own")
    return left_behind


def allot_descriptors(config: Config, already: int) -> Descriptors:
    """The descriptors, shared out; so many are open ``already``."""
    try:
        return Descriptors(config, already)
    except TooFew as problem:
        raise Refused(str(problem)) from None


def run(options: argparse.Namespace, config: Config, descriptors: Descriptors, sandbox: SandboxProcess | None = None, *,
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
        doubts = [*warnings(config), *(exposures(config, options.config) if companion is None else ()),
                  *expiring(config)]
        adapt = sandbox.adapt if sandbox is not None else _as_it_is
        reloader = Reloader(daemon, options.config, adapt, descriptors, doubts)
        handle_signals(loop, daemon, reloader)
        log.info("l4ipd %s started: %d endpoints from %s", __version__, sum(1 for _ in config.endpoints()),
                 options.config)
        for warning in doubts:
            log.warning("%s", warning)
        start = Start(loop, ready)
        notifier = Notifier(loop, daemon, config.notify)
        daemon.events.listen(notifier.heard)
        saver = StateSaver(loop, daemon, config.state)
        control = open_control(loop, daemon, config, Commands(daemon, reloader, saver.file), budget.clients)
        stack.callback(saver.close)                 # not of a start that was refused: the file may be another's
        stack.callback(control.close)
        stack.callback(notifier.stop)
        site = Web(loop, daemon, budget.clients)
        stack.callback(site.stop)

        def begin() -> None:
            daemon.start(saver.saved)
            site.start()
            tune_garbage_collector()
            start.begun()

        if sandbox is not None:
            stack.callback(sandbox.stop)
            sandbox.start(loop, begin, start.failed)
        else:
            begin()
        if companion is not None:
            stack.callback(companion(loop, daemon).stop)
        loop.run()
        start.check()
        undone = daemon.shutdown.undone if daemon.shutdown is not None else []
        for words in undone:
            log.error("stopped before the rules were as they should be: %s", words)
    log.info("l4ipd stopped")
    return 1 if undone and daemon.steering.removing else 0


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

    def begun(self) -> None:
        """Everything is there: in its next turn the loop answers."""
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


def handle_signals(loop: Loop, daemon: Daemon, reload: Reloader) -> None:
    """Do what signals ask for."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(signum, lambda: stop(daemon))
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


def stop(daemon: Daemon) -> None:
    keep = daemon.config.ipfilter.on_stop == "keep"
    log.info("stopping; the rules %s", "stay" if keep else "are removed")
    daemon.stop()


def show(daemon: Daemon) -> None:
    """SIGUSR1: what `l4ipctl show` prints, to the log."""
    def seen(kernel: Snapshot) -> None:
        for line in status.table(status.rows(daemon, kernel=None if kernel.problem else kernel.ours)):
            log.info("%s", line)
        for line in status.summaries(daemon):
            log.info("%s", line)

    take_snapshot(daemon.loop, daemon.steering.nat, seen)

