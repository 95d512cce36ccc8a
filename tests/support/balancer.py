"""A daemon that was never started, to look at: its monitors are fed verdicts by the test, its kernel is what we say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from l4ipd.checks.verdict import Verdict
from l4ipd.daemon import Daemon
from l4ipd.model import Check, Cluster, Config, Ipfilter, Member, Service
from l4ipd.runtime.loop import Loop

GOOD, BAD = Verdict("L7OK", "200"), Verdict("L7STS", "503 Service Unavailable")


def cluster(name: str, *members: Member, check: Check | None = None, services: tuple[str, ...] = ("http",)) -> Cluster:
    """A cluster whose services have ports from 80 on."""
    check = check or Check("http", interval=2.0, path="/healthz")
    return Cluster(name, ("203.0.113.10",), tuple(Service(service, 80 + place, "tcp", 8080 + place, False, (check,))
                                                  for place, service in enumerate(services)), members)


def web(count: int) -> tuple[Member, ...]:
    return tuple(Member(f"web{place}", f"10.0.{place // 200}.{place % 200 + 1}") for place in range(1, count + 1))


@contextmanager
def balancer(*clusters: Cluster) -> Iterator[Daemon]:
    """A daemon with these clusters, that believes the kernel to be as wanted."""
    loop = Loop()
    daemon = Daemon(loop, Config(), 100)
    daemon.events.listeners.clear()
    daemon.apply(Config(Ipfilter(interface="em0"), clusters))
    daemon.fleet.transitions.begin()
    yield daemon
    loop.close()


def settle(daemon: Daemon) -> None:
    """Plan the rules, and let the kernel have them."""
    daemon.steering.turn()
    daemon.steering.rules.belief.have = {line: line for line in daemon.steering.rules.want}
    daemon.steering.rules.belief.stale = False


def feed(daemon: Daemon, name: str, *verdicts: Verdict) -> None:
    for verdict in verdicts:
        daemon.fleet.monitors[name].score(verdict, 0.0)
