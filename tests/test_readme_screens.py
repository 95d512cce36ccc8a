"""The gateway of the README is built here, on loopback, and its screens, log and remedies are what there is."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.control import client
from l4ipd.main import parser as daemon_parser
from l4ipd.sandbox import tool_words
from support import ROOT
from support.downloads import member_of
from support.gateway import PATIENCE, free_port, wait
from support.operated_gateway import OperatedGateway
from support.readme import blocks, pasted, plain, screens, section
from support.sandbox_tools import Lab, Sandbox, sandbox

STEPS, LOG, TROUBLE = "A gateway, step by step", "The log of a failover, line by line", "What to do when"
FILTER = "Filter and map rules that go with it"
TITLE = "l4ip: server load balancing on an IPFilter gateway"
REFUSED = "www/http/web2 .* up -> down: "


def configuration() -> str:
    """The one that is printed in full."""
    found = [lines for lines in blocks(STEPS) if lines[0].startswith("ipfilter:")]
    assert len(found) == 1
    return "\n".join(found[0]) + "\n"


class PrintedGateway(OperatedGateway):
    """It, with the addresses and ports of loopback, and probes that do not take long to be sure."""

    def __init__(self, kernel: Sandbox, directory: Path) -> None:
        super().__init__(kernel, directory)
        self.web("127.0.0.13", self.inside)
        tools = "".join(f", {name}: [{', '.join(words)}]" for name, words in tool_words(kernel.path).items())
        text = configuration()
        for there, here in (("interface: em0", f"interface: lo0, resync: 300ms{tools}"), ("em1", "lo0"),
                            ("interval: 2s", "fast_interval: 200ms, down_interval: 1s, interval: 2s"),
                            ("port: 80\n", f"port: {self.port}\n"), ("8080", str(self.inside)),
                            ("203.0.113.10", "127.0.0.1"), ("10.0.0.", "127.0.0.")):
            assert there in text, there
            text = text.replace(there, here)
        self.config.write_text(f"pidfile: {self.pidfile}\ncontrol: {self.socket}\nstate: {directory}/state.json\n"
                               f"{text}")

    def begin(self) -> None:
        self.start()
        self.wait_targets("127.0.0.11", "127.0.0.12", "127.0.0.13")
        self.wait_log("resets of clients' connections are sensed")

    def as_printed(self, text: str) -> str:
        """With the addresses of the README."""
        text = re.sub(r"127\.0\.0\.(11|12|13)", r"10.0.0.\1", text).replace("127.0.0.9", "10.0.0.9")
        text = text.replace("127.0.0.1/32", "203.0.113.10/32").replace(" lo0 ", " em0 ")
        return re.sub(rf"(?<=[ :]){self.port}\b", "80", re.sub(rf"(?<=[ :]){self.inside}\b", "8080", text))

    def refuse(self) -> None:
        """web2's service ends, and a client is the first to notice; again, where a probe was quicker."""
        self.webs[1].stop()
        count = len(self.lines(REFUSED))

        def out() -> bool:
            with contextlib.suppress(OSError):
                member_of("127.0.0.1", self.port)
            return len(self.lines(REFUSED)) > count

        wait("web2 is out", out)
        if "RST" not in self.lines(REFUSED)[-1]:
            self.restart()
            self.refuse()

    def restart(self) -> None:
        count = len(self.lines("web2 .* down -> up"))
        self.webs[1].start()
        self.wait_log("web2 .* down -> up", count + 1)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[PrintedGateway]:
    with sandbox("--ipfilter", "5.1.2") as kernel:     # FreeBSD's words
        it = PrintedGateway(kernel, tmp_path)
        yield it
        it.close()


def without_times(text: str) -> str:
    return re.sub(r"\d+ ms", "N ms", text)


def test_one_member_down_and_the_log_of_a_failover(gateway: PrintedGateway) -> None:
    gateway.begin()
    gateway.refuse()
    (command, shown), = screens(TITLE).items()
    assert len(shown) == 7, "it is eight lines, the command included"
    wait("the rule is gone", lambda: gateway.targets() == ["127.0.0.11", "127.0.0.13"])
    wait("its look", lambda: all(words in gateway.ctl(*command.split()[1:])[1] for words in ("2 of 3", "NAT table")))
    really = gateway.as_printed(gateway.ctl(*command.split()[1:])[1]).splitlines()
    assert list(map(plain, really)) == list(map(plain, shown))
    assert really[4].split(";")[:2] == shown[4].split(";")[:2], "to the number: who is up, what is loaded"
    gateway.restart()
    for place in (2, 0, 1):
        gateway.webs[place].status = 503
        gateway.wait_log(f"web{place + 1} .* up -> down: L7STS")
    gateway.wait_log("www ready -> unready")
    printed = [line for lines in blocks(LOG) for line in lines]
    assert len(printed) == 7
    log = iter(without_times(gateway.as_printed(gateway.text())).splitlines())
    for line in printed:                            # each of them, in this order
        assert without_times(line) in log, f"{line}\nis not in\n{gateway.text()}"


def test_the_configuration_leads_to_the_rules_that_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "l4ip.conf"
    path.write_text(configuration())
    done = subprocess.run([sys.executable, "-m", "l4ipd", "-n", "-c", str(path)], capture_output=True, text=True,
                          cwd=ROOT, timeout=PATIENCE)
    assert done.returncode == 0 and done.stdout.splitlines() == screens(STEPS)["l4ipd -n"]


def test_trouble_is_shown_as_it_is_told(gateway: PrintedGateway) -> None:
    """IPFilter that is disabled, a rule of somebody else's, and every other command that is to be typed."""
    gateway.kernel.ipnat("-f", "-", stdin=f"rdr lo0 127.0.0.1/32 port {gateway.port} -> 127.0.0.9 port 81 tcp\n")
    gateway.begin()
    shown = list(screens(TROUBLE).values())
    assert len(shown) == 2
    disabled, foreign = shown
    really = gateway.as_printed(gateway.ctl("rules")[1]).splitlines()
    assert [" ".join(line.split()) for line in really] == [" ".join(line.split()) for line in foreign]
    for lines in pasted(TROUBLE):
        for line in lines:
            program, *words = line.split()
            if program == "l4ipctl":
                status, _, err = gateway.ctl(*words)
                assert status == 0, (line, err)
            elif program == "l4ipd":
                assert gateway.run(*words).returncode == 0
            elif program == "ipfstat":
                assert gateway.kernel.run("ipfstat", *words).status == 0
            else:
                assert program in ("sysrc", "pgrep"), "who runs it?"
    gateway.kernel.run("ipf", "-D")
    assert gateway.ctl("rules")[2].splitlines() == disabled
    gateway.kernel.run("ipf", "-E")
    assert "back within five" in section(TROUBLE)
    gateway.wait_targets("127.0.0.11", "127.0.0.12", "127.0.0.13")


def test_what_is_quoted_of_messages_is_said() -> None:
    sources = " ".join(path.read_text() for path in (ROOT / "l4ipd").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)
    quoted = [words for words in re.findall(r'"([^"$]{8,60})"', " ".join(section(TROUBLE).split()))
              if words[0].islower() and " " in words]
    assert len(quoted) >= 4
    assert [words for words in quoted if words not in joined] == []


def test_the_filter_and_map_rules_are_understood() -> None:
    """By the IPFilter of FreeBSD; and each is listed as it was given."""
    lab = Lab("5.1.2")
    for lines in blocks(FILTER):
        feed = lab.ipnat if lines[0].startswith("map") else lab.ipf
        done = feed("-f", "-", stdin="\n".join(lines) + "\n")
        assert (done.status, done.stderr) == (0, ""), lines
    assert len(lab.listed()) == 3 and all(line.startswith("map em") for line in lab.listed())
    assert len(lab.ipfstat("-io").stdout.splitlines()) == 4


def test_removing_the_rules_as_is_told(gateway: PrintedGateway) -> None:
    """on_stop: remove, a reload and a stop leave nothing in the kernel."""
    assert "on_stop: remove" in section("Upgrade and uninstall")
    gateway.begin()
    text = gateway.config.read_text()
    gateway.config.write_text(text.replace("resync: 300ms", "resync: 300ms, on_stop: remove"))
    assert gateway.ctl("reload")[0] == 0
    assert gateway.stop() == 0 and gateway.rules() == []


def test_a_rehearsal_as_it_is_told(tmp_path: Path) -> None:
    """The daemon with its sandbox; its log names the socket, beside which the sandbox's own lies."""
    (start,), then = pasted("Rehearse a configuration")
    text = configuration().replace("port: 80\n", f"port: {free_port()}\n").replace("203.0.113.10", "127.0.0.1")
    (tmp_path / "my.conf").write_text(f"pidfile: {tmp_path}/pid\nstate: {tmp_path}/state\n"
                                      + text.replace("10.0.0.", "127.0.0.").replace("em0", "lo0").replace("em1", "lo0"))
    log = tmp_path / "log"
    with log.open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "l4ipd", *start.split()[1:]], stderr=err, cwd=tmp_path,
                                   env={"PYTHONPATH": str(ROOT)})
    try:
        wait("its start", lambda: "l4ipctl -s" in log.read_text() and " up: L4" in log.read_text()
             or " down: L4" in log.read_text())
        found = re.search(r"-s (/\S+)/l4ip.sock\)", log.read_text())
        assert found is not None
        for line in then:
            program, *words = line.replace("/tmp/l4ip-XXXXXXXX", found[1]).split()
            module = ["-m", "l4ipd.control.client"] if program == "l4ipctl" else []
            done = subprocess.run([sys.executable, *module, *words], cwd=ROOT, timeout=PATIENCE, capture_output=True)
            assert done.returncode in (0, 1) and done.stdout and not done.stderr, (line, done)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def test_every_command_that_is_shown_is_understood() -> None:
    text = (ROOT / "README").read_text()
    known = {"l4ipctl": client.parser(), "l4ipd": daemon_parser()}
    found = 0
    for line in re.findall(r"^    (?:\$ )?(l4ip.*)", text, re.MULTILINE):
        for part in re.split(r" && | ;", line):
            program, *words = re.split(r"\s{2,}", part)[0].split()
            if program in known and "XXXX" not in part:
                known[program].parse_args(words)
                found += 1
    assert found >= 12
