"""The command ipmon: print log records as they come (FACTS.md 2e).

``-v`` adds sequence number, acknowledgement and window, ``-n`` names (of services; the sandbox asks no name server),
``-F`` empties the log first and then goes on. It runs until it is ended, or until the sandbox is: then it says
``0:read`` and exits with 0, which is the client's part.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from l4ipd.sandbox.filter.log_device import Record
from l4ipd.sandbox.filter.rule import Packet
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.tools.getopt import BadOption, getopt
from l4ipd.sandbox.tools.run import STDERR, STDOUT, WAIT, Output, Run

LETTERS = "?abB:C:Df:G:FhL:nN:o:O:pP:sS:tT:vxX"
USAGE = "ipmon: [-NFhstvxX] [-f <logfile>]\n"
FACILITIES = ("kern user mail daemon auth syslog lpr news uucp cron authpriv ftp audit security console local0 local1 "
              "local2 local3 local4 local5 local6 local7")
LOG_FLAGS = "ARSFUPEC"                  # in the order in which ipmon prints them


@dataclass(frozen=True, slots=True)
class Style:
    """How lines are to look. ``zone`` is TZ of the one who reads."""

    verbose: bool = False
    names: bool = False
    port_numbers: bool = False
    zone: str = ""
    old: bool = False


def ipmon(kernel: Kernel, arguments: Sequence[str], directory: str, zone: str = "", pid: str = "") -> Run:
    """Run the command."""
    try:
        given, others = getopt("ipmon", arguments, LETTERS, kernel.version.freebsd)
    except BadOption as error:
        yield STDERR, str(error) + USAGE
        return 1
    options = dict(given)
    complaint = _complaint(given, others, directory)
    if complaint:
        yield STDERR, complaint
        return 1
    if "P" in options and ("D" in options or not kernel.version.freebsd):
        with open(os.path.join(directory, options["P"]), "w", encoding="ascii") as file:
            file.write(f"{pid}\n")
    if "F" in options:
        yield STDOUT, f"{kernel.log.flush()} bytes flushed from log buffer\n" + "0 bytes flushed from log buffer\n" * 2
    style = Style("v" in options, "n" in options, "p" in options, zone, kernel.version.old)
    last = 0
    while True:
        for record in kernel.log.take():
            for line in _lines(record, last, style):
                yield from _write(line, others, directory)
            last = record.number
        yield WAIT, ""


def _write(line: str, files: Sequence[str], directory: str) -> Iterator[Output]:
    """To standard output, or to the file that was named."""
    if not files:
        yield STDOUT, line
        return
    with open(os.path.join(directory, files[0]), "a", encoding="latin-1") as file:
        file.write(line)


def _complaint(given: list[tuple[str, str]], files: Sequence[str], directory: str) -> str:
    for letter, value in given:
        path = os.path.join(directory, value)
        if letter in "h?":
            return USAGE
        if letter == "o" and (wrong := value.translate({ord(good): None for good in "INS"})):
            return f"Unknown log option {wrong[0]}\n"
        if letter == "L" and value not in FACILITIES.split():
            return f"Unknown syslog facility '{value}'\n"
        if letter == "f" and not os.path.exists(path):
            return f"{value}: open: No such file or directory\n"
        if letter == "C" and not os.path.exists(path):
            return "load_config:fopen:: No such file or directory\n"
    if files:
        try:
            with open(os.path.join(directory, files[0]), "a", encoding="latin-1"):
                pass
        except OSError as error:
            return f"{files[0]}: fopen: {os.strerror(error.errno or 0)}\n"
    return ""


def _lines(record: Record, last: int, style: Style) -> Iterator[str]:
    if (record.number != last + 1 or last == 0) and not style.old:
        yield f"missed {record.number - last} ipf log entries: {last} {record.number}\n"
    yield line_of(record, style) + "\n"


def line_of(record: Record, style: Style) -> str:
    """One record as a line, without its end."""
    logged, packet = record.logged, record.packet
    parts = [_when(record.time, style.zone)]
    if record.count > 1:
        parts.append(f"{record.count}x")
    parts += [record.interface, f"@{logged.group}:{logged.number}", logged.action]
    parts.append(_icmp(record, style) if record.inner else _packet(packet, style))
    if packet.proto == netdb.TCP:
        parts.append("-" + "".join(flag for flag in LOG_FLAGS if flag in packet.flags))
        if style.verbose:
            parts.append(f"{record.sequence} {record.acknowledged} {record.window}")
    if logged.kept_state:
        parts.append("K-S")
    parts.append(packet.direction.upper())
    if logged.rule.log_tag is not None:
        parts.append(f"{'tag' if style.old else 'log-tag'} {logged.rule.log_tag}")
    if record.translated and not style.old:
        parts.append("NAT")
    return " ".join(parts)


def _packet(packet: Packet, style: Style) -> str:
    proto = packet.proto
    source = f"{packet.source},{_port(packet.port, proto, style)}"
    destination = f"{packet.destination},{_port(packet.destination_port, proto, style)}"
    return f"{source} -> {destination} PR {netdb.protocol_name(proto)} len {_header(packet)} {_size(packet, style)}"


def _icmp(record: Record, style: Style) -> str:
    """A port unreachable, with what it quotes."""
    packet, inner = record.packet, record.inner
    assert inner is not None
    addresses = f"{packet.source} -> {packet.destination}"
    if packet.family == 6:
        return f"{addresses} PR icmpv6 len {_header(packet)} {_size(packet, style)} icmpv6 unreach/port"
    quoted = _packet(inner, style).replace(" -> ", " - ")
    return f"{addresses} PR icmp len {_header(packet)} {_size(packet, style)} icmp unreach/port for {quoted}"


def _header(packet: Packet) -> int:
    return 40 if packet.family == 6 else 20


def _size(packet: Packet, style: Style) -> int:
    """4.1 counts IPv6 without the header."""
    return packet.size - 40 if style.old and packet.family == 6 else packet.size


def _port(port: int, proto: int, style: Style) -> str:
    return netdb.port_name(port, proto) if style.names and not style.port_numbers else str(port)


def _when(seconds: float, zone: str) -> str:
    """Local time of the one who reads. The zone of this process is borrowed for it; nothing else runs meanwhile."""
    before = os.environ.get("TZ")
    if zone and zone != before:
        os.environ["TZ"] = zone
        time.tzset()
    text = time.strftime("%d/%m/%Y %H:%M:%S", time.localtime(seconds))
    if zone and zone != before:
        if before is None:
            del os.environ["TZ"]
        else:
            os.environ["TZ"] = before
        time.tzset()
    return f"{text}.{int(seconds % 1 * 1000000):06d}"
