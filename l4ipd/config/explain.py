"""Each check in words, its defaults included, since nobody remembers them: for ``l4ipd -n -v``. Pure.

No secret is repeated: nothing that is sent, or expected, is shown.
"""

from __future__ import annotations

from l4ipd.checks.recipe import MEMBER, Tls, tls_of
from l4ipd.model import Check, Cluster, Config, Service

PLAIN = {
    "tcp": "tcp connection to", "tls": "tls handshake with", "udp": "udp datagram to", "ping": "ping of",
    "agent": "agent's word from", "ssh": "ssh greeting of", "smtp": "smtp conversation with",
    "imap": "imap conversation with", "pop3": "pop3 conversation with", "ftp": "ftp conversation with",
    "redis": "redis PING to", "mysql": "mysql login to", "pgsql": "pgsql session with", "ldap": "ldap bind to",
}


def explained(config: Config) -> list[str]:
    """A line for each check, in the order of the file."""
    return [f"{cluster.name}/{service.name}: {words}" for cluster in config.clusters for service in cluster.services
            for words in ([f"as {cluster.name}/{service.same_as}"] if service.same_as else
                          [f"{number}{_check(check, cluster, service)}{pace}"
                           for number, check, pace in _of_service(service)])]


def _of_service(service: Service) -> list[tuple[str, Check, str]]:
    """Each check, with its place in the list before it, and after the first the pace of all."""
    many = len(service.checks)
    return [(f"{number} of {many}: " if many > 1 else "", check,
             _pace(check) if number == 1 else f", at most {_span(check.timeout)}")
            for number, check in enumerate(service.checks, 1)]


def _check(check: Check, cluster: Cluster, service: Service) -> str:
    words = [f"{_what(check)} {_where(check, cluster, service)}", *_how(check)]
    passes = _passes(check)
    return ", ".join([*words, f"passes {passes}"] if passes else words)


def _what(check: Check) -> str:
    if check.type in ("http", "https"):
        return f"{check.type} {check.method} {check.path.partition('?')[0]} of"
    if check.type == "exec":
        return f"exec {check.command[0]} for"
    if check.type == "dns":
        return f"dns question for {check.name} {check.record} over {check.over} to"
    if check.dialog:
        steps = len(check.dialog)
        return f"{check.type} dialog of {steps} step{'s' * (steps > 1)} with"
    return PLAIN[check.type]


def _where(check: Check, cluster: Cluster, service: Service) -> str:
    if check.type in ("ping", "exec"):
        return "each member"
    if check.port is not None or service.ports > 1 or not any(member.port for member in cluster.members):
        return f"each member's port {check.port or service.member_port}"
    return f"each member's own port, {service.member_port} where it has none"


def _how(check: Check) -> list[str]:
    """What else is special about it."""
    tls = tls_of(check)
    found = [*(["inside of TLS"] if check.tls else []), *(["after STARTTLS"] if check.starttls else []),
             *(_trust(tls) if tls is not None else [])]
    if check.data is not None:
        found.append(f"with {len(check.data)} bytes of data")
    if check.user is not None:
        found.append(f"as {check.user}")
    if check.source is not None:
        found.append(f"from {check.source}")
    if check.send_proxy is not None:
        found.append(f"behind a PROXY header {check.send_proxy}")
    return found


def _trust(tls: Tls) -> list[str]:
    found = []
    if tls.verify is None:
        found.append("any certificate")
    else:
        whom = tls.host or tls.name
        name = "" if whom is None else " for each member's address" if tls.host == MEMBER else f" for {whom}"
        issuer = tls.verify or "one of the system's CAs"
        found.append(f"a certificate{name} of {issuer}")
    if tls.cert is not None:
        found.append(f"ours is {tls.cert}")
    return found


def _passes(check: Check) -> str:
    if check.closed:
        return "when it is refused"
    if check.type in ("http", "https"):
        words = "on status " + ",".join(str(low) if low == high else f"{low}-{high}" for low, high in check.status)
        words += " with the body that is wanted" if check.body is not None else ""
        drains = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in check.drain)
        return words + (f", drains on {drains}" if drains else "")
    if check.type == "udp":
        return "on the answer that is wanted" if check.expect is not None else "unless it is refused"
    if check.writable:
        return "if it can be written to"
    return ""


def _pace(check: Check) -> str:
    """How often, how long, and how many it takes; the paces that differ are named."""
    words = f", every {_span(check.interval)}"
    if check.fast_interval != check.interval:
        words += f" ({_span(check.fast_interval)} in doubt"
        words += f", {_span(check.down_interval)} while down)" if check.down_interval != check.interval else ")"
    elif check.down_interval != check.interval:
        words += f" ({_span(check.down_interval)} while down)"
    return f"{words}, at most {_span(check.timeout)}, up after {check.rise}, down after {check.fall}"


def _span(seconds: float) -> str:
    """``5 s``, ``500 ms``."""
    return f"{seconds:g} s" if seconds >= 1 else f"{seconds * 1000:g} ms"
