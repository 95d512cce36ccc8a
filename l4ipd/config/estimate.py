"""What a configuration will cost, estimated before it runs. Pure.

Seconds of CPU a probe, as measured by tests/bench/probe_cost.py and tls_cost.py on one core of 2026; a command's cost
is that of starting it, whatever it does then.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from l4ipd.checks.recipe import Asked, asked
from l4ipd.model import Check, Config

COST = {"tcp": 30e-6, "udp": 30e-6, "ping": 30e-6, "http": 50e-6, "tls": 800e-6, "https": 850e-6, "exec": 10e-3,
        "protocol": 150e-6, "protocol in TLS": 950e-6}
DEAR = ("tls", "https", "exec", "protocol in TLS")
MUCH = 0.7                                          # of one core: more, and probes will be late


@dataclass(frozen=True)
class Estimate:
    """The load of all endpoints together while everything is up."""

    endpoints: int
    probes: float                                   # a second
    cpu: float                                      # cores
    descriptors: int                                # at the same time, at worst: every probe waiting for its answer
    commands: float                                 # that run at the same time, when all of them hang
    by_type: dict[str, float]                       # probes a second

    def __str__(self) -> str:
        return (f"{self.endpoints} endpoints, {self.probes:.4g} probes a second, about {self.cpu * 100:.2g} % of a "
                f"core, up to {self.descriptors} descriptors")

    def warnings(self, limit: int, places: int) -> list[str]:
        """What will not go well; ``limit`` is the number of descriptors that probes may use, ``places`` that of
        commands which may run at the same time.
        """
        found = []
        if self.cpu > MUCH:
            dear = max(self.by_type, key=lambda kind: self.by_type[kind] * COST[kind])
            what = f"{self.by_type[dear]:.4g} {dear} probes a second"
            remedy = "check tcp or http instead, or less often" if dear in DEAR else "check less often"
            found.append(f"about {self.cpu:.2g} cores would be needed, mostly for {what}, and there is one: probes "
                         f"will be late: {remedy}")
        if self.descriptors > limit:
            found.append(f"up to {self.descriptors} probes at the same time, and {limit} descriptors for them: some "
                         "will be late when members do not answer: raise the limit of open files")
        if self.commands > places:
            found.append(f"about {self.commands:.3g} commands would run at the same time if all of them hung, and"
                         f" {places} may: some would be late then: shorten their timeout, or run them less often")
        return found


def _kind(check: Check) -> str:
    """What a check is counted as."""
    named = check.type if check.type in COST else "protocol"
    return f"{named} in TLS" if check.tls or check.starttls else named


def estimate(config: Config) -> Estimate:
    """Add up all checks of all endpoints; equal ones are made once."""
    by_type: dict[str, float] = {}
    endpoints = descriptors = 0
    commands = 0.0
    for checks, rounds in _rounds(config).items():
        endpoints += sum(rounds.values())
        descriptors += len(rounds) * (3 if any(check.type == "exec" for check in checks) else 1)
        for check in checks:
            rate = len(rounds) / checks[0].interval
            by_type[_kind(check)] = by_type.get(_kind(check), 0.0) + rate
            if check.type == "exec":
                commands += min(len(rounds), rate * check.timeout)
    cpu = sum(COST[kind] * often for kind, often in by_type.items())
    return Estimate(endpoints, sum(by_type.values()), cpu, descriptors, commands, by_type)


def _rounds(config: Config) -> dict[tuple[Check, ...], Counter[tuple[Asked, ...]]]:
    """By their checks, what is asked in each round of them, and how many endpoints hear it."""
    found: dict[tuple[Check, ...], Counter[tuple[Asked, ...]]] = {}
    for cluster in config.clusters:
        rounds = {service.name: found.setdefault(service.checks, Counter()) for service in cluster.services}
        for endpoint in cluster.endpoints():
            rounds[endpoint.service][tuple(asked(check, endpoint) for check in endpoint.checks)] += 1
    return found
