"""The health counter against a naive model that counts outcomes in a row."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.checks import verdict
from l4ipd.monitor import health


class Naive:
    """Up after ``rise`` passes in a row, down after ``fall`` failures in a row; nothing else is remembered."""

    def __init__(self, rise: int, fall: int, up: bool, needed: int) -> None:
        self.rise, self.fall, self.up = rise, fall, up
        self.needed = needed                        # for the first change, which may come sooner
        self.row = 0

    def see(self, passed: bool) -> None:
        if passed == self.up:
            self.row = 0
            self.needed = self.fall if self.up else self.rise
            return
        self.row += 1
        if self.row >= self.needed:
            self.up, self.row = passed, 0
            self.needed = self.fall if self.up else self.rise


@given(st.integers(1, 6), st.integers(1, 6), st.booleans(), st.lists(st.booleans(), max_size=60))
def test_the_counter_and_the_naive_model_agree(rise: int, fall: int, adopted: bool, outcomes: list[bool]) -> None:
    counter = health.adopted(rise) if adopted else health.fresh(rise)
    naive = Naive(rise, fall, adopted, 1)
    assert (counter >= rise) == naive.up
    for passed in outcomes:
        counter = health.step(counter, rise, fall, passed)
        naive.see(passed)
        assert (counter >= rise) == naive.up
        assert 0 <= counter <= health.top(rise, fall)


@pytest.mark.parametrize(("rise", "fall", "start", "outcomes", "expected"), [
    (2, 3, "fresh", "+", [4]),                      # the first pass brings a new one up
    (2, 3, "fresh", "-+-+", [0, 1, 0, 1]),          # one lucky answer does not bring a flapping one back
    (2, 3, "fresh", "-++", [0, 1, 4]),
    (2, 3, "adopted", "-", [0]),                    # the first failure takes an adopted one down
    (2, 3, "adopted", "+--+---", [4, 3, 2, 4, 3, 2, 0]),
    (1, 1, "fresh", "+-+", [1, 0, 1]),
])
def test_the_counter(rise: int, fall: int, start: str, outcomes: str, expected: list[int]) -> None:
    counter = health.adopted(rise) if start == "adopted" else health.fresh(rise)
    seen = []
    for outcome in outcomes:
        counter = health.step(counter, rise, fall, outcome == "+")
        seen.append(counter)
    assert seen == expected


def test_verdicts() -> None:
    assert str(verdict.Verdict("L7STS", "503 Service Unavailable")) == "L7STS 503 Service Unavailable"
    assert {code for code in verdict.CODES if verdict.Verdict(code, "").passed} == {"L4OK", "L6OK", "L7OK", "PROCOK"}
    assert str(verdict.Verdict("L4OK", "")) == "L4OK"
    assert verdict.local("no descriptors") == ("LOCAL", "no descriptors")
    assert not verdict.local("no descriptors").passed


@pytest.mark.parametrize(("rise", "fall"), [(1, 1), (2, 3), (4, 1)])
def test_the_top_is_what_a_pass_of_one_that_is_up_leads_to(rise: int, fall: int) -> None:
    assert health.top(rise, fall) == health.step(health.adopted(rise), rise, fall, True)
