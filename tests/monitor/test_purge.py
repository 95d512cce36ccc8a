"""Whether sessions end with the rules: a table of verdicts, settings, and what the operator wants."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from l4ipd.checks.recipe import OPEN
from l4ipd.checks.verdict import CODES, PASSED, Verdict
from l4ipd.model import Check
from l4ipd.monitor import purge
from support.members import endpoint

NOBODY = {"L4CON", "RST", "L4TOUT", "L6TOUT", "L7TOUT", "PROCTOUT"}
SOMEBODY = {"L6RSP", "L7STS", "L7RSP", "PROCERR"}


def monitor(verdict: Verdict | None = None, purge: str = "dead", **more: object) -> SimpleNamespace:
    return SimpleNamespace(**{"endpoint": replace(endpoint(Check("tcp"), 80), purge=purge), "verdict": verdict,
                              "found": "down", "withheld": False, "unconfirmed": False, "unproved": False, **more})


def test_every_code_is_one_or_the_other() -> None:
    assert NOBODY | SOMEBODY | PASSED | {"LOCAL"} == set(CODES) and not NOBODY & SOMEBODY


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("setting", ["dead", "yes", "no"])
def test_purge(setting: str, code: str) -> None:
    expected = {"dead": code in NOBODY, "yes": True, "no": False}[setting]
    assert purge.cuts(monitor(Verdict(code, "words"), setting)) == expected


@pytest.mark.parametrize("setting", ["dead", "yes"])
@pytest.mark.parametrize("more", [{"found": "up"}, {"found": "draining"}, {"found": "unknown", "verdict": None},
                                  {"withheld": True}, {"unconfirmed": True}, {"unproved": True}], ids=str)
def test_who_is_not_dead(setting: str, more: dict[str, Any]) -> None:
    assert purge.cuts(monitor(Verdict("L4CON", "connection refused"), setting))
    assert not purge.cuts(monitor(purge=setting, **{"verdict": Verdict("L4CON", "connection refused"), **more}))


@pytest.mark.parametrize("text", [OPEN.text, f"port 9999: {OPEN.text}"])
def test_a_port_that_should_be_closed_is_an_answer(text: str) -> None:
    """Who opens port 9999 on a member, to take it out, does not want its sessions to end."""
    assert not purge.cuts(monitor(Verdict(OPEN.code, text)))
