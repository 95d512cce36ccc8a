"""Lines about certificates that end soon: whose, when, and how many, on a clock that only the test moves."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from l4ipd.checks.certificate import first, not_after
from l4ipd.checks.certificates import Certificates
from l4ipd.model import Check
from l4ipd.monitor.expiry import AT_ONCE, DAY, NAMED, OFTEN, SOON, Expiry, words
from l4ipd.monitor.monitor import Monitor
from support.certs import Authority
from support.monitors import PACE, World

TLS = replace(PACE, type="tls")


class Shop(World):
    """Endpoints whose certificates end at times that the test names, by days from now."""

    def __init__(self, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
        super().__init__()
        self.authority, self.caplog, self.certificates = authority, caplog, Certificates()
        self.wall, self.monitors = time.time(), list[Monitor]()
        self.expiry = Expiry(self.loop, self.certificates, lambda: self.monitors, lambda: self.wall)

    def add(self, *checks: Check, name: str = "web1", **changes: object) -> Monitor:
        monitor = self.monitor(*checks, name=name)
        monitor.redefine(replace(monitor.endpoint, **changes))          # type: ignore[arg-type]
        monitor.stop()                              # no probe disturbs
        self.monitors.append(monitor)
        return monitor

    def shows(self, port: int, days: int, name: str | None = None, address: str = "10.0.0.1") -> float:
        """A place shows a certificate; returns its end."""
        der = first(self.authority.pem("x", days=(-400, days)).read_bytes())
        self.certificates.seen((address, port, name), der)
        end = not_after(der)
        assert end is not None
        return end

    def lines(self) -> list[str]:
        found = [record.getMessage() for record in self.caplog.records]
        self.caplog.clear()
        return found

    def look(self) -> list[str]:
        """The next time that it looks."""
        self.run(OFTEN + 1)
        return self.lines()


@pytest.fixture
def shop(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Shop]:
    yield Shop(Authority(tmp_path), caplog)


def test_the_first_end_of_all_that_an_endpoint_shows(shop: Shop) -> None:
    one = shop.add(TLS, replace(PACE, type="https", port=444, host="www.example.org:444"), replace(PACE, port=445),
                   replace(PACE, type="smtp", port=25, starttls=True)).endpoint
    assert shop.expiry.end(one) is None, "none was seen"
    tls = shop.shows(one.member_port, 20)
    assert shop.expiry.end(one) == tls
    shop.shows(445, 3)
    shop.shows(444, 3)
    assert shop.expiry.end(one) == tls, "a check without TLS, or another name, is none of it"
    https = shop.shows(444, 9, "www.example.org")
    assert shop.expiry.end(one) == https < tls
    smtp = shop.shows(25, 7)
    assert shop.expiry.end(one) == smtp < https
    assert shop.expiry.end(replace(one, address="10.0.0.2")) is None


def test_it_looks_soon_after_a_new_one_and_then_every_ten_minutes(shop: Shop) -> None:
    shop.add(TLS)
    shop.run(OFTEN * 2)
    assert shop.lines() == []
    end = shop.shows(8080, 9)
    shop.run(AT_ONCE / 2)
    assert shop.lines() == []
    shop.run(AT_ONCE)
    assert shop.lines() == [f"www/http/web1 10.0.0.1:8080: {words(end, shop.wall)}"]
    for told in (0, 1, 0, 1):                       # twice a day
        shop.wall += DAY / 2
        shop.run(OFTEN - 3)
        assert shop.lines() == []
        shop.run(3)
        assert len(shop.lines()) == told


def test_a_line_a_day_and_anew_for_another_certificate_or_another_day(shop: Shop) -> None:
    shop.add(TLS)
    end = shop.shows(8080, 20)
    for when, count in ((end - SOON - 1, 0), (end - SOON, 1), (end - SOON + DAY - 1, 0), (end - SOON + DAY, 1),
                        (end - SOON + 2 * DAY - 1, 0),
                        (end - SOON, 1)):           # the clock was set back
        shop.wall = when
        assert len(shop.look()) == count, when
    assert shop.shows(8080, 19) != end
    assert len(shop.look()) == 1
    shop.shows(8080, 300)
    assert shop.look() == [], "it was renewed"
    shop.shows(8080, 19)
    assert len(shop.look()) == 1


def test_who_has_gone_is_forgotten(shop: Shop) -> None:
    one = shop.add(TLS)
    shop.shows(8080, 9)
    assert len(shop.look()) == 1
    shop.monitors.clear()
    assert shop.look() == []
    shop.monitors.append(one)
    assert len(shop.look()) == 1


def test_who_has_been_told_of_hides_nobody(shop: Shop) -> None:
    for name in ("a", "b", "c"):
        shop.add(TLS, name=name, member_port={"a": 8080, "b": 8081, "c": 8082}[name])
    shop.shows(8080, 9)
    assert len(shop.look()) == 1
    end = shop.shows(8082, 9)
    assert shop.look() == [f"www/http/c 10.0.0.1:8082: {words(end, shop.wall)}"]


@pytest.mark.parametrize("many", [NAMED - 1, NAMED, NAMED + 1, NAMED + 5])
def test_some_are_named_and_the_others_are_counted(shop: Shop, many: int) -> None:
    shop.add(TLS, name="first")                     # of which nothing is known, and which hides nobody
    for number in range(many):
        shop.add(TLS, name=f"m{number}")
    end = shop.shows(8080, 9)
    shop.monitors[0].redefine(replace(shop.monitors[0].endpoint, address="10.9.9.9"))
    found = shop.look()
    named = [f"www/http/m{number} 10.0.0.1:8080: {words(end, shop.wall)}" for number in range(min(many, NAMED))]
    more = [f"certificates of {many - NAMED} endpoints more expire within 14 days, or have expired"]
    assert found == named + more[:many > NAMED]
    assert shop.look() == [], "they have all been told of"


def test_a_look_that_raises_is_followed_by_the_next(shop: Shop) -> None:
    shop.add(TLS)
    monitors, shop.expiry._monitors = shop.expiry._monitors, lambda: [][0]
    shop.shows(8080, 9)
    shop.run(2.0)
    assert shop.loop.errors.total == 1 and len(shop.lines()) == 1
    shop.expiry._monitors = monitors
    assert len(shop.look()) == 1
    shop.loop.clear(shop.expiry._timer)
    shop.expiry.raised()
    shop.wall += DAY
    shop.run(OFTEN - 1)
    assert shop.lines() == []
    shop.run(2.0)
    assert len(shop.lines()) == 1


@pytest.mark.parametrize(("left", "said"), [
    (0.0, "its certificate has expired on 1970-01-11"), (1.0, "its certificate expires within a day, on 1970-01-11"),
    (DAY - 1, "its certificate expires within a day, on 1970-01-11"),
    (DAY, "its certificate expires in 1 day, on 1970-01-11"),
    (2 * DAY - 1, "its certificate expires in 1 day, on 1970-01-11"),
    (2 * DAY, "its certificate expires in 2 days, on 1970-01-11")])
def test_words_to_the_second(left: float, said: str) -> None:
    assert words(10 * DAY, 10 * DAY - left) == said
