"""Who is refused: a crowd of good and banned clients, and a forger, in front of the daemon, on a clock of the test's.

The daemon is real, its probes and its kernel are played: a packet takes a millisecond, a change of the rules five.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable

import pytest

from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.resets.ipmon import Reset
from l4ipd.runtime.loop import Loop, Timer
from support.loops import Clock, Sleeper

WAY, CHANGE = 0.001, 0.005                          # seconds: a packet, and a run of ipnat
EVERY = 0.05                                        # seconds between two good clients
GOOD, BAD = Verdict("L4OK", "connected"), Verdict("L4CON", "connection refused")
A, B, C, SORRY = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.9"


class Probe:
    def __init__(self, loop: Loop, seconds: float, verdict: Callable[[], Verdict],
                 done: Callable[[Verdict], object]) -> None:
        self.loop, self.verdict, self.done = loop, verdict, done
        self.timer = Timer(lambda: self.done(self.verdict()))
        loop.set(self.timer, loop.now + seconds)

    def expire(self) -> None:
        self.cancel()
        self.done(Verdict("L4TOUT", "no answer"))

    def cancel(self) -> None:
        self.loop.clear(self.timer)


class Gateway:
    """The clusters in ``text``, whose members are all alive at first."""

    def __init__(self, text: str, answer: float = WAY) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleeper(self.clock))
        self.answer = answer                        # seconds that a member takes for a probe
        self.dead: set[str] = set()
        self.banned: dict[str, str] = {}            # client -> the member that refuses it
        self.refused: Counter[str] = Counter()      # "dead", "banned", "no rule"
        self.served: Counter[str] = Counter()       # by member
        self.cut: list[str] = []                    # members whose sessions were ended
        self.kernel: list[str] = []                 # rules, in the order of their turns
        self.busy = False                           # ipnat runs
        self.fewest = 1000                          # rules that there ever were since the start
        self.random = random.Random(1)
        config = parse(f"ipfilter: {{interface: ext0}}\ndefaults: {{interval: 5s, fast_interval: 2s, timeout: 2s, "
                       f"flap: no}}\nclusters:\n{text}", "conf")
        self.daemon = Daemon(self.loop, config, 100)
        self.daemon.steering.rules.pause = True
        self.daemon.fleet.schedule.start = self._probe
        self.events: list[str] = []
        self.daemon.events.listeners = [lambda event: self.events.append(f"{event.kind} {event.name}")]
        self.daemon.apply(config)
        self.daemon.sensing.targets.use(self.daemon.fleet.monitors.values())
        self.loop.hook(self._follow)
        self.run(10)
        self.fewest = len(self.kernel)
        self.events.clear()

    def run(self, seconds: float) -> None:
        end = self.clock.now + seconds
        self.loop.later(seconds, lambda: None)
        while self.clock.now < end:
            self.loop.turn()

    def _probe(self, recipe: Recipe, done: Callable[[Verdict], object]) -> Probe:
        address = recipe.address
        dead = address in self.dead
        return Probe(self.loop, WAY if dead else self.answer, lambda: BAD if dead else GOOD, done)

    # -- the kernel

    def _follow(self) -> None:
        want = list(self.daemon.steering.rules.want)
        if sorted(want) != sorted(self.kernel) and not self.busy:
            self.busy = True
            way = self.daemon.steering._removal
            gone = [(self._member(line), way(line)) for line in self.kernel if line not in want]
            self.loop.later(CHANGE, lambda: self._changed(want, gone))

    def _changed(self, want: list[str], gone: list[tuple[str, str | None]]) -> None:
        self.busy = False
        kept = [line for line in self.kernel if line in want]
        self.kernel = kept + [line for line in want if line not in kept]
        self.cut += [member for member, how in gone if how == "purge"]
        self.fewest = min(self.fewest, len(self.kernel))

    def _member(self, line: str) -> str:
        return line.split(" -> ")[1].split()[0]

    # -- clients

    def connect(self, client: str) -> None:
        if not self.kernel:
            self.refused["no rule"] += 1
            return
        self.kernel.append(line := self.kernel.pop(0))      # whose turn it was is last now
        member = self._member(line)
        if member not in self.dead and self.banned.get(client) != member:
            self.served[member] += 1
            return
        self.refused["banned" if client in self.banned else "dead"] += 1
        self.loop.later(WAY, lambda: self.record(member, client))

    def record(self, member: str, client: str) -> None:
        self.daemon.sensing.reaction.weigh(Reset("tcp", member, 80, client, True, 1, 4711, ""))

    def crowd(self, seconds: float) -> None:
        """Good clients, each only once."""
        for number in range(int(seconds / EVERY)):
            client = f"198.51.{self.random.randrange(256)}.{self.random.randrange(256)}"
            self.loop.later(number * EVERY, lambda client=client: self.connect(client))     # type: ignore[misc]

    def bots(self, seconds: float, every: float, *members: str) -> None:
        """Each member has banned some clients, which do not give up."""
        for place, member in enumerate(members):
            for bot in range(3):
                self.banned[f"192.0.2.{10 * place + bot}"] = member
        clients = list(self.banned)
        for number in range(int(seconds / every)):
            self.loop.later(number * every, lambda: self.connect(self.random.choice(clients)))

    def forger(self, seconds: float, every: float, *members: str) -> None:
        """A neighbour that sends RSTs in the members' names to clients that it makes up."""
        for number in range(int(seconds / every)):
            for member in members:
                client = f"203.0.113.{self.random.randrange(256)}"
                self.loop.later(number * every, lambda member=member, client=client:    # type: ignore[misc]
                                self.record(member, client))

    def serving(self) -> list[str]:
        return sorted(self._member(line) for line in self.kernel)


def www(members: str, service: str = "port: 80", more: str = "") -> str:
    return f"  www: {{address: 203.0.113.10, members: {{{members}}}, services: {{http: {{{service}}}}}{more}}}\n"


TWO = www(f"a: {A}, b: {B}")
#: name -> (members that have banned clients, seconds between two forged records of each member or 0)
ATTACKS: dict[str, tuple[tuple[str, ...], float]] = {
    "none": ((), 0),
    "banned clients of one": ((A,), 0),
    "banned clients of both": ((A, B), 0),
    "a forger, two records a second": ((), 0.5),
    "a forger, fifty records a second": ((), 0.02),
    "both": ((A, B), 0.5),
}


@pytest.mark.parametrize("answer", [WAY, 0.3], ids=["quick probes", "slow probes"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_is_refused_who_need_not_be(attack: str, answer: float) -> None:
    """While all is well: no good client, no session cut, and always a rule. Then one dies: who still runs into it?"""
    gateway = Gateway(TWO, answer)
    members, every = ATTACKS[attack]
    if members:
        gateway.bots(120, 0.1, *members)
    if every:
        gateway.forger(120, every, A, B)
    gateway.crowd(120)
    gateway.run(60)
    assert gateway.refused["dead"] == gateway.refused["no rule"] == 0
    assert gateway.fewest >= 1 and not gateway.cut
    assert sum(gateway.served.values()) > 1100
    assert min(gateway.served[A], gateway.served[B]) > 500, "neither is out for long"
    if answer == WAY:
        assert gateway.fewest == 2 and not gateway.events, "what a quick probe contradicts is no news"
    gateway.dead.add(A)
    gateway.run(30)
    assert gateway.serving() == [B]
    assert gateway.refused["no rule"] == 0
    if every:                                       # who uses up the one probe a second that a hint gets
        assert gateway.refused["dead"] <= 12
    elif answer == WAY:
        assert gateway.refused["dead"] <= 1, "out with its first refusal"
    else:                                           # a probe that was under way when it died ends first
        assert gateway.refused["dead"] <= 1 + answer / (2 * EVERY)
    assert gateway.cut == [A]
    gateway.dead.clear()
    gateway.run(10)
    assert gateway.serving() == [A, B]


def test_both_on_the_same_clock() -> None:
    """One member dies while the other has banned clients, again and again."""
    gateway = Gateway(TWO)
    gateway.bots(400, 0.1, B)
    gateway.crowd(400)
    for _ in range(10):
        gateway.run(20)
        gateway.dead.add(A)
        gateway.run(15)
        assert gateway.serving() == [B]
        gateway.dead.clear()
    gateway.run(40)
    assert gateway.refused["dead"] <= 10 and gateway.refused["no rule"] == 0
    assert gateway.cut == [A] * 10 and gateway.fewest == 1
    assert gateway.events.count("down www/http/b") == 0


# -- the last one that serves

LAST = [
    # clusters, who is taken out by records about whom, who serves then
    (www(f"a: {A}"), [A], [A]),
    (TWO, [A], [B]),
    (www(f"a: {A}, b: {B}, c: {C}"), [A, B, C], [C]),
    (www(f"a: {A}, s: {{address: {SORRY}, fallback: yes}}"), [A], [SORRY]),
    (www(f"a: {A}, s: {{address: {SORRY}, fallback: yes}}"), [A, SORRY], [SORRY]),
    (www(f"a: {A}, b: {B}", more=", when_all_down: keep"), [A, B], [B]),
    (TWO + TWO.replace("www:", "api:").replace("203.0.113.10", "203.0.113.11").replace(f", b: {B}", ""), [A], [A, B]),
]


@pytest.mark.parametrize(("text", "targets", "serve"), LAST)
def test_a_reset_alone_never_takes_out_the_last_one(text: str, targets: list[str], serve: list[str]) -> None:
    gateway = Gateway(text, answer=1.5)
    before = gateway.serving()
    for target in targets:
        gateway.record(target, "198.51.100.7")
        gateway.run(0.1)
    assert gateway.serving() == serve
    gateway.run(3.0)
    assert gateway.serving() == before and not gateway.cut


def test_who_is_disabled_or_down_does_not_serve() -> None:
    gateway = Gateway(www(f"a: {A}, b: {B}, c: {C}"), answer=1.5)
    gateway.daemon.fleet.disable([gateway.daemon.fleet.monitors["www/http/b"]], now=False)
    gateway.dead.add(C)
    gateway.run(30)
    assert gateway.serving() == [A]
    gateway.record(A, "198.51.100.7")
    gateway.run(0.5)
    assert gateway.serving() == [A]


def test_sessions_are_cut_only_of_who_is_proved_to_be_gone() -> None:
    gateway = Gateway(TWO, answer=1.5)
    gateway.record(A, "198.51.100.7")
    gateway.run(0.5)
    assert gateway.serving() == [B] and gateway.cut == []
    gateway.run(3)
    gateway.dead.add(B)
    gateway.record(B, "198.51.100.7")
    gateway.run(0.5)
    assert gateway.serving() == [A] and gateway.cut == [B]


def test_a_forger_changes_nothing_for_the_crowd() -> None:
    """Two members, a record of each every half second: once, clients were served 2 of 12, and no rule was left."""
    gateway = Gateway(TWO)
    gateway.forger(600, 0.5, A, B)
    gateway.crowd(600)
    gateway.run(600)
    assert sum(gateway.served.values()) == pytest.approx(600 / EVERY, abs=2)
    assert not gateway.refused and gateway.fewest == 2
