"""A check is data: which transport, what to say, what to expect. One probe runs them all.

:func:`recipe` turns a check and an endpoint into a frozen, comparable :class:`Recipe`, once per endpoint; requests are
rendered here. What members of a service have in common, their recipes share: a :class:`Method`.

A dialog becomes exchanges: bytes to send, then an expect. Steps are numbered from 1 as they stand in the file.
``reject`` steps guard the ``expect`` that follows them. A ``send`` drops what has arrived before it, since that cannot
be an answer to it; an ``expect`` right after another goes on where that one ended.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from l4ipd import __version__
from l4ipd.checks.conversation import Options, Protocol, Script
from l4ipd.checks.expect import Expect, Match, Page, Status
from l4ipd.checks.pattern import Pattern, pattern
from l4ipd.checks.protocols import ldap, lines, mysql, pgsql, redis
from l4ipd.checks.protocols.agent import AgentAnswer
from l4ipd.checks.protocols.dns import Answer, dns, question
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check, Endpoint, Step, Words, host_port

CONNECTED = Verdict("L4OK", "connected")
SHAKEN = Verdict("L6OK", "handshake complete")
REFUSED = Verdict("L4OK", "connection refused, as it should be")
OPEN = Verdict("L4CON", "the port is open, and should be closed")
KINDS = ((False, False), (False, True), (True, False), (True, True))     # IPv6 or not; does the member speak first?
MEMBER = "member"                                   # as the host of Tls: the member's own address
PORTLESS = ("ping", "exec")                         # types of check that need no port


@dataclass(frozen=True, slots=True)
class Tls:
    """How to shake hands. With ``verify`` the chain is checked, and with a ``host`` also that it is for that name; or
    else, with a ``name``, for that one.
    """

    verify: str | None          # None no, "" the system's CAs, else a CA file
    name: str | None            # sent as SNI, unless it is an address
    host: str | None = None     # a name, an address, or MEMBER
    cert: str | None = None     # ours, for members that ask for one: PEM files
    key: str | None = None      # None: in the same file


@dataclass(frozen=True, slots=True)
class Exchange:
    """Something to send (or nothing), and what to expect then (or nothing)."""

    send: bytes = field(repr=False)
    expect: Expect | None
    tail: bytes = field(default=b"", repr=False)    # to be sent after that and the recipe's host: HTTP's, to a member


@dataclass(frozen=True, slots=True)
class Method:
    """What a check is for all the members alike."""

    transport: str              # tcp | special (tcp, with a source or secrets) | udp | icmp | exec
    inet6: bool
    connected: Verdict          # the verdict when there is nothing to be said
    tls: Tls | None = None
    proxy: str | None = None    # version of the PROXY protocol: its header comes first
    starttls: bool = False      # not at once, but when the steps ask for it
    opens: bool = False         # there is something to do before the steps: the header, or TLS
    source: str | None = None   # our address
    secrets: tuple[bytes, ...] = field(default=(), repr=False)  # that are in no verdict
    closed: bool = False        # the port must refuse
    reset: bool = False         # end the connection with a RST instead of a FIN
    kind: int = 0               # of connection over tcp: an index of KINDS
    user: str | None = None


Asked = tuple[str, int, Words]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that a probe of one endpoint needs to know."""

    method: Method
    address: str
    port: int
    steps: tuple[Exchange, ...] = ()
    host: bytes = b""           # to be sent before the tail of the first exchange, where there is one
    command: Words = ()

    @property
    def asks(self) -> Asked:
        """What equal ones have in common, and few others have, compared in no time."""
        return self.address, self.port, self.command


def recipe(check: Check, endpoint: Endpoint) -> Recipe:
    """How to probe ``endpoint`` as ``check`` says."""
    address, port, command = asked(check, endpoint)
    steps = _steps(check)
    host = host_port(address.partition("%")[0], port).encode() if steps and steps[0].tail else b""
    speaks = "" if not steps else "we" if steps[0].send else "it"
    return Recipe(_method(check, ":" in address, speaks), address, port, steps, host, command)


def asked(check: Check, endpoint: Endpoint) -> Asked:
    """What sets a recipe apart from those of other endpoints with an equal check; port 0 for those that need none."""
    port = endpoint.port_of(check)
    return endpoint.address, 0 if check.type in PORTLESS else port, _command(check, endpoint, port)


def which(endpoint: Endpoint, place: int) -> str:
    """What tells the check at ``place`` of a list, from 0, from the others: ``port 8081``, ``ping``, ``/healthz``."""
    kinds = ([f"port {endpoint.port_of(check)}" if check.type not in PORTLESS else ""
              for check in endpoint.checks],
             [check.type for check in endpoint.checks],
             [check.path.partition("?")[0] if check.type in ("http", "https") else "" for check in endpoint.checks])
    return next((names[place] for names in kinds if names[place] and names.count(names[place]) == 1),
                f"check {place + 1}")


@lru_cache(maxsize=64)
def _method(check: Check, inet6: bool, speaks: str) -> Method:
    """``speaks``: who speaks first, if anybody does."""
    tls = tls_of(check)
    return Method(
        transport="udp" if check.over == "udp" else TRANSPORTS.get(
            check.type, "special" if check.source or check.secrets or check.password else "tcp"),
        inet6=inet6,
        connected=OPEN if check.closed else SHAKEN if tls else CONNECTED,
        tls=tls,
        proxy=check.send_proxy,
        starttls=check.starttls,
        opens=(tls is not None and not check.starttls) or check.send_proxy is not None,
        source=check.source,
        secrets=tuple({*(_secret(check, each.key) for each in check.secrets), check.password or b""} - {b""}),
        closed=check.closed,
        reset=check.close == "reset" or (check.close is None and not (speaks or tls or check.send_proxy)),
        kind=KINDS.index((inet6, speaks == "it" and not (tls or check.send_proxy))),
        user=check.user,
    )


def _secret(check: Check, key: tuple[str | int, ...]) -> bytes:
    """The value of a check to which ``key`` leads."""
    if key[0] == "headers":
        return dict(check.headers)[str(key[1])].encode("latin-1")
    if key[0] == "dialog":
        return check.dialog[int(key[1]) - 1].text
    return getattr(check, str(key[0])) or b""


TRANSPORTS = {"udp": "udp", "ping": "icmp", "exec": "exec"}


def _steps(check: Check) -> tuple[Exchange, ...]:
    if check.type in ("http", "https"):
        return _http(check)
    if check.type == "udp":
        return _udp(check.send, check.expect)
    if check.type in PROTOCOLS:
        return _protocol(check)
    if check.type == "agent":
        return (Exchange(check.send or b"", AgentAnswer()),)
    return _dialog(check.dialog)


@lru_cache(maxsize=64)
def _udp(send: bytes | None, expect: bytes | None) -> tuple[Exchange, ...]:
    return (Exchange(send or b"", None if expect is None else Match(0, pattern(expect))),)


@lru_cache(maxsize=64)
def _protocol(check: Check) -> tuple[Exchange, ...]:
    if check.over == "udp":
        query = question(check.name or ".", check.record)
        return (Exchange(query, Answer(query)),)
    title, script = PROTOCOLS[check.type]
    options = Options(check.starttls, check.user, check.password, check.name, check.record, check.writable,
                      check.tls or check.starttls)
    protocol = Protocol(title, script, options)
    return (Exchange(protocol.opening, protocol),)


#: by type of check: how messages call the protocol, and what is said and expected
PROTOCOLS: dict[str, tuple[str, Callable[[Options], Script]]] = {
    "smtp": ("SMTP", lines.smtp), "imap": ("IMAP", lines.imap), "pop3": ("POP3", lines.pop3),
    "ftp": ("FTP", lines.ftp), "ssh": ("SSH", lines.ssh), "redis": ("Redis", redis.redis),
    "mysql": ("MySQL", mysql.mysql), "pgsql": ("PostgreSQL", pgsql.pgsql), "ldap": ("LDAP", ldap.ldap),
    "dns": ("DNS", dns),
}


@lru_cache(maxsize=64)
def tls_of(check: Check) -> Tls | None:
    """How ``check`` shakes hands, if it does."""
    if check.type not in ("tls", "https") and not (check.tls or check.starttls):
        return None
    name = check.sni
    if name is None and check.type == "https" and check.host:
        name = _host_name(check.host)
    return Tls(check.verify, name, check.verify_host, check.cert, check.key)


def _host_name(host: str) -> str:
    """``www.example.org`` of ``www.example.org:8443``, ``fd00::1`` of ``[fd00::1]:8443``."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdigit() and ":" not in name else host


# -- http

@lru_cache(maxsize=64)
def _http(check: Check) -> tuple[Exchange, ...]:
    status = Status(check.status, check.drain)
    expect = status if check.body is None else Page(status, pattern(check.body), check.method)
    begin, tail = _request(check)
    return (Exchange(begin, expect, tail),)


JSON, FORM = "application/json", "application/x-www-form-urlencoded"    # what data is taken for


def _request(check: Check) -> tuple[bytes, bytes]:
    """A request with the check's own headers, which replace ours of the same name, and its data; in two parts if
    between them the member is to be named.
    """
    headers = {"host": ("Host", check.host or ""), "user-agent": ("User-Agent", f"l4ip/{__version__}"),
               "accept": ("Accept", "*/*"), "connection": ("Connection", "close")}
    data = check.data or b""
    if data or check.method in ("POST", "PUT", "PATCH"):
        headers["content-length"] = ("Content-Length", str(len(data)))
    if data:
        headers["content-type"] = ("Content-Type", JSON if data.lstrip()[:1] in (b"{", b"[") else FORM)
    own = {name.lower() for name, _ in check.headers}
    lines = [f"{check.method} {check.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for key, (name, value) in headers.items() if key not in own]
    lines += [f"{name}: {value}" for name, value in check.headers]
    request = "".join(f"{line}\r\n" for line in [*lines, ""]).encode("utf-8", "surrogateescape") + data
    if check.host or "host" in own:
        return request, b""
    begin, host, tail = request.partition(b"\r\nHost: ")
    return begin + host, tail


# -- dialogs

@lru_cache(maxsize=64)
def _dialog(dialog: tuple[Step, ...]) -> tuple[Exchange, ...]:
    exchanges: list[Exchange] = []
    send = b""
    rejects: tuple[tuple[int, Pattern], ...] = ()
    last: Pattern | None = None
    for number, step in enumerate(dialog, 1):
        if step.verb == "send":
            send += step.text
        elif step.verb == "reject":
            rejects += ((number, pattern(step.text)),)
        else:
            exchanges.append(Exchange(send, Match(number, pattern(step.text), rejects, last, bool(send))))
            send, rejects, last = b"", (), pattern(step.text)
    if send or rejects:
        exchanges.append(Exchange(send, Match(rejects[0][0], None, rejects, last, bool(send)) if rejects else None))
    return tuple(exchanges)


# -- exec

def _command(check: Check, endpoint: Endpoint, port: int) -> Words:
    """The words of a command with ``{address}`` and the like replaced; any other brace stays as it is."""
    names = {"{address}": endpoint.address, "{port}": str(port), "{cluster}": endpoint.cluster,
             "{service}": endpoint.checked_as, "{member}": endpoint.member,
             "{source}": check.source or ""}
    return tuple(_replaced(word, names) for word in check.command)


def _replaced(word: str, names: dict[str, str]) -> str:
    if "{" in word:
        for name, value in names.items():
            word = word.replace(name, value)
    return word
