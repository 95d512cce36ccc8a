"""What is remembered of outcomes, against a plain list of them."""

from __future__ import annotations

from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.monitor.outcomes import TRAIL, Outcomes


def of(outcomes: list[bool]) -> tuple[int, int, int, list[bool]]:
    """Passes, failures, streak and trail, by counting."""
    runs = [(passed, len(list(run))) for passed, run in groupby(outcomes)]
    streak = (runs[-1][1] if runs[-1][0] else -runs[-1][1]) if runs else 0
    return outcomes.count(True), outcomes.count(False), streak, outcomes[-TRAIL:]


def seen(it: Outcomes) -> tuple[int, int, int, list[bool]]:
    return it.passes, it.failures, it.streak, it.trail


@pytest.mark.parametrize("text", ["", "+", "-", "+-", "-+", "++--+", "+" * 61 + "-", "-" * 61 + "+", "-" + "+" * 59,
                                  "-" + "+" * 60 + "-", "+" * 200])
def test_rows(text: str) -> None:
    it, outcomes = Outcomes(), [letter == "+" for letter in text]
    assert seen(it) == of([]) and it.failed == 0
    for number, passed in enumerate(outcomes, 1):
        it.add(passed)
        assert seen(it) == of(outcomes[:number])
    assert it.failed < 1 << TRAIL, "no number that grows for ever"


@given(st.lists(st.tuples(st.booleans(), st.integers(1, 70)), max_size=8))
def test_runs_of_any_length(runs: list[tuple[bool, int]]) -> None:
    it = Outcomes()
    outcomes = [passed for passed, count in runs for _ in range(count)]
    for passed in outcomes:
        it.add(passed)
    assert seen(it) == of(outcomes)
