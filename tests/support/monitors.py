"""Monitors whose probes end as the test says, on a clock that moves only when the loop sleeps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from l4ipd.checks.recipe import Recipe, recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check, Cluster, Flap, Member, Service
from l4ipd.monitor.monitor import Monitor
from l4ipd.monitor.schedule import Schedule
from l4ipd.runtime.loop import Loop
from support.loops import Clock, Sleeper

GOOD, BAD, LATE = Verdict("L4OK", "connected"), Verdict("L4CON", "connection refused"), Verdict("L4TOUT", "no answer")
REFUSED = Verdict("RST", "connection refused, seen by ipmon")
PACE = Check("tcp", interval=10.0, timeout=2.0, rise=2, fall=3, fast_interval=1.0, down_interval=4.0)
SLOW = replace(PACE, interval=600.0, fast_interval=600.0, down_interval=600.0)


class Probes:
    """In place of the network. A probe ends when the test says so, at once when ``now`` is set, or by its deadline."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.now: Verdict | None = None
        self.flying: list[Flight] = []
        self.starts: list[tuple[float, int]] = []   # when, and to which port
        self.cancelled = 0

    def start(self, what: Recipe, done: Callable[[Verdict], object]) -> Flight:
        self.starts.append((self.clock.now, what.port))
        flight = Flight(self, done)
        if self.now is not None:
            done(self.now)
        else:
            self.flying.append(flight)
        return flight

    def end(self, verdict: Verdict) -> None:
        self.flying.pop(0).done(verdict)


class Flight:
    def __init__(self, probes: Probes, done: Callable[[Verdict], object]) -> None:
        self.probes, self.done = probes, done

    def expire(self) -> None:
        self.probes.flying.remove(self)
        self.done(LATE)

    def cancel(self) -> None:
        self.probes.flying.remove(self)
        self.probes.cancelled += 1


class World:
    def __init__(self, limit: int = 100) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleeper(self.clock))
        self.probes = Probes(self.clock)
        self.changes: list[tuple[str, str]] = []    # what it was, what it is
        self.decided: list[str] = []
        self.schedule: Schedule[Monitor] = Schedule(self.loop, limit, self.probes.start,
                             changed=lambda each, was: self.changes.append((was, each.seen)),
                             decided=lambda each: self.decided.append(each.endpoint.name))

    def monitor(self, *checks: Check, name: str = "web1", flap: Flap | None = None) -> Monitor:
        service = Service("http", 80, "tcp", 8080, False, checks or (PACE,), flap=flap)
        endpoint = next(Cluster("www", ("192.0.2.1",), (service,), (Member(name, "10.0.0.1"),)).endpoints())
        monitor = Monitor(self.schedule, endpoint, [recipe(check, endpoint) for check in endpoint.checks])
        monitor.checker.begin()
        return monitor

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end = self.clock.now + seconds
        self.loop.later(seconds, lambda: None)
        while self.clock.now < end:
            self.loop.turn()


    def until_start(self) -> None:
        """Let time pass until the next probe begins."""
        before = len(self.probes.starts)
        while len(self.probes.starts) == before:
            self.loop.turn()


class Site(World):
    """Members of one service that are up, whose probes then wait for the test."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.schedule.alone = lambda each: not any(other.eligible for other in self.members if other is not each)
        self.probes.now = GOOD
        self.members = [self.monitor(SLOW, name=name) for name in names or ("web1", "web2")]
        self.run(2.0)
        assert all(member.up for member in self.members)
        self.probes.now = None
        self.changes.clear()
        self.probes.starts.clear()
