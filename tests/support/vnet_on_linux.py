"""FreeBSD's tools for jails and interfaces, as far as tests/freebsd uses them, played by network namespaces of Linux.

A program that is called by the name of a tool (``make_tools`` makes them) and becomes it. A jail is a network
namespace; an epair is a veth; the jail that is called ``...gw`` has a sandbox as its IPFilter. So the laboratory that
tests/freebsd makes on FreeBSD can be made here, by the same lines of shell. What would be wrong on FreeBSD, and is not
here, is written into the file ``complaints``: rules of the machine itself that are touched, and interfaces that a jail
still has when it is removed (they would not come back while it has connections in TIME_WAIT).

It stands for the words that the tools take, and not for what FreeBSD's kernel does with them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from l4ipd.sandbox import serve_words, tool_words

TREE = Path(__file__).resolve().parent.parent.parent
SYSCTL = {"kern.features.vimage": "1", "kern.features.inet6": "1", "kern.securelevel": "-1"}
FORWARDING = {"net.inet.ip.forwarding": "ipv4/ip_forward", "net.inet6.ip6.forwarding": "ipv6/conf/all/forwarding"}
IPFILTER = ("ipf", "ipnat", "ipfstat", "ipmon")
STATE = Path(os.environ.get("VNET", "/nonexistent"))


def complain(text: str) -> int:
    with (STATE / "complaints").open("a") as file:
        file.write(f"{text}\n")
    return 1


def run(*words: str, jail: str = "") -> str:
    """What a command of Linux's says; ends this program with 1 if it fails."""
    inside = ("nsenter", f"--net=/run/netns/{jail}") if jail else ()
    done = subprocess.run([*inside, *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def link(name: str) -> str:
    return "lo" if name == "lo0" else name


def interfaces(jail: str = "") -> list[str]:
    words = [line.split(":")[1].strip().split("@")[0] for line in run("ip", "-o", "link", jail=jail).splitlines()]
    return ["lo0" if word == "lo" else word for word in words]


def jails() -> list[str]:
    return (STATE / "jails").read_text().split() if (STATE / "jails").exists() else []


def where() -> str:
    """The jail that this process is in."""
    here = os.stat("/proc/self/ns/net")
    return next((name for name in jails() if os.path.samestat(os.stat(f"/run/netns/{name}"), here)), "")


# -- jails

def jail(words: Sequence[str]) -> int:
    if words[0] == "-r":
        return remove(words[1])
    settings = [word.partition("=") for word in words[1:]]
    values = {key: value for key, _, value in settings}
    name = values["name"]
    assert words[0] == "-c" and values["path"] == "/" and "persist" in values and "vnet" in values, words
    run("ip", "netns", "add", name)
    (STATE / "jails").write_text(" ".join([*jails(), name]))
    for key, _, value in settings:
        if key == "vnet.interface":
            run("ip", "link", "set", value, "netns", name)
    if name.endswith("gw"):
        boot(name)
    print(f"{name}: created")
    return 0


def boot(name: str) -> None:
    """The sandbox, as the jail's own IPFilter."""
    process = subprocess.Popen(["nsenter", f"--net=/run/netns/{name}", *serve_words(str(STATE / f"{name}.sock"))],
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
                               start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()


def remove(name: str) -> int:
    if name not in jails():
        return 1
    left = [each for each in interfaces(name) if each != "lo0" and not each.startswith("bridge")]
    if left:
        complain(f"{name} is removed with {left}")
    while pids := run("ip", "netns", "pids", name).split():
        for pid in pids:
            os.kill(int(pid), signal.SIGKILL)
        time.sleep(0.02)
    run("ip", "netns", "del", name)
    (STATE / "jails").write_text(" ".join(each for each in jails() if each != name))
    return 0


def jexec(words: Sequence[str]) -> int:
    name, *command = words
    if name not in jails():
        sys.exit(f'jexec: jail "{name}" not found')
    os.chdir("/")
    os.execvp("nsenter", ["nsenter", f"--net=/run/netns/{name}", *command])


def jls(words: Sequence[str]) -> int:
    assert words == ["name"]
    print("\n".join(jails()))
    return 0


# -- interfaces

def ifconfig(words: Sequence[str]) -> int:
    if words == ["-C"]:
        print("lo epair bridge")
    elif words == ["-l"]:
        print(" ".join(interfaces()))
    elif words == ["epair", "create"]:
        there = interfaces()
        unit = next(number for number in range(100) if f"epair{number}a" not in there)
        run("ip", "link", "add", f"epair{unit}a", "type", "veth", "peer", "name", f"epair{unit}b")
        print(f"epair{unit}a")
    elif words == ["bridge", "create"]:
        run("ip", "link", "add", "bridge0", "type", "bridge", "forward_delay", "0")
        print("bridge0")
    else:
        for change in changes(link(words[0]), words[1:]):
            run(*change)
    return 0


def changes(name: str, words: Sequence[str]) -> list[tuple[str, ...]]:
    """The commands of iproute that an interface's parameters come to."""
    match list(words):
        case ["name", new]:
            print(new)
            return [("ip", "link", "set", name, "down"), ("ip", "link", "set", name, "name", new)]
        case ["destroy"]:
            return [("ip", "link", "del", name)]
        case ["-vnet", jail]:
            return [("nsenter", f"--net=/run/netns/{jail}", "ip", "link", "set", name, "netns", str(os.getpid()))]
        case ["up" | "down" as which]:
            return [("ip", "link", "set", name, which)]
        case ["addm", member]:
            return [("ip", "link", "set", member, "master", name)]
        case ["inet", address, "up" | "alias"]:
            return [("ip", "addr", "replace", address, "dev", name), ("ip", "link", "set", name, "up")]
        case ["inet6", address, "alias"] | ["inet6", address, "no_dad", "-ifdisabled"]:
            return [("ip", "addr", "replace", address, "dev", name, "nodad")]
    sys.exit(f"ifconfig: {name} {words}: not known here")


def route(words: Sequence[str]) -> int:
    family = "-6" if "-6" in words else "-4"
    assert words[0] == "add" and words[-2] == "default", words
    run("ip", family, "route", "add", "default", "via", words[-1])
    print(f"add net default: gateway {words[-1]}")
    return 0


# -- the system

def sysctl(words: Sequence[str]) -> int:
    if words[0] == "-n":
        print(SYSCTL[words[1]])
        return 0
    name, _, value = words[0].partition("=")
    Path("/proc/sys/net", FORWARDING[name]).write_text(value)
    print(f"{name}: 0 -> {value}")
    return 0


def kldstat(words: Sequence[str]) -> int:
    return 0 if words == ["-q", "-m", "ipfilter"] else 1


def uname(words: Sequence[str]) -> int:
    print({"-s": "FreeBSD", "-r": "14.3-RELEASE", "-sr": "FreeBSD 14.3-RELEASE"}[words[0]])
    return 0


def ipfilter(tool: str, words: list[str]) -> NoReturn:
    """Become a tool of the jail's sandbox; ipmon detaches where it is told to."""
    name = where()
    if not name.endswith("gw"):
        sys.exit(complain(f"{tool} {words} is run on {name or 'the machine itself'}"))
    if tool == "ipmon" and "-D" in words:
        words.remove("-D")
        if os.fork():
            sys.exit(0)
        os.setsid()
    client = tool_words(str(STATE / f"{name}.sock"))[tool]
    os.execv(client[0], [*client, *words])


TOOLS: dict[str, Callable[[Sequence[str]], int]] = {
    "jail": jail, "jexec": jexec, "jls": jls, "ifconfig": ifconfig, "route": route, "sysctl": sysctl,
    "kldstat": kldstat, "uname": uname}


def make_tools(state: Path) -> Path:
    """Programs in a directory of their own, which all keep what they know in ``state``."""
    directory = state / "bin"
    directory.mkdir()
    for name in (*TOOLS, *IPFILTER):
        program = directory / name
        program.write_text(f'#!/bin/sh\nVNET="{state}" PYTHONPATH="{TREE}" '
                           f'exec "{sys.executable}" "{__file__}" {name} "$@"\n')
        program.chmod(0o755)
    return directory


def interrupt(call: str) -> None:
    """End the script that we work for, if the file ``moment`` has a pattern for this call."""
    moment = STATE / "moment"
    if moment.exists() and re.match(moment.read_text(), call):
        moment.unlink()
        os.kill(os.getsid(0), signal.SIGTERM)


if __name__ == "__main__":
    tool, *words = sys.argv[1:]
    interrupt(" ".join((tool, *words)))
    if tool in IPFILTER:
        ipfilter(tool, words)
    sys.exit(TOOLS[tool](words))
