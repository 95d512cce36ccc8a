"""The command ipnat: add, remove, list and flush NAT rules, with the messages and exit codes of the real one.

Also its bug: after a rule that the kernel refused, the next one is silently lost (FACTS.md 2b-6). Version 4.1 has not
that bug, but always exits 0.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence

from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.nat.grammar import NatParser
from l4ipd.sandbox.nat.rule import NatRule, show
from l4ipd.sandbox.nat.table import Entry, NatTable, RuleExists, Session
from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.syntax.lexer import RuleError
from l4ipd.sandbox.tools.getopt import BadOption, getopt
from l4ipd.sandbox.tools.run import STDERR, STDOUT, WAIT, Output, Run, read_file
from l4ipd.sandbox.version import NEWEST, Version

LETTERS, OLD_LETTERS = "CdFf:hlm:M:N:nO:prRsv", "CdFf:hlM:N:nrRsv"
USAGE = "Usage: ipnat [-CFhlnrRsv] [-f filename]\n"
EXISTS = "60007:{0}:ioctl(add/insert nat rule)(line {0}){1} NAT rule already exists\n"
ABSENT = "60010:{0}:ioctl(delete nat rule){1} NAT rule could not be found\n"
OLD_EXISTS = "{0}:ioctl(add/insert nat rule): File exists\n"
OLD_ABSENT = "{0}:ioctl(delete nat rule): No such process\n"
NO_DEVICE = "/dev/ipnat: open: No such file or directory\n"
BSD_DISABLED = "130003:ioctl(SIOCGNATS): ioctl on device denied, ipfitler is disabled\n"         # sic
DISABLED = "42:ioctl(SIOCGNATS) ipfilter not enabled for NAT ioctl\n"
OLD_DISABLED = "ioctl(SIOCGNATS): Input/output error\n"
MATCH = re.compile(r"\s*(ip6?\.(src|dst|addr|p)|(tcp|udp)\.(sport|dport|port|flags|state))\s*!?=\s*[^;]+;\s*")
STATISTICS = ("bucket max in", "drop in", "exhausted in", "table max reached in", "bucket max out", "drop out",
              "exhausted out", "table max reached out", "log successes", "log failures", "added in", "added out",
              "active", "transparent adds", "divert build", "expired", "flush all", "flush closing", "flush queue",
              "flush state", "flush timeout", "hostmap new", "hostmap fails", "hostmap add", "hostmap NULL rule",
              "log ok", "log fail", "orphan count", "rule count", "map rules", "rdr rules", "wilds")


def ipnat(kernel: Kernel | None, arguments: Sequence[str], directory: str, version: Version = NEWEST,
          spawner: str = "") -> Run:
    """Run the command. ``kernel`` None: there is no device, and only ``-n`` works. ``spawner`` is whose child it is."""
    version = kernel.version if kernel is not None else version
    try:
        given, _ = getopt("ipnat", arguments, OLD_LETTERS if version.old else LETTERS, version.freebsd)
    except BadOption as error:
        yield STDERR, str(error) + USAGE
        return 1
    options = dict(given)
    if "p" in options and "r" not in options:
        yield STDERR, "ipnat: -p must be used with -r\n"
        return 1
    if "n" in options:
        kernel = None
    elif kernel is None:
        yield STDERR, NO_DEVICE
        return 1
    elif not kernel.enabled:
        yield STDERR, OLD_DISABLED if version.old else BSD_DISABLED if version.freebsd else DISABLED
        return 1
    yield from _flush(kernel, options)
    if "f" in options:
        return (yield from _load(kernel, options, directory, version))
    if "s" in options:
        yield STDOUT, _statistics(kernel.nat if kernel else NatTable(), version)
    if "l" in options:
        return (yield from _list(kernel, options, version, spawner))
    return 0


def _flush(kernel: Kernel | None, options: dict[str, str]) -> Iterator[Output]:
    if "F" in options and "m" in options and kernel is not None and not _flushes_all(kernel, options["m"]):
        yield STDERR, f"121:ioctl(SIOCMATCHFLUSH){kernel.version.colon} error verifying contents of match array\n"
    elif "F" in options:
        count = kernel.nat.flush() if kernel is not None else 0
        yield STDOUT, f"{count} entries flushed from NAT table\n"
    if "C" in options:
        count = kernel.nat.clear() if kernel is not None else 1
        if kernel is not None:
            kernel.changed()
        yield STDOUT, f"{count} entries flushed from NAT list\n"


def _flushes_all(kernel: Kernel, expression: str) -> bool:
    """A trap: no expression ever works, and FreeBSD's takes one that it does not understand for none (FACTS.md 3-4)."""
    return kernel.version.freebsd and MATCH.fullmatch(expression) is None


# -- adding and removing


def _load(kernel: Kernel | None, options: dict[str, str], directory: str, version: Version) -> Run:
    text = yield from read_file(options["f"], directory)
    if isinstance(text, OSError):
        yield STDERR, f"fopen({options['f']}) failed: {os.strerror(text.errno or 0)}\n"
        return 255
    said: list[str] = []
    parser = NatParser(text, said.append, version.old)
    status = 0
    try:
        status = yield from _rules(kernel, parser, said, options, version)
    except RuleError as error:
        said.append(f"{error}\n")
        status = 1
    finally:
        if kernel is not None:
            kernel.changed()                    # also when the tool was killed on the way
    yield from _said(said)
    return status


def _rules(kernel: Kernel | None, parser: NatParser, said: list[str], options: dict[str, str],
           version: Version) -> Run:
    status, lose_next = 0, False
    for rule in parser:
        yield from _said(said)
        yield STDOUT, ""                        # others may have a turn
        if lose_next:
            lose_next = False
            continue
        if "v" in options:
            yield STDOUT, show(rule, old=version.old) + "\n"
        complaint = _apply(kernel, rule, options, parser) if kernel is not None else ""
        if complaint:
            yield STDERR, complaint
            status, lose_next = (0, False) if version.old else (1, True)
    return status


def _apply(kernel: Kernel, rule: NatRule, options: dict[str, str], parser: NatParser) -> str:
    """Tell the kernel about one rule; returns its complaint."""
    version = kernel.version
    if "r" in options:
        try:
            kernel.nat.remove(rule, purge="p" in options)
        except KeyError:
            return OLD_ABSENT.format(parser.lexer.line) if version.old else ABSENT.format(rule.line, version.colon)
        return ""
    try:
        kernel.nat.add(rule)
    except RuleExists as error:
        return OLD_EXISTS.format(parser.lexer.line) if version.old else EXISTS.format(error.line, version.colon)
    return ""


def _said(said: list[str]) -> Iterator[Output]:
    if said:
        yield STDERR, "".join(said)
        said.clear()


# -- listing


def _list(kernel: Kernel | None, options: dict[str, str], version: Version, spawner: str) -> Run:
    yield STDOUT, "List of active MAP/Redirect filters:\n"
    if kernel is not None:
        for entry in kernel.iterators.walk("nat", spawner, list(kernel.nat.rules.values())):
            yield STDOUT, _rule_line(entry, options, version.old)
    yield STDOUT, "\nList of active sessions:\n"
    if kernel is None:
        return 0
    kernel.nat.expire()
    while "m" in options and version.freebsd:
        yield WAIT, ""                          # the real one spins for ever
    if "m" not in options:
        for session in kernel.iterators.walk("sessions", spawner, list(kernel.nat.newest_first())):
            yield STDOUT, _session_line(kernel.nat, session, options, version)
    if "v" in options:
        yield STDOUT, "\nList of active host mappings:\n"
        for line in _bindings(kernel.nat, version):
            yield STDOUT, line
    return 0


def _rule_line(entry: Entry, options: dict[str, str], old: bool) -> str:
    hits = f"{entry.hits} " if "h" in options else ""
    line = f"{hits}{show(entry.rule, numeric='R' in options, old=old)}\n"
    if "d" in options:
        line += f"\tpmax {entry.rule.target_top}\n" if entry.rule.kind == "rdr" else "\tnextip 0 pnext 0\n"
        line += (f"\tspace 0 use {len(entry.sessions) + 3} hits {entry.hits} flags 0x81 proto "
                 f"{entry.rule.proto}/{entry.rule.proto} hv 0/0\n"
                 "\tifp[0] (nil) ifp[1] (nil) apr (nil)\n\ttqehead (nil)/(nil) comment (nil)\n")
    return line


def _session_line(table: NatTable, session: Session, options: dict[str, str], version: Version) -> str:
    proto, source, port, destination, destination_port = session.flow
    line = f"RDR {_end(session.member, session.port)} <- -> {_end(destination, destination_port)} [{source} {port}]"
    line += f" {netdb.protocol_name(proto)}\n" if version.freebsd else "\n"
    if "v" in options:
        packets, size = session.packets, session.bytes
        line += (f"\tttl {table.remaining(session)} use 0 sumd 0/0 pr {proto}/{proto} hash 0/0 flags "
                 f"{1 if proto == netdb.TCP else 2}\n"
                 f"\tifp X,X bytes {size[0]}/{size[1]} pkts {packets[0]}/{packets[1]} ipsumd 0\n")
    if "d" in options:
        line = line.rstrip("\n") + f"\n\ttqe:die {table.remaining(session)} touched 0 flags 0 state 1/0\n\n"
    return line


def _end(address: str, port: int) -> str:
    """The columns of an address and a port; IPv6 is not padded."""
    return f"{address} {port:<5}" if ":" in address else f"{address:<15} {port:<5}"


def _bindings(table: NatTable, version: Version) -> Iterator[str]:
    for binding in reversed(list(table.bindings.values())):
        source, destination, _ = binding.key
        none = "::" if ":" in source else "0.0.0.0"
        yield f"{source},{destination} -> {binding.member},{none} (use = {binding.sessions + 1} hv = 0)\n"
    if not table.bindings and not version.freebsd:
        yield ", -> , (use = 0 hv = 0)\n"           # the real one prints the mapping that is not there


def _statistics(table: NatTable, version: Version) -> str:
    """The lines of ``ipnat -s``: what can be known here, and zeros."""
    table.expire()
    rules = [entry.rule.kind for entry in table.rules.values()]
    if version.old:
        return (f"mapped\tin\t{table.added}\tout\t0\nadded\t{table.added}\texpired\t{table.expired}\n"
                f"no memory\t0\tbad nat\t{table.full}\ninuse\t{len(table.sessions)}\norphans\t0\n"
                f"rules\t{len(rules)}\nwilds\t0\n")
    counts = {"drop in": table.drops, "table max reached in": table.full, "added in": table.added,
              "active": len(table.sessions), "expired": table.expired, "hostmap new": len(table.bindings),
              "rule count": len(rules), "map rules": sum(kind != "rdr" for kind in rules),
              "rdr rules": sum(kind in ("rdr", "bimap") for kind in rules)}
    return "".join(f"{counts.get(name, 0)}\t{name}\n" for name in STATISTICS)
