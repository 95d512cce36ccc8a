"""PostgreSQL: the start of a session (protocol 3.0: "Message Flow", "Message Formats" in its manual).

Without ``user``, whoever is called l4ip asks, and leaves without a word as soon as the server wants to know who that
is: a goodbye would be logged as an error. With it the session begins, and ends.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from l4ipd.checks.conversation import Ask, End, No, Options, Part, Script
from l4ipd.checks.protocols.lines import READY, text
from l4ipd.checks.verdict import Verdict

PROTOCOL, SSL_REQUEST = 196608, struct.pack("!II", 8, 80877103)
MESSAGE_MAX = 12 * 1024                             # bytes
KINDS = b"RESKZNTDCIvGHWV"                          # of messages that a server may send us
QUERY, TERMINATE = b"Q", b"X"
READ_ONLY = b"SHOW transaction_read_only\0"
STRANGERS = ("28", "3D")                            # classes of errors that only concern who asks, and for what
ASKS = Verdict("L7OK", "ready: asks who we are")
MECHANISM = b"SCRAM-SHA-256"


class Message(NamedTuple):
    kind: bytes
    content: bytes


def message(data: bytes) -> tuple[Message, int] | None:
    if data[:1] and data[:1] not in KINDS:
        raise ValueError("no message of PostgreSQL")
    if len(data) < 5:
        return None
    size = int.from_bytes(data[1:5], "big")
    if not 4 <= size <= MESSAGE_MAX:
        raise ValueError("no message of PostgreSQL")
    return (Message(data[:1], data[5:1 + size]), 1 + size) if len(data) > size else None


def letter(data: bytes) -> tuple[bytes, int] | None:
    """The answer to whether TLS may begin."""
    if data[:1] not in (b"", b"S", b"N", b"E"):
        raise ValueError("no answer of PostgreSQL")
    return (data[:1], 1) if data else None


def framed(kind: bytes, content: bytes) -> bytes:
    return kind + struct.pack("!I", len(content) + 4) + content


def startup(options: Options) -> bytes:
    words = ("user", options.user or "l4ip", "database", options.name or "postgres", "application_name", "l4ip")
    return framed(b"", struct.pack("!I", PROTOCOL) + b"".join(word.encode() + b"\0" for word in words) + b"\0")


def pgsql(options: Options) -> Script:
    first: Message
    if options.starttls:
        answer: bytes = yield Ask(letter, SSL_REQUEST)
        if answer != b"S":
            raise No("no TLS is offered")
        first = yield Ask(message, startup(options), True)
    else:
        first = yield Ask(message, startup(options))
    if options.user is None:
        return _stranger(first)
    yield from _log_in(first, options)
    if options.writable:
        yield from _is_writable()
    return End(READY, framed(TERMINATE, b""))


def _stranger(first: Message) -> Verdict:
    """Nobody in particular asks: that the server wants to know more, or refuses such a one, is good enough."""
    if first.kind == b"E":
        code, words = refusal(first.content)
        if code[:2] not in STRANGERS:
            raise No(words)
    elif first.kind != b"R":
        raise ValueError("another answer")
    return ASKS


def refusal(content: bytes) -> tuple[str, str]:
    """The SQLSTATE of an error, and its words."""
    fields = {field[:1]: text(field[1:]) for field in content.split(b"\0") if field}
    return fields.get(b"C", ""), f"{fields.get(b'C', '')} {fields.get(b'M', '')}"


def _log_in(first: Message, options: Options) -> Part:
    """Up to where the server is ready for a query."""
    answer, password, user = first, options.password or b"", (options.user or "").encode()
    scram: Scram | None = None
    while answer.kind != b"Z":
        send = b""
        if answer.kind == b"E":
            raise No(refusal(answer.content)[1])
        if answer.kind == b"R":
            how, rest = int.from_bytes(answer.content[:4], "big"), answer.content[4:]
            if how in (3, 5, 10) and options.password is None:
                raise No("asks for a password, and there is none")
            if how == 3:
                send = framed(b"p", password + b"\0")
            elif how == 5:
                send = framed(b"p", b"md5" + _md5(_md5(password + user) + rest[:4]) + b"\0")
            elif how == 10:
                if MECHANISM not in rest.split(b"\0"):
                    raise No("asks for a proof that l4ip does not know")
                scram = Scram(password)
                hello = scram.hello()
                send = framed(b"p", MECHANISM + b"\0" + struct.pack("!I", len(hello)) + hello)
            elif how == 11 and scram is not None:
                send = framed(b"p", scram.proof(rest))
            elif how not in (0, 12):
                raise No("asks for a proof that l4ip does not know")
        answer = yield Ask(message, send)
    return READY


def _is_writable() -> Part:
    """What a standby, and who is told to be read only, says of its transactions."""
    value, send = b"", framed(QUERY, READ_ONLY)
    while True:
        answer: Message = yield Ask(message, send)
        send = b""
        if answer.kind == b"E":
            raise No(refusal(answer.content)[1])
        if answer.kind == b"D":
            value = answer.content[6:]
        if answer.kind == b"Z":
            break
    if value != b"off":
        raise No("read only: a standby, or told to be so")
    return READY


def _md5(data: bytes) -> bytes:
    import hashlib  # brings OpenSSL along: not before a check needs it

    return hashlib.md5(data, usedforsecurity=False).hexdigest().encode()


class Scram:
    """SCRAM-SHA-256 without channel binding (RFC 5802, 7677). PostgreSQL takes the user from the start of the session.
    """

    def __init__(self, password: bytes, nonce: bytes = b"") -> None:
        from secrets import token_urlsafe

        self._password = password
        self._bare = b"n=,r=" + (nonce or token_urlsafe(18).encode())

    def hello(self) -> bytes:
        return b"n,," + self._bare

    def proof(self, challenge: bytes) -> bytes:
        """The answer to the server's first message. Raises ValueError if that is none."""
        import hashlib
        import hmac
        from base64 import b64decode, b64encode

        parts = dict(part.split(b"=", 1) for part in challenge.split(b","))
        rounds = int(parts.get(b"i", b"0"))
        if not 1 <= rounds <= 100_000 or not parts.get(b"r", b"").startswith(self._bare[5:]) or b"s" not in parts:
            raise ValueError("no challenge of SCRAM")
        salted = hashlib.pbkdf2_hmac("sha256", self._password, b64decode(parts[b"s"]), rounds)
        key = hmac.digest(salted, b"Client Key", "sha256")
        final = b"c=biws,r=" + parts[b"r"]
        signed = hmac.digest(hashlib.sha256(key).digest(), b",".join((self._bare, challenge, final)), "sha256")
        return final + b",p=" + b64encode(bytes(a ^ b for a, b in zip(key, signed, strict=True)))
