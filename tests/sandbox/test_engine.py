"""The sandbox's engine against what the real one did (rotation.txt, remove-and-errors.txt), and its properties."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.sandbox_tools import UDP, Lab, sample

RULE = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.{} port 8080 tcp round-robin\n"


def lab_with(*rules: str) -> Lab:
    lab = Lab()
    assert lab.ipnat("-f", "-", stdin="".join(rules)).status == 0
    return lab


def members(*numbers: int, rule: str = RULE) -> list[str]:
    return [rule.format(number) for number in numbers]


def cycle(*numbers: int, count: int) -> list[str]:
    return [str(numbers[i % len(numbers)]) for i in range(count)]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_distribution(count: int) -> None:
    numbers = range(2, 2 + count)
    lab = lab_with(*members(*numbers))
    found = lab.members(30)
    expected = re.search(rf"^{count} members: ([0-9 ]+) \{{", sample("rotation.txt"), re.M)
    assert expected is not None and " ".join(found) == expected.group(1).strip()
    assert [f"10.0.0.{n}" for n in numbers] == [re.findall(r"-> ([0-9.]+)", rule)[0] for rule in lab.listed()]


def test_retransmitted_syn() -> None:
    lab = lab_with(*members(2, 3, 4))
    found = [lab.send(source_port=port).split(" ")[0][-1] for port in (1, 1, 1, 2, 2, 2, 3, 3, 3)]
    assert " ".join(found) == "2 2 2 3 3 3 4 4 4"


def test_services_rotate_independently() -> None:
    for other in ("203.0.113.2 port 80", "203.0.113.1 port 443"):
        text = RULE.replace("203.0.113.1/32 port 80", other)
        lab = lab_with(*members(2, 3, 4), *members(2, 3, rule=text))
        address, _, port = other.split(" ")
        first, second = [], []
        for _ in range(9):
            first += lab.members(1)
            second += lab.members(1, address=address, port=int(port))
        assert (first, second) == (cycle(2, 3, 4, count=9), cycle(2, 3, count=9))


def test_removal_in_the_middle() -> None:
    lab = lab_with(*members(2, 3, 4))
    assert lab.members(4) == ["2", "3", "4", "2"]
    lab.ipnat("-r", "-f", "-", stdin=RULE.format(3))
    assert lab.members(6) == cycle(4, 2, count=6)
    lab.ipnat("-f", "-", stdin=RULE.format(3))
    assert lab.members(7) == ["4", "2", "3", "4", "2", "3", "4"]
    assert [rule.split("/32")[1][-1] for rule in lab.listed()] == ["2", "4", "3"]


def test_a_plain_rule_takes_everything() -> None:
    plain = RULE.format(2).replace(" round-robin", "")
    assert lab_with(plain, *members(3, 4)).members(6) == ["2"] * 6
    assert lab_with(*members(3, 4), plain).members(6) == ["3", "4", "2", "2", "2", "2"]


def test_pairs() -> None:
    pair = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2,10.0.0.3 port 8080 tcp\n"
    assert lab_with(pair).members(8) == cycle(2, 3, count=8)
    robin = pair.replace("tcp", "tcp round-robin")
    assert lab_with(robin).members(8) == cycle(2, 3, count=8)
    assert lab_with(robin, robin.replace(".2,", ".4,").replace(".0.3 ", ".0.5 ")).members(12) \
        == cycle(2, 3, 4, 5, count=12)


STICKY = RULE.replace("robin", "robin sticky")


def test_sticky() -> None:
    lab = lab_with(*members(2, 3, 4, rule=STICKY))
    section = sample("rotation.txt").partition("== 7. sticky\n")[2].partition("==")[0]
    rows = re.findall(r"^client (\S+) (\[.*\])$", section, re.M)
    assert len(rows) == 4
    for client, expected in rows:
        assert str(lab.members(5, client=client)) == expected
    shown = lab.ipnat("-lv").stdout.partition("host mappings:\n")[2]
    assert re.sub(r"hv = \d+", "", shown) == re.sub(r"hv = \d+", "", section[section.index("198.51.100.10,"):])


def test_sticky_key_is_client_address_and_port() -> None:
    lab = lab_with(*members(2, 3, rule=STICKY),
                   *members(2, 3, rule=STICKY.replace("port 80 ", "port 443 ")))
    lab.members(1, client="198.51.100.8")
    assert lab.members(3) == ["3"] * 3
    assert lab.members(3, port=443) == ["2"] * 3
    inet6 = "rdr ext0 inet6 2001:db8::1/128 port 80 -> fd00::{} port 8080 tcp round-robin sticky\n"
    lab = lab_with(*members(2, 3, rule=inet6))
    assert lab.members(4, client="2001:db8:1::7", address="2001:db8::1") == ["2"] * 4
    assert lab.members(4, client="2001:db8:1::8", address="2001:db8::1") == ["3"] * 4


def test_other_forms() -> None:
    lab = lab_with(*members(2, 3, 4, rule=RULE.replace("203.0.113.1/32 port 80", "from any to 203.0.113.1 port = 80")))
    assert lab.members(7) == cycle(2, 3, 4, count=7)
    udp = lab_with(*members(2, 3, 4, rule=RULE.replace("tcp", "udp")))
    assert udp.members(7, proto=UDP) == cycle(2, 3, 4, count=7)
    assert udp.members(1) == [""]
    both = lab_with(*members(2, 3, 4, rule=RULE.replace("tcp", "tcp/udp")))
    assert (both.members(4), both.members(4, proto=UDP)) == (["2", "3", "4", "2"], ["3", "4", "2", "3"])
    inet6 = "rdr ext0 inet6 2001:db8::1/128 port 80 -> fd00::{} port 8080 tcp round-robin\n"
    lab = lab_with(*members(2, 3, 4, rule=inet6))
    assert lab.members(9, client="2001:db8:1::7", address="2001:db8::1") == cycle(2, 3, 4, count=9)
    assert lab_with("rdr ext0 203.0.113.1 -> 10.0.0.2 tcp round-robin\n").send(port=77) == "10.0.0.2 77"


@pytest.mark.parametrize("target, expected", [
    ("port 8080", ["2 8080", "3 8081", "2 8085", "3 8090"]),
    ("port = 8080", ["2 8080", "3 8080", "2 8080", "3 8080"]),
    ("port 8080-8090", ["2 8090", "3 8091", "2 8095", "3 8100"]),           # FACTS.md 3-14: not what it looks like
    ("", ["2 80", "3 81", "2 85", "3 90"]),
])
def test_port_ranges(target: str, expected: list[str]) -> None:
    rule = RULE.replace("port 80 ", "port 80-90 ").replace("port 8080", target)
    lab = lab_with(*members(2, 3, rule=rule))
    assert [lab.send(port=port)[7:] for port in (80, 81, 85, 90)] == expected
    assert lab.send(port=91) == ""


def test_range_of_target_ports_takes_turns() -> None:
    lab = lab_with(RULE.format(2).replace("port 8080", "port 8080-8082"))
    assert [lab.send()[9:] for _ in range(4)] == ["8080", "8081", "8082", "8080"]


def test_longest_mask_wins() -> None:
    lab = lab_with(RULE.format(2).replace(".1/32", ".0/24"), RULE.format(3))
    assert lab.members(2) == ["3", "3"]
    assert lab.members(2, address="203.0.113.9") == ["2", "2"]


def test_weights() -> None:
    lab = lab_with(RULE.format(2), RULE.format(2).replace("robin", "robin tag l4ip.2"), RULE.format(3))
    assert " ".join(lab.members(9)) == sample("remove-and-errors.txt").splitlines()[-1]


# -- sessions


def test_removal_leaves_sessions_and_purge_ends_them() -> None:
    lab = lab_with(*members(2, 3))
    assert lab.send(source_port=5000) == "10.0.0.2 8080"
    lab.ipnat("-r", "-f", "-", stdin=RULE.format(2))
    assert lab.send(source_port=5000) == "10.0.0.2 8080"
    assert lab.send(source_port=5001) == "10.0.0.3 8080"
    lab.ipnat("-f", "-", stdin=RULE.format(2))
    assert lab.ipnat("-r", "-p", "-f", "-", stdin=RULE.format(2)).status == 0
    assert "198.51.100.7 5000" in lab.ipnat("-l").stdout        # it belongs to the rule removed before
    lab.ipnat("-F")
    lab.ipnat("-f", "-", stdin=RULE.format(2))
    assert [lab.send(source_port=port)[7:] for port in (5000, 5001)] == ["3 8080", "2 8080"]
    lab.ipnat("-r", "-p", "-f", "-", stdin=RULE.format(3))
    assert lab.send(source_port=5000) == "10.0.0.2 8080"


def test_the_word_purge() -> None:
    lab = lab_with(RULE.format(2).replace("robin", "robin purge"))
    lab.send(source_port=5000)
    assert lab.ipnat("-r", "-f", "-", stdin=RULE.format(2)).status == 1
    assert lab.ipnat("-r", "-f", "-", stdin=RULE.format(2).replace("robin", "robin purge")).status == 0
    assert lab.send(source_port=5000) == ""


@pytest.mark.parametrize("words, after, rules, sessions", [
    (["-r"], ["2"] * 4, 1, 5), (["-r", "-p"], ["3"] * 4, 1, 4)])
def test_sticky_and_removal(words: list[str], after: list[str], rules: int, sessions: int) -> None:
    lab = lab_with(*members(2, 3, rule=STICKY))
    assert lab.members(1) == ["2"]
    lab.ipnat(*words, "-f", "-", stdin=STICKY.format(2))
    assert lab.members(4) == after
    assert (len(lab.listed()), len(lab.kernel.nat.sessions)) == (rules, sessions)
    assert lab.members(1, client="198.51.100.8") == ["3"]


def test_flush() -> None:
    lab = lab_with(*members(2, 3))
    lab.members(2)
    assert lab.ipnat("-F").stdout == "2 entries flushed from NAT table\n"
    lab.members(1)
    assert lab.ipnat("-C").stdout == "2 entries flushed from NAT list\n"
    assert (lab.listed(), len(lab.kernel.nat.sessions)) == ([], 1)
    assert lab.ipnat("-FC").stdout == "1 entries flushed from NAT table\n0 entries flushed from NAT list\n"
    assert lab.ipnat("-m", "ip.dst = 10.0.0.2;", "-F").stderr \
        == "121:ioctl(SIOCMATCHFLUSH) error verifying contents of match array\n"


@pytest.mark.parametrize("state, seconds", [
    ("half-open", 240), ("established", 432000), ("closed", 30), ("datagram", 600)])
def test_life(state: str, seconds: int) -> None:
    lab = lab_with(*members(2))
    lab.send()
    table = lab.kernel.nat
    table.touch(next(iter(table.sessions.values())), state)
    assert f"\tttl {2 * seconds} use 0" in lab.ipnat("-lv").stdout
    lab.clock.now += seconds - 1
    assert "RDR" in lab.ipnat("-l").stdout
    lab.clock.now += 1
    assert "RDR" not in lab.ipnat("-l").stdout


def test_sticky_is_forgotten_with_the_last_session() -> None:
    lab = lab_with(*members(2, 3, rule=STICKY))
    assert lab.members(2) == ["2", "2"]
    lab.clock.now += 240
    assert lab.members(2) == ["3", "3"]


def test_replies_must_be_told_apart() -> None:
    """The same client port to two services of one member: the second rule in the chain gets it."""
    lab = lab_with(*members(2, 3), RULE.format(2).replace("113.1", "113.2"))
    lab.send(source_port=5000, address="203.0.113.2")
    assert lab.send(source_port=5000) == "10.0.0.3 8080"


steps = st.lists(st.tuples(st.sampled_from(["new", "again", "add", "remove", "purge", "flush", "wait"]),
                           st.integers(2, 6)), max_size=60)


@given(steps, st.booleans())
def test_properties(steps: list[tuple[str, int]], sticky: bool) -> None:
    """Rotation is even, sessions keep their member, and the tables agree with each other."""
    lab, rule = Lab(), STICKY if sticky else RULE
    loaded: list[int] = []
    since: list[str] = []                               # new connections since the rules last changed
    for step, number in steps:
        if step == "new":
            found = lab.send(f"198.51.100.{number}")
            assert bool(found) >= bool(loaded)
            if found and not sticky:
                since.append(found)
        elif step == "again":
            for session in list(lab.kernel.nat.sessions.values()):
                assert lab.kernel.nat.packet(session.flow) is session
        elif step == "add":
            assert lab.ipnat("-f", "-", stdin=rule.format(number)).status == (number in loaded)
            loaded += [number] * (number not in loaded)
        elif step in ("remove", "purge"):
            words = ["-r"] + ["-p"] * (step == "purge")
            assert lab.ipnat(*words, "-f", "-", stdin=rule.format(number)).status == (number not in loaded)
            loaded = [other for other in loaded if other != number]
        elif step == "flush":
            lab.kernel.nat.flush()
        else:
            lab.clock.now += 60 * number
            lab.kernel.nat.expire()
        if step in ("add", "remove", "purge"):
            since.clear()
        counts = [since.count(f"10.0.0.{member} 8080") for member in loaded]
        assert not counts or max(counts) - min(counts) <= 1
        consistent(lab)


def consistent(lab: Lab) -> None:
    table = lab.kernel.nat
    assert len(table._replies) == len(table.sessions) == sum(len(queue) for queue in table._queues.values())
    assert sum(binding.sessions for binding in table.bindings.values()) \
        == sum(session.binding is not None for session in table.sessions.values())
    assert sum(len(chain) for chain in table._chains.values()) == len(table.rules)
