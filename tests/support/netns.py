"""A network of its own for a test: this machine as the gateway, and a neighbour that has the members' addresses.

A script runs in a new network namespace (:func:`inside`), where it may change routes and interfaces as it likes::

    gateway, lo and "in" 10.9.0.1/24 fd09::1/64 ----- neighbour 10.9.0.2 fd09::2, and on its lo
                                                      10.8.1.1 fd08:1::1 (one), 10.8.2.1 fd08:2::1 (two)

The neighbour answers: a web server on port 8080, udp on 8080, echo requests; it refuses port 81, and has no route to
10.8.9.0/24 and fd08:9::/64. The gateway has routes to all of them through it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys

from support import ROOT, TESTS
from support.gateway import wait

PATIENCE = 120.0                                    # seconds until a script has failed
UNSHARE = ["unshare", "-n"]
ONE, TWO = ("10.8.1.1", "fd08:1::1"), ("10.8.2.1", "fd08:2::1")
MEMBERS = {"10.8.1.0/24": ONE[0], "10.8.2.0/24": TWO[0], "fd08:1::/64": ONE[1], "fd08:2::/64": TWO[1]}
NETWORKS = (*MEMBERS, "10.8.9.0/24", "fd08:9::/64")
TALKATIVE = ("net.ipv4.icmp_ratemask=0", "net.ipv6.icmp.ratelimit=0")          # limits of the ICMP that is sent
VIA = {4: "10.9.0.2", 6: "fd09::2"}
NEIGHBOUR = """
import http.server, socket, sys, threading
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")
    def log_message(self, *words):
        pass
def talk(sock):
    while True:
        data, sender = sock.recvfrom(2048)
        sock.sendto(data, sender)
print("here", flush=True)
sys.stdin.readline()
for address in sys.argv[1:]:
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 8080))
    threading.Thread(target=talk, args=(sock,), daemon=True).start()
server = Server(("::", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
"""


def why_not() -> str:
    """Why no such network can be had here; empty if it can."""
    if not sys.platform.startswith("linux"):
        return "network namespaces are Linux's"
    missing = [name for name in ("unshare", "nsenter", "ip") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        return f"needs root and {', '.join(missing) or 'its rights'}"
    tried = subprocess.run([*UNSHARE, "ip", "link", "add", "name", "here", "type", "veth", "peer", "name", "there"],
                           capture_output=True, text=True)
    return f"needs a network namespace: {tried.stderr.strip()}" if tried.returncode else ""


def inside(script: str, *words: str) -> str:
    """Run a Python script, which may import what tests stand on, in a network namespace of its own; what it printed."""
    done = subprocess.run([*UNSHARE, sys.executable, "-c", f"import sys\nsys.path[:0] = [{str(ROOT)!r}, "
                           f"{str(TESTS)!r}]\n{script}", *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


def ip(*words: str) -> None:
    """``ip -6`` where an address is IPv6."""
    subprocess.run(["ip", *(["-6"] if any(":" in word for word in words) else []), *words], check=True)


class Network:
    """To be used in a script of :func:`inside`, as a context manager."""

    def __enter__(self) -> Network:
        self.neighbour = neighbour = subprocess.Popen([*UNSHARE, sys.executable, "-c", NEIGHBOUR, *MEMBERS.values()],
                                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert neighbour.stdin is not None and neighbour.stdout is not None and neighbour.stdout.readline() == b"here\n"
        ip("link", "set", "lo", "up")
        subprocess.run(["sysctl", "-qw", *TALKATIVE], check=True)
        ip("link", "add", "name", "in", "type", "veth", "peer", "name", "out", "netns", str(self.neighbour.pid))
        addresses = "".join(f"ip addr add {address} dev lo{' nodad' * (':' in address)}\n"
                            for address in MEMBERS.values())
        self.there(f"""
            sysctl -qw {' '.join(TALKATIVE)} net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
            ip link set lo up
            ip link set out up
            ip addr add {VIA[4]}/24 dev out
            ip addr add {VIA[6]}/64 dev out nodad
            ip route add unreachable 10.8.9.0/24
            ip -6 route add unreachable fd08:9::/64
            {addresses}""")
        with neighbour.stdin:
            neighbour.stdin.write(b"\n")
        assert neighbour.stdout.readline() == b"ready\n"
        ip("link", "set", "in", "up")
        ip("addr", "add", "10.9.0.1/24", "dev", "in")
        ip("addr", "add", "fd09::1/64", "dev", "in", "nodad")
        for network in NETWORKS:
            self.route("add", network)
        self.until_it_answers()
        return self

    def __exit__(self, *_: object) -> None:
        self.neighbour.kill()
        self.neighbour.wait()

    def there(self, commands: str) -> None:
        """Run commands of a shell at the neighbour's."""
        subprocess.run(["nsenter", "-t", str(self.neighbour.pid), "-n", "sh", "-ec", commands], check=True)

    def route(self, verb: str, network: str) -> None:
        """``add``, ``del``; or another kind of route in its place: ``unreachable``, ``prohibit``, ``blackhole``."""
        if verb in ("add", "del"):
            ip("route", verb, network, "via", VIA[6 if ":" in network else 4])
        else:
            ip("route", "replace", verb, network)

    def until_it_answers(self) -> None:
        """IPv6 takes its time on a new interface."""
        for address in MEMBERS.values():
            def connects(address: str = address) -> bool:
                try:
                    socket.create_connection((address, 8080), timeout=1).close()
                except OSError:
                    return False
                return True
            wait(f"connection to {address}", connects)
