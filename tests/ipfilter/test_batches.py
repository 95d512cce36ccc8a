"""Which rules are loaded or removed next."""

from __future__ import annotations

from l4ipd.ipfilter.batches import next_batch
from l4ipd.ipfilter.belief import Belief
from l4ipd.ipfilter.held_lines import HeldLines
from support.reconciler import rule

A1, A2, A3 = rule(1, 80), rule(2, 80), rule(3, 80)
B1, B2 = rule(1, 81), rule(2, 81)


class Bench:
    """Rules that are there, and how they are to go."""

    def __init__(self, *have: str) -> None:
        self.belief, self.held = Belief(), HeldLines(lambda line, words: None)
        for line in have:
            self.belief.added(line, line)
        self.ways: dict[str, str | None] = {}

    def next(self, *want: str, now: float = 0.0) -> tuple[str, list[str]]:
        return next_batch(dict.fromkeys(want), self.belief, self.held, now, lambda line: self.ways.get(line, "drain"))


def test_nothing_to_do() -> None:
    assert Bench().next() == ("", [])
    assert Bench(A1, B1).next(B1, A1) == ("", [])


def test_what_is_missing_is_added_in_the_order_of_the_wish() -> None:
    assert Bench(A2).next(B1, A2, A1) == ("add", [B1, A1])


def test_what_is_not_wanted_goes_as_it_is_to_go() -> None:
    bench = Bench(A1, A2, B1)
    bench.ways = {A1: "drain", A2: "purge", B1: None}
    assert bench.next() == ("purge", [A2])
    bench.belief.removed(A2)
    assert bench.next() == ("drain", [A1])
    bench.belief.removed(A1)
    assert bench.next() == ("", [])


def test_dead_members_go_before_others_come() -> None:
    bench = Bench(A1, A2)
    bench.ways = {A1: "purge"}
    assert bench.next(A2, B1) == ("purge", [A1])


def test_but_not_before_others_come_to_the_same_service() -> None:
    bench = Bench(A1, B1)
    bench.ways = {A1: "purge", B1: "purge"}
    assert bench.next(A2) == ("purge", [B1])
    bench.belief.removed(B1)
    assert bench.next(A2) == ("add", [A2])
    bench.belief.added(A2, A2)
    assert bench.next(A2) == ("purge", [A1])


def test_others_come_before_what_drains() -> None:
    bench = Bench(A1)
    assert bench.next(B1) == ("add", [B1])
    assert bench.next(A1, B1) == ("add", [B1])


def test_copies_go_at_last() -> None:
    bench = Bench(A1, A2)
    bench.belief.copies = {A1: [A1]}
    assert bench.next(A1) == ("drain", [A2])
    assert bench.next(A1, A2, B1) == ("add", [B1])
    assert bench.next(A1, A2) == ("copy", [A1])


def test_what_is_held_is_left_out_until_its_time() -> None:
    bench = Bench(A1, A2)
    bench.belief.copies = {A2: [A2]}
    for line in (A1, A2, B1):
        bench.held.pause(line, "words", 5.0)
    assert bench.next(A2, B1, now=4.9) == ("", [])
    assert bench.next(A2, B1, now=5.0) == ("add", [B1])
    assert bench.next(A2, now=5.0) == ("drain", [A1])
    assert bench.next(A1, A2, now=5.0) == ("copy", [A2])


def test_what_is_held_does_not_keep_a_dead_member_in() -> None:
    bench = Bench(A1)
    bench.ways = {A1: "purge"}
    bench.held.pause(A2, "words", 5.0)
    assert bench.next(A2) == ("purge", [A1])


def test_one_batch_at_a_time() -> None:
    bench = Bench()
    bench.held.batch = 2
    assert bench.next(A1, A2, A3) == ("add", [A1, A2])
