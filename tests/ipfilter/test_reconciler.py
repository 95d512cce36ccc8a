"""The reconciler on a simulated clock: what it says of itself, when it looks, what it tries again, what it tells."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from l4ipd.ipfilter.changes import LIE
from l4ipd.ipfilter.conflicts import LOST
from l4ipd.ipfilter.listing import FORGOTTEN, IN_USE
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.runtime.child import Child
from support.reconciler import FOREIGN, ReconcilerBench, internal_errors, log_rule, rule

WEATHER = "ioctl: the weather is bad"


@pytest.fixture(autouse=True)
def sane(caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    kinds = internal_errors(caplog)
    assert bool(kinds) is ("exception" in request.node.name) and kinds <= {"ValueError", "ZeroDivisionError"}


class Bench(ReconcilerBench):
    """With the words of the runs since the last look at them, and faults for the next runs in their order."""

    def __init__(self, *wanted: str, tool: str = "ipnat", resync: float = 10.0, seed: int = 0) -> None:
        super().__init__(seed, tool, resync=resync)
        self.seen = 0
        if wanted:
            self.want(*wanted)
            self.settle()
            self.runs()

    def runs(self) -> list[str]:
        """list, add, drain or purge."""
        new, self.seen = self.tools.runs[self.seen:], len(self.tools.runs)
        return [self.kind(words) for words in new]

    @staticmethod
    def kind(words: Sequence[str]) -> str:
        if "-l" in words or "-iR" in words:
            return "list"
        return "purge" if "-p" in words else "drain" if "-r" in words else "add"

    def next(self, *faults: str) -> None:
        left = list(faults)
        self.tools.fault = lambda words: left.pop(0) if left else "ok"

    def only(self, kind: str, fault: str, of: Callable[[], bool] = lambda: True) -> None:
        self.tools.fault = lambda words: fault if self.kind(words) == kind and of() else "ok"


def texts(caplog: pytest.LogCaptureFixture, piece: str = "") -> list[str]:
    return [message for message in caplog.messages if piece in message]


# -- what it says of itself

def test_at_the_beginning_nothing_is_known() -> None:
    bench = Bench()
    it = bench.it
    assert (it.stale, it.have, it.settled, it.busy) == (True, {}, False, False)
    assert (it.runs, it.faults.runs, it.repairs) == (0, 0, 0)
    assert (it.problem, it.complaint, it.undone, it.held, it.contested) == ("", "", "", {}, False)
    bench.settle()
    assert (it.stale, it.settled, it.busy, it.runs) == (False, True, False, 1) and bench.runs() == ["list"]


def test_it_is_settled_when_the_table_was_read_after_the_last_change() -> None:
    bench = Bench(rule(2))
    bench.want(rule(3))
    assert not bench.it.settled
    bench.until(lambda: bench.it.busy, 1.0)
    assert not bench.it.settled
    bench.until(lambda: bench.it.have == {rule(2): bench.it.have[rule(2)], rule(3): rule(3)}, 1.0)
    assert not bench.it.settled
    bench.settle()
    assert bench.runs() == ["add", "drain", "list"] and bench.it.runs == 6 and bench.it.faults.runs == 0


def test_what_is_known_as_ours() -> None:
    bench = Bench(rule(2), rule(3))
    bench.ways = {rule(2): None}
    bench.want(rule(3), rule(4))
    assert bench.it.known() == {rule(2), rule(3), rule(4)}
    assert bench.it.knows(rule(2)) and not bench.it.knows(rule(4))
    bench.until(lambda: bench.it.busy, 1.0)
    assert bench.it.knows(rule(4)), "it may be there"
    bench.want()
    assert bench.it.known() == {rule(2), rule(3), rule(4)}


def test_what_is_not_done_in_words() -> None:
    bench = Bench(rule(2))
    assert bench.it.undone == ""
    bench.ways[rule(2)] = None
    bench.want()
    assert bench.it.undone == "", "it is to stay for a while"
    bench.ways.clear()
    assert bench.it.undone == f"a rule is not removed: {rule(2)}"
    bench.want(rule(2), rule(3))
    assert bench.it.undone == f"a rule is not loaded: {rule(3)}"
    bench.want(rule(3))
    assert bench.it.undone == f"2 rules are not loaded: {rule(3)}"
    bench.noise("fail")
    bench.until(lambda: bool(bench.it.problem), 10.0)
    assert bench.it.undone == f"2 rules are not loaded: {rule(3)}: {WEATHER}"
    bench.quiet()
    bench.settle()
    assert bench.it.undone == "" and bench.it.problem == ""


def test_why_it_is_not_done() -> None:
    bench = Bench(rule(2))
    bad = rule(66).replace("8080", "99999")
    bench.want(rule(2), bad)
    bench.until(lambda: bad in bench.it.held, 10.0)
    bench.it.faults.complaint = ""
    assert bench.it.undone == f"a rule is not loaded: {bad}: {bench.it.held[bad].words}"
    bench.it.faults.complaint = "complaint"
    assert bench.it.undone.endswith(": complaint")
    bench.it.faults.problem = "problem"
    assert bench.it.undone.endswith(": problem")


def test_a_failed_change_may_have_come_about() -> None:
    """Until the table is read nobody knows, and nobody says that all is well."""
    bench = Bench(rule(2))
    bench.next("grumble", "hang")
    bench.want(rule(2), rule(3))
    bench.until(lambda: bench.it.faults.runs == 1, 5.0)
    bench.want(rule(2))
    assert bench.it.undone == f"a rule is not removed: {rule(3)}"
    assert bench.it.knows(rule(3)) and bench.it.stale


# -- when it looks

def test_it_looks_again_and_again() -> None:
    bench = Bench(rule(2))
    bench.run(35.0)
    assert bench.runs() == ["list"] * 3
    bench.tools.kernel.nat.clear()
    bench.until(bench.right, 11.0)
    bench.settle()
    assert bench.runs() == ["list", "add", "list"]
    assert bench.it.repairs == 1 and bench.repaired == [rule(2)]


def test_a_look_on_demand() -> None:
    bench = Bench(rule(2))
    bench.it.reread()
    assert not bench.it.settled
    bench.settle()
    assert bench.runs() == ["list"]
    bench.it.touch()
    bench.settle()
    assert bench.runs() == [], "a touch is no reason to read"


def test_suspended_it_starts_nothing() -> None:
    bench = Bench(rule(2))
    bench.it.suspend()
    bench.it.reread()
    bench.it.wish({rule(3): None})
    bench.run(30.0)
    assert bench.runs() == [] and not bench.it.settled
    bench.it.resume()
    bench.settle()
    assert bench.right() and bench.runs() == ["add", "drain", "list"]


def test_it_may_look_and_change_nothing() -> None:
    bench = Bench(rule(2))
    bench.it.hold_changes(True)
    bench.it.wish({rule(3): None})
    bench.run(1.0)
    assert bench.runs() == [] and not bench.it.settled
    bench.it.belief.stale = True
    bench.it.touch()
    bench.run(1.0)
    assert bench.runs() == ["list"] and bench.ours() == [rule(2)]
    bench.it.hold_changes(False)
    bench.it.touch()
    bench.settle()
    assert bench.right()


def test_at_the_end_it_reads_only_what_is_known_to_be_amiss() -> None:
    bench = Bench(rule(2))
    bench.it.be_quick()
    bench.it.reread()
    bench.settle()
    assert bench.runs() == []
    bench.want()
    bench.settle()
    assert bench.runs() == ["drain"], "and does not read it back"
    bench.next("grumble")
    bench.want(rule(3))
    bench.settle()
    assert bench.runs() == ["add", "list"]


# -- other commands

def test_other_settings_that_are_the_same_change_nothing() -> None:
    bench = Bench(rule(2))
    bench.it.use(bench.it.table, 5.0, 10.0)
    bench.settle()
    assert bench.runs() == []


@pytest.mark.parametrize(("change", "runs", "ever"), [
    (lambda table: replace(table, listing=("ipnat", "-l", "-R")), ["list"], False),
    (lambda table: replace(table, adding=("ipnat", "-f", "-", "-")), ["list"], False),
    (lambda table: replace(table, read=lambda line: None), ["list", "add"], True),
    (lambda table: replace(table, purging=("ipnat", "-r", "-f", "-")), [], True),
    (lambda table: replace(table, mark="other"), [], True),
])
def test_other_commands(change: Callable[[object], object], runs: list[str], ever: bool) -> None:
    bench = Bench(rule(2))
    bench.it.use(change(bench.it.table), 5.0, 10.0)                 # type: ignore[arg-type]
    assert bench.it.belief.ever is ever and bench.it.stale is bool(runs)
    bench.run(2.0)
    assert bench.runs()[:len(runs)] == runs


def test_other_times() -> None:
    bench = Bench(rule(2))
    bench.it.use(bench.it.table, 7.0, 2.0)
    bench.run(5.0)
    assert (bench.it.timeout, bench.it.resync.least) == (7.0, 2.0) and 2 <= len(bench.runs()) <= 3


def test_another_table_is_not_waited_for_as_the_last_one_was() -> None:
    bench = Bench(rule(2))
    bad = rule(66).replace("8080", "99999")
    bench.noise("fail")
    bench.want(bad, rule(3))
    bench.run(60.0)
    bench.it.reread()
    bench.until(lambda: bench.it._listings.waiting or bench.it._changes.backoff.waiting, 10.0)
    bench.quiet()
    bench.it.use(replace(bench.it.table, mark="other"), 5.0, 10.0)
    assert not bench.it._listings.waiting and not bench.it._changes.backoff.waiting and not bench.it.held
    assert bench.it._listings.failures == bench.it._changes.backoff.failures == 0
    bench.until(lambda: rule(3) in bench.ours(), 1.0)


# -- what fails

def test_a_listing_that_fails_is_tried_again_and_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    bench = Bench(rule(2))
    bench.only("list", "fail")
    bench.it.reread()
    bench.until(lambda: bool(bench.it.problem), 5.0)
    assert bench.it.stale
    bench.run(20.0)
    assert bench.it.problem == WEATHER and bench.it.faults.runs == len(bench.runs()) >= 5
    assert texts(caplog) == [f"ipnat: {WEATHER}; trying again"]
    assert caplog.records[-1].levelno == logging.ERROR
    bench.only("list", "cut")
    bench.run(10.0)
    assert "ipnat: its listing was cut short; trying again" in texts(caplog)
    bench.quiet()
    bench.settle()
    assert texts(caplog)[-1] == "ipnat works again" and bench.it.problem == ""
    bench.it.reread()
    bench.settle()
    assert len(texts(caplog, "works again")) == 1


def test_a_change_that_fails_once_may_be_chance(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2))
    bench.next("fail")
    bench.want(rule(2), rule(3))
    bench.until(bench.right, 2.0)
    bench.settle()
    assert not texts(caplog) and bench.it.faults.runs == 1
    assert bench.runs() == ["add", "list", "add", "list"] and bench.it.complaint == ""


def test_one_that_fails_again_is_complained_of_until_all_is_well(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2))
    bench.only("add", "fail")
    bench.want(rule(2), *map(rule, range(3, 30)))
    bench.until(lambda: bench.it.complaint == WEATHER, 20.0)
    assert texts(caplog) == [f"ipnat: {WEATHER}; trying again"]
    bench.quiet()
    bench.settle()
    assert bench.it.complaint == ""
    bench.only("add", "fail")
    bench.want(*map(rule, range(2, 60)))
    bench.until(lambda: bench.it.complaint == WEATHER, 20.0)
    assert len(texts(caplog, WEATHER)) == 2, "it is said anew"


def test_a_rule_that_ipnat_lies_about_is_held_and_named(caplog: pytest.LogCaptureFixture) -> None:
    """It exits with 0, and the rule is not there. Others go their way."""
    bench = Bench(rule(2))
    bad = rule(66)
    spawn = bench.tools.spawn

    def lies(*words: object, stdin: bytes = b"", **more: object) -> Child:
        lines = stdin.splitlines(keepends=True)
        kept = b"".join(line for line in lines if bad.encode() not in line)
        return spawn(*words, stdin=kept or b"#\n" * bool(lines), **more)        # type: ignore[arg-type]

    bench.it._runner.spawn = lies
    bench.want(rule(2), bad, rule(3), rule(4))
    bench.until(lambda: bad in bench.it.held and bench.it.held[bad].tries > 1, 10.0)
    assert bench.ours() == [rule(2), rule(3), rule(4)]
    assert bench.it.held[bad].words == LIE == "it reported success, but the kernel's table says otherwise"
    bench.until(lambda: bool(texts(caplog, "load this rule")), 10.0)
    bench.run(30.0)
    assert texts(caplog, "load this rule") == [
        f"ipnat does not load this rule, which will be tried again: {bad}: {LIE}"]
    assert bench.it.complaint == f"reported success, but the kernel's table says otherwise: {bad}"
    assert texts(caplog, "; trying again") == [
        f"ipnat: reported success, but the kernel's table says otherwise: {bad}; trying again"]
    failed = bench.it.faults.runs
    bench.until(lambda: bench.it.faults.runs == failed + 1, 10.0)
    bench.it._runner.spawn = bench.tools.spawn
    bench.until(bench.right, 5.0)
    bench.settle()
    assert not bench.it.held and not bench.it.complaint


def test_one_that_it_does_not_let_go(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2), rule(3), rule(4))
    bench.only("drain", "fail")
    bench.want(rule(2))
    bench.until(lambda: bool(texts(caplog, "this rule")), 20.0)
    assert texts(caplog, "this rule")[0].startswith("ipnat does not remove this rule, which will be tried again: ")
    assert {level for name, level, text in caplog.record_tuples if "this rule" in text} == {logging.ERROR}


def test_whatever_succeeds_ends_the_waits() -> None:
    bench = Bench(rule(2))
    bad = rule(66).replace("8080", "99999")
    bench.only("add", "fail")
    bench.want(rule(2), bad)
    bench.run(30.0)
    assert bench.it._changes.backoff.failures
    bench.quiet()
    bench.want(rule(2), bad, rule(3))
    bench.until(lambda: rule(3) in bench.it.have and not bench.it.busy and bench.it._changes.backoff.failures <= 1, 3.0)


def test_after_a_listing_works_again_the_next_change_does_not_wait() -> None:
    bench = Bench(rule(2))
    bench.noise("fail")
    bench.want(rule(2), rule(3))
    bench.run(60.0)
    bench.quiet()
    bench.until(bench.right, 3.0)


def test_success_after_failures_has_to_be_confirmed() -> None:
    bench = Bench(rule(2))
    bench.next("fail", "ok", "lie")
    bench.want(*map(rule, range(2, 5)))             # two are missing: the second is not tried before
    bench.until(bench.right, 5.0)
    assert bench.runs()[:5] == ["add", "list", "add", "list", "list"]


def test_a_listing_that_hung_is_tried_again_at_once() -> None:
    bench = Bench(rule(2))
    bench.next("hang", "ok")                        # the second one asks whether it works
    bench.it.reread()
    began = bench.clock.now
    bench.settle()
    assert bench.clock.now - began < 2.3 and bench.it.faults.runs == 1, "without a wait"
    assert bench.runs() == ["list"] * 4, "one that hung, a question, one that is read for nothing, and one that counts"


def test_a_change_that_hung_blames_nobody(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2))
    bench.next("hang", "ok")
    bench.want(rule(2), rule(3), rule(4))
    bench.until(bench.right, 6.0)
    bench.settle()
    assert not texts(caplog) and not bench.it.held and bench.it.faults.runs == 1
    assert bench.runs() == ["add", "add", "list", "add", "list"], "the second one asks whether it works"


def test_an_exception_is_no_end(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever raises: nothing is believed, and after a wait it goes on."""
    bench = Bench(rule(2))
    calls: list[str] = []

    def raises(line: str) -> str | None:
        calls.append(line)
        raise ValueError(line)

    bench.it.removal = raises
    bench.want()
    bench.run(30.0)
    assert 10 < len(calls) < 25 and bench.it.stale and bench.ours() == [rule(2)]
    assert "the rules of ipnat are looked at again" in caplog.text
    bench.it.removal = lambda line: "drain"
    bench.until(bench.right, 5.0)


def test_an_exception_at_the_end_of_a_run_is_none_either(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2))
    listed, bench.it.listed = bench.it.listed, lambda: 1 // 0
    bench.it.reread()
    bench.run(20.0)
    assert 8 < len(bench.runs()) < 20 and "a run of ipnat is done again" in caplog.text
    bench.it.listed = listed
    bench.settle()
    assert bench.right()


# -- what others do

def test_what_somebody_removes_again_and_again_is_put_back_later(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2), rule(3))
    for _ in range(3):
        bench.tools.remove(rule(2))
        bench.it.reread()
        bench.until(lambda: rule(2) not in bench.it.have or rule(2) in bench.it.held, 5.0)
        if rule(2) not in bench.it.held:
            bench.settle()
    assert (f"a rule of ours was removed by somebody else 3 times within a minute: {rule(2)}: another l4ipd with the "
            "tag l4ip is the likely cause: give each its own; ") in caplog.text
    held = bench.it.held[rule(2)]
    assert held.words == LOST and held.paused and bench.it.contested
    began = bench.clock.now
    bench.until(bench.right, 5.0)
    assert bench.clock.now - began > 1.5
    assert bench.it.repairs == len(bench.repaired) == 3


def test_what_was_there_before_us_is_no_loss() -> None:
    bench = Bench()
    bench.tools.add([rule(2)])
    bench.want(rule(2), rule(3))
    bench.settle()
    assert not bench.repaired and not bench.it.repairs and bench.right()


def test_rules_of_others_are_left_alone() -> None:
    bench = Bench(rule(2))
    bench.want()
    bench.settle()
    assert bench.tools.nat() == FOREIGN


# -- what a listing keeps in use

def test_a_rule_in_use_is_waited_for_in_quiet() -> None:
    bench = Bench(log_rule(2), log_rule(3), tool="ipf")
    bench.want(log_rule(3))
    bench.until(lambda: log_rule(2) in bench.it.held, 3.0)
    held = bench.it.held[log_rule(2)]
    assert held.words == IN_USE and held.paused and not bench.it.knows("x")
    assert bench.it.table.iterator.quiet_until > bench.clock.now
    bench.runs()
    took = bench.until(bench.right, FORGOTTEN + 1.0)
    assert set(bench.runs()) == {"drain"} and took > 5.0, "no listing in between"
    bench.settle()
    assert bench.runs() == ["list"] and bench.it.faults.runs == 0


# -- what is tried how

def test_what_goes_with_its_sessions_and_what_stays_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    bench = Bench(rule(2), rule(3), rule(4), rule(5))
    caplog.clear()
    bench.ways = {rule(2): "purge", rule(3): None, rule(4): "purge"}
    bench.want(rule(5))
    bench.settle()
    assert bench.runs() == ["purge", "list"] and bench.ours() == [rule(3), rule(5)]
    gone = "; ".join(rule(member).replace(" port 8080", "/32 port 8080") for member in (2, 4))
    assert caplog.messages == [f"ipnat: purge: {gone}"]


def test_of_equal_rules_all_but_one_go() -> None:
    bench = Bench(rule(2))
    bench.tools.add([rule(2).replace("ext0 ", "ext0,ext0 ")])
    bench.it.reread()
    bench.until(lambda: bench.ours() == [rule(2)], 5.0)
    bench.settle()
    assert bench.runs() == ["list", "drain", "list"] and not bench.it.belief.copies


def test_leftovers_that_come_back_are_left_alone_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2))
    for _ in range(3):
        bench.tools.add([rule(9)])
        bench.it.reread()
        bench.until(bench.right, 5.0)
        bench.settle()
    assert texts(caplog) == [f"a rule with the tag l4ip that no endpoint makes will be removed: {rule(9)}: it is of "
                             "somebody"]
    bench.tools.add([rule(9)])
    bench.it.reread()
    bench.settle()
    assert bench.ours() == [rule(2), rule(9)] and bench.it.contested
    assert "came back 3 times within a minute: " in caplog.text and "with the tag l4ip is the likely" in caplog.text
    took = bench.until(bench.right, 70.0)
    assert took > 50.0


def test_what_we_have_tried_to_load_is_no_leftover(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(rule(2))
    bench.next("grumble")                           # it is there, and the tool says that it failed
    bench.want(rule(2), rule(3))
    bench.until(lambda: bench.it.faults.runs == 1, 5.0)
    bench.want(rule(2))
    bench.until(bench.right, 5.0)
    bench.settle()
    assert not texts(caplog)


def test_what_is_held_and_not_wanted_any_more_is_let_go() -> None:
    bench = Bench(rule(2))
    bad = rule(66).replace("8080", "99999")
    bench.want(rule(2), bad)
    bench.until(lambda: bad in bench.it.held, 5.0)
    bench.want(rule(2))
    bench.it.reread()
    bench.run(1.0)
    assert not bench.it.held and bench.it.complaint == ""


def test_failures_are_counted_and_the_second_is_told() -> None:
    bench = Bench(rule(2))
    bench.only("add", "fail")
    bench.want(*map(rule, range(2, 30)))
    for count in (1, 2, 3):
        bench.until(lambda: bench.it.faults.runs == count and not bench.it.stale, 10.0)     # noqa: B023
        assert bool(bench.it.complaint) is (count > 1)


# -- tools that hang

def test_a_question_may_be_cut_short_and_is_remembered() -> None:
    bench = Bench(rule(2))
    bench.next("hang", "grumble")                   # behind the rules, as SIGPIPE ends it
    bench.it.reread()
    bench.until(lambda: bench.it.faults.runs == 1, 4.0)
    assert bench.it.table.iterator.cuts(bench.clock.now) == 1
    bench.settle()
    bench.run(20.0)
    assert bench.it.table.iterator.cuts(bench.clock.now) == 0
    bench.next("grumble")
    bench.it.reread()
    bench.settle()
    assert bench.it.table.iterator.cuts(bench.clock.now) == 1, "so is a listing"


def test_a_listing_of_ipf_has_no_last_line() -> None:
    bench = Bench(log_rule(2), tool="ipf")
    bench.next("hang", "ok")
    bench.it.reread()
    assert bench.until(lambda: bench.it.faults.runs == 1, 10.0) < 3.0
    bench.settle()


def test_when_nothing_answers_a_run_has_its_timeout() -> None:
    bench = Bench(rule(2))
    bench.noise("hang")
    bench.it.reread()
    assert 4.5 < bench.until(lambda: bench.it.faults.runs == 1, 10.0) < 5.5


def test_real_children_by_default() -> None:
    bench = Bench()
    it = Reconciler(bench.loop, bench.nat.table, 5.0, 10.0, removal=lambda line: None)
    assert it._runner.spawn is Child and it.conflicts.whose(rule(2)) == "" and it.resync.least == 10.0
    assert it.listed() is None and it.repaired([]) is None
