"""Our own trouble: no descriptors, no route, a port that meets itself. Each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import pytest

from support import ROOT, TESTS

PRELUDE = f"""
import os, resource, socket, struct, sys
sys.path[:0] = [{str(ROOT)!r}, {str(TESTS)!r}]
from support.members import Watch, dialog, endpoint, refusing
from l4ipd.checks.recipe import recipe
from l4ipd.model import Check
CHECKS = [Check("tcp"), Check("http"), Check("tls"), Check("udp"), Check("ping"),
          Check("exec", command=("/bin/sh", "-c", "exit"))]
"""
NO_DESCRIPTORS = PRELUDE + """
with Watch() as watch:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    held = []
    try:
        while True:
            held.append(os.dup(0))
    except OSError:
        pass
    for check in CHECKS:
        print(check.type, watch.probe(check, 9))
    for fd in held:
        os.close(fd)
    print("again", watch.probe(CHECKS[5]))
"""
ONE_PORT = PRELUDE + """
import fcntl
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    fcntl.ioctl(sock, 0x8914, struct.pack("16sh", b"lo", 1))        # SIOCSIFFLAGS, IFF_UP
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("40001 40001")
with socket.socket() as sock:
    sock.connect(("127.0.0.1", 40001))              # so it does happen
    assert sock.getsockname() == sock.getpeername()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
with Watch() as watch:
    for check in CHECKS[:3]:
        print(check.type, watch.probe(check, 40001))
    print("closed", watch.probe(Check("tcp", closed=True), 40001))
    taken = socket.socket()
    taken.bind(("127.0.0.1", 40001))
    print("no port left", watch.probe(Check("tcp"), 80))
    for check in CHECKS[:5]:
        print("no route", check.type, watch.probe(check, 80, "192.0.2.1"))
"""
FEW_PORTS = PRELUDE + """
import subprocess
subprocess.run("ip link set lo up; ip addr add 10.7.7.7/32 dev lo; ip addr add fd07::7/128 dev lo nodad", shell=True,
               check=True)
with open("/proc/sys/net/ipv4/ip_local_port_range", "w") as file:
    file.write("8080 8083")
met = 0
for family, kind, address in ((socket.AF_INET, socket.SOCK_STREAM, "10.7.7.7"),
                              (socket.AF_INET6, socket.SOCK_STREAM, "fd07::7")):
    for _ in range(100):                            # so it does happen
        with socket.socket(family, kind) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            met += sock.connect_ex((address, 8082)) == 0
assert 0 < met < 200, met
with Watch() as watch:
    for address in ("10.7.7.7", "fd07::7"):
        talk = Check("tcp", dialog=dialog(("send", b"x"), ("expect", b"x")))
        for check in (Check("tcp"), Check("udp", send=b"x"), talk):
            print(address, check.type, *{str(watch.probe(check, 8082, address)) for _ in range(100)}, sep="|")
"""
NO_NETWORK = ["unshare", "-n"]


def run(script: str, *wrapper: str) -> dict[str, str]:
    """What the script printed: name and verdict a line."""
    done = subprocess.run([*wrapper, sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "internal error" not in done.stderr
    names = (line.partition(next(word for word in line.split() if word.isupper() or word[:2] == "L4"))
             for line in done.stdout.splitlines())
    return {name.strip(): code + text for name, code, text in names}


def can_unshare() -> bool:
    return (sys.platform == "linux" and os.geteuid() == 0 and shutil.which("unshare") is not None
            and subprocess.run([*NO_NETWORK, "true"], capture_output=True).returncode == 0)


def test_no_descriptors() -> None:
    verdicts = run(NO_DESCRIPTORS)
    assert verdicts.pop("again").startswith("PROCOK")
    assert len(verdicts) == 6
    for name, verdict in verdicts.items():
        assert verdict.startswith("LOCAL "), (name, verdict)
        assert "open files" in verdict


@pytest.mark.skipif(not can_unshare(), reason="needs a network namespace")
def test_no_port_no_route_and_a_connection_to_itself() -> None:
    verdicts = run(ONE_PORT, *NO_NETWORK)
    for name in ("tcp", "http", "tls"):
        assert verdicts[name] == "L4CON connection refused"
    assert verdicts["closed"] == "L4OK connection refused, as it should be"
    assert verdicts["no port left"] == "LOCAL connect: no local address or port left"
    for name in ("tcp", "http", "tls", "udp", "ping"):
        assert verdicts[f"no route {name}"] == "L4CON no route to the member"


@pytest.mark.skipif(not can_unshare() or shutil.which("ip") is None, reason="needs a network namespace, and ip(8)")
def test_a_member_on_an_address_of_the_gateway_and_a_port_that_it_may_give_to_itself() -> None:
    done = subprocess.run([*NO_NETWORK, sys.executable, "-c", FEW_PORTS], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [line.split("|")[2:] for line in done.stdout.splitlines()] == [["L4CON connection refused"]] * 6
