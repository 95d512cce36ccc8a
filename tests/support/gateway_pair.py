"""Two gateways, a router with the clients, and the members, in network namespaces of a test's own::

                     eth0 192.0.2.1 [ first  ] eth1 10.8.0.1
    router 192.0.2.254  ----|                        |---- members 10.8.0.11, 10.8.0.12, port 8080
                     eth0 192.0.2.2 [ second ] eth1 10.8.0.2

Each gateway has a sandbox as its kernel and l4ipd, which serve 203.0.113.10 port 80. A script runs in a process
namespace, too (:func:`inside`), so that its end is the end of everything that it started. A member answers with the
address that it was asked from: that of the gateway.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from l4ipd.sandbox import serve_words, tool_words
from support import ROOT, TESTS
from support.gateway import wait

VIP = "203.0.113.10"
UNSHARE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc")
SCRIPT_PATIENCE = 240.0                             # seconds until a script has failed
#: a directory of its own that goes with it, and is as safe as keepalived wants that of a script to be
PRELUDE = f"""
import os, subprocess, sys
sys.path[:0] = [{str(ROOT)!r}, {str(TESTS)!r}]
subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "l4ip", "/mnt"], check=True)
os.chdir("/mnt")
os.environ["PATH"] = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"], "/usr/sbin", "/sbin"])
"""
MEMBERS = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = self.client_address[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
Server(("", 8080), Handler).serve_forever()
"""


def why_not(*programs: str) -> str:
    """Why there can be no such network here, or which of ``programs`` is missing; empty if all is well."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    missing = [name for name in ("unshare", "nsenter", "ip", *programs) if find(name) is None]
    if missing or os.geteuid() != 0:
        return f"needs root and {', '.join(missing) or 'its rights'}"
    tried = subprocess.run([*UNSHARE, "sh", "-ec", "ip link add name here type bridge\nip link add name one type veth "
                            "peer name two\nsysctl -qw net.ipv4.ip_forward=1"], capture_output=True, text=True)
    return f"needs network and process namespaces: {tried.stderr.strip()[:200]}" if tried.returncode else ""


def find(program: str) -> str | None:
    """Where a program is, beside our interpreter or where the system has its own."""
    return shutil.which(program, path=os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", ""),
                                                       "/usr/sbin", "/sbin"]))


def inside(script: str, *words: str) -> str:
    """Run a Python script, which may import what tests stand on, in namespaces of its own; what it printed.

    It is in a directory of its own, /mnt, and has the programs beside our interpreter and the system's in its PATH.
    """
    done = subprocess.run([*UNSHARE, sys.executable, "-c", PRELUDE + script, *words], capture_output=True, text=True,
                          timeout=SCRIPT_PATIENCE, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-12000:]
    return done.stdout


class Host:
    """A network namespace, which lasts as long as the process that holds it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.holder = subprocess.Popen(["unshare", "-n", "sh", "-c", "echo here; exec cat"], stdin=subprocess.PIPE,
                                       stdout=subprocess.PIPE)
        assert self.holder.stdout is not None and self.holder.stdout.readline() == b"here\n"
        self.enter = ("nsenter", "-t", str(self.holder.pid), "-n")
        self.run("ip link set lo up; sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0")

    def run(self, commands: str) -> str:
        done = subprocess.run([*self.enter, "sh", "-ec", commands], capture_output=True, text=True)
        assert done.returncode == 0, f"{self.name}: {commands}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self, *words: str, log: str | None = None, **environment: str) -> subprocess.Popen[bytes]:
        """Start a program there, whose output goes to a file named after it and the host."""
        path = Path(f"{self.name}.{log or os.path.basename(words[0])}.log")
        with path.open("ab") as file:
            return subprocess.Popen([*self.enter, *words], stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                                    env={**os.environ, **environment})


class Pair:
    """The network, and both gateways in it; ``eth0`` and ``eth1`` are theirs."""

    def __init__(self) -> None:
        self.router, self.members = Host("router"), Host("members")
        for host, address in ((self.router, "192.0.2.254/24"), (self.members, "10.8.0.254/24")):
            host.run(f"ip link add name br0 type bridge forward_delay 0; ip link set br0 up; "
                     f"ip addr add {address} dev br0; sysctl -qw net.ipv4.fib_multipath_hash_policy=1")
        self.members.run("ip addr add 10.8.0.11/24 dev br0; ip addr add 10.8.0.12/24 dev br0")
        self.members.start(sys.executable, "-c", MEMBERS, log="web")
        self.gateways = [OneOfTwo(number, self) for number in (1, 2)]

    def join(self, host: Host, port: str, switch: Host) -> None:
        """An interface of a host on the bridge of another."""
        peer = f"{host.name}-{port}"
        switch.run(f"ip link add name {peer} type veth peer name {port} netns {host.holder.pid}; "
                   f"ip link set {peer} master br0 up")
        host.run(f"ip link set {port} up")

    def ask(self) -> str:
        """A client's connection to the VIP: which gateway served it, 1 or 2; or why none did."""
        code = (f"import socket\ns = socket.create_connection(({VIP!r}, 80), timeout=5)\n"
                "s.sendall(b'GET / HTTP/1.0\\r\\n\\r\\n')\nprint(s.makefile('rb').read().decode().rpartition('.')[2])")
        done = subprocess.run([*self.router.enter, sys.executable, "-I", "-S", "-c", code], capture_output=True,
                              text=True)
        return done.stdout.strip() or done.stderr.strip().rpartition("\n")[2]

    def wait(self, what: str, done: Callable[[], object]) -> None:
        """Wait until ``done()``, or tell what was logged."""
        try:
            wait(what, done)
        except AssertionError:
            self.tell()
            raise

    def tell(self) -> None:
        """Everything that was logged, for a test that fails."""
        for path in sorted(Path().rglob("*log*")):
            if path.is_file():
                print(f"== {path}\n{path.read_text(errors='replace')[-3000:]}", file=sys.stderr)


class OneOfTwo:
    """A gateway: its namespace, sandbox and l4ipd."""

    def __init__(self, number: int, pair: Pair) -> None:
        self.number, self.pair = number, pair
        self.host = Host(("first", "second")[number - 1])
        self.directory = Path(self.host.name).absolute()
        self.directory.mkdir()
        pair.join(self.host, "eth0", pair.router)
        pair.join(self.host, "eth1", pair.members)
        self.host.run(f"ip addr add 192.0.2.{number}/24 dev eth0; ip addr add 10.8.0.{number}/24 dev eth1; "
                      "ip route add default via 192.0.2.254; sysctl -qw net.ipv4.ip_nonlocal_bind=1")
        sandbox, self.socket = self.directory / "ipfilter.sock", self.directory / "l4ip.sock"
        self.host.start(*serve_words(str(sandbox)), log="sandbox")
        wait("the sandbox", sandbox.exists)
        self.config = self.directory / "l4ip.conf"
        tools = "".join(f"  {name}: [{', '.join(words)}]\n" for name, words in tool_words(str(sandbox)).items())
        self.config.write_text(
            f"pidfile: {self.directory}/l4ip.pid\ncontrol: {self.socket}\nstate: {self.directory}/state\n"
            f"ipfilter:\n  interface: eth0\n{tools}defaults: {{interval: 300ms, timeout: 300ms, rise: 2, fall: 2, "
            f"fast_interval: 100ms}}\nclusters:\n  www:\n    address: {VIP}\n    services: {{http: {{port: 80, "
            "member_port: 8080, check: {type: http, path: /}}}\n    members: {web1: 10.8.0.11, web2: 10.8.0.12}\n")
        self.l4ipctl = self.directory / "l4ipctl"
        self.l4ipctl.write_text(f"#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -S -m l4ipd.control.l4ipctl "
                                f"-s {self.socket} \"$@\"\n")
        self.l4ipctl.chmod(0o755)
        self.daemon: subprocess.Popen[bytes] | None = None

    def serve(self) -> None:
        """Start l4ipd, and wait until it is ready."""
        self.daemon = self.host.start(sys.executable, "-m", "l4ipd", "-d", "-c", str(self.config), log="l4ipd",
                                      PYTHONPATH=str(ROOT))
        self.pair.wait(f"{self.host.name} ready", lambda: self.ctl("ready", "www") == 0)

    def kill(self) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGKILL)
        self.daemon.wait()

    def ctl(self, *words: str) -> int:
        return subprocess.run([self.l4ipctl, *words], capture_output=True).returncode

    def lose_members(self) -> None:
        """What is sent to them does not arrive, as this gateway sees it."""
        for address in ("10.8.0.11", "10.8.0.12"):
            self.host.run(f"ip neigh replace {address} lladdr 02:00:00:00:00:99 nud permanent dev eth1")

    def find_members(self) -> None:
        for address in ("10.8.0.11", "10.8.0.12"):
            self.host.run(f"ip neigh del {address} dev eth1")

    def configure(self, sample: str, **changes: str) -> Path:
        """A sample of etc/gateways as this gateway has it: with its own addresses, paths and what else is to change."""
        text = (ROOT / "etc/gateways" / sample).read_text().replace("/usr/local/bin/l4ipctl", str(self.l4ipctl))
        text = re.sub(r"192\.0\.2\.1\b", f"192.0.2.{self.number}", text)
        for old, new in changes.items():
            assert old in text, (sample, old)
            text = text.replace(old, new)
        path = self.directory / sample
        path.write_text(text)
        return path

    def has_vip(self) -> bool:
        return VIP in self.host.run("ip -o addr show dev eth0")

