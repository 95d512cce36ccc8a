"""Protocols of lines: SMTP, FTP, IMAP, POP3 and SSH. Tables, where a protocol is one."""

from __future__ import annotations

import re
from typing import NamedTuple

from l4ipd.checks.conversation import Ask, End, No, Options, Part, Script
from l4ipd.checks.expect import EXCERPT
from l4ipd.checks.verdict import Verdict

READY = Verdict("L7OK", "ready")
REPLY = re.compile(rb"([1-5][0-9][0-9])([ -].*|)")
LINE_MAX = 2048                                     # bytes of a line; RFC 5321 has 512, others 1000


def line(data: bytes) -> tuple[bytes, int] | None:
    """One line, without its end."""
    end = data.find(b"\n")
    if end < 0:
        if len(data) > LINE_MAX:
            raise ValueError("no line")
        return None
    return data[:end].rstrip(b"\r"), end + 1


def text(words: bytes) -> str:
    return words.decode("latin-1").strip()


# -- SMTP and FTP: replies with a code (RFC 5321, 4.2; RFC 959, 4.2)

class Reply(NamedTuple):
    code: int
    text: str                                       # code and words of the last line
    lines: tuple[bytes, ...]


def reply(data: bytes) -> tuple[Reply, int] | None:
    """A whole reply: the last line of several has a blank, or nothing, after the code that the first one has."""
    lines: list[bytes] = []
    used, code = 0, b""
    while (found := line(data[used:])) is not None:
        words, size = found
        used += size
        match = REPLY.fullmatch(words)
        if not lines and match is None:
            raise ValueError("no reply")
        code = code or words[:3]
        lines.append(words)
        if match is not None and match[1] == code and match[2][:1] != b"-":
            return Reply(int(code), text(words), tuple(lines)), used
    if not lines and len(data) > EXCERPT and REPLY.match(data) is None:
        raise ValueError("no reply")
    return None


class Row(NamedTuple):
    """Something to send, and the code that is the right answer to it; with ``offer``, among the words of that."""

    send: bytes
    code: int
    offer: bytes = b""


SMTP = (Row(b"", 220), Row(b"EHLO %s\r\n", 250))
SMTP_TLS = (Row(b"", 220), Row(b"EHLO %s\r\n", 250, b"STARTTLS"), Row(b"STARTTLS\r\n", 220))
FTP, FTP_TLS = (Row(b"", 220),), (Row(b"", 220), Row(b"AUTH TLS\r\n", 234))


def smtp(options: Options) -> Script:
    name = (options.name or "l4ip").encode()
    if options.starttls:
        yield from _rows(SMTP_TLS, name)
        yield from _row(SMTP[1], name, True)
    else:
        yield from _rows(SMTP, name)
    yield from _row(Row(b"QUIT\r\n", 221), name)
    return READY


def ftp(options: Options) -> Script:
    yield from _rows(FTP_TLS if options.starttls else FTP, b"")
    yield from _row(Row(b"QUIT\r\n", 221), b"", options.starttls)
    return READY


def _rows(rows: tuple[Row, ...], name: bytes) -> Part:
    for row in rows:
        yield from _row(row, name)
    return READY


def _row(row: Row, name: bytes, shake: bool = False) -> Part:
    send = row.send.replace(b"%s", name)
    answer: Reply = yield Ask(reply, send, shake)
    if answer.code != row.code:
        raise No(answer.text)
    if row.offer and not any(each[4:].upper().split(b" ")[0] == row.offer for each in answer.lines):
        raise No(f"no {row.offer.decode()} is offered")
    return READY


# -- IMAP (RFC 9051, 7.1)

class Tagged(NamedTuple):
    """The answer to a command, and the last BYE before it."""

    status: bytes
    text: str
    bye: str


def tagged(data: bytes) -> tuple[Tagged, int] | None:
    used, bye = 0, ""
    while (found := line(data[used:])) is not None:
        words, size = found
        used += size
        tag, _, rest = words.partition(b" ")
        if tag == b"a":
            return Tagged(rest.partition(b" ")[0].upper(), text(rest), bye), used
        if tag not in (b"*", b"+"):
            raise ValueError("no response of IMAP")
        if rest[:4].upper() == b"BYE ":
            bye = text(rest)
    return None


def greeting(data: bytes) -> tuple[bytes, int] | None:
    found = line(data)
    if not data.startswith(b"* "[:len(data)]) or found is not None and not found[0].startswith(b"* "):
        raise ValueError("no greeting of IMAP")
    return found and (found[0][2:], found[1])


def imap(options: Options) -> Script:
    words: bytes = yield Ask(greeting)
    if words.partition(b" ")[0].upper() not in (b"OK", b"PREAUTH"):
        raise No(text(words))
    if options.starttls:
        answer: Tagged = yield Ask(tagged, b"a STARTTLS\r\n")
        if answer.status != b"OK":
            raise No(answer.bye or answer.text)
    answer = yield Ask(tagged, b"a LOGOUT\r\n", options.starttls)
    if answer.status != b"OK":
        raise No(answer.bye or answer.text)
    return READY


# -- POP3 (RFC 1939)

def status(data: bytes) -> tuple[bytes, int] | None:
    """A line that begins with +OK or -ERR."""
    if not any(data.startswith(word[:len(data)]) for word in (b"+OK", b"-ERR")):
        raise ValueError("no status of POP3")
    return line(data)


def pop3(options: Options) -> Script:
    sends = [b"", b"STLS\r\n", b"QUIT\r\n"] if options.starttls else [b"", b"QUIT\r\n"]
    for send in sends:
        words: bytes = yield Ask(status, send, options.starttls and send == b"QUIT\r\n")
        if words[:1] != b"+":
            raise No(text(words))
    return READY


# -- SSH (RFC 4253, 4.2)

FULL = re.compile(rb"(?i)not allowed at this time|exceeded maxstartups|too many")


def version(data: bytes) -> tuple[bytes, int] | None:
    """The line of the version; others may come before. OpenSSH says in such a line that it is full."""
    used = 0
    while (found := line(data[used:])) is not None:
        words, size = found
        used += size
        if words.startswith(b"SSH-") or FULL.search(words):
            return words, used
    return None


def ssh(options: Options) -> Script:
    words: bytes = yield Ask(version)
    if not words.startswith((b"SSH-2.0-", b"SSH-1.99-")):
        raise No(text(words))
    return End(READY, b"SSH-2.0-l4ip\r\n")
