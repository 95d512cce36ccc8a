"""What resets mean: which of them count, and what they do."""

from __future__ import annotations

import socket
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from l4ipd.model import Check, Ipfilter, Resets
from l4ipd.resets import targets
from l4ipd.resets.ipmon import Reset
from support.sensing_bench import DEAD, OK, Bench, line, refused, unreachable

# -- what a reset means

#: action, line -> (taken down?, probed now?)
ROWS = [
    ("refused", line(), (True, True)),
    ("refused", line(flags="-AR 77 1001 0"), (False, True)),        # an established connection
    ("refused", line(flags="-R 77 0 0"), (False, True)),
    ("refused", line(flags="-AR"), (False, True)),                  # without -v nobody can tell
    ("refused", line(tag=" tag 4711"), (True, True)),
    ("refused", line(times=5), (True, True)),
    ("any", line(), (True, True)),
    ("any", line(flags="-R 77 0 0"), (True, True)),
    ("any", line(flags="-AR"), (True, True)),
    ("check", line(), (False, True)),
    ("check", line(flags="-R 77 0 0"), (False, True)),
    *[(action, text, (False, False)) for action in ("refused", "any", "check") for text in (
        line(port=8081), line("10.0.0.3"), line(tag=""), line(tag=" log-tag 4712"), line(flags="-AS 0 1 0"),
        line(flags="-A 0 1 0"), b"missed 12 ipf log entries: 7 19\n", b"\x00\xff\n", b"x" * 5000 + b"\n")],
]


@pytest.mark.parametrize(("action", "text", "expected"), ROWS)
def test_meaning(tmp_path: Path, action: str, text: bytes, expected: tuple[bool, bool]) -> None:
    bench = Bench(tmp_path, action)
    monitor = bench.add()
    bench.begin().take(text)
    down = refused(monitor) == [True]
    bench.turns()
    assert (down, bench.probes > 0) == expected
    assert bench.count.used == any(expected)
    assert monitor.up != down and bench.flips == [("web1", False)] * down
    bench.loop.close()


#: the port that refuses -> (the range is taken down?, the one port?, probes?)
RANGE_ROWS = [(8080, (True, False), 1), (8085, (False, True), 1), (8089, (False, False), 1), (8090, (False, False), 0)]


@pytest.mark.parametrize(("port", "down", "probes"), RANGE_ROWS)
def test_a_range_answers_for_the_port_that_is_checked(tmp_path: Path, port: int, down: tuple[bool, bool],
                                                      probes: int) -> None:
    """8080 to 8089, of which the first is checked; another service is at one of them, and both hear of that."""
    bench = Bench(tmp_path)
    check = Check("tcp", interval=3600, fast_interval=3600, down_interval=3600, port=8080)
    wide, one = bench.add("wide", check=check, ports=10), bench.add("one", port=8085)
    bench.begin().take(line(port=port))
    assert tuple(refused(wide, one)) == down
    bench.turns()
    assert min(bench.probes, 1) == probes and bench.count.used == probes
    bench.loop.close()


def test_the_verdict_says_who_saw_what(bench: Bench) -> None:
    one, two = bench.add(), bench.add("dns", port=53, protocol="udp")
    bench.verdict = None
    bench.begin().take(line() + unreachable())
    bench.until(lambda: not one.up and not two.up)
    assert str(one.verdict) == "RST connection refused, seen by ipmon"
    assert str(two.verdict) == "RST port unreachable, seen by ipmon"


def test_udp_refusals_are_about_udp(bench: Bench) -> None:
    tcp, udp = bench.add(port=53), bench.add("dns", port=53, protocol="udp")
    bench.begin().take(unreachable(sender="10.0.0.99") + unreachable(54) + line(port=54))
    assert refused(tcp, udp) == [False, False]
    bench.take(unreachable())
    assert refused(tcp, udp) == [False, True]


def test_an_icmpv6_refusal_has_every_udp_endpoint_of_the_member_probed(bench: Bench) -> None:
    one, two = bench.add("a", "fd00::2", 53, "udp"), bench.add("b", "fd00::2", 54, "udp")
    other, tcp = bench.add("c", "fd00::3", 53, "udp"), bench.add("d", "fd00::2", 53)
    bench.begin().take(b"22/11/2026 06:48:57.244962 em1 @-1:-1 L fd00::2 -> 2001:db8::7 PR icmpv6 len 40 88 "
                               b"icmpv6 unreach/noport IN log-tag 4711\n")
    bench.turns()
    assert all(monitor.up for monitor in (one, two, other, tcp)) and bench.probes == 2


def test_every_endpoint_on_the_port_goes_down(bench: Bench) -> None:
    one, two = bench.add(), bench.add(cluster="api")
    bench.begin().take(line())
    assert refused(one, two) == [True, True] and bench.count.used == 1


def test_an_ipmon_without_v_is_told_of_once(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    words = "ipmon runs without -v, so that refused connections cannot be told from those that were reset"
    bench.add()
    bench.begin().take(line() + line(flags="-AR 7 1 0"))
    assert words not in caplog.text
    bench.take(line(flags="-AR") * 3)
    assert caplog.text.count(words) == 1


def test_ipv6_in_any_spelling(bench: Bench) -> None:
    monitor = bench.add(address="2001:db8::1:0:0:7")
    bench.begin().take(line("2001:DB8:0:0:1::7", to="2001:db8::99"))
    assert refused(monitor) == [True]


def test_disabled_and_down_endpoints_are_left_alone(bench: Bench) -> None:
    down, disabled = bench.add(), bench.add("web2", "10.0.0.3")
    down.health, disabled.disabled = 0, True
    bench.begin().take(line() + line("10.0.0.3"))
    bench.turns()
    assert bench.probes == 0 and not bench.flips
    assert bench.count.ignored == {"down": 2} and bench.count.seen == 2


def test_answers_to_the_gateway_itself_do_not_count(bench: Bench) -> None:
    """The destination is our own address towards the member: our probe, which tells by itself."""
    ours = targets.own_address("198.51.100.1")
    if not ours:
        pytest.skip("this machine has no route")
    monitor = bench.add(address="198.51.100.1")
    bench.begin().take(line("198.51.100.1", to=ours))
    assert refused(monitor) == [False] and bench.count.ignored == {"own": 1}
    bench.take(line("198.51.100.1"))
    assert refused(monitor) == [True]


@pytest.mark.parametrize("words", ["connection refused", "port 8080: connection refused"])
def test_on_loopback_one_answer_is_ours_for_each_refused_probe(bench: Bench, words: str) -> None:
    """Clients and probes have the same address there, as in the sandbox."""
    monitor = bench.add(address="127.0.0.1")
    bench.begin().schedule.refused(monitor, DEAD._replace(text=words))
    bench.take(line("127.0.0.1", to="127.0.0.1"))
    assert refused(monitor) == [False] and bench.count.ignored == {"own": 1}
    bench.take(line("127.0.0.1", to="127.0.0.1"))
    assert refused(monitor) == [True]


def test_a_member_on_this_very_machine_has_clients_with_our_address(bench: Bench) -> None:
    ours = targets.own_address("198.51.100.1")
    if not ours:
        pytest.skip("this machine has no route")
    monitor = bench.add(address=ours)
    bench.begin().take(line(ours, to=ours))
    assert refused(monitor) == [True]


def test_what_makes_no_sense_is_counted(bench: Bench) -> None:
    bench.add()
    bench.begin().take(line().replace(b",8080 ", b",99999 ") + line())
    assert (bench.count.seen, bench.count.used, bench.count.ignored) == (2, 1, {"unreadable": 1})


def test_the_summary(bench: Bench) -> None:
    bench.add()
    bench.begin().take(b"missed 12 ipf log entries: 7 19\n" + line(times=3) + line(port=1) + line(tag=""))
    assert bench.sensing.summary() == (
        f"resets: {bench.settings.source} lost; 4 seen, 1 used, 3 ignored (2 probed just now, 1 of no endpoint), 12 "
        f"missed by ipmon; ipf rules: 1 wanted, 0 in the kernel; {bench.settings.source}: No such file or directory")


def test_what_was_in_the_buffer_before_us_is_old(bench: Bench) -> None:
    monitor = bench.add()
    bench.begin().sensing.listener._begin()
    now = time.time()
    bench.take(line(when=now - 3600) + line(when=now - 0.5))
    assert refused(monitor) == [False] and bench.count.ignored == {"stale": 2}
    bench.take(line(when=now + 0.5))
    assert refused(monitor) == [True]


def test_once_a_line_was_fresh_the_clock_may_be_set_back(bench: Bench) -> None:
    monitor = bench.add()
    bench.begin().sensing.listener._begin()
    bench.take(line("10.0.0.99", when=time.time() + 1) + line(when=time.time() - 3600))
    assert refused(monitor) == [True]


def test_probes_for_resets_have_a_limit(bench: Bench) -> None:
    """Clients that are reset by the thousand do not make for thousands of probes."""
    bench.add()
    bench.begin()
    for _ in range(200):
        bench.take(line(flags="-R 77 0 0") * 50)
        bench.loop.later(0, lambda: None)
        bench.loop.turn()
    assert 1 <= bench.probes <= 1 + 30 and bench.count.seen == 10000


def test_the_first_probe_after_a_refusal_is_now_and_the_next_at_the_fast_pace(bench: Bench) -> None:
    monitor = bench.add(check=Check("tcp", interval=3600, fast_interval=0.05, down_interval=3600))
    bench.verdict = DEAD
    bench.begin().take(line())
    bench.until(lambda: bench.probes >= 4)
    assert not monitor.up
    bench.verdict = OK
    bench.until(lambda: monitor.up)
    assert bench.flips == [("web1", False), ("web1", True)]


def test_a_probe_in_flight_that_began_before_does_not_count(bench: Bench) -> None:
    monitor = bench.add(check=Check("tcp", interval=3600, fast_interval=3600, rise=1))
    bench.verdict = None
    bench.begin()
    monitor.probe_soon()
    bench.until(lambda: monitor.checker.in_flight)
    bench.take(line())
    bench.until(lambda: bench.probes == 2)
    bench.until(lambda: not monitor.up)
    assert bench.probes == 2 and bench.schedule.flying == 1


# -- the counters

COUNT = "count in on em1 proto tcp from {} port = {} to any flags R/R"
COUNT6 = "count in on em1 proto ipv6-icmp from {} to any icmp-type 1 code 4"


def counts(bench: Bench) -> dict[str, int]:
    """What became of what was counted."""
    assert bench.count.seen == bench.count.used + bench.count.ignored.total()
    return {**({"used": bench.count.used} if bench.count.used else {}), **bench.count.ignored}


def test_the_first_reading_of_a_counter_says_nothing_and_growth_does(bench: Bench) -> None:
    monitor = bench.add()
    bench.verdict = OK
    line = COUNT.format("10.0.0.2", 8080)
    bench.begin().count.counted(False, {line: 7})
    bench.turns()
    assert bench.probes == 0 and counts(bench) == {}
    bench.count.counted(False, {line: 7})
    bench.count.counted(False, {line: 9})
    bench.turns()
    assert bench.probes == 1 and counts(bench) == {"used": 1, "haste": 1}
    assert monitor.up and monitor.refusals is None, "a count takes nobody down by itself"
    bench.count.counted(False, {line: 10})
    assert counts(bench) == {"used": 1, "haste": 2}, "probed just now"


def test_a_counter_that_begins_anew_says_nothing(bench: Bench) -> None:
    bench.add()
    line = COUNT.format("10.0.0.2", 8080)
    bench.begin().count.counted(False, {line: 7})
    bench.count.counted(False, {line: 2})           # ipf -Z, or the rule was loaded again
    assert counts(bench) == {}
    bench.count.counted(False, {line: 3})
    assert counts(bench) == {"used": 1}
    bench.count.counted(False, {})
    bench.count.counted(False, {line: 100})
    assert counts(bench) == {"used": 1}, "it was gone meanwhile"


def test_one_family_does_not_make_the_other_begin_anew(bench: Bench) -> None:
    bench.add("six", "fd00::2", 53, "udp")
    line = COUNT6.format("fd00::2")
    bench.begin().count.counted(True, {line: 1})
    bench.count.counted(False, {})
    bench.count.counted(True, {line: 2})
    assert counts(bench) == {"used": 1}


def test_resets_of_our_own_probes_are_taken_off_the_count(bench: Bench) -> None:
    monitor = bench.add()
    bench.verdict = OK
    line = COUNT.format("10.0.0.2", 8080)
    bench.begin().count.counted(False, {line: 0})
    for _ in range(3):
        bench.schedule.refused(monitor, DEAD)
    bench.count.counted(False, {line: 2})
    assert counts(bench) == {"own": 2}
    bench.count.counted(False, {line: 3})
    assert counts(bench) == {"own": 2, "used": 1}, "what a reading has not shown is not expected any more"


def test_counts_of_who_is_down_or_unknown_are_of_no_use(bench: Bench) -> None:
    monitor = bench.add()
    monitor.health = 0
    down, unknown = COUNT.format("10.0.0.2", 8080), COUNT.format("10.0.0.9", 8080)
    bench.begin().count.counted(False, {down: 0, unknown: 0, "garbage": 0})
    bench.count.counted(False, {down: 2, unknown: 3, "garbage": 4})
    bench.turns()
    assert bench.probes == 0 and counts(bench) == {"down": 2, "unknown": 3}


def test_a_count_of_udp_has_every_udp_endpoint_of_the_member_probed(bench: Bench) -> None:
    bench.add("a", "fd00::2", 53, "udp")
    bench.add("b", "fd00::2", 54, "udp")
    bench.add("c", "fd00::2", 53)
    line = COUNT6.format("fd00::2")
    bench.begin().count.counted(True, {line: 0})
    bench.count.counted(True, {line: 1})
    bench.turns()
    assert bench.probes == 2 and counts(bench) == {"used": 1}


@settings(max_examples=30)
@given(st.lists(st.tuples(st.sampled_from(["10.0.0.2", "10.0.0.3", "10.0.0.9", "127.0.0.1"]), st.integers(1, 5),
                          st.sampled_from([True, False, None]), st.booleans()), max_size=30))
def test_whatever_is_seen_is_used_or_ignored_for_a_reason(steps: list[tuple[str, int, bool | None, bool]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(Path(directory))
        for number, address in enumerate(("10.0.0.2", "10.0.0.3", "127.0.0.1")):
            bench.add(f"web{number}", address)
        bench.begin()
        for address, times, was_refused, unverified in steps:
            bench.count.weigh(Reset("tcp", address, 8080, "127.0.0.1", was_refused, times, 4711, ""), unverified)
            counts(bench)
            bench.loop.later(0, lambda: None)
            bench.loop.turn()
        assert bench.count.seen == sum(times for _, times, _, _ in steps)
        bench.sensing.stop(remove=False)
        bench.loop.close()


# -- a flood

def test_a_flood_neither_blocks_the_loop_nor_flaps_an_endpoint(bench: Bench) -> None:
    """100,000 lines through a real pipe; between any two pieces of it the loop serves others."""
    monitor = bench.add(check=Check("tcp", interval=3600, fast_interval=0.01, rise=1, fall=1))
    bench.verdict = DEAD                            # its service is gone
    flood = bench.tmp / "flood"
    flood.write_bytes(line(when=time.time() + 60) * 100_000)
    bench.settings = Resets("em1", "ipmon")
    bench.tools = Ipfilter("em0", ipnat=("no",), ipf=("no",), ipfstat=("no",),
                           ipmon=("/bin/sh", "-c", f"cat {flood}; exec sleep 600"))
    pieces: list[int] = []                          # how many lines had been seen at each turn
    bench.loop.hook(lambda: pieces.append(bench.count.seen))
    bench.begin()
    bench.until(lambda: bench.count.seen == 100_000)
    assert max(after - before for before, after in zip(pieces, pieces[1:], strict=False)) * len(line()) < 2 * 65536
    assert bench.probes > 3, "probes went on"
    assert bench.flips == [("web1", False)] and not monitor.up
    assert bench.count.used == 1 and bench.count.ignored.total() == 99_999
    assert bench.count.ignored.keys() <= {"down", "haste"}


def test_own_address() -> None:
    assert targets.own_address("127.0.0.1").startswith("127.")
    assert targets.own_address("not an address") == ""
    if socket.has_ipv6 and targets.own_address("::1"):
        assert targets.own_address("::1") == "::1"
