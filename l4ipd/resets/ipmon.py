"""What ipmon writes, read: which lines say that a member refused or reset a client. Pure text; from FACTS.md 2e, 2f.

A line is read only from its beginning: ipmon's own date, or a syslog prefix that names ipmon as the writer. Into a file
that syslogd writes, anybody can get a text that looks like a record further on; and any local user can have syslogd
write that prefix, too, and anybody in the network where it listens, so that such a line is unverified.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from l4ipd.ipfilter.rdr import number as plain_port
from l4ipd.runtime.lines import Lines as Lines
from l4ipd.runtime.numbers import COUNTER, SERIAL, whole

SYSLOG_OLD = (rb"(?:<[^<>]*>)?(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT[\d:.+-]+Z?) "
              rb"(?:<[^<> ]*> )?[^ :\[]+ (?:<[^<> ]*> )?ipmon(?:\[\d+\])?: (?:\[ID \d+ [^\] ]*\] )?")
SYSLOG_NEW = rb"(?:<\d+>)?1 \S+ \S+ ipmon \S+ \S+ (?:- |\[[^\]]*\] )"
HEAD = (rb"(?:(?P<day>\d\d)/(?P<month>\d\d)/(?P<year>\d{4}) |" + SYSLOG_OLD + rb"|" + SYSLOG_NEW +
        rb")(?P<time>\d\d:\d\d:\d\d\.\d+) (?:(?P<times>\d+)x )?\S+ @[^ :]*:-?\d+ S?\S ")
TCP = (rb"(?P<from>[^ ,]+),(?P<port>\S+) -> (?P<to>[^ ,]+),\S+ PR tcp len \d+ \d+ -(?P<flags>[A-Z]*)"
       rb"(?: (?P<seq>\d+) \d+ \d+)?")
ICMP = (rb"(?P<sender>\S+) -> (?P<receiver>\S+) PR (?:icmp len \d+ \d+ icmp unreach/port for (?P<client>[^ ,]+),\S+ - "
        rb"(?P<member>[^ ,]+),(?P<service>\S+) PR udp len \d+ \d+|icmpv6 len \d+ \d+ icmpv6 unreach/(?:no)?port)")
TAIL = rb"(?: K-[SF])* IN(?P<rest>(?: .*)?)"
WRITTEN = re.compile(HEAD)
BY_SYSLOGD = re.compile(rb"(?:<[^<>]*>)?(?:1 \S+|[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d|\d{4}-\d\d-\d\dT\S+) "
                        rb"(?!\S+ newsyslog\b)")
RECORD = re.compile(HEAD + rb"(?:" + TCP + rb"|" + ICMP + rb")" + TAIL)
MISSED = re.compile(rb"missed (\d+) ipf log entries: (\d+) \d+")
TAG = re.compile(rb" (?:log-)?tag (\d+)")
MERGED = 1_000_000                                  # records in one line, at most: its buffer holds some hundred
UNDATED = ""                                        # a line from syslog has the time of day only
Ports = Callable[[str, str], "int | None"]


class Reset(NamedTuple):
    """A member would not talk to a client: a RST, or for udp an ICMP port unreachable."""

    protocol: str                                   # tcp | udp
    address: str                                    # the member's
    port: int | None                                # None: it was some udp port (ICMPv6 records do not tell)
    client: str                                     # the address that it was sent to
    refused: bool | None                            # it refused a connection attempt; None: ipmon ran without -v
    times: int                                      # records that were merged into one
    tag: int | None
    when: str                                       # 20261122064854.954062, local time; UNDATED in syslog's lines


def number(word: str, protocol: str) -> int | None:
    """The port that a word names. An ipmon that runs with -n writes names of services."""
    return plain_port(word)


def parse(line: bytes, ports: Ports = number) -> Reset | None:
    """The reset that a line tells of, or None: other packets, other people's lines, garbage.

    ``ports`` turns the number or name of a port, and a protocol, into a number. Raises ValueError for a record whose
    port is none, or whose count none that ipmon could have.
    """
    found = RECORD.match(line)
    if found is None:
        return None
    (day, month, year, time, times, source, port, to, flags, seq, sender, receiver, client, member, service,
     rest) = found.groups()
    tag = TAG.match(rest)
    when = (year + month + day + time.replace(b":", b"")).decode() if year else UNDATED
    count = whole(times or b"1", MERGED)
    if count is None:
        raise ValueError("no count")
    known = count, whole(tag[1], SERIAL) if tag else None, when
    if source is not None:
        if b"R" not in flags:
            return None
        place = _known(ports, port, "tcp")
        refused = None if seq is None else b"A" in flags and whole(seq, SERIAL) == 0
        return Reset("tcp", address(source), place, address(to), refused, *known)
    if client is None:
        return Reset("udp", address(sender), None, address(receiver), True, *known)
    if member != sender:                            # not from who was asked: a router, or a NAT on the way
        return None
    return Reset("udp", address(sender), _known(ports, service, "udp"), address(client), True, *known)


def _known(ports: Ports, word: bytes, protocol: str) -> int:
    place = ports(word.decode("latin-1"), protocol)
    if place is None:
        raise ValueError("no port")
    return place


def is_record(line: bytes) -> bool:
    """Whether ipmon has written the line, about whatever packet."""
    return WRITTEN.match(line) is not None


def by_syslogd(line: bytes) -> bool:
    """Whether syslogd has written the line. Those of newsyslog, about a rotation, are its own."""
    return BY_SYSLOGD.match(line) is not None


def missed(line: bytes) -> int:
    """How many records the line says were lost. The first line of every ipmon counts from 0: that is no loss."""
    found = MISSED.match(line)
    if found is None or not whole(found[2], COUNTER):
        return 0
    return whole(found[1], SERIAL) or 0


@lru_cache(maxsize=4096)
def address(text: bytes) -> str:
    """In the spelling of :mod:`ipaddress`; a name stays as it is."""
    word = text.decode("latin-1")
    if ":" not in word:
        return word
    try:
        return str(ip_address(word))
    except ValueError:
        return word
