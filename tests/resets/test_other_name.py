"""Our ipmon has another name than the system's, by a link in a directory that nobody else can write."""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from l4ipd.resets import sources
from l4ipd.resets.other_name import NAME, OtherName
from support.sensing_bench import Bench, Device, runs


@pytest.fixture
def named(bench: Bench, device: Device) -> Path:
    """An ipmon that is called so, as the system's is."""
    program = bench.tmp / "sbin" / "ipmon"
    program.parent.mkdir()
    program.symlink_to("/bin/sh")
    script = f'echo "$$" >>{bench.tmp}/starts; while read -r line; do echo "$line"; done <>{bench.tmp}/device'
    bench.tools = replace(bench.tools, ipmon=(str(program), "-c", script, "ipmon"))
    return program


def names(pid: int) -> str:
    """How ps, and so rc.subr, calls a process: the first of its words."""
    said = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, text=True).stdout
    return os.path.basename(said.split()[0])


def test_nobody_takes_it_for_the_systems(bench: Bench, device: Device, named: Path) -> None:
    bench.begin()
    bench.until(lambda: bench.sensing.listener.alive and device.pids)
    directory = bench.tmp / "ipmon.d"
    assert names(device.pids[0]) == NAME != "ipmon"
    assert directory.stat().st_mode & 0o7777 == 0o700
    assert os.readlink(directory / NAME) == str(named)
    bench.sensing.stop(remove=False)
    bench.until(lambda: not runs(device.pids[0]))
    assert not directory.exists()


def test_it_is_started_so_again(bench: Bench, device: Device, named: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "FIRST_WAIT", 0.02)
    bench.begin()
    bench.until(lambda: bench.sensing.listener.alive and device.pids)
    os.kill(device.pids[0], signal.SIGKILL)
    bench.until(lambda: len(device.pids) == 2)
    assert names(device.pids[1]) == NAME


def test_what_an_earlier_run_has_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir(mode=0o700)
    (tmp_path / "d" / NAME).symlink_to("/nonexistent/ipmon")
    name = OtherName(str(tmp_path / "d"))
    assert os.readlink(name.of("/usr/sbin/ipmon")) == "/usr/sbin/ipmon"
    name.remove()
    assert not (tmp_path / "d").exists()
    name.remove()


def test_a_program_of_another_name_keeps_it(tmp_path: Path) -> None:
    name = OtherName(str(tmp_path / "d"))
    assert name.of("/usr/local/bin/python3") == "/usr/local/bin/python3"
    assert not (tmp_path / "d").exists()


def loose(directory: Path) -> None:
    directory.mkdir()
    directory.chmod(0o770)


def of_somebody(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(directory, 65534, 65534)


def linked(directory: Path) -> None:
    (directory.parent / "elsewhere").mkdir(mode=0o700)
    directory.symlink_to("elsewhere")


def occupied(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    (directory / NAME).mkdir()


@pytest.mark.parametrize("trap", [loose, of_somebody, linked, Path.touch, occupied])
def test_a_directory_that_is_not_ours_alone_is_not_used(tmp_path: Path, trap: object,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    assert callable(trap)
    trap(tmp_path / "d")
    with caplog.at_level("INFO", logger="l4ipd.resets"):
        assert OtherName(str(tmp_path / "d")).of("/usr/sbin/ipmon") == "/usr/sbin/ipmon"
    assert "ipmon is started by its own name, and service ipmon stop will end it" in caplog.text


def test_what_is_said_when_it_keeps_its_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    loose(tmp_path / "d")
    with caplog.at_level("INFO", logger="l4ipd.resets"):
        OtherName(str(tmp_path / "d")).of("/usr/sbin/ipmon")
    assert caplog.messages == [f"{tmp_path}/d/{NAME}: ipmon is started by its own name, and service ipmon stop will "
                               "end it: that directory is not ours alone"]


def test_others_may_look_into_the_directory(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o755)
    assert OtherName(str(tmp_path / "d")).of("/usr/sbin/ipmon") == str(tmp_path / "d" / NAME)
