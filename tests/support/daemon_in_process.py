"""A whole daemon in the process of the test: real sockets and probes, and a shell script for IPFilter's tools."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from l4ipd import reload
from l4ipd.config import files
from l4ipd.control.commands import Commands
from l4ipd.control.service import ControlService
from l4ipd.daemon import Daemon
from l4ipd.report.notify import Notifier
from l4ipd.runtime.loop import Loop
from l4ipd.state_saver import StateSaver
from l4ipd.web.site import Web
from support.gateway import Web as Member
from support.gateway import free_port

PATIENCE = 30.0
A, B = "127.0.0.11", "127.0.0.12"


def tick(loop: Loop) -> None:
    """Keeps turns from lasting."""
    loop.later(0.005, lambda: tick(loop))


def until(loop: Loop, done: Callable[[], object]) -> None:
    end = loop.clock() + PATIENCE
    while not done():
        assert loop.clock() < end, "never happened"
        loop.turn()


IPNAT = """#!/bin/sh
exec 2>/dev/null
cd {directory} || exit
case "$*" in
*-l*|*-iR*|*-aih*) echo 'List of active MAP/Redirect filters:'; cat rules; echo; echo 'List of active sessions:' ;;
*-n*) cat >/dev/null ;;
*-r*) cat >gone; grep -vxFf gone rules >left; mv left rules ;;
*-f*) cat >>rules ;;
*-V*) echo 'ipf: IP Filter: v5.1.2 (584)' ;;
esac
"""


class DaemonInProcess:
    """The daemon with its control socket and its site, in this process."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.file = directory, directory / "l4ip.conf"
        self.tool = directory / "ipnat"
        self.tool.write_text(IPNAT.format(directory=directory))
        self.tool.chmod(0o755)
        (directory / "rules").touch()
        self.site, self.port, self.inside = free_port(), free_port(), free_port()
        self.members = [Member(address, self.inside) for address in (A, B)]
        self.configure()
        self.loop = Loop()
        tick(self.loop)
        self.daemon = Daemon(self.loop, files.load(str(self.file)), 100)
        reloader = reload.Reloader(self.daemon, str(self.file))
        config = self.daemon._first
        self.notifier = Notifier(self.loop, self.daemon, config.notify)
        self.daemon.events.listen(self.notifier.heard)
        self.saver = StateSaver(self.loop, self.daemon, config.state)
        self.control = ControlService(self.loop, self.daemon, config.control,
                                      Commands(self.daemon, reloader, self.saver.file).by_name())
        self.web = Web(self.loop, self.daemon)
        self.daemon.start()
        self.web.start()
        self.until_settled()

    def configure(self, check: str = "http", members: str = f"web1: {A}, web2: {B}", top: str = "",
                  control: str = "l4ip.sock", site: int = 0, resync: str = "100ms") -> None:
        tools = ", ".join(f"{name}: {self.tool}" for name in ("ipnat", "ipf", "ipfstat", "ipmon"))
        self.path = str(self.directory / control)
        self.file.write_text(
            f"pidfile: {self.directory}/pid\ncontrol: {self.path}\nstate: {self.directory}/state.json\n"
            f"http: 127.0.0.1:{site or self.site}\nipfilter: {{interface: lo0, {tools}, resync: {resync}}}\n{top}\n"
            f"defaults: {{interval: 100ms, timeout: 100ms}}\nclusters:\n  www:\n    address: 127.0.0.1\n"
            f"    services: {{http: {{port: {self.port}, member_port: {self.inside}, check: {check}}}}}\n"
            f"    members: {{{members}}}\n")

    def until_settled(self) -> None:
        """Until all is as it will stay, and children and probes come and go as ever."""
        until(self.loop, lambda: all(monitor.verdict for monitor in self.daemon.fleet.monitors.values()))
        runs, outcomes = self.daemon.steering.rules.runs, sum(self.daemon.fleet.schedule.codes.values())
        until(self.loop, lambda: self.daemon.steering.rules.runs > runs + 3 and self.daemon.steering.rules.settled
              and sum(self.daemon.fleet.schedule.codes.values()) > outcomes + 5)

    def aside(self, conversation: Callable[[], Any]) -> Any:
        """Let a thread talk to us."""
        results: list[Any] = []
        thread = threading.Thread(target=lambda: results.append(conversation()))
        thread.start()
        until(self.loop, lambda: not thread.is_alive())
        return results[0]

    def ctl(self, path: str = "", **request: Any) -> Any:
        """The last line of an answer."""
        def conversation() -> Any:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path or self.path)
                client.sendall(json.dumps(request).encode() + b"\n")
                data = b""
                while chunk := client.recv(65536):
                    data += chunk
                return json.loads([line for line in data.splitlines() if line][-1])
        return self.aside(conversation)

    def get(self, path: str, method: str = "GET") -> int:
        def conversation() -> int:
            client = http.client.HTTPConnection("127.0.0.1", self.site, timeout=PATIENCE)
            client.request(method, path)
            response = client.getresponse()
            response.read()
            client.close()
            return response.status
        status: int = self.aside(conversation)
        return status

    def close(self) -> None:
        self.web.stop()
        self.notifier.stop()
        self.control.close()
        self.saver.close()
        self.daemon.stop()
        self.loop.run()
        self.loop.close()
        for member in self.members:
            member.stop()
