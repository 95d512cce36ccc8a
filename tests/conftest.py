"""What many test modules stand on."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from sandbox_tools import Sandbox, sandbox

# A shell without job control starts what goes to its background deaf to ^C, and every child inherits that.
for number in (signal.SIGINT, signal.SIGQUIT):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, signal.default_int_handler)


@pytest.fixture(scope="module")
def kernel() -> Iterator[Sandbox]:
    """A sandbox process of this module's own: the kernel that its tests work on."""
    with sandbox() as process:
        yield process
