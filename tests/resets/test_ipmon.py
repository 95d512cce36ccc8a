"""ipmon's lines: every sample, and what nobody should be able to make us believe."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.resets.ipmon import Lines, Reset, by_syslogd, is_record, missed, parse
from support import SAMPLES

RECORDS = (SAMPLES / "ipmon-samples.txt").read_bytes().splitlines()
RECORDS = [line for line in RECORDS if re.match(rb"\d\d/\d\d/\d{4} ", line)]
STAMP = b"22/11/2026 06:48:57.244962 "
BODY = b"int0 @-1:-1 L 10.0.0.2,8080 -> 198.51.100.7,5000 PR tcp len 20 40 -AR 0 1001 0 IN log-tag 4711"
LINE = STAMP + BODY
RESET = Reset("tcp", "10.0.0.2", 8080, "198.51.100.7", True, 1, 4711, "20261122064857.244962")


def ports(word: str, protocol: str) -> int | None:
    return int(word) if word.isdigit() else {("http-alt", "tcp"): 8080, ("domain", "udp"): 53}.get((word, protocol))


def test_the_whole_line() -> None:
    assert parse(LINE) == RESET


#: (a piece of samples, what each line that has it says: refused, times, tag)
ROWS = [
    (b"-R 3735928559 0 0 IN", [(False, 1, None)] * 2),
    (b"-AR 305419896 42 512 IN", [(False, 1, None)] * 2),
    (b"log-tag 4711", [(True, 1, 4711)]),
    (b" 5x int0", [(True, 5, None)]),
    (b"len 40 60 -AR 0 9 0 IN", [(True, 1, None)]),
    (b"len 40 60 -R 77 0 0 IN", [(False, 1, None)]),
    (b"len 40 60 -AR IN", [(None, 1, None)] * 2),
    (b"-ARPE 1 2 65535", [(False, 1, None)]),
    (b"@web:1 p", [(None, 1, None)]),
    (b"@200:1 p", [(True, 1, None)]),
    (b"-AR 0 1001 0 K-S IN", [(True, 1, None)]),
    (b"IN OOW", [(False, 1, None)]),
    (b"IN multicast", [(False, 1, None)]),
    (b"low-ttl", [(None, 1, None)]),
    (b"icmp unreach/port", [(True, 1, None)]),
    (b",http-alt ->", [(True, 1, None), (False, 1, None), (False, 1, None)]),
]


@pytest.mark.parametrize(("piece", "says"), ROWS, ids=[row[0].decode() for row in ROWS])
def test_samples(piece: bytes, says: list[tuple[bool | None, int, int | None]]) -> None:
    resets = [parse(line, ports) for line in RECORDS if piece in line]
    assert [reset and (reset.refused, reset.times, reset.tag) for reset in resets] == says


def test_every_sample_line_says_what_it_should() -> None:
    """Whole set: what is not listed here is no reset."""
    got = {line: parse(line, ports) for line in RECORDS}
    for line, reset in got.items():
        is_record = re.match(rb"\d\d/\d\d/\d{4} ", line) is not None
        flags = re.search(rb" PR tcp len \d+ \d+ -([A-Z]*)", line)
        says_reset = flags is not None and b"R" in flags[1] and re.search(rb" IN( |$)", line) is not None
        refuses_udp = b"unreach/port for" in line
        assert (reset is not None) == (is_record and (says_reset or refuses_udp)), line
    assert sum(reset is not None for reset in got.values()) == 38


@pytest.mark.parametrize(("line", "expected"), [
    (LINE.replace(b"log-tag", b"tag"), RESET),                                       # IPFilter 4.1
    (LINE.replace(b"8080", b"http-alt"), RESET),
    (LINE + b" nat-tag l4ip-web low-ttl OOW bad NAT multicast", RESET),
    (LINE + b" reason:filter-rule", RESET),
    (STAMP + b"12x " + BODY, RESET._replace(times=12)),
    (LINE.replace(b" log-tag 4711", b""), RESET._replace(tag=None)),
    (LINE.replace(b" 0 1001 0", b""), RESET._replace(refused=None)),
    (LINE.replace(b"IN", b"K-S K-F IN"), RESET),
    (LINE.replace(b"-AR 0", b"-R 0"), RESET._replace(refused=False)),                # refusals acknowledge the SYN
    (LINE.replace(b"@-1:-1 L", b"@web:1 p"), RESET),
    (LINE.replace(b" L ", b" P "), RESET),
    (LINE.replace(b" L ", b" n "), RESET),
    (LINE.replace(b" L ", b" ? "), RESET),
    (LINE.replace(b"10.0.0.2,", b"FD00:0::2,").replace(b"198.51.100.7", b"::ffff:198.51.100.7"),
     RESET._replace(address="fd00::2", client=parse(LINE.replace(b"198.51.100.7", b"::ffff:c633:6407")).client)),  # type: ignore[union-attr]
    (LINE.replace(b"10.0.0.2,", b"fd00::zz,"), RESET._replace(address="fd00::zz")),     # of nobody we know
    (LINE.replace(b"198.51.100.7", b"1:2:3:4:5:6:7:8:9"), RESET._replace(client="1:2:3:4:5:6:7:8:9")),
    (b"Nov 22 06:48:57 gw ipmon[812]: 06:48:57.244962 " + BODY, RESET._replace(when="")),
    (b"Nov  2 06:48:57 gw ipmon: 06:48:57.244962 2x " + BODY, RESET._replace(when="", times=2)),
    (b"<134>Nov 22 06:48:57 gw ipmon[812]: 06:48:57.244962 " + BODY, RESET._replace(when="")),
    (b"Nov 22 06:48:57 <local0.info> gw ipmon[812]: 06:48:57.244962 " + BODY, RESET._replace(when="")),
    (b"Nov 22 06:48:57 gw ipmon[812]: [ID 702911 local0.notice] 06:48:57.244962 " + BODY, RESET._replace(when="")),
    (b"2026-11-22T06:48:57.2+01:00 gw ipmon[812]: 06:48:57.244962 " + BODY, RESET._replace(when="")),
    (b"<134>1 2026-11-22T06:48:57.244962+01:00 gw ipmon 812 - - 06:48:57.244962 " + BODY, RESET._replace(when="")),
    (STAMP + b"em1 @-1:-1 L fd00::2 -> 2001:db8::7 PR icmpv6 len 40 88 icmpv6 unreach/noport IN log-tag 4711",
     Reset("udp", "fd00::2", None, "2001:db8::7", True, 1, 4711, RESET.when)),
    (STAMP + b"em1 @-1:-1 L 10.0.0.2 -> 198.51.100.7 PR icmp len 20 56 icmp unreach/port for 198.51.100.7,4000 - "
     b"10.0.0.2,domain PR udp len 20 29 IN log-tag 4711",
     Reset("udp", "10.0.0.2", 53, "198.51.100.7", True, 1, 4711, RESET.when)),
])
def test_other_spellings(line: bytes, expected: Reset) -> None:
    assert parse(line, ports) == expected


@pytest.mark.parametrize("line", [
    b"",
    b"missed 1 ipf log entries: 0 1",
    b"168 bytes flushed from log buffer",
    BODY,                                                                            # no date
    LINE.replace(b" IN ", b" OUT "),
    LINE.replace(b"-AR", b"-AS"),
    LINE.replace(b"-AR", b"-"),
    LINE.replace(b"8080 -> ", b"8080 <- -> "),
    LINE.replace(b"tcp", b"udp"),
    b"x" + LINE,
    # texts that others get into a log they share with ipmon
    b"Nov 22 06:48:57 gw sshd[9]: Invalid user " + LINE,
    b"Nov 22 06:48:57 gw sshd[9]: Invalid user ipmon[8]: 06:48:57.244962 " + BODY,
    b"Nov 22 06:48:57 gw sshd: x ipmon[8]: 06:48:57.244962 " + BODY,
    b"<134>1 2026-11-22T06:48:57Z gw sshd 9 - - ipmon 8 - - 06:48:57.244962 " + BODY,
    b"Nov 22 06:48:57 gw last message repeated 3 times",
    # a port unreachable that does not come from who was asked, or is about tcp
    STAMP + b"em1 @-1:-1 L 10.0.0.9 -> 198.51.100.7 PR icmp len 20 56 icmp unreach/port for 198.51.100.7,4000 - "
    b"10.0.0.2,53 PR udp len 20 29 IN",
    STAMP + b"em1 @-1:-1 L 10.0.0.2 -> 198.51.100.7 PR icmp len 20 56 icmp unreach/port for 198.51.100.7,4000 - "
    b"10.0.0.2,53 PR tcp len 20 29 IN",
    STAMP + b"em1 @-1:-1 L 10.0.0.2 -> 198.51.100.7 PR icmp len 20 56 icmp unreach/host for 198.51.100.7,4000 - "
    b"10.0.0.2,53 PR udp len 20 29 IN",
])
def test_what_is_no_reset(line: bytes) -> None:
    assert parse(line, ports) is None


@pytest.mark.parametrize("port", [b"no-such-service", b"8\x000", b"65536", b"0x50", "８０".encode(), b"9" * 400])
def test_a_reset_whose_port_is_none(port: bytes) -> None:
    asked = (b"em1 @-1:-1 L 10.0.0.2 -> 198.51.100.7 PR icmp len 20 56 icmp unreach/port for 198.51.100.7,4000 - "
             b"10.0.0.2,%b PR udp len 20 29 IN" % port)
    for line in (LINE.replace(b"8080", port), STAMP + asked):
        with pytest.raises(ValueError, match="no port"):
            parse(line)


def test_what_ipmon_has_written() -> None:
    assert is_record(LINE) and is_record(b"Nov 22 06:48:57 gw ipmon[812]: 06:48:57.244962 " + BODY)
    assert not is_record(BODY) and not is_record(b"") and not is_record(b"missed 1 ipf log entries: 0 1")


def test_missed() -> None:
    assert missed(b"missed 99999999999999999999 ipf log entries: 7 19") == 0, "no number that can be meant"
    assert missed(b"missed 1 ipf log entries: 0 1") == 0, "every fresh ipmon says so"
    assert missed(b"missed 11 ipf log entries: 195 206") == 11
    assert missed(LINE) == 0


@pytest.mark.parametrize(("line", "expected"), [
    (LINE, False),
    (b"missed 12 ipf log entries: 7 19", False),
    (b"", False),
    (b"Nov 22 06:48:57 gw newsyslog[812]: logfile turned over", False),
    (b"2026-11-22T06:48:57.244962+01:00 gw newsyslog[812]: logfile turned over", False),
    (b"Nov 22 06:48:57 gw ipmon[812]: 06:48:57.244962 " + BODY, True),
    (b"Nov  2 06:48:57 gw last message repeated 3 times", True),
    (b"<134>1 2026-11-22T06:48:57.244962+01:00 gw ipmon 812 - - 06:48:57.244962 " + BODY, True),
    (b"2026-11-22T06:48:57.2+01:00 gw sshd[9]: x", True),
])
def test_who_has_written_it(line: bytes, expected: bool) -> None:
    assert by_syslogd(line) == expected


@given(st.binary(max_size=300))
def test_garbage_is_no_error(text: bytes) -> None:
    parse(text)
    missed(text)
    by_syslogd(text)


@given(st.integers(0, len(LINE) - 1), st.binary(max_size=4))
def test_damaged_lines_are_no_error(place: int, text: bytes) -> None:
    with contextlib.suppress(ValueError):           # its port is none
        parse(LINE[:place] + text + LINE[place + 1:])


@given(st.integers(0, len(LINE)))
def test_a_line_cut_short_never_says_more(length: int) -> None:
    assert parse(LINE[:length]) in (None, RESET, RESET._replace(tag=None), RESET._replace(tag=471),
                                    RESET._replace(tag=47), RESET._replace(tag=4))


# -- pieces

def test_lines_whole_and_byte_by_byte() -> None:
    text = b"\n".join(RECORDS) + b"\n"
    assert Lines().feed(text) == RECORDS
    splitter = Lines()
    assert [line for byte in text for line in splitter.feed(bytes([byte]))] == RECORDS


@given(st.lists(st.text("a\n", max_size=40).map(str.encode), max_size=30), st.integers(1, 20))
def test_lines_in_any_pieces(pieces: list[bytes], longest: int) -> None:
    """However a text is cut, the lines are those of the whole text that are not too long."""
    splitter = Lines(longest)
    got = [line for piece in pieces for line in splitter.feed(piece)]
    *whole, rest = b"".join(pieces).split(b"\n")
    assert got == [line for line in whole if len(line) <= longest]
    assert splitter.dropped == sum(len(line) > longest for line in (*whole, rest))


def test_an_endless_line_takes_no_memory() -> None:
    splitter = Lines()
    for _ in range(100):
        assert splitter.feed(b"x" * 65536) == []
    assert len(splitter._rest) <= splitter.longest
    assert splitter.feed(b"tail\n" + LINE + b"\n") == [LINE]
    assert splitter.feed(b"and on it goes\n") == [b"and on it goes"]
    assert splitter.dropped == 1
