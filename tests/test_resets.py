"""What resets mean: which of them count, what they do, how long an endpoint is held down. And where lines come from.

Lines come through real pipes and files; monitors are real, with probes that say what the test wants.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from gateway import wait

from l4ipd import hearing, sources, targets
from l4ipd.checks import Recipe, recipe
from l4ipd.health import Verdict
from l4ipd.loop import Loop
from l4ipd.model import Check, Endpoint, Ipfilter, Resets
from l4ipd.monitor import Monitor
from l4ipd.resets import Sensing
from l4ipd.rounds import Rounds

OK, DEAD = Verdict("L4OK", ""), Verdict("L4CON", "connection refused")
CLIENT = "198.51.100.7"
PATIENCE = 30.0


def line(address: str = "10.0.0.2", port: int = 8080, *, to: str = CLIENT, flags: str = "-AR 0 1001 0",
         tag: str = " log-tag 4711", when: float | None = None, times: int = 1) -> bytes:
    when = time.time() if when is None else when
    stamp = time.strftime("%d/%m/%Y %H:%M:%S", time.localtime(when)) + f".{int(when % 1 * 1e6):06d}"
    many = f"{times}x " if times > 1 else ""
    return (f"{stamp} {many}em1 @-1:-1 L {address},{port} -> {to},5000 PR tcp len 20 40 {flags} IN{tag}\n").encode()


def unreachable(port: int = 53, *, sender: str = "10.0.0.2", to: str = CLIENT) -> bytes:
    return (f"22/11/2026 06:48:57.244962 em1 @-1:-1 L {sender} -> {to} PR icmp len 20 56 icmp unreach/port for "
            f"{to},4000 - 10.0.0.2,{port} PR udp len 20 29 IN log-tag 4711\n").encode()


def refused(*monitors: Monitor) -> list[bool]:
    """Whether a refusal of each is believed, and may be in the course of being judged."""
    return [not each.up or (each.refusals is not None and each.refusals.charged) for each in monitors]


class Silent:
    """A probe in flight that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


class Bench:
    """Monitors that are up, a sensing, and no IPFilter: the lines come from the test."""

    def __init__(self, tmp: Path, action: str = "refused", source: str | None = None) -> None:
        self.loop = Loop()
        self.tmp = tmp
        self.verdict: Verdict | None = DEAD         # what probes say from now on; None: nothing
        self.probes = 0
        self.flips: list[tuple[str, bool]] = []
        self.told: list[tuple[str, str]] = []
        self.rounds = Rounds(self.loop, 1000, self._probe, decided=lambda monitor: None,
                             changed=lambda monitor, was: self.flips.append((monitor.endpoint.member, monitor.up)))
        self.sensing = Sensing(self.loop, lambda kind, text, level: self.told.append((kind, text)))
        self.count = self.sensing.reaction
        self.rounds.refused = self.sensing.probe_refused
        self.monitors: list[Monitor] = []
        self.settings = Resets("em1", source or str(tmp / "no-such-log"), action)
        none = (str(tmp / "no-tool"),)
        self.tools = Ipfilter("em0", ipnat=none, ipf=none, ipfstat=none, ipmon=none)

    def _probe(self, what: Recipe, done: Callable[[Verdict], object]) -> Silent:
        self.probes += 1
        if self.verdict is not None:
            done(self.verdict)
        return Silent()

    def add(self, member: str = "web1", address: str = "10.0.0.2", port: int = 8080, protocol: str = "tcp",
            cluster: str = "www", check: Check | None = None) -> Monitor:
        check = check or Check("tcp", interval=3600, fast_interval=3600, down_interval=3600)
        endpoint = Endpoint(f"{cluster}/x/{member}", cluster, "x", member, ("203.0.113.1",), 80, protocol, False,
                            address, port, 1, False, (check,))
        monitor = Monitor(self.rounds, endpoint, [recipe(Check("tcp"), endpoint)])
        monitor.score(OK)
        self.monitors.append(monitor)
        self.flips.clear()
        return monitor

    def begin(self) -> Bench:
        self.sensing.apply(self.settings, self.tools, self.monitors, str(self.tmp / "ipmon.pid"))
        return self

    def take(self, text: bytes) -> None:
        """Lines of ipmon's."""
        for each in text.splitlines():
            self.sensing.listener.take(each)

    def until(self, done: Callable[[], object]) -> None:
        end = time.monotonic() + PATIENCE
        while not done():
            assert time.monotonic() < end, "never happened"
            self.loop.later(0.01, lambda: None)
            self.loop.turn()

    def turns(self, seconds: float = 0.05) -> None:
        late = self.loop.later(seconds, lambda: None)
        while late.is_set:
            self.loop.turn()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    it = Bench(tmp_path)
    yield it
    it.sensing.stop(remove=False)
    it.loop.close()


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
    bench.begin().rounds.refused(monitor, DEAD._replace(text=words))
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


def test_the_summary(bench: Bench) -> None:
    bench.add()
    bench.begin().take(b"missed 12 ipf log entries: 7 19\n" + line(times=3) + line(port=1) + line(tag=""))
    assert bench.sensing.summary() == (
        f"resets: {bench.settings.source} lost; 4 seen, 1 used, 3 ignored (2 probed just now, 1 of no endpoint), 12 "
        f"lost by ipmon; 1 rules wanted, 0 in the kernel; {bench.settings.source}: No such file or directory")


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


def test_haste_has_a_limit(bench: Bench) -> None:
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
    monitor.hasten()
    bench.until(lambda: monitor.in_flight)
    bench.take(line())
    bench.until(lambda: bench.probes == 2)
    bench.until(lambda: not monitor.up)
    assert bench.probes == 2 and bench.rounds.flying == 1


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


# -- ipmon as a child

IPMON = 'echo "$$ $*" >>{0}/starts; exec cat <>{0}/device'


class Device:
    """Stands for /dev/ipl: what is written to it, the stand-in ipmon prints."""

    def __init__(self, bench: Bench) -> None:
        os.mkfifo(bench.tmp / "device")
        self.fd = os.open(bench.tmp / "device", os.O_RDWR)
        self.starts = bench.tmp / "starts"
        bench.settings = Resets("em1", "ipmon")
        bench.tools = Ipfilter("em0", ipnat=("no",), ipf=("no",), ipfstat=("no",),
                               ipmon=("/bin/sh", "-c", IPMON.format(bench.tmp), "ipmon"))

    def write(self, data: bytes) -> None:
        os.write(self.fd, data)

    @property
    def pids(self) -> list[int]:
        return [int(text.split()[0]) for text in self.starts.read_text().splitlines()] if self.starts.exists() else []


def runs(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
    except ProcessLookupError:                      # it may go at any time, even in the middle of being read
        return False


@pytest.fixture
def device(bench: Bench) -> Iterator[Device]:
    it = Device(bench)
    yield it
    os.close(it.fd)
    for pid in it.pids:
        if runs(pid):
            os.kill(pid, signal.SIGKILL)


def test_ipmon_is_verbose_and_numeric_and_has_a_pid_file_of_its_own(bench: Bench, device: Device) -> None:
    bench.begin()
    bench.until(lambda: device.pids)
    assert device.starts.read_text().split()[1:] == ["-v", "-P", str(bench.tmp / "ipmon.pid")]


def test_lines_in_pieces_through_the_pipe(bench: Bench, device: Device) -> None:
    monitor = bench.add()
    bench.begin()
    bench.until(lambda: device.pids)
    text = line(when=time.time() + 1)
    for piece in (text[:20], text[20:90], text[90:-1]):
        device.write(piece)
        bench.turns(0.02)
    assert monitor.up
    device.write(b"\n")
    bench.until(lambda: not monitor.up)


def test_an_ipmon_that_dies_is_started_again(bench: Bench, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIRST_WAIT", 0.02)
    monitor = bench.add()
    bench.begin()
    bench.until(lambda: bench.sensing.listener.alive)
    os.kill(device.pids[0], signal.SIGKILL)
    bench.until(lambda: [kind for kind, _ in bench.told] == ["sensing-lost", "sensing-back"])
    assert bench.told[0][1] == "sensing of resets is lost: ipmon: was killed by signal 9; trying again"
    device.write(line(when=time.time() + 1))
    bench.until(lambda: not monitor.up)
    assert len(device.pids) == 2


def test_an_ipmon_without_its_device_is_tried_ever_less_often(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIRST_WAIT", 0.01)
    bench.settings = Resets("em1", "ipmon")
    bench.tools = Ipfilter(ipnat=("no",), ipf=("no",), ipfstat=("no",), ipmon=(
        "/bin/sh", "-c", f"echo >>{bench.tmp}/starts; echo '/dev/ipl: open: No such file or directory' >&2; exit 1"))
    bench.begin()
    source = bench.sensing.listener._source
    assert isinstance(source, sources.Ipmon)
    bench.until(lambda: source._wait >= 0.08)
    assert (bench.tmp / "starts").stat().st_size == source.starts
    assert [kind for kind, _ in bench.told] == ["sensing-lost"], "said once"
    assert "kldload ipl" in bench.told[0][1] and not bench.sensing.is_alive


def test_a_missing_ipmon_is_named(bench: Bench) -> None:
    bench.settings = Resets("em1", "ipmon")
    bench.begin()
    bench.turns(0.01)
    assert "no-tool: no such program: name it in the configuration, ipfilter.ipmon" in bench.told[0][1]
    assert "lost" in bench.sensing.summary()


def test_stop_ends_ipmon(bench: Bench, device: Device) -> None:
    bench.begin()
    bench.until(lambda: bench.sensing.listener.alive)
    (bench.tmp / "ipmon.pid").write_text("1")
    bench.sensing.stop(remove=False)
    bench.until(lambda: not runs(device.pids[0]))
    bench.turns(0.1)
    assert not bench.told and len(device.pids) == 1 and not (bench.tmp / "ipmon.pid").exists()


def test_nothing_outlives_a_kill_9(bench: Bench, device: Device) -> None:
    """In a process of its own, which is killed: the ipmon goes at once, not only at its next record."""
    pid = os.fork()
    if pid == 0:
        try:
            bench.begin()
            bench.until(lambda: False)
        finally:
            os._exit(1)
    try:
        wait("ipmon starts", lambda: device.pids)
        assert runs(device.pids[0])
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    wait("the orphan ends", lambda: not runs(device.pids[0]))


SHELLS = (["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"], ["mksh"], ["ksh93"])


@pytest.mark.parametrize("shell", [words for words in SHELLS if shutil.which(words[0])], ids=" ".join)
def test_the_keeper_in_every_shell(shell: list[str]) -> None:
    """It passes words, output and status on, and ends what it keeps when its pipe ends."""
    def keep(script: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*shell, "-c", sources.KEEPER, "l4ipd", "sh", "-c", script, "name", "a b"],
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    with keep('echo "$1"; echo oops >&2; exit 7') as one:
        assert one.wait(PATIENCE) == 7
        assert one.stdout and one.stderr and (one.stdout.read(), one.stderr.read()) == (b"a b\n", b"oops\n")
    with keep('kill -9 $$') as two:
        assert two.wait(PATIENCE) == 128 + signal.SIGKILL and two.stderr and two.stderr.read() == b""
    with keep('echo $$; exec sleep 600') as three:
        assert three.stdout and three.stdin
        pid = int(three.stdout.readline())
        three.stdin.close()
        three.wait(PATIENCE)
        assert not runs(pid)


def test_a_reload_without_change_leaves_ipmon_alone(bench: Bench, device: Device) -> None:
    bench.begin()
    bench.until(lambda: bench.sensing.listener.alive)
    bench.begin()
    bench.turns(0.05)
    assert len(device.pids) == 1 and bench.sensing.listener.alive
    bench.sensing.apply(None, bench.tools, [], "")
    bench.until(lambda: not runs(device.pids[0]))
    assert bench.sensing.summary() == "" and not bench.sensing.is_alive


# -- a log file

@pytest.fixture
def log_file(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(sources, "POLL", 0.01)
    monkeypatch.setattr(sources, "PATIENCE", 0.1)
    bench.settings = Resets("em1", str(bench.tmp / "ipf.log"))
    return bench.tmp / "ipf.log"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_what_a_log_file_holds_already_is_old(bench: Bench, log_file: Path) -> None:
    monitor = bench.add()
    append(log_file, line())
    bench.begin()
    bench.turns()
    assert monitor.up and bench.sensing.is_alive
    append(log_file, line()[:40])
    bench.turns()
    append(log_file, line()[40:])
    bench.until(lambda: not monitor.up)


def test_a_log_file_that_comes_later(bench: Bench, log_file: Path) -> None:
    monitor = bench.add()
    bench.begin()
    assert bench.told == [("sensing-lost", f"sensing of resets is lost: {log_file}: No such file or directory; "
                           "trying again")]
    append(log_file, line())
    bench.until(lambda: not monitor.up)
    assert bench.told[-1][0] == "sensing-back"


def test_a_log_file_that_is_rotated(bench: Bench, log_file: Path) -> None:
    """What was written to the old file to the last is read, then the new one from its beginning."""
    one, two, three = bench.add(), bench.add("web2", "10.0.0.3"), bench.add("web3", "10.0.0.4")
    append(log_file, b"old\n")
    bench.begin()
    bench.turns(0.03)
    with log_file.open("ab") as old:
        log_file.rename(bench.tmp / "ipf.log.0")
        old.write(line() + b"22/11/2026 cut o")
    append(log_file, line("10.0.0.3"))
    bench.until(lambda: not one.up and not two.up)
    log_file.unlink()
    bench.until(lambda: bench.told)
    assert bench.told[0][0] == "sensing-lost"
    append(log_file, line("10.0.0.4"))
    bench.until(lambda: not three.up)


def reading(path: Path) -> list[str]:
    """The rotated files of ``path`` that this process has open."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return sorted(name for name in found if name.startswith(str(path)))


def test_who_writes_notices_a_rotation_late(bench: Bench, log_file: Path) -> None:
    """newsyslog makes the new file, and ipmon goes on with the old one until it has got its signal."""
    monitors = [bench.add(f"web{number}", f"10.0.0.{number}") for number in range(2, 8)]
    append(log_file, b"old\n")
    bench.begin()
    bench.turns(0.03)
    with log_file.open("ab", buffering=0) as ipmon:
        ipmon.write(line("10.0.0.2")[:50])
        log_file.rename(bench.tmp / "ipf.log.0")
        append(log_file, b"Nov 22 06:48:57 gw newsyslog[812]: logfile turned over\n")
        bench.turns(0.1)
        ipmon.write(line("10.0.0.2")[50:])
        bench.until(lambda: not monitors[0].up)
        (bench.tmp / "ipf.log.0").rename(bench.tmp / "ipf.log.1")
        ipmon.write(line("10.0.0.3"))
        bench.until(lambda: not monitors[1].up)
        log_file.rename(bench.tmp / "ipf.log.0")    # and once more, before it has noticed
        append(log_file, b"Nov 22 06:48:57 gw newsyslog[812]: logfile turned over\n")
        bench.turns(0.1)
        ipmon.write(line("10.0.0.4"))
        bench.until(lambda: not monitors[2].up)
    append(log_file, line("10.0.0.5"))
    bench.until(lambda: not monitors[3].up)
    for number in range(100):                       # nobody writes to any of these: they are not kept for ever
        log_file.rename(bench.tmp / f"ipf.log.{number + 2}")
        append(log_file, b"")
        bench.turns(0.03)
        assert len(reading(log_file)) <= sources.KEPT + 1       # the newest may be a moment old
    append(log_file, line("10.0.0.6"))
    bench.until(lambda: not monitors[4].up)
    bench.until(lambda: reading(log_file) in ([], [str(log_file)]))     # none: no /proc
    assert bench.count.seen == 5 and not bench.told


def test_a_log_file_is_read_on_after_an_error(bench: Bench, log_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was read already does not count twice."""
    monitor = bench.add(check=Check("tcp", interval=3600, fast_interval=3600, down_interval=3600, rise=1))
    append(log_file, b"old\n")
    bench.begin()
    bench.turns(0.03)
    append(log_file, line())
    bench.until(lambda: not monitor.up)
    source = bench.sensing.listener._source
    assert isinstance(source, sources.LogFile)
    directory = os.open(bench.tmp, os.O_RDONLY)
    os.dup2(directory, source._tails[0].fd)         # read(2) fails with EISDIR from now on
    os.close(directory)
    bench.until(lambda: bench.told)
    assert bench.told == [("sensing-lost", f"sensing of resets is lost: {log_file}: Is a directory; trying again")]
    bench.until(lambda: len(bench.told) == 2)
    assert bench.told[1][0] == "sensing-back" and bench.count.seen == 1
    append(log_file, line("10.0.0.99"))
    bench.until(lambda: bench.count.seen == 2)


SYSLOG = (b"Nov 22 06:48:57 gw ipmon[812]: 06:48:57.244962 em1 @-1:-1 L 10.0.0.2,8080 -> 198.51.100.7,5000 PR tcp len "
          b"20 40 -AR 0 1001 0 IN log-tag 4711\n")


def test_what_syslogd_writes_only_hastens_probes(bench: Bench, log_file: Path,
                                                 caplog: pytest.LogCaptureFixture) -> None:
    """logger -t ipmon is anybody's. And who can write a line there can perhaps write one without the prefix, too."""
    monitor = bench.add()
    append(log_file, b"")
    bench.begin()
    append(log_file, SYSLOG + line() + SYSLOG.replace(b"Nov 22 06:48:57 gw ipmon[812]:",
                                                      b"<134>1 2026-11-22T06:48:57.2Z gw ipmon 812 - -"))
    bench.until(lambda: bench.count.seen == 3 and bench.probes)
    assert refused(monitor) == [False] and monitor.refusals is None
    assert bench.count.used == 1 and bench.count.ignored == {"haste": 2}
    assert caplog.text.count("anybody can have such lines written there by way of syslogd") == 1


def test_a_line_of_another_program_shows_that_syslogd_writes_the_file(bench: Bench, log_file: Path,
                                                                      caplog: pytest.LogCaptureFixture) -> None:
    monitor = bench.add()
    append(log_file, b"")
    bench.begin()
    append(log_file, b"Nov 22 06:48:57 gw sshd[9]: Invalid user x\n" + line())
    bench.until(lambda: bench.probes)
    assert refused(monitor) == [False] and "by way of syslogd" in caplog.text


def test_newsyslog_writes_into_every_file_that_it_turns_over(bench: Bench, log_file: Path,
                                                             caplog: pytest.LogCaptureFixture) -> None:
    monitor = bench.add()
    append(log_file, b"")
    bench.begin()
    append(log_file, b"Nov 22 06:48:57 gw newsyslog[812]: logfile turned over due to size>1000K\n" + line())
    bench.until(lambda: not monitor.up)
    assert "syslogd" not in caplog.text


def test_our_own_ipmon_is_believed_whatever_it_says(bench: Bench, device: Device) -> None:
    monitor = bench.add()
    bench.begin()
    bench.until(lambda: device.pids)
    device.write(b"Nov 22 06:48:57 gw sshd[9]: Invalid user x\n" + line(when=time.time() + 1))
    bench.until(lambda: not monitor.up)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize(("mode", "owner", "directory", "words"), [
    (0o640, 0, 0o755, ""),
    (0o660, 0, 0o755, ""),                          # of group 0, whose members may become root
    (0o602, 0, 0o755, "others may write {0}/ipf.log"),
    (0o640, 1, 0o755, "{0}/ipf.log belongs to "),
    (0o640, 0, 0o777, "others may write in {0}"),
    (0o640, 0, 0o1777, ""),
])
def test_a_log_file_that_others_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, owner: int,
                                          directory: int, words: str, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sources, "POLL", 0.01)
    place = tmp_path / "log"
    place.mkdir()
    file = place / "ipf.log"
    file.write_bytes(b"")
    file.chmod(mode)
    os.chown(file, owner, 0)
    place.chmod(directory)
    bench = Bench(tmp_path, source=str(file))
    monitor = bench.add()
    bench.begin()
    bench.turns()
    append(file, line())
    bench.until(lambda: bench.probes)
    assert refused(monitor) == [not words]
    assert (f"{file}: {words.format(place)}" in caplog.text) == bool(words)
    assert ("only hastens probes" in caplog.text) == bool(words)
    bench.sensing.stop(remove=False)
    bench.loop.close()


def test_a_log_file_that_is_truncated(bench: Bench, log_file: Path) -> None:
    monitor = bench.add()
    append(log_file, b"x" * 3000 + b"\nhalf a li")
    bench.begin()
    bench.turns(0.03)
    os.truncate(log_file, 0)
    bench.turns(0.05)
    append(log_file, line())
    bench.until(lambda: not monitor.up)


def test_a_log_that_may_not_be_read(bench: Bench, log_file: Path) -> None:
    log_file.mkdir()
    bench.begin()
    bench.turns(0.1)
    assert {kind for kind, _ in bench.told} == {"sensing-lost"} and not bench.sensing.is_alive
    assert any("Is a directory" in text for _, text in bench.told) and len(bench.told) < 5


@pytest.fixture
def named(bench: Bench, device: Device) -> Path:
    """A stand-in for ipmon that ps calls by that name."""
    shutil.copy(os.path.realpath("/bin/sh"), bench.tmp / "ipmon")
    script = f'echo "$$" >>{bench.tmp}/starts; while read -r line; do echo "$line"; done <>{bench.tmp}/device'
    bench.tools = Ipfilter("em0", ipnat=("no",), ipf=("no",), ipfstat=("no",),
                           ipmon=(str(bench.tmp / "ipmon"), "-c", script, "ipmon"))
    return bench.tmp / "ipmon"


def orphan(*words: str) -> int:
    """A process that is no child of ours."""
    shell = subprocess.run(["/bin/sh", "-c", '"$@" >/dev/null & echo $!', "sh", *words], stdout=subprocess.PIPE)
    return int(shell.stdout)


def test_our_own_ipmon_is_no_other(bench: Bench, named: Path, device: Device) -> None:
    """Looked for at every moment of its start, and after it."""
    found: list[list[int]] = []
    for _ in range(8):
        found.clear()
        bench.begin()
        for _ in range(4):
            sources._look_around(bench.loop, {"ipmon"}, found.append)
            bench.turns(0.005)
        bench.until(lambda: len(found) == 4)
        bench.until(lambda: device.pids and bench.sensing.listener.alive)
        sources._look_around(bench.loop, {"ipmon"}, found.append)
        bench.until(lambda: len(found) == 5)
        assert not [pid for pids in found for pid in pids if pid in device.pids]
        bench.sensing.apply(None, bench.tools, [], "")
        bench.until(lambda: not any(map(runs, device.pids)))
    assert len(device.pids) == 8


def test_an_ipmon_of_the_system_is_named(bench: Bench, named: Path, device: Device, caplog: pytest.LogCaptureFixture,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is called ipmon, or as ours is; not one that is about to end when it is found."""
    monkeypatch.setattr(sources, "OTHERS_AGAIN", 0.5)
    link = bench.tmp / "l4ip-ipmon"
    link.symlink_to(named)
    bench.tools = replace(bench.tools, ipmon=(str(link), *bench.tools.ipmon[1:]))
    system = []
    for name in ("ipmon.system/ipmon", "ipmon.other/l4ip-ipmon", "ipmon.ending/ipmon"):
        copy = bench.tmp / name
        copy.parent.mkdir()
        copy.symlink_to("/bin/sleep")
        system.append(orphan(str(copy), "600"))
    try:
        bench.begin()
        bench.until(lambda: device.pids)
        bench.turns(0.2)
        os.kill(system[2], signal.SIGKILL)
        bench.until(lambda: "another ipmon runs" in caplog.text)
        pids = re.search(r"another ipmon runs \(pid ([\d, ]+)\): a record goes to one reader only", caplog.text)
        told = {int(pid) for pid in pids[1].split(", ")} if pids else set()
        assert {*system[:2]} <= told and not told & {system[2], *device.pids}
    finally:
        for pid in system:
            if runs(pid):
                os.kill(pid, signal.SIGKILL)


PS = """    1     0 init
   70     1 /usr/sbin/ipmon
   71     1 ipmon
   72     1 [ipmon] <defunct>
   73     1 sh ipmon
   74     1 ipmon: started -D
  100     1 l4ipd
  101   100 sh
  102   101 ipmon
  103   102 ipmon
  104   999 ipmon
  105   106 ipmon
  106   105 ipmon
garbage
  107     1
"""


def test_who_is_a_stranger() -> None:
    """Not we, not our children, not theirs; whatever ps says of parents that are gone, or go round in circles."""
    assert sources.strangers(PS, {"ipmon"}, 100) == [70, 71, 74, 104, 105, 106]
    assert sources.strangers(PS, {"sh"}, 1) == [] and sources.strangers("", {"ipmon"}, 1) == []


# -- deafness

class Kernel:
    """Stands for the NAT table: how many connections each target has been sent."""

    def __init__(self, bench: Bench) -> None:
        self.bench, self.file = bench, bench.tmp / "listing"
        self.sent: dict[tuple[str, int, str], int] = {}
        bench.settings = Resets("em1", str(bench.tmp / "ipf.log"))
        append(bench.tmp / "ipf.log", b"")
        script = f"echo >>{bench.tmp}/runs; cat {self.file}"
        bench.tools = replace(bench.tools, ipnat=("/bin/sh", "-c", script, "ipnat"))
        bench.begin()

    def client(self, protocol: str = "tcp", address: str = "10.0.0.2", port: int = 8080) -> None:
        key = address, port, protocol
        self.sent[key] = self.sent.get(key, 0) + 1

    def refused(self, *monitors: Monitor) -> None:
        """A probe of each is refused, and the table is read."""
        rules = [f"{count} rdr em0 203.0.113.1/32 port 80 -> {address}/32 port {port} {protocol} round-robin tag l4ip"
                 for (address, port, protocol), count in self.sent.items()]
        self.file.write_text("\n".join(("List of active MAP/Redirect filters:", *rules, "", "List of active sessions:",
                                        "")))
        for monitor in monitors:
            self.bench.rounds.refused(monitor, DEAD)
        self.bench.until(lambda: self.bench.sensing.hearing._child is None)

    @property
    def runs(self) -> int:
        return len((self.bench.tmp / "runs").read_text().splitlines())


@pytest.fixture
def kernel(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr(hearing, "APART", 0.0)
    monkeypatch.setattr(hearing, "LATE", 0.2)
    monkeypatch.setattr(sources, "POLL", 0.01)
    bench.add()
    bench.add("dns", port=8080, protocol="udp")
    return Kernel(bench)


def test_clients_between_two_refused_probes_and_no_reset(bench: Bench, kernel: Kernel,
                                                         caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        kernel.client()
        kernel.refused(bench.monitors[0])
    assert kernel.runs == 3
    bench.until(lambda: bench.sensing.hearing.deaf == "www/x/web1")
    assert caplog.text.count("sensing seems deaf: www/x/web1 refuses connections") == 1
    assert "deaf?" in bench.sensing.summary()
    bench.take(line())
    assert not bench.sensing.hearing.deaf and "resets are seen again" not in caplog.text[:caplog.text.index("deaf")]


@pytest.mark.parametrize("what", ["nothing", "it was well meanwhile", "no client", "other protocol", "other port",
                                  "late record", "record of one that is down", "rules loaded anew"])
def test_what_does_not_make_it_seem_deaf(bench: Bench, kernel: Kernel, what: str) -> None:
    one = bench.monitors[0]
    kernel.client()
    kernel.refused(one)
    if what == "it was well meanwhile":
        one.score(OK)
    kernel.client("udp" if what == "other protocol" else "tcp", port=8081 if what == "other port" else 8080)
    if what == "no client":
        kernel.sent.clear()
        kernel.client()
    elif what == "rules loaded anew":
        kernel.sent[("10.0.0.2", 8080, "tcp")] = 0
    kernel.refused(one)
    if what == "late record":
        append(bench.tmp / "ipf.log", line())
    elif what == "record of one that is down":
        one.health = 0
        append(bench.tmp / "ipf.log", line())
    bench.turns(0.4)
    assert kernel.runs >= 2
    assert bool(bench.sensing.hearing.deaf) == (what == "nothing")


@pytest.mark.parametrize("source", ["counters", "no"])
def test_its_own_advice_ends_deafness(bench: Bench, kernel: Kernel, source: str) -> None:
    for _ in range(3):
        kernel.client()
        kernel.refused(bench.monitors[0])
    bench.until(lambda: bench.sensing.hearing.deaf)
    bench.sensing.apply(None if source == "no" else Resets("em1", source), bench.tools, bench.monitors, "")
    assert "deaf?" not in bench.sensing.summary() and not bench.sensing.hearing.deaf
    for _ in range(3):
        kernel.client()
        kernel.refused(bench.monitors[0])
    bench.turns(0.3)
    assert not bench.sensing.hearing.deaf


def test_own_address() -> None:
    assert targets.own_address("127.0.0.1").startswith("127.")
    assert targets.own_address("not an address") == ""
    if socket.has_ipv6 and targets.own_address("::1"):
        assert targets.own_address("::1") == "::1"
