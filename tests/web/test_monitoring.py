"""etc/monitoring: Prometheus takes it, each alert fires when it should and only then, and its metrics are ours."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from support import ROOT

HOME = ROOT / "etc/monitoring"
ALERTS = HOME / "l4ip-alerts.yml"
DASHBOARD = HOME / "l4ip-grafana.json"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="needs promtool, which comes with Prometheus")

AT, WHO = 'instance="gw1"', 'instance="gw1", cluster="www", service="http", member="web1"'
END = "20m"                                         # when is looked
#: alert -> the series with which it fires, those with which it does not, in the notation of promtool
CASES: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "L4ipDaemonGone": ({'up{job="l4ip", instance="gw1"}': "1x10 0x50"}, {'up{job="l4ip", instance="gw1"}': "1x60"}),
    "L4ipServiceWithoutMembers": ({f'l4ip_service_up{{{AT}, cluster="www", service="http"}}': "2x10 0x50"},
                                  {f'l4ip_service_up{{{AT}, cluster="www", service="http"}}': "2x10 1x50"}),
    "L4ipUnfit": ({f"l4ip_fit{{{AT}}}": "0x60", f"l4ip_blind{{{AT}}}": "0x60"},
                  {f"l4ip_fit{{{AT}}}": "0x60", f"l4ip_blind{{{AT}}}": "1x60"}),
    "L4ipBlind": ({f"l4ip_blind{{{AT}}}": "0x10 1x50"}, {f"l4ip_blind{{{AT}}}": "0x60"}),
    "L4ipRulesNotAsWanted": (
        {f"l4ip_endpoint_rules_wanted{{{WHO}}}": "2x60", f"l4ip_endpoint_rules_loaded{{{WHO}}}": "1x60"},
        {f"l4ip_endpoint_rules_wanted{{{WHO}}}": "2x60", f"l4ip_endpoint_rules_loaded{{{WHO}}}": "2x60"}),
    "L4ipClusterNotReady": ({f'l4ip_cluster_ready{{{AT}, cluster="www"}}': "0x60"},
                            {f'l4ip_cluster_ready{{{AT}, cluster="www"}}': "1x60"}),
    "L4ipEndpointDown": (
        {f"l4ip_endpoint_{key}{{{WHO}}}": "0x60" for key in ("up", "disabled", "unknown", "draining")},
        {f"l4ip_endpoint_{key}{{{WHO}}}": "1x60" if key == "disabled" else "0x60"
         for key in ("up", "disabled", "unknown", "draining")}),
    "L4ipEndpointFlapping": ({f"l4ip_endpoint_transitions_total{{{WHO}}}": "0+1x60"},
                             {f"l4ip_endpoint_transitions_total{{{WHO}}}": "0x38 1x20"}),
    "L4ipSensingLost": ({f"l4ip_resets_sensed{{{AT}}}": "0x60"}, {f"l4ip_resets_sensed{{{AT}}}": "1x60"}),
    "L4ipRulesRepaired": ({f'l4ip_rules_repaired_total{{{AT}, tool="ipnat"}}': "0x35 3x30"},
                          {f'l4ip_rules_repaired_total{{{AT}, tool="ipnat"}}': "3x60"}),
    "L4ipProbesLate": (
        {f"l4ip_probes_late_total{{{AT}}}": "0+100x60", f"l4ip_probes_skipped_total{{{AT}}}": "0x60",
         f'l4ip_probe_seconds_count{{{AT}, check="tcp"}}': "0+1000x60",
         f'l4ip_probe_seconds_count{{{AT}, check="http"}}': "0+1000x60"},
        {f"l4ip_probes_late_total{{{AT}}}": "0x60", f"l4ip_probes_skipped_total{{{AT}}}": "0+1x60",
         f'l4ip_probe_seconds_count{{{AT}, check="tcp"}}': "0+1000x60"}),
    "L4ipCertificateEnds": ({f"l4ip_certificate_expiry_seconds{{{WHO}}}": "86400x400"},
                            {f"l4ip_certificate_expiry_seconds{{{WHO}}}": "8640000x400"}),
    "L4ipInternalErrors": ({f"l4ip_internal_errors_total{{{AT}}}": "0x35 1x30"},
                           {f"l4ip_internal_errors_total{{{AT}}}": "4x60"}),
}


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def metrics_named(text: str) -> set[str]:
    return set(re.findall(r"\bl4ip_[a-z_]+", text))


def test_every_alert_has_its_cases() -> None:
    assert [rule["alert"] for rule in rules()] == list(CASES)


@needs_promtool
def test_promtool_has_nothing_against_it(tmp_path: Path) -> None:
    for words in (("check", "rules", str(ALERTS)), ("check", "config", str(HOME / "prometheus.yml"))):
        done = subprocess.run([str(PROMTOOL), *words], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr


def fires(alert: str, series: dict[str, str]) -> dict[str, Any]:
    """A test for promtool: with these series, does the alert fire?"""
    end = "3h" if "x400" in "".join(series.values()) else END
    return {"interval": "30s", "input_series": [{"series": name, "values": values} for name, values in series.items()],
            "promql_expr_test": [{"expr": f'count(ALERTS{{alertname="{alert}", alertstate="firing"}}) or vector(0)',
                                  "eval_time": end, "exp_samples": [{"labels": "{}", "value": None}]}]}


@needs_promtool
def test_alerts(tmp_path: Path) -> None:
    """One run of promtool for all: each alert fires with the one set of series, and does not with the other."""
    tests = []
    for alert, (bad, good) in CASES.items():
        for value, series in ((1, bad), (0, good)):
            test = fires(alert, series)
            test["promql_expr_test"][0]["exp_samples"][0]["value"] = value
            tests.append(test)
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [ALERTS.name], "evaluation_interval": "30s",
                                                       "tests": tests}))
    done = subprocess.run([str(PROMTOOL), "test", "rules", "test.yml"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
@pytest.mark.parametrize("alert", ["L4ipBlind", "L4ipEndpointDown"])
def test_a_test_that_expects_the_contrary_fails(alert: str, tmp_path: Path) -> None:
    test = fires(alert, CASES[alert][0])
    test["promql_expr_test"][0]["exp_samples"][0]["value"] = 0
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": [ALERTS.name], "tests": [test],
                                                       "evaluation_interval": "30s"}))
    done = subprocess.run([str(PROMTOOL), "test", "rules", "test.yml"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode != 0


def test_every_metric_that_is_named_exists() -> None:
    """As the manual has them, which is held to what is told; counters have _total, histograms three more."""
    manual = (ROOT / "man/l4ipd.8").read_text()
    known = set(re.findall(r"^\.It Li (l4ip_\w+)$", manual, re.MULTILINE))
    exported = {f"{name}{tail}" for name in known for tail in ("", "_total", "_count", "_sum", "_bucket")}
    expressions = [rule["expr"] for rule in rules()]
    expressions += [target["expr"] for panel in json.loads(DASHBOARD.read_text())["panels"]
                    for target in panel.get("targets", ())]
    assert len(expressions) > 20
    for expression in expressions:
        assert metrics_named(expression) <= exported, expression


def test_what_alerts_tell_to_type_exists() -> None:
    from l4ipd.control import client
    words = " ".join(rule["annotations"]["description"] for rule in rules())
    usage = client.parser().format_help()
    for command in re.findall(r"l4ipctl (\w+)", words):
        assert re.search(rf"\b{command}\b", usage), command
