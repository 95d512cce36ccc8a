"""/metrics: what Prometheus asks for, read off the daemon at the moment it asks.

Nothing is updated per probe on behalf of Prometheus: monitors count plain numbers, and the families below are made of
them when a scrape comes. With 10,000 endpoints an answer has 80,000 lines, so it is produced in pieces.
"""

from __future__ import annotations

import fcntl
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector, CollectorRegistry

from l4ipd import __version__
from l4ipd.monitor.schedule import BOUNDS, Timing
from l4ipd.report import warnings
from l4ipd.report.history import History
from l4ipd.report.status import Kernel
from l4ipd.resets.reaction import WORDS
from l4ipd.runtime.lateness import BOUNDS as LATENESS_BOUNDS
from l4ipd.runtime.lateness import Lateness

if TYPE_CHECKING:
    from l4ipd.daemon import Daemon
    from l4ipd.ipfilter.reconcile import Reconciler
    from l4ipd.monitor.monitor import Monitor

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SLICE = 200                                         # endpoints a piece
STATES = ("up", "down", "draining", "held")                 # whose beginning is a transition
OWN = ("cluster", "service", "member")              # the labels of an endpoint


class Now:
    """A collector of what is known already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = families

    def collect(self) -> Iterable[Metric]:
        return self.families


def render(daemon: Daemon, history: History, lateness: Lateness, connections: Kernel) -> Iterator[bytes]:
    """The text of a scrape, piece by piece. ``connections`` is what rules have had, where that is known."""
    yield text(whole(daemon, history, lateness))
    yield generate_latest(PROCESS)
    yield from endpoints(daemon, connections)
    yield from certificates(daemon)


def text(families: Iterable[Metric]) -> bytes:
    return generate_latest(Now(families))


# -- the daemon as a whole

def whole(daemon: Daemon, history: History, lateness: Lateness) -> Iterator[Metric]:
    """What does not grow with the number of endpoints."""
    schedule = daemon.fleet.schedule
    yield gauge("l4ip_build_info", "The version of l4ipd; the value is always 1.", ("version",), {(__version__,): 1})
    yield gauge("l4ip_fit", "Whether the daemon knows the kernel's rules and can change them, and sees its members, as "
                "/healthz says.", (), {(): not warnings.unfit(daemon)})
    yield gauge("l4ip_blind", "Whether no member at all has a route, so that no probe counts.", (),
                {(): daemon.fleet.reachability.blind})
    yield gauge("l4ip_cluster_ready", "Whether the addresses of the cluster deserve to be announced by this gateway.",
                ("cluster",), {(name,): each.ready for name, each in daemon.readiness.standings.items()})
    yield gauge("l4ip_endpoints", "Endpoints in the configuration.", (), {(): len(daemon.fleet.monitors)})
    yield counter("l4ip_probes", "Probes that are over, by the code of their verdict.", ("code",),
                  {(code,): count for code, count in schedule.codes.items()})
    yield probe_seconds(schedule.timings)
    yield gauge("l4ip_probes_in_flight", "Probes that are under way.", (), {(): schedule.flying})
    yield counter("l4ip_probes_late", "Probes that had to wait for a free descriptor.", (), {(): schedule.late})
    yield counter("l4ip_probes_skipped", "Probes left out because the one before was not over when they were due.", (),
                  {(): schedule.skipped})
    yield counter("l4ip_transitions", "Changes of an endpoint's state, by the new state.", ("state",),
                  {(state,): history.counts[state] for state in STATES})
    yield counter("l4ip_events", "Events other than transitions, by their kind.", ("kind",),
                  {(kind,): count for kind, count in history.counts.items() if kind not in STATES})
    yield counter("l4ip_internal_errors", "Exceptions that nobody expected; the log has the first of each kind.", (),
                  {(): daemon.loop.errors.total})
    yield from services(daemon)
    yield from resets(daemon)
    yield from tables(daemon)
    yield histogram("l4ip_loop_lateness_seconds", "How late the first timer of a turn of the loop was.", (),
                    LATENESS_BOUNDS, {(): lateness.counts})


def services(daemon: Daemon) -> Iterator[Metric]:
    """Each service as a whole, so that no query has to count."""
    groups = {(cluster.name, service.name): daemon.fleet.groups.get(f"{cluster.name}/{service.name}", ())
              for cluster in daemon.config.clusters for service in cluster.services}
    labels = ("cluster", "service")
    yield gauge("l4ip_service_members", "Members of the service, fallbacks too.", labels,
                {name: len(members) for name, members in groups.items()})
    yield gauge("l4ip_service_up", "Members of the service that get connections, or would, were they no fallbacks.",
                labels, {name: sum(monitor.eligible for monitor in members) for name, members in groups.items()})


def resets(daemon: Daemon) -> Iterator[Metric]:
    """Resets of clients' connections; all zero while sensing is off."""
    sensing, reaction = daemon.sensing, daemon.sensing.reaction
    yield counter("l4ip_resets", "Resets seen, by what became of them: used, or the reason why not.", ("use",),
                  {("used",): reaction.used, **{(why,): reaction.ignored[why] for why in WORDS}})
    yield counter("l4ip_resets_missed", "Records that ipmon says it has missed.", (), {(): sensing.listener.missed})
    if sensing.settings is not None:
        yield gauge("l4ip_resets_sensed", "Whether resets would be seen, as far as we know.", (),
                    {(): sensing.is_alive})


def tables(daemon: Daemon) -> Iterator[Metric]:
    """Rules and the tools that write them: ipnat, and ipf for sensing, whose lists are added up."""
    known: dict[tuple[str, ...], list[Reconciler]] = {}
    for table in warnings.tables(daemon):
        known.setdefault((table.table.name,), []).append(table)

    def each(value: Callable[[Reconciler], int]) -> dict[tuple[str, ...], float]:
        return {name: sum(map(value, tables)) for name, tables in known.items()}

    yield from nat_table(daemon)
    tool = ("tool",)
    yield gauge("l4ip_rules_wanted", "Rules that are wanted in the kernel.", tool,
                each(lambda table: len(table.want)))
    yield gauge("l4ip_rules_loaded", "Rules of ours in the kernel, as far as we know.", tool,
                each(lambda table: len(table.have)))
    yield gauge("l4ip_rules_refused", "Rules that the tool does not load or remove, and that are tried again.", tool,
                each(lambda table: len(table.held)))
    yield gauge("l4ip_rules_known", "Whether the rules in the kernel are known, 0 after any failure.", tool,
                {name: not any(table.stale and not table.pause for table in tables) for name, tables in known.items()})
    yield counter("l4ip_rules_repaired", "Rules of ours that others had removed and that were put back.", tool,
                  each(lambda table: table.repairs))
    yield counter("l4ip_tool_runs", "Runs of a tool, to read rules or to change them.", tool,
                  each(lambda table: table.runs))
    yield counter("l4ip_tool_failures", "Runs of a tool that failed.", tool,
                  each(lambda table: table.faults.runs))


def nat_table(daemon: Daemon) -> Iterator[Metric]:
    """The kernel's table of sessions, of all rules, whoever's they are. What is not known is left out."""
    usage = daemon.nat_usage
    if usage.active is not None:
        yield gauge("l4ip_nat_table_sessions", "Sessions in the kernel's NAT table, whoever's they are.", (),
                    {(): usage.active})
    if usage.limit is not None:
        yield gauge("l4ip_nat_table_limit", "How many there may be.", (), {(): usage.limit})
    if usage.drops is not None:
        yield counter("l4ip_nat_table_drops", "Packets of new connections that the kernel has dropped.", (),
                      {(): usage.drops})


def probe_seconds(timings: dict[str, Timing]) -> Metric:
    return histogram("l4ip_probe_seconds", "How long probes took, by the type of check.", ("check",), BOUNDS,
                     {(kind,): timing.counts() for kind, timing in timings.items()})


# -- endpoints

def endpoints(daemon: Daemon, connections: Kernel) -> Iterator[bytes]:
    """The families of all endpoints. The parts of a family stand together, so each goes over all endpoints."""
    monitors = list(daemon.fleet.monitors.values())
    owner, rules = daemon.steering.owner, daemon.steering.rules
    wanted, loaded = (Counter(owner[line].endpoint.name for line in lines if line in owner)
                      for lines in (rules.want, rules.have))
    had: Counter[str] = Counter()
    for line, count in connections.items():
        if count is not None and line in daemon.steering.owner:
            had[daemon.steering.owner[line].endpoint.name] += count
    now, clock = daemon.loop.now, time.time()
    yield b""
    yield from sessions(daemon)
    yield from family(gauge, "l4ip_endpoint_up", "Whether the probes see the endpoint up.", monitors,
                      lambda each: each.up)
    yield from family(gauge, "l4ip_endpoint_unknown", "Whether the endpoint has had no verdict yet.",
                      monitors, lambda each: each.seen == "unknown")
    yield from family(gauge, "l4ip_endpoint_draining", "Whether the endpoint is alive, and its check says that it "
                      "wants no new connections.", monitors, lambda each: each.seen == "draining")
    yield from family(gauge, "l4ip_endpoint_held", "Whether the endpoint is held down, whatever its probes say, since "
                      "it flaps.", monitors, lambda each: each.held)
    yield from family(gauge, "l4ip_endpoint_disabled", "Whether the operator has disabled the endpoint.", monitors,
                      lambda each: each.disabled)
    since = daemon.fleet.disabled
    yield from family(gauge, "l4ip_endpoint_disabled_timestamp_seconds", "When the operator disabled the endpoint.",
                      [each for each in monitors if each.endpoint.name in since],
                      lambda each: round(since[each.endpoint.name].since, 3))
    ends = {name: clock + each.until - now for name, each in since.items() if each.until is not None}
    yield from family(gauge, "l4ip_endpoint_disabled_until_timestamp_seconds", "When the endpoint is to be enabled "
                      "again by itself.", [each for each in monitors if each.endpoint.name in ends],
                      lambda each: round(ends[each.endpoint.name], 3))
    yield from family(gauge, "l4ip_endpoint_rules_wanted", "Rules that are wanted for the endpoint.", monitors,
                      lambda each: wanted[each.endpoint.name])
    yield from family(gauge, "l4ip_endpoint_rules_loaded", "Rules that the endpoint has in the kernel.", monitors,
                      lambda each: loaded[each.endpoint.name])
    yield from family(counter, "l4ip_endpoint_connections", "Connections that the present rules have been used for.",
                      [each for each in monitors if each.endpoint.name in had], lambda each: had[each.endpoint.name])
    yield from family(counter, "l4ip_endpoint_passes", "Verdicts that were a pass.", monitors, lambda each: each.passes)
    yield from family(counter, "l4ip_endpoint_failures", "Verdicts that were a failure, RSTs too.", monitors,
                      lambda each: each.outcomes.failures)
    yield from family(counter, "l4ip_endpoint_transitions", "Changes of the endpoint's state.", monitors,
                      lambda each: each.changes)
    yield from family(gauge, "l4ip_endpoint_last_transition_timestamp_seconds",
                      "When the endpoint's state last changed, or it was first seen.", monitors,
                      lambda each: round(clock - (now - each.since), 3))
    yield from family(gauge, "l4ip_endpoint_last_probe_seconds", "How long the last probe took.", monitors,
                      lambda each: round(each.took, 6))


def sessions(daemon: Daemon) -> Iterator[bytes]:
    """Nothing where they could not be counted: that is not none."""
    count = daemon.sessions.recent()
    known = [(name, number) for name in daemon.fleet.monitors if (number := count.of(name)) is not None]
    for start in range(0, len(known), SLICE):
        values: dict[tuple[str, ...], float] = {(name,): number for name, number in known[start:start + SLICE]}
        piece = text([gauge("l4ip_sessions", "Sessions of the endpoint in the kernel, of rules that are gone too.",
                            ("endpoint",), values)])
        yield piece.split(b"\n", 2)[2] if start else piece


def certificates(daemon: Daemon) -> Iterator[bytes]:
    """Of those endpoints whose certificate was seen."""
    clock = time.time()
    ends = {name: end for name, monitor in daemon.fleet.monitors.items()
            if (end := daemon.expiry.end(monitor.endpoint)) is not None}
    yield from family(gauge, "l4ip_certificate_expiry_seconds", "Seconds until the endpoint's certificate expires.",
                      [daemon.fleet.monitors[name] for name in ends],
                      lambda each: round(ends[each.endpoint.name] - clock))


def family(make: Callable[[str, str, Sequence[str], dict[tuple[str, ...], float]], Metric], name: str, words: str,
           monitors: Sequence[Monitor], value: Callable[[Monitor], float]) -> Iterator[bytes]:
    """One value an endpoint, in pieces; only the first piece has the lines that say what the family is."""
    for start in range(0, len(monitors), SLICE):
        values: dict[tuple[str, ...], float] = {
            (each.endpoint.cluster, each.endpoint.service, each.endpoint.member): value(each)
            for each in monitors[start:start + SLICE]}
        piece = text([make(name, words, OWN, values)])
        yield piece.split(b"\n", 2)[2] if start else piece


# -- making families

def gauge(name: str, words: str, labels: Sequence[str], values: dict[tuple[str, ...], float]) -> Metric:
    made = GaugeMetricFamily(name, words, labels=labels)
    for label, value in values.items():
        made.add_metric(label, value)
    return made


def counter(name: str, words: str, labels: Sequence[str], values: dict[tuple[str, ...], float]) -> Metric:
    """``_total`` is added to the name."""
    made = CounterMetricFamily(name, words, labels=labels)
    for label, value in values.items():
        made.add_metric(label, value)
    return made


def histogram(name: str, words: str, labels: Sequence[str], bounds: Sequence[float],
              values: dict[tuple[str, ...], list[float]]) -> Metric:
    """From plain counts: one for each bound, one for what is above all of them, and the sum."""
    made = HistogramMetricFamily(name, words, labels=labels)
    limits = [*(str(float(bound)) for bound in bounds), "+Inf"]
    for label, (*counts, total) in values.items():
        made.add_metric(label, list(zip(limits, accumulate(counts), strict=True)), total)
    return made


# -- the process

class Process(Collector):
    """What the kernel says of us: the client library reads it from Linux's /proc; elsewhere we tell what we can."""

    def __init__(self) -> None:
        self._proc = ProcessCollector(registry=CollectorRegistry())
        self._began = time.time() - time.process_time()

    def collect(self) -> Iterable[Metric]:
        return self._proc.collect() or self.without_proc()

    def without_proc(self) -> Iterator[Metric]:
        """By getrusage(2), getrlimit(2) and /dev/fd."""
        yield counter("process_cpu_seconds", "Total user and system CPU time spent in seconds.", (),
                      {(): time.process_time()})
        yield gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", (),
                    {(): self._began})
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        yield gauge("process_resident_memory_max_bytes", "Largest resident memory so far in bytes.", (), {(): peak})
        yield gauge("process_max_fds", "Maximum number of open file descriptors.", (),
                    {(): resource.getrlimit(resource.RLIMIT_NOFILE)[0]})
        count = open_descriptors()
        if count is not None:
            yield gauge("process_open_fds", "Number of open file descriptors.", (), {(): count})


def open_descriptors() -> int | None:
    """How many we have; None where nobody can say: without fdescfs(5), /dev/fd of FreeBSD has 0 to 2, and no more."""
    try:
        mark = fcntl.fcntl(0, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:
        return None
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return None
    finally:
        os.close(mark)
    return len(names) - 2 if str(mark) in names else None      # neither the mark, nor the one that looked


PROCESS = CollectorRegistry()
PROCESS.register(Process())
