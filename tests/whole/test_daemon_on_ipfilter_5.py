"""The steering part of test_daemon once more, on IPFilter 5.1.2 as FreeBSD has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.gateway import Gateway, free_port
from support.sandbox_tools import Sandbox, sandbox
from whole.test_daemon import (  # noqa: F401
    FOREIGN,
    A,
    gateway,
    test_a_client_that_retries_gets_through_a_failover,
    test_kill_9_and_start_again_leave_no_gap_and_no_duplicate,
    test_reload,
    test_somebody_flushes_the_table,
    test_the_main_job,
    www,
)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Sandbox]:
    with sandbox("--ipfilter", "5.1.2") as process:
        yield process


def test_the_dialect_is_found_out_and_said(gateway: Gateway) -> None:  # noqa: F811
    inside = free_port()
    gateway.web(A, inside)
    gateway.configure(www(free_port(), inside, f"web1: {A}"))
    gateway.start()
    gateway.wait_log(r"^IPFilter 5\.1\.2; ipnat ends the sessions")
    gateway.wait_targets(A)


def test_switched_off_and_on_again(gateway: Gateway) -> None:  # noqa: F811
    """``ipf -D; ipf -E`` takes every rule (FACTS.md 3-6)."""
    inside = free_port()
    gateway.web(A, inside)
    gateway.configure(www(free_port(), inside, f"web1: {A}"))
    gateway.start()
    gateway.wait_targets(A)
    for switch in ("-D", "-E"):
        assert gateway.kernel.run("ipf", switch).status == 0
    for line in FOREIGN:
        gateway.kernel.add(line)
    gateway.wait_targets(A)
