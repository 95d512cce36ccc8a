"""Counting sessions on a simulated clock, under every trouble that tools and listings can have.

The property: a count that tells of no problem is exact; with one it is the last that was exact, or none. The kernel and
its tools are the sandbox's, in which a listing that was cut leaves its iterator, among the sessions, too.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd.ipfilter import session_count, session_reading
from l4ipd.ipfilter.listing import NEVER
from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.session_count import Count, SessionCount
from l4ipd.model import Check, Cluster, Ipfilter, Member, Service
from l4ipd.sandbox.tools.ipnat import ipnat
from support.simulated_tools import World

RULE = "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.{} port 8080 tcp round-robin tag l4ip"
WWW = Cluster("www", ("203.0.113.10",), (Service("http", 80, "tcp", 8080, False, (Check("tcp"),)),),
              tuple(Member(f"m{number}", f"10.0.0.{number}") for number in (1, 2, 3)))
FAULTS = ("die", "fail", "grumble", "empty", "hang", "vanish")
HEAD = 6                                            # steps of a listing until it is among the sessions


class Trial(World):
    """One gateway, its sessions, and what was told of them."""

    def __init__(self, seed: int, version: str, patch: pytest.MonkeyPatch) -> None:
        super().__init__(seed, version=version)
        self.pick = random.Random(seed)
        self.clients = 0
        self.told: list[Count] = []
        self.exact = Count()                        # the last that was
        self.tools.add([RULE.format(number) for number in (1, 2, 3)])
        tools = Ipfilter(interface="em0", ipnat=("ipnat",))
        self.nat = NatTable(tools, Dialect(version, True, True), lambda line: None)
        self.it = SessionCount(self.loop, lambda: self.nat, lambda: list(WWW.endpoints()))
        patch.setattr(session_reading, "Child", self.tools.spawn)

    def connect(self, number: int) -> None:
        for _ in range(number):
            self.clients += 1
            flow = 6, "198.51.100.7", 1024 + self.clients, "203.0.113.10", 80
            assert self.tools.kernel.nat.packet(flow, 40)

    def end(self, number: int) -> None:
        sessions = list(self.tools.kernel.nat.sessions.values())
        for session in self.pick.sample(sessions, min(number, len(sessions))):
            self.tools.kernel.nat.end(session)

    def cut(self) -> None:
        """A listing of ours, of which only the rules were wanted."""
        run = ipnat(self.tools.kernel, ("-l",), "/", spawner="us")
        steps = self.pick.randrange(1, HEAD + len(self.tools.kernel.nat.sessions))
        for _ in range(steps):
            if next(run, None) is None:
                break
        run.close()
        if steps < HEAD:
            self.nat.iterator.tear()
        else:
            self.nat.iterator.cut(self.clock.now)

    def count(self, urgent: bool) -> None:
        before, since = len(self.told), self.clock.now if urgent else NEVER
        self.it.want(self.told.append, since)
        self.until(lambda: len(self.told) > before, 60.0)
        count = self.told[-1]
        if count.problem or count.began < since or self.it.readings == 0:
            assert count.by_name == self.exact.by_name and count.known == self.exact.known
            return
        truth: dict[str, int] = {}
        for session in self.tools.kernel.nat.sessions.values():
            name = f"www/http/m{session.member[-1]}"
            truth[name] = truth.get(name, 0) + 1
        assert (dict(count.by_name), count.total) == (truth, len(self.tools.kernel.nat.sessions))
        self.exact = count

    def step(self) -> None:
        what = self.pick.choice(("connect", "end", "cut", "cut", "wait", "fault"))
        if what == "connect":
            self.connect(self.pick.choice((1, 5, 60)))
        elif what == "end":
            self.end(self.pick.choice((1, 5, 1000)))
        elif what == "cut":
            for _ in range(self.pick.choice((1, 1, 3))):
                self.cut()
        elif what == "wait":
            self.run(self.pick.choice((0.3, 2.0, 15.0)))
        else:
            faults = [self.pick.choice(FAULTS) for _ in range(self.pick.choice((1, 2)))]
            self.tools.fault = lambda words: faults.pop() if faults else "ok"


@settings(max_examples=25)
@given(st.integers(0, 2**31), st.sampled_from(["5.1.2", "6.0.0", "4.1"]))
def test_a_count_is_exact_or_there_is_none(seed: int, version: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        trial = Trial(seed, version, patch)
        trial.connect(40)
        for _ in range(25):
            for _ in range(trial.pick.randrange(3)):
                trial.step()
            trial.run(1.01)                         # a second is how old it may be
            trial.count(trial.pick.random() < 0.5)
        assert trial.loop.errors.total == 0
        trial.tools.fault = lambda words: "ok"
        trial.run(1.01)
        trial.count(True)
        assert trial.exact is trial.told[-1], "when the trouble is over, it is exact again"


def test_ten_thousand_endpoints_are_not_attributed_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here every piece of that work ends at once: the loop turns in between, and the count is the same."""
    monkeypatch.setattr(session_count, "SLICE", -1.0)
    trial = Trial(1, "5.1.2", monkeypatch)
    trial.connect(30)
    turns = 0

    def turn() -> None:
        nonlocal turns
        turns += 1

    trial.loop.hook(turn)
    trial.count(False)
    assert trial.exact.total == 30 and turns > 3 + 3 + 3, "one for each endpoint and each pair of ends, at least"
