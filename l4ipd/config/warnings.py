"""What a configuration may say, and probably does not mean. Pure.

A line each, without file and line; for ``l4ipd -n``, the log at start, and a reload. No secret is repeated: of a text
there is only what looks like a variable.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from l4ipd.checks.recipe import tls_of
from l4ipd.config.values import PLACEHOLDERS, span
from l4ipd.model import Check, Cluster, Config, Service

#: what shells, and programs that make files of templates, would replace: ${TOKEN}, $(cat token), a word $TOKEN
VARIABLE = re.compile(r"\$\{([A-Za-z_]\w*)[^}]*\}|(\$\()[^)]+\)|(?<!\S)(\$[A-Z_][A-Z0-9_]+)(?!\S)", re.ASCII)
SILENT = 3600                                       # seconds that people expect a connection to survive
PLACEHOLDER = re.compile(rf"{{({'|'.join(PLACEHOLDERS)})}}")


def warnings(config: Config) -> list[str]:
    """Everything of that kind, in the order of the file."""
    found: list[str] = []
    for cluster in config.clusters:
        found += _of_weights(cluster)
        for service in cluster.services:
            found += [f"{cluster.name}/{service.name}: {words}" for words in _of_service(service, config)]
    if config.http and not ipaddress.ip_address(config.http.address).is_loopback:
        found.append(f"http: {config.http.address} is not a loopback address: whoever can reach it can read the status")
    return found


def _of_weights(cluster: Cluster) -> Iterator[str]:
    if not (cluster.sources or any(member.weight and not member.fallback for member in cluster.members)):
        serves = "only fallbacks serve" if any(member.weight for member in cluster.members) else "nobody serves"
        yield f"{cluster.name}: every member has weight 0 or is a fallback: {serves}, and it is never ready"


def _of_service(service: Service, config: Config) -> Iterator[str]:
    yield from _of_rules(service)
    if not service.same_as:                         # else it was said there
        yield from _of_checks(service.checks)


def _of_checks(checks: tuple[Check, ...]) -> Iterator[str]:
    if all(_blind(check) for check in checks):
        yield ("a udp check without expect cannot see a dead host: add send and expect, or a ping check beside it")
    rounds, interval = sum(check.timeout for check in checks), checks[0].interval
    if len(checks) > 1 and rounds > interval:
        yield (f"its {len(checks)} checks run one after the other and may take {span(rounds)}, longer than the "
               f"interval, {span(interval)}: shorten their timeouts, or failures are noticed late")
    for check in checks:
        tls = tls_of(check)
        if tls is not None and tls.verify is not None and tls.name is None and tls.host is None:
            yield (f"verify has no name to verify, so that any certificate of these authorities will do: add "
                   f"{'sni, host or verify_host' if check.type == 'https' else 'sni or verify_host'}")
        in_files = {".".join(map(str, secret.key[:2])) for secret in check.secrets}
        for key, text in _texts(check):
            if key not in in_files and key.replace("[", ".").partition("]")[0] not in in_files:
                yield from _unreplaced(key, text)


def _of_rules(service: Service) -> Iterator[str]:
    if service.sticky and service.purge != "yes":
        when = "it went down" if service.purge == "no" else "a check that got an answer took it down"
        yield (f"sticky with purge: {service.purge} keeps sending a member's clients to it after {when}, until their "
               "sessions end")
    if service.sticky and any(check.drain for check in service.checks):
        yield "sticky keeps sending a draining member's clients to it, until their sessions end"
    if service.protocol == "tcp" and service.age is not None and service.age < SILENT:
        yield (f"age {span(service.age)} breaks tcp connections that are silent for so long: the kernel forgets them")
    if service.protocol == "udp" and service.age is None:
        yield ("age: no keeps each udp session for 10m after its last packet: 50 new ones a second fill the kernel's "
               "table, and then no new connection of anybody comes through")


def _blind(check: Check) -> bool:
    return check.type == "udp" and check.expect is None and not check.closed


def _texts(check: Check) -> Iterator[tuple[str, str]]:
    """What is sent to members and expected of them, by the key that says so. Commands have a language of their own."""
    yield "path", check.path
    yield "host", check.host or ""
    for name, value in check.headers:
        yield f"headers.{name}", value
    steps = [(f"dialog[{number}].{step.verb}", step.text) for number, step in enumerate(check.dialog, 1)]
    texts = [("data", check.data), ("password", check.password), ("body", check.body), ("send", check.send),
             ("expect", check.expect)]
    for key, data in [*texts, *steps]:
        yield key, (data or b"").decode(errors="replace")


def _unreplaced(key: str, text: str) -> Iterator[str]:
    variable, placeholder = VARIABLE.search(text), PLACEHOLDER.search(text)
    if variable:
        name, command, word = variable.groups()
        shown = f"${{{name}}}" if name else word or f"{command}...)"
        yield f"{key}: {shown} is taken as it stands: variables are not replaced"
    if placeholder and not variable:
        yield f"{key}: {placeholder[0]} is taken as it stands: it is replaced in commands only"
