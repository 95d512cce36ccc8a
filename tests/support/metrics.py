"""What /metrics says, read by the client library's own parser."""

from __future__ import annotations

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from l4ipd.daemon import Daemon
from l4ipd.report.history import History
from l4ipd.runtime.lateness import Lateness
from l4ipd.web import metrics


def scrape(daemon: Daemon, history: History | None = None, lateness: Lateness | None = None) -> dict[str, Metric]:
    text = b"".join(metrics.render(daemon, history or History(), lateness or Lateness(daemon.loop),
                                   dict.fromkeys(daemon.steering.rules.have, 7))).decode()
    assert text.endswith("\n")
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family that comes twice is refused"
    return {family.name: family for family in families}


def value(families: dict[str, Metric], sample: str, **labels: str) -> float:
    found = [each.value for family in families.values() for each in family.samples
             if each.name == sample and labels.items() <= each.labels.items()]
    assert len(found) == 1, (sample, labels, found)
    return found[0]
