"""A bench for sensing: monitors that are up, probes that say what the test wants, lines that the test writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from l4ipd.checks.recipe import Recipe, recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check, Endpoint, Ipfilter, Resets
from l4ipd.monitor.monitor import Monitor
from l4ipd.monitor.schedule import Schedule
from l4ipd.resets.sensing import Sensing
from l4ipd.runtime.loop import Loop

OK, DEAD = Verdict("L4OK", ""), Verdict("L4CON", "connection refused")
CLIENT = "198.51.100.7"
PATIENCE = 30.0


def line(address: str = "10.0.0.2", port: int = 8080, *, to: str = CLIENT, flags: str = "-AR 0 1001 0",
         tag: str = " log-tag 4711", when: float | None = None, times: int = 1) -> bytes:
    when = time.time() if when is None else when
    stamp = time.strftime("%d/%m/%Y %H:%M:%S", time.localtime(when)) + f".{int(when % 1 * 1e6):06d}"
    many = f"{times}x " if times > 1 else ""
    return (f"{stamp} {many}em1 @-1:-1 L {address},{port} -> {to},5000 PR tcp len 20 40 {flags} IN{tag}\n").encode()


def unreachable(port: int = 53, *, sender: str = "10.0.0.2", to: str = CLIENT) -> bytes:
    return (f"22/11/2026 06:48:57.244962 em1 @-1:-1 L {sender} -> {to} PR icmp len 20 56 icmp unreach/port for "
            f"{to},4000 - 10.0.0.2,{port} PR udp len 20 29 IN log-tag 4711\n").encode()


def refused(*monitors: Monitor) -> list[bool]:
    """Whether a refusal of each is believed, and may be in the course of being judged."""
    return [not each.up or (each.refusals is not None and each.refusals.charged) for each in monitors]


class Silent:
    """A probe in flight that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


class Bench:
    """Monitors that are up, a sensing, and no IPFilter: the lines come from the test."""

    def __init__(self, tmp: Path, action: str = "refused", source: str | None = None) -> None:
        self.loop = Loop()
        self.tmp = tmp
        self.verdict: Verdict | None = DEAD         # what probes say from now on; None: nothing
        self.probes = 0
        self.flips: list[tuple[str, bool]] = []
        self.told: list[tuple[str, str]] = []
        self.schedule: Schedule[Monitor] = Schedule(self.loop, 1000, self._probe, decided=lambda monitor: None,
                             changed=lambda monitor, was: self.flips.append((monitor.endpoint.member, monitor.up)))
        self.sensing = Sensing(self.loop, lambda kind, text, level: self.told.append((kind, text)))
        self.count = self.sensing.reaction
        self.schedule.refused = self.sensing.probe_refused
        self.monitors: list[Monitor] = []
        self.settings = Resets("em1", source or str(tmp / "no-such-log"), action)
        none = (str(tmp / "no-tool"),)
        self.tools = Ipfilter("em0", ipnat=none, ipf=none, ipfstat=none, ipmon=none)

    def _probe(self, what: Recipe, done: Callable[[Verdict], object]) -> Silent:
        self.probes += 1
        if self.verdict is not None:
            done(self.verdict)
        return Silent()

    def add(self, member: str = "web1", address: str = "10.0.0.2", port: int = 8080, protocol: str = "tcp",
            cluster: str = "www", check: Check | None = None, ports: int = 1) -> Monitor:
        check = check or Check("tcp", interval=3600, fast_interval=3600, down_interval=3600)
        endpoint = Endpoint(f"{cluster}/x/{member}", cluster, "x", member, ("203.0.113.1",), 80, protocol, False,
                            address, port, 1, False, (check,), ports=ports)
        monitor = Monitor(self.schedule, endpoint, [recipe(Check("tcp"), endpoint)])
        monitor.score(OK, 0.0)
        self.monitors.append(monitor)
        self.flips.clear()
        return monitor

    def begin(self) -> Bench:
        self.sensing.apply(self.settings, self.tools, self.monitors, str(self.tmp / "ipmon.pid"))
        return self

    def take(self, text: bytes) -> None:
        """Lines of ipmon's."""
        for each in text.splitlines():
            self.sensing.listener.take(each)

    def until(self, done: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "never happened"
            self.loop.later(0.01, lambda: None)
            self.loop.turn()

    def turns(self, seconds: float = 0.05) -> None:
        late = self.loop.later(seconds, lambda: None)
        while late.is_set:
            self.loop.turn()


# -- ipmon as a child

IPMON = 'echo "$$ $*" >>{0}/starts; exec cat <>{0}/device'


class Device:
    """Stands for /dev/ipl: what is written to it, the stand-in ipmon prints."""

    def __init__(self, bench: Bench) -> None:
        os.mkfifo(bench.tmp / "device")
        self.fd = os.open(bench.tmp / "device", os.O_RDWR)
        self.starts = bench.tmp / "starts"
        bench.settings = Resets("em1", "ipmon")
        bench.tools = Ipfilter("em0", ipnat=("no",), ipf=("no",), ipfstat=("no",),
                               ipmon=("/bin/sh", "-c", IPMON.format(bench.tmp), "ipmon"))

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)

    @property
    def pids(self) -> list[int]:
        return [int(text.split()[0]) for text in self.starts.read_text().splitlines()] if self.starts.exists() else []


def runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
    except ProcessLookupError:                      # it may go at any time, even in the middle of being read
        return False


# -- a log file

def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)
