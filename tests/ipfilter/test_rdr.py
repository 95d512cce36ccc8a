"""The words of IPFilter against what the real tools printed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd.ipfilter.rdr import (
    LISTING_END,
    Rdr,
    explain,
    hits,
    is_absent,
    is_made_here,
    number,
    owned,
    parse,
    side,
    swallows,
    target,
)
from support import SAMPLES
from support.sandbox_tools import Lab

BASE = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin"


def named(word: str) -> int | None:
    return {"http": 80, "http-alt": 8080}.get(word, number(word))


def forms() -> list[tuple[str, str]]:
    """(fed, listed) of every rdr form that the real ipnat took."""
    pairs = []
    fed = ""
    for line in (SAMPLES / "ipnat-forms.txt").read_text().splitlines():
        if line.startswith("in     : "):
            fed = line[9:]
        elif line.startswith("listed : ") and fed.startswith("rdr"):
            pairs.append((fed, line[9:]))
    return pairs


def test_the_samples_are_there() -> None:
    assert len(forms()) == 57


@pytest.mark.parametrize(("fed", "listed"), forms())
def test_a_rule_as_fed_and_as_listed_is_one_rule(fed: str, listed: str) -> None:
    rule = parse(fed, named)
    assert rule is not None
    assert rule == parse(listed, named)
    assert rule == parse("17 " + listed, named), "with hits in front"
    assert rule == parse(rule.line(), named), "and as we would write it"
    assert "->" in rule.line(modern=False) and "inet6" not in rule.line(modern=False)


def matching_rows() -> list[tuple[str, bool]]:
    """(rule, whether the real ipnat took it for the base rule)."""
    text = (SAMPLES / "remove-and-errors.txt").read_text()
    rows = text.partition("== what has to match")[2].partition("\n==")[0].splitlines()[1:]
    return [(row.partition("  remove:")[0].strip().removesuffix("remove:"), "HIT" in row) for row in rows]


@pytest.mark.parametrize(("text", "same"), matching_rows())
def test_canonical_lines_are_equal_exactly_when_ipfilter_thinks_so(text: str, same: bool) -> None:
    rule, base = parse(text), parse(BASE)
    assert rule is not None
    assert base is not None
    assert (rule.line() == base.line()) == same


@pytest.mark.parametrize("line", [
    "", "# comment", "List of active MAP/Redirect filters:", LISTING_END,
    "RDR 10.0.0.2        8080  <- -> 203.0.113.1     80    [198.51.100.7 5000]",
    "map ext0 10.0.0.0/24 -> 0/32 portmap tcp/udp auto", "bimap ext0 10.0.0.5/32 -> 203.0.113.5/32", "rdr", "rdr ->",
    "rdr ext0 ->", "rdr ext0 203.0.113.1/32 port -> 10.0.0.2", "rdr ext0 x port 80 -> y port 80 tcp",
    "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin nonsense", "\tttl 480 use 0",
])
def test_anything_else_is_no_rule(line: str) -> None:
    assert parse(line) is None


@given(st.text(max_size=120) | st.lists(st.sampled_from(BASE.split() + ["tag", "age", "from", "to", "any", "!", "=",
       "netmask", "inet6", "-", ","]), max_size=20).map(" ".join))
def test_no_line_raises(text: str) -> None:
    rule = parse(text)
    assert rule is None or parse(rule.line()) == rule


@pytest.mark.parametrize("options", ["tag l4ip", "tag l4ip sticky", "sticky tag l4ip", "tag l4ip purge"])
def test_ours_is_ours_in_whatever_order_its_options_come(options: str) -> None:
    rule = parse(f"{BASE} {options}")
    assert rule is not None
    assert owned(rule.tag, "l4ip")


@pytest.mark.parametrize(("tag", "ours"), [
    ("l4ip", True), ("l4ip.2", True), ("l4ip.99", True), (None, False), ("l4ip2", False), ("l4ip.", False),
    ("l4ip.0", False),
    ("l4ip.1", False), ("l4ip.02", False),
    ("l4ip.100", False), ("l4ip.x", False), ("other", False), ("xl4ip", False), ("l4ip-web", False),
])
def test_tags(tag: str | None, ours: bool) -> None:
    assert owned(tag, "l4ip") == ours
    assert not owned(tag, None)


def test_keys() -> None:
    line = "rdr ext0 inet6 2001:db8::1/128 port 80 -> fd00::2 port 8080 tcp round-robin sticky tag l4ip.2"
    assert side(line) == "rdr ext0 inet6 2001:db8::1/128 port 80"
    assert target(line) == target(line.replace(" sticky", "").replace(".2", ""))
    assert target(line) == "2001:db8::1/128 80 fd00::2 port 8080 tcp"
    for other in (("fd00::2", "fd00::3"), ("8080", "8081"), ("::1/", "::2/"), ("80 ->", "81 ->"), (" tcp ", " udp ")):
        assert target(line.replace(*other)) != target(line)
    assert side("rdr a -> b -> c") == "rdr a" and target("rdr a 80 -> b c d") == "rdr a 80 -> b c d"


#: a rule that could be written otherwise, and the line that we write; without "inet6" for IPFilter 4.1
WRITTEN = [
    (BASE + " tag l4ip", BASE + " tag l4ip"),
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2/32 port 8080 tcp sticky tag l4ip.2 round-robin",
     "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin sticky tag l4ip.2"),
    ("rdr ext0 inet6 2001:DB8::1/128 port 80 -> fd00::2/128 port 8080 tcp round-robin",
     "rdr ext0 inet6 2001:db8::1/128 port 80 -> fd00::2 port 8080 tcp round-robin"),
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin purge tag l4ip",
     "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin tag l4ip purge"),
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp age 30 frag round-robin",
     "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin frag age 30/30"),
    ("rdr ext0 203.0.113.1/32 port 80-90 -> 10.0.0.2 port = 8080 tcp",
     "rdr ext0 203.0.113.1/32 port 80-90 -> 10.0.0.2 port = 8080 tcp"),
    ("rdr ext0 from any to 203.0.113.1/32 port = 80 -> 10.0.0.2 port 8080 tcp",
     "rdr ext0 from 0/0 to 203.0.113.1/32 port = 80 -> 10.0.0.2 port 8080 tcp"),
    ("rdr ext0 ! from 10.0.0.0/8 to 203.0.113.1/32 port 80:90 -> 10.0.0.2 port 8080 udp",
     "rdr ext0 ! from 10.0.0.0/8 to 203.0.113.1/32 port 80:90 -> 10.0.0.2 port 8080 udp"),
    ("rdr ext0 203.0.113.1/32 -> 10.0.0.2,10.0.0.3 ip sticky",
     "rdr ext0 203.0.113.1/32 -> 10.0.0.2,10.0.0.3 ip sticky"),
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp sticky",
     "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp"),
    ("rdr ext0 203.0.113.1/32 port http -> 10.0.0.2 port HTTP-alt tcpudp",
     "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp/udp"),
    ("rdr ext0 203.0.113.1 netmask 255.255.255.0 port 80 -> 10.0.0.2 port 8080 tcp",
     "rdr ext0 203.0.113.0/24 port 80 -> 10.0.0.2 port 8080 tcp"),
    ("rdr ext0 0/0 -> 10.0.0.2", "rdr ext0 0/0 port 0 -> 10.0.0.2 port 0 tcp/udp"),
    ("rdr ext0 any -> 10.0.0.2 ip", "rdr ext0 0/0 -> 10.0.0.2 ip"),
]


@pytest.mark.parametrize(("read", "written"), WRITTEN)
def test_what_we_write(read: str, written: str) -> None:
    rule = parse(read, lambda word: named(word.lower()))
    assert rule is not None
    assert rule.line() == written
    assert rule.line(modern=False) == written.replace(" inet6", "")


@pytest.mark.parametrize("line", [written for _, written in WRITTEN])
def test_what_we_write_is_taken(line: str) -> None:
    """By the engine of the sandbox, whose grammar is the real one."""
    lab = Lab()
    assert lab.ipnat("-f", "-", stdin=line + "\n").stderr == ""
    listed, = lab.listed()
    assert parse(listed, named) == parse(line, named)


def ranged(first: int, count: int, port: int, protocol: str, more: tuple[str, ...], nth: int) -> Rdr:
    return Rdr("ext0", "203.0.113.1/32", (first, min(first + count, 65535)), "10.0.0.2", str(port), protocol,
               ("round-robin", *more), "l4ip" if nth < 2 else f"l4ip.{nth}")


@given(st.builds(ranged, st.integers(1, 65535), st.integers(0, 999) | st.just(65535), st.integers(1, 65535),
                 st.sampled_from(["tcp", "udp"]),
                 st.sampled_from([(), ("sticky",), ("age", "30/30"), ("age", "30/30", "sticky")]), st.integers(1, 99)))
@settings(max_examples=40, deadline=None)
def test_ranges_come_back_as_they_were_fed(rule: Rdr) -> None:
    """With any weight and tag, and by every version: written, taken, listed, read, removed."""
    assert parse(rule.line()) == rule and is_made_here(rule)
    for version in ("4.1", "5.1.2", "6.0.0"):
        lab = Lab(version)
        assert lab.ipnat("-f", "-", stdin=rule.line() + "\n").stderr == ""
        listed, = lab.listed()
        assert parse(listed) == rule
        assert lab.ipnat("-r", "-f", "-", stdin=rule.line() + "\n").stderr == "" and not lab.listed()


@pytest.mark.parametrize(("word", "port"), [
    ("0", 0), ("80", 80), ("65535", 65535), ("65536", None), ("065535", None), ("http", None), ("", None), ("-1", None),
    ("\u0661", None)])
def test_ports(word: str, port: int | None) -> None:
    assert number(word) == port


def test_hits() -> None:
    assert [hits(text) for text in (f"17 {BASE}", BASE, f"{'9' * 400} {BASE}", "0 x", "")] == [17, None, None, 0, None]


@pytest.mark.parametrize(("foreign", "how"), [
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0 203.0.113.1/32 port 70-90 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.9 port 80 tcp/udp", "takes every connection for itself"),
    ("rdr * 203.0.113.1/32 port 80 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0 from any to 203.0.113.1/32 port = 80 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0 203.0.113.1/32 -> 10.0.0.9 ip", "takes every connection for itself"),
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.9 port 80 tcp round-robin", "takes its turn among our members"),
    ("rdr ext0 203.0.113.1/32 port 81 -> 10.0.0.9 port 80 tcp", None),
    ("rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.9 port 80 udp", None),
    ("rdr ext0 203.0.113.1/32 port 80-90 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0 203.0.113.1/32 port 70-80 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0 203.0.113.1/32 port 0 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0,ext7 203.0.113.1/32 port 80 -> 10.0.0.9 port 80 tcp", "takes every connection for itself"),
    ("rdr ext0 203.0.113.1/32 port 81-90 -> 10.0.0.9 port 80 tcp", None),
    ("rdr ext1 203.0.113.1/32 port 80 -> 10.0.0.9 port 80 tcp", None),
    ("rdr ext0 203.0.113.2/32 port 80 -> 10.0.0.9 port 80 tcp", None),
    ("rdr ext0 203.0.113.0/24 port 80 -> 10.0.0.9 port 80 tcp", None),
])
def test_who_gets_in_our_way(foreign: str, how: str | None) -> None:
    stranger, ours = parse(foreign), parse(BASE + " tag l4ip")
    assert stranger is not None
    assert ours is not None
    assert swallows(stranger, ours) == how


@pytest.mark.parametrize(("status", "stderr", "timed_out", "words"), [
    (1, "/dev/ipnat: open: No such file or directory\n", False, "/dev/ipnat: open: No such file or directory "
     "(IPFilter is not in the kernel: load it (kldload ipl, or service ipfilter start))"),
    (1, "42:ioctl(SIOCGNATS) ipfilter not enabled for NAT ioctl\n", False, "42:ioctl(SIOCGNATS) ipfilter not enabled "
     "for NAT ioctl (IPFilter is disabled: enable it with ipf -E)"),
    (1, "open device: No such file or directory\nUser/kernel version check failed\n", False,
     "open device: No such file or directory / User/kernel version check failed (IPFilter is not in the kernel: load "
     "it (kldload ipl, or service ipfilter start))"),
    (1, "User/kernel version check failed\n", False, "User/kernel version check failed (the tools and the kernel are "
     "of different versions of IPFilter: rebuild one of them)"),
    (1, "130003:ioctl(SIOCGNATS): ioctl on device denied, ipfitler is disabled\n", False,
     "130003:ioctl(SIOCGNATS): ioctl on device denied, ipfitler is disabled (IPFilter is disabled: enable it with "
     "ipf -E)"),
    (1, "130004:1:ioctl(add/insert rule): ioctl command not allowed when disabled\n", False,
     "130004:1:ioctl(add/insert rule): ioctl command not allowed when disabled (IPFilter is disabled: enable it with "
     "ipf -E)"),
    (1, "ioctl(SIOCADNAT): Operation not permitted\n", False, "ioctl(SIOCADNAT): Operation not permitted (only root "
     "may change rules, and nobody at a high kern.securelevel)"),
    (1, "ioctl(SIOCGNATS): Operation not supported\n", False, "ioctl(SIOCGNATS): Operation not supported (a jail needs "
     "a network stack of its own for IPFilter: give it vnet)"),
    (1, " one\n\n  two  \n", False, "one / two"), (1, "x" * 400, False, "x" * 300),
    (-9, "", False, "was killed by signal 9"), (3, "", False, "ended with exit status 3"),
    (0, "", False, "ended with exit status 0"), (None, "", False, "ended with exit status None"),
    (-15, "", True, "did not end within ipfilter.timeout and was killed"),
    (-15, "busy\n", True, "did not end within ipfilter.timeout and was killed: busy"),
    (1, "/dev/ipl: open: Permission denied\n", False,
     "/dev/ipl: open: Permission denied (only root may change rules: start l4ipd as root)"),
])
def test_messages_name_the_remedy(status: int | None, stderr: str, timed_out: bool, words: str) -> None:
    assert explain(status, stderr, timed_out) == words


MADE = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 8080 tcp round-robin tag l4ip"


@pytest.mark.parametrize(("line", "made"), [
    (MADE, True), (MADE.replace(" tcp ", " udp "), True), (MADE.replace("round-robin", "round-robin sticky"), True),
    (MADE.replace("round-robin", "round-robin age 30/30"), True), (MADE.replace("port 80 ", "port 1 "), True),
    ("rdr ext0 inet6 2001:db8::1/128 port 80 -> fd00::2 port 8080 tcp round-robin sticky tag l4ip.2", True),
    (MADE.replace("round-robin ", ""), False), (MADE.replace("round-robin", "round-robin frag"), False),
    (MADE.replace("round-robin", "round-robin purge"), False), (MADE.replace(" tcp ", " tcp/udp "), False),
    (MADE.replace("/32", "/24").replace(".1/", ".0/"), False), (MADE.replace("10.0.0.2", "10.0.0.2,10.0.0.3"), False),
    (MADE.replace("10.0.0.2", "10.0.0.2-10.0.0.9"), False), (MADE.replace("8080", "= 8080"), False),
    (MADE.replace("8080", "8080-8090"), False), (MADE.replace("port 8080", "port 0"), False),
    (MADE.replace("port 80 ", "port 0 "), False),
    (MADE.replace("203.0.113.1/32 port", "from any to 203.0.113.1/32 port ="), False),
    ("rdr ext0 203.0.113.1/32 -> 10.0.0.2 ip round-robin tag l4ip", False),
])
def test_what_an_l4ipd_makes(line: str, made: bool) -> None:
    rule = parse(line)
    assert rule is not None
    assert is_made_here(rule) == made


@pytest.mark.parametrize(("said", "absent"), [
    ("60010:1:ioctl(delete nat rule) NAT rule could not be found", True),
    ("1:ioctl(SIOCRMNAT): No such process", True),
    ("60007:1:ioctl(add/insert nat rule)(line 1) NAT rule already exists", False), ("", False),
])
def test_words_for_a_rule_that_was_not_there(said: str, absent: bool) -> None:
    assert is_absent(said) == absent
