"""A start says nothing of what is as it was, however late the tools answer; and what is not, it says once."""

from __future__ import annotations

import json
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.sandbox import tool_words
from support import TESTS
from support.gateway import PATIENCE, free_port, wait
from support.operated_gateway import A, B, C, OperatedGateway
from support.sandbox_tools import Sandbox

D = "127.0.0.14"
MEMBERS = f"web1: {A}, web2: {B}, gone: {C}, out: 127.0.0.15, sorry: {{address: {D}, fallback: yes}}"
STATES = {"web1": "up", "web2": "up", "gone": "down", "out": "disabled (up)", "sorry": "up"}


class Restarted(OperatedGateway):
    """Members that are up, one that is down, one that is disabled, a fallback that stands by: known for long."""

    def __init__(self, kernel: Sandbox, directory: Path) -> None:
        super().__init__(kernel, directory)
        self.sorry, self.out = self.web(D, self.inside), self.web("127.0.0.15", self.inside)
        self.told, self.faults = directory / "told", directory / "faults"
        self.state = directory / "state.json"
        self.notify = self.script("notify", f'echo "$1 $2" >> {self.told}')
        self.told.write_text("")

    def script(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    def slow(self, seconds: float) -> str:
        """Tools that take their time, as the configuration names them."""
        words = tool_words(self.kernel.path)
        return "\n".join(f"{tool}: " + str(self.script(tool, f'sleep {seconds}; exec {" ".join(words[tool])} "$@"'))
                         for tool in ("ipnat", "ipf"))

    def faulty(self, faults: str) -> str:
        """An ipnat that misbehaves, when it lists, before it works."""
        self.faults.write_text(faults)
        words = " ".join(tool_words(self.kernel.path)["ipnat"])
        text = f'[ "$1" = -l ] || exec {words} "$@"\nexec {sys.executable} {TESTS}/support/faulty_tool.py ' \
               f'{self.faults} {words} "$@"'
        return f"ipnat: {self.script('ipnat', text)}"

    def prepare(self, ipfilter: str = "", timeout: str = "60s", more: str = "") -> None:
        self.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {self.port}, member_port: {self.inside}, "
                       f"check: tcp}}}}, members: {{{MEMBERS}}}{more}}}", top=f"notify: {self.notify}",
                       ipfilter=f"{ipfilter}\ntimeout: {timeout}",
                       defaults="{interval: 2s, timeout: 2s, rise: 2, fall: 2, fast_interval: 2s}")

    def live(self) -> None:
        """A first life, from which rules and a state file remain, in which everything is a while ago."""
        self.prepare()
        self.start()
        self.wait_targets(A, B, "127.0.0.15")
        self.ctl("disable", "out")
        self.wait_targets(A, B)
        wait("all checked", lambda: self.states() == STATES)
        self.stop()
        state = json.loads(self.state.read_text())
        for entry in state["endpoints"].values():
            entry[1] -= 1000
        state["disabled"] = {name: when - 1000 for name, when in state["disabled"].items()}
        self.state.write_text(json.dumps(state))
        self.told.write_text("")
        self.log.write_text("")

    def settled(self) -> bool:
        return self.states() == STATES and all(row["code"] for row in self.rows("show"))

    def ages(self) -> dict[str, float]:
        return {row["endpoint"].rpartition("/")[2]: row["seconds"] for row in self.rows("show")}


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Restarted]:
    kernel.ipnat("-FC")
    it = Restarted(kernel, tmp_path)
    yield it
    it.close()


@pytest.mark.parametrize("tools", ["0", "0.05", "0.3", "3", "fail", "cut"])
def test_nothing_is_told_of_what_is_as_it_was(gateway: Restarted, tools: str) -> None:
    gateway.live()
    gateway.prepare(gateway.faulty(f"{tools}\n" * 2) if tools.isalpha() else gateway.slow(float(tools)))
    gateway.start()
    gateway.wait_log("2 rules of ours are in the kernel already: adopted")
    wait("all checked", gateway.settled)
    assert all(seconds > 900 for seconds in gateway.ages().values()), gateway.ages()
    gateway.stop()
    assert gateway.told.read_text() == ""
    assert not gateway.lines("(up|down) -> "), "those that the kernel does not speak for are lines at most"
    assert not gateway.lines("/web[12] .*->")
    assert all(up for name, (up, _) in json.loads(gateway.state.read_text())["endpoints"].items()
               if not name.endswith("gone"))


def test_an_end_before_the_table_was_read_forgets_nothing(gateway: Restarted) -> None:
    gateway.live()
    before = json.loads(gateway.state.read_text())["endpoints"]
    gateway.prepare(gateway.faulty("hang"))
    gateway.start()
    gateway.stop()
    after = json.loads(gateway.state.read_text())["endpoints"]
    assert after.keys() == before.keys()
    assert all(abs(after[name][1] - before[name][1]) < 1 and after[name][0] == before[name][0] for name in before
               if "web" in name)


def test_what_has_changed_meanwhile_is_told_once_the_table_is_read(gateway: Restarted) -> None:
    gateway.live()
    gateway.one.stop()
    gateway.prepare(gateway.slow(1.5))
    gateway.start()
    gateway.wait_log(f"^www/http/web1 {A}:{gateway.inside} up -> down: L4CON connection refused .*; 1 of 4 up$")
    gateway.wait_targets(B)
    gateway.wait_log("www/http/gone .* unknown -> down")
    wait("the program", gateway.told.read_text)
    gateway.stop()
    assert gateway.told.read_text() == "down www/http/web1\n"


def test_a_rule_that_is_gone_is_news(gateway: Restarted) -> None:
    """After a reboot, say: its clients were refused until now."""
    gateway.live()
    gateway.kernel.remove(next(line for line in gateway.rules() if B in line))
    gateway.prepare(gateway.slow(1.5))
    gateway.start()
    gateway.wait_log(f"^www/http/web2 {B}:{gateway.inside} unknown -> up: L4OK connected .*; 2 of 4 up$")
    wait("all checked", gateway.settled)
    ages = gateway.ages()
    wait("the program", gateway.told.read_text)
    gateway.stop()
    assert gateway.told.read_text() == "up www/http/web2\n"
    assert ages["web2"] < 900 < ages["web1"]


def test_tools_that_hang_do_not_hold_the_news_for_ever(gateway: Restarted) -> None:
    gateway.prepare(gateway.faulty("hang\n" * 50), "500ms")
    gateway.start()
    gateway.wait_log("ipnat: did not end within")
    gateway.wait_log("web1 .* unknown -> up")
    wait("the program", lambda: "up www/http/web1" in gateway.told.read_text())
    assert gateway.targets() == []


def test_tools_that_hang_once_and_then_say_that_all_is_as_it_was(gateway: Restarted) -> None:
    gateway.live()
    gateway.prepare(gateway.faulty("hang\n" * 2), "700ms")
    gateway.start()
    gateway.wait_log("2 rules of ours are in the kernel already: adopted")
    wait("all checked", gateway.settled)
    assert all(seconds > 900 for seconds in gateway.ages().values()), gateway.ages()
    gateway.stop()
    assert gateway.told.read_text() == ""


def test_who_was_never_checked_is_unknown(gateway: Restarted) -> None:
    """In the log, the table, JSON, and for programs."""
    gateway.notify.write_text(f'#!/bin/sh\necho "$1 $2 $L4IP_STATE" >> {gateway.told}\n')
    check = gateway.script("check", "exit 0")
    gateway.configure(f"www: {{address: 127.0.0.1, services: {{http: {{port: {gateway.port}, check: {{type: exec, "
                      f"command: [{check}], user: root}}}}}}, members: {{web1: {A}}}}}",
                      top=f"notify: {gateway.notify}")
    check.write_text("#!/nonexistent/interpreter\n")
    gateway.start()
    gateway.wait_log("www/http/web1 .* LOCAL .*; its state stays unknown")
    assert gateway.states() == {"web1": "unknown"}
    gateway.ctl("disable", "web1")
    gateway.wait_log("www/http/web1 .* unknown -> disabled: by the operator")
    assert gateway.states() == {"web1": "disabled (unknown)"}
    gateway.ctl("enable", "web1")
    assert gateway.states() == {"web1": "unknown"}
    check.write_text("#!/bin/sh\nexit 0\n")
    gateway.wait_log("www/http/web1 .* enabled -> up: PROCOK")
    wait("the program", lambda: "up www/http/web1 up" in gateway.told.read_text())
    assert "disabled www/http/web1 disabled (unknown)" in gateway.told.read_text()
    gateway.stop()


@pytest.mark.parametrize("tools", ["0", "1.5"])
def test_last_rules_that_were_kept_make_nobody_up(gateway: Restarted, tools: str) -> None:
    """when_all_down: keep, and all of them are still dead."""
    gateway.prepare(more=", when_all_down: keep")
    gateway.start()
    gateway.wait_targets(A, B, "127.0.0.15")
    gateway.ctl("disable", "out")
    for web in (gateway.sorry, gateway.one, gateway.two):
        web.stop()
    gateway.wait_log("^www/http: no member is up; its last rules stay")
    kept = gateway.rules()
    assert kept
    gateway.stop()
    gateway.told.write_text("")
    gateway.prepare(gateway.slow(float(tools)), more=", when_all_down: keep")
    gateway.start()
    gateway.wait_log("^www/http: no member is up; its last rules stay", 2)
    states = {"web1": "down", "web2": "down", "gone": "down", "out": "disabled (up)", "sorry": "down"}
    wait("all checked", lambda: gateway.states() == states)
    assert gateway.rules() == kept
    gateway.one.start()
    gateway.wait_targets(A)
    wait("the program", lambda: "\nready www" in gateway.told.read_text())
    gateway.stop()
    assert gateway.told.read_text() == "unready www\nup www/http/web1\nready www\n"


@pytest.mark.parametrize("when", [-1e300, -1.0, 1e300, 4e9])
def test_times_that_cannot_be_are_not_known(gateway: Restarted, when: float) -> None:
    gateway.live()
    state = json.loads(gateway.state.read_text())
    for entry in state["endpoints"].values():
        entry[1] = when
    state["disabled"] = dict.fromkeys(state["disabled"], when)
    gateway.state.write_text(json.dumps(state))
    port = free_port()
    gateway.prepare()
    gateway.config.write_text(f"http: 127.0.0.1:{port}\n{gateway.config.read_text()}")
    gateway.start()
    wait("all checked", gateway.settled)
    assert all(0 <= seconds < 600 for seconds in gateway.ages().values())
    for path, end in (("/", b"</html>"), ("/metrics", b"\n"), ("/status.json", b"}")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=PATIENCE) as answer:
            text = answer.read().rstrip(b" ")
        assert b"www" in text and text.rstrip().endswith(end.strip()), path
    gateway.stop()
    assert gateway.told.read_text() == "" and not gateway.lines("internal error")
