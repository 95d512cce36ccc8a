"""What many test modules stand on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from support import loopback
from support.operated_gateway import OperatedGateway
from support.sandbox_tools import Sandbox, sandbox
from support.sensing_bench import Bench, Device, runs

settings.register_profile("l4ip", deadline=None)    # a busy machine is no failure
settings.load_profile("l4ip")

# A shell without job control starts what goes to its background deaf to ^C, and every child inherits that.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "loopback(*addresses): of 127/8, which not every system has by itself")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("loopback"):
        loopback.need(*marker.args)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Sandbox]:
    """A sandbox process of this module's own: the kernel that its tests work on."""
    with sandbox() as process:
        yield process


@pytest.fixture
def node(kernel: Sandbox, tmp_path: Path) -> Iterator[OperatedGateway]:
    """A daemon to be operated, with an empty table."""
    kernel.ipnat("-FC")
    it = OperatedGateway(kernel, tmp_path)
    yield it
    it.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    it.sensing.stop(remove=False)
    it.loop.close()


@pytest.fixture
def device(bench: Bench) -> Iterator[Device]:
    it = Device(bench)
    yield it
    os.close(it.fd)
    for pid in it.pids:
        if runs(pid):
            os.kill(pid, signal.SIGKILL)
