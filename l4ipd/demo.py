"""`l4ipd --demo`: a tour of the main job on this machine's loopback, and the throw-away web servers it needs.

The daemon, its checks, its rules and the connections are real; IPFilter is the sandbox. When nobody touches the web
servers for a while, the tour stops one and starts it again by itself.

``python3 -I -m l4ipd.demo web1`` is one of the servers, ``python3 -I -m l4ipd.demo ask`` asks the cluster a few times.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import http.server
import logging
import socket
import socketserver
import sys
import threading
import time

from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.runtime import isolated
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop

HOST, PORT = "127.0.0.1", 8080
SERVERS = {"web1": 8081, "web2": 8082, "web3": 8083}
QUIET, OUTAGE = 12.0, 6.0                           # seconds until the tour stops a server, and starts it again
PATIENCE = 10.0                                     # seconds for the servers to come up
CONFIG = f"""
ipfilter: {{interface: lo0}}
resets: {{interface: lo0}}
log: {{level: info}}
defaults: {{interval: 1s, timeout: 500ms, rise: 2, fall: 2}}
clusters:
  demo:
    address: {HOST}
    services:
      http: {{port: {PORT}, check: {{type: http, path: /healthz}}}}
    members:
""" + "".join(f"      {name}: {{address: {HOST}, port: {port}}}\n" for name, port in SERVERS.items())
log = logging.getLogger("demo")


def run(verbose: bool) -> int:
    """The whole tour, until ^C."""
    from l4ipd import main
    from l4ipd.descriptors import CHILD, opened
    from l4ipd.runtime import logs
    from l4ipd.sandbox.process import SandboxProcess

    for port in (PORT, *SERVERS.values()):
        if not _is_free(port):
            print(f"the demo needs {HOST}:{port}, and another program listens there: stop that first", file=sys.stderr)
            return 1
    config = parse(CONFIG, "demo")
    logs.to_stderr(config.log)
    sandbox = SandboxProcess()
    options = argparse.Namespace(config="the demo", verbose=verbose)
    with contextlib.ExitStack() as stack:
        stack.callback(sandbox.stop)
        config = sandbox.adapt(config)
        main.run(options, config, main.set_aside(config, opened() + (1 + len(SERVERS)) * CHILD), sandbox, guide=Tour)
    return 0


class Tour:
    """Starts the web servers, tells what to try, and shows a failover to who only watches."""

    def __init__(self, loop: Loop, daemon: Daemon) -> None:
        self.loop, self.daemon = loop, daemon
        self.servers: dict[str, Child] = {}
        self.victims = list(SERVERS)
        self.ours: str | None = None                # the server that the tour itself has stopped
        daemon.events.listen(self._heard)
        for name in SERVERS:
            self._start(name)
        _await_servers()                            # before the first probe, so that the tour begins with all of them
        self.told = False
        self.next = loop.later(QUIET, self._stop_one)

    def stop(self) -> None:
        for child in self.servers.values():
            child.kill()

    def _start(self, name: str) -> None:
        self.servers[name] = Child(self.loop, isolated.words("l4ipd.demo", "--until-eof", name), timeout=None,
                                   done=lambda end: self._ended(name, end), hold_stdin=True)

    def _ended(self, name: str, end: Exit) -> None:
        del self.servers[name]
        if name != self.ours and not self.daemon.stopping:
            again = " ".join(isolated.words("l4ipd.demo", name))
            log.info("demo: %s was stopped; start it again with: %s", name, again)
            self.loop.set(self.next, self.loop.now + 5 * QUIET)

    def _heard(self, event: Event) -> None:
        up = sum(monitor.up for monitor in self.daemon.fleet.monitors.values())
        if event.kind in ("up", "down") and up in (len(SERVERS) - 1, len(SERVERS)):
            self.loop.later(1.0, self._ask)
        if not self.told and up == len(SERVERS):
            self.told = True
            self._tell()

    def _tell(self) -> None:
        pids = ", ".join(f"kill {child.pid} is {name}" for name, child in self.servers.items())
        for line in (f"demo: three web servers behind http://{HOST}:{PORT}/ are up. From a second terminal,",
                     f"demo:   try: curl http://{HOST}:{PORT}/",
                     f"demo:   then stop a server ({pids})",
                     f"demo:   and start it again: {' '.join(isolated.words('l4ipd.demo', 'web1'))}",
                     f"demo: or just watch: in {QUIET:.0f} s one is stopped, and started again. ^C ends the demo"):
            log.info("%s", line)

    def _ask(self) -> None:
        if not self.daemon.stopping:
            Child(self.loop, isolated.words("l4ipd.demo", "ask"), timeout=10,
                  done=lambda end: log.info("demo: %s", end.stdout.decode().strip() or "no answer"))

    def _stop_one(self) -> None:
        running = [name for name in self.victims if name in self.servers]
        if len(running) < len(SERVERS):             # somebody plays with them
            self.loop.set(self.next, self.loop.now + QUIET)
            return
        self.ours = running[1]
        self.victims = self.victims[1:] + self.victims[:1]
        log.info("demo: stopping %s now", self.ours)
        self.servers[self.ours].kill()
        self.loop.later(0.3, self._ask)             # the first client that is refused tells l4ipd
        self.next = self.loop.later(OUTAGE, self._start_again)

    def _start_again(self) -> None:
        if self.ours is not None:
            log.info("demo: starting %s again", self.ours)
            self._start(self.ours)
            self.ours = None
        self.next = self.loop.later(3 * QUIET, self._stop_one)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        if probe.connect_ex((HOST, port)) == 0:     # some systems let two listen
            return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _await_servers() -> None:
    end = time.monotonic() + PATIENCE
    for port in SERVERS.values():
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
                break
            time.sleep(0.02)


# -- the web servers, each a process of its own

def serve(name: str, until_eof: bool) -> None:
    """Answer every GET with the server's name, until killed; or until standard input ends."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = f"hello from {name}\n".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *words: object) -> None:
            """Say nothing."""

    class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
        daemon_threads = True

        def server_bind(self) -> None:              # without the look-up of our name in the DNS
            socketserver.TCPServer.server_bind(self)

    server = Server((HOST, SERVERS[name]), Handler)
    if until_eof:
        def wait() -> None:
            sys.stdin.read()
            server.shutdown()

        threading.Thread(target=wait, daemon=True).start()
    else:
        print(f"{name} on {HOST}:{SERVERS[name]}, until ^C")
    server.serve_forever()


def ask(times: int = 6) -> str:
    """Who answers through the cluster's address."""
    answers = []
    for _ in range(times):
        connection = http.client.HTTPConnection(HOST, PORT, timeout=2)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            answers.append(connection.getresponse().read().decode().strip().rpartition(" ")[2])
        except OSError as error:
            answers.append("(refused)" if isinstance(error, ConnectionError) else "(no answer)")
        finally:
            connection.close()
    return f"{times} x curl http://{HOST}:{PORT}/ was answered by: {' '.join(answers)}"


def _main() -> None:
    words = argparse.ArgumentParser(prog="python3 -I -m l4ipd.demo", description="a web server of the l4ipd demo")
    words.add_argument("what", choices=[*SERVERS, "ask"], help="the server to be, or ask: ask the cluster")
    words.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    options = words.parse_args()
    if options.what == "ask":
        print(ask())
        return
    try:
        serve(options.what, options.until_eof)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(f"{options.what}: {HOST}:{SERVERS[options.what]}: {error.strerror}")


if __name__ == "__main__":
    _main()
