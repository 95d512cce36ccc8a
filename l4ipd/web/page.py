"""/: the status page. One file, made of plain text in pieces; everything that came from outside is escaped."""

from __future__ import annotations

import html
import os
import re
import socket
import time
from collections.abc import Collection, Iterator
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from l4ipd import __version__
from l4ipd.checks.verdict import CODES
from l4ipd.model import Check, Endpoint
from l4ipd.monitor.outcomes import TRAIL
from l4ipd.report import status, warnings
from l4ipd.report.history import Happening, History
from l4ipd.report.status import Kernel
from l4ipd.report.text import ago, printable
from l4ipd.report.trends import Trends
from l4ipd.web import graphs, overview, page_style
from l4ipd.web.overview import Group, Overview
from l4ipd.web.page_style import POLICY, REFRESH

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.monitor.monitor import Monitor

__all__ = ["POLICY", "render"]
LINKS = 12                                          # endpoints in trouble that are named at the head
WORDS = 100                                         # characters of their verdicts there
CHANGES = 25                                        # events at the foot
COLUMNS = "<thead><tr>" + "".join(f'<th scope="col" class="{name}">{words}</th>' for name, words in (
    ("cs", "State"), ("cm", "Member"), ("cw", "Last verdict"), ("cr", "Rule"), ("ct", "Since"),
    ("ch", f"Last {TRAIL} probes"), ("cl", "Latency, 1 h"), ("cd", "State, 24 h"))) + "</tr></thead>"
MOMENT = re.compile(r"(\d{4}-\d\d-\d\d )?\d\d:\d\d")
FEW = 12                                            # endpoints that are shown without folding
RULE_WORDS = {"yes": "in kernel", "no": "no rule", "missing": "missing", "leaving": "leaving", "unknown": "unknown"}


def render(daemon: Daemon, history: History, connections: Kernel, pattern: str = "",
           trends: Trends | None = None) -> Iterator[str]:
    """The page, piece by piece. Endpoints are left out when there are very many; ``pattern`` chooses.

    ``connections`` is what rules have had, where that is known. Clusters in which all is well are folded, unless they
    are asked for, or are few.
    """
    seen = overview.look(daemon, pattern)
    rows = Rows(daemon, connections, trends)
    tone, headline = verdict(seen)
    yield from _opening(seen, tone, headline, pattern)
    yield _hero(seen, tone, headline)
    for words in warnings.troubles(daemon):
        yield f'<p class="alert warn">{shape("warn")}<span>{esc(words)}</span></p>'
    yield _figures(daemon, seen)
    if pattern:
        yield f'<p class="alert off"><span>{_matching(seen, pattern)} <a href="/">Show all</a></span></p>'
    folding = not pattern and seen.endpoints > FEW
    for cluster, groups in groupby(seen.groups, key=lambda group: group.cluster):
        yield from _cluster(rows, cluster, list(groups), folding)
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

def verdict(seen: Overview) -> tuple[str, str]:
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


def _opening(seen: Overview, tone: str, headline: str, pattern: str) -> Iterator[str]:
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


def _hero(seen: Overview, tone: str, headline: str) -> str:
    shown = {monitor.endpoint.name for group in seen.groups for monitor in group.shown}
    links = "".join(_ailing(monitor, shown) for monitor in seen.ailing[:LINKS])
    more = len(seen.ailing) - LINKS
    if more > 0:
        links += f'<li class="s">and {more} more</li>'
    return (f'<div class="card hero {tone}"><h1 role="status">{shape(tone)}<span>{esc(headline)}</span></h1>'
            f"{links and f'<ul>{links}</ul>'}<p class=s>as of {time.strftime('%Y-%m-%d %T %Z')}</p></div>\n")


def _ailing(monitor: Monitor, shown: Collection[str]) -> str:
    """One that is in trouble, and why."""
    kind, endpoint = overview.tone(monitor), monitor.endpoint
    return (f'<li><a class="pill {kind}" href="{_link(endpoint, shown)}">{shape(kind)}{esc(endpoint.name)}</a> '
            f'<span class="s">{esc(status.verdict(monitor)[:WORDS])}</span></li>')


def _figures(daemon: Daemon, seen: Overview) -> str:
    rules, schedule = daemon.steering.rules, daemon.fleet.schedule
    agree = "" if len(rules.want) == len(rules.have) else f" of {len(rules.want)}"
    figures = [("Endpoints up", f"{seen.tones['ok'] + seen.tones['warn']} <small>of {seen.endpoints}</small>"),
               ("Services served", f"{seen.services - len(seen.empty)} <small>of {seen.services}</small>"),
               ("Rules in the kernel", "unknown" if rules.stale else f"{len(rules.have)}<small>{agree}</small>"),
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


def _matching(seen: Overview, pattern: str) -> str:
    if seen.unclear:
        return f"<code>{esc(pattern)}</code> is not understood: {esc(seen.unclear)}."
    verb = "matches" if seen.matched == 1 else "match"
    return f"{plural(seen.matched, 'endpoint')} {verb} <code>{esc(pattern)}</code>."


# -- clusters, services, endpoints

class Rows(NamedTuple):
    """What rows are made from, beside their endpoints."""

    daemon: Daemon
    connections: Kernel
    trends: Trends | None


def _cluster(rows: Rows, name: str, groups: list[Group], folding: bool) -> Iterator[str]:
    vips = ", ".join(groups[0].members[0].endpoint.vips)
    standing = rows.daemon.readiness.standings.get(name)
    told = standing is None or standing.ready or standing.told is None
    well = told and not any(group.amiss for group in groups)
    up, total = sum(each.tally.serving for each in groups), sum(each.tally.total for each in groups)
    yield (f"<section>{_fold(f'c-{name}', not (folding and well))}<h2>{esc(name)} "
           f'<span class="s n">{esc(vips)}</span> <span class="s">{up} of {total} up</span> '
           f"{_standing(rows.daemon, name)}</h2></summary>\n")
    for group in groups:
        yield from _service(rows, group, folding)
    yield "</details></section>\n"


def _fold(name: str, is_open: bool) -> str:
    """What can be folded begins. ``data-open`` is how we sent it, so that the script can tell what the reader did."""
    return f'<details id="{esc(name)}"{" open data-open" * is_open}><summary>'


def _standing(daemon: Daemon, name: str) -> str:
    """Whether the addresses of a cluster deserve to be announced, and why not."""
    standing = daemon.readiness.standings.get(name)
    if standing is None:
        return ""
    left = status.cluster(daemon, name)["left"]
    tone = "ok" if standing.ready else "off" if left else "unk" if standing.told is None else "bad"
    why = f' <span class="s">{esc(standing.why)}</span>' if standing.why else ""
    return f'<span class="pill {tone}">{shape(tone)}{standing.state}</span>{why}'


def _service(rows: Rows, group: Group, folding: bool) -> Iterator[str]:
    first, count = group.members[0].endpoint, len(group.members)
    tone = "ok" if all(monitor.fit for monitor in group.members) else "warn" if group.tally.serving else "bad"
    if tone == "bad" and not any(monitor.verdict for monitor in group.members):
        tone = "unk"
    where = f"port{'s' * (first.ports > 1)} {first.port_words}/{first.protocol}" + (", sticky" if first.sticky else "")
    checks = f"as {first.same_as}" if first.same_as else " and ".join(check_words(check) for check in first.checks)
    yield (f'<div class="card"><div class="head"><h3>{esc(first.service)}</h3>'
           f'<span class="s">{esc(where)} · {esc(checks)}</span>{_availability(rows, group)}'
           f'<span class="pill {tone}">{shape(tone)}{group.tally}</span></div>')
    amiss = [monitor for monitor in group.shown if monitor in group.amiss]
    if folding and amiss and len(group.shown) > FEW:
        calm = [monitor for monitor in group.shown if monitor not in group.amiss]
        yield from _table(rows, group.name, amiss)
        if calm:
            yield f'{_fold(f"s-{group.name}", False)}<span class="more s">{len(calm)} more, up</span></summary>'
            yield from _table(rows, f"{group.name} that are up", calm)
            yield "</details>"
    else:
        yield from _table(rows, group.name, group.shown)
    hidden = count - len(group.shown)
    if hidden:
        yield (f'<p class="more s">{hidden} more not shown: <a href="/?match={quote(group.name, safe="")}%2F*">'
               f"{esc(group.name)}/*</a></p>")
    yield "</div>\n"


def _table(rows: Rows, what: str, monitors: list[Monitor]) -> Iterator[str]:
    yield f'<table><caption class="sr">Endpoints of {esc(what)}</caption>{COLUMNS}<tbody>\n'
    for monitor in monitors:
        yield _endpoint(rows, monitor)
    yield "</tbody></table>"


def _availability(rows: Rows, group: Group) -> str:
    found = rows.trends.availability(group.name) if rows.trends is not None else None
    if found is None:
        return ""
    share = int(found.share * 100_000) / 1000       # never rounded up: 100 % is no second without
    return (f'<span class="s">available {share:g} % since '
            f'{time.strftime("%Y-%m-%d %H:%M", time.localtime(found.since))}</span>')


def check_words(check: Check) -> str:
    """A check in a few words: ``http /healthz every 2 s``. Without its query, which may hold a token."""
    path = f" {check.path.partition('?')[0]}" if check.type in ("http", "https") else ""
    port = f" port {check.port}" if check.port is not None else ""
    return f"{check.type}{path}{port} every {check.interval:g} s"


def _endpoint(rows: Rows, monitor: Monitor) -> str:
    row = status.row(rows.daemon, monitor)
    connections = status.connections(rows.daemon, monitor, rows.connections)
    endpoint, tone = monitor.endpoint, overview.tone(monitor)
    tags = ([f"weight {endpoint.weight}"] if endpoint.weight != 1 else []) + (["fallback"] if endpoint.fallback else [])
    return (f'<tr id="{_anchor(endpoint)}" class="{tone}"><td class="cs"><span class="pill {tone}">{shape(tone)}'
            f'{esc(row.state)}</span></td><th scope="row" class="cm"><span class="who">{esc(endpoint.member)}</span>'
            f'{"".join(f"<span class=tag>{tag}</span>" for tag in tags)}<span class="n">{esc(row.address)}</span></th>'
            f'<td class="cw">{_why(row)}{_disabled(row)}</td><td class="cr">{_rule(monitor, row, connections)}</td>'
            f'<td class="ct">{_since(row)}</td><td class="ch">{graphs.strip(monitor)}</td>'
            f"{_trend(rows, endpoint)}</tr>\n")


def _since(row: status.Row) -> str:
    since = time.localtime(time.time() - row.since)
    return (f'<time datetime="{time.strftime("%Y-%m-%dT%H:%M:%S%z", since)}" title="{time.strftime("%F %T", since)}">'
            f"{ago(row.since)}</time>")


def _trend(rows: Rows, endpoint: Endpoint) -> str:
    if rows.trends is None:
        return '<td class="cl"></td><td class="cd"></td>'
    return (f'<td class="cl">{graphs.line(rows.trends.latency(endpoint.name))}</td>'
            f'<td class="cd">{graphs.day(rows.trends.states(endpoint.name))}</td>')


def _why(row: status.Row) -> str:
    code, _, words = row.verdict.partition(" ")
    took = f' <span class="s">{row.took * 1000:.0f} ms</span>' if row.took else ""
    took += f' <span class="s">from {esc(row.origin)}</span>' if row.origin else ""
    if code not in CODES:
        return f'<span class="why s">{esc(row.verdict)}</span>'
    return f'<span class="why"><code title="{esc(CODES[code])}">{code}</code> {esc(words)}{took}</span>'


def _disabled(row: status.Row) -> str:
    """Who, since when and until when, in full: it is what the operator forgets."""
    if row.disabled is None:
        return ""
    words = MOMENT.sub(r"<time>\g<0></time>", esc(row.disabled.words(time.strftime("%Y-%m-%d"))))
    return f'<span class="why s">{words}</span>'


def _rule(monitor: Monitor, row: status.Row, connections: int | None) -> str:
    words = RULE_WORDS.get(row.loaded, row.loaded)
    if row.loaded == "no" and monitor.eligible and monitor.endpoint.fallback:
        words = "none wanted"
    elif row.loaded == "yes" and monitor.endpoint.weight > 1:
        words = f"{words} ×{monitor.endpoint.weight}"
    amiss = row.loaded in ("missing", "leaving")
    unit = "conn" if connections == 1 else "conns"
    used = "" if connections is None else f'<span class="n">{grouped(connections)} {unit}</span>'
    held = "" if row.sessions is None else f'<span class="n">{plural(row.sessions, "session")}</span>'
    return f'<span class="rule{" warn" * amiss}">{shape("warn") + " " if amiss else ""}{esc(words)}{used}{held}</span>'


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
            "disabled": "off", "draining": "off", "held": "bad"}.get(event.kind)
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
