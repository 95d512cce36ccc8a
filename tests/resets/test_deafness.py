"""Is the sensing deaf? What makes it seem so, and what does not. ipnat is a script that prints what the test says."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from l4ipd.model import Resets
from l4ipd.monitor.monitor import Monitor
from l4ipd.resets import deafness, sources
from support.sensing_bench import DEAD, OK, Bench, append, line


class Kernel:
    """Stands for the NAT table: how many connections each target has been sent."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.file = bench, bench.tmp / "listing"
        self.sent: dict[tuple[str, int, str], int] = {}
        bench.settings = Resets("em1", str(bench.tmp / "ipf.log"))
        append(bench.tmp / "ipf.log", b"")
        script = f"echo >>{bench.tmp}/runs; cat {self.file}"
        bench.tools = replace(bench.tools, ipnat=("/bin/sh", "-c", script, "ipnat"))
        bench.begin()

    def client(self, protocol: str = "tcp", address: str = "10.0.0.2", port: int = 8080) -> None:
        key = address, port, protocol
        self.sent[key] = self.sent.get(key, 0) + 1

    def refused(self, *monitors: Monitor) -> None:
        """A probe of each is refused, and the table is read."""
        rules = [f"{count} rdr em0 203.0.113.1/32 port 80 -> {address}/32 port {port} {protocol} round-robin tag l4ip"
                 for (address, port, protocol), count in self.sent.items()]
        self.file.write_text("\n".join(("List of active MAP/Redirect filters:", *rules, "", "List of active sessions:",
                                        "")))
        for monitor in monitors:
            self.bench.schedule.refused(monitor, DEAD)
        self.bench.until(lambda: self.bench.sensing.deafness._child is None)

    @property
    def runs(self) -> int:
        return len((self.bench.tmp / "runs").read_text().splitlines())


@pytest.fixture
def kernel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(deafness, "APART", 0.0)
    monkeypatch.setattr(deafness, "LATE", 0.2)
    monkeypatch.setattr(sources, "POLL", 0.01)
    bench.add()
    bench.add("dns", port=8080, protocol="udp")
    return Kernel(bench)


def test_clients_between_two_refused_probes_and_no_reset(bench: Bench, kernel: Kernel,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        kernel.client()
        kernel.refused(bench.monitors[0])
    assert kernel.runs == 3
    bench.until(lambda: bench.sensing.deafness.deaf == "www/x/web1")
    assert caplog.text.count("sensing seems deaf: www/x/web1 refuses connections") == 1
    assert "deaf?" in bench.sensing.summary()
    with caplog.at_level(logging.INFO):
        bench.take(line())
        bench.take(line())
    assert not bench.sensing.deafness.deaf and caplog.text.count("resets are seen again: the sensing is not deaf") == 1


@pytest.mark.parametrize("what", ["nothing", "it was well meanwhile", "no client", "other protocol", "other port",
                                  "record between", "late record", "record of one that is down", "rules loaded anew"])
def test_what_does_not_make_it_seem_deaf(bench: Bench, kernel: Kernel, what: str,
                                         caplog: pytest.LogCaptureFixture) -> None:
    one = bench.monitors[0]
    kernel.client()
    kernel.refused(one)
    if what == "it was well meanwhile":
        one.score(OK, 0.0)
    elif what == "record between":
        bench.sensing.listener.take(line("10.0.0.2", 8080, flags="-AR 7 1 0").strip())
        kernel.client()
    kernel.client("udp" if what == "other protocol" else "tcp", port=8081 if what == "other port" else 8080)
    if what == "no client":
        kernel.sent.clear()
        kernel.client()
    elif what == "rules loaded anew":
        kernel.sent[("10.0.0.2", 8080, "tcp")] = 0
    kernel.refused(one)
    if what == "late record":
        append(bench.tmp / "ipf.log", line())
    elif what == "record of one that is down":
        one.health = 0
        append(bench.tmp / "ipf.log", line())
    bench.turns(0.4)
    assert kernel.runs >= 2
    assert bool(bench.sensing.deafness.deaf) == ("seems deaf" in caplog.text) == (what == "nothing")


def test_the_table_is_not_read_again_at_once(bench: Bench, kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deafness, "APART", 3600.0)
    for _ in range(3):
        kernel.refused(bench.monitors[0])
    assert kernel.runs == 1


def test_whoever_is_to_know_hears_of_it(bench: Bench, kernel: Kernel) -> None:
    told: list[str] = []
    bench.sensing.deafness.deafened = lambda: told.append(bench.sensing.deafness.deaf)
    for _ in range(4):
        kernel.client()
        kernel.refused(bench.monitors[0])
    bench.until(lambda: told)
    assert told == ["www/x/web1"]


@pytest.mark.parametrize("source", ["counters", "no"])
def test_its_own_advice_ends_deafness(bench: Bench, kernel: Kernel, source: str) -> None:
    for _ in range(3):
        kernel.client()
        kernel.refused(bench.monitors[0])
    bench.until(lambda: bench.sensing.deafness.deaf)
    bench.sensing.apply(None if source == "no" else Resets("em1", source), bench.tools, bench.monitors, "")
    assert "deaf?" not in bench.sensing.summary() and not bench.sensing.deafness.deaf
    for _ in range(3):
        kernel.client()
        kernel.refused(bench.monitors[0])
    bench.turns(0.3)
    assert not bench.sensing.deafness.deaf
