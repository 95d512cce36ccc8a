"""The sandbox playing IPFilter 5.1.2, row for row against what a FreeBSD kernel did (samples/freebsd)."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from support.sandbox_tools import UDP, Lab, sample, sandbox

RDR = "rdr epair0a 203.0.113.10/32 port {} -> 10.0.0.{} port {} {} round-robin tag l4ip\n"
LOG = "log in on bridge0 proto tcp from 10.0.0.{} port = 80 to any flags R/R set-tag(log=4711)\n"
LOG6 = "log in on bridge0 proto tcp from fd00::{} port = 8086 to any flags R/R set-tag(log=4711)\n"


def freebsd() -> Lab:
    return Lab("5.1.2")


def commands(text: str) -> Iterator[tuple[str, str, str, int, list[str]]]:
    """Command, input, what it said, its exit status, and what was listed afterwards."""
    shape = r"^\+ (\w+ [^<\n]*?) <<< '(.*?)'\n((?:(?!rc )[^\n]*\n)*)rc (\d+)\n((?:(?!\+ )[^\n]*\n)*)"
    for words, fed, said, status, after in re.findall(shape, text, re.M | re.S):
        yield words, fed + "\n", said, int(status), after.splitlines()


def test_messages() -> None:
    """In their order, since each finds what the one before has left."""
    lab, rows = freebsd(), list(commands(sample("freebsd/14-messages.txt")))
    assert len(rows) == 28
    for words, fed, said, status, after in rows:
        if "nosuchif0" in fed or " sticky " in fed:
            lab.ipnat("-C")
        tool, *arguments = shlex.split(words)
        result = getattr(lab, tool)(*arguments, stdin=fed)
        assert (result.status, result.stderr) == (status, said), (words, fed)
        rules = [line for line in after if line.startswith(("rdr", "log"))]
        assert rules == (lab.listed() if tool == "ipnat" else lab.ipfstat("-iR").stdout.splitlines()) or not rules
        if after and after[-1].endswith("NAT list"):
            assert lab.ipnat("-CF").stdout.splitlines() == after[-2:]


@pytest.mark.parametrize("tool, words", [("ipnat", "-Z"), ("ipf", "-Q")])
def test_unknown_options(tool: str, words: str) -> None:
    result = getattr(freebsd(), tool)(words)
    assert f"\n{result.stderr}rc {result.status}\n" in sample("freebsd/14-messages.txt")


def listings() -> dict[str, str]:
    """By command, what it printed on either stream."""
    return dict(re.findall(r"^\+ ([^\n]*)\n(.*?)rc 0\n", sample("freebsd/1-listings.txt"), re.M | re.S))


def test_listings() -> None:
    lab, expected = freebsd(), listings()
    lab.ipnat("-f", "-", stdin="".join(RDR.format(53, last, 5300, "udp") for last in (11, 12, 13)))
    for last in (11, 12, 13):
        lab.ipf("-f", "-", stdin="@0 " + LOG.format(last).replace("= 80", "= 8080"))
    for last in (11, 12, 13):
        lab.ipf("-f", "-", stdin=f"@0 log in on bridge0 proto icmp from 10.0.0.{last} to any icmp-type 3 code 3 "
                                 "set-tag(log=4711)\n")
    assert len(expected) == 10
    for command, said in expected.items():
        tool, *words = command.split()
        result = getattr(lab, tool)(*words)
        assert result.status == 0
        assert result.stderr + result.stdout == re.sub(r"^1\d log", "0 log", said, flags=re.M), command


def test_both_families_in_one_listing() -> None:
    lab = freebsd()
    lab.ipf("-f", "-", stdin=LOG6.format(11) + LOG.format(11))
    expected = [LOG6.format(11).replace("0 proto", "0 inet6 proto").replace("::11", "::11/128"),
                LOG.format(11).replace("0 proto", "0 inet proto").replace("0.11", "0.11/32")]
    assert expected[0].rstrip() in sample("freebsd/10-weights-sticky-v6.txt").splitlines()
    assert lab.ipfstat("-iR").stdout == "".join(expected)
    assert lab.ipfstat("-4iR").stdout == expected[1]
    assert lab.ipfstat("-6iR").stdout == expected[0]
    assert Lab().ipfstat("-iR").stdout == "", "6.0.0 keeps them apart"


def test_sessions_have_their_protocol() -> None:
    lab = freebsd()
    lab.ipnat("-f", "-", stdin=RDR.format(80, 11, 8080, "tcp") + RDR.format(53, 11, 5300, "udp")
              + "rdr epair0a 2001:db8:1::10 port 80 -> fd00::11 port 8086 tcp round-robin tag l4ip\n")
    lab.send("198.51.100.2", "203.0.113.10", 80, source_port=48942)
    lab.send("198.51.100.2", "203.0.113.10", 53, UDP, source_port=61945)
    lab.send("2001:db8:1::2", "2001:db8:1::10", 80, source_port=62145)
    listed = lab.ipnat("-l").stdout.partition("sessions:\n")[2].splitlines()
    real = (sample("freebsd/16-nat-ages.txt") + sample("freebsd/10-weights-sticky-v6.txt")).splitlines()
    assert len(listed) == 3 and set(listed) <= set(real)


def test_ages_of_sessions() -> None:
    """A udp session lives for ten minutes, with ``age 20/20`` for 20 s, a closed one of tcp for 30 s."""
    lab = freebsd()
    lab.ipnat("-f", "-", stdin=RDR.format(53, 11, 5300, "udp") + RDR.format(80, 11, 8080, "tcp")
              + RDR.format(54, 11, 5300, "udp").replace("robin", "robin age 20/20"))
    lab.send("198.51.100.2", "203.0.113.10", 53, UDP)
    lab.send("198.51.100.2", "203.0.113.10", 54, UDP)
    lab.send("198.51.100.2", "203.0.113.10", 80)
    lab.kernel.nat.touch(list(lab.kernel.nat.sessions.values())[-1], "closed")

    def left() -> dict[str, int]:
        return {port: int(ttl) for port, ttl in re.findall(r"10 +(\d+) .*\n\tttl (\d+)", lab.ipnat("-lv").stdout)}

    real = [{port: int(ttl) for port, ttl in re.findall(r"10 +(\d+) .*\n\tttl (\d+)", part)}
            for part in re.split(r"\d+ s later", sample("freebsd/16-nat-ages.txt"))]
    for seconds, expected in zip((0.5, 10, 5, 18), real, strict=True):
        lab.clock.now += seconds
        ours = left()
        assert ours.keys() == expected.keys()
        assert all(abs(ours[port] - expected[port]) <= 2 for port in ours)


def test_no_rule_is_in_use_after_a_whole_listing() -> None:
    """samples/freebsd/5-rule-in-use.txt: the last one listed can be removed at once, and the other."""
    lab = freebsd()
    lab.kernel.iterators.life = 10.0
    lab.ipf("-f", "-", stdin=LOG.format(77) + LOG.format(78))
    assert lab.ipfstat("-iR").stdout.splitlines() == sample("freebsd/5-rule-in-use.txt").splitlines()[8:10]
    assert lab.ipf("-r", "-f", "-", stdin=LOG.format(78)).status == 0
    lab.ipfstat("-iR")
    assert lab.ipf("-r", "-f", "-", stdin=LOG.format(77)).status == 0


def test_ipf_loads_half_a_line() -> None:
    lab = freebsd()
    result = lab.ipf("-f", "-", stdin="log in on bridge0 prto tcp from 10.0.0.11 to any\n")
    assert (result.status, result.stderr) == (1, 'syntax error error at "tcp", line 1\n')
    assert lab.ipfstat("-iR").stdout == "log in on bridge0 all\n"


def test_m_is_a_trap() -> None:
    """No expression works; one that is misspelt is taken for none, and all sessions go."""
    lab = freebsd()
    lab.ipnat("-f", "-", stdin=RDR.format(80, 11, 8080, "tcp"))
    lab.send(address="203.0.113.10")
    said = lab.ipnat("-F", "-m", "ip.dst = 10.0.0.11;")
    assert (said.status, said.stderr) == (
        0, "121:ioctl(SIOCMATCHFLUSH): error verifying contents of match array\n")
    assert len(lab.kernel.nat.sessions) == 1
    said = lab.ipnat("-F", "-m", "ip.destination = 10.0.0.11;")
    assert (said.status, said.stdout, said.stderr) == (0, "1 entries flushed from NAT table\n", "")
    assert not lab.kernel.nat.sessions


def test_switched_off_it_forgets_everything() -> None:
    lab = freebsd()
    lab.ipnat("-f", "-", stdin=RDR.format(80, 11, 8080, "tcp"))
    lab.ipf("-f", "-", stdin=LOG.format(11))
    lab.send(address="203.0.113.10")
    assert lab.ipf("-D").status == 0
    for words in (("-l",), ("-f", "-")):
        refused = lab.ipnat(*words, stdin=RDR.format(80, 11, 8080, "tcp"))
        assert (refused.status, refused.stderr) == (
            1, "130003:ioctl(SIOCGNATS): ioctl on device denied, ipfitler is disabled\n")
    refused = lab.ipf("-f", "-", stdin=LOG.format(11))
    assert (refused.status, refused.stderr) == (
        1, "130004:1:ioctl(add/insert rule): ioctl command not allowed when disabled\n")
    lab.ipf("-E")
    assert lab.listed() == [] and lab.ipfstat("-iR").stdout == "" and not lab.kernel.nat.sessions


def test_the_table_is_full() -> None:
    """samples/freebsd/12-nat-table-full.txt: 30 have a place, 15 clients send two SYNs each, and three rules try."""
    lab = freebsd()
    assert "current 30000" in lab.ipf("-T", "nat_table_max").stdout
    assert (busy := lab.ipf("-T", "nat_table_max=30")).status == 1 and "busy" in busy.stderr
    lab.ipf("-D")
    assert lab.ipf("-T", "nat_table_max=30").status == 0
    lab.ipf("-E")
    assert lab.ipf("-T", "nat_table_max").stdout in sample("freebsd/12-nat-table-full.txt")
    lab.ipnat("-f", "-", stdin="".join(RDR.format(80, last, 8080, "tcp") for last in (11, 12, 13)))
    assert all(lab.send(address="203.0.113.10") for _ in range(30))
    for port in [*range(1000, 1015)] * 2:
        assert not lab.send(address="203.0.113.10", source_port=port)
    told = lab.ipnat("-s").stdout.splitlines()
    assert {"30\tdrop in", "90\ttable max reached in", "30\tactive"} <= set(told)
    real = sample("freebsd/12-nat-table-full.txt").rpartition("\tbucket max in\n")[2].splitlines()
    names = ["bucket max in", *(line.partition("\t")[2] for line in real if re.match(r"\d+\t", line))]
    shown = [line.partition("\t")[2] for line in told]
    assert [name for name in shown if name in names] == names
    lab.clock.now += 240
    assert lab.send(address="203.0.113.10"), "half-open ones are forgotten"


def test_as_a_process() -> None:
    with sandbox("--ipfilter", "5.1.2") as box:
        assert box.run("ipf", "-V").stdout.startswith("ipf: IP Filter: v5.1.2 (584)\n")
        assert box.ipnat("-p").stderr == "ipnat: -p must be used with -r\n"
