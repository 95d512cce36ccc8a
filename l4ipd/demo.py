"""`l4ipd --demo`: a tour of the main job on this machine's loopback, and the throw-away web servers it needs.

The daemon, its checks, its rules and the connections are real; IPFilter is the sandbox. When nobody touches the web
servers for a while, the tour stops one and starts it again by itself: now while clients ask, one of which is refused
and so tells l4ipd, and now while nobody does, so that probes have to find out.

``python3 -I -m l4ipd.demo web1 8081`` is one of the servers, ``... ask 8080`` asks the cluster a few times.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import http.server
import json
import logging
import socket
import socketserver
import sys
import threading
import time
from collections import Counter
from typing import NamedTuple

from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.runtime import isolated
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop

HOST = "127.0.0.1"
SERVERS = ("web1", "web2", "web3")
PORTS = (8080, 8089, 8081, 8082, 8083)              # cluster, status page, servers: where they are free
QUIET, OUTAGE = 12.0, 6.0                           # seconds until the tour stops a server, and starts it again
PATIENCE = 10.0                                     # seconds for the servers to come up
CLIENTS, PACE = 60, 0.03                            # who ask during an outage, and the seconds between two of them
CONFIG = """
ipfilter: {{interface: lo0}}
resets: {{interface: lo0}}
log: {{level: info}}
http: {0}:{1.page}
defaults: {{interval: 1s, timeout: 500ms, rise: 2, fall: 2, flap: no}}
clusters:
  demo:
    address: {0}
    services:
      http: {{port: {1.cluster}, check: {{type: http, path: /healthz}}}}
    members:
"""
log = logging.getLogger("demo")


class Ports(NamedTuple):
    """Where everything listens."""

    cluster: int
    page: int
    servers: dict[str, int]


def run(verbose: bool) -> int:
    """The whole tour, until ^C."""
    from l4ipd.descriptors import CHILD, opened
    from l4ipd.run import allot_descriptors, run_daemon
    from l4ipd.runtime import logs
    from l4ipd.sandbox.process import SandboxProcess

    options = argparse.Namespace(config="the demo", verbose=verbose)
    with contextlib.ExitStack() as stack:
        ports = free_ports(stack)
        config = parse(CONFIG.format(HOST, ports) + "".join(
            f"      {name}: {{address: {HOST}, port: {port}}}\n" for name, port in ports.servers.items()), "demo")
        logs.to_stderr(config.log)
        for port in PORTS:
            if left := _left_over(port):
                log.info("demo: %s of an earlier demo still listens on %s:%d; this one takes other ports", left, HOST,
                         port)
        sandbox = SandboxProcess()
        stack.callback(sandbox.stop)
        config = sandbox.adapt(config)
        run_daemon(options, config, allot_descriptors(config, opened() + (1 + len(SERVERS)) * CHILD), sandbox,
                   companion=lambda loop, daemon: Tour(loop, daemon, ports))
    return 0


class Outage:
    """One that the tour makes: who is stopped, and what became of it."""

    def __init__(self, name: str, crowded: bool) -> None:
        self.name, self.crowded = name, crowded     # crowded: clients ask meanwhile
        self.began: float | None = None             # when nobody listened any more
        self.noticed: float | None = None           # when the endpoint went down


class Tour:
    """Starts the web servers, tells what to try, and shows failovers to who only watches."""

    def __init__(self, loop: Loop, daemon: Daemon, ports: Ports) -> None:
        self.loop, self.daemon, self.ports = loop, daemon, ports
        self.servers: dict[str, Child] = {}
        self.outage: Outage | None = None
        self.count = 0                              # outages so far
        daemon.events.listen(self._heard)
        for name in SERVERS:
            self._start(name)
        _await_servers(ports)                       # before the first probe, so that the tour begins with all of them
        self.told = False
        self.next = loop.later(QUIET, self._stop_one)

    def stop(self) -> None:
        for child in self.servers.values():
            child.kill()

    # -- the servers

    def _words(self, name: str, *options: str) -> tuple[str, ...]:
        return isolated.words("l4ipd.demo", *options, name, str(self.ports.servers.get(name, self.ports.cluster)))

    def _start(self, name: str) -> None:
        self.servers[name] = Child(self.loop, self._words(name, "--until-eof"), timeout=None,
                                   done=lambda end: self._ended(name, end), hold_stdin=True)

    def _ended(self, name: str, end: Exit) -> None:
        del self.servers[name]
        if self.daemon.stopping:
            return
        if self.outage is not None and self.outage.name == name and self.outage.began is None:
            self.outage.began = self.loop.clock()
            if self.outage.crowded:
                self._ask(CLIENTS, PACE)
        else:
            log.info("demo: %s was stopped; start it again with: %s", name, " ".join(self._words(name)))
            self.loop.move(self.next, self.loop.now + 5 * QUIET)

    # -- what happens

    def _heard(self, event: Event) -> None:
        members = self.daemon.fleet.monitors.values()
        if event.kind == "down" and self.outage is not None and event.name.endswith(f"/{self.outage.name}"):
            self._noticed(self.outage, ": RST " in event.text)
        if event.kind == "up" and sum(monitor.up for monitor in members) == len(SERVERS):
            if not self.told:
                self.told = True
                self._tell()
            self._ask()
        if event.kind in ("disabled", "enabled"):   # somebody plays: let them
            self.loop.move(self.next, self.loop.now + QUIET)

    def _tell(self) -> None:
        pids = ", ".join(f"kill {child.pid} is {name}" for name, child in self.servers.items())
        ctl = f"l4ipctl -s {self.daemon.config.control.path}"
        for line in (f"three web servers behind http://{HOST}:{self.ports.cluster}/ are up. From a second terminal,",
                     f"  try: curl http://{HOST}:{self.ports.cluster}/",
                     f"  see: {ctl} show, and in a browser http://{HOST}:{self.ports.page}/",
                     f"  take one out: {ctl} disable web1, and put it back: {ctl} enable web1",
                     f"  or stop a server for real ({pids})",
                     f"or just watch: in {QUIET:.0f} s one is stopped, and started again. ^C ends the demo"):
            log.info("demo: %s", line)

    def _noticed(self, outage: Outage, by_client: bool) -> None:
        if outage.began is None or outage.noticed is not None:
            return
        outage.noticed = self.loop.clock()
        after = outage.noticed - outage.began
        log.info("demo: %s was out %s after it ended: %s", outage.name,
                 f"{after * 1000:.0f} ms" if after < 1 else f"{after:.1f} s",
                 "a client was refused, and a probe said the same" if by_client else
                 "probes were refused, before any client was" if outage.crowded else
                 "nobody asked, so it took two probes in a row")
        if not outage.crowded:
            self._ask()

    def _ask(self, times: int = 6, pause: float = 0.0) -> None:
        if not self.daemon.stopping:
            Child(self.loop, self._words("ask", "--times", str(times), "--pause", str(pause)), timeout=30,
                  done=self._answered)

    def _answered(self, end: Exit) -> None:
        with contextlib.suppress(ValueError):
            if not self.daemon.stopping:
                log.info("demo: %s", told(json.loads(end.stdout), self.ports.cluster))

    # -- who only watches

    def _stop_one(self) -> None:
        """Stop the next server, unless somebody else is at work: then wait until all is well."""
        well = all(monitor.fit for monitor in self.daemon.fleet.monitors.values())
        turns = (SERVERS[(self.count + 1 + place) % len(SERVERS)] for place in range(len(SERVERS)))
        name = next((name for name in turns if name in self.servers), None)     # the others were started by hand
        if not well or name is None:
            self.loop.move(self.next, self.loop.now + QUIET)
            return
        self.outage = Outage(name, crowded=self.count % 2 == 0)
        self.count += 1
        log.info("demo: stopping %s now, while %s", self.outage.name,
                 f"{CLIENTS} clients ask, one every {PACE * 1000:.0f} ms" if self.outage.crowded else "nobody asks")
        self.servers[self.outage.name].kill()
        self.next = self.loop.later(OUTAGE, self._start_again)

    def _start_again(self) -> None:
        if self.outage is not None:
            if self.outage.name not in self.servers:
                self._start(self.outage.name)
                log.info("demo: starting %s again, as process %d", self.outage.name, self.servers[self.outage.name].pid)
            self.outage = None
        self.next = self.loop.later(2 * QUIET, self._stop_one)

    def raised(self) -> None:
        """The tour is at an end, the daemon goes on."""


def free_ports(claims: contextlib.ExitStack) -> Ports:
    """The ports that the manual names, as far as they are free; and others that are. Ours until ``claims`` end."""
    taken: list[int] = []
    for port in PORTS:
        while not _claim(port, claims):
            with socket.socket() as probe:
                probe.bind((HOST, 0))
                port = int(probe.getsockname()[1])
        taken.append(port)
    return Ports(taken[0], taken[1], dict(zip(SERVERS, taken[2:], strict=True)))


def _claim(port: int, claims: contextlib.ExitStack) -> bool:
    """Whether a port is free, and no demo that starts at this moment, or has stopped a server, has a claim to it.

    The claim is the udp port of the same number, which nobody here needs, and which goes with us.
    """
    with contextlib.ExitStack() as stack:
        claim = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM))
        try:
            claim.bind((HOST, port))
        except OSError:
            return False
        if _is_free(port):
            claims.enter_context(stack.pop_all())
            return True
    return False


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


def _left_over(port: int) -> str:
    """The server of an earlier demo that still answers on a port; empty if it is none."""
    connection = http.client.HTTPConnection(HOST, port, timeout=1)
    try:
        connection.request("GET", "/", headers={"Connection": "close"})
        words = connection.getresponse().read(100).decode("latin-1").split()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    return words[2] if words[:2] == ["hello", "from"] and words[2:3] and words[2] in SERVERS else ""


def _await_servers(ports: Ports) -> None:
    end = time.monotonic() + PATIENCE
    for port in ports.servers.values():
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection((HOST, port), 1.0):
                break
            time.sleep(0.02)


# -- the web servers, each a process of its own

def serve(name: str, port: int, until_eof: bool) -> None:
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

    server = Server((HOST, port), Handler)
    if until_eof:
        def wait() -> None:
            sys.stdin.read()
            server.shutdown()

        threading.Thread(target=wait, daemon=True).start()
    else:
        print(f"{name} on {HOST}:{port}, until ^C")
    server.serve_forever()


def ask(port: int, times: int, pause: float) -> list[str]:
    """Who answers through the cluster's address: one after the other, each on a connection of its own."""
    answers = []
    for _ in range(times):
        connection = http.client.HTTPConnection(HOST, port, timeout=2)
        try:
            connection.request("GET", "/", headers={"Connection": "close"})
            answers.append(connection.getresponse().read().decode().strip().rpartition(" ")[2])
        except OSError as error:
            answers.append("refused" if isinstance(error, ConnectionError) else "no answer")
        finally:
            connection.close()
        time.sleep(pause)
    return answers


def told(answers: list[str], port: int) -> str:
    """What came of asking, in words."""
    what = f"{len(answers)} x curl http://{HOST}:{port}/"
    if len(answers) <= len(SERVERS) * 2:
        return f"{what} was answered by: {' '.join(answers)}"
    counts = Counter(answers)
    good = ", ".join(f"{name} {counts[name]}" for name in SERVERS if counts[name])
    bad = ", ".join(f"{counts[words]} {words}" for words in ("refused", "no answer") if counts[words])
    return f"{what} was answered by: {good}; {bad or 'none was refused'}"


def _main() -> None:
    words = argparse.ArgumentParser(prog="python3 -I -m l4ipd.demo", description="a web server of the l4ipd demo")
    words.add_argument("what", choices=[*SERVERS, "ask"], help="the server to be, or ask: ask the cluster")
    words.add_argument("port", type=int, help="where it listens")
    words.add_argument("--until-eof", action="store_true", help="end when standard input ends")
    words.add_argument("--times", type=int, default=6, help="how often to ask")
    words.add_argument("--pause", type=float, default=0.0, help="seconds between two times")
    options = words.parse_args()
    if options.what == "ask":
        print(json.dumps(ask(options.port, options.times, options.pause)))
        return
    try:
        serve(options.what, options.port, options.until_eof)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        sys.exit(f"{options.what}: {HOST}:{options.port}: {error.strerror}")


if __name__ == "__main__":
    _main()
