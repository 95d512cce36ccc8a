"""Services of one member that are checked in the same way: one probe, and all hear of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from l4ipd.checks.recipe import Recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.config.parse import parse
from l4ipd.model import Config, Endpoint
from l4ipd.monitor.checker import Checker
from support.scripted_daemon import BAD, GOOD, ScriptedDaemon

SIXTY = 60


def services(directory: Path, check: str, count: int = SIXTY, more: str = "") -> Config:
    lines = "".join(f"      s{number}: {{port: {1000 + number}, member_port: {2000 + number}, check: {check}}}\n"
                    for number in range(count))
    return parse(f"control: {directory}/sock\nstate: {directory}/state\nipfilter: {{interface: ext0}}\n"
                 "defaults: {rise: 1, fall: 2}\nclusters:\n  c:\n    address: 203.0.113.1\n    services:\n"
                 f"{lines}{more}"
                 "    members: {m1: 10.0.0.2, m2: 10.0.0.3}\n", "conf")


class Counted(ScriptedDaemon):
    def __init__(self, directory: Path, config: Config) -> None:
        self.starts: list[tuple[str, tuple[str, ...]]] = []
        super().__init__(directory, config)

    def start(self, recipe: Recipe, done: Callable[[Verdict], object]) -> ScriptedDaemon:
        self.starts.append((recipe.address, recipe.command))
        return super().start(recipe, done)

    def all_once(self, verdict: Verdict) -> None:
        """Let each checker make one round."""
        self.verdict = verdict
        for checker in {id(each.checker): each.checker for each in self.daemon.fleet.monitors.values()}.values():
            self.loop.clear(checker)
            checker.fire()


def test_sixty_services_of_a_member_are_probed_once_and_all_hear_the_verdict(tmp_path: Path) -> None:
    it = Counted(tmp_path, services(tmp_path, "{type: http, port: 8080}"))
    monitors = it.daemon.fleet.monitors
    assert len(monitors) == 2 * SIXTY
    it.all_once(GOOD)
    assert sorted(address for address, _ in it.starts) == ["10.0.0.2", "10.0.0.3"]
    assert all(each.up and each.passes == 1 for each in monitors.values())
    it.all_once(BAD)
    it.all_once(BAD)
    assert len(it.starts) == 6 and not any(each.up for each in monitors.values())
    assert {each.outcomes.streak for each in monitors.values()} == {-2}
    assert it.daemon.fleet.schedule.codes[BAD.code] == 4, "of probes, as many as were made"
    it.end()


def test_each_has_a_life_of_its_own(tmp_path: Path) -> None:
    """What the operator, a refused client or the kernel's table say of one says nothing of the others."""
    it = Counted(tmp_path, services(tmp_path, "{type: tcp, port: 8080}", 3))
    one, two, three = (it.daemon.fleet.monitors[f"c/s{number}/m1"] for number in range(3))
    assert one.checker is two.checker is three.checker
    one.adopt()
    it.daemon.fleet.disable([two], False)
    assert one.up and not three.up and two.disabled and not three.disabled
    it.all_once(GOOD)
    three.take_down(Verdict("RST", "connection refused, seen by ipmon"))
    assert one.eligible and not two.eligible and not three.up
    it.end()


@pytest.mark.parametrize(("check", "probes"), [
    ("tcp", 2), ("{type: tcp, port: 8080}", 1), ("{type: exec, command: [/bin/true, '{service}']}", 2),
    ("{type: exec, command: [/bin/true, '{member}']}", 1)])
def test_equal_means_equal_to_the_member(tmp_path: Path, check: str, probes: int) -> None:
    """Another port is another check, and so is a command with other words."""
    it = Counted(tmp_path, services(tmp_path, check, 2))
    it.all_once(GOOD)
    assert len(it.starts) == 2 * probes
    it.end()


def test_the_check_of_another_service_is_one_probe(tmp_path: Path) -> None:
    """For a range of ports, too, and for a command, which is told of that service."""
    more = "      data: {port: 40000-40999, check: {same_as: s0}}\n      dns: {port: 53, check: {same_as: s1}}\n"
    it = Counted(tmp_path, services(tmp_path, "{type: exec, command: [/bin/true, '{service}', '{port}']}", 2, more))
    it.all_once(GOOD)
    assert sorted(words[1:] for _, words in it.starts) == [("s0", "2000")] * 2 + [("s1", "2001")] * 2
    assert all(each.up for each in it.daemon.fleet.monitors.values())
    assert it.daemon.fleet.monitors["c/data/m1"].checker is it.daemon.fleet.monitors["c/s0/m1"].checker
    it.end()


def test_who_comes_with_a_reload_listens_and_who_goes_leaves_the_others_their_probe(tmp_path: Path) -> None:
    it = Counted(tmp_path, services(tmp_path, "{type: tcp, port: 8080}", 2))
    it.all_once(GOOD)
    stays, goes = it.daemon.fleet.monitors["c/s1/m1"], it.daemon.fleet.monitors["c/s0/m1"]
    config = services(tmp_path, "{type: tcp, port: 8080}", 3)
    it.daemon.reload(config)
    new = it.daemon.fleet.monitors["c/s2/m1"]
    assert new.checker is stays.checker and not new.up and stays.up
    rest = "      s1: {port: 1001, member_port: 2001, check: {type: tcp, port: 8080}}\n"
    it.daemon.reload(services(tmp_path, "{type: tcp, port: 9090}", 1, rest))
    assert goes.stopped and new.stopped and not stays.stopped
    assert it.daemon.fleet.monitors["c/s1/m1"] is stays and not stays.checker.stopped
    it.starts.clear()
    it.all_once(BAD)
    it.all_once(BAD)
    assert not stays.up and len(it.starts) == 8, "two checks of two members, twice"
    it.end()


def test_the_last_who_leaves_ends_the_probes(tmp_path: Path) -> None:
    it = Counted(tmp_path, services(tmp_path, "{type: tcp, port: 8080}", 2))
    checker = it.daemon.fleet.monitors["c/s0/m1"].checker
    it.daemon.fleet.stop()
    assert checker.stopped and checker.slot is None and not checker.listeners
    it.end()


def test_one_refused_probe_is_told_to_sensing_once(tmp_path: Path) -> None:
    """A member answers one probe with one RST, however many services it is for."""
    lines = "".join(f"      s{number}: {{port: {1000 + number}, member_port: 8080, check: tcp}}\n"
                    for number in range(3))
    config = services(tmp_path, "tcp", 0, lines)
    it = Counted(tmp_path, config)
    told: list[str] = []
    it.daemon.fleet.schedule.refused = lambda monitor, verdict: told.append(monitor.endpoint.address)
    it.all_once(BAD)
    assert sorted(told) == ["10.0.0.2", "10.0.0.3"]
    it.end()


def test_thousands_of_ports_of_one_machine_are_not_compared_with_each_other(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway in front of containers, or of another gateway: all have one address."""
    compared, makes = [], Checker.makes

    def counted(checker: Checker, recipes: Sequence[Recipe], endpoint: Endpoint) -> bool:
        compared.append(endpoint.name)
        return makes(checker, recipes, endpoint)

    monkeypatch.setattr(Checker, "makes", counted)
    it = Counted(tmp_path, services(tmp_path, "tcp", 300))
    it.daemon.apply(services(tmp_path, "http", 300))
    assert len(it.daemon.fleet.monitors) == 600
    assert len(compared) <= 600
    it.end()
