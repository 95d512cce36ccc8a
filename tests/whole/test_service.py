"""rc.d/l4ip, run under POSIX shells with real processes, and a stand-in for rc.subr (tests/rc.subr).

What is held here: the script finds a daemon that is a Python script, however pip wrote its first line; a pid file that
names somebody else's process is not believed; reload and restart refuse a bad configuration.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import ROOT

SCRIPT = ROOT / "rc.d/l4ip"
SHELLS = [words for words in (["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"], ["mksh"])
          if shutil.which(words[0])]

#: a daemon as rc.subr sees it: checks a configuration, detaches, writes a pid file, notes what it is told
DAEMON = '''
import argparse, os, re, signal, sys, time
from pathlib import Path

parser = argparse.ArgumentParser()
parser.add_argument("-c", dest="config", type=Path)
parser.add_argument("-n", action="store_true")
parser.add_argument("-v", action="store_true")
parser.add_argument("-p", dest="pidfile")
options = parser.parse_args()
text = options.config.read_text()
if "mistake" in text:
    sys.exit("l4ip.conf:1: mistake: unknown key")
if options.n:
    print("rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11/32 port 80 tcp round-robin tag l4ip")
    sys.exit(print("configuration OK", file=sys.stderr))
pidfile = Path(options.pidfile or re.search(r"""^pidfile: *["']?([^"' ]+)""", text, re.M)[1].strip())
diary = options.config.with_name("diary")

def note(word):
    with diary.open("a") as out:
        print(word, file=out)

def hang_up(*_):
    note("reload")

def stop(*_):
    pidfile.unlink()
    note("stop")
    os._exit(0)

signal.signal(signal.SIGHUP, hang_up)
signal.signal(signal.SIGTERM, stop)
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for descriptor in range(3):
    os.dup2(null, descriptor)
pidfile.with_name("temporary").write_text(f"{os.getpid()}\\n")
note(f"start {os.getpid()} {' '.join(sys.argv[1:])}")
os.rename(pidfile.with_name("temporary"), pidfile)
for _ in range(1200):
    time.sleep(0.1)
'''

#: the first lines that pip writes: usual; by hand; where the path of the interpreter is too long or has odd characters
HEADS = {
    "path": f"#!{sys.executable}\n",
    "options": f"#! {sys.executable} -sE\n",
    "env": f"#!/usr/bin/env {Path(sys.executable).name}\n",
    "shell": f"#!/bin/sh\n'''exec' {sys.executable} \"$0\" \"$@\"\n' '''\n",
}


class Service:
    """A gateway's /etc and /usr/local in a directory of its own."""

    def __init__(self, directory: Path, shell: list[str], head: str) -> None:
        self.directory, self.shell = directory, shell
        self.config, self.pidfile = directory / "l4ip.conf", directory / "l4ip.pid"
        self.program, self.script, self.settings = directory / "l4ipd", directory / "l4ip", directory / "rc.conf"
        self.diary = directory / "diary"
        self.program.write_text(HEADS.get(head, "") + DAEMON)
        if head == "isolated":                      # as it is installed, but for what it runs in the end
            shutil.copy(ROOT / "bin/l4ipd", self.program)
            (directory / "l4ip-python").write_text(f"#!{sys.executable}\nimport sys\ndel sys.argv[0]\n" + DAEMON)
        self.program.chmod(0o755)
        self.script.write_text(SCRIPT.read_text().replace("/etc/rc.subr", str(ROOT / "tests/rc.subr")))
        self.config.write_text(f"pidfile: {self.pidfile}\n")
        self.settings.write_text(f"l4ip_enable=YES\nl4ip_config={self.config}\nl4ip_program={self.program}\n")

    def __call__(self, command: str) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of ``service l4ip COMMAND``."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run([*self.shell, str(self.script), command], capture_output=True, text=True, timeout=30,
                              stdin=subprocess.DEVNULL, cwd="/",
                              env={"PATH": path, "RC_CONF": str(self.settings)})
        return done.returncode, done.stdout, done.stderr

    def start(self, pidfile: Path | None = None) -> int:
        """Start, wait for the pid file as that of DAEMON is written after its parent is gone, and return the pid."""
        assert self("start") == (0, "Starting l4ip.\n", "")
        file = pidfile or self.pidfile
        wait(lambda: file.exists() and file.read_text().endswith("\n"))
        return int(file.read_text())

    def notes(self) -> list[str]:
        return self.diary.read_text().splitlines() if self.diary.exists() else []

    def kill(self) -> None:
        """End what a failed test left."""
        for note in self.notes():
            if note.startswith("start "):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(note.split()[1]), signal.SIGKILL)


def wait(condition: object) -> None:
    for _ in range(1000):
        if condition():                                                   # type: ignore[operator]
            return
        time.sleep(0.01)
    raise AssertionError("nothing happened for 10 seconds")


@pytest.fixture
def service(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    shell, head = getattr(request, "param", (SHELLS[0], "path"))
    it = Service(tmp_path, shell, head)
    yield it
    it.kill()


def alive(pid: int) -> bool:
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return done.stdout.strip() != "" and not done.stdout.startswith("Z")


@pytest.mark.parametrize("service", [(shell, head) for shell in SHELLS for head in (*HEADS, "isolated")], indirect=True,
                         ids=[f"{shell[0]}-{head}" for shell in SHELLS for head in (*HEADS, "isolated")])
def test_life(service: Service) -> None:
    assert service("status") == (1, "l4ip is not running.\n", "")
    pid = service.start()
    assert service("status") == (0, f"l4ip is running as pid {pid}.\n", "")
    assert service("start") == (1, "", f"l4ip already running? (pid={pid}).\n")
    assert service("reload") == (0, "", "configuration OK\n")
    wait(lambda: "reload" in service.notes())
    assert service("stop") == (0, "Stopping l4ip.\n", "")
    assert not alive(pid)
    assert service.notes() == [f"start {pid} -c {service.config}", "reload", "stop"]
    assert service("status") == (1, "l4ip is not running.\n", "")
    assert service("stop")[0] == 1
    assert service("reload")[0] == 1


def test_restart_is_another_process(service: Service) -> None:
    pid = service.start()
    assert service("restart") == (0, "Stopping l4ip.\nStarting l4ip.\n", "configuration OK\n")
    wait(service.pidfile.exists)
    assert int(service.pidfile.read_text()) != pid


def test_a_bad_configuration_is_refused_and_the_daemon_goes_on(service: Service) -> None:
    pid = service.start()
    service.config.write_text(f"mistake: yes\npidfile: {service.pidfile}\n")
    for command in ("configtest", "reload", "restart"):
        assert service(command) == (1, "", "l4ip.conf:1: mistake: unknown key\n")
    assert service("status") == (0, f"l4ip is running as pid {pid}.\n", "")
    assert service.notes() == [f"start {pid} -c {service.config}"]


def test_configtest_prints_no_rules_and_needs_no_daemon(service: Service) -> None:
    assert service("configtest") == (0, "", "configuration OK\n")


def test_a_configuration_that_is_not_there(service: Service) -> None:
    service.config.unlink()
    status, _, complaint = service("start")
    assert status == 1
    assert f"{service.config} is not readable." in complaint


@pytest.mark.parametrize("service", [(SHELLS[0], "path"), (SHELLS[0], "isolated")], indirect=True,
                         ids=["path", "isolated"])
def test_a_pid_file_that_names_another_process(service: Service) -> None:
    """Of the same interpreter."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as other:
        service.pidfile.write_text(f"{other.pid}\n")
        assert service("status")[0] == 1
        assert service("stop")[0] == 1
        assert service("reload")[0] == 1
        assert other.poll() is None
        other.kill()


def test_the_stand_in_sees_a_wrong_interpreter(service: Service) -> None:
    """Without the script's own search for the interpreter the daemon would be lost: this is what the others rely on."""
    service.start()
    service.script.write_text(service.script.read_text().replace(
        "\nl4ip_find_interpreter\n", "\ncommand_interpreter=/usr/local/bin/python3\n"))
    assert "$command_interpreter /usr/local/bin/python3 != " in service("status")[2]
    service.script.write_text(service.script.read_text().replace("command_interpreter=/usr/local/bin/python3", ""))
    assert service("status")[0] == 1


@pytest.mark.parametrize("line", ["pidfile: {}", "pidfile:   '{}'", 'pidfile: "{}"   # here', "pidfile:\t{} # there"])
def test_the_pid_file_of_the_configuration(service: Service, line: str) -> None:
    pidfile = service.directory / "other.pid"
    service.config.write_text(f"# pidfile: /nowhere/1.pid\nhttp: no\n{line.format(pidfile)}\n"
                              "clusters:\n  a:\n    pidfile: /nowhere/2.pid\n")
    service.script.write_text(service.script.read_text().replace(
        "\nrun_rc_command", '\necho "$pidfile" >&2\nrun_rc_command'))
    assert service("status") == (1, "l4ip is not running.\n", f"{pidfile}\n")


def test_the_pid_file_by_default(service: Service) -> None:
    service.config.write_text("http: no\n")
    service.script.write_text(service.script.read_text().replace(
        "\nrun_rc_command", '\necho "$pidfile $command_args" >&2\nexit; run_rc_command'))
    assert service("status")[2] == f"/var/run/l4ip.pid -c {service.config}\n"


def test_pid_file_and_flags_of_rc_conf(service: Service) -> None:
    pidfile = service.directory / "mine.pid"
    with service.settings.open("a") as out:
        out.write(f"l4ip_pidfile={pidfile}\nl4ip_flags='-v -v'\n")
    pid = service.start(pidfile)
    assert service("status") == (0, f"l4ip is running as pid {pid}.\n", "")
    assert service.notes() == [f"start {pid} -v -v -c {service.config} -p {pidfile}"]
    assert service("stop")[0] == 0


def test_disabled_until_somebody_enables_it(service: Service) -> None:
    service.settings.write_text(service.settings.read_text().replace("l4ip_enable=YES\n", ""))
    assert "Set l4ip_enable to YES" in service("start")[1]
    assert service.notes() == []
    assert service("onestart")[0] == 0
    wait(service.pidfile.exists)
    assert service("status")[0] == 0
    assert service("stop")[0] == 0


def test_the_real_daemon(service: Service) -> None:
    """The same with l4ipd itself, in the sandbox."""
    service.program.write_text(f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
                               "from l4ipd.main import main\nif __name__ == '__main__':\n    sys.exit(main())\n")
    service.config.write_text(f"pidfile: {service.pidfile}\nipfilter: {{interface: lo0}}\nclusters:\n  a:\n"
                              "    address: 127.0.0.1\n    services: {b: {port: 47, member_port: 48}}\n"
                              "    members: {c: 127.0.0.2}\n")
    with service.settings.open("a") as out:
        out.write("l4ip_flags=--sandbox\n")
    for _ in range(4):
        assert service("start") == (0, "Starting l4ip.\n", "")
        assert service("status")[0] == 0, "at once"
        assert service("stop")[0] == 0
    pid = service.start()
    service.diary.write_text(f"start {pid}\n")
    assert service("status") == (0, f"l4ip is running as pid {pid}.\n", "")
    status, said, words = service("reload")
    assert (status, said, words.splitlines()[-1:]) == (0, "", ["configuration OK"])
    good = service.config.read_text()
    service.config.write_text("mistake: yes\n" + good)
    assert service("reload")[0] == service("restart")[0] == 1
    service.config.write_text(good)
    assert service("status") == (0, f"l4ip is running as pid {pid}.\n", "")
    assert service("stop") == (0, "Stopping l4ip.\n", "")
    assert not alive(pid)
    assert not service.pidfile.exists()


# -- the examples of notify programs

def notify(program: str, directory: Path, event: str, up: int, **more: str) -> tuple[int, str]:
    """Run an example as l4ipd would, with stand-ins for what it calls. Returns its status and what they were told."""
    told = directory / "told"
    for tool, does in (("mail", f'{{ echo mail "$@"; cat; }} >> {told}'), ("sysctl", f'echo sysctl "$@" >> {told}'),
                       ("hostname", "echo gw1")):
        stand_in = directory / tool
        stand_in.write_text(f"#!/bin/sh\n{does}\n")
        stand_in.chmod(0o755)
    told.write_text("")
    environment = {"PATH": f"{directory}:{os.environ['PATH']}", "SYSCTL": str(directory / "sysctl"),
                   "MARKERS": str(directory / "markers"), "L4IP_EVENT": event, "L4IP_NAME": "www/http/web1",
                   "L4IP_CLUSTER": "www", "L4IP_SERVICE": "http", "L4IP_UP": str(up), "L4IP_TOTAL": "2", **more}
    done = subprocess.run(["sh", str(ROOT / "etc" / program), "admin@example.com", "second@example.com", event,
                           "www/http/web1", "the line of the log"], env=environment, stdin=subprocess.DEVNULL)
    return done.returncode, told.read_text()


def test_the_carp_example_demotes_once_and_takes_it_back_once(tmp_path: Path) -> None:
    story = [("down", "www", ""), ("unready", "www", "240"), ("unready", "www", ""), ("all-down", "www", ""),
             ("unready", "mail", "240"), ("ready", "www", "-240"), ("ready", "www", ""), ("repaired", "", ""),
             ("ready", "mail", "-240"), ("unready", "www", "240")]
    for event, cluster, written in story:
        expected = f"sysctl net.inet.carp.demotion={written}\n" if written else ""
        assert notify("notify-carp.sample", tmp_path, event, 0, L4IP_CLUSTER=cluster) == (0, expected), (event, cluster)


def test_a_sysctl_that_fails_is_tried_again_with_the_next_event(tmp_path: Path) -> None:
    assert notify("notify-carp.sample", tmp_path, "unready", 0, SYSCTL="/bin/false")[0] == 1
    assert "=240" in notify("notify-carp.sample", tmp_path, "unready", 0)[1]
    assert notify("notify-carp.sample", tmp_path, "ready", 2, SYSCTL="/bin/false")[0] == 1
    assert "=-240" in notify("notify-carp.sample", tmp_path, "ready", 2, DEMOTE="100")[1], "what was added goes"


def test_the_carp_example_gives_back_what_no_cluster_has_any_more(tmp_path: Path) -> None:
    ctl = tmp_path / "l4ipctl"
    ctl.write_text('#!/bin/sh\ncase "$*" in "ready www") exit 1 ;; "ready gone") exit 2 ;; esac\nexit 3\n')
    ctl.chmod(0o755)
    for cluster in ("www", "gone"):
        notify("notify-carp.sample", tmp_path, "unready", 0, L4IP_CLUSTER=cluster)
    for expected in ("sysctl net.inet.carp.demotion=-240\n", ""):
        assert notify("notify-carp.sample", tmp_path, "reloaded", 0, L4IP_CLUSTER="", L4IPCTL=str(ctl)) == (0, expected)
    assert [path.name for path in (tmp_path / "markers").iterdir()] == ["www"]


def test_a_stop_undoes_the_demotion_if_that_is_wanted(service: Service, tmp_path: Path) -> None:
    for more in ("", f'l4ip_poststop="sh {ROOT}/etc/notify-carp.sample stop"\n'):
        with service.settings.open("a") as out:
            out.write(f"export SYSCTL={tmp_path}/sysctl MARKERS={tmp_path}/markers\n{more}")
        notify("notify-carp.sample", tmp_path, "unready", 0)
        service.start()
        assert service("stop")[0] == 0
        assert (tmp_path / "told").read_text().splitlines()[-1:] == (
            ["sysctl net.inet.carp.demotion=-240"] if more else ["sysctl net.inet.carp.demotion=240"])
        if more:
            assert not list((tmp_path / "markers").iterdir())
        else:
            notify("notify-carp.sample", tmp_path, "ready", 2)


@pytest.mark.parametrize("event, up, mailed", [
    ("down", 1, True), ("all-down", 0, True), ("up", 1, True), ("up", 2, True), ("reload-failed", 0, True),
    ("disabled", 1, False), ("enabled", 1, False)])
def test_the_mail_example(tmp_path: Path, event: str, up: int, mailed: bool) -> None:
    status, told = notify("notify-mail.sample", tmp_path, event, up)
    assert status == 0
    head = f"mail -s l4ip on gw1: www/http/web1 {event} admin@example.com second@example.com\n"
    assert told.startswith(head) == mailed
    assert ("the line of the log\n" in told) == mailed


# -- form

def test_head_for_rcorder() -> None:
    """rcorder(8) stops reading at the first line that is none of its own after one that was."""
    lines = SCRIPT.read_text().splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("# PROVIDE:"))
    assert lines[first] == "# PROVIDE: l4ip"
    assert {"ipfilter", "ipnat", "NETWORKING"} <= set(lines[first + 1].removeprefix("# REQUIRE:").split())
    assert lines[first + 2] == "# KEYWORD: shutdown"


def test_is_executable() -> None:
    assert stat.S_IMODE(SCRIPT.stat().st_mode) & 0o111 == 0o111


@pytest.mark.parametrize("file", ["rc.d/l4ip", "bin/l4ipd", "bin/l4ipctl", "etc/notify-mail.sample",
                                  "etc/notify-carp.sample", ".ci/run"])
def test_shellcheck(file: str) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, str(ROOT / file)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")
