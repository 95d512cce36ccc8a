"""Sessions in listings: whose they are. The lines are those of real kernels (FACTS.md 2c, 3-2)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.ipfilter.session_list import ListReader
from l4ipd.ipfilter.sessions import LONGEST, Owners, Reader
from l4ipd.model import Check, Cluster, Endpoint, Member, Service

RULES = """List of active MAP/Redirect filters:
rdr em0 203.0.113.10/32 port 80 -> 10.0.0.12/32 port 8080 tcp round-robin tag l4ip

List of active sessions:
"""
SIX = "RDR 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 {}]\n"       # 6.0.0 tells no protocol
FIVE = "RDR 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 {}] tcp\n"
UDP = "RDR 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 {}] udp\n"
INET6 = "RDR fd00::11 8086  <- -> 2001:db8:1::10 80    [2001:db8:1::2 {}] tcp\n"
MAPPED = "RDR ::ffff:10.0.0.1 80    <- -> 2001:db8:1::20 80    [2001:db8:1::2 {}] tcp\n"      # as inet_ntop(3) has it
OTHERS = ("RDR 10.0.0.13       8080  <- -> 203.0.113.10    80    [198.51.100.2 1] tcp\n"
          "RDR 10.0.0.12       8081  <- -> 203.0.113.10    80    [198.51.100.2 1] tcp\n"
          "RDR 10.0.0.12       8080  <- -> 203.0.113.11    80    [198.51.100.2 1] tcp\n"
          "RDR 10.0.0.12       8080  <- -> 203.0.113.10    81    [198.51.100.2 1] tcp\n"
          "MAP 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 1]\n"
          "\tttl 240 use 0 sumd 0/0 pr 6/6\nRDR\nRDR x\n\n\xff\n")
TCP, DNS = (Service("http", 80, "tcp", 8080, False, (Check("tcp"),)),
            Service("dns", 80, "udp", 8080, False, (Check("udp"),)))
WWW = Cluster("www", ("203.0.113.10", "203.0.113.20"), (TCP,), (Member("web2", "10.0.0.12"),))
BOTH = Cluster("both", ("203.0.113.10",), (TCP, DNS), (Member("web2", "10.0.0.12"),))
V6 = Cluster("six", ("2001:db8:1::10",), (TCP,), (Member("a", "fd00::11", port=8086),))
ODD = Cluster("odd", ("2001:db8:1::20",), (TCP,), (Member("a", "::ffff:a00:1", port=80),))
ALL = [*WWW.endpoints(), *V6.endpoints(), *ODD.endpoints()]


def read(data: bytes, size: int = 100_000) -> Reader:
    reader = Reader()
    for start in range(0, len(data), size):
        assert reader.feed(data[start:start + size]) is False
    return reader


def owned(reader: Reader, endpoints: list[Endpoint]) -> dict[str, int]:
    owners, counts = Owners(endpoints), Counter[str]()
    for ends, count in reader.counts.items():
        for endpoint in owners.of(ends):
            counts[endpoint.name] += count
    return dict(counts)


@pytest.mark.parametrize("lines, counts", [
    ("", {}), (OTHERS, {}), (SIX, {"www/http/web2": 1}), (FIVE + OTHERS + FIVE, {"www/http/web2": 2}), (UDP, {}),
    (INET6 * 3 + FIVE, {"six/http/a": 3, "www/http/web2": 1}), (MAPPED, {"odd/http/a": 1}),
    (FIVE.replace("113.10 ", "113.20 "), {"www/http/web2": 1}),
    (FIVE.replace("\n", "\r\n") * 2, {"www/http/web2": 2})])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_whose_they_are(lines: str, counts: dict[str, int], size: int) -> None:
    found = read((RULES + lines.format(*range(9))).encode(), size)
    assert found.begun and not found.inside
    assert owned(found, ALL) == counts
    assert found.total == lines.count("<- ->")


def test_one_port_over_tcp_and_udp() -> None:
    """Where the listing does not tell the protocol, it may be either's: never too few."""
    both = list(BOTH.endpoints())
    told = read((RULES + FIVE * 2 + UDP * 3).format(1, 2, 3, 4, 5).encode())
    assert owned(told, both) == {"both/http/web2": 2, "both/dns/web2": 3}
    untold = read((RULES + SIX * 2).format(1, 2).encode())
    assert owned(untold, both) == {"both/http/web2": 2, "both/dns/web2": 2}


@given(st.integers(1, 65000), st.integers(1, 65000), st.integers(2, 500), st.integers(-3, 503), st.integers(-2, 2))
def test_a_session_within_a_range_keeps_its_place(port: int, member_port: int, ports: int, at: int, off: int) -> None:
    wide = Cluster("www", ("203.0.113.10",), (Service("wide", port, "tcp", member_port, False, (Check("ping"),),
                                                      ports=ports),), (Member("web2", "10.0.0.12", port=8080),))
    line = f"RDR 10.0.0.12       {member_port + at}  <- -> 203.0.113.10    {port + at + off}    [198.51.100.2 9] tcp\n"
    if min(member_port + at, port + at + off) < 0:
        return
    inside = 0 <= at < ports and not off
    assert owned(read((RULES + line).encode()), list(wide.endpoints())) == ({"www/wide/web2": 1} if inside else {})


@pytest.mark.parametrize("before", [
    FIVE.format(1), "xList of active sessions:\n" + FIVE.format(1),
    "List of active sessions: of mine\n" + FIVE.format(1),
    "x" * 100 + "List of active sessions:\n" + FIVE.format(1), "\n" * 1000 + "List of active sessions"])
@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_before_the_sessions_nothing_counts(before: str, size: int) -> None:
    found = read(before.encode(), size)
    assert not (found.begun or found.inside or found.counts or found.total)


def test_a_line_without_end_takes_no_room() -> None:
    found = read((RULES + FIVE).format(1).encode() + b"RDR " + b"x" * 3_000_000, 65536)
    assert found.inside and len(found._rest) <= LONGEST
    found.feed(b" 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 9] tcp\n" + FIVE.format(2).encode())
    assert owned(found, ALL) == {"www/http/web2": 2} and not found.inside


# -- whatever comes: each line counts for what it says, however it is cut; what is no session's line is nobody's

session = st.sampled_from([SIX, FIVE, UDP, INET6, MAPPED]).flatmap(
    lambda line: st.integers(1, 65535).map(lambda port: line.format(port).encode()))
garbage = st.one_of(st.binary(max_size=80), st.sampled_from([line.encode() + b"\n" for line in OTHERS.splitlines()]),
                    session.flatmap(lambda line: st.integers(0, len(line) - 2).map(lambda end: line[:end])))
garbage_line = garbage.map(lambda data: data.replace(b"\n", b"?") + b"\n")


@given(st.lists(st.one_of(session, garbage_line), max_size=30), st.integers(1, 200))
def test_every_line_counts_for_what_it_says(lines: list[bytes], size: int) -> None:
    whole = owned(read(RULES.encode() + b"".join(lines), size), ALL)
    each = Counter[str]()
    for line in lines:
        each.update(owned(read(RULES.encode() + line), ALL))
    assert whole == dict(each)
    good = sum(line.startswith((SIX[:40].encode(), INET6[:20].encode(), MAPPED[:20].encode())) and line.endswith(
        (b"]\n", b"] tcp\n")) for line in lines)
    assert sum(whole.values()) >= good


@given(st.lists(session, max_size=10), st.data())
def test_one_that_is_cut_short_tells_so(lines: list[bytes], data: st.DataObject) -> None:
    text = RULES.encode() + b"".join(lines)
    cut = data.draw(st.integers(0, len(text)))
    found = read(text[:cut])
    ends = {len(RULES.encode()) + sum(map(len, lines[:count])): count for count in range(len(lines) + 1)}
    assert found.begun == (cut >= len(RULES.encode()))
    if found.begun:
        assert found.inside == (cut not in ends)
        assert found.total >= found.counts.total() == max(count for end, count in ends.items() if end <= cut)


@given(st.binary(max_size=300))
def test_garbage_is_nobodys(data: bytes) -> None:
    assert owned(read(RULES.encode() + data), ALL) == {}


# -- one by one, from `ipnat -lv`

TTL = "\tttl {} use 0 sumd 0xed3f/0x6647 pr 6/6 hash 215384227/224774385 flags 1\n"
MORE = "\tifp X,X bytes 10/20 pkts 1/2 ipsumd 0\n"
HOSTS = "\nList of active host mappings:\n198.51.100.2,203.0.113.10 -> 10.0.0.12,0.0.0.0 (use = 2 hv = 0)\n"


def listed(data: bytes, size: int) -> ListReader:
    reader = ListReader(ALL)
    for start in range(0, len(data), size):
        assert reader.feed(data[start:start + size]) is False
    return reader


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
@pytest.mark.parametrize("tail", ["", HOSTS, OTHERS.replace("\xff", "") + HOSTS])
def test_one_by_one(size: int, tail: str) -> None:
    text = RULES + FIVE.format(1) + TTL.format(60) + MORE + SIX.format(2) + INET6.format(3) + TTL.format(7) + tail
    reader = listed(text.encode(), size)
    assert reader.begun and not reader.inside and reader.total == text.count("<- ->")
    assert [(each.endpoint.name, each.client, each.client_port, each.vip, each.vip_port, each.member, each.member_port,
             each.protocol, each.left) for each in reader.sessions()] == [
        ("www/http/web2", "198.51.100.2", 1, "203.0.113.10", 80, "10.0.0.12", 8080, "tcp", 30.0),
        ("www/http/web2", "198.51.100.2", 2, "203.0.113.10", 80, "10.0.0.12", 8080, "tcp", None),
        ("six/http/a", "2001:db8:1::2", 3, "2001:db8:1::10", 80, "fd00::11", 8086, "tcp", 3.5)]


@given(st.lists(st.one_of(session, garbage_line, st.integers(0, 9).map(lambda ttl: TTL.format(ttl).encode())),
                max_size=30), st.integers(1, 200))
def test_the_list_has_as_many_as_the_count(lines: list[bytes], size: int) -> None:
    data = RULES.encode() + b"".join(lines)
    counted, one_by_one = read(data, size), listed(data, size)
    assert Counter(each.endpoint.name for each in one_by_one.sessions()) == owned(counted, ALL)
    assert one_by_one.total == counted.total


def test_a_long_list_of_others_takes_no_room() -> None:
    reader = listed((RULES + OTHERS.splitlines()[4] + "\n").encode() * 1000 + b"x" * 3_000_000, 65536)
    assert len(reader._rest) <= 4 * LONGEST and not list(reader.sessions())
