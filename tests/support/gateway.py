"""A gateway to test on: the sandbox as its kernel, web servers as members, and l4ipd as a process."""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import socketserver
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from l4ipd.ipfilter import rdr
from l4ipd.sandbox import tool_words
from support import ROOT, loopback
from support.sandbox_tools import Sandbox

PATIENCE = 40.0                                     # seconds until a test gives up; never what is measured


def wait(what: str, done: Callable[[], object], patience: float = PATIENCE) -> None:
    """Wait until ``done()``; fail with ``what`` if it never is."""
    end = time.monotonic() + patience
    while not done():
        if time.monotonic() > end:
            raise AssertionError(f"never happened: {what}")
        time.sleep(0.02)


def free_port() -> int:
    """A port that is free on every loopback address that the tests use, for now."""
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])


class Web:
    """A member's web server, in threads of the test. ``status`` is what it answers."""

    def __init__(self, address: str, port: int, name: str = "") -> None:
        loopback.need(address)
        self.address, self.port, self.name = address, port, name or address
        self.status = 200
        self.hits = 0
        self._server: socketserver.BaseServer | None = None
        self.start()

    def get(self, request: http.server.BaseHTTPRequestHandler) -> None:
        """Answer a request."""
        self.hits += 1
        body = self.name.encode()
        request.send_response(self.status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def start(self) -> None:
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.get(self)

            def log_message(self, format: str, *words: object) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
            allow_reuse_address = True
            daemon_threads = True
            request_queue_size = 128
            address_family = socket.AF_INET6 if ":" in self.address else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                """Cut off, perhaps: it is the clients who count."""

        self._server = Server((self.address, self.port), Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


class Gateway:
    """Runs l4ipd on a sandbox kernel; ends what it has started."""

    def __init__(self, kernel: Sandbox, directory: Path) -> None:
        self.kernel, self.directory = kernel, directory
        self.config = directory / "l4ip.conf"
        self.pidfile = directory / "l4ip.pid"
        self.log = directory / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.webs: list[Web] = []
        self._log: IO[bytes] | None = None

    # -- the configuration

    def configure(self, clusters: str, *, ipfilter: str = "", top: str = "",
                  defaults: str = "{interval: 500ms, timeout: 500ms, rise: 2, fall: 2}") -> None:
        """Write the configuration: the text of ``clusters:``, and more keys for ``ipfilter:`` and the top level."""
        tools = "".join(f"  {name}: [{', '.join(words)}]\n" for name, words in tool_words(self.kernel.path).items()
                        if f"{name}:" not in ipfilter)
        loopback.need_all_in(clusters)
        self.config.write_text(
            f"pidfile: {self.pidfile}\ncontrol: {self.directory}/l4ip.sock\nstate: {self.directory}/state.json\n"
            f"ipfilter:\n  interface: lo0\n  resync: 300ms\n{tools}"
            f"{textwrap.indent(textwrap.dedent(ipfilter), '  ')}\n{textwrap.dedent(top)}\n"
            f"defaults: {defaults}\nclusters:\n{textwrap.indent(textwrap.dedent(clusters), '  ')}\n")

    def web(self, address: str, port: int, name: str = "") -> Web:
        self.webs.append(Web(address, port, name))
        return self.webs[-1]

    # -- the process

    def command(self, *options: str) -> list[str]:
        return [sys.executable, "-m", "l4ipd", "-c", str(self.config), *options]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run l4ipd to its end."""
        return subprocess.run(self.command(*options), capture_output=True, text=True, timeout=PATIENCE,
                              env=self.environment(), cwd=self.directory)

    def start(self, *options: str, preexec: Callable[[], None] | None = None) -> None:
        """Start it in the foreground; its standard error is the log."""
        before = len(self.lines("^l4ipd .* started"))
        self._log = self.log.open("ab")
        self.process = subprocess.Popen(self.command("-d", *options), stderr=self._log, stdin=subprocess.DEVNULL,
                                        env=self.environment(), cwd=self.directory, preexec_fn=preexec)
        wait("start", lambda: len(self.lines("^l4ipd .* started")) > before or self.ended())

    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def send(self, signum: int) -> None:
        assert self.process is not None
        self.process.send_signal(signum)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """End it with a signal; returns its exit status."""
        assert self.process is not None
        self.send(signum)
        status = self.process.wait(PATIENCE)
        self.process = None
        if self._log is not None:
            self._log.close()
        return status

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.stop(signal.SIGKILL)
        for web in self.webs:
            web.stop()

    # -- what happens

    def text(self) -> str:
        """The log, without the time that each line begins with."""
        return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "", self.log.read_text()) if self.log.exists() else ""

    def lines(self, pattern: str) -> list[str]:
        return [line for line in self.text().splitlines() if re.search(pattern, line)]

    def wait_log(self, pattern: str, count: int = 1) -> None:
        wait(f"{pattern!r} in the log:\n{self.text()}", lambda: len(self.lines(pattern)) >= count)

    def rules(self) -> list[str]:
        """Our rules in the kernel, in canonical form."""
        found = [rdr.parse(line) for line in self.kernel.ipnat("-l").rules]
        return [rule.line() for rule in found if rule is not None and rdr.owned(rule.tag, "l4ip")]

    def targets(self) -> list[str]:
        """Where our rules lead to: the members' addresses, sorted."""
        return sorted(line.split(" -> ")[1].split()[0] for line in self.rules())

    def wait_targets(self, *addresses: str) -> None:
        wait(f"rules to {addresses}, but to {self.targets()}; log:\n{self.text()}",
             lambda: self.targets() == sorted(addresses))
