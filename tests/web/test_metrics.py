"""/metrics, read back by the client library's own parser."""

from __future__ import annotations

import json
import os
import re
import resource
from dataclasses import replace

import pytest

from l4ipd.checks.verdict import CODES
from l4ipd.events import Event
from l4ipd.model import Member, Source
from l4ipd.monitor import schedule
from l4ipd.report import status, warnings
from l4ipd.report.history import History
from l4ipd.runtime.lateness import Lateness
from l4ipd.web import metrics
from l4ipd.web.site import status_json
from support.balancer import BAD, GOOD, balancer, cluster, feed, settle, web
from support.metrics import scrape, value

UNITS = ("seconds", "bytes", "info", "total")


def test_internal_errors() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        assert value(scrape(daemon), "l4ip_internal_errors_total") == 0 and not warnings.troubles(daemon)
        daemon.loop.errors.shield("a line", int, "x")
        daemon.loop.errors.shield("a line", int, "x")
        assert value(scrape(daemon), "l4ip_internal_errors_total") == 2
        assert "internal errors in the last hour: 2, the last a ValueError in " in status.summary(daemon)
        head = json.loads(b"".join(status_json(daemon, {})))
        assert head["internal_errors"] == {"total": 2, "last_hour": 2} and "internal errors" in head["troubles"][0]


def test_endpoints() -> None:
    with balancer(cluster("www", *web(2), Member("heavy", "10.0.0.9", weight=3), Member("off", "10.0.0.8"))) as daemon:
        feed(daemon, "www/http/web1", GOOD, GOOD, BAD)
        feed(daemon, "www/http/web2", BAD)
        feed(daemon, "www/http/heavy", GOOD)
        daemon.fleet.monitors["www/http/off"].disabled = True
        settle(daemon)
        del daemon.steering.rules.belief.have[daemon.steering.lines(daemon.fleet.monitors["www/http/heavy"])[0]]
        families = scrape(daemon)
        for name, sample, expected in [
                ("web1", "l4ip_endpoint_up", 1), ("web2", "l4ip_endpoint_up", 0), ("off", "l4ip_endpoint_disabled", 1),
                ("web1", "l4ip_endpoint_disabled", 0), ("web1", "l4ip_endpoint_passes_total", 2),
                ("web1", "l4ip_endpoint_failures_total", 1), ("web1", "l4ip_endpoint_transitions_total", 1),
                ("web2", "l4ip_endpoint_transitions_total", 1), ("web2", "l4ip_endpoint_unknown", 0),
                ("off", "l4ip_endpoint_unknown", 1), ("heavy", "l4ip_endpoint_rules_wanted", 3),
                ("heavy", "l4ip_endpoint_rules_loaded", 2), ("off", "l4ip_endpoint_rules_wanted", 0),
                ("heavy", "l4ip_endpoint_connections_total", 14)]:
            assert value(families, sample, cluster="www", service="http", member=name) == expected, (name, sample)
        assert value(families, "l4ip_rules_wanted", tool="ipnat") == 4
        assert value(families, "l4ip_rules_loaded", tool="ipnat") == 3
        assert value(families, "l4ip_endpoints") == 4
        assert value(families, "l4ip_fit") == 1
        daemon.steering.rules.faults.problem = "ipnat: no such program"
        assert value(scrape(daemon), "l4ip_fit") == 0


def test_services() -> None:
    """Each as a whole; one whose source has named nobody yet has nobody, rather than nothing."""
    empty = replace(cluster("later"), sources=(Source(file="/nonexistent"),))
    with balancer(cluster("www", *web(2), Member("off", "10.0.0.8")), empty) as daemon:
        feed(daemon, "www/http/web1", GOOD)
        feed(daemon, "www/http/web2", GOOD)
        daemon.fleet.monitors["www/http/web2"].disabled = True
        settle(daemon)
        families = scrape(daemon)
        for name, members, up in (("www", 3, 1), ("later", 0, 0)):
            labels = {"cluster": name, "service": "http"}
            assert value(families, "l4ip_service_members", **labels) == members
            assert value(families, "l4ip_service_up", **labels) == up


def test_a_blind_gateway() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        settle(daemon)
        assert value(scrape(daemon), "l4ip_blind") == 0 and not warnings.unfit(daemon)
        daemon.fleet.reachability.blind_since = daemon.loop.now
        assert value(scrape(daemon), "l4ip_blind") == 1 and value(scrape(daemon), "l4ip_fit") == 0
        assert "blind" in warnings.unfit(daemon) and "no member has a route" in warnings.troubles(daemon)[0]
        assert "the gateway is blind" in status.summary(daemon)
        daemon.fleet.reachability.blind_since = None


def test_counts_of_probes() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        each = daemon.fleet.monitors["www/http/web1"]
        took = [0.0005, 0.001, 0.0011, 0.3, 99.0]
        for seconds in took:
            daemon.fleet.schedule.flying += 1       # as admit() does
            each.checker._begun = daemon.loop.clock() - seconds
            each.checker._done(GOOD if seconds < 1 else BAD)
        families = scrape(daemon)
        assert {code: value(families, "l4ip_probes_total", code=code) for code in CODES} == {
            **dict.fromkeys(CODES, 0), "L7OK": 4, "L7STS": 1}
        assert value(families, "l4ip_probe_seconds_count", check="http") == len(took)
        assert value(families, "l4ip_probe_seconds_sum", check="http") == pytest.approx(sum(took), abs=0.5)
        bounds = [*map(str, schedule.BOUNDS), "+Inf"]
        buckets = [value(families, "l4ip_probe_seconds_bucket", check="http", le=bound) for bound in bounds]
        assert buckets == sorted(buckets) and buckets[-1] == len(took) and buckets[-2] == len(took) - 1
        assert families["l4ip_probe_seconds"].type == "histogram"


def test_events_and_lateness() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        history, lateness = History(), Lateness(daemon.loop)
        daemon.events.listen(history.heard)
        feed(daemon, "www/http/web1", GOOD, BAD, BAD, BAD)
        daemon.events.tell(Event("repaired", "", "a rule"))
        for late in (-1.0, 0.0, 0.0007, 0.02, 7.0):  # woken early, no timer at all, and late
            daemon.loop.lateness = late
            lateness.note()
        families = scrape(daemon, history, lateness)
        assert value(families, "l4ip_transitions_total", state="up") == 1
        assert value(families, "l4ip_transitions_total", state="down") == 1
        assert value(families, "l4ip_events_total", kind="repaired") == 1
        assert value(families, "l4ip_loop_lateness_seconds_count") == 3
        assert value(families, "l4ip_loop_lateness_seconds_bucket", le="0.025") == 2
        assert value(families, "l4ip_loop_lateness_seconds_sum") == pytest.approx(7.0207)


def test_names_follow_the_conventions() -> None:
    with balancer(cluster("www", *web(1))) as daemon:
        for name, family in scrape(daemon).items():
            assert re.fullmatch(r"(l4ip|process|python)_[a-z0-9_]+", name)
            assert family.documentation.endswith("."), name
            assert not any(f"_{unit}" in name for unit in ("ms", "milliseconds", "percent", "kilobytes")), name
            if family.type == "counter":
                assert all(sample.name.endswith("_total") for sample in family.samples), name
            else:
                assert not name.endswith(("_total", "_count", "_sum")), name
            if family.type == "gauge" and "timestamp" in name:
                assert name.endswith("_timestamp_seconds")


def test_families_that_come_in_pieces() -> None:
    """Samples of a family stand together, under one heading, however many there are."""
    with balancer(cluster("big", *web(3 * metrics.SLICE + 1))) as daemon:
        families = scrape(daemon)
        up = families["l4ip_endpoint_up"]
        assert len(up.samples) == len(daemon.fleet.monitors)
        assert len({sample.labels["member"] for sample in up.samples}) == len(daemon.fleet.monitors)


def test_without_endpoints() -> None:
    with balancer() as daemon:
        assert value(scrape(daemon), "l4ip_endpoints") == 0


def test_a_system_without_proc_tells_of_memory_and_descriptors() -> None:
    before = {each.name: each.samples[0].value for each in metrics.Process().without_proc()}
    with open(os.devnull):
        after = {each.name: each.samples[0].value for each in metrics.Process().without_proc()}
    assert 5e6 < before["process_resident_memory_max_bytes"] < 5e9
    assert before["process_max_fds"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert after["process_open_fds"] == before["process_open_fds"] + 1 > 3


def test_where_dev_fd_has_only_three_nothing_is_said_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "listdir", lambda path: ["0", "1", "2"])
    assert metrics.open_descriptors() is None
