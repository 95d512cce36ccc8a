"""Whom a reset is about, and which resets our own probes have caused; on a simulated clock."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from l4ipd.checks.verdict import Verdict
from l4ipd.ipfilter import log_rules
from l4ipd.model import Check, Endpoint
from l4ipd.resets.ipmon import Reset
from l4ipd.resets.reaction import APART, WORDS, Reaction
from l4ipd.resets.targets import OWN_FOR, Targets, Watched, own_address
from l4ipd.runtime.loop import Loop
from support.loops import Clock
from support.simulated_tools import Sleep

CLIENT = "198.51.100.7"
REFUSED = Reset("tcp", "10.0.0.2", 8080, CLIENT, True, 1, 4711, "")


class Somebody:
    """In a monitor's place: remembers what it was asked, and answers what the test says."""

    passes = 0

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint, self.eligible = endpoint, True
        self.answer = "used"
        self.refusals: list[tuple[str, str]] = []
        self.probed_soon = 0

    def refuse(self, verdict: Verdict, client: str) -> str:
        self.refusals.append((str(verdict), client))
        return self.answer

    def probe_soon(self) -> None:
        self.probed_soon += 1


def somebody(name: str = "a", address: str = "10.0.0.2", port: int = 8080, protocol: str = "tcp", ports: int = 1,
             check: Check | None = None) -> Somebody:
    return Somebody(Endpoint(f"www/x/{name}", "www", "x", name, ("203.0.113.1",), 80, protocol, False, address, port, 1,
                             False, (check or Check("tcp"),), ports=ports))


class Bench:
    def __init__(self, *watched: Somebody) -> None:
        self.clock = Clock()
        self.loop = Loop(self.clock, Sleep(self.clock))
        self.targets, self.heard = Targets(self.loop), 0
        self.it = Reaction(self.loop, self.targets, self.hear)
        self.targets.use(watched)

    def hear(self) -> None:
        self.heard += 1

    def wait(self, seconds: float) -> None:
        self.clock.now += seconds
        self.loop.now = self.clock.now

    def at(self, protocol: str = "tcp", address: str = "10.0.0.2", port: int | None = 8080) -> list[list[Watched]]:
        return [target.watched for target in self.targets.at(protocol, address, port)]

    @property
    def ignored(self) -> dict[str, int]:
        assert self.it.seen == self.it.used + self.it.ignored.total()
        return dict(self.it.ignored)


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A gateway whose address towards everybody is the same."""
    monkeypatch.setattr("l4ipd.resets.targets.own_address", lambda address: "10.0.0.1")
    yield


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect(("::1", 9))
            return True
    except OSError:
        return False


# -- who is meant

def test_who_is_where() -> None:
    one, two, udp, six = (somebody("a"), somebody("b"), somebody("c", protocol="udp"),
                          somebody("d", "fd00::2", 53, "udp"))
    other = somebody("e", "fd00::2", 54, "udp")
    bench = Bench(one, two, udp, six, other)
    assert bench.at() == [[one, two]] and bench.at("udp") == [[udp]]
    assert bench.at(port=8081) == bench.at(address="10.0.0.3") == []
    assert bench.at("udp", "fd00::2", None) == [[six], [other]] and bench.at("udp", port=None) == [[udp]]
    assert bench.at("udp", "10.0.0.9", None) == []


def test_ranges_of_ports() -> None:
    one, some, more = somebody("a"), somebody("b", port=8000, ports=100), somebody("c", port=8080, ports=10)
    bench = Bench(some, one, more)
    assert bench.at() == [[one], [some], [more]] and bench.at(port=8000) == [[some]] == bench.at(port=8079)
    assert bench.at(port=8099) == [[some]] and bench.at(port=8100) == [] == bench.at("udp", port=8000)
    exactly = bench.targets.exactly
    assert [target.watched for target in exactly("tcp", "10.0.0.2", range(8000, 8100))] == [[some]]
    assert exactly("tcp", "10.0.0.2", range(8000, 8099)) == ()
    bench.targets.use([one])
    assert bench.at(port=8000) == []
    two = somebody("d", ports=2)
    bench.targets.use([two])
    assert bench.at(port=8081) == [[two]] and bench.at(port=8082) == []


def test_a_port_that_stays_keeps_its_memory() -> None:
    one, two = somebody("a"), somebody("b")
    bench = Bench(one, somebody("c", port=9))
    (before,) = bench.targets.at("tcp", "10.0.0.2", 8080)
    bench.targets.use([two])
    (after,) = bench.targets.at("tcp", "10.0.0.2", 8080)
    assert after is before and after.watched == [two] and bench.at(port=9) == []
    bench.targets.use([somebody("d", protocol="udp")])
    assert bench.at() == []


def test_eligible_are_those_to_whom_clients_are_sent() -> None:
    one, two = somebody("a"), somebody("b")
    two.eligible = False
    (target,) = Bench(one, two).targets.at("tcp", "10.0.0.2", 8080)
    assert target.eligible == [one]


# -- our own probes

def test_what_goes_to_our_own_address_is_ours() -> None:
    bench = Bench(somebody())
    (target,) = bench.targets.at("tcp", "10.0.0.2", 8080)
    assert bench.targets.is_own(target, "10.0.0.1") and not bench.targets.is_own(target, CLIENT)


def test_our_address_is_looked_up_again_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    bench, looked = Bench(somebody()), []
    (target,) = bench.targets.at("tcp", "10.0.0.2", 8080)

    def look(address: str) -> str:
        looked.append(address)
        return "10.0.0.1"

    monkeypatch.setattr("l4ipd.resets.targets.own_address", look)
    for _ in range(3):
        bench.targets.is_own(target, CLIENT)
    assert looked == ["10.0.0.2"] and OWN_FOR == 30.0
    bench.wait(OWN_FOR)
    bench.targets.is_own(target, CLIENT)
    assert len(looked) == 1
    bench.wait(0.01)
    bench.targets.is_own(target, CLIENT)
    assert len(looked) == 2


@pytest.mark.parametrize(("member", "ours"), [("10.0.0.2", "10.0.0.2"), ("127.0.0.2", "127.0.0.1"), ("::1", "::1")])
def test_on_this_very_machine_only_as_many_as_were_refused(member: str, ours: str,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l4ipd.resets.targets.own_address", lambda address: ours)
    bench = Bench(somebody(address=member))
    (target,) = bench.targets.at("tcp", member, 8080)
    it = bench.targets
    assert not it.is_own(target, ours)
    it.expect_own(target, 5.0)
    it.expect_own(target, 5.0)
    assert [it.is_own(target, ours) for _ in range(3)] == [True, True, False]
    it.expect_own(target, 5.0)
    bench.wait(4.9)
    assert not it.is_own(target, CLIENT) and it.is_own(target, ours)
    it.expect_own(target, 5.0)
    bench.wait(5.0)
    assert not it.is_own(target, ours), "it is too late"
    it.expect_own(target, 5.0)
    assert target.expected == 1, "and is not counted with those that are to come"
    assert it.is_own(target, ours) and not it.is_own(target, ours)


def test_our_address_towards_somebody() -> None:
    assert own_address("127.0.0.1") == "127.0.0.1"
    assert own_address("::1") == ("::1" if has_ipv6() else "")
    assert own_address("no address") == "" == own_address("fe80::1%no-such-interface")


# -- what it does

def test_what_is_believed() -> None:
    assert WORDS.keys() >= {"own", "down", "unknown", "stale", "haste", "doubted", "unreadable"}
    one = somebody()
    bench = Bench(one)
    bench.it.weigh(REFUSED)
    assert one.refusals == [("RST connection refused, seen by ipmon", CLIENT)] and bench.ignored == {}
    assert (bench.it.seen, bench.it.used, bench.heard, one.probed_soon) == (1, 1, 1, 0)


@pytest.mark.parametrize(("action", "refused", "unverified", "believed"), [
    ("refused", True, False, True), ("refused", False, False, False), ("refused", None, False, False),
    ("any", True, False, True), ("any", False, False, True), ("any", None, False, True),
    ("check", True, False, False), ("any", True, True, False), ("refused", True, True, False),
])
def test_what_only_hastens_a_probe(action: str, refused: bool | None, unverified: bool, believed: bool) -> None:
    one = somebody()
    bench = Bench(one)
    bench.it.action = action
    bench.it.weigh(REFUSED._replace(refused=refused), unverified)
    words = "connection refused" if refused else "connection reset"
    assert one.refusals == [(f"RST {words}, seen by ipmon", CLIENT)] * believed
    assert one.probed_soon == (not believed) and bench.it.used == 1


def test_refusals_of_udp() -> None:
    one = somebody(protocol="udp")
    bench = Bench(one)
    bench.it.weigh(REFUSED._replace(protocol="udp"))
    assert one.refusals == [("RST port unreachable, seen by ipmon", CLIENT)]


def test_of_what_came_together_one_is_used() -> None:
    bench = Bench(somebody())
    bench.it.weigh(REFUSED._replace(times=5))
    assert (bench.it.seen, bench.it.used) == (5, 1) and bench.ignored == {"haste": 4}


def test_what_is_of_no_use() -> None:
    one = somebody()
    bench = Bench(one)
    bench.it.weigh(REFUSED._replace(port=9, times=2))
    bench.it.weigh(REFUSED._replace(client="10.0.0.1"))
    assert bench.heard == 0
    one.eligible = False
    bench.it.weigh(REFUSED)
    bench.it.stale(REFUSED._replace(times=3))
    bench.it.unreadable()
    assert bench.ignored == {"unknown": 2, "own": 1, "down": 1, "stale": 3, "unreadable": 1} and not bench.it.used
    assert bench.heard == 1 and not one.refusals and not one.probed_soon


@pytest.mark.parametrize(("answers", "used", "ignored"), [
    (("used", "doubted"), 1, {}), (("doubted", "haste"), 0, {"doubted": 1}), (("haste", "haste"), 0, {"haste": 1}),
    (("haste", "used"), 1, {})])
def test_several_at_one_port(answers: tuple[str, str], used: int, ignored: dict[str, int]) -> None:
    one, two = somebody("a"), somebody("b")
    one.answer, two.answer = answers
    bench = Bench(one, two)
    bench.it.weigh(REFUSED)
    assert (bench.it.used, bench.ignored) == (used, ignored) and len(one.refusals) == len(two.refusals) == 1


def test_of_a_range_only_a_port_that_is_checked_speaks() -> None:
    one = somebody(port=8080, ports=10, check=Check("tcp", port=8085))
    bench = Bench(one)
    bench.it.weigh(REFUSED)
    assert not one.refusals and one.probed_soon == 1
    bench.it.weigh(REFUSED._replace(port=8085))
    assert len(one.refusals) == 1
    bench.wait(APART)
    other = somebody("b", port=8080, ports=10)
    bench.targets.use([other])
    bench.it.weigh(REFUSED)
    assert len(other.refusals) == (other.endpoint.probe_port == 8080)


def test_of_a_single_port_it_speaks_whatever_is_checked() -> None:
    one = somebody(check=Check("tcp", port=9999))
    Bench(one).it.weigh(REFUSED)
    assert len(one.refusals) == 1


def test_haste_is_not_made_again_and_again() -> None:
    one, two = somebody("a"), somebody("b")
    bench = Bench(one, two)
    bench.it.action = "check"
    for wait, probed_soon in ((0.0, 1), (APART - 0.1, 1), (0.1, 2), (0.5, 2)):
        bench.wait(wait)
        bench.it.weigh(REFUSED)
        assert one.probed_soon == two.probed_soon == probed_soon
    assert (bench.it.used, bench.ignored, APART) == (2, {"haste": 2}, 1.0)


def test_without_a_port_every_udp_endpoint_is_probed() -> None:
    one, two, tcp = (somebody("a", "fd00::2", 53, "udp"), somebody("b", "fd00::2", 54, "udp"),
                     somebody("c", "fd00::2", 53))
    bench = Bench(one, two, tcp)
    bench.it.weigh(REFUSED._replace(protocol="udp", address="fd00::2", port=None))
    assert (one.probed_soon, two.probed_soon, tcp.probed_soon, bench.it.used, bench.heard) == (1, 1, 0, 1, 0)


def test_an_ipmon_that_does_not_tell_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(somebody())
    bench.it.weigh(REFUSED._replace(refused=False))
    assert not caplog.messages
    for _ in range(3):
        bench.it.weigh(REFUSED._replace(refused=None))
    assert caplog.messages == ["ipmon runs without -v, so that refused connections cannot be told from those that were "
                               "reset: endpoints are probed at once, but not taken down"]


# -- the counters

def count(port: int | None = 8080, address: str = "10.0.0.2", last: int | None = None) -> str:
    rule = log_rules.Rule("count", "em1", address, port)
    if last is not None:
        rule = log_rules.Rule("count", "em1", address, port, last=last)
    return rule.line()


def test_growth_has_who_is_there_probed() -> None:
    one, ranged, udp = somebody("a"), somebody("b", port=9000, ports=10), somebody("c", port=53, protocol="udp")
    bench = Bench(one, ranged, udp)
    lines = [count(), count(9000, last=9009), count(None), count(7)]
    bench.it.counted(False, {**dict.fromkeys(lines, 5), "garbage": 1})
    assert bench.it.seen == 0
    bench.it.counted(False, {**dict.fromkeys(lines, 5), "garbage": 2})
    assert bench.it.seen == 0
    bench.it.counted(False, dict(zip(lines, (6, 7, 8, 9), strict=True)))
    assert (one.probed_soon, ranged.probed_soon, udp.probed_soon) == (1, 1, 1) and bench.heard == 0
    assert (bench.it.used, bench.ignored) == (3, {"haste": 1 + 2, "unknown": 4})


def test_what_counts_less_or_for_the_first_time_says_nothing() -> None:
    bench = Bench(somebody())
    for hits in ({count(): 7}, {count(): 2}, {}, {count(): 100}, {count(): 100}):
        bench.it.counted(False, hits)
        assert bench.it.seen == 0
    bench.it.counted(True, {})
    bench.it.counted(False, {count(): 101})
    assert bench.it.used == 1, "the other family has numbers of its own"


def test_what_our_probes_have_caused_is_taken_off() -> None:
    one = somebody()
    bench = Bench(one)
    (target,) = bench.targets.at("tcp", "10.0.0.2", 8080)
    bench.it.counted(False, {count(): 0})
    for hits, expected, used, ignored in ((2, 2, 0, {"own": 2}), (5, 1, 1, {"own": 3, "haste": 1}),
                                          (6, 4, 1, {"own": 4, "haste": 1}), (8, 0, 1, {"own": 4, "haste": 3})):
        for _ in range(expected):
            bench.targets.expect_own(target, 60.0)
        bench.it.counted(False, {count(): hits})
        assert (bench.it.used, bench.ignored) == (used, ignored) and target.expected == 0


def test_a_reading_that_shows_nothing_lets_us_expect_it_still() -> None:
    bench = Bench(somebody())
    (target,) = bench.targets.at("tcp", "10.0.0.2", 8080)
    bench.it.counted(False, {count(): 0})
    bench.targets.expect_own(target, 60.0)
    bench.it.counted(False, {count(): 0})
    bench.it.counted(False, {count(): 1})
    assert bench.ignored == {"own": 1}


def test_counts_of_who_is_down() -> None:
    one = somebody()
    one.eligible = False
    bench = Bench(one)
    bench.it.counted(False, {count(): 0})
    bench.it.counted(False, {count(): 3})
    assert bench.ignored == {"down": 3} and not one.probed_soon
