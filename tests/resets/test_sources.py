"""Where ipmon's lines come from, through real pipes and files: a child of ours, or the file of the system's ipmon."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from l4ipd.model import Check, Ipfilter, Resets
from l4ipd.resets import sources
from l4ipd.resets.other_name import NAME
from support.descriptors import opened
from support.gateway import wait
from support.sensing_bench import PATIENCE, Bench, Device, append, line, refused, runs

# -- ipmon as a child

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
    there = {(status.st_dev, status.st_ino): str(file) for file in path.parent.glob(f"{path.name}*")
             for status in [file.stat()]}
    found = [(status.st_dev, status.st_ino) for fd in opened() for status in [os.fstat(fd)]]
    return sorted(there[identity] for identity in found if identity in there)


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
            sources._look_around(bench.loop, {"ipmon", NAME}, found.append)
            bench.turns(0.005)
        bench.until(lambda: len(found) == 4)
        bench.until(lambda: device.pids and bench.sensing.listener.alive)
        sources._look_around(bench.loop, {"ipmon", NAME}, found.append)
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
   75     1 ipmonX
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
    assert sources.strangers(PS, {"l4ipd"}, 100) == [], "we ourselves"
    assert sources.strangers(PS, {"sh"}, 1) == [] and sources.strangers("", {"ipmon"}, 1) == []
