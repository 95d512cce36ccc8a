"""What happens to one costs the same among few and among many, whatever it is that there are many of.

Work is counted in calls of Python functions: four times as many endpoints may need a little more than four times as
many calls, for all of them together. Were one compared with all the others, it would be sixteen times.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

from l4ipd.checks.verdict import Verdict
from l4ipd.config.parse import parse
from l4ipd.config.warnings import warnings
from l4ipd.ipfilter import plan
from l4ipd.model import Config
from l4ipd.report import status
from l4ipd.report.trends import Trends
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon

FEW, TIMES, MOST = 40, 4, 6.0
SOME = 5                                            # calls for each of them, which a turn may make or leave to the next
ONE = "  c:\n    address: 203.0.113.1\n    services: {{s: {{port: 80, check: {check}}}}}\n    members:\n"
HEAD = "ipfilter: {interface: ext0}\nresets: {interface: int0}\ndefaults: {rise: 1, fall: 1}\nclusters:\n"


def services(count: int, check: str) -> str:
    return HEAD + "  c:\n    address: 203.0.113.1\n    members: {m: 10.0.0.1}\n    services:\n" + "".join(
        f"      s{number}: {{port: {1000 + number}, check: {check}}}\n" for number in range(count))


def members(count: int, check: str) -> str:
    return HEAD + ONE.format(check=check) + "".join(
        f"      m{number}: 10.0.{number // 250}.{number % 250 + 1}\n" for number in range(count))


def ports(count: int, check: str) -> str:
    return HEAD + ONE.format(check=check) + "".join(
        f"      m{number}: {{address: 10.0.0.1, port: {1000 + number}}}\n" for number in range(count))


def clusters(count: int, check: str) -> str:
    return HEAD + "".join(
        f"  c{number}:\n    address: 203.0.{number // 250}.{number % 250 + 1}\n    members: {{m: 10.0.0.1}}\n"
        f"    services: {{s: {{port: 80, check: {check}}}}}\n" for number in range(count))


def addresses(count: int, check: str) -> str:
    """One cluster with many, which have one check in common."""
    many = ", ".join(f"203.0.{number // 250}.{number % 250 + 1}" for number in range(count))
    return HEAD + (f"  c:\n    address: [{many}]\n    members: {{m1: 10.0.0.1, m2: 10.0.0.2}}\n"
                   f"    services: {{s: {{port: 80, check: {check}}}}}\n")


def calls(work: Callable[[], object]) -> Counter[str]:
    """How often it calls what."""
    found: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call":
            found[f"{frame.f_code.co_qualname if sys.version_info >= (3, 11) else frame.f_code.co_name}"] += 1

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return found


def probe(it: ScriptedDaemon, verdict: Verdict) -> None:
    """Every checker makes one round, and the daemon hears of it."""
    it.verdict = verdict
    for checker in {id(each.checker): each.checker for each in it.daemon.fleet.monitors.values()}.values():
        it.loop.clear(checker)
        checker.fire()


def life(directory: Path, shape: Callable[[int, str], str], count: int) -> dict[str, Counter[str]]:
    """Everything that may happen to all of them, and what it takes."""
    took: dict[str, Counter[str]] = {}
    texts = shape(count, "tcp"), shape(count, "{type: tcp, interval: 7s}"), shape(1, "tcp")
    read: list[Config] = []
    took["reading"] = calls(lambda: read.append(parse(texts[0], "conf")))
    took["warnings"] = calls(lambda: list(warnings(read[0])))
    took["every rule"] = calls(lambda: list(plan.all_up(read[0])))
    for text in texts[1:]:
        read.append(parse(text, "conf"))
    it = ScriptedDaemon(directory, parse(shape(1, "tcp"), "conf"))
    daemon, fleet = it.daemon, it.daemon.fleet
    Trends(it.loop, daemon).start()

    def steps() -> dict[str, Callable[[], object]]:
        everyone = list(fleet.monitors.values())
        return {"start": lambda: daemon.apply(read[0]),
                "the first pass": lambda: probe(it, GOOD),
                "down": lambda: probe(it, BAD),
                "and up": lambda: probe(it, GOOD),
                "show": lambda: status.rows(daemon),
                "disable": lambda: fleet.disable(everyone, False),
                "enable": lambda: fleet.enable(everyone),
                "no change": lambda: daemon.apply(read[0]),
                "other checks": lambda: daemon.apply(read[1]),
                "nearly all gone": lambda: daemon.apply(read[2])}

    for name in steps():
        took[name] = calls(steps()[name])
        for monitor in fleet.monitors.values():     # whose turn to be probed it is, is a matter of time
            it.loop.clear(monitor.checker)
        took[f"a turn after {name}"] = calls(it.loop.turn)
    it.end()
    return took


@pytest.mark.parametrize("shape", [services, members, ports, clusters, addresses])
def test_many_cost_no_more_than_few_each(tmp_path: Path, shape: Callable[[int, str], str]) -> None:
    for name in "few", "many":
        (tmp_path / name).mkdir()
    few = life(tmp_path / "few", shape, FEW)
    many = life(tmp_path / "many", shape, FEW * TIMES)
    for name, before in few.items():
        worst = [(what, before[what], count) for what, count in many[name].items()
                 if count > MOST * max(before[what], SOME * FEW)]
        assert not worst, (name, worst)
