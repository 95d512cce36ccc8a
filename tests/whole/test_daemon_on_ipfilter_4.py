"""The steering part of test_daemon once more, on IPFilter 4.1: no ``-p``, no exit status, other spelling."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.sandbox import tool_words
from support.gateway import Gateway, free_port
from support.sandbox_tools import Sandbox, sandbox
from whole.test_daemon import (  # noqa: F401
    A,
    gateway,
    test_a_client_that_retries_gets_through_a_failover,
    test_fallback_and_keep_over_a_restart,
    test_kill_9_and_start_again_leave_no_gap_and_no_duplicate,
    test_on_stop_remove,
    test_reload,
    test_somebody_flushes_the_table,
    test_the_main_job,
    test_what_the_configuration_no_longer_has_is_removed_after_the_new_is_there,
    www,
)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Sandbox]:
    with sandbox("--ipfilter", "4.1") as process:
        yield process


def test_the_dialect_is_found_out_and_said(gateway: Gateway) -> None:  # noqa: F811
    inside = free_port()
    gateway.web(A, inside)
    gateway.configure(www(free_port(), inside, f"web1: {A}"))
    gateway.start()
    gateway.wait_log(r"^IPFilter 4\.1[\d.]*; ipnat cannot end sessions \(no -p\)")
    gateway.wait_targets(A)


def test_an_ipnat_that_lied_about_p_is_asked_again(gateway: Gateway, tmp_path: Path) -> None:  # noqa: F811
    """Or one that another was put in the place of: a rule is removed with -p, which this one does not know."""
    tool, asked = tmp_path / "ipnat", tmp_path / "asked"
    words = shlex.join(tool_words(gateway.kernel.path)["ipnat"])
    tool.write_text(f'#!/bin/sh\n[ "$*" = "-n -r -p -f -" ] && [ ! -e {asked} ] && {{ : > {asked}; exit; }}\n'
                    f'exec {words} "$@"\n')
    tool.chmod(0o755)
    inside = free_port()
    web = gateway.web(A, inside)
    gateway.configure(www(free_port(), inside, f"web1: {A}"), ipfilter=f"ipnat: {tool}")
    gateway.start()
    gateway.wait_log(r"^IPFilter 4\.1[\d.]*; ipnat ends the sessions")
    gateway.wait_targets(A)
    web.stop()
    gateway.wait_log("up -> down")
    gateway.wait_targets()
    assert gateway.lines(r"^IPFilter 4\.1[\d.]*; ipnat cannot end sessions \(no -p\)")
