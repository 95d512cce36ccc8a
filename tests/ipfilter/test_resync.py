"""How often the tables are read when nothing is known to have changed: soon enough, and for no more than its price."""

from __future__ import annotations

import resource
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.ipfilter.nat_table import Dialect, NatTable
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.ipfilter.resync import FEW, MORE, SHARE, SOON, Budget, Resync
from l4ipd.model import Ipfilter
from l4ipd.runtime.child import Exit
from l4ipd.runtime.loop import Loop
from l4ipd.sandbox import tool_words
from support.reconciler import ReconcilerBench, rule
from support.sandbox_tools import Sandbox
from support.simulated_tools import World

PATIENCE = 60.0

LEAST = Ipfilter().resync


def flush(bench: ReconcilerBench) -> None:
    """What ``ipnat -CF`` or ``ipf -Fa`` does, and no tool of ours."""
    kernel = bench.tools.kernel
    kernel.nat.clear()
    kernel.filter.flush(kernel.filter.active, ("in", "out"))


@pytest.mark.parametrize("cost, lines, interval", [
    (0.0, 10, LEAST), (0.004, 10, LEAST),           # resync is the least
    (0.010, 1000, 2.5), (0.012, 1001, 3.0), (0.4, 50000, 100.0),        # what a listing costs, over the share
    (0.010, 10, 2.5), (0.06, 10, 2.5),              # a slow machine, few rules: soon all the same
    (0.35, 1000, 7.0), (0.35, 1001, 87.5),         # unless it takes too much
])
def test_intervals(cost: float, lines: int, interval: float) -> None:
    assert Budget().interval(1, cost, lines, LEAST, 0.0) == pytest.approx(interval)


def test_tables_share_a_budget_and_one_that_is_not_read_any_more_frees_it() -> None:
    budget = Budget()
    assert budget.interval(1, 0.02, 2000, LEAST, 0.0) == pytest.approx(5.0)
    assert budget.interval(2, 0.02, 2000, LEAST, 1.0) == pytest.approx(10.0)
    assert budget.interval(1, 0.02, 2000, LEAST, 6.0) == pytest.approx(10.0)
    assert budget.interval(1, 0.02, 2000, LEAST, 16.0) == pytest.approx(10.0)
    assert budget.interval(1, 0.02, 2000, LEAST, 60.0) == pytest.approx(5.0)


@given(st.lists(st.tuples(st.floats(0.0, 5.0), st.integers(0, 50000)), min_size=1, max_size=4),
       st.sampled_from((0.05, 2.0, 60.0)))
def test_the_price_is_kept_whatever_the_sizes(tables: list[tuple[float, int]], least: float) -> None:
    """Each table as often as its resync says, for a long while: what all of it took."""
    budget, spent = Budget(), 0.0
    due = dict.fromkeys(range(len(tables)), 0.0)
    while (now := min(due.values())) < 10000.0:
        table = min(due, key=lambda each: due[each])
        cost, lines = tables[table]
        interval = budget.interval(table, cost, lines, least, now)
        assert interval >= least
        due[table] = now + interval
        spent += cost if now > 5000.0 else 0.0
    share = SHARE if sum(lines for _, lines in tables) > FEW else MORE
    few = sum(cost for cost, _ in tables)
    assert spent / 5000.0 <= share * 1.2 + few / 5000.0         # one more or less at the end


def test_a_listing_that_met_a_cold_cache_is_no_measure() -> None:
    world = World(0)
    resync = Resync(world.loop, LEAST, Budget(), lambda: None)
    for cost in (0.5, 0.016, 0.02):
        resync.listed(Exit(0, cost=cost), 5000)
    resync.rest()
    assert resync.interval == pytest.approx(4.0)


@pytest.mark.parametrize("tool", ["ipnat", "ipf"])
@pytest.mark.parametrize("rules", [1, 1000])
def test_a_flush_is_repaired_within_three_seconds(tool: str, rules: int) -> None:
    """At any moment between two listings; their cost is what a slow machine's would be."""
    for seed in range(5):
        bench = ReconcilerBench(seed, tool, resync=LEAST)
        bench.tools.cost = 0.008 if rules == 1000 else 0.05
        bench.want(*map(bench.rule, range(rules)))
        bench.settle()
        bench.run(20.0 + bench.source.uniform(0, 5.0))
        flush(bench)
        flushed = bench.clock.now
        bench.until(bench.right, 60.0)
        assert bench.clock.now - flushed <= 3.0


def test_many_rules_are_read_seldom() -> None:
    bench = ReconcilerBench(0, resync=LEAST)
    bench.tools.cost = 0.2
    bench.want(*map(rule, range(3000)))
    bench.settle()
    bench.run(120.0)
    runs = bench.it.runs
    bench.run(1000.0)
    assert 18 <= bench.it.runs - runs <= 20
    flush(bench)
    flushed = bench.clock.now
    bench.until(bench.right, 60.0)
    assert bench.clock.now - flushed <= 52.0


def test_what_a_real_listing_costs_is_what_counts(kernel: Sandbox) -> None:
    """A thousand rules, by real processes: what is measured is most of what it took, and sets the interval."""
    loop, settings = Loop(), Ipfilter(interface="ext0")
    settings = replace(settings, ipnat=tuple(tool_words(kernel.path)["ipnat"]), resync=0.05)
    nat = NatTable(settings, Dialect("6.0.0", True, True), lambda line: None, lambda: it.want)
    costs: list[float] = []
    budget = Budget(0.2)

    def listed() -> None:
        nat.listed()
        costs.append(it.resync._costs[-1])

    it = Reconciler(loop, nat.table, settings.timeout, settings.resync, removal=lambda line: "drain", budget=budget,
                    listed=listed)
    it.want = dict.fromkeys(rule(number % 250, 1000 + number // 250) for number in range(FEW + 1))
    it.touch()
    def turns(count: int) -> None:
        """Until so many listings more were made."""
        costs.clear()
        end = time.monotonic() + PATIENCE
        while len(costs) < count:
            assert time.monotonic() < end, "never listed"
            loop.turn()

    turns(2)
    used = _used()
    turns(12)
    took = _used() - used
    assert min(costs) > 0
    assert sum(costs) <= took * 1.1 and took <= sum(costs) * 3
    assert it.resync.interval == pytest.approx(max(0.05, min(costs[-4:-1]) / 0.2)), "that of the last but one"
    loop.close()


def _used() -> float:
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (
        resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


def test_a_table_that_was_never_read_has_no_price() -> None:
    world = World(0)
    resync = Resync(world.loop, 60.0, Budget(), lambda: None)
    resync.rest()
    assert resync.interval == 60.0 and SOON < 60.0
