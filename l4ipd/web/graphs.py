"""The small pictures of the status page: outcomes of probes, latency over an hour, state over a day. Each bears words.

No state is told by its colour alone: what failed stands taller, what is off is thin.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from l4ipd.monitor.outcomes import TRAIL
from l4ipd.report.trends import DOWN, OFF, QUARTERS, UNKNOWN, UP

if TYPE_CHECKING:
    from l4ipd.monitor.monitor import Monitor

HEIGHT = 20
CLASSES = {UP: "p", DOWN: "f", OFF: "d", UNKNOWN: "o"}


def strip(monitor: Monitor) -> str:
    """The last outcomes, the newest at the right: short bars passed, tall ones failed."""
    trail = monitor.outcomes.trail
    known, failed = len(trail), trail.count(False)
    label = f"last {known} probes: {known - failed} passed, {failed} failed" if known else "no probes yet"
    states = [UNKNOWN] * (TRAIL - known) + [UP if passed else DOWN for passed in trail]
    return _bars("strip", states, 3, label)


def day(states: Sequence[int]) -> str:
    """The last day by quarters of an hour, each by the worst that was."""
    known = QUARTERS - states.count(UNKNOWN)
    parts = [f"{words} in {count} of {known}" for which, words in ((DOWN, "down"), (OFF, "disabled or draining"))
             if (count := states.count(which))]
    label = f"the last {known / 4:g} h, by quarters of an hour: {', '.join(parts) or 'up'}" if known else "unknown"
    return _bars("strip day", states, 1, label)


def _bars(name: str, states: Sequence[int], unit: int, label: str) -> str:
    paths: dict[int, str] = {}
    x = 0
    for state, run in groupby(states):
        width = unit * len(list(run))
        paths[state] = f"{paths.get(state, '')}M{x} 10h{width}"
        x += width
    bars = "".join(f'<path class="{CLASSES[state]}" d="{path}"/>' for state, path in paths.items())
    return (f'<svg class="{name}" viewBox="0 0 {x} {HEIGHT}" preserveAspectRatio="none" role="img">'
            f"<title>{label}</title>{bars}</svg>")


def line(latency: Sequence[float | None]) -> str:
    """Latency, minute by minute, the newest at the right; the top is the longest. Nothing, if none is known."""
    known = [value for value in latency if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    scale = (HEIGHT - 4) / max(high, 0.1)
    path, y = "", None
    for x, value in enumerate(latency):
        if value is None:
            y = None
            continue
        new = HEIGHT - 2 - round(value * scale)
        path += f"M{x} {new}h.9" if y is None else f"l1 {new - y}" if new != y else "h1"
        y = new
    words = f"{_number(low)}–{_number(high)} ms" if _number(low) != _number(high) else f"{_number(high)} ms"
    return (f'<svg class="strip line" viewBox="0 0 {len(latency)} {HEIGHT}" preserveAspectRatio="none" role="img">'
            f'<title>latency, last hour</title><path class="l" d="{path}"/></svg><span class="n">{words}</span>')


def _number(value: float) -> str:
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"
