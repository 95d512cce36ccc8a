"""What the README and the manuals show to be pasted is pasted here: it makes a gateway, and destroys nothing.

The blocks of the README run in a shell, under a root of its own, where files are real and sysrc, service and whatever
else needs FreeBSD is a script that keeps what it was told.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from l4ipd.runtime.user_name import user_name
from support import ROOT
from support.downloads import VIP, Download, ShopGateway, Waiter, member_of
from support.gateway import wait
from support.readme import headings, pasted, plain, screens
from support.sandbox_tools import Sandbox

SHOWN = ["README", "man/l4ipd.8", "man/l4ipctl.8", "man/l4ip.conf.5", "man/l4ip-gateways.7",
         "tests/bench/README"]
#: what overwrites, removes or flushes, unless it is said otherwise
DESTROYS = re.compile(r"(?<![-=<>&])>(?![>=&])\s*[/\w$\"'](?!dev/null)"
                      r"|\b(cp|install)\b(?! -n\b)(?! (-y|(--upgrade )?\.|'\.))|\b(mv|rm|tee|truncate|dd)\b \S"
                      r"|\b(ipf|ipnat)\b -\w*[FCD]"
                      r"|\bservice ip(filter|nat|mon) (re|stop)")

STEPS = "A gateway, step by step"
ORDER = [STEPS, "The log of a failover, line by line", "Taking a machine out for maintenance", "What to do when",
         "Filter and map rules that go with it", "Upgrade and uninstall", "Benchmarks", "What was proven where"]

STAND_INS = {
    "sysrc": """
        [ "$1" != -qn -a "$1" != -n ] || { cat "$ROOT/rc/$2" 2> /dev/null; exit; }
        for word; do printf '%s\\n' "${word#*=}" > "$ROOT/rc/${word%%=*}"; done""",
    "ipf": """
        [ "$*" = -V ] || exit 2
        echo 'ipf: IP Filter: v5.1.2 (584)'
        [ -e "$ROOT/kernel" ] && echo 'Running: yes'""",
    "service": """
        case "$*" in
        "ipfilter start") [ -f "$ROOT/etc/ipf.rules" ] && cp "$ROOT/etc/ipf.rules" "$ROOT/kernel" ;;
        "ipnat start") [ -r "$ROOT/etc/ipnat.rules" ] && cp "$ROOT/etc/ipnat.rules" "$ROOT/nat" ;;
        esac""",
    "python3": 'cp "$SAMPLE" "$ROOT/usr/local/etc/l4ip.conf.sample"',
    **dict.fromkeys(("pgrep", "ipfstat", "sysctl", "ifconfig", "pkg", "vi", "l4ipd", "l4ipctl"), ""),
}


class System:
    """A FreeBSD of a few files. ``said``: every command that was given to a stand-in."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("etc", "usr/local/etc", "rc", "bin", "here"):
            (root / name).mkdir(parents=True)
        for name, script in STAND_INS.items():
            (root / "bin" / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "$ROOT/said"\n{script}\n')
            (root / "bin" / name).chmod(0o755)

    def paste(self, heading: str = STEPS) -> str:
        """Give the blocks to a shell, a line after the other whatever they say; returns what they said."""
        text = "\n".join(line for lines in pasted(heading) for line in lines)
        text = re.sub(r"(?<=\s)/(?=etc/|usr/local/)", f"{self.root}/", text)
        done = subprocess.run(["sh"], input=text, text=True, capture_output=True, cwd=self.root / "here",
                              env={**os.environ, "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                                   "ROOT": str(self.root), "SAMPLE": str(ROOT / "etc/l4ip.conf.sample")})
        assert done.stderr == ""
        return done.stdout

    def files(self) -> dict[str, str]:
        return {str(path.relative_to(self.root)): path.read_text() for path in self.root.rglob("*")
                if path.is_file() and path.parent.name != "bin"}

    def said(self) -> list[str]:
        return (self.root / "said").read_text().splitlines()


@pytest.fixture
def system(tmp_path: Path) -> System:
    return System(tmp_path / "root")


def test_the_blocks_makes_a_gateway(system: System) -> None:
    system.paste()
    files = system.files()
    sample = (ROOT / "etc/l4ip.conf.sample").read_text()
    assert files.pop("said").splitlines()[-2:] == ["service l4ip start", "l4ipctl show"]
    assert files == {
        "rc/gateway_enable": "YES\n", "rc/ipfilter_enable": "YES\n", "rc/ipnat_enable": "YES\n",
        "rc/l4ip_enable": "YES\n", "rc/ifconfig_em0_alias0": "inet 203.0.113.10/32\n",
        "etc/ipf.rules": "", "etc/ipnat.rules": "", "kernel": "", "nat": "",
        "usr/local/etc/l4ip.conf.sample": sample, "usr/local/etc/l4ip.conf": sample}
    assert {"sysctl net.inet.ip.forwarding=1", "ifconfig em0 inet 203.0.113.10/32 alias"} <= set(system.said())


def test_the_blocks_leaves_what_is_there(system: System) -> None:
    """A firewall, loaded and in its file, translations, an alias, a configuration of l4ip's."""
    mine = {"etc/ipf.rules": "block in all\n", "etc/ipnat.rules": "map em0 10.0.0.0/24 -> 0/32\n",
            "kernel": "block in all\npass in quick from 192.0.2.1\n",
            "nat": "rdr em0 0/0 port 22 -> 10.0.0.9 port 22\n",
            "rc/ifconfig_em0_alias0": "inet 192.0.2.7/32\n", "usr/local/etc/l4ip.conf": "clusters: {}\n"}
    for name, text in mine.items():
        (system.root / name).write_text(text)
    said = system.paste()
    files = system.files()
    assert {name: files[name] for name in mine} == mine
    assert "inet 192.0.2.7/32" in said                # so that the reader knows
    assert system.said()[-2:] == ["service l4ip start", "l4ipctl show"]


def test_the_blocks_twice_is_the_block_once(system: System) -> None:
    system.paste()
    once = system.files()
    system.paste()
    assert {**system.files(), "said": ""} == {**once, "said": ""}


def shown(name: str) -> list[str]:
    """The lines of a document that are set apart to be pasted."""
    text = (ROOT / name).read_text()
    if name.startswith("man/"):
        blocks = re.findall(r"^\.Bd -literal.*\n((?:(?!\.Ed).*\n)*)", text, re.MULTILINE)
        return re.findall(r"^\.Dl (.*)", text, re.MULTILINE) + [line for one in blocks for line in one.splitlines()]
    return re.findall(r"^    +(\S.*)", text, re.MULTILINE)


@pytest.mark.parametrize("name", SHOWN)
def test_nothing_shown_destroys(name: str) -> None:
    lines = shown(name)
    assert lines
    assert [line for line in lines if DESTROYS.search(line) and " -> " not in line and "-->" not in line] == []


@pytest.mark.parametrize("line, destroys", [
    ("touch /etc/ipnat.rules && echo 'pass in all' > /etc/ipf.rules", True),
    ("cp /usr/local/etc/l4ip.conf.sample /usr/local/etc/l4ip.conf", True),
    ("ipnat -CF -f /etc/ipnat.rules", True),
    ("ipf -Fa", True),
    ("service ipnat restart", True),
    ("cp -n a b", False),
    ("ipnat -l | grep -c '^RDR 10.0.0.11 '", False),
    ("echo x >> /etc/rc.conf", False),
    ("pip install . && l4ipd --demo", False),
])
def test_what_destroys_is_known(line: str, destroys: bool) -> None:
    assert bool(DESTROYS.search(line)) == destroys


@pytest.mark.parametrize("name", ["README", *(name for name in SHOWN if name.startswith("man/"))])
def test_no_command_has_a_comment_behind_it(name: str) -> None:
    """To csh, root's shell for long, these are more words of the command when they are typed."""
    programs = "|".join([*STAND_INS, "touch", "cp", "pip", "grep"])
    assert [line for line in shown(name) if re.match(rf"({programs})\b.*\s#", line)] == []


def test_upgrade_and_uninstall_leave_what_is_not_ours(system: System) -> None:
    system.paste()
    before = system.files()
    system.paste("Upgrade and uninstall")
    after = system.files()
    assert after.pop("said") != before.pop("said")
    assert after == {**before, "rc/l4ip_enable": "NO\n"}
    assert [line for line in system.said() if line.startswith("service l4ip")] == [
        "service l4ip start", "service l4ip restart", "service l4ip reload", "service l4ip stop"]
    assert system.said()[-1] == "python3 -m pip uninstall -y l4ip"


def test_what_to_do_when_changes_nothing(system: System) -> None:
    """These are commands that show."""
    system.paste()
    before = system.files()
    assert system.paste("What to do when") == ""
    assert {**system.files(), "said": ""} == {**before, "said": ""}


def test_what_asks_for_the_keyboard_ends_its_block() -> None:
    """What is pasted after it would be typed into it."""
    found = [(lines, line) for heading in headings() for lines in pasted(heading) for line in lines
             if re.search(r"\bvi\b|\bl4ipctl monitor\b|-d --sandbox|--demo", line)]
    assert len(found) >= 3
    assert [line for lines, line in found if line != lines[-1]] == []


def test_the_sections_come_in_the_order_in_which_they_are_needed() -> None:
    assert [name for name in headings() if name in ORDER] == ORDER


# -- taking a machine out

def test_taking_a_machine_out_is_as_the_screen_shows(kernel: Sandbox, tmp_path: Path) -> None:
    kernel.ipnat("-FC")
    node = ShopGateway(kernel, tmp_path)
    try:
        (disable, shown_first), (show, shown_then), (enable, shown_last) = [
            (command.split()[1:], shown) for command, shown in screens("Taking a machine out for maintenance").items()]
        node.begin()
        downloads = [Download(VIP, node.port) for _ in range(4)]
        waiter = Waiter(node, *disable)
        waiter.says("sessions left: 2")
        node.finish()
        for download in downloads:
            download.rest()
        node.forget_the_closed()
        assert waiter.end() == (0, "")
        assert waiter.out.read_text().splitlines() == shown_first
        member_of(VIP, node.port)
        wait("a connection", lambda: node.rows("show", "web2")[0]["connections"])
        really = node.ctl(*show)[1].replace(f"disabled by {user_name(os.geteuid())} since", "disabled by root since")
        assert list(map(plain, really.splitlines())) == list(map(plain, shown_then))
        assert node.ctl(*enable)[1].splitlines() == shown_last
    finally:
        node.finish()
        node.close()
