"""Files that cannot be read at once do not stop the reloads that come after."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from l4ipd import reload
from l4ipd.config import files
from l4ipd.daemon import Daemon
from l4ipd.runtime import regular_file
from l4ipd.runtime.loop import Loop
from support.gateway import Gateway, free_port, wait
from support.members import PATIENCE
from support.sandbox_tools import Sandbox

CONFIG = """
ipfilter: {interface: lo0, ipnat: /nonexistent/ipnat}
clusters:
  www:
    address: 192.0.2.1
    services: {http: {port: 80, member_port: 9}}
    members: {%s: 127.0.0.1}
"""


class Office:
    """A daemon that never starts, its reloader, and a server of files that answers or does not."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = directory / "l4ip.conf"
        self.write("m1")
        self.loop = Loop()
        self.daemon = Daemon(self.loop, files.load(str(self.file)), 10)
        self.events: list[str] = []
        self.daemon.events.listeners = [lambda event: self.events.append(event.kind)]
        self.reloader = reload.Reloader(self.daemon, str(self.file))
        self.answers: list[tuple[bool, list[str]]] = []
        self.server = threading.Event()
        self.server.set()
        self.arrived = 0
        read = regular_file.read

        def waits(path: str, limit: int) -> bytes:
            text, server = read(path, limit), self.server
            server.wait()
            self.arrived += 1
            return text

        monkeypatch.setattr(regular_file, "read", waits)
        monkeypatch.setattr(reload, "PATIENCE", 0.2)
        self._tick()

    def _tick(self) -> None:
        self.loop.later(0.005, self._tick)

    def write(self, member: str) -> None:
        self.file.write_text(CONFIG % member)

    def until(self, condition: Callable[[], object]) -> None:
        end = self.loop.clock() + PATIENCE
        while not condition():
            assert self.loop.clock() < end, "it never happened"
            self.loop.turn()

    def reload(self) -> tuple[bool, list[str]]:
        self.answers.clear()
        self.reloader(lambda good, lines: self.answers.append((good, lines)))
        self.until(lambda: self.answers)
        return self.answers[0]

    @property
    def names(self) -> list[str]:
        return list(self.daemon.fleet.monitors)


@pytest.fixture
def office(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Office]:
    it = Office(tmp_path, monkeypatch)
    yield it
    it.server.set()
    for monitor in it.daemon.fleet.monitors.values():
        monitor.stop()
    it.loop.close()


def test_a_reading_that_does_not_end_is_given_up_and_does_not_count_later(office: Office) -> None:
    hung = office.server
    hung.clear()
    office.write("m2")
    good, lines = office.reload()
    assert not good and "was not read within" in lines[0] and "lie on a server that does not answer?" in lines[0]
    assert office.events == ["reload-failed"] and not office.names
    office.server = threading.Event()
    office.server.set()
    office.write("m3")
    assert office.reload()[0] and office.names == ["www/http/m3"]
    hung.set()
    office.until(lambda: office.arrived == 2)
    for _ in range(5):
        office.loop.turn()
    assert office.names == ["www/http/m3"] and office.events == ["reload-failed", "reloaded"]


def test_not_too_many_wait_for_ever(office: Office) -> None:
    hung = office.server
    hung.clear()
    for _ in range(reload.STUCK):
        assert "was not read within" in office.reload()[1][0]
    threads = threading.active_count()
    good, lines = office.reload()
    assert not good and "4 readings of it have not ended yet" in lines[0] and threading.active_count() == threads
    hung.set()
    office.until(lambda: office.arrived == reload.STUCK)
    office.until(lambda: office.reload()[0])
    assert office.names == ["www/http/m1"]


def test_who_asks_meanwhile_is_served_by_the_next_reading(office: Office) -> None:
    office.server.clear()
    told: list[str] = []
    office.reloader(lambda good, lines: told.append(f"first {good}"))
    office.reloader(lambda good, lines: told.append(f"second {good}"))
    office.until(lambda: told)
    office.server.set()
    office.until(lambda: len(told) == 2)
    assert told[0] == "first False" and told[1] in ("second True", "second False")
    assert office.reload()[0]


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()
    for line in [each for each in it.kernel.ipnat("-l").rules if "tag l4ip" in each]:
        it.kernel.remove(line)


def test_verify_that_names_a_pipe(gateway: Gateway) -> None:
    inside = free_port()
    gateway.web("127.0.0.1", inside)
    pipe = gateway.directory / "ca.pem"
    os.mkfifo(pipe)
    good = f"www: {{address: 127.0.0.1, services: {{s: {{port: {free_port()}, member_port: {inside}, check: %s}}}}, " \
           "members: {m: 127.0.0.1}}"
    gateway.configure(good % f"{{type: https, verify: {pipe}}}")
    done = gateway.run("-n")
    assert done.returncode == 1 and f"{pipe}: is no regular file" in done.stderr
    gateway.configure(good % "tcp")
    gateway.start()
    gateway.configure(good % f"{{type: https, verify: {pipe}}}")
    gateway.send(signal.SIGHUP)
    gateway.wait_log(f"{pipe}: is no regular file")
    gateway.configure(good % "http")
    gateway.send(signal.SIGHUP)
    gateway.wait_log("configuration reloaded: 1 endpoints: 0 new, 1 changed, 0 gone")
    wait("rule", lambda: gateway.targets() == ["127.0.0.1"])
