"""The poller of the BSDs against a model of kqueue's rules: real descriptors, closed and used again at any moment."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd.runtime.loop import Loop
from l4ipd.runtime.poller import READ, WRITE, Kqueue
from support import kqueue_model
from support.kqueue_model import KQ_FILTER_READ, KQ_FILTER_WRITE

ANY = (READ, WRITE, READ | WRITE, Kqueue.CONNECT, 0)


class Place:
    """A descriptor with somebody at the other end, and what is wanted of it."""

    def __init__(self) -> None:
        self.here, self.there = socket.socketpair()
        self.fd, self.wanted, self.full = self.here.fileno(), 0, False

    def close(self) -> None:
        self.here.close()
        self.there.close()


class World:
    """A poller, and what it ought to do in the plainest words."""

    def __init__(self) -> None:
        self.poller = Kqueue(kqueue_model)
        self.kernel: kqueue_model.kqueue = self.poller._kqueue
        self.places = [Place() for _ in range(3)]
        self.polls = 0

    def want(self, place: Place, events: int) -> None:
        if not events:
            self.poller.unregister(place.fd)
        elif place.wanted:
            self.poller.modify(place.fd, events)
        else:
            self.poller.register(place.fd, events)
        place.wanted = events

    def fill(self, place: Place) -> None:
        if not place.full:
            place.there.send(b"x")
            place.full = True

    def drain(self, place: Place) -> None:
        if place.full:
            place.here.recv(1)
            place.full = False

    def replace(self, at: int) -> None:
        """Close one, and open another, as a rule under the same number."""
        self.poller.closing(self.places[at].fd)
        self.places[at].close()
        self.places[at] = Place()

    def poll(self) -> None:
        expected = {place.fd for place in self.places if place.wanted & WRITE or place.wanted & READ and place.full}
        assert dict(self.poller.poll(0)) == dict.fromkeys(expected, 0)
        for place in self.places:
            if place.fd in expected and place.wanted == Kqueue.CONNECT:
                place.wanted = 0
        self.polls += 1
        assert self.kernel.calls == self.polls, "one call for all changes and the wait"
        assert self.kernel.watched == {(place.fd, kind) for place in self.places for bit, kind in (
            (READ, KQ_FILTER_READ), (WRITE, KQ_FILTER_WRITE)) if place.wanted & bit}

    def close(self) -> None:
        for place in self.places:
            place.close()


@pytest.fixture
def world() -> Iterator[World]:
    it = World()
    yield it
    it.close()


STEPS = st.one_of(st.tuples(st.just("want"), st.integers(0, 2), st.sampled_from(ANY)),
                  st.tuples(st.sampled_from(("fill", "drain", "replace", "poll")), st.integers(0, 2), st.just(0)))


@settings(max_examples=200)
@given(st.lists(STEPS, max_size=40))
def test_it_reports_what_is_ready_of_what_is_watched_and_nothing_else(steps: list[tuple[str, int, int]]) -> None:
    it = World()
    try:
        for what, at, events in steps:
            if what == "want":
                it.want(it.places[at], events)
            elif what == "replace":
                it.replace(at)
            elif what == "poll":
                it.poll()
            else:
                (it.fill if what == "fill" else it.drain)(it.places[at])
        it.poll()
    finally:
        it.close()


def test_a_change_that_was_to_be_made_does_not_befall_the_next_of_that_number(world: World) -> None:
    fd = world.places[0].fd
    world.want(world.places[0], Kqueue.CONNECT)
    world.replace(0)
    assert world.places[0].fd == fd, "as the kernel gives numbers"
    world.poll()
    assert not world.kernel.watched


def test_a_descriptor_that_was_closed_behind_our_back_is_nobodys(world: World) -> None:
    """What cannot be taken off is off already; the next turn goes on."""
    world.want(world.places[0], READ)
    world.poll()
    world.places[0].close()
    world.poller.unregister(world.places[0].fd)
    assert world.poller.poll(0) == []
    assert world.poller._known == world.poller._wanted == {}


def turn_until(loop: Loop, done: Callable[[], object]) -> None:
    while not done():
        loop.turn()


def test_who_cannot_be_watched_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """An error that comes back as an event is no connection, and no silence either."""
    poller = Kqueue(kqueue_model)
    loop, seen = Loop(poller=poller), []

    class Owner:
        def connected(self) -> None:
            seen.append("connected")

        def raised(self) -> None:
            seen.append("raised")

    with socket.socket() as one, socket.socket() as other:
        poller._kqueue.fails[one.fileno()] = errno.ENOMEM
        loop.watch_connect(one.fileno(), Owner().connected)
        loop.watch(other.fileno(), WRITE, lambda: seen.append("other"))
        turn_until(loop, lambda: "other" in seen)
    assert seen[0] == "raised" and "connected" not in seen
    assert "[Errno 12] a descriptor cannot be watched" in caplog.text
    loop.close()
