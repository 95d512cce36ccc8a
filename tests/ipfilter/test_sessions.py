"""Sessions in listings: whose they are. The lines are those of real kernels (FACTS.md 2c, 3-2)."""

from __future__ import annotations

import pytest

from l4ipd.ipfilter.sessions import Tally
from l4ipd.model import Check, Cluster, Member, Service
from l4ipd.runtime.internal_errors import InternalErrors

RULES = """List of active MAP/Redirect filters:
rdr em0 203.0.113.10/32 port 80 -> 10.0.0.12/32 port 8080 tcp round-robin tag l4ip

List of active sessions:
"""
SIX = "RDR 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 {}]\n"       # 6.0.0 tells no protocol
FIVE = "RDR 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 {}] tcp\n"
UDP = "RDR 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 {}] udp\n"
INET6 = "RDR fd00::11 8086  <- -> 2001:db8:1::10 80    [2001:db8:1::2 {}] tcp\n"
OTHERS = ("RDR 10.0.0.13       8080  <- -> 203.0.113.10    80    [198.51.100.2 1] tcp\n"
          "RDR 10.0.0.12       8081  <- -> 203.0.113.10    80    [198.51.100.2 1] tcp\n"
          "RDR 10.0.0.12       8080  <- -> 203.0.113.11    80    [198.51.100.2 1] tcp\n"
          "RDR 10.0.0.12       8080  <- -> 203.0.113.10    81    [198.51.100.2 1] tcp\n"
          "MAP 10.0.0.12       8080  <- -> 203.0.113.10    80    [198.51.100.2 1]\n"
          "\tttl 240 use 0 sumd 0/0 pr 6/6\nRDR\nRDR x\n\n\xff\n")


def tally() -> Tally:
    service = Service("http", 80, "tcp", 8080, False, (Check("tcp"),))
    www = Cluster("www", ("203.0.113.10", "203.0.113.20"), (service,), (Member("web2", "10.0.0.12"),))
    six = Cluster("six", ("2001:db8:1::10",), (service,), (Member("a", "fd00::11", port=8086),))
    return Tally([*www.endpoints(), *six.endpoints()], InternalErrors())


@pytest.mark.parametrize("lines, counts", [
    ("", {}), (OTHERS, {}), (SIX, {"www/http/web2": 1}), (FIVE + OTHERS + FIVE, {"www/http/web2": 2}), (UDP, {}),
    (INET6 * 3 + FIVE, {"six/http/a": 3, "www/http/web2": 1}),
    (FIVE.replace("113.10 ", "113.20 "), {"www/http/web2": 1})])
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_whose_they_are(lines: str, counts: dict[str, int], size: int) -> None:
    data = (RULES + lines.format(*range(9))).encode()
    found = tally()
    for start in range(0, len(data), size):
        assert found.feed(data[start:start + size]) is False
    assert found.complete and dict(found.counts) == counts


def test_before_the_sessions_nothing_counts() -> None:
    found = tally()
    found.feed(FIVE.format(1).encode())
    assert not found.complete and not found.counts
