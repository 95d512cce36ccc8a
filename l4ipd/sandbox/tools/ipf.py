"""The command ipf: load, remove, flush and swap filter rules.

Like the real one, ipf does what its options say in their order, so ``-r`` counts only before ``-f``. Unlike ipnat it
loads all the other rules when one fails (FACTS.md 2d-4).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from l4ipd.sandbox.filter.grammar import FilterParser
from l4ipd.sandbox.filter.rule import FilterRule, show
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.syntax.lexer import RuleError
from l4ipd.sandbox.tools.getopt import BadOption, getopt
from l4ipd.sandbox.tools.run import STDERR, STDOUT, Output, Run, read_file
from l4ipd.sandbox.version import NEWEST, Version

LETTERS = "46Ac:dDEf:F:Il:m:noPrRsT:vVyzZ"
USAGE = ("usage: ipf [-6AdDEInoPrRsvVyzZ] [-l block|pass|nomatch|state|nat] [-cc] [-F i|o|a|s|S|u] [-f filename] "
         "[-T <tuneopts>]\n")
EXISTS = "32:{}:ioctl(add/insert rule){} rule already exists\n"
ABSENT = "29:{}:ioctl(delete rule){} rule not found for removing\n"
IN_USE = "31:{}:ioctl(delete rule){} rule in use\n"
DISABLED = "130004:{}:ioctl({} rule): ioctl command not allowed when disabled\n"
BUSY = "ioctl(SIOCIPFSET): Device busy\n"
OLD_EXISTS = "{}:ioctl(add/insert rule): File exists\n"
NO_DEVICE = "open device: No such file or directory\nUser/kernel version check failed\n"
TOGGLES = "dInrRvz"                     # each time it is given it is the other way round


def ipf(kernel: Kernel | None, arguments: Sequence[str], directory: str, version: Version = NEWEST,
        spawner: str = "") -> Run:
    """Run ipf. ``kernel`` None: there is no device. ``spawner`` is whose child it is."""
    version = kernel.version if kernel is not None else version
    try:
        given, _ = getopt("ipf", arguments, LETTERS, version.freebsd)
    except BadOption as error:
        yield STDERR, str(error) + USAGE
        return 1
    if not given:
        yield STDERR, USAGE
        return 1
    status, on = 0, set[str]()
    for letter, value in given:
        if letter in TOGGLES:
            on ^= {letter}
        elif letter == "f":
            status = (yield from _load(kernel, value, directory, on, version, spawner)) or status
        elif letter in "46A":
            on |= {letter}
            on -= {"I"} if letter == "A" else set()
        elif letter == "V":
            yield STDOUT, _about(kernel, version)
            if kernel is None:
                yield STDERR, "open device: No such file or directory\n"
                return 1
        elif letter in "FDEslT" and "n" not in on:
            if kernel is None:
                yield STDERR, NO_DEVICE
                return 1
            for output in _switch(kernel, letter, value, on):
                yield output
                if output[0] == STDERR:
                    return 1
    return status


def _switch(kernel: Kernel, letter: str, value: str, on: set[str]) -> Iterator[Output]:
    """The options that change something without a file."""
    table = kernel.filter
    if letter in "DE":
        kernel.switch(letter == "E")
    elif letter == "T":
        yield _tune(kernel, value)
    elif letter == "s":
        table.active = 1 - table.active
        yield STDOUT, f"Set {1 - table.active} now inactive\n"
    elif letter == "l":
        kernel.log_flags = [flag for flag in ("pass", "block", "nomatch") if flag in value]
    elif value in ("s", "S") or value.isdigit():
        kernel.forget_states()
    elif directions := tuple(name for name, letters in (("in", "iIaA"), ("out", "oOaA")) if set(letters) & set(value)):
        count = table.flush(1 - table.active if "I" in on else table.active, directions)
        if "v" in on:
            yield STDOUT, f"{count} filter rules removed\n"
    else:
        yield STDERR, f"Incorrect flush argument: {value}\n{USAGE}"


def _load(kernel: Kernel | None, name: str, directory: str, on: set[str], version: Version, spawner: str) -> Run:
    if kernel is None and "n" not in on:
        yield STDERR, NO_DEVICE
    text = yield from read_file(name, directory)
    if isinstance(text, OSError):
        yield STDERR, f"fopen({name}) failed: {os.strerror(text.errno or 0)}\n"
        return 1
    said: list[str] = []
    status = 0
    parser = FilterParser(text, inet6="6" in on, old=version.old)
    try:
        for rule in parser:
            if "v" in on:
                yield STDOUT, show(rule, old=version.old) + "\n"
            complaint = "" if "n" in on else _apply(kernel, rule, on, parser, spawner)
            if complaint:
                said.append(complaint)
            if complaint and not version.old:
                status = 1
            yield STDERR, "".join(said)
            said.clear()
    except RuleError as error:
        said.append(f"{error}\n")
        status = 1
    yield STDERR, "".join(said)
    return status


def _apply(kernel: Kernel | None, rule: FilterRule, on: set[str], parser: FilterParser, spawner: str) -> str:
    """Tell the kernel about one rule; returns its complaint."""
    if kernel is None:
        return f"{rule.line}:ioctl(add/insert rule): Bad file descriptor\n"
    table, version = kernel.filter, kernel.version
    which = 1 - table.active if "I" in on else table.active
    if version.freebsd and not kernel.enabled:
        return DISABLED.format(rule.line, "delete" if "r" in on else "add/insert")
    if "z" in on:
        return ""
    if "r" in on:
        loaded = table.find(rule, which)
        if loaded is not None and kernel.iterators.in_use(loaded, spawner):
            return IN_USE.format(rule.line, version.colon)
        return "" if table.remove(rule, which) or version.old else ABSENT.format(rule.line, version.colon)
    if table.add(rule, which):
        return ""
    return OLD_EXISTS.format(parser.lexer.line) if version.old else EXISTS.format(rule.line, version.colon)


def _tune(kernel: Kernel, words: str) -> Output:
    """``-T nat_table_max``, or ``=N``, while all is switched off (FACTS.md 3-5). Other tunables are not played."""
    name, given, value = words.partition("=")
    if name != "nat_table_max" or given and not value.isdecimal():
        return STDERR, f"ipf: -T {words}: the sandbox has only nat_table_max\n"
    if given and kernel.enabled:
        return STDERR, BUSY
    if given:
        kernel.nat.limit = max(1, int(value))
        return STDOUT, ""
    return STDOUT, f"nat_table_max\tmin 1\tmax 2147483647\tcurrent {kernel.nat.limit}\n"


def _about(kernel: Kernel | None, version: Version) -> str:
    text = f"ipf: IP Filter: {version.shown}\n"
    if kernel is None:
        return text
    flags = sum(bit for name, bit in (("pass", 0x10000000), ("block", 0x20000000), ("nomatch", 0x40000000))
                if name in kernel.log_flags)
    short = f"IP Filter: {version.shown.split(' ')[0]}"
    return (f"{text}Kernel: {short:<32}\nRunning: {'yes' if kernel.enabled else 'no'}\n"
            f"Log Flags: {flags:#x} = {', '.join(kernel.log_flags) or 'none set'}\n"
            f"Default: pass all, Logging: available\nActive list: {kernel.filter.active}\n"
            + ("" if version.old else "Feature mask: 0x166\n")).replace("Log Flags: 0x0", "Log Flags: 0")
