"""Commands as probes: what they say, how they end, who they are, and that nothing of them is left."""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from l4ipd.checks.probe import prepare
from l4ipd.checks.recipe import recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check
from support.descriptors import opened
from support.members import PATIENCE, Watch, endpoint, probe

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="only root can become another user")


def shell(script: str, **keys: str) -> Check:
    return Check("exec", command=("/bin/sh", "-c", script), **keys)     # type: ignore[arg-type]


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie that somebody else has to reap does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()


def inheritable(fd: str) -> bool:
    try:
        return os.get_inheritable(int(fd))
    except OSError:
        return False


@pytest.mark.parametrize(("script", "verdict"), [
    ("exit 0", "PROCOK exit status 0"),
    ("echo fine; echo more; exit 0", "PROCOK fine"),
    ("echo warning >&2", "PROCOK warning"),
    ("echo; echo; echo first", "PROCOK first"),
    ("exit 3", "PROCERR exit status 3"),
    ("echo broken >&2; echo said; exit 1", "PROCERR exit status 1: said"),
    ("kill -9 $$", "PROCERR killed by SIGKILL"),
    ("kill -SEGV $$", "PROCERR killed by SIGSEGV"),
    ("exit 125", "PROCERR exit status 125"),
    ("printf 'a\\000\\033[31m\\377b'", r"PROCOK a\x00\x1b[31m\xffb"),
    ("read x && exit 1; exit 0", "PROCOK exit status 0"),
    ("head -c 3000000 /dev/zero | tr '\\000' x", "PROCOK " + "x" * 77 + "..."),
    ("head -c 3000000 /dev/zero >&2; echo ok", "PROCOK ok"),
])
def test_how_it_ends(script: str, verdict: str) -> None:
    assert str(probe(shell(script))) == verdict


def test_words_are_words() -> None:
    check = Check("exec", command=("/bin/echo", "{address}:{port}", "$HOME `id` ;", "{cluster}-{member}"))
    assert str(probe(check, 8080)) == "PROCOK 127.0.0.1:8080 $HOME `id` ; www-web1"


def test_missing_programs(tmp_path: Path) -> None:
    path = tmp_path / "program"
    for words in ((str(path),), ("no-such-program-anywhere",)):
        with pytest.raises(ValueError, match="no such program"):
            prepare(Check("exec", command=words))
        assert probe(Check("exec", command=words)).code == "LOCAL"
    path.write_text("not executable")
    with pytest.raises(ValueError, match="cannot be executed"):
        prepare(Check("exec", command=(str(path),)))
    assert probe(Check("exec", command=(str(path),))).code == "LOCAL"


def test_what_is_no_program_at_all(tmp_path: Path) -> None:
    os.chmod(tmp_path.parent, 0o755)
    path = tmp_path / "program"
    path.write_bytes(b"\x7fELF rubbish")
    path.chmod(0o755)
    assert probe(Check("exec", command=(str(path),), user="root" if ROOT else None)).code == "LOCAL"


def test_late_commands_are_killed_with_their_children(tmp_path: Path) -> None:
    """Even those that heed no TERM; and the verdict does not wait for that."""
    tmp_path.chmod(0o777)
    pids = tmp_path / "pids"
    script = f"trap '' TERM; echo working; sleep 1000 & echo $! > {pids}; echo $$ >> {pids}; wait; sleep 1000"
    with Watch() as watch:
        check = shell(script, **({"user": "root"} if ROOT else {}))
        verdict = watch.probe(check, expire_when=lambda: pids.exists() and len(pids.read_text().split()) == 2)
        assert str(verdict) == "PROCTOUT no end within the timeout: working"
        members = [int(word) for word in pids.read_text().split()]
        assert watch.prober.commands.running == 1
        watch.turn_until(lambda: not watch.prober.commands.running)
        wait_for(lambda: not any(map(alive, members)))


def test_cancelled_commands_are_killed(tmp_path: Path) -> None:
    with Watch() as watch:
        check = shell("sleep 1000")
        flight = watch.prober.start(recipe(check, endpoint(check, 1)), watch.verdicts.append)
        flight.cancel()
        watch.turn_until(lambda: not watch.prober.commands.running)
        assert not watch.verdicts


def test_no_zombies() -> None:
    with Watch() as watch:
        for number in range(20):
            check = shell(f"exit {number}")
            watch.prober.start(recipe(check, endpoint(check, 1)), watch.verdicts.append)
        watch.turn_until(lambda: len(watch.verdicts) == 20)
        with pytest.raises(ChildProcessError):
            os.waitpid(-1, os.WNOHANG)


def test_bounded_number_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    with Watch(commands=2) as watch:
        check = shell(f"read x < {tmp_path}/gate", **({"user": "root"} if ROOT else {}))
        flights = [watch.prober.start(recipe(check, endpoint(check, 1)), watch.verdicts.append) for _ in range(5)]
        assert watch.prober.commands.running == 2
        flights[2].expire()
        assert str(watch.verdicts.pop()) == "LOCAL no place to run it: 2 commands run already"
        flights[3].cancel()
        gate = os.open(tmp_path / "gate", os.O_RDWR)
        os.write(gate, b"\n\n\n\n\n")
        watch.turn_until(lambda: len(watch.verdicts) == 3)
        os.close(gate)
        assert {verdict.code for verdict in watch.verdicts} == {"PROCOK"}
        assert watch.prober.commands.running == 0


def test_the_time_that_it_waited_for_a_place_is_given_back(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    with Watch(commands=1) as watch:
        check = shell(f"read x < {tmp_path}/gate", **({"user": "root"} if ROOT else {}))
        first, second = (watch.prober.start(recipe(check, endpoint(check, 1)), watch.verdicts.append) for _ in range(2))
        end = watch.loop.clock() + 0.1
        watch.turn_until(lambda: watch.loop.clock() > end)
        assert first.expire() is None
        watch.turn_until(lambda: second._child is not None)     # type: ignore[attr-defined]
        assert (second.expire() or 0) > 0.1
        assert second.expire() is None
        assert [verdict.code for verdict in watch.verdicts] == ["PROCTOUT", "PROCTOUT"]
        watch.turn_until(lambda: not watch.prober.commands.running)


def test_default_signals_and_no_descriptors() -> None:
    given = {"0", "1", "2", *filter(inheritable, map(str, opened()))}      # some may come from outside
    with open(os.devnull):
        listing = probe(shell("ls /dev/fd/ | tr '\\n' ' '")).text.split()
        assert len(set(listing) - given) <= 1       # the one that ls itself opens
    if sys.platform == "linux":
        ignored = int(probe(shell("grep SigIgn /proc/self/status")).text.partition("\\t")[2], 16)
        assert not ignored & sum(1 << number - 1 for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGHUP))
    script = "trap 'exit 7' PIPE; kill -PIPE $$; exit 8"
    assert probe(shell(script)) == Verdict("PROCERR", "exit status 7")
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN


@needs_root
def test_nobody_by_default(tmp_path: Path) -> None:
    assert probe(shell("id -un")).text == "nobody"
    assert probe(shell("id -un", user="daemon")).text == "daemon"
    assert probe(shell("id -un", user="root")).text == "root"
    assert probe(shell("id -G")).text.split() == probe(shell("id -g")).text.split()
    (tmp_path / "secret").touch(mode=0o600)
    assert probe(shell(f"echo $USER $HOME; cat {tmp_path}/secret")).code == "PROCERR"


@needs_root
def test_what_another_user_cannot_run(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("#!/bin/sh\necho ran\n")
    path.chmod(stat.S_IRWXU)
    verdict = probe(Check("exec", command=(str(path),)))
    assert verdict == ("LOCAL", f"{path}: permission denied")
    assert probe(shell("true", user="no-such-user")) == ("LOCAL", "no such user: no-such-user")


def test_unknown_users() -> None:
    with pytest.raises(ValueError, match="^user: no-such-user: no such user$"):
        prepare(shell("true", user="no-such-user"))
    prepare(shell("true"))
