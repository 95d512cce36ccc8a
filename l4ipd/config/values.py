"""Readers of single words of the configuration: text in, value out, or ValueError that says what would be accepted.

They take the text as it was written, so that nothing depends on what YAML would make of ``1:30``, ``0o80`` or ``on``.
What ends up in a rule, a command or a log line is checked here against a closed set of characters.
"""

from __future__ import annotations

import re
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from l4ipd.config.similar import like
from l4ipd.config.yaml_tree import shown

DURATIONS = "500ms, 2s, 1m, 1h, or a number of seconds"
UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "": 1.0}
DURATION = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?|\.[0-9]{1,9})(ms|s|m|h|)")
YES, NO = ("yes", "true", "on"), ("no", "false", "off")
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,63}")
INTERFACE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,14}")
TAG = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,11}")
#: what ipnat's grammar would read as a word of its own, in any case (ipnat_y.y, yywords; lexer.c, yyfindkey)
RESERVED = frozenset([
    "age", "any", "auto", "bimap", "config", "divert", "dst", "dstlist", "frag", "from", "hash", "icmpidmap",
    "in", "inet", "inet6", "mask", "map", "map-block", "mssclamp", "netmask", "no", "on", "out", "pool", "port",
    "portmap", "ports", "proto", "proxy", "purge", "range", "rewrite", "rdr", "round-robin", "sequential",
    "src", "sticky", "tag", "tcp", "tcpudp", "to", "udp", "eq", "ne", "lt", "gt", "le", "ge",
])
USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?")
SERVER_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(?:\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*")
HOST = re.compile(r"(?:([A-Za-z0-9_][A-Za-z0-9_.-]*)|\[([0-9A-Fa-f:.]+)\])(?::([0-9]{1,5}))?")
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")            # RFC 9110, 5.6.2
PERCENT = re.compile(r"\\\\|\\?%([0-9A-Fa-f]{2})")        # a byte in a pattern, and whether it is escaped already
MAGIC = b"*?[]!^-\\"                                # what a pattern may take for more than itself
TEXT_MAX = 16384                                    # bytes; a probe reads no more, and a datagram holds it
METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
PLACEHOLDER = re.compile(r"\{([A-Za-z_]+)\}")
PLACEHOLDERS = ("address", "port", "cluster", "service", "member", "source")
FACILITIES = ("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp",
              "local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7")
LEVELS = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")
LEVEL_ALIASES = {"error": "err", "warn": "warning", "panic": "emerg", "critical": "crit"}
MAX_AGE = 432000                                    # seconds: five days, what the kernel gives to a tcp connection
FOR_RULES = ("write its address, for ipnat accepts a name that it cannot resolve and then loads a rule for every"
             " address")
SOCKET_PATH_MAX = 103                               # sun_path has 104 bytes on the BSDs, the last one is NUL


def duration(text: str) -> float:
    """Seconds."""
    match = DURATION.fullmatch(text)
    if not match:
        raise ValueError(f"{shown(text)} is not a duration ({DURATIONS})")
    # divided, not multiplied, for milliseconds: 1.1 * 0.001 would not equal 0.0011
    return float(match[1]) / 1000 if match[2] == "ms" else float(match[1]) * UNITS[match[2]]


def span(seconds: float) -> str:
    """A duration in the words of the configuration."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s" if seconds >= 1 else f"{seconds * 1000:g}ms"


def bounded_duration(text: str, low: float, high: float) -> float:
    value = duration(text)
    if not low <= value <= high:
        raise ValueError(f"{shown(text)} is out of range ({span(low)}-{span(high)})")
    return value


def number(text: str, low: int, high: int, what: str = "a number") -> int:
    """A whole number, decimal, without sign or leading zeros (which YAML would take for octal)."""
    if not re.fullmatch(r"0|[1-9][0-9]{0,11}", text) or not low <= int(text) <= high:
        raise ValueError(f"{shown(text)} is not {what} ({low}-{high})")
    return int(text)


def port(text: str) -> int:
    return number(text, 1, 65535, "a port")


def ports(text: str) -> tuple[int, int]:
    """A port, or a range of them: the first, and how many."""
    found = re.fullmatch(r"([^\s-]+) *- *([^\s-]+)", text)
    if found is None:
        return port(text), 1
    low, high = port(found[1]), port(found[2])
    if low > high:
        raise ValueError(f"{shown(text)} ends before it begins")
    return low, high - low + 1


def flag(text: str) -> bool:
    if text.lower() in YES:
        return True
    if is_no(text):
        return False
    raise ValueError(f"{shown(text)} is not yes or no")


def is_no(text: str) -> bool:
    return text.lower() in NO


def age(text: str) -> int | None:
    """Seconds, or None for ``no``. IPFilter counts half ones, but takes whole ones."""
    if is_no(text):
        return None
    value = bounded_duration(text, 1, MAX_AGE)
    if value % 1:
        raise ValueError(f"{shown(text)} is not a whole number of seconds")
    return int(value)


def purge(text: str) -> str:
    """``dead``, or a flag."""
    if text.lower() == "dead":
        return "dead"
    try:
        return "yes" if flag(text) else "no"
    except ValueError:
        raise ValueError(f"{shown(text)} is not one of dead, yes, no") from None


def choice(text: str, words: tuple[str, ...]) -> str:
    if text not in words:
        raise ValueError(f"{shown(text)} is not one of {', '.join(words)}")
    return text


def level(text: str) -> str:
    return choice(LEVEL_ALIASES.get(text, text), LEVELS)


def name(text: str) -> str:
    """The name of a cluster, service or member: it appears in logs, patterns and the environment of commands."""
    if not NAME.fullmatch(text):
        raise ValueError("is no name: 1 to 64 letters (a to z), digits and _ . : @ + -, beginning with a letter, a"
                         " digit or _")
    return text


def address(text: str, instead: str = FOR_RULES) -> str:
    """An address that a rule can name, in its shortest spelling. ``instead`` of a host name: what to write, and why."""
    parsed = _numeric(text, instead)
    reason = _unfit(parsed)
    if reason:
        raise ValueError(f"{shown(text)} is {reason}")
    return str(parsed)


def our_address(text: str) -> str:
    """An address that no rule names: of our own, or of a name server."""
    return address(text, "write its address, for names are not looked up here")


def _numeric(text: str, instead: str) -> IPv4Address | IPv6Address:
    try:
        return IPv6Address(text) if ":" in text else IPv4Address(text)
    except AddressValueError:
        pass
    if "/" in text:
        raise ValueError(f"{shown(text)} is a network: one address is wanted, without a mask")
    if re.fullmatch(r"[0-9.]+:[0-9]+|\[.*\](:[0-9]+)?", text):
        raise ValueError(f"{shown(text)} is not an address alone: a port is written as port or member_port")
    if re.search("[g-zG-Z]", text) and re.fullmatch(r"[\w.-]+", text):
        raise ValueError(f"{shown(text)} is a host name: {instead}")
    raise ValueError(f"{shown(text)} is not an IPv4 or IPv6 address")


def _unfit(parsed: IPv4Address | IPv6Address) -> str:
    """Why an address cannot be that of a cluster or a member; empty when it can."""
    if parsed.is_unspecified:
        return "the unspecified address: a rule needs the address of one machine"
    if parsed.is_multicast:
        return "a multicast address: a rule needs the address of one machine"
    if isinstance(parsed, IPv4Address):
        if int(parsed) == 0xFFFFFFFF:
            return "the broadcast address: a rule needs the address of one machine"
        return "in network 0, which has no machines" if int(parsed) >> 24 == 0 else ""
    if parsed.scope_id is not None:
        return "scoped: a rule cannot name an interface with an address, leave % and the rest out"
    if parsed.ipv4_mapped is not None:
        return f"an IPv4 address in disguise: write {parsed.ipv4_mapped}"
    return "link-local: it means nothing without an interface, which a rule cannot name" if parsed.is_link_local else ""


def listener(text: str) -> tuple[str, int] | None:
    """``no``, or the address and port to listen on."""
    if is_no(text):
        return None
    host, colon, number_text = text.rpartition(":")
    if not colon or not host:
        raise ValueError(f"{shown(text)} is not no or ADDRESS:PORT, such as 127.0.0.1:8089")
    bracketed = host.startswith("[") and host.endswith("]")
    if ":" in host and not bracketed:
        raise ValueError(f'{shown(text)}: an IPv6 address needs brackets, and then quotes: "[::1]:8089"')
    try:
        parsed = IPv6Address(host[1:-1]) if bracketed else IPv4Address(host)
    except AddressValueError:
        raise ValueError(f"{shown(host)} is not a numeric address: write it as 127.0.0.1:8089") from None
    if parsed.is_multicast:
        raise ValueError(f"{shown(host)} is a multicast address, nothing can listen on it")
    return str(parsed), port(number_text)


def dns_name(text: str) -> str:
    """A name that can be asked for, without a dot at its end, in small letters."""
    if not SERVER_NAME.fullmatch(text.removesuffix(".")):
        raise ValueError(f"{shown(text)} is not a name that the DNS could know")
    return text.removesuffix(".").lower()


def own_name(text: str) -> str:
    """A name by which browsers and others may ask for the status page, in small letters."""
    if not SERVER_NAME.fullmatch(text.rstrip(".")):
        raise ValueError(f"{shown(text)} is not the name of a machine, without a port")
    return text.rstrip(".").lower()


def interface(text: str) -> str:
    if not INTERFACE.fullmatch(text):
        raise ValueError(f"{shown(text)} is not the name of an interface (a letter, then letters, digits and _ . -, at"
                         " most 15 in all)")
    if text.lower() in RESERVED:
        raise ValueError(f"{shown(text)} is a word of ipnat's own, no interface can be named so")
    return text


def any_interface(text: str) -> str:
    return text if text == "*" else interface(text)


def tag(text: str) -> str | None:
    """The tag of our rules, or None for ``no``."""
    if is_no(text):
        return None
    if text.lower() in YES:
        raise ValueError(f"{text} is no tag: a word that marks our rules, such as l4ip, or no")
    if not TAG.fullmatch(text):
        raise ValueError(f"{shown(text)} is not no, nor a tag (a letter, then letters, digits and _ . -, at most 12 in"
                         " all)")
    if re.search(r"\.[0-9]+$", text):
        raise ValueError(f"{shown(text)} ends in a dot and digits, as only the tags that weights make of it may")
    if text.lower() in RESERVED:
        raise ValueError(f"{shown(text)} is a word of ipnat's own: choose another tag")
    return text


def path(text: str) -> str:
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} is not an absolute path")
    if len(text.encode(errors="replace")) > 1023 or not text.isprintable():
        raise ValueError(f"{shown(text)} is too long for a path, or has unprintable characters")
    return text


def socket_path(text: str) -> str:
    if len(path(text).encode()) > SOCKET_PATH_MAX:
        raise ValueError(f"{shown(text)} is too long for a socket (at most {SOCKET_PATH_MAX} bytes)")
    return text


def program(text: str) -> str:
    """The first word of a command: an absolute path, or a bare name to be searched in PATH."""
    if text.startswith("/"):
        return path(text)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,254}", text):
        raise ValueError(f"{shown(text)} is not an absolute path, nor the bare name of a program")
    return text


def word(text: str) -> str:
    """An argument of a command: anything that the system can pass."""
    if "\0" in text:
        raise ValueError("a NUL character cannot be passed to a program")
    text.encode()                                   # a lone surrogate would be a UnicodeEncodeError, a ValueError
    return text


def file_name(text: str) -> str:
    """The name of a file, or a pattern of such."""
    if not text.strip():
        raise ValueError("has no value: the name of a file is wanted")
    return word(text)


def template(text: str) -> str:
    """An argument that may hold placeholders; other braces are left alone, unless one nearly is a placeholder."""
    for placeholder in PLACEHOLDER.findall(text):
        near = [] if placeholder in PLACEHOLDERS else like(placeholder.lower(), PLACEHOLDERS, 1, 0.85)
        if near:
            raise ValueError(f"{shown('{' + placeholder + '}')} is not a placeholder, did you mean {{{near[0]}}}?")
    return word(text)


def source(text: str) -> str:
    if text in ("ipmon", "counters"):
        return text
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} is not ipmon, counters or the absolute path of a log file")
    return path(text)


def user(text: str) -> str:
    if not USER.fullmatch(text):
        raise ValueError(f"{shown(text)} is not the name of a user or group")
    return text


def login(text: str) -> str:
    """Who logs in, or a database: anything that a protocol can say."""
    if not text or not text.isprintable() or len(text.encode()) > 255:
        raise ValueError("is no name for a login: up to 255 bytes, all of them printable")
    return text


def domain(text: str) -> str:
    """A name that a DNS server is asked for; labels may have underscores, and ``.`` is the root."""
    if text != "." and not SERVER_NAME.fullmatch(text.removesuffix(".")):
        raise ValueError(f"{shown(text)} is not a name of the DNS")
    return text


def verify(text: str) -> str | None:
    """None: no. Empty: against the system's CAs. Else: the file with the CAs."""
    if is_no(text):
        return None
    if text.lower() in YES:
        return ""
    if not text.startswith("/"):
        raise ValueError(f"{shown(text)} is not yes, no or the absolute path of a file of CA certificates")
    return path(text)


def server_name(text: str) -> str:
    if not SERVER_NAME.fullmatch(text) and not _is_inet6(text):
        raise ValueError(f"{shown(text)} is not the name of a server")
    return text


def verify_host(text: str) -> str:
    """A name, an address in its shortest spelling, or ``member``."""
    try:
        return str(IPv6Address(text) if ":" in text else IPv4Address(text))
    except AddressValueError:
        if not SERVER_NAME.fullmatch(text):
            raise ValueError(f"{shown(text)} is not a name, an address or the word member") from None
        return text


def _is_inet6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except AddressValueError:
        return False


def host(text: str) -> str:
    match = HOST.fullmatch(text)
    if (not match or match[1] and not SERVER_NAME.fullmatch(match[1]) or match[2] and not _is_inet6(match[2])
            or match[3] and not 1 <= int(match[3]) <= 65535):
        raise ValueError(f"{shown(text)} is not a host, with or without a port")
    return text


def method(text: str) -> str:
    if not METHOD.fullmatch(text):
        raise ValueError(f"{shown(text)} is not a method (GET, HEAD, OPTIONS, POST, in capitals)")
    return text


def request_path(text: str) -> str:
    if not re.fullmatch(r"/[\x21-\x7e]{0,2000}", text):
        raise ValueError(f"{shown(text.partition('?')[0])} is not a path: it begins with /, other characters than"
                         " printable ASCII are written %XX")
    return text


def header_value(text: str) -> str:
    if not re.fullmatch(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]{0,4000}[\x21-\x7e])?)?", text):
        raise ValueError("is not the value of a header (printable ASCII, no blanks at the ends)")
    return text


def statuses(text: str) -> tuple[tuple[int, int], ...]:
    """``200``, ``200-299``, ``200,301-302``: inclusive ranges."""
    ranges = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9][0-9]{2})(?:\s*-\s*([1-9][0-9]{2}))?\s*", part)
        if not match:
            raise ValueError(f"{shown(text)} is not a status (200, 200-299, or a list of such)")
        low, high = int(match[1]), int(match[2] or match[1])
        if low > high:
            raise ValueError(f"{shown(part.strip())} is an empty range, the lower end comes first")
        ranges.append((low, high))
    return tuple(ranges)


def octets(text: str) -> bytes:
    """Text in which ``%XX`` stands for any byte; other characters are UTF-8."""
    if not text:
        raise ValueError("is empty")
    wrong = re.search(r"%(?![0-9A-Fa-f]{2}).{0,2}", text, re.DOTALL)
    if wrong:
        raise ValueError(f"its character {wrong.start() + 1} is a % without two hexadecimal digits after it (a percent"
                         " sign is %25)")
    decoded = re.sub(rb"%([0-9A-Fa-f]{2})", lambda match: bytes.fromhex(match[1].decode()), text.encode())
    if len(decoded) > TEXT_MAX:
        raise ValueError(f"is longer than {TEXT_MAX} bytes")
    return decoded


def pattern(text: str) -> bytes:
    """An fnmatch pattern with ``%XX``: a byte so written stands for itself, even ``%2A``, a star."""
    return octets(PERCENT.sub(_escaped, text))


def _escaped(match: re.Match[str]) -> str:
    magic = match[1] is not None and int(match[1], 16) in MAGIC
    return "\\" + match[0].lstrip("\\") if magic else match[0]
