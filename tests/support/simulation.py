"""The daemon in simulated time: run_daemon() as it is, with all its classes, and nothing real around it.

Simulated are the clock and what the loop waits for (:class:`Poller`), child processes (:class:`Child`), whose tools
work in this process on the sandbox's engine, so that grammar, listings and messages are the real ones, and probes
(:class:`Probe`). Minutes pass in a fraction of a second, and a seed tells all that happens: how long each tool takes,
which fails, does half or hangs, which member refuses, and what :class:`World` is told to do and when.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import heapq
import itertools
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from l4ipd import run
from l4ipd.checks import probe
from l4ipd.checks.verdict import Leave, Verdict
from l4ipd.config.files import load
from l4ipd.daemon import Daemon
from l4ipd.descriptors import Descriptors
from l4ipd.resets.other_name import NAME
from l4ipd.runtime import child as child_module
from l4ipd.runtime import state_file
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import READ, WRITE, Loop
from l4ipd.sandbox.kernel import REFUSED, Kernel
from l4ipd.sandbox.tools.ipf import ipf
from l4ipd.sandbox.tools.ipfstat import ipfstat
from l4ipd.sandbox.tools.ipmon import ipmon
from l4ipd.sandbox.tools.ipnat import ipnat
from l4ipd.sandbox.tools.run import STDOUT, WAIT, Run
from l4ipd.sandbox.version import VERSIONS
from support.sandbox_tools import drive

EPOCH = 1_800_000_000.0                             # time of day when the simulated clock says 0
BUSY = 2000                                         # turns of the loop in a second that are too many
OUTSIDE = -2                                        # the descriptor by which the world is heard
FOREIGN = ["map em0 10.0.0.0/24 -> 0/32", "rdr em0 203.0.113.200/32 port 22 -> 10.0.0.9 port 22 tcp"]
GOOD, REFUSES, SILENT, SICK, LEAVES = "good", "refuses", "silent", "sick", "leaves"


class Ended(BaseException):
    """Out of everything: the daemon was killed, or the run is over."""


class World:
    """Time, the kernel, the members, and everything that is yet to happen."""

    def __init__(self, seed: int, directory: Path, version: str = "6.0.0") -> None:
        self.random = random.Random(seed)
        self.directory = directory
        self.now = 1000.0
        self.kernel = Kernel(VERSIONS[version], clock=lambda: self.now, iterator_life=10.0)
        self.kernel.log.wall = self.wall
        self.members: dict[tuple[str, int], str] = {}       # address and port -> how it behaves; GOOD by default
        self.faults = 0.0                           # how many tools misbehave, of all
        self.slowest = 0.02                         # seconds that a tool takes at most
        self.stalls = 0.0                           # how many turns are followed by a pause
        self.children: set[Child] = set()
        self.probes: set[Probe] = set()
        self.daemon: Daemon | None = None
        self.log: list[tuple[float, logging.LogRecord]] = []
        self.failure: BaseException | None = None
        self._heap: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()
        self._loop: SimulatedLoop | None = None
        self.dead = False                           # killed: what Python clears away then, nobody sees
        self.turns, self._second = 0, self.now      # turns of the loop since then, within a second
        self._ports = itertools.count(1024)
        self.load_foreign()
        self.foreign = set(self.rules())            # as the kernel lists them

    def wall(self) -> float:
        return EPOCH + self.now

    def at(self, when: float, what: Callable[[], object]) -> None:
        heapq.heappush(self._heap, (when, next(self._count), what))

    def after(self, seconds: float, what: Callable[[], object]) -> None:
        self.at(self.now + seconds, what)

    # -- the daemon's life

    def live(self, path: Path) -> None:
        """Start the daemon, and again whenever it has ended, until :meth:`over`."""
        self._finished = False
        options = argparse.Namespace(verbose=False, config=str(path))
        while not self._finished:
            self.dead = False
            with contextlib.suppress(Ended):
                config = load(str(path))
                run.run_daemon(options, config, Descriptors(config, 3), companion=self._meet)
                self.stopped()
            self.daemon = self._loop = None
            for child in list(self.children):
                child.abandon()
            for begun in list(self.probes):
                begun.cancel()
            gc.unfreeze()
            gc.collect()                            # whatever it had open is closed
        if self.failure is not None:
            raise self.failure

    def end_all(self) -> None:
        for child in list(self.children):
            if not child.outlives:
                child._end(-signal.SIGKILL)

    def over(self) -> None:
        self._finished = self.dead = True
        raise Ended

    def kill(self) -> None:
        """kill -9. What tools of it run, run on."""
        self.dead = True
        raise Ended

    def _meet(self, loop: Loop, daemon: Daemon) -> Any:
        self.daemon = daemon
        self.started()
        return SimpleNamespace(stop=lambda: None)

    def started(self) -> None:
        """A daemon begins: for whoever watches."""

    def stopped(self) -> None:
        """It has ended by itself."""

    def asked(self, tool: str, words: list[str], text: str) -> None:
        """A tool asks the kernel for something."""

    def signal(self, signum: int) -> None:
        assert self._loop is not None
        self._loop.signals[signum]()

    # -- time

    def make_loop(self) -> Loop:
        self._loop = SimulatedLoop(self)
        self._loop.watch_connect(OUTSIDE, self._deliver)
        return self._loop

    def wait(self, timeout: float | None) -> list[tuple[int, int]]:
        """The loop sleeps: until its next timer, or until something happens."""
        until = self._heap[0][0] if self._heap else float("inf")
        if timeout is not None:
            until = min(until, self.now + timeout)
        assert until < float("inf"), "nothing will ever happen"
        self.turns = self.turns + 1 if self.now < self._second + 1.0 else 0
        self._second = self.now if not self.turns else self._second
        assert self.turns < BUSY, "the loop does not sleep"
        self.now = max(self.now, until) + 0.0002 * self.random.random()
        if self.stalls and self.random.random() < self.stalls:
            self.now += self.random.uniform(0.6, 3.0)
        return [(OUTSIDE, READ)] if self._heap and self._heap[0][0] <= self.now else []

    def _deliver(self) -> None:
        until = self.now
        while self._heap and self._heap[0][0] <= until:
            what = heapq.heappop(self._heap)[2]
            if self._loop is not None and not isinstance(getattr(what, "__self__", None), Probe):
                self._loop.news()                   # of what a probe finds, the daemon says itself whether it is
            try:
                what()
            except Exception as error:
                self.failure = error
                self.over()

    # -- what happens in it

    def load_foreign(self) -> None:
        for rule in FOREIGN:
            drive(ipnat(self.kernel, ("-f", "-"), "/"), rule + "\n")

    def flush(self) -> None:
        """``service ipnat reload`` and ``service ipfilter reload``."""
        drive(ipnat(self.kernel, ("-CF",), "/"))
        drive(ipf(self.kernel, ("-Fa",), "/"))
        self.load_foreign()

    def rules(self) -> list[str]:
        """The kernel's NAT rules, as listed."""
        listed = drive(ipnat(self.kernel, ("-l",), "/")).stdout.partition("\n\nList of active")[0]
        return listed.splitlines()[1:]

    def filters(self) -> list[str]:
        return [line for words in (("-iR",), ("-6", "-iR"), ("-aiR",), ("-6", "-aiR"))
                for line in drive(ipfstat(self.kernel, words)).stdout.splitlines() if not line.startswith("empty")]

    def client(self, vip: str, port: int) -> None:
        """One connects; a member that refuses answers with a RST."""
        session = self.kernel.packet((6, "198.51.100.7", next(self._ports), vip, port))
        if session is not None and self.members.get((session.member, session.port), GOOD) == REFUSES:
            self.kernel.from_member(session, REFUSED)

    def banned(self, vip: str, port: int) -> None:
        """One connects whom the member refuses, though it is well."""
        session = self.kernel.packet((6, "198.51.100.66", next(self._ports), vip, port))
        if session is not None:
            self.kernel.from_member(session, REFUSED)


class SimulatedLoop(Loop):
    """The loop, without signals and threads."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.signals: dict[int, Callable[[], object]] = {}
        super().__init__(clock=lambda: world.now, poller=Poller(world))

    def on_signal(self, signum: int, callback: Callable[[], object]) -> None:
        self.signals[signum] = callback

    def handles(self, signum: int) -> bool:
        return signum in self.signals

    def aside(self, work: Callable[[], Any], done: Callable[[Any], object]) -> None:
        def ended() -> None:
            result = work()
            if self.world._loop is self:
                done(result)

        self.world.after(self.world.random.uniform(0.0, 0.5), ended)


class Poller:
    CONNECT = WRITE
    closing = None

    def __init__(self, world: World) -> None:
        self.poll = world.wait

    def register(self, fd: int, events: int) -> None: ...
    def modify(self, fd: int, events: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def close(self) -> None: ...


class Probe:
    """A probe of a member that is a word. What it finds is decided when it answers."""

    def __init__(self, world: World, recipe: Any, done: Callable[[Verdict], object]) -> None:
        self.world = world
        self.done: Callable[[Verdict], object] | None = done
        self.place = recipe.address, recipe.port
        world.probes.add(self)
        if self.behaviour == REFUSES and world.random.random() < 0.3:
            self._answer()
        else:
            world.after(world.random.uniform(0.0, 0.05), self._answer)

    @property
    def behaviour(self) -> str:
        return self.world.members.get(self.place, GOOD)

    def _answer(self) -> None:
        if self.behaviour != SILENT:
            self._say({GOOD: Verdict("L4OK", "connected"), REFUSES: Verdict("L4CON", "connection refused"),
                       SICK: Verdict("L7STS", "500 Internal Server Error"),
                       LEAVES: Leave("L7STS", "503 Service Unavailable")}[self.behaviour])

    def expire(self) -> float | None:
        self._say(Verdict("L4TOUT", "no connection within the timeout"))
        return None

    def cancel(self) -> None:
        self.world.probes.discard(self)
        self.done = None

    def _say(self, verdict: Verdict) -> None:
        done = self.done
        self.cancel()
        if done is not None:
            done(verdict)


class Child:
    """A child process that is not one; otherwise as :class:`l4ipd.runtime.child.Child`."""

    world: World
    pids = itertools.count(100)

    def __init__(self, loop: Loop, argv: Sequence[str], *, stdin: bytes = b"", timeout: float | None,
                 done: Callable[[Exit], object], output: Callable[[bytes], bool] | None = None,
                 errors: Callable[[bytes], bool] | None = None, hold_stdin: bool = False, outlives: bool = False,
                 limit: int = 1 << 20, env: Any = None, **_: Any) -> None:
        self.words, self.stdin, self.done = list(argv), stdin, done
        self.output, self.errors, self.limit, self.outlives = output, errors, limit, outlives
        self.pid = next(self.pids)
        self.timed_out = False
        self.running = True                         # the process
        self._heard = True                          # its parent still wants to know
        self._stdout = self._stderr = b""
        world = self.world
        world.children.add(self)
        self.plan()
        if timeout is not None:
            world.after(timeout, self.give_up)

    def plan(self) -> None:
        """Decide what it will do, and when."""
        world, chance = self.world, self.world.random
        name, words = self._tool()
        takes = chance.uniform(0.001, world.slowest)
        if name == "ipmon":
            self._become_ipmon(words)
            if chance.random() < world.faults:
                world.after(chance.uniform(1.0, 20.0), self._fail)
            return
        if name not in ("ipnat", "ipf", "ipfstat"):
            world.after(chance.uniform(0.001, 0.05), lambda: self._run_other(name, words))
            return
        fault = chance.choice(FAULTS) if chance.random() < world.faults else "none"
        if fault == "absent":
            world.after(0.0, lambda: self._end(None, error=f"{name}: no such program"))
        elif fault == "fail":
            world.after(takes, lambda: self._end(1, b"ioctl: the weather is bad\n"))
        elif fault == "hang":
            world.after(takes, lambda: self._work(name, words, fault))
        elif fault == "lie":
            world.after(takes, lambda: self._end(0))
        else:
            world.after(takes * chance.random(), lambda: self._work(name, words, fault))
            world.after(takes, lambda: self._finish(fault))
        self._status = 0

    def _tool(self) -> tuple[str, list[str]]:
        """Which of our programs it is, whoever starts it for us, and its arguments."""
        own = f"{self.world.directory}/bin/"
        place = next((place for place, word in enumerate(self.words)
                      if word.startswith(own) or os.path.basename(word) == NAME), 0)
        return os.path.basename(self.words[place]).removeprefix("l4ip-"), self.words[place + 1:]

    def _work(self, name: str, words: list[str], fault: str) -> None:
        """The moment at which the kernel is asked."""
        if not self.running:
            return
        text = self.stdin.decode("latin-1")
        self.world.asked(name, words, text)
        if fault == "half" and text:
            lines = text.splitlines(keepends=True)
            text = "".join(lines[:len(lines) // 2])
        elif fault == "hang" and text:
            return
        kernel = self.world.kernel
        run = {"ipnat": lambda: ipnat(kernel, words, "/", spawner="l4ipd"),
               "ipf": lambda: ipf(kernel, words, "/", spawner="l4ipd"),
               "ipfstat": lambda: ipfstat(kernel, words, spawner="l4ipd")}[name]()
        if not text and fault in ("half", "hang"):
            self._write(self._begin(run))
            return
        result = drive(run, text)
        self._status, out = result.status, result.stdout.encode("latin-1")
        self._stderr = result.stderr.encode("latin-1")
        self._write(out)

    def _begin(self, run: Run) -> bytes:
        """The first lines of a listing, which leaves its iterator in the kernel where it was broken off."""
        out = ""
        for kind, text in itertools.islice(run, self.world.random.randrange(8)):
            out += text if kind == STDOUT else ""
        run.close()
        return out.encode("latin-1")

    def _write(self, out: bytes) -> None:
        """To its standard output, in pieces."""
        if self.output is None:
            self._stdout += out[:self.limit]
            return
        while out and self._heard:
            size = self.world.random.choice((1, 7, 100, 4096, 65536))
            if self.output(out[:size]):
                if out[size:]:
                    self._status = -signal.SIGPIPE
                return
            out = out[size:]

    def _finish(self, fault: str) -> None:
        if fault == "die" or (fault == "half" and self.stdin):
            self._end(-signal.SIGKILL, self._stderr)
        elif fault == "grumble":
            self._end(1, self._stderr + b"ioctl: something else\n")
        else:
            self._end(self._status, self._stderr)

    def _fail(self) -> None:
        if self.world.faults:
            self._end(1)

    def _run_other(self, name: str, words: list[str]) -> None:
        """A command of a check says how its member is; a notify program, ps and all others are content."""
        if name != "check":
            self._end(0)
            return
        behaviour = self.world.members.get((words[0], int(words[1])), GOOD)
        if behaviour != SILENT:
            self._end(0 if behaviour == GOOD else 1)

    def _become_ipmon(self, words: list[str]) -> None:
        run = ipmon(self.world.kernel, ("-v",), "/")

        def pump() -> None:
            while self.running:
                kind, text = next(run)
                if kind == WAIT:
                    self.world.kernel.log.wait(wake)
                    return
                if kind == STDOUT and self._heard and self.output is not None:
                    self.output(text.encode())

        def wake() -> bool:
            if self.running:
                self.world.after(0.0005, pump)
            return self.running

        self.world.after(0.01, pump)

    # -- its end

    def kill(self) -> None:
        if self.running:
            self.world.after(self.world.random.choice((0.0, 0.01, 1.0)), lambda: self._end(-signal.SIGTERM))

    def give_up(self) -> None:
        if self.running:
            self.timed_out = True
            self.kill()

    def abandon(self) -> None:
        """Its parent is gone."""
        self._heard, self.done, self.output, self.errors = False, _nobody, None, None
        if self._tool()[0] in ("ipmon", "check"):
            self._end(0)

    def _end(self, status: int | None, stderr: bytes = b"", error: str = "") -> None:
        if not self.running:
            return
        self.running = False
        self.world.children.discard(self)
        done, errors, heard = self.done, self.errors, self._heard
        self._heard, self.done, self.output, self.errors = False, _nobody, None, None   # what is yet to come holds us
        if heard:
            if errors is not None and stderr:
                errors(stderr)
            done(Exit(status, self._stdout, stderr, self.timed_out, error, 2 if error else 0))


def _nobody(end: Exit) -> None:
    """Wants to know how it ended."""


FAULTS = ("absent", "fail", "half", "die", "grumble", "lie", "hang", "half", "fail")


class InlineThread:
    """A thread that has done its work as soon as it is started."""

    def __init__(self, target: Callable[..., object], args: tuple[Any, ...] = (), **_: Any) -> None:
        self.run: Callable[[], object] = lambda: target(*args)

    def start(self) -> None:
        self.run()

    def is_alive(self) -> bool:
        return False

    def join(self, timeout: float | None = None) -> None: ...


class Recorder(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__(logging.INFO)
        self.world = world

    def emit(self, record: logging.LogRecord) -> None:
        self.world.log.append((self.world.now, record))


@contextlib.contextmanager
def simulated(world: World) -> Iterator[None]:
    """Put the world in place of the real one, for whatever run_daemon() makes."""
    patch = pytest.MonkeyPatch()
    simulated_child = type("SimulatedChild", (Child,), {"world": world})
    for name, module in list(sys.modules.items()):
        if name.startswith("l4ipd") and getattr(module, "Child", None) is child_module.Child and \
                module is not child_module:
            patch.setattr(module, "Child", simulated_child)
    real_start = probe.Prober.start

    def start(prober: probe.Prober, recipe: Any, done: Any) -> Any:
        return real_start(prober, recipe, done) if recipe.command else Probe(world, recipe, done)

    patch.setattr(probe.Prober, "start", start)
    patch.setattr(run, "Loop", world.make_loop)
    patch.setattr(run, "end_all", world.end_all)
    patch.setattr(run, "adopt_orphans", lambda: None)      # this process would have those of all later tests
    patch.setattr(time, "time", world.wall)
    patch.setattr(state_file, "threading", SimpleNamespace(Thread=InlineThread, get_ident=threading.get_ident))
    patch.setattr(os, "fsync", lambda fd: None)
    logger, recorder = logging.getLogger("l4ipd"), Recorder(world)
    level, thresholds = logger.level, gc.get_threshold()
    logger.setLevel(logging.INFO)
    logger.propagate = False                        # records hold what they are about
    logger.addHandler(recorder)
    try:
        yield
    finally:
        logger.removeHandler(recorder)
        logger.setLevel(level)
        logger.propagate = True
        gc.unfreeze()
        gc.set_threshold(*thresholds)
        patch.undo()
