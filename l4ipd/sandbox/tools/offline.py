"""The tools where no sandbox process answers: they complain about the missing device, or only parse (``-n``)."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from l4ipd.sandbox.tools.ipf import ipf
from l4ipd.sandbox.tools.ipnat import ipnat
from l4ipd.sandbox.tools.run import STDIN, STDOUT
from l4ipd.sandbox.version import NEWEST, VARIABLE, VERSIONS


def run(tool: str, arguments: Sequence[str], directory: str) -> int:
    """Run ``tool`` without a kernel; returns its exit status."""
    command = ipf if tool == "ipf" else ipnat
    running = command(None, arguments, directory, VERSIONS.get(os.environ.get(VARIABLE, ""), NEWEST))
    answer: bytes | None = None
    try:
        while True:
            kind, text = running.send(answer)
            answer = sys.stdin.buffer.read() if kind == STDIN else None
            if kind != STDIN:
                stream = sys.stdout if kind == STDOUT else sys.stderr
                stream.buffer.write(text.encode("latin-1"))
                stream.flush()
    except StopIteration as done:
        return int(done.value)
