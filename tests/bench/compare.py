"""l4ipd beside HAProxy and keepalived: what N probes a second cost each of them on the same machine, in the same run.

    python tests/bench/compare.py [--sizes 100,1000,10000] [--modes tcp,http] [--seconds 10] [--repeat 3] [--only NAME]

As root, on Linux with two processors: what is measured runs on the first, members and witness on the second. Each is
started in turn on N members on loopback, checked every second; what counts begins when every member has been probed
and some seconds have gone by. README in this directory says what each column means.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import median

import farm
import subjects
from subjects import SUBJECTS, Running, Task, absent, memory, seconds_of_cpu, version
from witness import Punctuality, Witness, punctuality

FIRST_PROBES = 60.0                                 # seconds that all the first probes may take
SOMAXCONN = Path("/proc/sys/net/core/somaxconn")
RELOAD = 10.0                                       # seconds watched after a SIGHUP
HEAD = """\
                       |     CPU a probe    |     memory, MB      |  off the second, ms   |        |         |  farm
mode      N            |    us ratio busy % |   PSS ratio     RSS |   p50    p99    worst | missed |  probes | busy %"""
Cell = tuple[str, int, str]                         # mode, members, subject


@dataclass(frozen=True)
class Result:
    """One run of one of them. Times are microseconds (cpu), seconds (first, last) and milliseconds."""

    cpu: float                                      # per probe
    busy: float                                     # of its processor, in percent
    rss: float                                      # MB
    pss: float
    punctuality: Punctuality
    first: float                                    # from exec to the first probe
    last: float                                     # to the probe of the last member
    farm: float                                     # how busy the members' processor was with them, in percent
    reload: Punctuality | None                      # in the seconds after a SIGHUP
    reloaded: bool


class Bench:
    """Members, witness, and a directory for everything."""

    def __init__(self, options: argparse.Namespace, directory: Path) -> None:
        self.options, self.directory = options, directory
        processors = sorted(os.sched_getaffinity(0))
        self.ours, self.theirs = set(processors[-1:]), set(processors[:1])
        listener = farm.open_port()
        self.port: int = listener.getsockname()[1]
        self.farm: BaseProcess = farm.start(listener, self.ours, options.nice)
        os.sched_setaffinity(0, self.ours)
        os.setpriority(os.PRIO_PROCESS, 0, options.nice)
        self.witness = Witness(self.port)

    def run(self, name: str, mode: str, members: int) -> Result:
        """Start it, let it settle, measure, stop it."""
        directory = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.directory))
        task = Task(mode, farm.addresses(members), self.port, directory)
        self.witness.clear()
        running = Running(name, task, self.theirs, self.options.nice)
        try:
            return self._measure(running, members, name == "l4ipd" and members == max(self.options.sizes))
        finally:
            running.stop()

    def _measure(self, running: Running, members: int, reload: bool) -> Result:
        witness, seconds = self.witness, self.options.seconds
        witness.listen(running.began + FIRST_PROBES, members)
        if not running.alive() or not witness.seen:
            raise SystemExit(f"{running.name} does not probe:\n{running.log.read_text()[-2000:]}")
        first, last = min(witness.seen.values()) - running.began, max(witness.seen.values()) - running.began
        if len(witness.seen) < members:
            last = float("inf")
        running.move_helpers(self.ours)
        witness.listen(time.time() + self.options.settle)
        witness.clear()
        pid, farm_pid = running.pid, self.farm.pid or 0
        start, before, farm_before = time.time(), seconds_of_cpu(pid), seconds_of_cpu(farm_pid)
        witness.listen(start + seconds)
        end, after, farm_after = time.time(), seconds_of_cpu(pid), seconds_of_cpu(farm_pid)
        witness.listen(end)
        rss, pss = memory(pid)
        window = punctuality(witness, start, end, members)
        if witness.lost():
            raise SystemExit("the witness was too slow, and has not seen every probe")
        after_reload = self._reload(running, members) if reload else None
        return Result((after - before) / max(1, window.probes) * 1e6, (after - before) / (end - start) * 100, rss, pss,
                      window, first, last, (farm_after - farm_before) / (end - start) * 100, after_reload,
                      b"configuration reloaded" in running.log.read_bytes())

    def _reload(self, running: Running, members: int) -> Punctuality:
        """SIGHUP with an unchanged file: how punctual it is meanwhile."""
        self.witness.clear()
        os.kill(running.pid, signal.SIGHUP)
        start = time.time()
        self.witness.listen(start + RELOAD)
        return punctuality(self.witness, start, start + RELOAD, members)


# -- tables

def table(results: dict[Cell, list[Result]]) -> list[str]:
    """Medians over the repeats; of the worst lateness the worst, of what was missed the sum."""
    lines = [HEAD]
    for (mode, members, name), runs in results.items():
        reference = results.get((mode, members, "haproxy"), [])
        cpu, pss = _median(runs, _cpu), _median(runs, _pss)
        lines.append(
            f"{mode:4} {members:6} {name:10} | {cpu:5.1f} {_ratio(cpu, reference, _cpu)} "
            f"{_median(runs, lambda run: run.busy):6.1f} | {pss:5.1f} {_ratio(pss, reference, _pss)} "
            f"{_median(runs, lambda run: run.rss):7.1f} | {_median(runs, lambda run: run.punctuality.p50):5.1f} "
            f"{_median(runs, lambda run: run.punctuality.p99):6.1f} {max(run.punctuality.worst for run in runs):8.1f} |"
            f" {sum(run.punctuality.missed for run in runs):6} | {sum(run.punctuality.probes for run in runs):7} | "
            f"{_median(runs, lambda run: run.farm):6.1f}")
    return lines


def starts(results: dict[Cell, list[Result]]) -> list[str]:
    """From exec to the first probe of the first and of the last member, and l4ipd's SIGHUP, at the greatest N."""
    most = max(members for _, members, _ in results)
    lines = []
    for (mode, members, name), runs in results.items():
        if members != most:
            continue
        lines.append(f"{mode:4} {members:6} {name:10} first probe after {_median(runs, lambda run: run.first):5.2f} s, "
                     f"every member probed after {_median(runs, lambda run: run.last):5.2f} s")
        hups = [run.reload for run in runs if run.reload is not None]
        if hups:
            lines.append(
                f"{mode:4} {members:6} {name:10} {RELOAD:.0f} s from SIGHUP: longest silence "
                f"{median(hup.silence for hup in hups):.0f} ms (worst {max(hup.silence for hup in hups):.0f}; without: "
                f"{_median(runs, lambda run: run.punctuality.silence):.0f}), off the second p99 "
                f"{median(hup.p99 for hup in hups):.1f}, worst {max(hup.worst for hup in hups):.0f} ms, missed "
                f"{sum(hup.missed for hup in hups)}{'' if all(run.reloaded for run in runs) else '; NOT RELOADED'}")
    return lines


def _cpu(run: Result) -> float:
    return run.cpu


def _pss(run: Result) -> float:
    return run.pss


def _median(runs: Sequence[Result], what: Callable[[Result], float]) -> float:
    return median(what(run) for run in runs)


def _ratio(value: float, reference: Sequence[Result], what: Callable[[Result], float]) -> str:
    return f"{value / _median(reference, what):5.2f}" if reference else "    -"


# -- the whole

def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="l4ipd, HAProxy and keepalived in turn, on the same members")
    add = parser.add_argument
    add("--sizes", type=lambda text: [int(word) for word in text.split(",")], default=[100, 1000, 10000])
    add("--modes", type=lambda text: text.split(","), default=["tcp", "http"])
    add("--seconds", type=float, default=10.0, help="measured, of each run (%(default)s)")
    add("--settle", type=float, default=5.0, help="seconds between start-up and measuring (%(default)s)")
    add("--repeat", type=int, default=1, help="runs of each, in turn; medians are printed (%(default)s)")
    add("--only", type=lambda text: text.split(","), default=list(SUBJECTS), help="some of " + ", ".join(SUBJECTS))
    add("--nice", type=int, default=0, help="of the subject and the members alike, on a machine with other work")
    add("--python", default=sys.executable, help="l4ipd's interpreter (%(default)s)")
    return parser.parse_args()


def prepare(options: argparse.Namespace) -> list[str]:
    """Raise our limits, say what is measured on what; returns who takes part."""
    if not sys.platform.startswith("linux") or len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("this needs Linux and two processors")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(hard, 1 << 16), max(hard, 1 << 16)))
    except (ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if options.nice:
        favour(options.nice)
    taking_part = []
    for name in options.only:
        reason = absent(name)
        print(f"{name}: {'left out: ' + reason if reason else version(name)}")
        if not reason:
            taking_part.append(name)
    print(f"{time.strftime('%Y-%m-%d %H:%M')} {os.uname().sysname} {os.uname().release} {os.uname().machine}; "
          f"load {os.getloadavg()[0]:.1f}; open files {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; "
          f"{options.repeat} runs of {options.seconds:.0f} s; nice {options.nice}; the subject alone on one processor, "
          "members and witness on another", flush=True)
    return taking_part


def favour(nice: int) -> None:
    """Where Linux groups processes by session (sched(7), autogroup), nice counts only within one: be a session."""
    with contextlib.suppress(OSError):
        os.setsid()
        Path("/proc/self/autogroup").write_text(str(nice))


@contextlib.contextmanager
def long_backlog() -> Iterator[None]:
    """Let the members' one listener have as long a queue as all their listeners would have together."""
    before = int(SOMAXCONN.read_text())
    with contextlib.suppress(OSError):
        SOMAXCONN.write_text(str(max(farm.BACKLOG, before)))
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            SOMAXCONN.write_text(str(before))


def main() -> None:
    options = arguments()
    subjects.PYTHON = options.python
    names = prepare(options)
    results: dict[Cell, list[Result]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="l4ip-bench-") as directory, long_backlog():
        try:
            bench = Bench(options, Path(directory))
        except PermissionError:
            raise SystemExit("a packet socket is needed to count probes: run this as root") from None
        for mode in options.modes:
            for members in options.sizes:
                for turn in range(options.repeat):
                    for name in names[turn % len(names):] + names[:turn % len(names)]:
                        result = bench.run(name, mode, members)
                        results[mode, members, name].append(result)
                        print(f"{mode} {members} {name}: {result.cpu:.1f} us", file=sys.stderr, flush=True)
        bench.farm.kill()
    ordered = {(mode, members, name): results[mode, members, name]
               for mode in options.modes for members in options.sizes for name in names}
    print("\n".join([*table(ordered), *starts(ordered)]))


if __name__ == "__main__":
    main()
