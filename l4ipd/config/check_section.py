"""The check of a service: its pace, its type, the keys of that type.

``defaults`` gives the pace, a check overrides it. In a list of checks the first one sets the pace for all. A timeout
that nobody wrote into the check itself gives way to a shorter interval; one that stands there must fit. It may be
longer than fast_interval and down_interval.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from l4ipd.checks.protocols.dns import RECORDS
from l4ipd.config import values as words
from l4ipd.config.flap_section import flap
from l4ipd.config.secret_section import hidden, in_file, secrets
from l4ipd.config.section import Place, Section
from l4ipd.config.yaml_tree import Mapping, Scalar, Sequence, step
from l4ipd.model import Check, Flap, Step, among

NAMED = ("smtp", "imap", "pop3", "ftp", "ssh", "redis", "mysql", "pgsql", "ldap", "dns")     # protocols
TYPES = ("tcp", "tls", "http", "https", "udp", "exec", "ping", *NAMED, "agent")
TRANSPORT = {"tcp": "tcp", "tls": "tcp", "http": "tcp", "https": "tcp", "udp": "udp",
             **{name: "tcp" for name in (*NAMED, "agent") if name != "dns"}}
PACE = ("interval", "timeout", "rise", "fall", "fast_interval", "down_interval")
DEFAULTS = (*PACE, "purge", "source", "flap")
COMMON = ("type", *PACE, "port", "source")
TLS = ("verify", "verify_host", "sni", "cert", "key")
OVER_TLS = ("tls", *TLS, "send_proxy")             # a protocol by name that is spoken inside of TLS from the beginning
HTTP = ("method", "path", "host", "headers", "data", "status", "drain", "body", "send_proxy", "close")
OWN = {
    "tcp": ("dialog", "closed", "send_proxy", "close"),
    "tls": ("dialog", *TLS, "send_proxy", "close"),
    "http": HTTP,
    "https": (*HTTP, *TLS),
    "udp": ("send", "expect", "closed"),
    "exec": ("command", "user"),
    "ping": (),
    "smtp": ("name", "starttls", *OVER_TLS),
    "imap": ("starttls", *OVER_TLS),
    "pop3": ("starttls", *OVER_TLS),
    "ftp": ("starttls", *OVER_TLS),
    "ssh": ("send_proxy",),
    "redis": ("user", "password", "writable", *OVER_TLS),
    "mysql": ("user", "password", "writable", "starttls", *TLS, "send_proxy"),
    "pgsql": ("user", "password", "name", "writable", "starttls", *TLS, "send_proxy"),
    "ldap": ("user", "password", "starttls", *OVER_TLS),
    "agent": ("send",),
    "dns": ("name", "record", "over", *OVER_TLS),
}
KEYS = tuple(dict.fromkeys((*COMMON, *(key for keys in OWN.values() for key in keys))))
VERBS = ("send", "expect", "reject")
FRAMING = ("content-length", "transfer-encoding")  # headers that would promise a body
INTERVALS = (0.05, 86400.0)
COUNTS = (1, 100)
FAST = 1.0                                          # seconds


@dataclass(frozen=True, slots=True)
class Pace:
    """What ``defaults`` says; None: as the interval, and for the fast one at most FAST."""

    interval: float = 5.0
    timeout: float = 2.0
    rise: int = 2
    fall: int = 3
    fast_interval: float | None = None
    down_interval: float | None = None
    purge: str | None = None                        # of services; None: as ipfilter says
    source: str | None = None                       # for the clusters of its family
    flap: Flap | None = Flap()                      # of services


def defaults(place: Place, before: Pace) -> Pace:
    """The section ``defaults``; ``before`` is what holds where it says nothing."""
    section = Section(place, DEFAULTS)
    pace = Pace(_interval(section, "interval", before.interval), _interval(section, "timeout", before.timeout),
                _count(section, "rise", before.rise), _count(section, "fall", before.fall),
                _interval(section, "fast_interval", before.fast_interval),
                _interval(section, "down_interval", before.down_interval),
                section.get("purge", words.purge, before.purge),
                section.get("source", words.our_address, before.source),
                flap(section, before.flap))
    _fit(section, pace)
    return pace


def same_as(place: Place) -> Place | None:
    """The name of the service whose checks stand for this one's: the only key of ``{same_as: NAME}``."""
    for item in place.items("a list of checks", single=True):
        if isinstance(item.node, Mapping) and "same_as" in item.node.items:
            if item is not place:
                item.refuse("same_as stands alone, and in no list")
            return Section(item, ("same_as",)).entry["same_as"]
    return None


def checks(place: Place, protocol: str, pace: Pace) -> tuple[Check, ...]:
    """The value of ``check``: a type, a mapping, or a list of these. ``protocol`` is the service's."""
    if not isinstance(place.node, Sequence):
        return (_check(place, protocol, pace, None),)
    found: list[Check] = []
    for item in place.items("a list of checks"):
        found.append(_check(item, protocol, pace, found[0] if found else None))
    if not found:
        place.refuse("an empty list: say which checks must pass, or leave the key out")
    return tuple(found)


def _check(place: Place, protocol: str, pace: Pace, first: Check | None) -> Check:
    if isinstance(place.node, Scalar):
        kind = place.read(_type, "")
        section = Section(Place(Scalar("", True), place.line, place.path, place.problems), KEYS)
    else:
        section = Section(place, KEYS, (*COMMON, *OWN.get(_told_type(place), ())))
        kind = section.get("type", _type, "")
        if "type" not in section.entry:
            section.missing("type", "one of " + ", ".join(TYPES))
    if kind:
        _drop_foreign(section, kind)
    timing = _later(section, pace, first) if first else _pace(section, pace)
    check = _build(section, kind, timing, protocol)
    _contradictions(section, check, protocol)
    return check


def _told_type(place: Place) -> str:
    """What stands there as the type, right or wrong."""
    _, node = place.node.items.get("type", (0, None)) if isinstance(place.node, Mapping) else (0, None)
    return node.text if isinstance(node, Scalar) else ""


def _type(text: str) -> str:
    return words.choice(text, TYPES)


def _drop_foreign(section: Section, kind: str) -> None:
    """Refuse the keys that checks of this type do not have."""
    for key in [key for key in section.entry if key not in COMMON and key not in OWN[kind]]:
        having = ", ".join(other for other in TYPES if key in OWN[other])
        section.entry.pop(key).refuse(f"a check of type {kind} has no {key}, only {having}")


def _pace(section: Section, pace: Pace) -> Pace:
    """The pace of this check, every part of it settled."""
    interval = _interval(section, "interval", pace.interval)
    fast = _interval(section, "fast_interval", pace.fast_interval)
    down = _interval(section, "down_interval", pace.down_interval)
    own = Pace(interval, _interval(section, "timeout", pace.timeout), _count(section, "rise", pace.rise),
               _count(section, "fall", pace.fall), min(FAST, interval) if fast is None else fast,
               interval if down is None else down, source=section.get("source", words.our_address, pace.source))
    return _fit(section, own)


def _later(section: Section, pace: Pace, first: Check) -> Pace:
    """The pace of a check that is not the first of its list: that of the first, but a timeout of its own."""
    for key in PACE:
        if key != "timeout" and key in section.entry:
            section.entry[key].refuse(f"only the first check of a list has {key}: all run at its pace")
    timeout = _interval(section, "timeout", pace.timeout)
    return _fit(section, Pace(first.interval, timeout, first.rise, first.fall, first.fast_interval,
                              first.down_interval, source=section.get("source", words.our_address, pace.source)))


def _fit(section: Section, pace: Pace) -> Pace:
    """Hold the timeout to the interval: an error if it was given here, else it gives way.

    The other two may be shorter: the next probe begins when the last has ended, then.
    """
    if pace.timeout <= pace.interval:
        return pace
    if "timeout" in section.entry:
        section.entry["timeout"].refuse(f"{words.span(pace.timeout)} is longer than the interval it runs in,"
                                        f" {words.span(pace.interval)}")
    return replace(pace, timeout=pace.interval)


def _interval(section: Section, key: str, default: float | None) -> float:
    """A duration; of an erroneous one only the error counts, and it must not cause another."""
    broken = 0.0 if key == "timeout" else math.inf
    fallback = broken if key in section.entry else default
    return section.get(key, lambda text: words.bounded_duration(text, *INTERVALS), fallback)  # type: ignore[return-value]


def _count(section: Section, key: str, default: int) -> int:
    return section.get(key, lambda text: words.number(text, *COUNTS, "a number of probes"), default)


NAMES = {"smtp": words.server_name, "pgsql": words.login, "dns": words.domain}


def _over(section: Section, kind: str, protocol: str) -> str | None:
    """What a dns check is spoken over: what its service is, unless TLS asks for tcp."""
    if kind != "dns":
        return None
    return "udp" if protocol == "udp" and _is_off(section, "tls") and "send_proxy" not in section.entry else "tcp"


def _build(section: Section, kind: str, pace: Pace, protocol: str) -> Check:
    plain = Check(kind, pace.interval, pace.timeout, pace.rise, pace.fall, pace.fast_interval or pace.interval,
                  pace.down_interval or pace.interval)
    return Check(
        kind, plain.interval, plain.timeout, plain.rise, plain.fall, plain.fast_interval, plain.down_interval,
        port=section.get("port", words.port, None),
        source=pace.source,
        send_proxy=section.get("send_proxy", lambda text: words.choice(text, ("v1", "v2")), None),
        close=section.get("close", lambda text: words.choice(text, ("reset", "fin")), None),
        closed=section.get("closed", words.flag, False),
        dialog=_dialog(section),
        secrets=tuple(secrets(section, FRAMING)),
        verify=section.get("verify", words.verify, None),
        sni=section.get("sni", words.server_name, None),
        verify_host=section.get("verify_host", words.verify_host, None),
        cert=section.get("cert", words.path, None),
        key=section.get("key", words.path, None),
        method=section.get("method", words.method, "POST" if "data" in section.entry else plain.method),
        path=section.get("path", words.request_path, plain.path),
        host=section.get("host", words.host, None),
        headers=_headers(section),
        data=hidden(section, "data", words.octets),
        status=_status(section, "status", plain.status),
        drain=_status(section, "drain", plain.drain),
        body=section.get("body", words.pattern, None),
        send=hidden(section, "send", words.octets),
        expect=section.get("expect", words.pattern, None),
        command=_command(section, kind),
        user=section.get("user", words.user if kind == "exec" else words.login, None),
        tls=section.get("tls", words.flag, False),
        starttls=section.get("starttls", words.flag, False),
        password=hidden(section, "password", words.octets),
        name=section.get("name", NAMES.get(kind, words.word), None),
        record=section.get("record", lambda text: words.choice(text.upper(), tuple(RECORDS)), plain.record),
        over=section.get("over", lambda text: words.choice(text, ("udp", "tcp")), _over(section, kind, protocol)),
        writable=section.get("writable", words.flag, False))


def _contradictions(section: Section, check: Check, protocol: str) -> None:
    for key, value in (("dialog", check.dialog), ("send", check.send), ("expect", check.expect),
                       ("send_proxy", check.send_proxy)):
        if check.closed and value and not (key == "send" and check.type == "udp"):
            section.entry[key].refuse("contradicts closed: yes, which passes when the port refuses")
    if check.body is not None and check.method == "HEAD":
        section.entry["body"].refuse("the answer to HEAD has no body")
    elif check.body is not None and check.status and all(code < 200 or code in (204, 304) for low, high in check.status
                                        for code in range(low, high + 1)):
        section.entry["body"].refuse("no answer with such a status has a body")
    if check.verify_host is not None and _is_off(section, "verify"):
        section.entry["verify_host"].refuse("means nothing without verify: yes, or a file of CA certificates")
    if check.key is not None and "cert" not in section.entry:
        section.entry["key"].refuse("is the key of no certificate: cert is missing")
    if check.source is None and any("{source}" in word for word in check.command):
        section.entry["command"].refuse("{source} stands for the key source, which is missing")
    both = min((code for low, high in check.drain for code in range(low, high + 1) if among(code, check.status)),
               default=None)
    if both is not None and "status" in section.entry:
        section.entry["drain"].refuse(f"{both} is in status, too: an answer passes, or says that its member wants to be"
                                      " left")
    if check.type not in ("tls", "https"):
        _named_contradictions(section, check)
    transport = TRANSPORT.get(check.type)
    if protocol and transport and transport != protocol and "port" not in section.entry:
        section.refuse(f"a check of type {check.type} speaks {transport}, and the service is {protocol}: choose another"
                       f" type, or give it the {transport} port that it is to check")


def _named_contradictions(section: Section, check: Check) -> None:
    """Of protocols by name."""
    entry = section.entry
    if not check.type:
        return                                      # in error already
    if check.tls and check.starttls:
        entry["starttls"].refuse("contradicts tls: yes: TLS begins at once, or when the server has agreed")
    if not check.tls and not check.starttls and "type" in entry:
        ways = " or ".join(f"{way}: yes" for way in ("tls", "starttls") if way in OWN.get(check.type, ()))
        for key in [key for key in TLS if key in entry]:
            entry[key].refuse(f"means nothing without {ways}")
    if check.over == "udp" and (check.tls or check.send_proxy):
        entry["over"].refuse("udp has no TLS, and no header of the PROXY protocol: tcp, then")
    if check.type == "agent" and "port" not in entry:
        section.missing("port", "where the agent listens")
    if check.type == "dns" and "name" not in entry:
        section.missing("name", "what is asked for")
    if "password" in entry and check.type in ("mysql", "pgsql", "ldap") and "user" not in entry:
        entry["password"].refuse("is nobody's: user is missing")
    if check.type == "ldap" and "user" in entry and "password" not in entry:
        entry["user"].refuse("needs a password: a bind without one is anonymous, whatever the name (RFC 4513, 5.1.2)")
    if check.type in ("mysql", "pgsql") and check.writable and "user" not in entry:
        entry["writable"].refuse("can be asked only by who logs in: user is missing")


def _is_off(section: Section, key: str) -> bool:
    """Whether a key is not there, or says no; one in error says nothing."""
    place = section.entry.get(key)
    return place is None or isinstance(place.node, Scalar) and words.is_no(place.node.text)


def _dialog(section: Section) -> tuple[Step, ...]:
    place = section.entry.get("dialog")
    if place is None:
        return ()
    if not isinstance(place.node, Sequence) or not place.node.items:
        place.refuse("a list of steps is wanted, each of them send:, expect: or reject: with its text")
        return ()
    return tuple(step for item in place.items("a list of steps") for step in _step(item))


def _step(item: Place) -> list[Step]:
    section = Section(item, VERBS)
    if isinstance(item.node, Mapping) and len(item.node.items) != 1:
        section.refuse(f"one step has one of {', '.join(VERBS)}: begin each with a dash of its own")
        return []
    readers: dict[str, Callable[[str], bytes]] = {"send": words.octets}
    return [Step(verb, b"" if verb == "send" and in_file(place) else
                 place.read(readers.get(verb, words.pattern), b"")) for verb, place in section.entry.items()]


def _headers(section: Section) -> tuple[tuple[str, str], ...]:
    place = section.entry.get("headers")
    found: dict[str, tuple[str, str]] = {}
    if place is None:
        return ()
    for key, value in place.entries("a mapping of header names to values"):
        lower = key.lower()
        if not words.TOKEN.fullmatch(key):
            place.problems.add(value.line, step(place.path, key), "is not the name of a header")
        elif lower == "host" and "host" in section.entry:
            value.refuse(f"given twice: host, on line {section.entry['host'].line}, is the same header")
        elif lower in FRAMING:
            value.refuse("says how long the body is, which is a matter of data: leave it out")
        elif lower in found:
            value.refuse(f"given twice: {found[lower][0]} is the same header")
        else:
            found[lower] = (key, "" if in_file(value) else value.read(words.header_value, ""))
    return tuple(found.values())


def _status(section: Section, key: str, default: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    place = section.entry.get(key)
    if place is None:
        return default
    items = place.items("a list of statuses", single=True)
    if not items and key == "status":
        place.refuse("an empty list: no answer could pass")
    nothing: tuple[tuple[int, int], ...] = ()
    return tuple(pair for item in items for pair in item.read(words.statuses, nothing))


def _command(section: Section, kind: str) -> tuple[str, ...]:
    place = section.entry.get("command")
    if place is not None:
        command = place.command(lambda text: words.template(words.program(text)), words.template)
        if isinstance(place.node, Sequence) and not command or isinstance(place.node, Scalar) and place.node.empty:
            place.refuse("is empty: the program and its arguments, a list of words")
        return command
    if kind == "exec":
        section.missing("command", "the program and its arguments, a list of words")
    return ()
