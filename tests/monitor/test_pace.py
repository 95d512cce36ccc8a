"""When probes are to be: exact for all of a bunch, always later than the one before, and spread over a period."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.monitor.pace import MOMENTS, SPREAD, first, on_phase, phase
from l4ipd.runtime.loop import RATE

NAMES = [f"www/http/web{number}" for number in range(1000)]


def test_phases_are_spread_over_all_of_a_period() -> None:
    phases = [phase(name) for name in NAMES]
    assert all(0 <= each < 1 for each in phases) and len(set(phases)) == len(NAMES)
    by_tenth = [sum(int(each * 10) == tenth for each in phases) for tenth in range(10)]
    assert min(by_tenth) > 50


@pytest.mark.parametrize("pace, most", [(0.1, 0.1), (1.0, 1.0), (60.0, SPREAD)])
def test_first_probes_come_within_a_second_or_a_period(pace: float, most: float) -> None:
    assert [first(name, pace) for name in NAMES] == [phase(name) * most for name in NAMES]


@given(st.sampled_from(NAMES), st.floats(0, 1e7), st.floats(0.05, 3600), st.sampled_from((0.005, 0.1)))
def test_the_next_one_is_within_a_period_and_on_the_phase_for_ever(name: str, start: float, pace: float,
                                                                   step: float) -> None:
    when = on_phase(name, start, pace, step)
    assert when - start + 0.002 * pace > 0 and when - start <= pace * 1.002
    offset = when % pace
    for _ in range(20):
        later = on_phase(name, when, pace, step)
        assert later - when == pytest.approx(pace, rel=1e-6, abs=1e-8), "its own moment is not the next one"
        when = later
    assert min((when - offset) % pace, (offset - when) % pace) < 1e-5 * max(1.0, pace)


@pytest.mark.parametrize("pace, step, moments", [
    (10.0, 0.1, 100), (10.0, 0.005, 1000), (0.7, 0.1, MOMENTS), (0.3, 0.1, MOMENTS), (0.3, 0.005, 60)])
def test_they_begin_in_bunches_at_the_very_same_time(pace: float, step: float, moments: int) -> None:
    times = sorted({on_phase(name, 5000.0, pace, step) for name in NAMES})
    assert MOMENTS <= len(times) <= moments + 1 and len(times) >= min(moments, 0.5 * len(NAMES))
    apart = min(step, pace / MOMENTS)
    for when in times:                              # in the middle of a tick, where nothing rounds it to another one
        assert (when % pace - 0.5 / RATE) / apart == pytest.approx(round((when % pace - 0.5 / RATE) / apart), abs=1e-6)
