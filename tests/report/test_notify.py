"""The notify program: real programs, their order, their environment, and those that hang, fail, or are missing."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from l4ipd.checks.verdict import Verdict
from l4ipd.config.parse import parse
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.report import notify
from l4ipd.report.notify import Notifier
from l4ipd.runtime.loop import Loop
from support import ROOT
from support.sensing_bench import runs

CONFIG = """
ipfilter: {interface: lo0, ipnat: /nonexistent/ipnat}
clusters:
  www:
    address: [192.0.2.1, 192.0.2.2]
    services: {http: {port: 80, member_port: 9}}
    members: {web1: 127.0.0.1, web2: 127.0.0.2}
"""
REPORT = """
import json, os, sys
with open(sys.argv[1], "a") as file:
    json.dump([sys.argv[2:], {name: text for name, text in os.environ.items() if name.startswith("L4IP_")}], file)
    file.write("\\n")
"""


class Office:
    """A daemon that never starts, and the notifier under test."""

    def __init__(self, directory: Path) -> None:
        self.loop = Loop()
        self.daemon = Daemon(self.loop, parse(CONFIG, "conf"), 10)
        self.daemon.apply(parse(CONFIG, "conf"))
        for monitor in self.daemon.fleet.monitors.values():
            monitor.stop()
        self.directory, self.told = directory, directory / "told"
        self.notifier = Notifier(self.loop, self.daemon)
        self.use(sys.executable, "-c", REPORT, str(self.told))
        self._tick()

    def _tick(self) -> None:
        self.loop.later(0.005, self._tick)

    def use(self, *words: str) -> None:
        """As a configuration says it."""
        self.daemon.config = replace(self.daemon.config, notify=words)
        self.notifier.use(words)

    def script(self, text: str) -> str:
        """A program."""
        path = self.directory / "program"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return str(path)

    def hear(self, kind: str, name: str = "", text: str = "") -> None:
        self.notifier.heard(Event(kind, name, text))

    def until(self, condition: Callable[[], object]) -> None:
        end = self.loop.clock() + 20
        while not condition():
            assert self.loop.clock() < end, "it never happened"
            self.loop.turn()

    def finish(self) -> None:
        self.until(lambda: self.notifier._child is None)

    @property
    def reports(self) -> list[tuple[list[str], dict[str, str]]]:
        lines = self.told.read_text().splitlines() if self.told.exists() else []
        return [(words, facts) for words, facts in map(json.loads, lines)]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    it = Office(tmp_path)
    yield it
    it.loop.close()


def test_a_transition(office: Office) -> None:
    monitor = office.daemon.fleet.monitors["www/http/web1"]
    monitor.score(Verdict("L7OK", "200"), 0.0)
    office.hear("up", "www/http/web1", "www/http/web1 127.0.0.1:9 down -> up: L7OK 200; 1 of 2 up")
    office.finish()
    (words, facts), = office.reports
    when = float(facts.pop("L4IP_TIME"))
    assert abs(when - os.stat(office.told).st_mtime) < 60
    assert words == ["up", "www/http/web1", "www/http/web1 127.0.0.1:9 down -> up: L7OK 200; 1 of 2 up"]
    assert facts == {
        "L4IP_EVENT": "up", "L4IP_NAME": "www/http/web1", "L4IP_TEXT": words[2], "L4IP_CLUSTER": "www",
        "L4IP_SERVICE": "http", "L4IP_MEMBER": "web1", "L4IP_VIP": "192.0.2.1 192.0.2.2", "L4IP_ADDRESS": "127.0.0.1",
        "L4IP_PORT": "9", "L4IP_STATE": "up", "L4IP_CODE": "L7OK", "L4IP_REASON": "L7OK 200", "L4IP_UP": "1",
        "L4IP_TOTAL": "2"}


@pytest.mark.parametrize("kind, name, cluster, service, total", [
    ("all-down", "www/http", "www", "http", "2"), ("repaired", "", "", "", ""), ("reload-failed", "", "", "", ""),
    ("sensing-lost", "", "", "", ""), ("disabled", "gone/http/web1", "gone", "http", "")])
def test_events_that_are_about_no_endpoint(office: Office, kind: str, name: str, cluster: str, service: str,
                                           total: str) -> None:
    office.hear(kind, name, "text")
    office.finish()
    (words, facts), = office.reports
    assert words == [kind, name, "text"]
    assert (facts["L4IP_CLUSTER"], facts["L4IP_SERVICE"], facts["L4IP_TOTAL"]) == (cluster, service, total)
    assert facts["L4IP_ADDRESS"] == facts["L4IP_STATE"] == facts["L4IP_CODE"] == ""


def test_every_variable_is_documented_and_exists_always(office: Office) -> None:
    office.hear("reloaded")
    office.finish()
    assert {name for name in notify.__doc__.replace("``", " ").split() if name.startswith("L4IP_")} == {
        "L4IP_*"} ^ {"L4IP_*"} | set(office.reports[0][1])


def test_one_at_a_time_and_in_order(office: Office) -> None:
    office.use(office.script(f"echo start $2 >> {office.told}; sleep 0.02; echo end $2 >> {office.told}"))
    for number in range(10):
        office.hear("up", f"www/http/web{number}")
    office.finish()
    assert office.told.read_text().split() == [
        word for number in range(10) for word in ("start", f"www/http/web{number}", "end", f"www/http/web{number}")]


def test_what_was_true_when_it_happened(office: Office) -> None:
    monitor = office.daemon.fleet.monitors["www/http/web1"]
    office.hear("reloaded")                         # runs while the others wait
    office.hear("down", "www/http/web1")
    monitor.score(Verdict("L7OK", "200"), 0.0)
    office.hear("up", "www/http/web1")
    office.finish()
    assert [facts["L4IP_UP"] for _, facts in office.reports] == ["", "0", "1"]


def test_nasty_text(office: Office) -> None:
    office.hear("down", "www/http/web1", "a\0b\nc\x1b[31m é \udcff $(reboot) `reboot` " + "x" * 10000)
    office.finish()
    words, facts = office.reports[0]
    assert words[2].startswith(r"a\x00b\x0ac\x1b[31m \xe9 \xdcff $(reboot) `reboot` xxx") and len(words[2]) < 2000
    assert facts["L4IP_TEXT"] == words[2]


def test_failures_are_logged_and_cost_nothing_else(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    program = office.script('echo "$1" >&2; case $1 in down) exit 3 ;; up) kill -9 $$ ;; esac')
    office.use(program)
    for kind in ("down", "up", "reloaded"):
        office.hear(kind)
    office.finish()
    assert f"notify: {program} down : exit status 3: down" in caplog.text
    assert f"notify: {program} up : was killed by signal 9: up" in caplog.text
    assert "reloaded" not in caplog.text
    assert (office.notifier.runs, office.notifier.failures) == (3, 2)


def test_a_program_that_is_missing(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    office.use("/nonexistent/program")
    office.hear("up")
    office.hear("down")
    office.finish()
    assert caplog.text.count("/nonexistent/program: no such program") == 2


def test_a_program_that_hangs_is_killed_with_its_children(office: Office, caplog: pytest.LogCaptureFixture,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    program, file = office.script(f"sleep 600 & echo $! > {office.directory}/child; wait"), office.directory / "child"
    for limit in (0.2, 2.0, 20.0):                  # a slow machine needs more to start it
        monkeypatch.setattr(notify, "TIME_LIMIT", limit)
        office.use(program)
        office.hear("up")
        caplog.clear()
        office.until(lambda: "did not end within" in caplog.text)
        if file.exists() and file.read_text():
            break
    child = int(file.read_text())
    office.until(lambda: not runs(child))
    office.use(sys.executable, "-c", REPORT, str(office.told))
    office.hear("down")
    office.finish()
    assert office.reports[0][0][0] == "down", "the queue goes on"


def test_the_queue_is_bounded(office: Office, caplog: pytest.LogCaptureFixture,
                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notify, "QUEUE_LIMIT", 3)
    caplog.set_level(logging.INFO)
    for number in range(10):
        office.hear("up", str(number))
    office.finish()
    assert [words[1] for words, _ in office.reports] == ["0", "7", "8", "9"], "the newest matter most"
    assert caplog.text.count("is too slow") == 1 and "6 events were dropped" in caplog.text


def test_without_a_program_nothing_runs(office: Office) -> None:
    office.use()
    office.hear("up")
    assert office.notifier._child is None and not office.notifier._queue


def test_at_the_end_nothing_more_is_run(office: Office, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        office.hear("up", str(number))
    office.notifier.stop()
    office.finish()
    assert [words[1] for words, _ in office.reports] == ["0"]
    assert "2 events were not reported" in caplog.text


# -- the examples

def example(name: str, facts: dict[str, str], *words: str, **more: str) -> None:
    done = subprocess.run(["sh", str(ROOT / "etc" / name), *words], capture_output=True, text=True,
                          env={"PATH": os.environ["PATH"], **facts, **more})
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_carp_example(office: Office) -> None:
    sysctl = office.script(f'echo "$@" >> {office.directory}/sysctl')
    events = []
    for kind, name in (("down", "www/http/web1"), ("unready", "www"), ("all-down", "www/http"), ("unready", "www"),
                       ("up", "www/http/web1"), ("ready", "www"), ("ready", "www")):
        events.append(notify.describe(office.daemon, Event(kind, name, "text")))
    for facts in events:
        example("notify-carp.sample", facts, facts["L4IP_EVENT"], facts["L4IP_NAME"], "text", SYSCTL=sysctl,
                MARKERS=str(office.directory / "markers"))
    assert (office.directory / "sysctl").read_text().splitlines() == [
        "net.inet.carp.demotion=240", "net.inet.carp.demotion=-240"]


def test_the_mail_example(office: Office) -> None:
    shutil.copy(office.script(f'echo "$@" >> {office.directory}/mail; cat >> {office.directory}/mail'),
                office.directory / "mail-program")
    (office.directory / "bin").mkdir()
    (office.directory / "mail-program").rename(office.directory / "bin" / "mail")
    path = f"{office.directory}/bin:{os.environ['PATH']}"
    office.daemon.fleet.monitors["www/http/web1"].score(Verdict("L4CON", "connection refused"), 0.0)
    facts = notify.describe(office.daemon, Event("down", "www/http/web1", "the line of the log"))
    example("notify-mail.sample", facts, "admin@example.com", "down", "www/http/web1", "the line of the log", PATH=path)
    text = (office.directory / "mail").read_text()
    assert "www/http/web1 down admin@example.com\n" in text and "the line of the log\n" in text
    assert "address:  127.0.0.1" in text and "members:  0 of 2 up" in text
    facts = notify.describe(office.daemon, Event("disabled", "www/http/web1", "x"))
    example("notify-mail.sample", facts, "admin@example.com", "disabled", "www/http/web1", "x", PATH=path)
    assert (office.directory / "mail").read_text() == text, "who disables knows it"


def test_what_a_reload_says_holds_for_what_comes_after(office: Office) -> None:
    """Whoever is called for the reload itself is the program of before."""
    office.daemon.config = replace(office.daemon.config, notify=())
    office.hear("reloaded")
    office.hear("down")
    office.finish()
    assert [words[0] for words, _ in office.reports] == ["reloaded"]
    office.daemon.config = replace(office.daemon.config, notify=(office.script("exit 0"),))
    office.hear("reloaded")
    assert office.notifier.words == office.daemon.config.notify and office.notifier.runs == 1
