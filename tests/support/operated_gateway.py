"""A gateway on the sandbox with two members that are up and one that is not, and l4ipctl to ask it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from support.gateway import PATIENCE, Gateway, free_port, wait
from support.sandbox_tools import Sandbox

A, B, C = "127.0.0.11", "127.0.0.12", "127.0.0.13"


class OperatedGateway(Gateway):
    """See above."""

    def __init__(self, kernel: Sandbox, directory: Path) -> None:
        super().__init__(kernel, directory)
        self.port, self.inside = free_port(), free_port()
        self.one, self.two = self.web(A, self.inside), self.web(B, self.inside)
        self.setup()

    def setup(self, members: str = f"web1: {A}, web2: {B}, web3: {C}", top: str = "", more: str = "") -> None:
        self.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {self.port}, member_port: {self.inside}, "
                       f"check: tcp}}}}, members: {{{members}}}{more}}}", top=top,
                       defaults="{interval: 600ms, timeout: 600ms, rise: 2, fall: 2}")

    def begin(self) -> None:
        self.start()
        self.wait_targets(A, B)
        wait("all checked", lambda: all(row["code"] for row in self.rows("show")))

    @property
    def socket(self) -> str:
        return f"{self.directory}/l4ip.sock"

    def popen(self, *words: str, **more: Any) -> subprocess.Popen[str]:
        environment = {name: text for name, text in self.environment().items() if name not in ("COLUMNS", "NO_COLOR")}
        return subprocess.Popen([sys.executable, "-m", "l4ipd.control.client", *words], text=True, cwd=self.directory,
                                **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL,
                                   "env": {**environment, "L4IP_SOCKET": self.socket}, **more})

    def ctl(self, *words: str) -> tuple[int, str, str]:
        with self.popen(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        return process.returncode, out, err

    def rows(self, *words: str) -> list[Any]:
        return [json.loads(line) for line in self.ctl("--json", *words)[1].splitlines()]

    def states(self) -> dict[str, str]:
        return {row["endpoint"].rpartition("/")[2]: row["state"] for row in self.rows("show")}
