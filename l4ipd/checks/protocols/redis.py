"""Redis, Valkey and their kin (RESP 2): PING; AUTH before, where there is a password; the role, where it matters."""

from __future__ import annotations

from l4ipd.checks.conversation import Ask, No, Options, Part, Script
from l4ipd.checks.protocols.lines import READY, line, text

BULK_MAX = 12 * 1024                                # bytes of an answer


def answer(data: bytes) -> tuple[bytes, int] | None:
    """One answer, with the byte that says what it is: +OK, -ERR words, :1, $what INFO says."""
    if data[:1] not in (b"", b"+", b"-", b":", b"$"):
        raise ValueError("no answer of Redis")
    found = line(data)
    if found is None or found[0][:1] != b"$":
        return found
    size = int(found[0][1:])
    if size > BULK_MAX:
        raise ValueError("an answer that is too long")
    if size < 0:
        return b"$", found[1]                       # nothing
    end = found[1] + size
    return (b"$" + data[found[1]:end], end + 2) if len(data) >= end + 2 else None


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def redis(options: Options) -> Script:
    if options.password is not None:
        user = [options.user.encode()] if options.user else []
        yield from _good(command(b"AUTH", *user, options.password), b"+OK")
    yield from _good(command(b"PING"), b"+PONG")
    if options.writable:
        info: bytes = yield Ask(answer, command(b"INFO", b"replication"))
        if info[:1] == b"-":
            raise No(text(info[1:]))
        if b"role:master" not in info:
            raise No("a replica, not the master")
    return READY


def _good(send: bytes, wanted: bytes) -> Part:
    said: bytes = yield Ask(answer, send)
    if said[:1] == b"-":                            # LOADING, NOAUTH, MASTERDOWN, ERR max number of clients reached…
        raise No(text(said[1:]))
    if said != wanted:
        raise ValueError("another answer")
    return READY
