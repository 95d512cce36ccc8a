"""The status page: what it says, that it says it safely, and how it does in a real browser, large and small."""

from __future__ import annotations

import gzip
import re
import signal
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd.checks.verdict import Verdict
from l4ipd.daemon import Daemon
from l4ipd.events import Event
from l4ipd.model import Check, Member
from l4ipd.monitor.outcomes import TRAIL
from l4ipd.overrides import Disabled
from l4ipd.report.history import History
from l4ipd.report.trends import Trends
from l4ipd.web import graphs, overview, page
from support import chromium
from support.balancer import BAD, GOOD, balancer, cluster, feed, settle, web
from support.gateway import Gateway, free_port, wait
from support.sandbox_tools import sandbox

VOID = {"meta", "link", "input", "br"}
NASTY = '"><script>alert(1)</script>\x1b[31m\x00\u202e&amp;\'\n'


class Reader(HTMLParser):
    """Reads a page: every element that is opened has to be closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            assert not name.startswith("on") and name != "style", "the policy forbids it"
            if name in ("href", "src", "action"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        self.open.remove(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not set(self.open) & {"style", "script", "title"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(f"{word} " for word in self.words).split())


def read(daemon: Daemon, pattern: str = "", history: History | None = None) -> Reader:
    reader = Reader()
    counts = dict.fromkeys(daemon.steering.rules.have, 1234)
    reader.feed("".join(page.render(daemon, history or History(), counts, pattern)))
    reader.close()
    assert not reader.open
    assert len(set(reader.ids)) == len(reader.ids)
    for link in reader.links:
        assert link.startswith(("/", "#", "data:")) and not link.startswith("//"), "nothing from elsewhere"
        assert not link.startswith("#") or link[1:] in reader.ids, link
    return reader


def test_what_it_tells_of_each_endpoint() -> None:
    members = (*web(3), Member("heavy", "10.0.0.9", weight=3), Member("sorry", "10.0.0.8", fallback=True))
    with balancer(cluster("www", *members), cluster("mail", *web(1))) as daemon:
        for name in ("web1", "heavy", "sorry"):
            feed(daemon, f"www/http/{name}", GOOD)
        feed(daemon, "www/http/web1", BAD)
        feed(daemon, "www/http/web2", BAD)
        daemon.fleet.disable([daemon.fleet.monitors["www/http/web3"]], now=False)
        settle(daemon)
        text = read(daemon).text
        for words in ("up web1 10.0.0.2:8080 L7STS 503 Service Unavailable (1 of 3 failed) in kernel 1 234 conns",
                      "down web2 10.0.0.3:8080 L7STS 503 Service Unavailable no rule",
                      "disabled (unknown) web3 10.0.0.4:8080 not checked yet disabled since ",
                      "up heavy weight 3 10.0.0.9:8080 L7OK 200 in kernel ×3 3 702 conns",
                      "up sorry fallback 10.0.0.8:8080 L7OK 200 none wanted",
                      "http port 80/tcp · http /healthz every 2 s 2 of 4 up", "mail 203.0.113.10",
                      "1 of 6 endpoints is down", "unknown web1"):
            assert words in text, words
        daemon.steering.rules.belief.have = {}
        assert "(1 of 3 failed) missing" in read(daemon).text


HEADLINES = [
    ((), "No endpoints are configured"),
    (((), ()), "Checking 2 endpoints for the first time"),
    (((GOOD,), (GOOD,)), "All 2 endpoints are up"),
    (((GOOD,), (GOOD, BAD)), "All 2 endpoints are up"),
    (((GOOD,), (BAD,)), "1 of 2 endpoints is down"),
    (((BAD,), (BAD,)), "No member of www/http is up"),
]


@pytest.mark.parametrize(("outcomes", "expected"), HEADLINES)
def test_the_headline(outcomes: tuple[tuple[Verdict, ...], ...], expected: str) -> None:
    with balancer(*([cluster("www", *web(len(outcomes)))] if outcomes else [])) as daemon:
        for place, verdicts in enumerate(outcomes, 1):
            feed(daemon, f"www/http/web{place}", *verdicts)
        settle(daemon)
        assert expected in read(daemon).text
        daemon.steering.rules.faults.problem = "IPFilter is disabled"
        assert "ipnat: IPFilter is disabled" in read(daemon).text


def test_troubles_of_our_own_are_told() -> None:
    with balancer(cluster("www", *web(2))) as daemon:
        for monitor in daemon.fleet.monitors.values():
            monitor._local(Verdict("LOCAL", "too many open files"))
        settle(daemon)
        assert "the gateway cannot probe 2 endpoints, whose state stays: too many open files" in read(daemon).text


def test_everything_from_outside_is_escaped() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        history = History()
        history.heard(Event("down", "www/http/web1", f"said {NASTY}"))
        feed(daemon, "www/http/web1", Verdict("L7RSP", NASTY))
        daemon.steering.rules.faults.complaint = NASTY
        escaped = '"><script>alert(1)</script>\\x1b[31m\\x00\\x202e&amp;\'\\x0a'
        for pattern in (NASTY, ""):                 # told: the complaint, the event; the verdict; the pattern, or
            reader = read(daemon, pattern, history)
            assert reader.tags.count("script") == 1
            assert reader.text.count(escaped) == 4


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=60), st.text(max_size=30))
def test_any_text_leaves_a_well_formed_page(said: str, pattern: str) -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        feed(daemon, "www/http/web1", Verdict("L7RSP", said))
        assert read(daemon, pattern).tags.count("script") == 1
        "".join(page.render(daemon, History(), {}, pattern)).encode()


@given(st.lists(st.booleans(), max_size=2 * TRAIL))
def test_the_strip_shows_the_last_outcomes(outcomes: list[bool]) -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        feed(daemon, "www/http/web1", *(GOOD if each else BAD for each in outcomes))
        drawn = graphs.strip(daemon.fleet.monitors["www/http/web1"])
    shown: dict[int, bool] = {}
    for name, path in re.findall(r'class="([pf])" d="([^"]+)"', drawn):
        for start, width in re.findall(r"M(\d+) 10h(\d+)", path):
            for x in range(int(start), int(start) + int(width), 3):
                assert x // 3 not in shown
                shown[x // 3] = name == "p"
    last = outcomes[-TRAIL:]
    assert [shown[place] for place in sorted(shown)] == last
    assert sorted(shown) == list(range(TRAIL - len(last), TRAIL)), "the newest is at the right edge"


def test_ten_thousand_endpoints_are_not_all_shown_but_those_in_trouble_are() -> None:
    clusters = [cluster(f"c{number}", *web(50), services=("a", "b")) for number in range(100)]
    with balancer(*clusters) as daemon:
        for place, name in enumerate(daemon.fleet.monitors):
            feed(daemon, name, BAD if place % 1000 == 999 else GOOD)
        settle(daemon)
        reader = read(daemon)
        rows = [each for each in reader.ids if each.startswith("e-")]
        assert len(rows) == overview.SHOWN
        down = [f"e-{name}" for place, name in enumerate(daemon.fleet.monitors) if place % 1000 == 999]
        assert set(down) <= set(rows)
        assert f"{10000 - overview.SHOWN} endpoints are left out" in reader.text
        assert "10 of 10000 endpoints are down" in reader.text
        chosen = read(daemon, "c7/b/*")
        assert "50 endpoints match c7/b/*" in chosen.text and "left out" not in chosen.text


PATTERNS = [("", 4), ("www", 2), ("web1", 2), ("www/*", 2), ("*/web1", 2), ("web?", 4), ("w*1", 2), ("nobody", 0),
            ("www/http/web1", 1), ("[", 0), ("  mail ", 2), ("*" * 300, 4), ("WWW", 0),
            ("web1, mail", 3), ("www/http", 2), ("www/http/web1 ,mail/*/web2", 2), ("nobody web2", 2)]


def test_a_path_is_shown_without_its_query() -> None:
    with balancer(cluster("www", *web(2), check=Check("http", path="/healthz?token=hunter2"))) as daemon:
        text = read(daemon).text
        assert "http /healthz every 5 s" in text and "hunter2" not in "".join(page.render(daemon, History(), {}))


def test_a_pattern_that_is_not_understood_is_told() -> None:
    with balancer(cluster("www", *web(2))) as daemon:
        text = read(daemon, "web1 [c").text
        assert "web1 [c is not understood: [c: this bracket is never closed: a set of characters is writ" in text


@pytest.mark.parametrize(("pattern", "expected"), PATTERNS)
def test_patterns(pattern: str, expected: int) -> None:
    with balancer(cluster("www", *web(2)), cluster("mail", *web(2))) as daemon:
        assert overview.look(daemon, pattern).matched == expected


def folded(text: str) -> dict[str, bool]:
    """Each part that can be folded, and whether it is."""
    return {name: not opened for name, opened in re.findall(r'<details id="([^"]+)"( open data-open)?>', text)}


def test_what_is_well_is_folded_and_what_is_not_is_open() -> None:
    with balancer(cluster("www", *web(40)), cluster("mail", *web(40)), cluster("few", *web(3))) as daemon:
        for name in daemon.fleet.monitors:
            feed(daemon, name, GOOD)
        settle(daemon)
        calm = "".join(page.render(daemon, History(), {}))
        assert folded(calm) == {"c-www": True, "c-mail": True, "c-few": True}
        assert "<h1 role=\"status\">" in calm and "All 83 endpoints are up" in read(daemon).text
        feed(daemon, "www/http/web7", BAD, BAD, BAD)
        feed(daemon, "few/http/web2", BAD, BAD, BAD)
        settle(daemon)
        text = "".join(page.render(daemon, History(), {}))
        assert folded(text) == {"c-www": False, "s-www/http": True, "c-mail": True, "c-few": False}
        first = text[text.index('id="c-www"'):text.index('id="s-www/http"')]
        assert re.findall(r'<tr id="([^"]+)"', first) == ["e-www/http/web7"] and "39 more, up" in text
        assert not any(folded("".join(page.render(daemon, History(), {}, "mail"))).values()), "who asks gets to see"
        assert "www/http/web7 L7STS 503 Service Unavailable few/http/web2" in read(daemon).text, "why, at the head"


def test_few_are_not_folded() -> None:
    with balancer(cluster("www", *web(page.FEW))) as daemon:
        for name in daemon.fleet.monitors:
            feed(daemon, name, GOOD)
        settle(daemon)
        assert folded("".join(page.render(daemon, History(), {}))) == {"c-www": False}


def test_a_thousand_endpoints_in_trouble_are_small_and_each_row_has_its_heading() -> None:
    with balancer(*(cluster(f"c{number}", *web(50)) for number in range(20))) as daemon:
        trends = Trends(daemon.loop, daemon)
        for name in daemon.fleet.monitors:
            feed(daemon, name, GOOD)
        for minute in range(100):                   # latencies that do not repeat
            for place, monitor in enumerate(daemon.fleet.monitors.values()):
                monitor.took = (place * 7919 + minute * 104729) % 997 / 50_000
            trends.look()
        for name in list(daemon.fleet.monitors)[::2]:
            feed(daemon, name, *[BAD, GOOD] * 20, *[BAD] * 3)
        trends.look()
        settle(daemon)
        text = "".join(page.render(daemon, History(), {}, "", trends))
        assert len(gzip.compress(text.encode(), 6)) < 100_000
        assert text.count('<th scope="row"') == text.count("<tr id=") == overview.SHOWN
        assert text.count('class="l"') == overview.SHOWN and text.count("strip day") == overview.SHOWN


@pytest.mark.parametrize("user, seconds, words", [
    ("", None, "disabled since 2026-11-27 09:12"), ("alice", None, "disabled by alice since 2026-11-27 09:12"),
    ("<b>", None, "disabled by &lt;b&gt; since 2026-11-27 09:12"),
    ("alice", 86400, "disabled by alice since 2026-11-27 09:12, until (tomorrow)")])
def test_who_disabled_it_and_how_available_its_service_was(user: str, seconds: float | None, words: str) -> None:
    with balancer(cluster("www", *web(2))) as daemon:
        feed(daemon, "www/http/web1", GOOD)
        daemon.fleet.monitors["www/http/web2"].disabled = True
        since = time.mktime((2026, 11, 27, 9, 12, 40, 0, 0, -1))
        until = None if seconds is None else daemon.loop.now + seconds
        daemon.fleet.disabled["www/http/web2"] = Disabled(since, user, until)
        settle(daemon)
        trends = Trends(daemon.loop, daemon)
        trends.look()
        text = " ".join("".join(page.render(daemon, History(), {}, "", trends)).split())
        text = re.sub(r"</?time>", "", text)        # which keep a date in one piece
        tomorrow = [time.strftime("%F %H:%M", time.localtime(time.time() + 86400 - early)) for early in (60, 0)]
        assert any(f">{words.replace('(tomorrow)', each)}<" in text for each in tomorrow)
        assert re.search(r"available 100 % since \d+-\d+-\d+ \d+:\d+<", text)


# -- in a real browser

@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    if chromium.PROGRAM is None:
        pytest.skip("there is no Chromium here to look at the page with")
    with sandbox() as kernel:
        it = Gateway(kernel, tmp_path_factory.mktemp("gateway"))
        yield it
        it.close()


LOOKS = "document.querySelector('main').innerText"


def test_in_a_browser(gateway: Gateway) -> None:
    """State in words and shapes, no request to elsewhere, no scrolling sideways on a phone, and refreshed in place."""
    site, port, inside = free_port(), free_port(), free_port()
    url = f"http://127.0.0.1:{site}/"
    one = gateway.web("127.0.0.11", inside)
    check = f"{{type: http, path: /a/very/long/path?{'x' * 60}}}"
    gateway.configure(f"""
        www:
          address: 127.0.0.1
          services: {{http: {{port: {port}, member_port: {inside}, check: {check}}}}}
          members: {{web1: 127.0.0.11, a-member-with-a-rather-long-name-for-a-phone: 127.0.0.12}}
        """, top=f"http: 127.0.0.1:{site}")
    gateway.start()
    gateway.wait_targets("127.0.0.11")
    with chromium.tab() as tab:
        for width in (1280, 700, 360):
            tab.open(url, width)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width
            text = tab.evaluate(LOOKS)
            for words in ("web1", "up", "down", "L4CON", "connection refused", "in kernel", "1 of 2 endpoints"):
                assert words in text, (width, words)
            shapes = "tbody tr.ok .pill svg, tbody tr.bad .pill svg"
            assert tab.evaluate(f"document.querySelectorAll('{shapes}').length") == 2
        asked = [each["request"]["url"] for each in tab.told("Network.requestWillBeSent")]
        assert asked and all(each.startswith((url, "data:")) for each in asked)
        one.status = 503
        gateway.wait_log("web1 .* up -> down")
        tab.evaluate("window.stays = 1; document.dispatchEvent(new Event('visibilitychange'))")
        tab.wait(f"{LOOKS}.includes('No member of www/http is up')")
        assert tab.evaluate("window.stays") == 1, "without loading the page anew"
        assert tab.evaluate("document.title").startswith("0/2 up")
        tab.call("Emulation.setScriptExecutionDisabled", value=True)
        tab.open(url, 360)
        tab.await_event("Page.frameScheduledNavigation")       # it will load itself anew
        tab.call("Emulation.setScriptExecutionDisabled", value=False)
        tab.open(url, 360)
        gateway.stop(signal.SIGKILL)
        tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
        tab.wait("!document.getElementById('gone').hidden")
        complaints = [each["entry"]["text"] for each in tab.told("Log.entryAdded")]
        assert all("ERR_CONNECTION_REFUSED" in each for each in complaints), complaints
    wait("end", gateway.ended)


def test_what_the_reader_unfolds_stays_so(gateway: Gateway) -> None:
    """When the page is refreshed in place; and what is well is one screen."""
    site, inside = free_port(), free_port()
    gateway.web("127.0.0.11", inside)
    services = ", ".join(f"s{number}: {{port: {free_port()}, member_port: {inside}, check: tcp}}"
                         for number in range(20))
    gateway.configure(f"www: {{address: 127.0.0.1, services: {{{services}}}, members: {{web1: 127.0.0.11}}}}",
                      top=f"http: 127.0.0.1:{site}")
    gateway.start()
    try:
        gateway.wait_log("www unknown -> ready")
        with chromium.tab() as tab:
            tab.open(f"http://127.0.0.1:{site}/", 1280)
            tab.wait("document.querySelector('#c-www') !== null")
            tab.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
            tab.wait("!document.querySelector('#c-www').open")
            assert tab.evaluate("document.querySelector('#c-www').getBoundingClientRect().height") < 100
            tab.evaluate("document.querySelector('#c-www summary').click()")
            tab.evaluate("window.old = document.querySelector('#c-www');"
                         "document.dispatchEvent(new Event('visibilitychange'))")
            tab.wait("document.querySelector('#c-www') !== window.old")
            assert tab.evaluate("document.querySelector('#c-www').open")
    finally:
        gateway.stop()


def test_the_policy_knows_the_style_and_the_script(tmp_path: Path) -> None:
    """Were they changed on the way, the browser would ignore them."""
    with balancer() as daemon:
        text = "".join(page.render(daemon, History(), {}))
    from l4ipd.web.page_style import SCRIPT, STYLE, _hash
    for tag, content in (("style", STYLE), ("script", SCRIPT)):
        found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.S)
        assert found and found[1] == content and _hash(found[1]) in page.POLICY
