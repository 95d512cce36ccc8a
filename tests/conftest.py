"""What many test modules stand on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sandbox_tools import Sandbox, sandbox


@pytest.fixture(scope="module")
def kernel() -> Iterator[Sandbox]:
    """A sandbox process of this module's own: the kernel that its tests work on."""
    with sandbox() as process:
        yield process
