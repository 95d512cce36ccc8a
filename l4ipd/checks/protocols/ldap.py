"""LDAP (RFC 4511): a bind, anonymous where no ``user`` is named, and an unbind."""

from __future__ import annotations

from typing import NamedTuple

from l4ipd.checks.ber import element, elements, encoded
from l4ipd.checks.conversation import Ask, End, No, Options, Part, Script
from l4ipd.checks.protocols.lines import READY, text
from l4ipd.checks.verdict import Verdict

SEQUENCE, INTEGER, ENUMERATED, STRING, SIMPLE = 0x30, 2, 10, 4, 0x80
BIND, BOUND, UNBIND, EXTENDED, RESPONSE = 0x60, 0x61, 0x42, 0x77, 0x78
START_TLS = b"1.3.6.1.4.1.1466.20037"               # RFC 4511, 4.14.1
MESSAGE_MAX = 12 * 1024                             # bytes
#: some of RFC 4511, A.1
RESULTS = {1: "operationsError", 2: "protocolError", 8: "strongerAuthRequired", 13: "confidentialityRequired",
           48: "inappropriateAuthentication", 49: "invalidCredentials", 51: "busy", 52: "unavailable",
           53: "unwillingToPerform", 80: "other"}
NO_ANONYMOUS = 48                                   # which is an answer of a server that is well
REFUSED = Verdict("L7OK", "ready: lets nobody in without a name")


class Result(NamedTuple):
    operation: int
    number: int                                     # of the message that it answers; 0: of none
    code: int
    words: str


def result(data: bytes) -> tuple[Result, int] | None:
    """A message with a result. Raises ValueError for anything else."""
    if data[:1] not in (b"", bytes((SEQUENCE,))):
        raise ValueError("no message of LDAP")
    whole = element(data)
    if whole is None:
        if len(data) > MESSAGE_MAX:
            raise ValueError("a message that is too long")
        return None
    number, operation, *_ = elements(whole.content)
    code, _, words, *_ = elements(operation.content)
    if (number.tag, code.tag, words.tag) != (INTEGER, ENUMERATED, STRING):
        raise ValueError("no result of LDAP")
    return Result(operation.tag, int.from_bytes(number.content, "big"), int.from_bytes(code.content, "big"),
                  text(words.content)), whole.end


def message(number: int, operation: bytes) -> bytes:
    return encoded(SEQUENCE, encoded(INTEGER, bytes((number,))), operation)


def ldap(options: Options) -> Script:
    number = 1
    if options.starttls:
        yield from _asked(message(number, encoded(EXTENDED, encoded(0x80, START_TLS))), RESPONSE, number, False)
        number += 1
    bind = encoded(BIND, encoded(INTEGER, b"\3"), encoded(STRING, (options.user or "").encode()),
                   encoded(SIMPLE, options.password or b""))
    outcome: Verdict = yield from _asked(message(number, bind), BOUND, number, options.starttls, not options.user)
    return End(outcome, message(number + 1, encoded(UNBIND)))


def _asked(send: bytes, wanted: int, number: int, shake: bool, anonymous: bool = False) -> Part:
    answer: Result = yield Ask(result, send, shake)
    if anonymous and answer.code == NO_ANONYMOUS:
        return REFUSED
    if answer.code:
        words = f": {answer.words}" if answer.words else ""
        raise No(f"{answer.code} {RESULTS.get(answer.code, 'another error')}{words}")
    if (answer.operation, answer.number) != (wanted, number):
        raise ValueError("an answer to something else")
    return READY
