"""`l4ipctl disable --wait`: how many sessions endpoints still have, told as they become fewer, until none is left.

Asked for is what everybody else is told of sessions (:mod:`l4ipd.ipfilter.session_count`), so that any number of
clients may wait, and the longer one waits, the more rarely: a long listing costs the gateway something. Nobody else has
to wait for that: between two counts there is nothing but a timer, and hanging up ends it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from l4ipd.config.values import duration, span
from l4ipd.control.server import Client, Refusal, Request
from l4ipd.daemon import Daemon
from l4ipd.ipfilter.session_count import Count
from l4ipd.report.text import printable
from l4ipd.runtime.loop import Timer

OFTEN, SELDOM, SHARE = 1.0, 5.0, 0.05               # seconds between two counts, and of the time that it has waited
TOLD = 20                                           # endpoints that are named
FOREVER = float("inf")
Ended = Callable[[int, "list[str]", "list[str]"], object]       # exit status, what to say of it, and what is wrong


def patience(request: Request) -> float | None:
    """How many seconds to wait for sessions to end, by ``wait``: yes, or a time; None: not at all. Raises Refusal."""
    wait = request.get("wait")
    if wait in (None, False):
        return None
    if wait is True:
        return FOREVER
    try:
        return duration(str(wait))
    except ValueError as error:
        raise Refusal(f"wait: {error}") from None


class Drain:
    """Waits until the endpoints of these names have no session left, ``seconds`` at most.

    ``gone()`` says whether they have no rule any more, before which new sessions may come. ``ended`` is called once.
    """

    def __init__(self, daemon: Daemon, client: Client, names: Sequence[str], seconds: float,
                 gone: Callable[[], bool], ended: Ended) -> None:
        self.daemon, self.client, self.names, self.seconds, self.gone = daemon, client, names, seconds, gone
        self._ended = ended
        self._began = daemon.loop.now
        self._timer = Timer(self._ask)
        self._told = ""
        client.lasting, client.left = True, lambda: daemon.loop.drop(self._timer)
        self._ask()

    def raised(self) -> None:
        """Our timer has."""
        self.client.raised()

    def _ask(self) -> None:
        self.daemon.sessions.want(self.client.later(self._counted), since=self.daemon.loop.now)

    def _counted(self, count: Count) -> None:
        if self.client.over:
            return
        back = [name for name in self.names if name not in self.daemon.fleet.disabled]
        known = not count.problem and all(count.of(name) is not None for name in self.names)
        left = {name: number for name in self.names if (number := count.of(name))} if known else {}
        if back:
            self._ended(1, [], [f"{name}: is not disabled any more: its sessions are not waited for"
                                for name in back[:TOLD]])
            return
        self._tell(sum(left.values()) if known else None, count.problem)
        waited = self.daemon.loop.now - self._began
        if known and not left and self.gone():
            self._ended(0, ["no session is left"], [])
        elif waited >= self.seconds:
            self._ended(1, [], _words(left, known, self.seconds))
        else:
            pause = min(max(OFTEN, waited * SHARE), SELDOM, self.seconds - waited)
            self.daemon.loop.set(self._timer, self.daemon.loop.now + pause)

    def _tell(self, left: int | None, problem: str) -> None:
        """A line, when it is another one."""
        text = f"sessions left: {left}" if left is not None else (
            f"sessions cannot be counted: {printable(problem)}" if problem else "sessions left: not known yet")
        if text != self._told:
            self._told = text
            self.client.send({"sessions": left, "text": text})


def _words(left: dict[str, int], known: bool, seconds: float) -> list[str]:
    """What is left, when the time is up."""
    if not known:
        return [f"after {span(seconds)}, it is not known how many sessions are left"]
    if not left:
        return [f"after {span(seconds)}, their rules may still be in the kernel: see l4ipctl rules"]
    most = sorted(left, key=left.__getitem__, reverse=True)
    lines = [f"after {span(seconds)}, sessions that are left: {sum(left.values())}"]
    if len(left) > 1:
        lines += [f"{name}: sessions that are left: {left[name]}" for name in most[:TOLD]]
    return lines
