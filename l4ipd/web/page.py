"""/: the status page. One file, made of plain text in pieces; everything that came from outside is escaped."""

from __future__ import annotations

import html
import os
import socket
import time
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import TYPE_CHECKING
from urllib.parse import quote

from l4ipd import __version__
from l4ipd.checks.verdict import CODES
from l4ipd.model import Check, Endpoint
from l4ipd.monitor.outcomes import TRAIL
from l4ipd.report import status, warnings
from l4ipd.report.history import Happening, History
from l4ipd.report.status import Kernel
from l4ipd.report.text import ago, printable
from l4ipd.web import overview, page_style
from l4ipd.web.overview import Group, Survey
from l4ipd.web.page_style import POLICY, REFRESH

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.monitor.monitor import Monitor

__all__ = ["POLICY", "render"]
LINKS = 12                                          # endpoints in trouble that are named at the head
CHANGES = 25                                        # events at the foot
COLUMNS = "<thead><tr>" + "".join(f'<th scope="col" class="{name}">{words}</th>' for name, words in (
    ("cs", "State"), ("cm", "Member"), ("cw", "Last probe"), ("cr", "Rule"), ("ct", "Since"),
    ("ch", f"Last {TRAIL} probes"))) + "</tr></thead>"
RULE_WORDS = {"yes": "in kernel", "no": "no rule", "missing": "missing", "leaving": "leaving", "unknown": "not known"}


def render(daemon: Daemon, history: History, connections: Kernel, pattern: str = "") -> Iterator[str]:
    """The page, piece by piece. Endpoints are left out when there are very many; ``pattern`` chooses.

    ``connections`` is what rules have had, where that is known.
    """
    seen = overview.look(daemon, pattern)
    tone, headline = verdict(seen)
    yield from _opening(seen, tone, headline, pattern)
    yield _hero(seen, tone, headline)
    for words in warnings.troubles(daemon):
        yield f'<p class="alert warn">{shape("warn")}<span>{esc(words)}</span></p>'
    yield _figures(daemon, seen)
    if pattern:
        yield f'<p class="alert off"><span>{_matching(seen, pattern)} <a href="/">Show all</a></span></p>'
    for cluster, groups in groupby(seen.groups, key=lambda group: group.members[0].endpoint.cluster):
        yield from _cluster(daemon, connections, cluster, list(groups))
    if seen.left_out:
        yield (f'<p class="alert off"><span>{seen.left_out} endpoints are left out, to keep this page short: filter '
               'for them above, or see <a href="/status.json">status.json</a></span></p>')
    yield from _changes(history)
    yield _closing()


def esc(text: str) -> str:
    """For text and for attributes. What members and tools said may hold anything."""
    return html.escape(printable(text))


def shape(tone: str) -> str:
    return f'<svg class="i" aria-hidden="true"><use href="#{tone}"/></svg>'


def grouped(count: int) -> str:
    """1234567 as 1 234 567, with narrow spaces."""
    return f"{count:,}".replace(",", "\u202f")


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


# -- the head

def verdict(seen: Survey) -> tuple[str, str]:
    """The whole in one sentence, and its tone."""
    up, down, unknown = seen.tones["ok"] + seen.tones["warn"], seen.tones["bad"], seen.tones["unk"]
    if not seen.endpoints:
        return "unk", "No endpoints are configured"
    if len(seen.empty) == 1:
        return "bad", f"No member of {seen.empty[0]} is up"
    if seen.empty:
        return "bad", f"{len(seen.empty)} services have no member that is up"
    if seen.unfit:
        return "bad", "The rules in the kernel cannot be vouched for"
    if down:
        return "warn", f"{down} of {plural(seen.endpoints, 'endpoint')} {'is' if down == 1 else 'are'} down"
    if unknown:
        return "unk", f"Checking {plural(unknown, 'endpoint')} for the first time"
    if seen.tones["off"]:
        return "ok", f"{plural(up, 'endpoint')} up, {seen.tones['off']} disabled or draining"
    return "ok", "The endpoint is up" if seen.endpoints == 1 else f"All {seen.endpoints} endpoints are up"


def _opening(seen: Survey, tone: str, headline: str, pattern: str) -> Iterator[str]:
    up = seen.tones["ok"] + seen.tones["warn"]
    host = esc(socket.gethostname())
    yield ('<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
           '<meta name="viewport" content="width=device-width,initial-scale=1">'
           f'<noscript><meta http-equiv="refresh" content="{REFRESH}"></noscript>'
           f"<title>{up}/{seen.endpoints} up · {host} · l4ip</title>"
           f'<link rel="icon" href="{html.escape(page_style.icon(tone))}">'
           f"<style>{page_style.STYLE}</style></head>\n<body>{page_style.SYMBOLS}")
    yield (f'<header>{page_style.LOGO}<b>l4ip</b><span class="s">{host}</span>'
           '<form action="/" role="search"><label class="sr" for="match">Show only</label>'
           f'<input id="match" name="match" type="search" placeholder="web1, www/*" value="{esc(pattern)}" '
           'autocapitalize="none" spellcheck="false"><button>Filter</button></form></header>'
           '<div class="bar"><p class="alert bad" id="gone" role="alert" hidden>'
           f'{shape("bad")}<span>l4ipd does not answer: what you see is old</span></p></div>\n<main>')


def _hero(seen: Survey, tone: str, headline: str) -> str:
    ailing = [(overview.tone(each), each.endpoint) for each in seen.ailing[:LINKS]]
    shown = {monitor.endpoint.name for group in seen.groups for monitor in group.shown}
    links = "".join(f'<li><a class="pill {kind}" href="{_link(endpoint, shown)}">{shape(kind)}{esc(endpoint.name)}</a>'
                    "</li>" for kind, endpoint in ailing)
    more = len(seen.ailing) - LINKS
    if more > 0:
        links += f'<li class="s">and {more} more</li>'
    return (f'<div class="card hero {tone}"><h1 role="status">{shape(tone)}<span>{esc(headline)}</span></h1>'
            f"{links and f'<ul>{links}</ul>'}<p class=s>as of {time.strftime('%Y-%m-%d %T %Z')}</p></div>\n")


def _figures(daemon: Daemon, seen: Survey) -> str:
    rules, schedule = daemon.steering.rules, daemon.fleet.schedule
    agree = "" if len(rules.want) == len(rules.have) else f" of {len(rules.want)}"
    figures = [("Endpoints up", f"{seen.tones['ok'] + seen.tones['warn']} <small>of {seen.endpoints}</small>"),
               ("Services served", f"{seen.services - len(seen.empty)} <small>of {seen.services}</small>"),
               ("Rules in the kernel", "not known" if rules.stale else f"{len(rules.have)}<small>{agree}</small>"),
               ("Probes", f"{grouped(sum(schedule.codes.values()))} <small>{grouped(schedule.late)} late</small>"),
               ("Running for", ago(time.time() - daemon.started))]
    usage = daemon.nat_usage
    if usage.active is not None:
        room = "" if usage.limit is None else f" <small>of {grouped(usage.limit)}</small>"
        figures.insert(3, ("Sessions", f"{grouped(usage.active)}{room}"))
    if daemon.sensing.settings is not None:
        count = daemon.sensing.reaction
        figures.insert(3, ("Resets used", f"{count.used} <small>of {count.seen} seen</small>"))
    cards = "".join(f'<div class="card"><dt>{name}</dt><dd>{value}</dd></div>' for name, value in figures)
    return f"<dl>{cards}</dl>\n"


def _matching(seen: Survey, pattern: str) -> str:
    if seen.unclear:
        return f"<code>{esc(pattern)}</code> is not understood: {esc(seen.unclear)}."
    verb = "matches" if seen.matched == 1 else "match"
    return f"{plural(seen.matched, 'endpoint')} {verb} <code>{esc(pattern)}</code>."


# -- clusters, services, endpoints

def _cluster(daemon: Daemon, connections: Kernel, name: str, groups: list[Group]) -> Iterator[str]:
    vips = ", ".join(groups[0].members[0].endpoint.vips)
    yield f'<section><h2>{esc(name)} <span class="s n">{esc(vips)}</span> {_standing(daemon, name)}</h2>\n'
    for group in groups:
        yield from _service(daemon, connections, group)
    yield "</section>\n"


def _standing(daemon: Daemon, name: str) -> str:
    """Whether the addresses of a cluster deserve to be announced, and why not."""
    standing = daemon.readiness.standings.get(name)
    if standing is None:
        return ""
    left = status.cluster(daemon, name)["left"]
    tone = "ok" if standing.ready else "off" if left else "unk" if standing.told is None else "bad"
    why = f' <span class="s">{esc(standing.why)}</span>' if standing.why else ""
    return f'<span class="pill {tone}">{shape(tone)}{standing.state}</span>{why}'


def _service(daemon: Daemon, connections: Kernel, group: Group) -> Iterator[str]:
    first, count = group.members[0].endpoint, len(group.members)
    tone = "ok" if all(monitor.fit for monitor in group.members) else "warn" if group.tally.serving else "bad"
    if tone == "bad" and not any(monitor.verdict for monitor in group.members):
        tone = "unk"
    where = f"port {first.port}/{first.protocol}" + (", sticky" if first.sticky else "")
    checks = " and ".join(check_words(check) for check in first.checks)
    yield (f'<div class="card"><div class="head"><h3>{esc(first.service)}</h3>'
           f'<span class="s">{esc(where)} · {esc(checks)}</span><span class="pill {tone}">{shape(tone)}'
           f'{group.tally}</span></div><table>'
           f'<caption class="sr">Endpoints of {esc(group.name)}</caption>'
           f"{COLUMNS}<tbody>\n")
    for monitor in group.shown:
        yield _endpoint(status.row(daemon, monitor), status.connections(daemon, monitor, connections), monitor)
    yield "</tbody></table>"
    hidden = count - len(group.shown)
    if hidden:
        yield (f'<p class="more s">{hidden} more not shown: <a href="/?match={quote(group.name, safe="")}%2F*">'
               f"{esc(group.name)}/*</a></p>")
    yield "</div>\n"


def check_words(check: Check) -> str:
    """A check in a few words: ``http /healthz every 2 s``. Without its query, which may hold a token."""
    path = f" {check.path.partition('?')[0]}" if check.type in ("http", "https") else ""
    port = f" port {check.port}" if check.port is not None else ""
    return f"{check.type}{path}{port} every {check.interval:g} s"


def _endpoint(row: status.Row, connections: int | None, monitor: Monitor) -> str:
    endpoint, tone = monitor.endpoint, overview.tone(monitor)
    tags = ([f"weight {endpoint.weight}"] if endpoint.weight != 1 else []) + (["fallback"] if endpoint.fallback else [])
    since = time.localtime(time.time() - row.since)
    return (f'<tr id="{_anchor(endpoint)}" class="{tone}"><td class="cs"><span class="pill {tone}">{shape(tone)}'
            f'{esc(row.state)}</span></td><td class="cm"><span class="who">{esc(endpoint.member)}</span>'
            f'{"".join(f"<span class=tag>{tag}</span>" for tag in tags)}<span class="n">{esc(row.address)}</span></td>'
            f'<td class="cw">{_why(row)}</td><td class="cr">{_rule(monitor, row, connections)}</td><td class="ct">'
            f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%S%z", since)}" title="{time.strftime("%F %T", since)}">'
            f'{ago(row.since)}</time></td><td class="ch">{strip(monitor)}</td></tr>\n')


def _why(row: status.Row) -> str:
    code, _, words = row.verdict.partition(" ")
    took = f' <span class="s">{row.took * 1000:.0f} ms</span>' if row.took else ""
    took += f' <span class="s">from {esc(row.origin)}</span>' if row.origin else ""
    if code not in CODES:
        return f'<span class="why s">{esc(row.verdict)}</span>'
    return f'<span class="why"><code title="{esc(CODES[code])}">{code}</code> {esc(words)}{took}</span>'


def _rule(monitor: Monitor, row: status.Row, connections: int | None) -> str:
    words = RULE_WORDS.get(row.loaded, row.loaded)
    if row.loaded == "no" and monitor.eligible and monitor.endpoint.fallback:
        words = "standby"
    elif row.loaded == "yes" and monitor.endpoint.weight > 1:
        words = f"{words} ×{monitor.endpoint.weight}"
    amiss = row.loaded in ("missing", "leaving")
    unit = "conn" if connections == 1 else "conns"
    used = "" if connections is None else f'<span class="n">{grouped(connections)} {unit}</span>'
    held = "" if row.sessions is None else f'<span class="n">{plural(row.sessions, "session")}</span>'
    return f'<span class="rule{" warn" * amiss}">{shape("warn") + " " if amiss else ""}{esc(words)}{used}{held}</span>'


def strip(monitor: Monitor) -> str:
    """The last outcomes, the newest at the right: short bars passed, tall ones failed."""
    trail = monitor.outcomes.trail
    known, failed = len(trail), trail.count(False)
    paths = {True: "", False: ""}
    x = 3 * (TRAIL - known)
    unknown = f'<path class="o" d="M0 10h{x}"/>' if x else ""
    for passed, run in groupby(trail):
        width = 3 * len(list(run))
        paths[passed] += f"M{x} 10h{width}"
        x += width
    label = f"last {known} probes: {known - failed} passed, {failed} failed" if known else "no probes yet"
    bars = "".join(f'<path class="{name}" d="{paths[passed]}"/>' for passed, name in ((True, "p"), (False, "f"))
                   if paths[passed])
    return (f'<svg class="strip" viewBox="0 0 {3 * TRAIL} 20" preserveAspectRatio="none" role="img">'
            f"<title>{label}</title>{unknown}{bars}</svg>")


def _link(endpoint: Endpoint, shown: Collection[str]) -> str:
    return f"#{_anchor(endpoint)}" if endpoint.name in shown else f"/?match={quote(endpoint.name, safe='')}"


def _anchor(endpoint: Endpoint) -> str:
    return esc(f"e-{endpoint.name}")


# -- the foot

def _changes(history: History) -> Iterator[str]:
    yield '<section><h2>Recent events</h2>\n<ol class="card log">'
    today = time.strftime("%F")
    for happening in list(history.latest)[:-CHANGES - 1:-1]:
        yield _change(happening, today)
    if not history.latest:
        yield '<li><span class="s">nothing has happened yet</span></li>'
    yield "</ol></section>\n"


def _change(happening: Happening, today: str) -> str:
    when, event = time.localtime(happening.when), happening.event
    tone = {"up": "ok", "enabled": "ok", "ready": "ok", "down": "bad", "all-down": "bad", "unready": "bad",
            "disabled": "off", "draining": "off"}.get(event.kind)
    if tone is None:
        tone = "warn" if event.level >= 30 or event.kind == "repaired" else "unk"
    clock = time.strftime("%T" if time.strftime("%F", when) == today else "%F %T", when)
    return (f'<li class="{tone}"><time datetime="{time.strftime("%Y-%m-%dT%H:%M:%S%z", when)}">{clock}</time>'
            f"{shape(tone)}<span>{esc(event.text)}</span></li>")


def _closing() -> str:
    return ('</main>\n<footer>'
            f"<span>l4ipd {esc(__version__)}, process {os.getpid()}</span>"
            '<a href="/status.json">status.json</a>'
            '<a href="/metrics">metrics</a><a href="/healthz">healthz</a></footer>\n'
            f"<script>{page_style.SCRIPT}</script></body></html>\n")
