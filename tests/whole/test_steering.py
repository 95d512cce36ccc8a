"""Where people's connections go: random configurations, health, operators and reloads, over both dialects of IPFilter.

The daemon and its reconciler are real and so are the tools; only the verdicts are dealt out by the test. The table of
the kernel is looked at after every run of ipnat. What must hold, always:

- a service that has had a live member for two passes has a rule, and none that leads to somebody who never was up;
- fallbacks and members do not serve together for longer than one pass;
- a rule that is not ours stays as it is;
- when the noise stops, kernel == want.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.ipfilter import rdr
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.model import Config
from l4ipd.runtime import backoff
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox import tool_words
from support.sandbox_tools import Sandbox, sandbox

FOREIGN = ["map ext0 10.0.0.0/24 -> 0/32",
           "rdr ext0 203.0.113.1/32 port 25 -> 10.0.0.7 port 25 tcp round-robin"]
GOOD, BAD = Verdict("L4OK", "connected"), Verdict("L4CON", "connection refused")


class Dealer:
    """In place of the probes: gives every probe the verdict that the test has decided on, at once."""

    def __init__(self) -> None:
        self.alive: dict[str, bool] = {}            # by address

    def start(self, recipe: Recipe, done: Callable[[Verdict], object]) -> Dealer:
        done(GOOD if self.alive.get(recipe.address) else BAD)
        return self

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


class World:
    """A daemon on a loop, a kernel, and somebody who watches."""

    def __init__(self, kernel: Sandbox, seed: int) -> None:
        self.kernel, self.source = kernel, random.Random(seed)
        self.foreign = kernel.ipnat("-l").rules
        self.wrong: list[str] = []                  # an exception in a callback would only be logged
        self.loop = Loop()
        self.dealer = Dealer()
        self.config = self.random_config()
        self.daemon = Daemon(self.loop, self.config, 100)
        self.daemon.fleet.schedule.start = self.dealer.start
        self.passes: list[tuple[dict[str, set[str]], dict[str, set[str]]]] = []
        self.steady: dict[str, set[str]] = {}       # by VIP: who has been alive in every turn since the last run
        self.daemon.start()
        self.loop.hook(self.note)

    def random_config(self) -> Config:
        pick = self.source
        tools = "".join(f", {name}: [{', '.join(words)}]" for name, words in tool_words(self.kernel.path).items())
        text = (f"ipfilter: {{interface: ext0, resync: 300ms{tools}}}\n"
                "defaults: {interval: 100ms, timeout: 50ms, rise: 1, fall: 1}\nclusters:\n")
        for cluster in range(pick.randrange(1, 4)):
            members = []
            for number in range(pick.randrange(1, 5)):
                more = f", weight: {pick.randrange(1, 4)}, fallback: {pick.choice(['yes', 'no']) if number else 'no'}"
                members.append(f"m{number}: {{address: 10.0.{cluster}.{number + 2}{more}}}")
            text += (f"  c{cluster}:\n    address: 203.0.113.{cluster + 1}\n"
                     f"    services: {{s: {{port: 80, member_port: {pick.choice((8080, 8081))}, "
                     f"sticky: {pick.choice(['yes', 'no'])}, check: tcp}}}}\n"
                     f"    members: {{{', '.join(members)}}}\n"
                     f"    when_all_down: {pick.choice(['keep', 'remove'])}\n")
        return parse(text, "random")

    # -- the watcher

    def alive(self) -> dict[str, set[str]]:
        return {members[0].endpoint.vips[0]: {each.endpoint.address for each in members if each.eligible}
                for members in self.daemon.fleet.groups.values()}

    def note(self) -> None:
        """A run of ipnat may take longer than a life: who was dead in between had no right to a rule."""
        self.steady = {vip: self.steady.get(vip, up) & up for vip, up in self.alive().items()}

    def look(self) -> None:
        """After every run of ipnat: who has rules, who is alive, for each service."""
        listed = self.kernel.ipnat("-l").rules
        if [line for line in listed if line in self.foreign] != self.foreign:
            self.wrong.append(f"a rule that is not ours was touched: {listed}")
        ruled: dict[str, set[str]] = {}
        for line in listed:
            rule = rdr.parse(line)
            if rule is not None and rdr.owned(rule.tag, "l4ip"):
                ruled.setdefault(rule.vip.partition("/")[0], set()).add(rule.target)
        self.note()
        self.passes.append((ruled, self.steady))
        self.steady = self.alive()
        if len(self.passes) < 4:
            return
        before = [served for served, _ in self.passes[-4:]]
        live = [up for _, up in self.passes[-4:]]
        for vip in live[-1]:
            steadily = set.intersection(*(up.get(vip, set()) for up in live))
            if steadily and all(served.get(vip) for served in before[:2]) and not ruled.get(vip):
                self.wrong.append(f"{vip} has {steadily} up for several passes, and had rules, but has no rule")

    def chaos(self) -> None:
        pick = self.source
        what = pick.random()
        addresses = [endpoint.address for endpoint in self.config.endpoints()]
        if what < 0.6:
            address = pick.choice(addresses)
            self.dealer.alive[address] = not self.dealer.alive.get(address)
        elif what < 0.75:
            self.config = self.random_config()
            self.daemon.reload(self.config)
        else:
            monitor = pick.choice(list(self.daemon.fleet.monitors.values()))
            if monitor.disabled:
                self.daemon.fleet.enable([monitor])
            else:
                self.daemon.fleet.disable([monitor], now=pick.random() < 0.5)

    def run_for(self, seconds: float) -> None:
        self.loop.later(seconds, self.loop.stop)
        self.loop.run()


@pytest.fixture(scope="module", params=["6.0.0", "5.1.2", "4.1"])
def kernel(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with sandbox("--ipfilter", request.param) as process:
        yield process


@pytest.mark.parametrize("seed", range(5))
def test_random_lives(kernel: Sandbox, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST", 0.01)
    kernel.ipnat("-FC")
    for line in FOREIGN:
        kernel.add(line)
    world = World(kernel, seed)
    done = Reconciler._changed

    def changed(self: Reconciler, *words: object) -> None:
        done(self, *words)                          # type: ignore[arg-type]
        world.look()
    monkeypatch.setattr(Reconciler, "_changed", changed)
    for _ in range(25):
        world.chaos()
        world.run_for(world.source.random() * 0.15)
    quiet = 0
    while not (quiet > 2 and world.daemon.steering.rules.settled):
        world.run_for(0.3)                          # long enough for every endpoint to be probed again
        quiet += 1
        assert quiet < 100, "never settled"
    world.look()
    assert not world.wrong
    kernel_lines = sorted(rule.line() for rule in map(rdr.parse, kernel.ipnat("-l").rules)
                          if rule is not None and rdr.owned(rule.tag, "l4ip"))
    assert kernel_lines == sorted(world.daemon.steering.rules.want)
    for group, members in world.daemon.fleet.groups.items():
        up = [each.endpoint for each in members if each.eligible]
        regular = {each.address for each in up if not each.fallback}
        served = {rdr.parse(line).target for line in world.daemon.steering.services._wanted[group]}    # type: ignore[union-attr]
        if up:
            assert served == (regular or {each.address for each in up})
    assert len(world.passes) > 5
    world.loop.close()
