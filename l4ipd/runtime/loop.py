"""Select, timers, signals: the loop that everything runs in, and not a word of load balancing.

One turn, in this order, and the order is a promise:

1. the hooks (the reconcilers look at what the last turn changed), if there is *news*: anything was called in the last
   turn, except what says of itself that most of the time nothing comes of it, which are the probes,
2. select,
3. what has arrived: descriptors, signals among them,
4. what is overdue: timers.

What has arrived beats a deadline that has passed. A *stall* is a turn whose first timer is far overdue (a paused
machine, swap, a debugger); :meth:`Loop.lost` tells what it took, and whoever set a deadline before it should give that
back, once. Callbacks never block.

An exception must not end a source of input. One that leaves a callback is noted, and then the object whose method it
was, an :class:`Owner`, is told: a descriptor is not watched any more, a timer is not set. It closes what it had, says
what is lost, and starts anew.

kqueue does not survive a fork: create the loop after daemonizing.
"""

from __future__ import annotations

import contextlib
import heapq
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol, TypeVar

from l4ipd.runtime.internal_errors import InternalErrors
from l4ipd.runtime.poller import ENDED as ENDED
from l4ipd.runtime.poller import READ as READ
from l4ipd.runtime.poller import WRITE as WRITE
from l4ipd.runtime.poller import Poller, best_poller
from l4ipd.runtime.wakeup import Wakeup

RATE = 200                      # ticks a second; timers are rounded up to a tick, so that one wake-up serves a batch
BATCH = 100                     # timers of a backlog that are fired before the loop looks what has arrived meanwhile
PAUSE = 1.0                     # seconds until the loop tries again to get descriptors of its own
STALL = 0.5                     # seconds that the first timer must be late for a turn to count as stalled
STALLS = 16                     # that are remembered
NEVER = float("nan")            # equal to no time
Callback = Callable[[], object]
Result = TypeVar("Result")


class Owner(Protocol):
    """Whoever has callbacks called here that are methods of its own."""

    def raised(self) -> object:
        """One of them has raised. Unless another callback was set for it since, its descriptor was let go."""


class Timed(Protocol):
    """Something that happens later: :meth:`Loop.set` writes ``slot``, and ``fire`` is called when its time has come."""

    slot: list[Timed] | None    # who else is due on the same tick; None when it is not set

    @property
    def quiet(self) -> bool:
        """Whether it is no news that it fires: it calls :meth:`Loop.news` when something has come of it."""

    @property
    def fire(self) -> Callback: ...


class Timer:
    """A callback for later. One timer can be set again and again; only the last time counts."""

    __slots__ = ("fire", "slot")
    quiet = False

    def __init__(self, callback: Callback) -> None:
        self.fire = callback
        self.slot: list[Timed] | None = None

    @property
    def is_set(self) -> bool:
        return self.slot is not None


def _never() -> None:
    """What a timer does that was dropped."""


CLEARED = Timer(_never)         # in the place of one that was cleared: it is set nowhere


class Loop:
    """A select loop. ``clock`` and ``poller`` are replaced in tests.

    Many attributes: descriptors and timers are one turn, and a call from one object to another in it costs every probe.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, poller: Poller | None = None) -> None:
        self.clock = clock
        self.now = clock()                          # the time of this turn
        self.errors = InternalErrors(clock)
        self._stalls: deque[tuple[float, float]] = deque(maxlen=STALLS)     # from when to when
        self.lateness = 0.0                         # how late the first timer of the last turn was, in seconds
        self.events = 0                             # what the poller says of the descriptor at hand; 0: nothing
        self._poller = poller or best_poller()
        self._handlers: dict[int, Callback | None] = {}     # None: it is kept
        self._gone: set[int] = set()                # those that were let go in this turn
        self._quiet: set[int] = set()               # those of which it is no news that something happens
        self._slots: dict[int, list[Timed]] = {}
        self._ticks: list[int] = []                 # heap of the keys of _slots
        self._when = NEVER                          # what was set last, and its slot: a bunch is set for the same time,
        self._slot: list[Timed] = []                # and to know it saves 0.4 us of 25 for tcp at 10,000 a second
        self._hooks: list[Callback] = []            # if there is news, which most turns of a busy gateway have not: to
        self._news = True                           # let the hooks be then saves 3 us of 60 for tcp at 1,000 a second
        self._always: list[Callback] = []           # in every turn
        self._wakeup: Wakeup | None = None          # for signals and threads, if there are any
        self._stopped = False

    # -- descriptors

    def no_event(self) -> None:
        """What follows is no answer of the poller's: :attr:`events` leaves everything open."""
        self.events = 0

    def watch(self, fd: int, events: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``fd`` is ready for ``events`` (READ, WRITE or both) or broken."""
        self._quiet.discard(fd)
        if fd in self._handlers:
            self._poller.modify(fd, events)
            self.events = 0
        else:
            self._poller.register(fd, events)
        self._handlers[fd] = callback

    def watch_connect(self, fd: int, callback: Callback) -> None:
        """Call ``callback`` when the connection that ``fd`` has begun is there, or has failed.

        In it, :attr:`events` is WRITE when there is no error and nothing to be read; anything else leaves that open.
        ``fd`` may be one of :meth:`keep`. That it is called is no news, until a :meth:`watch`.
        """
        if fd in self._handlers:
            self._gone.add(fd)                      # what this turn has still to report is about its past
        else:
            self._poller.register(fd, self._poller.CONNECT)
            self._quiet.add(fd)
        self._handlers[fd] = callback

    def watch_answer(self, fd: int, callback: Callback) -> None:
        """In the callback of :meth:`watch_connect`: call this ``callback`` when something arrives, and only once.

        Whoever wants to hear of more calls :meth:`watch`. Most probes do not, and save a system call, and their socket
        can be kept: 8 us of 42 for http.
        """
        if self.events == WRITE:
            self._handlers[fd] = callback           # what arrives from now on is a change, and will be reported
        else:
            self.watch(fd, READ, callback)

    def keep(self, fd: int) -> None:
        """Call nobody about a descriptor of :meth:`watch_connect` until it is given to that again.

        Only where :attr:`events` says WRITE or ENDED of it, in its callback: then it is registered in a way that will
        tell of the next connection, too. That is not so any more after a :meth:`watch`. What it saves: see
        :mod:`l4ipd.checks.socket_pool`.
        """
        self._handlers[fd] = None

    def unwatch(self, fd: int) -> None:
        """Stop watching a descriptor that stays open."""
        if fd in self._handlers:
            del self._handlers[fd]
            self._gone.add(fd)
            self._quiet.discard(fd)
            self._poller.unregister(fd)

    def closing(self, fd: int) -> None:
        """Forget a descriptor that the caller closes next."""
        self._gone.add(fd)
        self._quiet.discard(fd)
        if self._handlers.pop(fd, None) is not None and self._poller.closing is not None:
            self._poller.closing(fd)

    # -- timers

    def set(self, timer: Timed, when: float) -> None:
        """Let ``timer`` fire at ``when`` (on this loop's clock), and no longer at the time it had before."""
        if when != self._when:
            self._when, self._slot = when, self._slot_at(int(when * RATE) + 1)
        timer.slot = slot = self._slot
        slot.append(timer)

    def _slot_at(self, tick: int) -> list[Timed]:
        slot = self._slots.get(tick)
        if slot is None:
            self._slots[tick] = slot = []
            heapq.heappush(self._ticks, tick)
        return slot

    def clear(self, timer: Timed) -> None:
        """Let ``timer`` not fire, and its time not keep it: nothing of it stays in the loop, if it was set once."""
        slot, timer.slot = timer.slot, None
        if slot is not None:                        # where it was set before that, it stays until then
            slot[slot.index(timer)] = CLEARED

    def move(self, timer: Timed, when: float) -> None:
        """Like :meth:`set`, for one that may be set already: nothing of it stays at its old time."""
        self.clear(timer)
        self.set(timer, when)

    def drop(self, timer: Timer) -> None:
        """Let ``timer`` never fire again: it forgets its callback, whose owner may be the one who has it."""
        self.clear(timer)
        timer.fire = _never

    def later(self, delay: float, callback: Callback) -> Timer:
        """A new timer, set to ``delay`` seconds from now."""
        timer = Timer(callback)
        self.set(timer, self.clock() + delay)
        return timer

    # -- signals and hooks

    def hook(self, callback: Callback) -> None:
        """Call ``callback`` before the loop sleeps, if there is news."""
        self._hooks.append(callback)

    def news(self) -> None:
        """The hooks have something to look at in the next turn; to be said by who is quiet, and by a hook."""
        self._news = True

    def every_turn(self, callback: Callback) -> None:
        """Call ``callback`` before the loop sleeps, whatever has happened."""
        self._always.append(callback)

    def on_signal(self, signum: int, callback: Callback) -> None:
        """Call ``callback`` in the loop after signal ``signum`` has arrived; the handler itself does nothing."""
        self._waked().on_signal(signum, callback)

    def handles(self, signum: int) -> bool:
        return self._wakeup is not None and signum in self._wakeup.signals

    def aside(self, work: Callable[[], Result], done: Callable[[Result], object]) -> None:
        """Let a thread do ``work``, which must not raise nor touch the loop, and call ``done`` with its result here."""
        self._waked().aside(work, done)

    def _waked(self) -> Wakeup:
        if self._wakeup is None:
            self._wakeup = Wakeup()
            self.watch(self._wakeup.reader, READ, self._woken)
        return self._wakeup

    def _woken(self) -> None:
        assert self._wakeup is not None
        for callback in self._wakeup.due():
            self._call(callback)

    def raised(self) -> None:
        """Our own pipe broke."""
        assert self._wakeup is not None
        try:
            missed = self._wakeup.renew()
        except OSError:                             # no descriptors
            self.later(PAUSE, self.raised)
            return
        self.watch(self._wakeup.reader, READ, self._woken)
        for callback in missed:
            self._call(callback)

    # -- running

    def run(self) -> None:
        """Turn until :meth:`stop`."""
        self._stopped = False
        while not self._stopped:
            self.turn()

    def stop(self) -> None:
        """End :meth:`run` after this turn, which does not sleep any more."""
        self._stopped = True

    def close(self) -> None:
        """Give the loop's own descriptors back."""
        if self._wakeup is not None:
            self.closing(self._wakeup.reader)
            self._wakeup.close()
            self._wakeup = None
        self._poller.close()

    def turn(self) -> None:
        """One turn; sleeps until something happens."""
        self.now = self.clock()
        for callback in self._always:
            self._call(callback)
        if self._news:
            self._news = False
            for hook in self._hooks:
                self._call(hook)
        ready = self._poller.poll(self._timeout())
        self.now = now = self.clock()
        self.lateness = now - self._ticks[0] / RATE if self._ticks else 0.0
        if self.lateness > STALL:
            self._stall(now - self.lateness, now)
        handlers, gone, quiet = self._handlers, self._gone, self._quiet
        gone.clear()
        for fd, events in ready:
            handler = handlers.get(fd)
            if handler is None or fd in gone:       # closed, and maybe used again: this is not about the new one
                continue
            self.events = events
            if fd not in quiet:
                self._news = True
            try:
                if events < 0:
                    raise OSError(-events, "a descriptor cannot be watched")
                handler()
            except Exception:
                self._failed(handler)
                self._let_go(fd, handler)
                self._tell(handler)
        self._fire(int(now * RATE))

    def _stall(self, begin: float, end: float) -> None:
        """Note a stall, which may go on: a backlog takes several turns."""
        if self._stalls and begin <= self._stalls[-1][1]:
            begin = min(begin, self._stalls.pop()[0])
        self._stalls.append((begin, end))

    def lost(self, since: float) -> float:
        """Seconds that stalls have taken since a moment."""
        return sum(end - max(begin, since) for begin, end in self._stalls if end > since)

    def _timeout(self) -> float | None:
        if self._stopped:
            return 0.0
        while self._ticks:
            tick = self._ticks[0]
            slot = self._slots[tick]
            while slot and slot[-1].slot is not slot:       # cleared, or set anew
                slot.pop()
            if slot:
                return max(0.0, tick / RATE - self.clock())
            self._next_slot()                       # nothing to wake up for
        return None

    def _fire(self, until: int) -> None:
        """Fire what is due, tick by tick; of a backlog only a part, so that answers do not wait for all of it."""
        fired = 0
        while self._ticks and self._ticks[0] <= until and fired < BATCH:
            slot = self._next_slot()
            fired += len(slot)
            for timer in slot:
                if timer.slot is slot:              # neither cleared nor set anew
                    timer.slot = None
                    if not timer.quiet:
                        self._news = True
                    try:
                        timer.fire()
                    except Exception:
                        self._failed(timer.fire)
                        self._tell(timer.fire)

    def _next_slot(self) -> list[Timed]:
        """The first slot, which is no slot any more."""
        self._when = NEVER
        return self._slots.pop(heapq.heappop(self._ticks))

    def _call(self, callback: Callback) -> None:
        try:
            callback()
        except Exception:
            self._failed(callback)

    def _failed(self, callback: Callback) -> None:
        self._news = True
        self.errors.note(f"{getattr(callback, '__qualname__', callback)} did not come to its end")

    def _let_go(self, fd: int, callback: Callback) -> None:
        """Watch ``fd`` no more, unless it is somebody else's by now, or kept."""
        current = self._handlers.get(fd)
        if current is not None and _owner(current) is _owner(callback):
            with contextlib.suppress(OSError, ValueError, KeyError):        # closed behind our back
                self.unwatch(fd)

    def _tell(self, callback: Callback) -> None:
        """Let the owner of a callback that has raised pick up the pieces."""
        raised = getattr(_owner(callback), "raised", None)
        if raised is not None:
            self._call(raised)


def _owner(callback: Callback) -> object:
    """Whose method it is."""
    return getattr(callback, "__self__", None)
