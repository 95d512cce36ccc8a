"""The loop: its order, its timers, its stalls; on every poller that this system has."""

from __future__ import annotations

import os
import random
import signal
import socket
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.runtime import loop as module
from l4ipd.runtime.loop import READ, WRITE, Loop, Timer
from support.loops import POLLERS, Clock, Sleeper


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def faked(clock: Clock) -> Loop:
    return Loop(clock, Sleeper(clock))


def turns(loop: Loop, clock: Clock, until: float) -> None:
    while clock.now < until:
        loop.turn()
        if not loop._ticks:
            break


def test_timers_fire_in_order_never_early_and_at_most_a_tick_late(faked: Loop, clock: Clock) -> None:
    seen: list[tuple[float, float]] = []
    source = random.Random(1)
    for _ in range(500):
        when = clock.now + source.random() * 10

        def note(when: float = when) -> None:
            seen.append((when, clock.now))
        faked.set(Timer(note), when)
    turns(faked, clock, clock.now + 11)
    assert len(seen) == 500
    assert all(0 <= fired - when <= 2 / module.RATE for when, fired in seen)
    assert [fired for _, fired in seen] == sorted(fired for _, fired in seen)


def test_only_the_last_setting_of_a_timer_counts(faked: Loop, clock: Clock) -> None:
    fired: list[float] = []
    timer = Timer(lambda: fired.append(clock.now))
    faked.set(timer, clock.now + 1)
    faked.set(timer, clock.now + 3)
    faked.set(timer, clock.now + 2)
    cleared = Timer(lambda: fired.append(-1))
    faked.set(cleared, clock.now + 1)
    faked.clear(cleared)
    turns(faked, clock, clock.now + 5)
    assert len(fired) == 1
    assert fired[0] == pytest.approx(1002, abs=0.02)


def test_a_second_before_a_clock_that_begins(clock: Clock) -> None:
    clock.now = 0.0
    loop, fired = Loop(clock, Sleeper(clock)), []
    loop.set(Timer(lambda: fired.append(1)), -1.0)
    loop.turn()
    assert fired == [1]


@given(steps=st.lists(st.tuples(st.sampled_from(("set", "clear", "inside", "wait")), st.integers(0, 3),
                                st.sampled_from((-1.0, 0.0, 0.001, 0.004, 0.005, 0.01, 0.02, 0.3, 1.0))), max_size=60))
def test_timers_against_a_plain_list_of_them(steps: list[tuple[str, int, float]]) -> None:
    """Set, cleared and set anew, from outside and by each other while they fire, also for times that have passed."""
    clock = Clock()
    loop = Loop(clock, Sleeper(clock))
    due: dict[int, float] = {}
    wrong: list[int] = []                           # timers that fired early, or were not set
    inside: list[tuple[int, float]] = []            # what the next timers that fire do

    def set_it(number: int, after: float) -> None:
        due[number] = 1000.0 + after
        loop.set(timers[number], 1000.0 + after)

    def fired(number: int) -> None:
        if due.pop(number, float("inf")) > loop.now:
            wrong.append(number)
        if inside:
            set_it(*inside.pop())

    timers = [Timer(lambda number=number: fired(number)) for number in range(4)]     # type: ignore[misc]
    for what, number, after in steps:
        if what == "set":
            set_it(number, after)
        elif what == "clear":
            due.pop(number, None)
            loop.clear(timers[number])
        elif what == "inside":
            inside.append((number, after))
        else:
            until = clock.now + abs(after) / 10
            loop.later(abs(after) / 10, lambda: None)
            while clock.now < until:
                loop.turn()
        assert not wrong
        assert {number for number, timer in enumerate(timers) if timer.is_set} == due.keys()
    inside.clear()
    turns(loop, clock, clock.now + 3)
    assert not wrong
    assert not due, "nobody is forgotten"
    assert not loop._slots and not loop._ticks


def test_a_timer_may_set_itself_again_and_be_set_twice_for_one_tick(faked: Loop, clock: Clock) -> None:
    fired: list[float] = []

    def again() -> None:
        fired.append(clock.now)
        if len(fired) < 5:
            faked.set(timer, clock.now + 1)
            faked.set(timer, clock.now + 1)
    timer = Timer(again)
    faked.set(timer, clock.now)
    turns(faked, clock, clock.now + 10)
    assert len(fired) == 5


def test_what_has_arrived_comes_before_what_is_overdue_and_hooks_before_both(faked: Loop, clock: Clock) -> None:
    order: list[str] = []
    faked.hook(lambda: order.append("hook"))
    faked.watch(5, READ, lambda: order.append("arrived"))
    faked.set(Timer(lambda: order.append("overdue")), clock.now - 1)
    faked._poller.ready = [5]                       # type: ignore[attr-defined]
    faked.turn()
    assert order == ["hook", "arrived", "overdue"]


class Quiet(Timer):
    """A timer whose firing is no news."""

    quiet = True


class Hooked:
    """A loop with both kinds of hooks, and how often they were called."""

    def __init__(self, loop: Loop) -> None:
        self.loop, self.hooks, self.turns = loop, 0, 0
        loop.hook(self._hook)
        loop.every_turn(self._turn)
        loop.turn()
        assert self.seen() == (1, 1), "the first turn is news"

    def _hook(self) -> None:
        self.hooks += 1

    def _turn(self) -> None:
        self.turns += 1

    def seen(self) -> tuple[int, int]:
        """Calls of the hook and of what is called in every turn, since the last time."""
        found = self.hooks, self.turns
        self.hooks = self.turns = 0
        return found

    def after(self, ready: list[int]) -> tuple[int, int]:
        """Calls in the turn after one in which these descriptors were ready."""
        self.loop._poller.ready = ready             # type: ignore[attr-defined]
        self.loop.turn()
        self.seen()
        self.loop.turn()
        return self.seen()


def test_hooks_are_called_if_there_is_news(faked: Loop, clock: Clock) -> None:
    it = Hooked(faked)
    assert it.after([]) == (0, 1), "nothing has happened"
    faked.watch(5, READ, lambda: None)
    assert it.after([5]) == (1, 1)
    faked.set(Timer(lambda: None), clock.now - 1)
    assert it.after([]) == (1, 1)
    faked.news()
    faked.turn()
    assert it.seen() == (1, 1)


def test_a_hook_may_have_news_for_the_next_turn(faked: Loop) -> None:
    it = Hooked(faked)
    left = [True, True, False]
    faked.hook(lambda: faked.news() if left and left.pop(0) else None)
    faked.news()
    found = []
    for _ in range(5):
        faked.turn()
        found.append(it.seen()[0])
    assert found == [1, 1, 1, 0, 0]


def test_probes_are_no_news_unless_they_say_so(faked: Loop, clock: Clock) -> None:
    it = Hooked(faked)
    faked.watch_connect(5, lambda: None)
    assert it.after([5]) == (0, 1)
    faked.watch_connect(5, faked.news)
    assert it.after([5]) == (1, 1)
    faked.set(Quiet(lambda: None), clock.now - 1)
    assert it.after([]) == (0, 1)
    faked.set(Quiet(faked.news), clock.now - 1)
    assert it.after([]) == (1, 1)


@pytest.mark.parametrize("by", ["watch", "unwatch", "closing"])
def test_a_descriptor_that_is_no_probe_any_more_is_news(faked: Loop, by: str) -> None:
    it = Hooked(faked)
    faked.watch_connect(5, lambda: None)
    if by != "watch":
        getattr(faked, by)(5)
    faked.watch(5, READ, lambda: None)
    assert it.after([5]) == (1, 1)


def test_the_number_of_a_probe_that_was_closed_behind_our_back_is_news_to_who_has_it_next(faked: Loop) -> None:
    it = Hooked(faked)
    faked.watch_connect(5, lambda: None)
    del faked._handlers[5]
    faked.watch(5, READ, lambda: None)
    assert it.after([5]) == (1, 1)


def test_what_raises_is_news(faked: Loop, clock: Clock) -> None:
    def fail() -> None:
        raise ValueError
    it = Hooked(faked)
    faked.watch_connect(5, fail)
    assert it.after([5]) == (1, 1)
    faked.set(Quiet(fail), clock.now - 1)
    assert it.after([]) == (1, 1)


def test_a_backlog_of_timers_does_not_keep_arrivals_waiting(faked: Loop, clock: Clock) -> None:
    order: list[str] = []
    for number in range(5 * module.BATCH):
        faked.set(Timer(lambda: order.append("timer")), clock.now + 0.01 * (number // 100))
    clock.now += 100                                # the process was stopped
    faked.watch(5, READ, lambda: order.append("arrived"))
    for _ in range(2):
        faked._poller.ready = [5]                   # type: ignore[attr-defined]
        faked.turn()
    assert order.index("arrived", 1) < 2 * module.BATCH
    turns(faked, clock, clock.now + 1)
    assert order.count("timer") == 5 * module.BATCH, "and nobody is forgotten"


def test_a_stall_is_noticed(faked: Loop, clock: Clock) -> None:
    faked.set(Timer(lambda: None), clock.now + 1)
    faked.turn()
    faked.turn()
    assert not faked.lost(0.0)
    faked.set(Timer(lambda: None), clock.now + 1)
    clock.now += 3                                  # the process was stopped
    faked.turn()
    assert faked.lost(0.0) == pytest.approx(2, abs=0.02)
    assert faked.lost(clock.now - 1) == pytest.approx(1, abs=0.02) and not faked.lost(clock.now)
    assert faked.lateness == pytest.approx(2, abs=0.02)


def test_a_descriptor_closed_and_used_again_in_one_turn_is_not_taken_for_ready(faked: Loop) -> None:
    seen: list[str] = []

    def first() -> None:
        faked.closing(6)
        faked.watch(6, WRITE, lambda: seen.append("a new connection, not yet connected"))
    faked.watch(5, READ, first)
    faked.watch(6, READ, lambda: seen.append("closed already"))
    faked._poller.ready = [5, 6]                    # type: ignore[attr-defined]
    faked.turn()
    assert not seen


def test_one_that_was_kept_is_not_taken_for_connected_in_the_turn_in_which_it_is_connected_again(faked: Loop) -> None:
    seen: list[str] = []
    faked.watch_connect(6, lambda: seen.append("connected"))
    faked.keep(6)
    faked._poller.ready = [6]                       # type: ignore[attr-defined]
    faked.turn()                                    # the end of the old connection is reported: it is nobody's
    faked.watch(5, READ, lambda: faked.watch_connect(6, lambda: seen.append("connected again")))
    faked._poller.ready = [5, 6]                    # type: ignore[attr-defined]
    faked.turn()
    assert not seen
    faked._poller.ready = [6]                       # type: ignore[attr-defined]
    faked.turn()
    assert seen == ["connected again"]


def test_one_that_is_kept_stays_registered_until_it_is_let_go(faked: Loop) -> None:
    registered: list[int] = []
    faked._poller.register = lambda fd, events: registered.append(fd)   # type: ignore[method-assign]
    faked.watch_connect(6, lambda: None)
    for let_go in (faked.unwatch, faked.closing):
        for _ in range(2):
            faked.keep(6)
            faked.watch_connect(6, lambda: None)
        faked.keep(6)
        assert registered == [6]
        let_go(6)
        faked.watch_connect(6, lambda: None)
        assert registered == [6, 6]
        registered.pop()


def test_what_the_poller_says_does_not_count_any_more_after_a_watch(clock: Clock) -> None:
    class Telling(Sleeper):
        def poll(self, timeout: float | None) -> list[tuple[int, int]]:
            return [(fd, READ | WRITE) for fd, _ in super().poll(timeout)]

    loop, seen = Loop(clock, Telling(clock)), []

    def callback() -> None:
        seen.append(loop.events)
        loop.watch(6, READ, callback)
        seen.append(loop.events)

    loop.watch_connect(6, callback)
    loop._poller.ready = [6]                        # type: ignore[attr-defined]
    loop.turn()
    assert seen == [READ | WRITE, 0]


def test_one_that_was_kept_stays_so_when_its_callback_raises(faked: Loop, caplog: pytest.LogCaptureFixture) -> None:
    registered: list[int] = []
    faked._poller.register = lambda fd, events: registered.append(fd)   # type: ignore[method-assign]
    faked._poller.unregister = lambda fd: registered.append(-fd)    # type: ignore[method-assign]

    def callback() -> None:
        faked.keep(6)
        raise ValueError

    faked.watch_connect(6, callback)
    faked._poller.ready = [6]                       # type: ignore[attr-defined]
    faked.turn()
    assert "please report" in caplog.text
    faked.watch_connect(6, lambda: None)
    assert registered == [6]


def test_an_exception_costs_only_its_callback(faked: Loop, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    fired: list[str] = []
    faked.set(Timer(lambda: 1 // 0), clock.now)
    faked.set(Timer(lambda: fired.append("timer")), clock.now + 0.001)
    faked.watch(5, READ, lambda: 1 // 0)
    faked._poller.ready = [5]                       # type: ignore[attr-defined]
    turns(faked, clock, clock.now + 1)
    assert fired == ["timer"]
    assert 5 not in faked._handlers
    assert "please report" in caplog.text


@pytest.fixture(params=POLLERS, ids=lambda poller: poller.__name__)
def real(request: pytest.FixtureRequest) -> Iterator[Loop]:
    loop = Loop(poller=request.param())
    yield loop
    loop.close()


def test_sockets(real: Loop) -> None:
    one, other = socket.socketpair()
    seen: list[bytes] = []

    def writable() -> None:
        one.send(b"hello")
        real.unwatch(one.fileno())

    def readable() -> None:
        seen.append(other.recv(10))
        real.closing(other.fileno())
        other.close()
        real.stop()
    real.watch(one.fileno(), READ, lambda: seen.append(b"never"))
    real.watch(one.fileno(), READ | WRITE, writable)
    real.watch(other.fileno(), READ, readable)
    real.run()
    assert seen == [b"hello"]
    one.close()


def test_signals_end_the_sleep_and_are_handled_in_the_loop(real: Loop) -> None:
    seen: list[int] = []

    def usr1() -> None:
        seen.append(signal.SIGUSR1)
        real.stop()
    real.on_signal(signal.SIGUSR1, usr1)
    real.later(0.01, lambda: os.kill(os.getpid(), signal.SIGUSR1))
    real.run()
    assert seen == [signal.SIGUSR1]


@pytest.mark.skipif(not getattr(sys, "_is_gil_enabled", lambda: True)(), reason="threads do not wait for each other")
def test_work_aside_gives_way_to_the_loop() -> None:
    """Each of the loop's system calls lets the thread in, which by Python's default would then stay for 5 ms.

    How many turns that costs depends on who else wants the processor: so only what the interpreter is told counts.
    """
    loop = Loop()
    results: list[float] = []
    before = sys.getswitchinterval()
    try:
        sys.setswitchinterval(0.005)
        loop.aside(sys.getswitchinterval, results.append)
        while not results:
            loop.turn()
    finally:
        sys.setswitchinterval(before)
    assert 0 < results[0] <= 0.0005
    loop.close()


def test_nobody_wakes_up_for_timers_that_were_cleared_or_set_anew(faked: Loop, clock: Clock) -> None:
    fired: list[float] = []
    timer, other = Timer(lambda: fired.append(clock.now)), Timer(lambda: None)
    faked.set(timer, clock.now + 1)
    faked.set(other, clock.now + 2)
    faked.clear(other)
    faked.set(timer, clock.now + 9)
    faked.turn()
    assert faked._poller.slept[-1] == pytest.approx(9, abs=0.02)    # type: ignore[attr-defined]
    faked.turn()
    assert len(fired) == 1
