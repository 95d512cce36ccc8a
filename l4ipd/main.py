"""l4ipd: arguments, start-up errors while somebody can read them, pid file, detaching, exit status."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from l4ipd import __version__
from l4ipd.config.exposure import exposures
from l4ipd.config.files import Refused, load, missing_tools
from l4ipd.configtest import configtest
from l4ipd.control.socket_file import is_served
from l4ipd.descriptors import CHILD, opened
from l4ipd.model import Config
from l4ipd.run import SIGNALS, allot_descriptors, run_daemon
from l4ipd.runtime import logs, pidfile
from l4ipd.runtime.child import seal
from l4ipd.runtime.detach import Left, detach
from l4ipd.sandbox.process import SandboxProcess

DEFAULT_CONFIG = "/usr/local/etc/l4ip.conf"
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
                return configtest(sandbox.adapt(config), options.config, options.verbose, at_home=False)
        if options.check:
            return configtest(config, options.config, options.verbose)
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
        return run_daemon(options, config, descriptors, sandbox, ready=ready)

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
