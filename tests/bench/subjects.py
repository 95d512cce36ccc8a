"""What is compared: how each balancer is configured for N members, started, and which of its processes counts.

All of them: interval 1 s, fall 3, rise 2, everything else as it comes. Nothing else is asked of them: no traffic, no
statistics socket.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PYTHON = sys.executable                             # of l4ipd
CLUSTER = 100                                       # members of a cluster
STUB = Path(__file__).resolve().parent / "ipvs_stub.c"


@dataclass(frozen=True)
class Task:
    """One thing to be done by each of them."""

    mode: str                                       # tcp | http
    members: list[str]                              # addresses
    port: int
    directory: Path

    def clusters(self) -> Iterator[tuple[int, list[str]]]:
        for number in range(0, len(self.members), CLUSTER):
            yield number // CLUSTER, self.members[number:number + CLUSTER]


# -- l4ipd

def l4ipd(task: Task) -> list[str]:
    """On a sandbox kernel of its own (a process that does not count), with rules for addresses in 127.200/16."""
    clusters = []
    for number, members in task.clusters():
        lines = "".join(f"      m{place}: {address}\n" for place, address in enumerate(members))
        clusters.append(f"  c{number}:\n    address: 127.200.{number // 250}.{number % 250 + 1}\n    services:\n"
                        f"      s: {{port: 80, member_port: {task.port}, check: {task.mode}}}\n    members:\n{lines}")
    path = task.directory / "l4ip.conf"
    path.write_text("ipfilter: {interface: lo0}\n"
                    "defaults: {interval: 1s, timeout: 900ms, rise: 2, fall: 3}\nclusters:\n" + "".join(clusters))
    return [PYTHON, "-m", "l4ipd", "-d", "--sandbox", "-c", str(path)]


# -- HAProxy

def haproxy(task: Task) -> list[str]:
    """One thread, in the foreground. It wants one listener: a socket in the directory that nobody connects to."""
    check = "  mode http\n  option httpchk GET /\n" if task.mode == "http" else "  mode tcp\n"
    text = ("global\n  nbthread 1\n  maxconn 1000\n"
            "defaults\n  timeout connect 900ms\n  timeout check 900ms\n  timeout client 10s\n  timeout server 10s\n"
            f"{check}  default-server check inter 1s fall 3 rise 2\n"
            f"frontend none\n  bind unix@{task.directory}/none.sock\n  default_backend c0\n")
    for number, members in task.clusters():
        text += f"backend c{number}\n"
        text += "".join(f"  server m{place} {address}:{task.port}\n" for place, address in enumerate(members))
    path = task.directory / "haproxy.cfg"
    path.write_text(text)
    return ["haproxy", "-db", "-f", str(path)]


# -- keepalived

def keepalived(task: Task) -> list[str]:
    """Only its checker (-C)."""
    check = ("HTTP_GET { url { path / status_code 200 } connect_timeout 0.9 }" if task.mode == "http" else
             "TCP_CHECK { connect_timeout 0.9 }")
    text = "global_defs {\n}\n"
    for number, members in task.clusters():
        text += (f"virtual_server 127.200.{number // 250}.{number % 250 + 1} 80 {{\n  delay_loop 1\n  retry 2\n"
                 "  delay_before_retry 1\n  lb_algo rr\n  lb_kind NAT\n  protocol TCP\n")
        text += "".join(f"  real_server {address} {task.port} {{ {check} }}\n" for address in members) + "}\n"
    path = task.directory / "keepalived.conf"
    path.write_text(text)
    command = ["keepalived", "-C", "-n", "-l", "-f", str(path), "-p", f"{task.directory}/keepalived.pid",
               "-c", f"{task.directory}/checkers.pid"]
    return command if has_ipvs() else ["env", f"LD_PRELOAD={stub(task.directory)}", *command]


def has_ipvs() -> bool:
    return os.path.exists("/proc/net/ip_vs")


def stub(directory: Path) -> Path:
    """The stand-in for IPVS, compiled."""
    library = directory / "ipvs_stub.so"
    if not library.exists():
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(STUB), "-ldl"], check=True)
    return library


SUBJECTS: dict[str, Callable[[Task], list[str]]] = {"haproxy": haproxy, "l4ipd": l4ipd, "keepalived": keepalived}


def absent(name: str) -> str:
    """Why it cannot be measured here, or nothing."""
    if name == "l4ipd":
        return ""
    if shutil.which(name) is None:
        return "not installed"
    if name == "keepalived" and not has_ipvs() and shutil.which("cc") is None:
        return "this kernel has no IPVS, and no compiler is here to make the stand-in for it"
    return ""


def version(name: str) -> str:
    """What it says of itself, in a line."""
    note = ""
    if name == "l4ipd":
        words = [PYTHON, "-c", "import sys, l4ipd; print('l4ipd', l4ipd.__version__, 'on Python', sys.version)"]
    else:
        words = [name, "-v"]
        note = "; IPVS by a stand-in" if name == "keepalived" and not has_ipvs() else ""
    said = subprocess.run(words, capture_output=True, text=True, env=environment())
    return (said.stdout + said.stderr).strip().splitlines()[0] + note


def environment() -> dict[str, str]:
    """Ours, with this work tree to import from."""
    return {**os.environ, "PYTHONPATH": ":".join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))}


# -- processes

class Running:
    """One of them at work on a task, on some of the processors."""

    def __init__(self, name: str, task: Task, processors: set[int], nice: int) -> None:
        self.name = name
        command = SUBJECTS[name](task)
        self.log = task.directory / f"{name}.log"
        where = ["taskset", "-c", ",".join(map(str, sorted(processors))), "nice", "-n", str(nice)]
        with self.log.open("wb") as log:
            self.began = time.time()
            self.process = subprocess.Popen([*where, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            cwd=task.directory, env=environment())

    @property
    def pid(self) -> int:
        """The process that makes the probes."""
        if self.name != "keepalived":
            return self.process.pid
        return next(iter(children(self.process.pid)), self.process.pid)

    def move_helpers(self, processors: set[int]) -> None:
        """Put what is not the prober (the sandbox's process) elsewhere. What it starts later, it starts beside it."""
        if self.name == "l4ipd":
            for child in children(self.process.pid):
                with contextlib.suppress(ProcessLookupError):       # an ipnat that is through
                    os.sched_setaffinity(child, processors)

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(word) for word in file.read().split()]


def seconds_of_cpu(pid: int) -> float:
    """User and system time of all threads of a process, to the nanosecond (clock_getcpuclockid(3)); no children."""
    return time.clock_gettime(~pid << 3 | 2)


def memory(pid: int) -> tuple[float, float]:
    """RSS and PSS in MB (2**20 bytes)."""
    with open(f"/proc/{pid}/smaps_rollup") as file:
        sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in file if line.startswith(("Rss:", "Pss:"))}
    return sizes["Rss"], sizes["Pss"]
