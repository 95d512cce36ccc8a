"""A gateway whose clock is simulated: minutes of trouble in milliseconds.

The loop, the reconciler and everything above are the real ones, and the tools are the sandbox's, on its kernel. What is
simulated is time, and the processes: each run takes some of it, and may meet a fault.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from l4ipd.ipfilter import log_rules, rdr
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox.filter.rule import show
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.nat.grammar import NatParser
from l4ipd.sandbox.nat.table import RuleExists
from l4ipd.sandbox.syntax.lexer import RuleError
from l4ipd.sandbox.tools.ipf import ipf
from l4ipd.sandbox.tools.ipfstat import ipfstat
from l4ipd.sandbox.tools.ipnat import ipnat
from l4ipd.sandbox.tools.run import STDIN, STDOUT, Run
from l4ipd.sandbox.version import VERSIONS
from support.loops import Clock

GRACE = 1.0                                         # seconds from TERM to KILL, for one that heeds only KILL
LISTING = ("-l", "-iR", "-aihR", "-lhR")
#: what may happen to a run; see :class:`Run`
FAULTS = ("die", "fail", "grumble", "lie", "lose", "cut", "empty", "hang", "stubborn", "vanish", "slow")


class Sleep:
    """In place of a poller: nothing ever arrives, and sleeping takes no time."""

    CONNECT = 0
    closing = None

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def poll(self, timeout: float | None) -> list[tuple[int, int]]:
        assert timeout is not None, "nothing is left to wait for"
        self.clock.now += timeout + 1e-6
        return []

    def register(self, fd: int, events: int) -> None: ...
    def modify(self, fd: int, events: int) -> None: ...
    def unregister(self, fd: int) -> None: ...
    def close(self) -> None: ...


class Process:
    """A run of a tool: at its end, be it by itself or by a signal, the kernel has seen what it has done."""

    def __init__(self, tools: Tools, words: Sequence[str], stdin: bytes, timeout: float | None,
                 done: Callable[[Exit], object], output: Callable[[bytes], bool] | None) -> None:
        self.tools, self.words, self.stdin, self.done, self.output = tools, words, stdin, done, output
        self.loop, pick = tools.loop, tools.source
        self.fault = tools.fault(words)
        self.over = False
        tools.running.append(self)
        if self.fault == "vanish":
            self.loop.later(0, lambda: self._end(Exit(None, error=f"{words[0]}: no such program", errno=2)))
            return
        took = pick.uniform(*tools.takes) if self.fault not in ("hang", "stubborn") else float("inf")
        took = took + 4.0 if self.fault == "slow" else took
        if timeout is not None and took > timeout:
            self.loop.later(timeout, lambda: self._killed(True))
        elif took < float("inf"):
            self.loop.later(took, self._run)

    def kill(self) -> None:
        self._killed(False)

    def _killed(self, timed_out: bool) -> None:
        def end() -> None:
            self._end(Exit(-15, b"", b"", timed_out), self.tools.source.randrange(40) if self.fault != "hang" else 0)

        self.loop.later(GRACE if self.fault == "stubborn" else 0.0, end)

    def _run(self) -> None:
        fault, pick = self.fault, self.tools.source
        listing = any(word in LISTING for word in self.words)
        if fault == "lose" and not listing:
            lines = self.stdin.splitlines(keepends=True)
            lost = pick.randrange(len(lines) or 1)
            self.stdin = b"".join(lines[:lost] + lines[lost + 1:])
        if fault == "fail":
            self._end(Exit(1, b"", b"ioctl: the weather is bad\n"))
        elif fault == "empty" or (not listing and (fault == "lie" or not self.stdin)):
            self._end(Exit(0))
        elif fault == "die":
            self._end(Exit(-9), pick.randrange(40))
        else:
            self._end(Exit(1 if fault == "grumble" else 0), 1 << 30)

    def _end(self, end: Exit, steps: int = 0) -> None:
        """Let the tool make so many steps, and tell what came of it."""
        if self.over:
            return
        self.over = True
        self.tools.running.remove(self)
        if steps:
            end = self._steps(end, steps)
        self.done(end)

    def _steps(self, end: Exit, steps: int) -> Exit:
        out, err = bytearray(), bytearray()
        run = self.tools.begin(self.words)
        answer: bytes | None = None
        try:
            for _ in range(steps):
                kind, text = run.send(answer)
                answer = self.stdin if kind == STDIN else None
                if kind == STDOUT:
                    out += text.encode()
                elif kind != STDIN:
                    err += text.encode()
        except StopIteration as done:
            if end.status == 0:
                end = Exit(int(done.value), b"", bytes(err), end.timed_out, cost=self.tools.cost)
        run.close()
        if self.fault == "cut" and any(word in LISTING for word in self.words):
            del out[self.tools.source.randrange(len(out) + 1):]
        if self.output is None:
            end = replace(end, stdout=bytes(out))
        pieces = max(1, self.tools.source.choice((1, 50, 4096, 1 << 20)))
        for start in range(0, len(out), pieces):
            if self.output is not None and self.output(bytes(out[start:start + pieces])):
                break
        return end


class Tools:
    """ipnat, ipf and ipfstat. ``fault(words)`` decides what happens to a run; ``takes`` is how long one lasts."""

    def __init__(self, loop: Loop, clock: Clock, source: random.Random,
                 takes: tuple[float, float] = (0.005, 0.05), version: str = "6.0.0") -> None:
        self.loop, self.clock, self.source, self.takes = loop, clock, source, takes
        self.kernel = Kernel(VERSIONS[version], clock, iterator_life=10.0)
        self.fault: Callable[[Sequence[str]], str] = lambda words: "ok"
        self.cost = 0.0                             # seconds of a core that each run takes
        self.running: list[Process] = []
        self.runs: list[tuple[str, ...]] = []

    def spawn(self, loop: Loop, words: Sequence[str], *, stdin: bytes = b"", timeout: float | None,
              done: Callable[[Exit], object], output: Callable[[bytes], bool] | None = None) -> Child:
        assert loop is self.loop
        self.runs.append(tuple(words))
        return Process(self, words, stdin, timeout, done, output)       # type: ignore[return-value]

    def begin(self, words: Sequence[str]) -> Run:
        tool, arguments = words[0], words[1:]
        if tool == "ipnat":
            return ipnat(self.kernel, arguments, "/", spawner="us")
        if tool == "ipf":
            return ipf(self.kernel, arguments, "/", spawner="us")
        return ipfstat(self.kernel, arguments, "us")

    # -- what others do, and what there is

    def add(self, lines: Iterable[str]) -> None:
        """Somebody else loads NAT rules."""
        for rule in NatParser("".join(f"{line}\n" for line in lines), lambda text: None, self.kernel.version.old):
            with contextlib.suppress(RuleExists):
                self.kernel.nat.add(rule)

    def remove(self, line: str) -> None:
        """Somebody else removes a NAT rule, if it is there."""
        try:
            for rule in NatParser(line + "\n", lambda text: None, self.kernel.version.old):
                self.kernel.nat.remove(rule)
        except (KeyError, RuleError):
            pass

    def nat(self) -> list[str]:
        """The canonical lines of all rdr rules."""
        run, out = ipnat(self.kernel, ("-lR",), "/"), []
        for kind, text in run:
            if kind == STDOUT:
                out.append(text)
        found = [rdr.parse(line) for line in "".join(out).splitlines()]
        return [rule.line() for rule in found if rule is not None]

    def filter(self) -> list[str]:
        """The canonical lines of all log rules."""
        loaded = self.kernel.filter.listed(self.kernel.filter.active, "in", False)
        found = [log_rules.parse(show(each.rule, numeric=True)) for each in loaded]
        return [rule.line() for rule in found if rule is not None]


class World:
    """A loop on a simulated clock, and tools."""

    def __init__(self, seed: int, takes: tuple[float, float] = (0.005, 0.05), version: str = "6.0.0") -> None:
        self.source = random.Random(seed)
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleep(self.clock))
        self.tools = Tools(self.loop, self.clock, self.source, takes, version)

    def run(self, seconds: float) -> None:
        """Let time go by."""
        late = self.loop.later(seconds, self.loop.stop)
        self.loop.run()
        self.loop.clear(late)

    def until(self, done: Callable[[], bool], patience: float) -> float:
        """Let time go by until ``done()``; how long that took. Fails when patience is over."""
        began = self.clock.now
        self.loop.hook(lambda: self.loop.stop() if done() else None)
        late = self.loop.later(patience, self.loop.stop)
        self.loop.run()
        self.loop._hooks.pop()
        self.loop.clear(late)
        assert done(), f"not within {patience} s"
        return self.clock.now - began
