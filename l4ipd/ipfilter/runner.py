"""Runs the tools of one table, one run at a time, and does not wait for one that hangs when its tool works again.

A run may take all of its time. When it takes far more than those before it, another is begun beside it, now and then,
that changes nothing and has little time. If that comes to its end, the first is broken off. The next one then gets all
of its time: it may be that the tool is only slow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from l4ipd.model import Words
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop, Timer

LATER, SOONER = 2.0, 1.0                            # seconds until a run seems to hang, at first, and after one did
RATE = 100.0                                        # lines that a slow machine changes in a second
PATIENCE = 1.5                                      # seconds for an answer to the question whether a tool works
AGAIN = 0.5                                         # seconds until it is asked again; all of this in five (reconcile)
Spawn = Callable[..., Child]
Done = Callable[[Exit, bool], object]


@dataclass(frozen=True)
class Question:
    """A run that changes nothing. ``last`` is the line that ends its output; without one, a clean exit is an answer."""

    words: Words
    last: bytes = b""


@dataclass
class _Recent:
    """How the runs of one kind have gone."""

    took: float = 0.0                               # the longest of the last, in seconds
    hung: bool = False                              # the last one did
    patient: bool = False                           # the last one was broken off


class Runner:
    """``torn(answered)`` is called when a question was broken off, before it was answered or then."""

    def __init__(self, loop: Loop, spawn: Spawn | None, torn: Callable[[bool], object]) -> None:
        self.loop = loop
        self.spawn: Spawn = spawn or Child
        self.runs = 0
        self._child: Child | None = None
        self._broken_off = False                    # the run that is under way
        self._recent = {"list": _Recent(), "change": _Recent()}
        self._tool_check = _ToolCheck(loop, self.spawn, self._break_off, torn)

    @property
    def busy(self) -> bool:
        return self._child is not None

    def forget(self) -> None:
        """The tools are others now."""
        self._recent = {kind: _Recent() for kind in self._recent}

    def start(self, kind: str, words: Words, question: Question, timeout: float, done: Done, *, stdin: bytes = b"",
              output: Callable[[bytes], bool] | None = None) -> None:
        """Begin a run, a "list" or a "change". ``done(end, broken_off)`` is called when it is over."""
        self.runs += 1
        self._broken_off = False
        began, recent = self.loop.clock(), self._recent[kind]
        self._child = self.spawn(self.loop, words, stdin=stdin, timeout=timeout, output=output,
                                 done=lambda end: self._ended(recent, began, end, done))
        works = self._recent["list"].took > 0
        if not recent.patient and (recent.hung or works):
            first = SOONER if recent.hung else LATER + stdin.count(b"\n") / RATE
            self._tool_check.watch(question, max(first, 2 * recent.took))

    def _ended(self, recent: _Recent, began: float, end: Exit, done: Done) -> None:
        self._child, broken_off = None, self._broken_off
        try:
            self._tool_check.stop()
            recent.patient, recent.hung = broken_off, end.timed_out and not broken_off
            if end.status is not None and not (end.timed_out or broken_off):
                recent.took = max(recent.took / 2, self.loop.clock() - began)
        finally:                                    # whoever waits for it has to hear of it
            done(replace(end, timed_out=end.timed_out or broken_off), broken_off)

    def _break_off(self) -> None:
        if self._child is not None:
            self._broken_off = True
            self._child.kill()


class _ToolCheck:
    """Whether the tool of a run that seems to hang works: asks a question again and again, until it is answered;
    ``found()`` is called then.
    """

    def __init__(self, loop: Loop, spawn: Spawn, found: Callable[[], object], torn: Callable[[bool], object]) -> None:
        self.loop, self.spawn, self.found, self.torn = loop, spawn, found, torn
        self._question: Question | None = None
        self._seen = b""
        self._late = False                          # what is being asked is of a run that is over
        self._timer = Timer(self._ask)
        self._child: Child | None = None

    def watch(self, question: Question, after: float) -> None:
        self._question = question
        self.loop.set(self._timer, self.loop.clock() + after)

    def stop(self) -> None:
        self._question, self._late = None, True
        self.loop.clear(self._timer)
        if self._child is not None:
            self._child.kill()

    def raised(self) -> None:
        """To ask has raised: then nobody does, and the run has all of its time."""
        self.stop()

    def _ask(self) -> None:
        question = self._question
        if self._child is not None:                 # it is late, and does not heed that it was broken off
            self.loop.set(self._timer, self.loop.clock() + AGAIN)
        elif question is not None:
            self._seen, self._late = b"", False
            self._child = self.spawn(self.loop, question.words, timeout=PATIENCE, output=self._read,
                                     done=lambda end: self._answered(question, end))

    def _read(self, chunk: bytes) -> bool:
        """Only to see the end."""
        last = self._question.last if self._question is not None else b""
        self._seen = self._seen[-len(last):] + chunk if last else b""
        return bool(last) and last in self._seen

    def _answered(self, question: Question, end: Exit) -> None:
        self._child = None
        answered = not end.timed_out and (question.last in self._seen if question.last else end.status == 0)
        if not answered or (question.last and end.status != 0):
            self.torn(answered)
        if self._late:                              # what it says as it dies tells nothing of the run of now
            return
        if answered:
            self.found()
        else:
            self.loop.set(self._timer, self.loop.clock() + AGAIN)
