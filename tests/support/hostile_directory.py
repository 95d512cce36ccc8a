"""A directory where somebody waits for root to run a program of ours."""

from __future__ import annotations

import os
from pathlib import Path

#: what programs of ours import, and what Python does by itself
NAMES = ("argparse", "re", "json", "socket", "runpy", "http", "yaml", "h11", "daemon", "logging", "os", "site",
         "sitecustomize", "usercustomize", "l4ipd", "sandbox", "main")


class HostileDirectory:
    """A directory in which every module that might be imported by mistake tells of it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.sprung = directory, directory / "sprung"
        text = f"import posix; posix.close(posix.open({str(self.sprung)!r}, posix.O_CREAT))\n"
        for name in NAMES:
            (directory / f"{name}.py").write_text(text)
        for package in ("l4ipd", "l4ipd/sandbox", "http", "daemon"):
            (directory / package).mkdir()
            for module in ("__init__", "__main__", "main", "demo", "ctl", "child"):
                (directory / package / f"{module}.py").write_text(text)
        for tool in ("ipnat", "ipf", "ipfstat", "ipmon", "ps", "sh", "python3", "sed", "readlink", "dirname"):
            (directory / tool).write_text(f"#!/bin/sh\n: > {self.sprung}\n")
            (directory / tool).chmod(0o755)

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.directory), "PYTHONSTARTUP": str(self.directory / "site.py"),
                "PYTHONUSERBASE": str(self.directory), "PATH": f".::{os.environ['PATH']}"}
