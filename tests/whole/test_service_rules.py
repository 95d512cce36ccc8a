"""Which rules a service has, line by line: by states, weights, agents, what is kept, and what a reload brings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from l4ipd.checks.verdict import Verdict
from l4ipd.daemon import Daemon
from l4ipd.fleet import Fleet
from l4ipd.model import Cluster, Config, Ipfilter, Member
from l4ipd.monitor.monitor import Monitor
from l4ipd.runtime.loop import Loop
from l4ipd.service_rules import ServiceRules
from support.balancer import BAD, GOOD, cluster

VIPS = ("203.0.113.1", "203.0.113.2")
A, B = Member("a", "10.0.0.1"), Member("b", "10.0.0.2")
EXT0 = Ipfilter(interface="ext0")


def www(*members: Member, keep: bool = False, vips: tuple[str, ...] = VIPS[:1]) -> Cluster:
    return replace(cluster("www", *members, services=("http",)), addresses=vips, keep=keep)


class Gateway:
    """A fleet and its rules; the test gives the outcomes."""

    def __init__(self, *clusters: Cluster) -> None:
        self.loop = Loop()
        daemon = Daemon(self.loop, Config(), 100)
        daemon.fleet.transitions.begin()
        self.fleet: Fleet = daemon.fleet
        self.services = ServiceRules(self.fleet, Ipfilter())
        self.apply(*clusters)

    def apply(self, *clusters: Cluster, settings: Ipfilter = EXT0) -> None:
        config = Config(settings, clusters)
        self.fleet.take_over(config)
        self.services.take_over(config)

    def member(self, name: str, group: str = "www/http") -> Monitor:
        return self.fleet.monitors[f"{group}/{name}"]

    def up(self, names: str, group: str = "www/http", verdict: Verdict = GOOD) -> None:
        for name in names.split() * 3:
            self.member(name, group).heard(verdict, self.loop.now, 0.0)

    def down(self, names: str) -> None:
        self.up(names, verdict=BAD)

    def plan(self, group: str = "www/http") -> str:
        self.services.plan(group)
        return self.wanted()

    def wanted(self) -> str:
        """For each rule: the last part of its address and of the member's, and what its tag has behind the dot."""
        words = [line.split() for line in self.services.wanted()]
        assert all(line[:2] == ["rdr", self.services.settings.interface] for line in words)
        return " ".join(f"{line[2].split('/')[0].rpartition('.')[2]}>{line[6].rpartition('.')[2]}"
                        f"{line[-1].removeprefix('l4ip')}" for line in words)


@pytest.fixture
def made() -> Iterator[list[Gateway]]:
    gateways: list[Gateway] = []
    yield gateways
    for gateway in gateways:
        gateway.loop.close()


def gateway(made: list[Gateway], *clusters: Cluster) -> Gateway:
    made.append(Gateway(*clusters))
    return made[-1]


def test_who_is_up_has_its_rules(made: list[Gateway]) -> None:
    it = gateway(made, www(A, B, vips=VIPS))
    assert it.plan() == ""
    it.up("b")
    assert it.wanted() == "", "not before it is planned"
    assert it.plan() == "1>2 2>2"
    it.up("a")
    assert it.plan() == "1>1 1>2 2>1 2>2"
    it.down("b")
    assert it.plan() == "1>1 2>1"
    it.fleet.disable([it.member("a")], now=False)
    assert it.plan() == ""


def test_weights(made: list[Gateway]) -> None:
    it = gateway(made, www(replace(A, weight=4), B, vips=VIPS))
    it.up("a b")
    assert it.plan() == "1>1 1>1.2 1>2 1>1.3 1>1.4 2>1 2>1.2 2>2 2>1.3 2>1.4"
    it.member("a").weigh(50)
    assert it.plan() == "1>1 1>2 1>1.2 2>1 2>2 2>1.2", "what its agent leaves it, on each address"
    it.member("a").weigh(1)
    assert it.plan() == "1>1 1>2 2>1 2>2"
    it.member("a").weigh(100)
    it.down("b")
    assert it.plan() == "1>1 1>1.2 1>1.3 1>1.4 2>1 2>1.2 2>1.3 2>1.4"


def test_last_rules_stay_where_they_are_to_be_kept(made: list[Gateway]) -> None:
    it = gateway(made, www(A, B, keep=True))
    assert it.services.keeps("www/http") and not it.services.kept("www/http"), "there are none yet"
    it.up("a b")
    assert it.plan() == "1>1 1>2"
    it.down("a")
    assert it.plan() == "1>2"
    it.down("b")
    assert it.plan() == it.plan() == "1>2" and it.services.kept("www/http")
    it.fleet.disable([it.member("b")], now=False)
    assert it.plan() == "" and not it.services.kept("www/http"), "the operator's word stands"
    it.fleet.enable([it.member("b")])
    assert it.plan() == "", "it has not served since"
    it.up("a")
    assert it.plan() == "1>1"
    it.apply(www(A, B))
    assert not it.services.keeps("www/http") and not it.services.kept("www/http")
    it.down("a")
    assert it.plan() == ""


def test_rules_that_were_found_are_those_that_stay(made: list[Gateway]) -> None:
    it = gateway(made, www(A, B, keep=True))
    for _ in range(2):
        it.services.count_as_serving(it.member("b"))
    assert it.services.kept("www/http")
    assert it.plan() == "1>2"
    it.services.count_as_serving(it.member("a"))
    assert it.plan() == "1>1 1>2", "in their order"
    it.apply(www(A, keep=True))
    it.services.count_as_serving(it.member("a"))
    assert it.services.kept("www/http") and it.plan() == "1>1"


def test_who_has_left_keeps_nothing(made: list[Gateway]) -> None:
    it = gateway(made, www(A, B, keep=True))
    it.services.count_as_serving(it.member("b"))
    it.apply(www(A, keep=True))
    assert not it.services.kept("www/http") and it.plan() == ""


def test_a_service_that_has_left_has_no_rules_and_remembers_none(made: list[Gateway]) -> None:
    mail = replace(cluster("mail", A, services=("smtp",)), addresses=("203.0.113.25",), keep=True)
    it = gateway(made, mail, www(A, keep=True))
    it.up("a")
    it.up("a", "mail/smtp")
    it.plan()
    assert it.plan("mail/smtp") == "25>1 1>1", "in the order of the configuration"
    it.apply(www(A, keep=True))
    assert it.wanted() == "1>1"
    it.apply(mail, www(A, keep=True))
    assert it.wanted() == "1>1" and it.plan("mail/smtp") == "1>1", "it is new, and nobody is up"
    assert not it.services.kept("mail/smtp")


def test_lines_are_made_once_and_again_when_they_would_be_others(made: list[Gateway]) -> None:
    it = gateway(made, www(A, B))
    first = it.services.lines(it.member("a"))
    assert first == ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.1 port 8080 tcp round-robin tag l4ip",)
    it.services.lines(it.member("b"))
    it.apply(www(A))
    assert it.services.lines(it.member("a")) is first and list(it.services._lines) == ["www/http/a"]
    it.apply(www(replace(A, weight=2)))
    assert it.services.lines(it.member("a")) == (first[0], f"{first[0]}.2")
    it.apply(www(A), settings=replace(EXT0, interface="em0"))
    assert it.services.lines(it.member("a")) == (first[0].replace("ext0", "em0"),)
    it.up("a")
    assert it.plan() == "1>1"
