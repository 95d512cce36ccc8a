"""``python3 -I -m l4ipd.sandbox serve``: the process that stands for the kernel."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

from l4ipd.runtime.loop import READ, Loop
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.relay.listeners import Relay
from l4ipd.sandbox.server import Call, Server
from l4ipd.sandbox.tools.ipf import ipf
from l4ipd.sandbox.tools.ipfstat import ipfstat
from l4ipd.sandbox.tools.ipmon import ipmon
from l4ipd.sandbox.tools.ipnat import ipnat
from l4ipd.sandbox.tools.run import STDERR, Run
from l4ipd.sandbox.version import Version

WARNING = "sandbox: this is no production balancer: it relays connections in user space, to try things out\n"


def serve(path: str, version: Version, until_eof: bool, iterator_life: float) -> int:
    """Run until TERM or INT, or until standard input ends; returns the exit status."""
    loop = Loop()
    kernel = Kernel(version, iterator_life=iterator_life)
    _raise_limit()
    try:
        server = Server(loop, path, lambda call: start(kernel, call), kernel.log.wait)
    except OSError as error:
        sys.stderr.write(f"sandbox: {path}: cannot listen there: {error.strerror or error}\n")
        return 1
    relay = Relay(loop, kernel, lambda line: print("sandbox:", line, file=sys.stderr, flush=True))
    kernel.changed = relay.sync
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.on_signal(signum, loop.stop)
    if until_eof:
        loop.watch(0, READ, lambda: None if os.read(0, 4096) else loop.stop())
    sys.stderr.write(WARNING)
    sys.stderr.flush()
    with contextlib.suppress(OSError):
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    loop.run()
    server.close()
    relay.close()
    loop.close()
    return 0


def start(kernel: Kernel, call: Call) -> Run:
    if call.tool == "ipnat":
        return ipnat(kernel, call.arguments, call.directory, spawner=call.spawner)
    if call.tool == "ipf":
        return ipf(kernel, call.arguments, call.directory, spawner=call.spawner)
    if call.tool == "ipfstat":
        return ipfstat(kernel, call.arguments, call.spawner)
    if call.tool == "ipmon":
        return ipmon(kernel, call.arguments, call.directory, call.zone, call.pid)
    return _unknown(call.tool)


def _unknown(tool: str) -> Run:
    yield STDERR, f"{tool}: no such tool\n"
    return 2


def _raise_limit() -> None:
    """Every relayed connection takes two descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
