"""tests/freebsd without a FreeBSD: its scripts are read by several shells, its servers and clients are real, and the
whole scenario runs twice: in the sandbox, and on the jails' back end with network namespaces of Linux as the jails (see
vnet_on_linux). And nothing is left when it is interrupted, wherever it is then.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from support import ROOT, vnet_on_linux
from support.gateway import wait

HOME = ROOT / "tests/freebsd"
SCRIPTS = ["run", "tap.sh", "hands.sh", "steps.sh", "jails.sh", "sandbox.sh"]
SHELLS = [words for words in (["sh"], ["dash"], ["bash", "--posix"], ["busybox", "sh"], ["mksh"])
          if shutil.which(words[0])]
PROGRAMS = Path(sys.executable).parent
LONG = 400.0                                        # seconds until a run has to be over

#: as FreeBSD's rc.d/ipnat is: what it does at a reload
RC_IPNAT = '''#!/bin/sh
. /etc/rc.subr

name="ipnat"
rcvar="ipnat_enable"
load_rc_config $name
reload_cmd="${ipnat_program} -F -C -f ${ipnat_rules}"
extra_commands="reload"

run_rc_command "$1"
'''


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck(script: str) -> None:
    shellcheck = shutil.which("shellcheck", path=f"{PROGRAMS}:{os.environ['PATH']}")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([shellcheck, str(HOME / script)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("shell", SHELLS, ids=lambda shell: shell[0])
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_shell_can_read_it(shell: list[str], script: str) -> None:
    done = subprocess.run([*shell, "-n", str(HOME / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_readme_is_one_screen_and_names_every_file() -> None:
    text = (HOME / "README").read_text()
    assert len(text.splitlines()) <= 45
    assert max(map(len, text.splitlines())) <= 120
    for path in HOME.iterdir():
        assert path.name in text or path.name in ("README", "__pycache__")


# -- members and clients

@dataclass
class Member:
    """A member's service on loopback."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def start(name: str, port: int) -> Member:
    process = subprocess.Popen([sys.executable, str(HOME / "member.py"), name, f"127.0.0.1,{port}"])
    wait("the member listens", lambda: listens(port))
    return Member(name, port, process)


@pytest.fixture
def member() -> Iterator[Member]:
    port = int(clients("ports", "1").stdout)
    running = start("m1", port)
    yield running
    running.kill()


def clients(*words: object, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(HOME / "clients.py"), *map(str, words)], capture_output=True, text=True,
                          timeout=LONG, stdin=subprocess.DEVNULL)


def outcomes(*words: object) -> list[str]:
    done = clients("burst", *words)
    assert done.returncode == 0, done.stderr
    return [line.split(" ")[1] for line in done.stdout.splitlines()]


def test_a_member_tells_its_name_and_echoes(member: Member) -> None:
    with socket.create_connection(("127.0.0.1", member.port), 10) as client:
        file = client.makefile("rwb", buffering=0)
        assert file.readline() == b"m1\n"
        client.sendall(b"hello\n")
        assert file.readline() == b"hello\n"


def test_a_member_outlives_those_who_leave_with_a_reset(member: Member) -> None:
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", member.port), 10) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert outcomes("127.0.0.1", member.port, "--count", 3) == ["m1"] * 3


def test_the_service_dies_and_its_sessions_do_not(member: Member) -> None:
    """This is what the scenario rests on: who ends a session after a kill is the gateway."""
    with socket.create_connection(("127.0.0.1", member.port), 10) as client:
        file = client.makefile("rwb", buffering=0)
        file.readline()
        member.kill()
        assert outcomes("127.0.0.1", member.port, "--count", 2) == ["refused"] * 2
        client.sendall(b"hello\n")
        assert file.readline() == b"hello\n"
        again = start("m1", member.port)
        try:
            assert outcomes("127.0.0.1", member.port, "--count", 1) == ["m1"]
        finally:
            again.kill()


def test_clients_tell_what_happened(tmp_path: Path) -> None:
    """Refused; reset before a word was said, as a user-space relay refuses; left without a word; and nothing at all."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as silent:
        port, nothing = server.getsockname()[1], silent.getsockname()[1]
        command = [sys.executable, str(HOME / "clients.py"), "burst", "127.0.0.1", str(port), "--count", "2"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            for reset in (True, False):
                session, _ = server.accept()
                if reset:
                    session.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                session.close()
            assert client.stdout is not None
            assert [line.split()[1] for line in client.stdout] == ["refused", "closed"]
        assert outcomes("127.0.0.1", nothing, "--count", 1) == ["silent"]
    assert outcomes("127.0.0.1", port, "--count", 1) == ["refused"]


def test_clients_come_until_a_file_is_there_and_from_where_they_are_told(member: Member, tmp_path: Path) -> None:
    command = [sys.executable, str(HOME / "clients.py"), "burst", "127.0.0.1", str(member.port), "127.0.0.1",
               "--until", str(tmp_path / "end")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        first = [client.stdout.readline() for _ in range(3)]
        (tmp_path / "end").touch()
        rest = client.stdout.readlines()
    assert client.returncode == 0
    assert all(re.fullmatch(r"\d+\.\d{3} m1\n", line) for line in first + rest)


def test_sessions_that_are_held(member: Member, tmp_path: Path) -> None:
    command = [sys.executable, str(HOME / "clients.py"), "hold", "127.0.0.1", str(member.port), "2",
               str(tmp_path / "end")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        assert [client.stdout.readline() for _ in range(2)] == ["m1\n"] * 2
        (tmp_path / "end").touch()
        assert client.stdout.readlines() == ["m1 alive\n"] * 2


def test_held_sessions_that_were_ended(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, str(HOME / "clients.py"), "hold", "127.0.0.1", str(server.getsockname()[1]), "1",
                   str(tmp_path / "end")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as client:
            session, _ = server.accept()
            session.sendall(b"m1\n")
            assert client.stdout is not None
            assert client.stdout.readline() == "m1\n"
            session.close()
            (tmp_path / "end").touch()
            assert client.stdout.readlines() == ["m1 ended\n"]


def test_watch_waits_for_lines(tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_text("rdr a\nrdr b\n  rdr c\n")
    before = time.monotonic()
    done = clients("watch", 2, "^rdr ", "cat", file)
    took, clock = map(float, done.stdout.split())
    assert (done.returncode, before <= clock <= time.monotonic(), took >= 0) == (0, True, True)
    with subprocess.Popen([sys.executable, str(HOME / "clients.py"), "watch", "0", "^rdr ", "cat", str(file)],
                          stdout=subprocess.PIPE, text=True) as watcher:
        time.sleep(0.2)
        assert watcher.poll() is None
        file.write_text("")
        assert watcher.wait(LONG) == 0


def test_watch_believes_no_command_that_fails(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n[ -e {tmp_path}/twice ] && exit 0\ntouch {tmp_path}/twice\nexit 1\n")
    program.chmod(0o755)
    assert clients("watch", 0, "^rdr ", program).returncode == 0
    assert (tmp_path / "twice").exists()


def test_ports_are_different_and_free() -> None:
    found = [int(word) for word in clients("ports", "8").stdout.split()]
    assert len(set(found)) == 8
    for port in found:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


# -- runs

@dataclass(frozen=True)
class Tap:
    """What a run has said."""

    status: int
    text: str

    @property
    def failed(self) -> list[str]:
        return re.findall(r"(?m)^not ok .*|^Bail out!.*", self.text)

    @property
    def skipped(self) -> dict[str, str]:
        """Text and reason."""
        return dict(re.findall(r"(?m)^ok \d+ - (.*?) # SKIP (.*)$", self.text))

    @property
    def is_complete(self) -> bool:
        """Every test of the plan, in order, and nothing that is no TAP."""
        lines = self.text.splitlines()
        plan = re.fullmatch(r"1\.\.(\d+)", lines[0])
        numbers = [int(number) for number in re.findall(r"(?m)^(?:not )?ok (\d+) - ", self.text)]
        return (plan is not None and numbers == list(range(1, int(plan[1]) + 1))
                and all(re.match(r"ok \d+ - |# |#$", line) for line in lines[1:]))


class Lab:
    """Runs of the script, with a directory of their own for what they leave."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory, self.options = directory, options
        self.temporary = directory / "tmp"
        self.temporary.mkdir(parents=True)
        self.said = directory / "tap"
        self.settings = {"PATH": f"{PROGRAMS}:{os.environ['PATH']}", "TMPDIR": str(self.temporary),
                         "PYTHON": sys.executable, "L4IPD": str(PROGRAMS / "l4ipd"),
                         "L4IPCTL": str(PROGRAMS / "l4ipctl")}

    def command(self) -> list[str]:
        return [str(HOME / "run"), *self.options]

    def start(self) -> subprocess.Popen[bytes]:
        with self.said.open("wb") as out:
            return subprocess.Popen(self.command(), stdout=out, stdin=subprocess.DEVNULL,
                                    env={**os.environ, **self.settings}, start_new_session=True,
                                    preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))    # not nohup's

    def finish(self, process: subprocess.Popen[bytes]) -> Tap:
        return Tap(process.wait(LONG), self.said.read_text())

    def left(self, process: subprocess.Popen[bytes]) -> list[str]:
        """Files and processes that outlived the run."""
        return [str(path) for path in self.temporary.iterdir()] + [
            f"{pid} {words}" for pid, session, words in processes()
            if session == process.pid or str(self.temporary) in words]

    def complaints(self) -> str:
        """What would have been wrong on FreeBSD."""
        return ""

    def close(self) -> None:
        """It is not needed any more."""


class Namespaces(Lab):
    """The back end of the jails, in network namespaces; the machine itself is one, too."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        tools = vnet_on_linux.make_tools(directory)
        self.machine = subprocess.Popen(["unshare", "-n", "sleep", str(2 * LONG)], stdin=subprocess.DEVNULL)
        wait("a namespace", lambda: os.readlink(f"/proc/{self.machine.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        (directory / "ipnat").write_text(RC_IPNAT)
        (directory / "rc.conf").write_text(f"PATH={tools}:$PATH\nipnat_program={tools}/ipnat\n")
        self.settings |= {"PATH": f"{tools}:{self.settings['PATH']}", "RC_SUBR": str(ROOT / "tests/rc.subr"),
                          "RC_IPNAT": str(directory / "ipnat"), "RC_DEFAULTS": str(directory / "rc.conf")}

    def command(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.machine.pid}/ns/net", *super().command()]

    def left(self, process: subprocess.Popen[bytes]) -> list[str]:
        interfaces = subprocess.run(["nsenter", f"--net=/proc/{self.machine.pid}/ns/net", "ip", "-o", "link"],
                                    capture_output=True, text=True, check=True).stdout
        jails = self.directory / "jails"
        return super().left(process) + re.findall(r"(?:l4t|epair)\w+", interfaces) + (
            jails.read_text().split() if jails.exists() else [])

    def complaints(self) -> str:
        file = self.directory / "complaints"
        return file.read_text() if file.exists() else ""

    def close(self) -> None:
        self.machine.kill()
        self.machine.wait()


def processes() -> Iterator[tuple[int, int, str]]:
    """Process, session and words of whatever lives here."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, session = (path / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                yield int(path.name), int(session), (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()


def why_no_namespaces() -> str:
    if sys.platform != "linux" or os.geteuid() != 0:
        return "network namespaces are made by root on Linux only"
    for tool in ("ip", "nsenter", "unshare"):
        if shutil.which(tool) is None:
            return f"there is no {tool} here"
    name = f"l4t{os.getpid()}try"
    done = subprocess.run(["ip", "netns", "add", name], capture_output=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return "" if done.returncode == 0 else "network namespaces cannot be made here"


NO_NAMESPACES = why_no_namespaces()
Runs = dict[str, tuple[Lab, subprocess.Popen[bytes]]]


def skip_without(name: str) -> None:
    if not (PROGRAMS / "l4ipd").exists():
        pytest.skip("there is no l4ipd beside this Python")
    if name == "jails" and NO_NAMESPACES:
        pytest.skip(NO_NAMESPACES)


@contextlib.contextmanager
def lab_of(name: str, directory: Path) -> Iterator[Lab]:
    skip_without(name)
    lab = Namespaces(directory) if name == "jails" else Lab(directory, "-s")
    try:
        yield lab
    finally:
        lab.close()


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Both scenarios, begun before anybody asks: most of it is waiting."""
    with contextlib.ExitStack() as stack:
        running: Runs = {}
        for name in ("sandbox", "jails") if (PROGRAMS / "l4ipd").exists() else ():
            if name == "sandbox" or not NO_NAMESPACES:
                lab = stack.enter_context(lab_of(name, tmp_path_factory.mktemp(name)))
                running[name] = lab, lab.start()
                stack.callback(end, running[name][1])
        yield running


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        process.wait(LONG)


@pytest.mark.parametrize("words", [["-x"], ["-s", "extra"]])
def test_usage(words: Sequence[str]) -> None:
    done = subprocess.run([str(HOME / "run"), *words], capture_output=True, text=True)
    assert done.returncode == 2
    assert "usage: run [-ks]" in done.stderr


@pytest.mark.parametrize("tool, says, remedy", [
    ("uname", "echo Linux", "this is no FreeBSD; run -s plays the same in the sandbox"),
    ("uname", "case $1 in -r) echo 12.4-RELEASE ;; *) echo FreeBSD ;; esac", "FreeBSD 13 or later is needed"),
    ("sysctl", "exit 1", "this kernel has no VIMAGE"),
    ("kldstat", "exit 1", "IPFilter is not in the kernel: kldload ipl"),
    ("ifconfig", "echo lo bridge", "the kernel knows no epair: kldload if_epair"),
    ("ifconfig", "echo lo epair", "the kernel knows no bridge: kldload if_bridge"),
    ("id", "echo 1001", "jails and network interfaces can be made by root only"),
    ("jail", "exit 1", "jail could not create"),
    ("l4ipd", "echo l4ipd 0.9", "is l4ipd 0.9, this tree l4ipd "),
])
def test_what_is_missing_is_said(tmp_path: Path, tool: str, says: str, remedy: str) -> None:
    with lab_of("jails", tmp_path) as lab:
        (tmp_path / "bin" / tool).write_text(f"#!/bin/sh\n{says}\n")
        (tmp_path / "bin" / tool).chmod(0o755)
        if tool == "l4ipd":
            lab.settings["L4IPD"] = str(tmp_path / "bin/l4ipd")
        process = lab.start()
        tap = lab.finish(process)
        assert tap.status == 1
        last = tap.text.splitlines()[-1]
        assert last.startswith("Bail out! ") and remedy in last
        assert lab.left(process) == []


def test_what_fails_is_explained(tmp_path: Path) -> None:
    """The test is able to fail, says why, and clears up then, too."""
    program = tmp_path / "l4ipd"
    program.write_text(f'#!/bin/sh\n[ "$1" = -V ] && exec {PROGRAMS}/l4ipd -V\necho nothing works today >&2\nexit 1\n')
    program.chmod(0o755)
    lab = Lab(tmp_path / "lab", "-s")
    lab.settings["L4IPD"] = str(program)
    process = lab.start()
    tap = lab.finish(process)
    assert tap.status == 1
    assert "# nothing works today\n" in tap.text
    assert tap.text.splitlines()[-1] == "Bail out! l4ipd does not start"
    wait("all is gone", lambda: not lab.left(process))


#: where, when (what has been said by then), by which signal, and the exit status
MOMENTS = [("jails", "ok 2 ", signal.SIGTERM, 143), ("jails", "ok 6 ", signal.SIGINT, 130),
           ("sandbox", "ok 6 ", signal.SIGHUP, 129)]


@pytest.mark.parametrize("name, moment, signum, status", MOMENTS)
def test_interrupted(labs: Runs, tmp_path: Path, name: str, moment: str, signum: int, status: int) -> None:
    """By ^C, which everybody on the terminal gets, or by a signal to the script alone."""
    with lab_of(name, tmp_path) as lab:
        process = lab.start()
        wait(moment, lambda: moment in lab.said.read_text() or process.poll() is not None, LONG)
        if signum == signal.SIGINT:
            os.killpg(process.pid, signum)
        else:
            process.send_signal(signum)
        tap = lab.finish(process)
        assert tap.status == status, tap.text
        wait(f"all is gone, but {lab.left(process)} after {tap.text}", lambda: not lab.left(process))
        assert lab.complaints() == ""


@pytest.mark.parametrize("moment", ["ifconfig epair create", "ifconfig .* name .*m1a", "jail -c name=.*gw",
                                    "ifconfig bridge create"])
def test_interrupted_while_it_is_set_up(labs: Runs, tmp_path: Path, moment: str) -> None:
    """By that very tool: nobody knows yet what it makes."""
    with lab_of("jails", tmp_path) as lab:
        (tmp_path / "moment").write_text(moment)
        process = lab.start()
        tap = lab.finish(process)
        assert (tap.status, tap.text.splitlines()[-1]) == (143, "Bail out! ended")
        wait(f"all is gone, but {lab.left(process)}", lambda: not lab.left(process))
        assert lab.complaints() == ""


@pytest.mark.parametrize("name", ["sandbox", "jails"])
def test_the_scenario(labs: Runs, name: str) -> None:
    skip_without(name)
    lab, process = labs[name]
    tap = lab.finish(process)
    assert tap.failed == [], tap.text
    assert tap.is_complete, tap.text
    assert tap.status == 0
    assert all(tap.skipped.values())
    cable = {"a member's interface is down: its rules go", "it is up again: they come back"}
    assert {text for text in tap.skipped if not text.startswith(("IPv6", "sticky"))} == (
        set() if name == "jails" else cable)
    wait("all is gone", lambda: not lab.left(process))
    assert lab.complaints() == ""
