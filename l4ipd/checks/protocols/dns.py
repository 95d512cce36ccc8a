"""DNS (RFC 1035, 4): one question, and an answer that is ours, without an error, with a record at least."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from l4ipd.checks.conversation import Ask, No, Options, Script
from l4ipd.checks.expect import LIMIT, Reader, got
from l4ipd.checks.verdict import Verdict

RECORDS = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28, "SRV": 33, "DS": 43,
           "DNSKEY": 48, "SVCB": 64, "HTTPS": 65, "CAA": 257}
RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET", "NXRRSET",
          "NOTAUTH", "NOTZONE")                     # RFC 6895, 2.3
HEADER = struct.Struct("!HHHHHH")
ANSWER, OPCODE, CUT, WISHED = 0x8000, 0x7800, 0x0200, 0x0100    # flags; the last: recursion
ANSWERED = Verdict("L7OK", "NOERROR")
SHORTEST = 12


def question(name: str, record: str) -> bytes:
    """A query; its number is a matter of what it asks."""
    labels = [label.encode() for label in name.rstrip(".").split(".") if label]
    asked = b"".join(bytes((len(label),)) + label for label in labels) + b"\0" + struct.pack("!HH", RECORDS[record], 1)
    return HEADER.pack(zlib.crc32(asked) & 0xFFFF, WISHED, 1, 0, 0, 0) + asked


def judged(query: bytes, data: bytes) -> Verdict | None:
    """The verdict on a message; None if it is no answer to this query."""
    if len(data) < SHORTEST:
        return None
    number, flags, questions, answers, _, _ = HEADER.unpack_from(data)
    if number != int.from_bytes(query[:2], "big") or not flags & ANSWER or flags & OPCODE:
        return None
    asked = query[SHORTEST:]
    if questions and data[SHORTEST:SHORTEST + len(asked)].lower() != asked.lower():
        return None
    code = flags & 15
    if code:
        return Verdict("L7STS", RCODES[code] if code < len(RCODES) else f"rcode {code}")
    if not questions:
        return None
    return ANSWERED if answers or flags & CUT else Verdict("L7STS", "NOERROR, but no record of that kind")


@dataclass(frozen=True, slots=True)
class Answer:
    """What decides on datagrams: others than an answer to the query are passed over."""

    query: bytes
    where = ""

    def read(self, data: bytes, eof: bool) -> Verdict | None:
        return judged(self.query, data)

    __call__ = read

    def reader(self, before: bytes) -> Reader:
        return self

    def rest(self, data: bytes) -> bytes:
        return b""

    def expired(self, data: bytes) -> Verdict:
        return Verdict("L7TOUT", got(data))

    def overlong(self, data: bytes) -> Verdict:
        return Verdict("L7RSP", f"more than {LIMIT >> 10} KiB without an answer to the question")


def message(data: bytes) -> tuple[bytes, int] | None:
    """A message over tcp, which its length goes before."""
    if len(data) < 2:
        return None
    size = int.from_bytes(data[:2], "big")
    if size < SHORTEST:
        raise ValueError("no message of DNS")
    return (data[2:2 + size], 2 + size) if len(data) >= 2 + size else None


def dns(options: Options) -> Script:
    """Over tcp."""
    query = question(options.name or ".", options.record)
    answer: bytes = yield Ask(message, struct.pack("!H", len(query)) + query)
    verdict = judged(query, answer)
    if verdict is None:
        raise ValueError("an answer to something else")
    if not verdict.passed:
        raise No(verdict.text)
    return verdict
