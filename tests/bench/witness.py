"""Who counts the probes: a packet socket that notes every SYN to the members' port, with the kernel's time stamp.

The members themselves cannot count: HAProxy and l4ipd end a tcp probe with a RST that also stands for the handshake's
last ACK, so that accept(2) never returns such a connection. What is counted here is what has arrived at the members'
addresses. Linux, and root or CAP_NET_RAW. Costs whoever sends about a microsecond a probe, the same for everybody.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import time
from array import array
from collections.abc import Iterator
from typing import NamedTuple

INTERVAL = 1.0                                      # seconds, of every check in this benchmark
ETH_P_IP, SOL_PACKET, PACKET_STATISTICS = 0x0800, 263, 6
SO_ATTACH_FILTER, SO_TIMESTAMPNS, SO_RCVBUFFORCE = 26, 35, 33
HEADER = 20                                         # bytes of a packet that are kept: the IP header
ROOM = 1 << 26                                      # bytes that may wait to be read
NAP = 0.01                                          # seconds; to sleep in the socket would cost every probe a wake-up


def syn_filter(port: int) -> bytes:
    """A classic BPF program: TCP, not a fragment, to ``port``, SYN and not ACK (bpf(4), offsets from the IP header)."""
    program = [(0x30, 0, 0, 9), (0x15, 0, 8, socket.IPPROTO_TCP),       # the protocol
               (0x28, 0, 0, 6), (0x45, 6, 0, 0x1fff),                   # the fragment offset
               (0xb1, 0, 0, 0),                                         # X = length of the IP header
               (0x48, 0, 0, 2), (0x15, 0, 3, port),                     # the destination port
               (0x50, 0, 0, 13), (0x45, 1, 0, 0x10),                    # the flags: ACK,
               (0x45, 1, 0, 0x02),                                      # SYN
               (0x06, 0, 0, 0), (0x06, 0, 0, HEADER)]
    return b"".join(struct.pack("HBBI", *step) for step in program)


class Witness:
    """Notes who was probed, and when (seconds since the epoch)."""

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        program = ctypes.create_string_buffer(syn_filter(port))
        head = struct.pack("HL", (len(program) - 1) // 8, ctypes.addressof(program))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, head)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, ROOM)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.bind(("lo", ETH_P_IP))         # one protocol, not all: only what arrives, and only once
        self._socket.setblocking(False)
        self.who, self.when = array("I"), array("d")
        self.seen: dict[int, float] = {}            # member -> its first probe

    def clear(self) -> None:
        """Forget everything so far."""
        self.listen(time.time())
        self.who, self.when, self.seen = array("I"), array("d"), {}

    def listen(self, until: float, members: int = 1 << 30) -> None:
        """Take notes until the time ``until`` of time.time(), or until so many members have been probed."""
        receive, who, when, seen = self._socket.recvmsg, self.who, self.when, self.seen
        while len(seen) < members:
            try:
                packet, extra, _, _ = receive(HEADER, 64)
            except BlockingIOError:
                if time.time() >= until:
                    return
                time.sleep(NAP)
                continue
            second, nano = struct.unpack("qq", extra[0][2])
            member = int.from_bytes(packet[16:20], "big")
            who.append(member)
            when.append(second + nano / 1e9)
            seen.setdefault(member, when[-1])
            if when[-1] >= until:
                return

    def lost(self) -> int:
        """Packets that found no room since the last call."""
        return int(struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1])

    def between(self, start: float, end: float) -> Iterator[tuple[int, float]]:
        """(member, time) of all probes noted in a span of time."""
        return ((who, when) for who, when in zip(self.who, self.when, strict=True) if start <= when < end)


class Punctuality(NamedTuple):
    """Times in milliseconds."""

    probes: int
    p50: float                                      # of how far the time between two probes of a member was
    p99: float                                      # from the interval, early or late
    worst: float
    missed: int
    silence: float                                  # the longest time without a probe of anybody


def punctuality(witness: Witness, start: float, end: float, members: int) -> Punctuality:
    """How evenly the probes came in a span of time."""
    last: dict[int, float] = {}
    off: list[float] = []
    missed = probes = 0
    silence, before = 0.0, start
    for who, when in witness.between(start, end):
        probes += 1
        silence, before = max(silence, when - before), when
        if who in last:
            off.append(abs(when - last[who] - INTERVAL))
        missed += _missed(when - last.get(who, start))
        last[who] = when
    missed += sum(_missed(end - when) for when in last.values()) + (members - len(last)) * _missed(end - start)
    off.sort()
    return Punctuality(probes, 1000 * _part(off, 0.5), 1000 * _part(off, 0.99), 1000 * (off[-1] if off else 0.0),
                       missed, 1000 * max(silence, end - before))


def _missed(gap: float) -> int:
    """How many probes are lacking in a gap: one from one and a half intervals on, two from two and a half..."""
    return max(0, int(gap / INTERVAL - 0.5))


def _part(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else 0.0
