"""The reconciler on a simulated clock, under minutes of every trouble that a tool can have.

The property: within five seconds of the end of the trouble the kernel's table is as wanted; what is not ours was never
touched; and then there is rest.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from l4ipd.ipfilter.rdr import owned, parse
from support.reconciler import FOREIGN, ReconcilerBench, internal_errors, rule
from support.simulated_tools import FAULTS

SOON = 5.0
TROUBLES = [fault for fault in FAULTS if fault != "slow"]


@pytest.fixture(autouse=True)
def sane(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not internal_errors(caplog)


@pytest.mark.parametrize("tool", ["ipnat", "ipf"])
@pytest.mark.parametrize("only", ["", "list", "change"])
@pytest.mark.parametrize("fault", TROUBLES)
@pytest.mark.parametrize("lines", [1, 5, 60])
def test_the_table_is_right_soon_after(fault: str, only: str, tool: str, lines: int) -> None:
    """A few rules were there; after minutes of one trouble, wishes of before and during it are fulfilled."""
    for seed in range(3 if lines < 10 else 1):
        bench = ReconcilerBench(seed, tool)
        bench.want(*map(bench.rule, range(lines)))
        bench.settle()
        assert bench.right()
        if tool == "ipf":
            bench.run(11.0)                         # no rule is in use any more
        bench.noise(fault, only=only)
        bench.want(*map(bench.rule, range(lines // 2, lines + lines // 2 + 1)))
        bench.run(100.0 + bench.source.random() * 20)
        bench.want(*map(bench.rule, range(lines // 3, lines + 3)))
        bench.run(bench.source.random() * 20)
        bench.quiet()
        bench.until(bench.right, SOON if tool == "ipnat" else SOON + 11.0)
        bench.settle()
        assert bench.right()


SLOW = ("hang", "stubborn")
QUICK = [fault for fault in FAULTS if fault not in (*SLOW, "slow")]
STEPS = st.one_of(
    st.tuples(st.just("want"), st.sets(st.integers(2, 25)), st.booleans()),
    st.tuples(st.just("noise"), st.lists(st.sampled_from(QUICK), min_size=1, max_size=3)
              | st.sampled_from(SLOW).map(lambda fault: [fault]), st.sampled_from(["", "list", "change"])),
    st.tuples(st.just("steal"), st.integers(2, 25), st.booleans()),
    st.tuples(st.just("leave"), st.integers(2, 40), st.booleans()),
    st.tuples(st.just("wait"), st.floats(0.0, 30.0), st.booleans()),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=25), st.integers(0, 2**16), st.sampled_from([(0.0, 0.01), (0.01, 0.2)]))
@example([("noise", ["stubborn"], ""), ("leave", 2, False), ("wait", 19.0, False)], 4, (0.0, 0.01))
@example([("noise", ["stubborn"], "list"), ("leave", 2, False), ("wait", 18.5966173214536, False)], 473, (0.0, 0.01))
@example([("noise", ["hang"], "change"), ("leave", 2, False), ("wait", 21.316785508381376, False),
          ("noise", ["cut"], ""), ("wait", 1.8384300859420928, False), ("noise", ["hang"], "change"),
          ("wait", 0.6724085013820664, False)], 327, (0.0, 0.01))
def test_when_the_noise_stops_kernel_equals_want(steps: list[tuple[str, object, object]], seed: int,
                                                 takes: tuple[float, float]) -> None:
    bench = ReconcilerBench(seed, takes=takes)
    bench.settle()
    stolen: set[object] = set()
    for what, which, how in steps:
        if what == "want":
            lines = [rule(member) for member in which]              # type: ignore[attr-defined]
            bench.ways.update(dict.fromkeys(bench.it.want, "purge" if how else "drain"))
            bench.want(*lines)
        elif what == "noise":
            chance = 1.0 if which[0] in SLOW else 0.7               # type: ignore[index]
            bench.noise(*which, chance=chance, only=str(how))       # type: ignore[misc]
        elif what == "steal" and which not in stolen:               # oftener, and it would be a conflict
            stolen.add(which)
            bench.tools.remove(rule(int(str(which))))
        elif what == "leave" and (which, how) not in stolen:        # what another one has left: unknown, or like ours
            line = rule(int(str(which)))
            bench.tools.remove(line)
            stolen.update((which, (which, how)))
            bench.tools.add([line.replace("ext0 ", "ext0,ext0 ") if how else line])
        else:
            bench.run(float(str(which)) if what == "wait" else 0.1)
    bench.quiet()
    bench.it.reread()                               # what they have done since the table was read last
    doubles = sum(what == "leave" and how is True for what, _, how in steps)
    slow = bench.it.timeout if bench.has_all_of_its_time else 0.0
    bench.until(bench.right, SOON + doubles + slow) # each takes two tries
    bench.settle()
    assert [line for line in bench.tools.nat() if not owned(parse(line).tag, "l4ip")] == FOREIGN    # type: ignore[union-attr]
    before = len(bench.tools.runs)
    bench.run(60.0)
    assert bench.right() and bench.it.settled and not bench.it.held and not bench.it.complaint
    assert {words[1] for words in bench.tools.runs[before:]} == {"-l"}, "there is nothing to do"
    assert len(bench.tools.runs) - before <= 7
