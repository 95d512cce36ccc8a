"""Lines that a tool does not take: which are tried, when again, and what is said of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd.ipfilter.held_lines import BATCH, FEW, FIRST, LONGEST, ROW, STEP, TRUST, Attempt, HeldLines

BAD, ABSENT = "1:syntax error", "1:ioctl(SIOCRMNAT): No such process"


class Bench(HeldLines):
    """Remembers what is said."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []
        super().__init__(lambda line, words: self.said.append((line, words)))

    def fail(self, *lines: str, words: str = BAD, now: float = 0.0, alone: bool = True) -> bool:
        return self.failed({line: Attempt("add", words, alone) for line in lines}, now)

    def until(self, line: str) -> float:
        return self.lines[line].until


def many(count: int, begin: int = 0) -> list[str]:
    return [f"line {number}" for number in range(begin, begin + count)]


# -- how many at once

def test_a_batch_fits_into_a_pipe() -> None:
    it = Bench()
    assert it.choose(many(BATCH + 1), 0.0) == many(BATCH)
    assert BATCH == 400 and BATCH * 160 < 65536


def test_batches_shrink_by_steps_until_a_line_is_tried_alone() -> None:
    it = Bench()
    sizes = []
    for _ in range(4):
        chosen = it.choose(many(1000), 0.0)
        sizes.append(len(chosen))
        assert not it.fail(*chosen, alone=False), "others do not help: wait"
    assert sizes == [400, 50, 6, 1] and not it.lines and it.row == 0


def test_a_small_batch_shrinks_from_its_own_size() -> None:
    it = Bench()
    it.fail(*many(STEP * 2), alone=False)
    assert it.batch == 2
    it.fail("a", "b", alone=False)
    assert it.batch == 1


def test_batches_grow_when_runs_are_fine() -> None:
    it = Bench()
    it.batch = 1
    sizes = []
    for _ in range(4):
        it.grow()
        sizes.append(it.batch)
    assert sizes == [8, 64, 400, 400]


def test_what_succeeds_lets_them_grow_too() -> None:
    it = Bench()
    it.fail("a")
    assert it.batch == 1
    it.succeeded(["b"], 0.0)
    assert it.batch == STEP


# -- one that failed alone

def test_it_is_held_longer_and_longer() -> None:
    it = Bench()
    waits = []
    for _ in range(12):
        it.fail("a", now=100.0)
        waits.append(round(it.until("a") - 100.0, 3))
    assert waits == [0.2, 0.4, 0.8, 1.6] + [3.0] * 8
    assert (FIRST, LONGEST) == (0.2, 3.0)
    assert it.lines["a"].tries == 12 and it.batch == 1


def test_it_waits_and_the_others_do_not() -> None:
    it = Bench()
    it.fail("a", now=100.0)
    assert it.waits("a", 100.19) and not it.waits("a", 100.2) and not it.waits("b", 100.0)
    assert list(it) == ["a"]


def test_one_that_failed_with_others_is_not_held() -> None:
    it = Bench()
    it.failed({"a": Attempt("add", BAD), "b": Attempt("add", BAD)}, 0.0)
    assert not it.lines


def test_one_that_is_held_already_needs_not_be_alone() -> None:
    """Held ones are tried together when there are many."""
    it = Bench()
    it.fail("a", now=0.0)
    it.failed({"a": Attempt("add", "1:other words"), "b": Attempt("add", BAD)}, 5.0)
    assert list(it.lines) == ["a"]
    assert it.lines["a"].tries == 2 and it.lines["a"].words == "1:other words" and it.until("a") == 5.4


def test_others_go_first_and_then_those_whose_time_has_come() -> None:
    it = Bench()
    it.fail("a", now=0.0)
    it.fail("b", now=1.0)
    assert it.choose(["a", "b", "c"], 1.0) == ["c"]
    assert it.choose(["b", "a"], 1.0) == ["a"]
    assert it.choose(["a", "b"], 1.1) == ["a"]
    assert it.choose(["b", "a"], 1.2) == ["b"], "one at a time"


def test_a_few_that_are_due_are_tried_one_by_one_and_many_together() -> None:
    it = Bench()
    lines = many(ROW + 1)
    for line in lines:
        it.fail(line)
    assert it.choose(lines[:ROW], 10.0) == lines[:1]
    chosen = it.choose(lines, 10.0)
    assert sorted(chosen) == sorted(lines) and chosen != lines


def test_many_that_are_due_come_in_another_order_each_time() -> None:
    """A tool loses the line behind one that fails: not always the same one."""
    it = Bench()
    lines = many(20)
    orders = set()
    for _ in range(5):
        it.fail(*lines)
        orders.add(tuple(it.choose(lines, 10.0)))
    assert len(orders) == 5
    for line in many(BATCH + 50):
        it.fail(line)
    assert len(it.choose(many(BATCH + 50), 1000.0)) == BATCH
    for line in lines:
        del it.lines[line]
    assert it.choose([*many(BATCH + 50)[20:]], 1000.0) != many(BATCH + 50)[20:BATCH + 20]


# -- where the next is looked for

def test_after_a_failure_it_goes_on_behind_what_was_tried() -> None:
    it = Bench()
    it.batch = 2
    lines = many(5)
    assert [it.choose(lines, 0.0) for _ in range(4)] == [lines[:2], lines[2:4], lines[4:], lines[:2]]


def test_it_goes_on_at_the_same_line_although_others_are_done() -> None:
    it = Bench()
    it.batch = 2
    lines = many(6)
    assert it.choose(lines, 0.0) == lines[:2]
    assert it.choose(lines[1:], 0.0) == lines[2:4]
    assert it.choose([line for line in lines if line != lines[4]], 0.0) == lines[:2], "it is gone: from the beginning"


def test_lines_of_a_kind_fail_together_so_look_elsewhere() -> None:
    it = Bench()
    lines = many(100)
    seen = []
    for _ in range(6):
        fresh = [line for line in lines if line not in it.lines]
        chosen = it.choose(fresh, 0.0)
        if len(chosen) > 1:
            it.batch = 1
            chosen = chosen[:1]
        it.fail(*chosen)
        seen.append(int(chosen[0].split()[1]))
    assert seen[0] == 0 and len(set(seen)) == 6
    assert seen[1] == 62 and seen[2] == 24 and seen[3] == 85, "by the golden section"


def test_what_was_not_wanted_before_comes_first() -> None:
    it = Bench()
    it.fail("bad")
    assert it.choose(many(50), 0.0)                 # these are known now
    assert it.choose([*many(50), "new", "newer"], 0.0) == ["new"]
    assert it.choose([*many(50), "new", "newer"], 0.0) == ["newer"]
    assert it.choose([*many(50), "new", "newer"], 0.0)[0] in many(50)


def test_while_all_is_well_there_is_nothing_new() -> None:
    it = Bench()
    assert it.choose(many(3), 0.0) == many(3)
    assert it.choose([*many(3), "new"], 0.0) == [*many(3), "new"]
    it.batch = BATCH - 1
    assert it.choose(many(3), 0.0) == many(3)
    assert it.choose([*many(3), "new"], 0.0) == ["new"]


# -- without a wait

def test_so_many_fail_alone_in_a_row_before_there_is_a_wait() -> None:
    it = Bench()
    assert [it.fail(line) for line in many(2 * ROW)] == ([True] * (ROW - 1) + [False]) * 2
    assert it.row == 2 * ROW


def test_more_when_something_has_just_succeeded() -> None:
    it = Bench()
    it.fail("x")
    it.succeeded(["other"], 0.0)
    assert it.row == 0
    tried = [it.fail(line) for line in many(TRUST + ROW)]
    assert all(tried[:TRUST - 1]) and tried[TRUST - 1:].count(False) == 2
    it.succeeded(["other"], 0.0)
    assert all(it.fail(line) for line in many(TRUST - 1))


def test_lines_that_fail_together_count_each() -> None:
    it = Bench()
    it.fail(*many(3))
    assert it.row == 3
    it.succeeded(["other"], 0.0)
    assert it.fail(*many(TRUST - 3)) and it.fail("x") and it.fail("y")
    assert not it.fail("z") and it.row == TRUST, "that were as many as are trusted"


# -- that it was not there

def test_a_rule_that_was_not_there_is_tried_by_its_other_words_soon() -> None:
    it = Bench()
    seen = []
    for _ in range(4):
        it.fail("a", words=ABSENT, now=10.0)
        seen.append((it.lines["a"].doubled, round(it.until("a") - 10.0, 3)))
    assert seen == [(True, 0.2), (False, 0.4), (True, 0.2), (False, 1.6)]
    it.fail("a", words=BAD)
    assert not it.lines["a"].doubled


def test_other_failures_have_no_other_words() -> None:
    it = Bench()
    it.fail("a", words=ABSENT)
    it.fail("a", words=BAD)
    assert it.lines["a"].doubled


# -- who is to blame

def test_while_nothing_succeeds_no_line_is_named() -> None:
    it = Bench()
    for _ in range(20):
        it.fail(*many(FEW + 1))
    assert not it.said


def test_few_are_named_although_nothing_has_succeeded() -> None:
    it = Bench()
    for _ in range(2):
        it.fail(*many(FEW))
        assert not it.said
    it.fail(*many(FEW))
    assert it.said == [(line, BAD) for line in many(FEW)] and FEW == 3


def test_a_line_is_named_when_others_have_succeeded_meanwhile() -> None:
    it = Bench()
    it.fail(*many(10), now=0.0)
    it.succeeded(["other"], 0.1)
    assert not it.said
    it.fail("line 3", now=0.2)
    it.fail("line 3", now=0.3)
    assert it.said == [("line 3", BAD)], "once"
    it.fail("line 3", words="other words")
    it.fail("line 3", words=BAD)
    assert it.said == [("line 3", BAD), ("line 3", "other words")]
    it.fail("new")
    assert len(it.said) == 2, "of this one nobody knows"


def test_what_succeeds_ends_the_waits_of_the_rest() -> None:
    it = Bench()
    for _ in range(5):
        it.fail("a", "b", now=100.0)
    it.succeeded(["b", "never held"], 101.0)
    assert list(it) == ["a"] and it.until("a") == 101.0 and it.lines["a"].proven
    it.succeeded(["other"], 102.0)
    assert it.until("a") == 101.0, "no wait is prolonged by that"


# -- left alone for another reason

def test_a_pause_is_not_shortened_by_the_success_of_others() -> None:
    it = Bench()
    it.fail("a")
    it.pause("a", "it is in use", 50.0)
    it.succeeded(["other"], 1.0)
    held = it.lines["a"]
    assert (held.until, held.words, held.tries, held.proven, held.paused) == (50.0, "it is in use", 0, False, True)
    it.fail("a", now=50.0)
    assert not it.lines["a"].paused and it.until("a") == 50.2
    it.succeeded(["other"], 50.1)
    assert it.until("a") == 50.1


# -- the end

def test_what_is_as_it_should_be_is_let_go() -> None:
    it = Bench()
    it.fail("a", "b", "c")
    it.settle(lambda line: line != "b")
    assert list(it) == ["b"]


def test_when_the_first_is_due() -> None:
    it = Bench()
    assert it.next(0.0) == float("inf")
    it.pause("a", "", 5.0)
    it.pause("b", "", 3.0)
    it.pause("c", "", 1.0)
    assert [it.next(now) for now in (0.0, 1.0, 2.9, 3.0, 5.0)] == [1.0, 3.0, 3.0, 5.0, float("inf")]


def test_clear_begins_anew() -> None:
    it = Bench()
    it.fail("a")
    it.choose(many(9), 0.0)
    it.clear()
    assert (list(it), it.batch, it.row) == ([], BATCH, 0)
    it.batch = 3
    assert it.choose(many(9), 0.0) == many(3), "from the beginning"
    it.clear()
    it.fail("a")
    it.row, it.batch = 0, 9
    assert it.choose([*many(9), "new"], 0.0) == many(9), "nothing is known to be older than the rest"


# -- whatever fails

@settings(max_examples=60)
@given(st.sets(st.integers(0, 60), max_size=61), st.integers(1, 61), st.booleans())
def test_every_good_line_is_done_and_no_wait_is_long(bad: set[int], count: int, lost: bool) -> None:
    """A tool that refuses some lines, and may lose the one behind; until all that can be done is done."""
    it, now = Bench(), 0.0
    missing = many(count)
    refused = {f"line {number}" for number in bad}
    for _ in range(2000):
        ready = [line for line in missing if not it.waits(line, now)]
        if not ready:
            assert it.next(now) <= now + LONGEST
            now = it.next(now)
        else:
            now += 0.0 if _run(it, ready, missing, refused, lost, now) else 0.5
        if set(missing) <= refused:
            break
    assert set(missing) <= refused and now < 90.0
    assert all(line in refused for line, _ in it.said) or lost


def _run(it: Bench, ready: Sequence[str], missing: list[str], refused: set[str], lost: bool, now: float) -> bool:
    chosen = it.choose(list(ready), now)
    assert chosen and set(chosen) <= set(ready) and len(set(chosen)) == len(chosen)
    done = [line for number, line in enumerate(chosen)
            if line not in refused and not (lost and number and chosen[number - 1] in refused)]
    for line in done:
        missing.remove(line)
    if done:
        it.succeeded(done, now)
        return True
    return it.failed({line: Attempt("add", BAD, len(chosen) == 1) for line in chosen}, now)


@pytest.mark.parametrize("words", ["could not be found", "No such process"])
def test_the_words_of_both_generations(words: str) -> None:
    it = Bench()
    it.fail("a", words=f"1:ioctl: {words}")
    assert it.lines["a"].doubled
