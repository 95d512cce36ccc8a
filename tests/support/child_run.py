"""A child on a loop of the test, and how it ended."""

from __future__ import annotations

from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop


class ChildRun:
    """A child, and how it ended."""

    def __init__(self, loop: Loop, *words: str, timeout: float | None = 60.0, **more: object) -> None:
        self.loop, self.ends = loop, []             # type: ignore[var-annotated]
        self.it = Child(loop, words, timeout=timeout, done=self.done, **more)       # type: ignore[arg-type]

    def done(self, end: Exit) -> None:
        self.ends.append(end)
        self.loop.stop()

    def end(self) -> Exit:
        late = self.loop.later(120.0, self.loop.stop)
        self.loop.run()
        self.loop.clear(late)
        assert len(self.ends) == 1
        end: Exit = self.ends[0]
        return end
