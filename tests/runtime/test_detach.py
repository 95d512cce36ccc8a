"""Without -d: the command returns when there is a daemon that answers, or says why there is none."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT
from support.gateway import PATIENCE, wait
from support.operated_gateway import A, OperatedGateway
from support.sandbox_tools import Sandbox


class Service(OperatedGateway):
    """Ends the daemons that it has started."""

    def pid(self) -> int:
        return int(self.pidfile.read_text())

    def end(self) -> None:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            os.kill(self.pid(), signal.SIGTERM)
            wait("its end", lambda: not self.pidfile.exists())

    def close(self) -> None:
        self.end()
        super().close()

    def faulty(self, fault: str) -> list[str]:
        """The command that starts one with a fault, which is brought in before anything happens."""
        code = ("import os, sys; from l4ipd import main, run, saved_state; from l4ipd.runtime import pidfile; "
                f"{fault}; sys.exit(main.main())")
        return [sys.executable, "-c", code, "-c", str(self.config)]

    def broken(self, fault: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.faulty(fault), capture_output=True, text=True, timeout=PATIENCE,
                              env=self.environment(), cwd=self.directory)

    def nobody(self) -> bool:
        """Whether no daemon with our configuration is there."""
        listed = subprocess.run(["ps", "-ww", "-e", "-o", "stat= command="], capture_output=True, text=True, check=True)
        return not any(str(self.config) in line for line in listed.stdout.splitlines() if not line.startswith("Z"))


@pytest.fixture
def service(kernel: Sandbox, tmp_path: Path) -> Iterator[Service]:
    kernel.ipnat("-FC")
    it = Service(kernel, tmp_path)
    yield it
    it.close()


def test_when_the_command_is_back_the_daemon_answers(service: Service) -> None:
    for _ in range(5):
        done = service.run()
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
        os.kill(service.pid(), 0)
        status, out, err = service.ctl("show")
        assert status in (0, 1) and "www/http/web1" in out and not err
        service.end()


def test_who_reads_the_output_to_its_end_is_not_kept_waiting(service: Service) -> None:
    """As in $(service l4ip start 2>&1)."""
    done = subprocess.run(["sh", "-c", f"{' '.join(service.command())} 2>&1 | cat; echo through"], capture_output=True,
                          text=True, timeout=PATIENCE, env=service.environment())
    assert done.stdout == "through\n"
    assert service.ctl("show")[0] in (0, 1)


@pytest.mark.parametrize("options", [(), ("-d",)])
def test_without_a_control_socket_there_is_no_start(service: Service, options: tuple[str, ...]) -> None:
    (service.directory / "file").write_text("")
    text = service.config.read_text()
    service.config.write_text(text.replace("/l4ip.sock", "/file/l4ip.sock"))
    done = service.run(*options)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (f"control socket: {service.directory}/file/l4ip.sock: Not a directory: "
                                            "name another path in control")
    assert not service.pidfile.exists() and service.nobody()


def test_of_two_starts_at_the_same_time_one_says_why_it_failed(service: Service) -> None:
    for _ in range(3):
        starts = [subprocess.Popen(service.command(), stderr=subprocess.PIPE, text=True, env=service.environment())
                  for _ in range(3)]
        ends = [(start.communicate(timeout=PATIENCE)[1], start.returncode) for start in starts]
        assert sorted(status for _, status in ends) == [0, 1, 1], ends
        for said, status in ends:
            assert status == 0 or "already running" in said or "another program listens there" in said, ends
        assert service.ctl("show")[0] in (0, 1)
        service.end()


@pytest.mark.parametrize("fault, words", [
    ("pidfile.PidFile.__enter__ = lambda self: os.kill(os.getpid(), 9)",
     "l4ipd has ended before it was ready; its log may say why"),
    ("pidfile.PidFile.__enter__ = lambda self: 1 / 0", "ZeroDivisionError: division by zero"),
    ("run.StateSaver.__init__ = lambda self, *more: os._exit(0)",
     "l4ipd has ended before it was ready; its log may say why"),
    ("run.Daemon.start = lambda self, saved: 1 / 0", "ZeroDivisionError: division by zero"),
])
def test_one_that_dies_at_its_start_has_not_started(service: Service, fault: str, words: str) -> None:
    done = service.broken(fault)
    assert done.returncode == 1
    assert words in done.stderr.splitlines()
    wait("nobody is left", service.nobody)
    service.pidfile.unlink(missing_ok=True)


def test_a_sandbox_that_does_not_start(service: Service) -> None:
    program = ("from l4ipd.runtime import isolated; isolated.sys = type(sys)('sys'); "
               "isolated.sys.executable = '/bin/false'")
    for more in ((), ("-d",)):
        done = service.broken(f"sys.argv += {['--sandbox', *more]}; {program}")
        assert done.returncode == 1
        assert "the sandbox has ended: exit status 1" in done.stderr.splitlines()
        assert not service.pidfile.exists() and service.nobody()


def test_who_interrupts_a_start_has_none(service: Service) -> None:
    """Exit 0 was never said, so that there is to be no daemon."""
    fifo = service.directory / "fifo"
    os.mkfifo(fifo)                                 # to begin takes as long as we like
    waits = f"load = saved_state.load; saved_state.load = lambda path: [open({str(fifo)!r}).read(), load(path)][1]"
    start = subprocess.Popen(service.faulty(waits), stderr=subprocess.PIPE, text=True, env=service.environment(),
                             start_new_session=True)
    wait("the pid file", lambda: service.pidfile.exists() and service.pidfile.read_text().endswith("\n"))
    pid = service.pid()
    os.kill(start.pid, signal.SIGINT)
    assert start.wait(PATIENCE) == 1
    assert start.stderr is not None
    start.stderr.close()
    os.kill(pid, 0)
    with fifo.open("w"):
        pass
    wait("its end", lambda: not service.pidfile.exists())
    wait("nobody is left", service.nobody)


def test_the_address_of_a_sandbox_of_its_own_is_there(service: Service) -> None:
    done = service.run("--sandbox")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    wait("a rule", lambda: A in service.ctl("rules")[1])
    assert str(ROOT) not in os.readlink(f"/proc/{service.pid()}/cwd") if sys.platform == "linux" else True


def test_a_sandbox_that_somebody_ends(service: Service) -> None:
    """What it has said before is not why."""
    service.start("--sandbox")
    wait("a rule", lambda: A in service.ctl("rules")[1])
    listed = subprocess.run(["ps", "-ww", "-e", "-o", "pid=", "-o", "ppid=", "-o", "command="], capture_output=True,
                            text=True, check=True).stdout.split("\n")
    assert service.process is not None
    of_ours = [line.split()[0] for line in listed if line.split()[1:2] == [str(service.process.pid)]
               and "l4ipd.sandbox" in line]
    os.kill(int(*of_ours), signal.SIGKILL)
    service.wait_log("^the sandbox has ended: exit status -9$")
    service.stop()


def test_why_a_sandbox_cannot_be_had_is_said(service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    done = service.run("--sandbox")
    assert done.returncode == 1
    assert "ipfilter.sock: cannot listen there: AF_UNIX path too long" in done.stderr
    wait("nobody is left", service.nobody)
