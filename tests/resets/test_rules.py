"""The ipf rules that make resets visible, on a simulated clock and the sandbox's tools: which there are, and whose."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from l4ipd.ipfilter import log_rules, runner
from l4ipd.ipfilter.resync import Budget
from l4ipd.model import Check, Endpoint, Ipfilter, Resets
from l4ipd.resets.rules import COUNT_EVERY, COUNT_SHARE, ResetRules, Traces
from support.sandbox_tools import drive
from support.simulated_tools import World

TOOLS = Ipfilter(interface="em0", resync=10.0)
LOG, COUNT = Resets("em1"), Resets("em1", "counters")
NOTHING: Traces = frozenset(), frozenset(), frozenset()


def traces(tables: str, tags: Iterable[int] = (), counts: Iterable[str] = ()) -> Traces:
    return frozenset(tables.split()), frozenset(tags), frozenset(counts)


def endpoint(address: str = "10.0.0.2", port: int = 8080, protocol: str = "tcp") -> Endpoint:
    return Endpoint("www/x/a", "www", "x", "a", ("203.0.113.1",), 80, protocol, False, address, port, 1, False,
                    (Check("tcp"),))


FOUR, SIX = endpoint(), endpoint("fd00::2")


def line(action: str = "log", address: str = "10.0.0.2", port: int = 8080, tag: int | None = 4711) -> str:
    return log_rules.Rule(action, "em1", address, port, tag if action == "log" else None).line()


class Bench(World):
    def __init__(self) -> None:
        super().__init__(1, (0.01, 0.01))
        self.read: list[tuple[bool, dict[str, int]]] = []
        self.it = ResetRules(self.loop, self.counted)

    def counted(self, inet6: bool, hits: Mapping[str, int]) -> None:
        self.read.append((inet6, dict(hits)))

    def use(self, settings: Resets | None, *endpoints: Endpoint, tools: Ipfilter = TOOLS) -> None:
        self.it.use(tools, settings, endpoints)

    def settle(self, seconds: float = 14.0) -> None:
        """A rule that is to go may be in use until then."""
        self.run(seconds)

    def load(self, *lines: str) -> None:
        """Somebody has, an earlier run of ours or another."""
        for each in lines:
            words = ("ipf", *(("-6",) if ":" in each else ()), "-f", "-")
            assert drive(self.tools.begin(words), each + "\n").status == 0

    def there(self) -> list[str]:
        found = []
        for words in (("ipfstat", "-iR"), ("ipfstat", "-6", "-iR"), ("ipfstat", "-aihR"), ("ipfstat", "-6", "-aihR")):
            rules = map(log_rules.parse, drive(self.tools.begin(words)).stdout.splitlines())
            found += [rule.line() for rule in rules if rule is not None]
        return sorted(found)

    def listings(self) -> set[tuple[str, ...]]:
        return {words for words in self.tools.runs if words[0] == "ipfstat"}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Bench:
    it = Bench()
    monkeypatch.setattr(runner, "Child", it.tools.spawn)
    return it


def test_log_rules_of_both_families(bench: Bench) -> None:
    bench.use(LOG, FOUR, SIX, endpoint(port=8080), endpoint("10.0.0.3", 53, "udp"))
    assert set(bench.it.tables) == {("log", False), ("log", True)}
    bench.settle()
    udp = log_rules.Rule("log", "em1", "10.0.0.3", None, 4711).line()
    assert bench.there() == sorted([line(), line(address="fd00::2"), udp])
    assert bench.it.summary() == "ipf rules: 3 wanted, 3 in the kernel"
    assert bench.it.readable and bench.it.trouble == "" and not bench.read
    four, six = (rules.table for rules in bench.it.tables.values())
    assert four.iterator is six.iterator and four.mark == six.mark == "resets.tag 4711"
    assert bench.listings() == {("ipfstat", "-iR"), ("ipfstat", "-6", "-iR")}


def test_counting_rules_and_their_numbers(bench: Bench) -> None:
    bench.use(COUNT, FOUR, SIX)
    bench.settle(5.0)
    assert bench.there() == sorted([line("count"), line("count", "fd00::2")])
    assert (False, {line("count"): 0}) in bench.read and (True, {line("count", "fd00::2"): 0}) in bench.read
    assert 8 <= len(bench.read) <= 14, "each once a second"
    assert (COUNT_EVERY, COUNT_SHARE) == (1.0, 0.05)
    assert bench.it.tables["count", False].resync.budget.share == COUNT_SHARE
    assert bench.it.tables["count", False].resync.least == COUNT_EVERY
    bench.use(Resets("em1"), FOUR)
    assert bench.it.tables["count", False].table.mark == ""


def test_how_often_log_rules_are_looked_at(bench: Bench) -> None:
    budget = Budget()
    bench.it = ResetRules(bench.loop, bench.counted, budget)
    bench.use(LOG, FOUR)
    (rules,) = bench.it.tables.values()
    assert rules.resync.least == 10.0 and rules.resync.budget is budget and rules.timeout == TOOLS.timeout
    bench.use(LOG, FOUR, tools=Ipfilter(interface="em0", resync=20.0, timeout=7.0))
    assert (rules.resync.least, rules.timeout) == (20.0, 7.0) and bench.it.tables["log", False] is rules


def test_from_one_kind_to_the_other(bench: Bench) -> None:
    bench.use(LOG, FOUR)
    bench.settle()
    bench.use(COUNT, FOUR)
    bench.settle()
    assert bench.there() == [line("count")]
    bench.use(None, FOUR)
    bench.settle()
    assert bench.there() == [] and bench.it.summary() == "ipf rules: 0 wanted, 0 in the kernel"
    assert all(rules.pause for rules in bench.it.tables.values()), "nothing of ours is there, and nothing is to be"
    before = len(bench.tools.runs)
    bench.settle(60.0)
    assert len(bench.tools.runs) == before
    bench.use(LOG, FOUR)
    bench.settle()
    assert bench.there() == [line()]


def test_another_tag(bench: Bench) -> None:
    bench.use(LOG, FOUR)
    bench.settle()
    bench.use(Resets("em1", tag=99), FOUR)
    assert bench.it._older == {}, "all that bear the first one are known"
    bench.settle()
    assert bench.there() == [line(tag=99)]
    bench.use(None)
    assert bench.it.tables["log", False].table.mark == "" and bench.it.traces()[0] == {"log"}, "it is still there"
    bench.until(lambda: not bench.it.tables["log", False].stale, 5.0)
    assert bench.it.tables["log", False].have and bench.it.traces()[0] == {"log"}


def test_another_tag_before_the_table_was_read(bench: Bench) -> None:
    """What bears the first one has been left by an earlier run, or is about to be loaded."""
    bench.load(line(port=9), line(port=10, tag=5))
    bench.use(LOG, FOUR)
    bench.use(Resets("em1", tag=99), FOUR)
    assert bench.it.traces()[1] == {4711, 99}
    bench.settle()
    assert bench.there() == sorted([line(tag=99), line(port=10, tag=5)]) and bench.it.traces()[1] == {99}


def test_what_bears_another_tag_is_not_ours(bench: Bench) -> None:
    bench.load(line(tag=5), line(port=9))
    bench.use(LOG, FOUR)
    bench.until(lambda: not bench.it.tables["log", False].stale, 5.0)
    assert bench.it.tables["log", False].knows(line(port=9))
    bench.settle()
    assert bench.there() == sorted([line(), line(tag=5)]), "and what bears ours goes, if nobody wants it"
    bench.load(line(port=9))
    bench.settle(30.0)
    assert bench.there() == sorted([line(), line(tag=5)]), "whenever it comes"


def test_what_an_earlier_run_has_left_goes(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    left = [line(port=9, tag=5), line(address="fd00::2", port=9, tag=5), line("count", port=9)]
    others = [line(port=9, tag=6), line("count", port=10)]
    bench.load(*left, *others)
    bench.it.remember(["log", "log6", "count", "nonsense", "count7"], [5], [line("count", port=9)])
    bench.use(None)
    assert set(bench.it.tables) == {("log", False), ("log", True), ("count", False)}
    bench.settle(30.0)
    assert bench.there() == sorted(others) and bench.it.traces() == NOTHING
    assert "resets.tag 5" in caplog.text and "count in" not in caplog.text
    assert bench.it._counts == frozenset()


def test_count_rules_that_were_left_are_known_until_each_table_was_read(bench: Bench) -> None:
    left = [line("count", port=9), line("count", "fd00::2", 9)]
    bench.load(*left)
    bench.it.remember(["count", "count6"], [], left)
    bench.tools.fault = lambda words: "fail" if "-6" in words else "ok"
    bench.use(None)
    bench.settle()
    assert bench.there() == left[1:] and bench.it._counts == frozenset(left)
    bench.tools.fault = lambda words: "ok"
    bench.settle(20.0)
    assert bench.there() == [] and bench.it._counts == frozenset()


def test_and_what_is_wanted_again_stays(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.load(line(), line("count"))
    bench.it.remember(["log", "count"], [4711], [line("count")])
    bench.use(COUNT, FOUR)
    bench.settle(30.0)
    assert bench.there() == [line("count")]
    assert not any("-f" in words and "-r" not in words for words in bench.tools.runs), "nothing was loaded"


def test_traces_for_the_next_run(bench: Bench) -> None:
    assert bench.it.traces() == NOTHING
    bench.use(LOG, FOUR, SIX)
    assert bench.it.traces() == traces("log log6", [4711])
    bench.settle()
    assert bench.it.traces() == traces("log log6", [4711])
    bench.use(COUNT, SIX)
    assert bench.it.traces() == traces("log log6 count6", [4711], [line("count", "fd00::2")])
    bench.settle()
    assert bench.it.traces() == traces("count6", (), [line("count", "fd00::2")])


def test_whose_a_rule_is_that_nobody_wants(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.load(line(port=9))
    bench.use(LOG, FOUR)
    bench.settle()
    assert ("a rule with resets.tag 4711 that no endpoint makes will be removed: " + line(port=9) + ": it is of an "
            "earlier configuration, or of another l4ipd with resets.tag 4711") in caplog.messages


def test_what_is_wanted_is_nobodys_leftover(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.load(line())
    bench.use(LOG, FOUR)
    bench.settle()
    assert not caplog.messages and bench.there() == [line()]


@pytest.mark.parametrize("remove", [True, False])
def test_the_end(bench: Bench, remove: bool) -> None:
    bench.use(LOG, FOUR)
    bench.settle()
    bench.it.stop(remove)
    bench.settle(30.0)
    assert bench.there() == ([] if remove else [line()])
    assert bench.it.tables["log", False].pause is (not remove) or bench.it.tables["log", False].have == {}


def test_what_goes_wrong(bench: Bench) -> None:
    bench.tools.fault = lambda words: "fail" if words[0] == "ipfstat" else "ok"
    bench.use(LOG, FOUR)
    bench.settle(3.0)
    assert not bench.it.readable and bench.it.trouble == "ioctl: the weather is bad"
    bench.tools.fault = lambda words: "fail" if words[0] == "ipf" else "ok"
    bench.settle(20.0)
    assert bench.it.traces()[0] == {"log"} and not bench.it.tables["log", False].have
    assert bench.it.readable and bench.it.trouble == "ioctl: the weather is bad"
    bench.tools.fault = lambda words: "ok"
    bench.settle(10.0)
    assert bench.it.readable and bench.it.trouble == "" and bench.there() == [line()]
