"""The sandbox playing IPFilter 4.1 (FACTS.md 2f, read in its sources; there are no samples)."""

from __future__ import annotations

import re

import pytest

from l4ipd.sandbox.kernel import REFUSED
from l4ipd.sandbox.tools.ipmon import Style, line_of
from support.sandbox_tools import Lab, sandbox

RULE = "rdr em0 203.0.113.1/32 port 80 -> 10.0.0.{} port 8080 tcp round-robin tag l4ip\n"


def test_accepted_and_listed_without_the_mask() -> None:
    lab = Lab("4.1")
    assert lab.ipnat("-f", "-", stdin=RULE.format(2)).status == 0
    assert lab.listed() == [RULE.format(2).rstrip()]
    assert lab.ipnat("-r", "-f", "-", stdin=lab.listed()[0] + "\n").stderr == ""
    assert lab.listed() == []


@pytest.mark.parametrize("fed, message", [
    (RULE.format("2/32"), 'Only 0/0 supported error at "32", line 1\n'),
    (RULE.format(2).replace(" port 8080", ""), 'syntax error error at "tcp", line 1\n'),
    (RULE.format(2).replace("8080", "8080-8090"), 'syntax error error at "-", line 1\n'),
    (RULE.format(2).replace("tag l4ip", "tag l4ip purge"), 'syntax error error at "", line 1\n'),
    (RULE.format(2).replace("em0", "em0 inet6"), "Unknown host 'inet6'\nsyntax error error at \"203\", line 1\n"),
])
def test_refused(fed: str, message: str) -> None:
    lab = Lab("4.1")
    result = lab.ipnat("-f", "-", stdin=fed)
    assert (result.status, result.stderr) == (1, message)


def test_failures_do_not_show_in_the_exit_status() -> None:
    lab = Lab("4.1")
    assert lab.ipnat("-f", "-", stdin=RULE.format(2) * 2).status == 0
    result = lab.ipnat("-r", "-f", "-", stdin=RULE.format(3))
    assert result.status == 0 and result.stderr.endswith(":ioctl(delete nat rule): No such process\n")


def test_no_rule_is_lost() -> None:
    lab = Lab("4.1")
    lab.ipnat("-f", "-", stdin=RULE.format(2))
    result = lab.ipnat("-f", "-", stdin="".join(RULE.format(member) for member in (3, 2, 4, 5)))
    assert result.stderr.count("File exists") == 1
    assert len(lab.listed()) == 4


def test_no_purge_option() -> None:
    result = Lab("4.1").ipnat("-r", "-p", "-f", "-", stdin=RULE.format(2))
    assert result.status == 1
    assert result.stderr.startswith("ipnat: invalid option -- 'p'\nUsage: ipnat ")


def test_inet6_is_inferred_as_on_illumos() -> None:
    lab = Lab("4.1")
    rule = "rdr net0 2001:db8::1/128 port 80 -> fd00::2 port 8080 tcp round-robin"
    assert lab.ipnat("-f", "-", stdin=rule + "\n").stderr == ""
    assert lab.listed() == [rule]
    assert lab.members(1, client="2001:db8:1::7", address="2001:db8::1") == ["2"]


def test_from_form() -> None:
    lab = Lab("4.1")
    lab.ipnat("-f", "-", stdin="rdr em0 from any to 203.0.113.1 port = 80 -> 10.0.0.2 port 8080 tcp\n")
    assert lab.listed() == ["rdr em0 from any to 203.0.113.1/32 port = http -> 10.0.0.2 port 8080 tcp"]


def test_rotation_and_sessions_are_the_same() -> None:
    lab = Lab("4.1")
    lab.ipnat("-f", "-", stdin="".join(RULE.format(member) for member in (2, 3)))
    assert lab.members(4) == ["2", "3", "2", "3"]
    lab.ipnat("-r", "-f", "-", stdin=RULE.format(2))
    assert len(lab.kernel.nat.sessions) == 4


LOG = "log in on int0 proto tcp from {} port = 8080 to any flags R/R set-tag(log=4711)\n"


def test_ipf() -> None:
    lab = Lab("4.1")
    assert lab.ipf("-f", "-", stdin=LOG.format("10.0.0.2")).stderr == ""
    assert lab.ipfstat("-iR").stdout == LOG.format("10.0.0.2/32")
    again = lab.ipf("-f", "-", stdin=LOG.format("10.0.0.2"))
    assert again.status == 0 and again.stderr.endswith(":ioctl(add/insert rule): File exists\n")
    absent = lab.ipf("-r", "-f", "-", stdin=LOG.format("10.0.0.3"))
    assert (absent.status, absent.stderr) == (0, "")
    assert "v4.1." in lab.ipf("-V").stdout


def test_inet6_filter_rules_need_the_option() -> None:
    lab = Lab("4.1")
    assert "syntax error" in lab.ipf("-f", "-", stdin=LOG.format("fd00::2")).stderr
    assert lab.ipf("-6", "-f", "-", stdin=LOG.format("fd00::2")).stderr == ""
    assert lab.ipfstat("-6iR").stdout == LOG.format("fd00::2/128")


def test_records() -> None:
    lab = Lab("4.1")
    lab.ipnat("-f", "-", stdin=RULE.format(2))
    lab.ipf("-f", "-", stdin=LOG.format("10.0.0.2"))
    session = lab.kernel.nat.packet((6, "198.51.100.7", 5000, "203.0.113.1", 80))
    assert session is not None
    lab.kernel.from_member(session, REFUSED)
    (record,) = lab.kernel.log.take()
    assert line_of(record, Style(old=True)).endswith(" -AR IN tag 4711")


def test_as_a_process() -> None:
    with sandbox("--ipfilter", "4.1") as box:
        assert box.ipnat("-p").status == 1
        assert re.match(r"ipf: IP Filter: v4\.1\.", box.run("ipf", "-V").stdout)
