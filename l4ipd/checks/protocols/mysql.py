"""MySQL and MariaDB: a login, and a goodbye. Who leaves before the login is over is counted, and shut out at last.

Without ``user``, whoever is called l4ip tries without a password, and to be refused will do: the server is well. The
packets: dev.mysql.com, "Client/Server Protocol"; mariadb.com/kb, "Connecting".
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from l4ipd.checks.conversation import Ask, End, No, Options, Part, Script
from l4ipd.checks.protocols.lines import READY, text
from l4ipd.checks.verdict import Verdict

LONG_PASSWORD, PROTOCOL_41, SSL, SECURE, PLUGINS = 0x1, 0x200, 0x800, 0x8000, 0x80000
UTF8, PACKET_MAX = 33, 1 << 20
NATIVE, SHA2, CLEAR = b"mysql_native_password", b"caching_sha2_password", b"mysql_clear_password"
DENIED = (1044, 1045, 1251, 1524, 1698)             # a login that is refused
REFUSED = Verdict("L7OK", "a login is refused, as it should be")
QUIT, READ_ONLY = b"\x01", b"\x03SELECT @@global.read_only"


class Packet(NamedTuple):
    content: bytes
    number: int


class Greeting(NamedTuple):
    flags: int
    salt: bytes
    plugin: bytes


def packet(data: bytes) -> tuple[Packet, int] | None:
    if len(data) < 4:
        return None
    size = int.from_bytes(data[:3], "little")
    if size > PACKET_MAX or not size:
        raise ValueError("no packet")
    return (Packet(data[4:4 + size], data[3]), 4 + size) if len(data) >= 4 + size else None


def framed(content: bytes, number: int) -> bytes:
    return len(content).to_bytes(3, "little") + bytes((number & 0xFF,)) + content


def first_packet(data: bytes) -> tuple[Packet, int] | None:
    """The greeting, or an error: anything else is no MySQL, and its length no length."""
    if len(data) > 4 and data[4] not in (10, 0xFF):
        raise ValueError("no greeting")
    return packet(data)


def greeting(content: bytes) -> Greeting:
    end = content.index(b"\0")
    salt, flags, plugin = content[end + 5:end + 13], int.from_bytes(content[end + 14:end + 16], "little"), NATIVE
    if len(content) > end + 32:
        flags |= int.from_bytes(content[end + 19:end + 21], "little") << 16
        size = max(13, content[end + 21] - 8)
        salt += content[end + 32:end + 32 + size].rstrip(b"\0")
        if flags & PLUGINS:
            plugin = content[end + 32 + size:].split(b"\0")[0]
    return Greeting(flags, salt[:20], plugin)


def refusal(content: bytes) -> tuple[int, str]:
    code = int.from_bytes(content[1:3], "little")
    words = content[9:] if content[3:4] == b"#" else content[3:]
    return code, f"{code} {text(words)}"


def mysql(options: Options) -> Script:
    first: Packet = yield Ask(first_packet)
    if first.content[0] == 0xFF:
        raise No(refusal(first.content)[1])
    hello = greeting(first.content)
    flags = (LONG_PASSWORD | PROTOCOL_41 | SECURE | PLUGINS) & hello.flags | (SSL if options.starttls else 0)
    head = struct.pack("<IIB23x", flags, PACKET_MAX, UTF8)
    number = first.number + 1
    before = b""
    if options.starttls:
        if not hello.flags & SSL:
            raise No("no TLS is offered")
        before, number = framed(head, number), number + 1
    proof = _proof(hello.plugin, hello.salt, options)
    login = head + (options.user or "l4ip").encode() + b"\0" + bytes((len(proof),)) + proof
    login += hello.plugin + b"\0" if flags & PLUGINS else b""
    outcome: Verdict = yield from _log_in(framed(login, number), before, options)
    if outcome is not READY:
        return outcome
    if options.writable:
        yield from _is_writable()
    return End(READY, framed(QUIT, 0))


def _log_in(send: bytes, before: bytes, options: Options) -> Part:
    while True:
        answer: Packet = yield Ask(packet, send, bool(before), before)
        content, send, before = answer.content, b"", b""
        if content[0] == 0:
            return READY
        if content[0] == 0xFF:
            code, words = refusal(content)
            if code in DENIED and options.user is None:
                return REFUSED
            raise No(words)
        if content[0] == 0xFE:
            plugin, _, salt = content[1:].partition(b"\0")
            send = framed(_proof(plugin, salt[:20], options, True), answer.number + 1)
        elif content[:2] == b"\x01\x04":
            if not options.sealed:
                raise No("the server wants the password inside of TLS: starttls: yes")
            send = framed((options.password or b"") + b"\0", answer.number + 1)
        elif content[0] != 1:
            raise ValueError("no answer to a login")


def _proof(plugin: bytes, salt: bytes, options: Options, wanted: bool = False) -> bytes:
    """What shows that we know the password; ``wanted``: the account asks for this method, and no other will do."""
    import hashlib  # brings OpenSSL along: not before a check needs it

    password = options.password or b""
    if not password:
        return b""
    if plugin == NATIVE:
        once = hashlib.sha1(password).digest()
        return _mixed(once, hashlib.sha1(salt + hashlib.sha1(once).digest()).digest())
    if plugin == SHA2:
        once = hashlib.sha256(password).digest()
        return _mixed(once, hashlib.sha256(hashlib.sha256(once).digest() + salt).digest())
    if plugin == CLEAR and options.sealed:
        return password + b"\0"
    if wanted:
        raise No(f"the account wants to be known by {text(plugin)}, which l4ip does not know")
    return b""


def _mixed(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))


def _is_writable() -> Part:
    """A result set: the number of columns, each of them, the end of these (not from all), the row."""
    count: Packet = yield Ask(packet, framed(READ_ONLY, 0))
    if count.content[0] == 0xFF:
        raise No(refusal(count.content)[1])
    yield Ask(packet)
    row: Packet = yield Ask(packet)
    if row.content[0] == 0xFE and len(row.content) < 9:
        row = yield Ask(packet)
    value = row.content[1:1 + row.content[0]].upper()
    if value not in (b"0", b"OFF", b"NO_LOCK"):
        raise No(f"read only: {text(value)}")
    return READY
