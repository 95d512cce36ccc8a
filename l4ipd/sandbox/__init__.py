"""IPFilter for machines that have none: a user-space work-alike of the part of it that l4ip uses.

One process (``python3 -I -m l4ipd.sandbox serve``) stands for the kernel: it holds the rules, the sessions and the log,
listens on the addresses that clients connect to, and relays their connections to the members by the rules. The commands
``ipnat``, ``ipf``, ``ipfstat`` and ``ipmon`` are a thin client that hands its words to that process. What they print,
and how they end, is what the real ones do; see the facts and the samples that the tests compare with.

May import: model, runtime.
"""

from __future__ import annotations

import os
import sys

from l4ipd.runtime import isolated

TOOLS = ("ipnat", "ipf", "ipfstat", "ipmon")


def tool_words(socket_path: str) -> dict[str, tuple[str, ...]]:
    """The words to run each tool with, in the form that starts fastest."""
    client = os.path.join(os.path.dirname(os.path.abspath(__file__)), "client.py")
    return {name: (sys.executable, "-I", "-S", client, "-s", socket_path, name) for name in TOOLS}


def serve_words(socket_path: str, *options: str) -> tuple[str, ...]:
    """The words to run the sandbox process with. It prints ``ready`` on standard output when it is."""
    return isolated.words("l4ipd.sandbox", "-s", socket_path, *options, "serve")
