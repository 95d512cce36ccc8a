"""What this machine lacks as a gateway, and what to type: for ``l4ipd -n``.

It asks what anybody may ask, changes nothing, and takes no longer than a second or two. A question that has no answer
here (no such program, not for this user) is none: nothing is said then.
"""

from __future__ import annotations

import errno
import re
import socket
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from l4ipd.model import Config, Words
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop

PATIENCE = 2.0                                      # seconds for all answers
Judge = Callable[[str], str]


@dataclass(frozen=True)
class Question:
    """A run of a program; ``judge(output)`` says what is wrong, "" if nothing is."""

    words: Words
    judge: Judge


def shortcomings(config: Config, system: str = sys.platform) -> list[str]:
    """A line each: what is wrong, and what helps."""
    kind = next((name for name in ("freebsd", "netbsd", "sunos") if system.startswith(name)), None)
    if kind is None:                                # no IPFilter: a rehearsal
        return []
    asked = [*_of_all(config), *{"freebsd": _freebsd, "netbsd": _netbsd, "sunos": _illumos}[kind](config)]
    return [*_interfaces(config), *_addresses(config, kind), *_Asked(asked).answers()]


# -- what the interpreter knows

def _interfaces(config: Config) -> list[str]:
    named = {"ipfilter.interface": config.ipfilter.interface}
    if config.resets is not None:
        named["resets.interface"] = config.resets.interface
    there = {name for _, name in socket.if_nameindex()}
    return [f"{key}: {name} is no interface of this machine, which has {', '.join(sorted(there))}: a rule on it meets "
            "nothing" for key, name in named.items() if name not in there and name != "*"]


def _addresses(config: Config, kind: str) -> list[str]:
    interface = config.ipfilter.interface
    return [f"clusters.{cluster.name}.address: {address} is on no interface: unless it is routed to this gateway, "
            f"{_alias(kind, interface, address)}"
            for cluster in config.clusters for address in cluster.addresses if not _is_local(address)]


def _alias(kind: str, interface: str, address: str) -> str:
    family, length = ("inet6", 128) if ":" in address else ("inet", 32)
    now = f"ifconfig {interface} {family} {address}/{length} alias"
    if kind == "freebsd":
        return f'{now}, and for the next boot sysrc ifconfig_{interface}_alias0="{family} {address}/{length}"'
    if kind == "netbsd":
        return f"{now}, and the same line for the next boot in /etc/ifconfig.{interface}"
    return f"ipadm create-addr -T static -a {address}/{length} {interface}/l4ip"


def _is_local(address: str) -> bool:
    """Whether a socket can have it. Where that cannot be told, it is."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError as error:
        return error.errno != errno.EADDRNOTAVAIL
    return True


# -- what programs know

def _of_all(config: Config) -> Iterable[Question]:
    yield Question((*config.ipfilter.ipf, "-V"), _disabled)
    yield Question((*config.ipfilter.ipnat, "-s"), _full)


def _disabled(said: str) -> str:
    return "IPFilter is disabled: enable it with ipf -E" if re.search(r"(?m)^Running: no", said) else ""


def _full(said: str) -> str:
    found = re.search(r"(?m)^(\d+)\ttable max reached in$", said)
    if found is None or not int(found[1]):
        return ""
    return (f"the NAT table was full {found[1]} times, and new clients were dropped: shorter ages of sessions help, or "
            "a larger table, which forgets every rule and session: ipf -D; ipf -T nat_table_max=100000; ipf -E")


def _freebsd(config: Config) -> Iterable[Question]:
    yield Question(("sysctl", "-n", "security.jail.jailed", "security.jail.vnet"), lambda said: (
        "this jail has no network stack of its own, and so no IPFilter: give it vnet in jail.conf"
        if said.split() == ["1", "0"] else ""))
    yield _securelevel(3)
    for family, name, key in (("ip", "gateway_enable", "net.inet.ip.forwarding"),
                              ("ip6", "ipv6_gateway_enable", "net.inet6.ip6.forwarding")):
        if family in _families(config):
            yield Question(("sysctl", "-n", key), _forwards(f"{key} is 0", f"sysctl {key}=1, and for the next boot "
                                                            f"sysrc {name}=YES"))
    yield Question(("sysrc", "-n", "ipfilter_enable", "ipnat_enable"), _enabled)
    if config.resets is not None and config.resets.source == "ipmon":
        yield Question(("sysrc", "-n", "ipmon_enable"), lambda said: (
            "ipmon_enable is YES in rc.conf, and a record goes to one reader only: sysrc ipmon_enable=NO; service "
            "ipmon onestop, or let it write a file and give that as resets.source" if _yes(said) == [True] else ""))


def _netbsd(config: Config) -> Iterable[Question]:
    yield _securelevel(2)
    for family, key in (("ip", "net.inet.ip.forwarding"), ("ip6", "net.inet6.ip6.forwarding")):
        if family in _families(config):
            yield Question(("sysctl", "-n", key), _forwards(f"{key} is 0", f"sysctl -w {key}=1, and for the next boot "
                                                            f"{key}=1 in /etc/sysctl.conf"))


def _illumos(config: Config) -> Iterable[Question]:
    for family, name in (("ip", "ipv4"), ("ip6", "ipv6")):
        if family in _families(config):
            yield Question(("ipadm", "show-prop", "-c", "-o", "current", "-p", "forwarding", name), _forwards(
                f"{name} forwarding is off", f"routeadm -u -e {name}-forwarding"))
    yield Question(("svcs", "-H", "-o", "state", "network/ipfilter"), lambda said: (
        "network/ipfilter is disabled: svcadm enable network/ipfilter" if said.split() == ["disabled"] else ""))


def _families(config: Config) -> set[str]:
    return {"ip6" if ":" in cluster.addresses[0] else "ip" for cluster in config.clusters}


def _securelevel(forbids: int) -> Question:
    def judge(said: str) -> str:
        found = re.fullmatch(r"\s*(\d+)\s*", said)
        if found is None or int(found[1]) < forbids:
            return ""
        return (f"kern.securelevel is {found[1]}: from {forbids} on nobody can change rules, until the next boot with "
                "a lower kern_securelevel in rc.conf")

    return Question(("sysctl", "-n", "kern.securelevel"), judge)


def _forwards(what: str, remedy: str) -> Judge:
    return lambda said: f"{what}, this machine forwards nothing: {remedy}" if said.split() in (["0"], ["off"]) else ""


def _enabled(said: str) -> str:
    names = [name for name, yes in zip(("ipfilter_enable", "ipnat_enable"), _yes(said), strict=False) if not yes]
    if not names:
        return ""
    remedy = " ".join(f"{name}=YES" for name in names)
    return f"{' and '.join(names)} not YES in rc.conf: for the next boot, sysrc {remedy}"


def _yes(said: str) -> list[bool]:
    return [word.lower() in ("yes", "true", "on", "1") for word in said.split()]


class _Asked:
    """All questions, at once."""

    def __init__(self, questions: Iterable[Question]) -> None:
        self.loop = Loop()
        self.questions = list(questions)
        self.found = [""] * len(self.questions)
        self._open = len(self.questions)
        for number, question in enumerate(self.questions):
            Child(self.loop, question.words, timeout=PATIENCE, done=partial(self._ended, number))

    def answers(self) -> list[str]:
        if self._open:
            self.loop.run()
        self.loop.close()
        return [words for words in self.found if words]

    def _ended(self, number: int, end: Exit) -> None:
        if end.status == 0 and not end.timed_out:
            self.found[number] = self.questions[number].judge(end.stdout.decode(errors="replace"))
        self._open -= 1
        if not self._open:
            self.loop.stop()
