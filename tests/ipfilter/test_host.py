"""What l4ipd -n finds out about the machine, with stand-ins for the programs of others' systems."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from l4ipd.config.parse import parse
from l4ipd.ipfilter.host import shortcomings
from l4ipd.model import Config

LOOPBACK = next(name for _, name in socket.if_nameindex() if name.startswith("lo"))
WELL = {"freebsd14": {
    "sysctl": """case "$*" in
"-n security.jail.jailed security.jail.vnet") printf '0\\n0\\n' ;;
"-n kern.securelevel") echo -1 ;;
"-n net.inet.ip.forwarding" | "-n net.inet6.ip6.forwarding") echo 1 ;;
*) exit 1 ;;
esac""",
    "sysrc": 'for name; do case $name in ipmon_enable) echo NO ;; *_enable) echo YES ;; esac; done',
    "ipf": "echo 'Running: yes'", "ipnat": "printf '0\\ttable max reached in\\n'"}}
WELL["netbsd10"] = {**WELL["freebsd14"], "sysrc": "exit 1"}
WELL["sunos5"] = {"ipadm": "echo on", "svcs": "echo online", "ipf": WELL["freebsd14"]["ipf"],
                  "ipnat": WELL["freebsd14"]["ipnat"]}


def programs(directory: Path, found: dict[str, str]) -> None:
    """Programs of these texts, and none but those: whatever else this machine has answers nothing."""
    for name in {"sysctl", "sysrc", "ipf", "ipnat", "ipadm", "svcs", *found}:
        (directory / name).write_text(f"#!/bin/sh\n{found.get(name, 'exit 1')}\n")
        (directory / name).chmod(0o755)


def config(address: str = "127.0.0.1", interface: str = LOOPBACK, source: str = "") -> Config:
    resets = f"resets: {{interface: {interface}, source: {source}}}\n" if source else ""
    member = "::1" if ":" in address else "127.0.0.1"
    return parse(f"ipfilter: {{interface: {interface}}}\n{resets}clusters:\n  www:\n    address: '{address}'\n"
                 f"    services: {{http: {{port: 80, member_port: 8080, check: tcp}}}}\n"
                 f"    members: {{m: '{member}'}}\n", "l4ip.conf")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize("system", sorted(WELL))
def test_nothing_is_said_where_all_is_well(path: Path, system: str) -> None:
    programs(path, WELL[system])
    assert shortcomings(config(source="ipmon"), system) == []


@pytest.mark.parametrize("system", [*sorted(WELL), "linux"])
def test_nothing_is_said_where_nobody_answers(path: Path, system: str) -> None:
    programs(path, {})
    assert shortcomings(config(source="ipmon"), system) == []


def test_where_there_is_no_ipfilter_it_is_a_rehearsal(path: Path) -> None:
    programs(path, {"ipf": "echo 'Running: no'"})
    assert shortcomings(config("203.0.113.10", "em0"), "linux") == []


@pytest.mark.parametrize("system, program, says, words", [
    ("freebsd14", "ipf", "echo 'Running: no'", "IPFilter is disabled: enable it with ipf -E"),
    ("freebsd14", "ipnat", "printf '90\\ttable max reached in\\n'", "the NAT table was full 90 times, .* ipf -D; "
     "ipf -T nat_table_max=100000; ipf -E"),
    ("freebsd14", "sysctl", "case $2 in net.inet.ip.*) echo 0 ;; *) exit 1 ;; esac", "net.inet.ip.forwarding is 0, "
     "this machine forwards nothing: sysctl net.inet.ip.forwarding=1, and for the next boot sysrc gateway_enable=YES"),
    ("freebsd14", "sysctl", "case $2 in kern.*) echo 3 ;; *) exit 1 ;; esac", "kern.securelevel is 3: from 3 on nobody "
     "can change rules, .*"),
    ("freebsd14", "sysctl", "case $2 in kern.*) echo 2 ;; *) exit 1 ;; esac", ""),
    ("netbsd10", "sysctl", "case $2 in kern.*) echo 2 ;; *) exit 1 ;; esac", "kern.securelevel is 2: "
     "from 2 on nobody .*"),
    ("freebsd14", "sysctl", "case $2 in security.*) printf '1\\n0\\n' ;; *) exit 1 ;; esac", "this jail has no network "
     "stack of its own, and so no IPFilter: give it vnet in jail.conf"),
    ("freebsd14", "sysctl", "case $2 in security.*) printf '1\\n1\\n' ;; *) exit 1 ;; esac", ""),
    ("freebsd14", "sysrc", "[ $2 = ipfilter_enable ] && printf 'NO\\nNO\\n'", "ipfilter_enable and ipnat_enable not "
     "YES in rc.conf: for the next boot, sysrc ipfilter_enable=YES ipnat_enable=YES"),
    ("freebsd14", "sysrc", "[ $2 = ipfilter_enable ] && printf 'yes\\nNO\\n'", "ipnat_enable not YES in rc.conf: for "
     "the next boot, sysrc ipnat_enable=YES"),
    ("freebsd14", "sysrc", "[ $2 = ipmon_enable ] && echo YES", "ipmon_enable is YES in rc.conf, and .* sysrc "
     "ipmon_enable=NO; service ipmon onestop, or .*"),
    ("netbsd10", "sysctl", "case $2 in net.inet.ip.*) echo 0 ;; *) exit 1 ;; esac", "net.inet.ip.forwarding is 0, .* "
     "sysctl -w net.inet.ip.forwarding=1, and for the next boot net.inet.ip.forwarding=1 in /etc/sysctl.conf"),
    ("sunos5", "ipadm", "echo off", "ipv4 forwarding is off, .*: routeadm -u -e ipv4-forwarding"),
    ("sunos5", "svcs", "echo disabled", "network/ipfilter is disabled: svcadm enable network/ipfilter"),
])
def test_what_is_wrong_is_said_with_what_to_type(path: Path, system: str, program: str, says: str, words: str) -> None:
    import re
    programs(path, {**WELL[system], program: says})
    found = shortcomings(config(source="ipmon"), system)
    assert len(found) == bool(words) and all(re.fullmatch(words, line) for line in found), found


@pytest.mark.parametrize("system, remedy", [
    ("freebsd14", "ifconfig lo0 inet 203.0.113.10/32 alias, and for the next boot sysrc ifconfig_lo0_alias0=\"inet "
     "203.0.113.10/32\""),
    ("netbsd10", "ifconfig lo0 inet 203.0.113.10/32 alias, and the same line for the next boot in /etc/ifconfig.lo0"),
    ("sunos5", "ipadm create-addr -T static -a 203.0.113.10/32 lo0/l4ip"),
])
def test_an_address_that_is_on_no_interface(path: Path, system: str, remedy: str) -> None:
    programs(path, {})
    assert shortcomings(config("203.0.113.10"), system) == [
        "clusters.www.address: 203.0.113.10 is on no interface: unless it is routed to this gateway, "
        + remedy.replace("lo0", LOOPBACK)]


def test_an_interface_that_does_not_exist(path: Path) -> None:
    programs(path, {})
    found = shortcomings(config(interface="nosuchif0", source="ipmon"), "freebsd14")
    assert [line.partition(" is no interface of this machine, which has ")[0] for line in found] == [
        "ipfilter.interface: nosuchif0", "resets.interface: nosuchif0"]
    assert all(LOOPBACK in line for line in found)


def test_ipv6_asks_for_its_own_forwarding(path: Path) -> None:
    programs(path, {"sysctl": "case $2 in net.inet6.*) echo 0 ;; *) exit 1 ;; esac"})
    found = shortcomings(config("::1"), "freebsd14")
    assert [line for line in found if "forwarding" in line] == [
        "net.inet6.ip6.forwarding is 0, this machine forwards nothing: sysctl net.inet6.ip6.forwarding=1, and for the "
        "next boot sysrc ipv6_gateway_enable=YES"]


def test_a_program_that_hangs_is_not_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l4ipd.ipfilter.host.PATIENCE", 0.2)
    programs(path, {**WELL["freebsd14"], "sysrc": "sleep 600", "ipf": "echo 'Running: no'"})
    assert shortcomings(config(), "freebsd14") == ["IPFilter is disabled: enable it with ipf -E"]
