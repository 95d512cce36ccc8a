"""The rules of each service, as the states of its endpoints want them: who serves, and with which lines."""

from __future__ import annotations

from collections.abc import Sequence

from l4ipd.fleet import Fleet
from l4ipd.ipfilter import plan
from l4ipd.model import Config, Endpoint, Ipfilter
from l4ipd.monitor.monitor import Monitor


class ServiceRules:
    """What is wanted of all services; one is planned anew when it has changed."""

    def __init__(self, fleet: Fleet, settings: Ipfilter) -> None:
        self.fleet, self.settings = fleet, settings
        self._lines: dict[str, tuple[Endpoint, tuple[str, ...]]] = {}   # by endpoint: what it looked like, its rules
        self._keep: dict[str, bool] = {}            # by service: when_all_down: keep
        self._serving: dict[str, tuple[str, ...]] = {}
        self._wanted: dict[str, list[str]] = {}     # by service

    def take_over(self, config: Config) -> None:
        """Plan by ``config`` from now on; the fleet has taken it over already."""
        if config.ipfilter != self.settings:
            self._lines.clear()
        self.settings = config.ipfilter
        self._keep = {f"{cluster.name}/{service.name}": cluster.keep
                      for cluster in config.clusters for service in cluster.services}
        for planned in (self._wanted, self._serving):
            for group in planned.keys() - self.fleet.groups.keys():
                del planned[group]
        self._lines = {name: known for name, known in self._lines.items() if name in self.fleet.monitors}

    def plan(self, group: str) -> None:
        """The states of a service have changed."""
        members = self.fleet.groups[group]
        up = {monitor.endpoint.name for monitor in members if monitor.eligible}
        last = {monitor.endpoint.name for monitor in members
                if not monitor.withheld and monitor.endpoint.name in self._serving.get(group, ())}
        serving = plan.serving([monitor.offered for monitor in members], up, last, self._keep[group])
        self._serving[group] = tuple(member.name for member in serving)
        self._wanted[group] = plan.arrange(serving, [self._offered(self.fleet.monitors[member.name])
                                                     for member in serving])

    def wanted(self) -> dict[str, None]:
        """All lines, in the order in which to load them."""
        return {line: None for group in self.fleet.groups for line in self._wanted.get(group, ())}

    def count_as_serving(self, monitor: Monitor) -> None:
        """Its rules are in the kernel."""
        serving = self._serving.get(monitor.endpoint.group, ())
        if monitor.endpoint.name not in serving:
            self._serving[monitor.endpoint.group] = (*serving, monitor.endpoint.name)

    def keeps(self, group: str) -> bool:
        """Whether the last rules of a service would stay if nobody were up."""
        return self._keep[group]

    def kept(self, group: str) -> bool:
        """Whether they do."""
        monitors = self.fleet.monitors
        return self._keep[group] and any(not monitors[name].withheld for name in self._serving.get(group, ())
                                         if name in monitors)

    def lines(self, monitor: Monitor) -> tuple[str, ...]:
        """Every rule that ``monitor`` has while it serves."""
        name = monitor.endpoint.name
        known = self._lines.get(name)
        if known is None or known[0] is not monitor.endpoint:
            known = self._lines[name] = monitor.endpoint, tuple(plan.every_rule(monitor.endpoint, self.settings))
        return known[1]

    def _offered(self, monitor: Monitor) -> Sequence[str]:
        """Those of them that it has with the weight that its agent leaves it."""
        lines, weight, least = self.lines(monitor), monitor.endpoint.weight, monitor.offered.weight
        return lines if least == weight else [line for at, line in enumerate(lines) if at % weight < least]
