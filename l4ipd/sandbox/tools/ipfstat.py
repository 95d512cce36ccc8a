"""The command ipfstat: list filter rules, and count."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from l4ipd.sandbox.filter.rule import show
from l4ipd.sandbox.filter.table import Loaded
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.tools.getopt import BadOption, getopt
from l4ipd.sandbox.tools.run import STDERR, STDOUT, Output, Run
from l4ipd.sandbox.version import Version

LETTERS = "46aACdfghIilnostvD:m:M:N:O:P:RS:T:"
USAGE = ("Usage: ipfstat [-6aAdfghIilnoRsv]\n       ipfstat [-M corefile] [-N symbol-list]\n"
              "       ipfstat -t [-6C] [-D destination address] [-P protocol] [-S source address] [-T refresh time]\n")


def ipfstat(kernel: Kernel, arguments: Sequence[str], spawner: str = "") -> Run:
    """Run ipfstat. ``spawner`` is whose child it is."""
    try:
        given, _ = getopt("ipfstat", arguments, LETTERS, kernel.version.freebsd)
    except BadOption as error:
        yield STDERR, str(error) + USAGE
        return 1
    on = {letter for letter, _ in given}
    if not on & set("ioa"):
        yield STDOUT, _statistics(kernel)
        return 0
    for letter, direction in (("o", "out"), ("i", "in")):
        if letter in on:
            yield from _list(kernel, direction, on, spawner)
    return 0


def _list(kernel: Kernel, direction: str, on: set[str], spawner: str) -> Iterator[Output]:
    table, counting = kernel.filter, "a" in on
    which = 1 - table.active if "I" in on else table.active
    rules = table.listed(which, direction, counting)
    families = _families(kernel.version, on)
    number = 0
    for loaded in kernel.iterators.walk(f"{direction} {counting}", spawner, rules,
                                        hold=not (kernel.version.old or kernel.version.freebsd),
                                        hold_cut=not kernel.version.old):
        if loaded.rule.family in families:
            number += 1
            yield STDOUT, _line(loaded, number, on, kernel.version.old)
    if not number:
        inactive = "inactive " if "I" in on else ""
        yield STDERR, f"# empty list for {inactive}{'ipacct' if counting else 'ipfilter'}({direction})\n"


def _families(version: Version, on: set[str]) -> tuple[int, ...]:
    """FreeBSD's lists both, unless one is asked for; the others one at a time."""
    if version.freebsd and not on & set("46"):
        return 0, 4, 6
    return 0, 6 if "6" in on else 4


def _line(loaded: Loaded, number: int, on: set[str], old: bool) -> str:
    prefix = f"{loaded.hits} " if "h" in on else ""
    if "a" in on:
        prefix += f"{loaded.bytes} "
    if "n" in on:
        prefix += f"@{number} "
    return f"{prefix}{show(loaded.rule, numeric='R' in on, old=old)}\n"


def _statistics(kernel: Kernel) -> str:
    return ("bad packets:\t\tin 0\tout 0\n"
            " IPv6 packets:\t\tin 0 out 0\n"
            " input packets:\t\tblocked 0 passed 0 nomatch 0 counted 0 short 0\n"
            "output packets:\t\tblocked 0 passed 0 nomatch 0 counted 0 short 0\n"
            f" input packets logged:\tblocked 0 passed {kernel.log.number}\n"
            "output packets logged:\tblocked 0 passed 0\n"
            f" log failures:\t\tinput {kernel.log.failures} output 0\n")
