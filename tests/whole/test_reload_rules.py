"""Reloads in simulated time, as the kernel's table sees them: what is ours stays ours until it is gone, no longer."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.tools.ipf import ipf
from l4ipd.sandbox.tools.ipnat import ipnat
from support.sandbox_tools import drive
from support.simulated_daemon import SimulatedDaemon
from support.simulation import GOOD, REFUSES, SILENT

CONFIG = """
pidfile: {0}/pid
control: {0}/sock
state: {0}/state.json
ipfilter: {{interface: {interface}, tag: {tag}, ipnat: {0}/{ipnat}, ipf: {0}/ipf, ipfstat: {0}/ipfstat,
           ipmon: {0}/ipmon}}
defaults: {{interval: 1s, timeout: 900ms, rise: 1, fall: 1}}
clusters:
  www:
    address: 203.0.113.10
    services: {{http: {{port: 80, member_port: {port}, check: tcp}}}}
    members: {{{members}}}
"""
USUAL = {"interface": "em0", "tag": "no", "ipnat": "ipnat", "port": "8080", "members": "a: 10.0.0.11, x: 10.0.0.12"}


class Reloads(SimulatedDaemon):
    """A daemon that is told to reload now and then."""

    def __init__(self, directory: Path, **words: str) -> None:
        super().__init__(directory)
        self.words = {**USUAL, **words}
        self.write()

    def write(self, **words: str) -> None:
        self.words |= words
        self.path.write_text(CONFIG.format(self.directory, **self.words))

    def reload(self, **words: str) -> None:
        self.write(**words)
        self.signal(signal.SIGHUP)

    def rules_to(self) -> list[str]:
        """The last part of the address that each of our rules leads to, sorted."""
        return sorted(line.split(" -> ")[1].split("/")[0].rpartition(".")[2] for line in self.ours())

    def end(self, after: float) -> None:
        self.after(after, self.over)
        self.go()

    def listing(self) -> bool:
        return any("-l" in child.words and child.running for child in self.children)


def said(world: SimulatedDaemon, words: str) -> list[str]:
    return [text for text in world.texts if words in text]


@pytest.mark.parametrize("tag", ["no", "l4ip"])
@pytest.mark.parametrize("slow", [False, True])
@pytest.mark.parametrize(("words", "left"), [
    ({"members": "a: 10.0.0.11, n: 10.0.0.13"}, ["11"]),            # n has no outcome for a while
    ({"interface": "em1"}, ["11", "12"]),
    ({"port": "8081"}, ["11", "12"]),
    ({"members": "b: 10.0.0.11, y: 10.0.0.12"}, ["11", "12"]),
    ({"members": "a: 10.0.0.12, x: 10.0.0.11"}, ["11", "12"]),
    ({"tag": "other"}, ["11", "12"]),
], ids=lambda value: "-".join(value) if isinstance(value, dict) else None)
def test_what_was_ours_goes(tmp_path: Path, tag: str, words: dict[str, str], left: list[str], slow: bool) -> None:
    """Also when the reload comes in the middle of a listing, and when tools take a second."""
    world = Reloads(tmp_path, tag=tag)
    world.members["10.0.0.13", 8080] = SILENT

    def begin() -> None:
        world.slowest = 1.0 if slow else 0.02
        assert world.rules_to() == ["11", "12"]
        assert world.daemon is not None
        world.daemon.steering.rules.reread()
        world.until(world.listing, lambda: world.reload(**words))

    world.after(30.0, begin)
    world.after(60.0, lambda: check(world, left))
    world.end(61.0)
    assert not said(world, "not ours") and not said(world, "somebody else") and not said(world, "no endpoint")


def check(world: Reloads, left: list[str]) -> None:
    assert world.rules_to() == left, world.ours()
    form = f"rdr {world.words['interface']} 203.0.113.10/32 port 80 -> 10.0.0."
    tag = "" if world.words["tag"] == "no" else f" tag {world.words['tag']}"
    for line in world.ours():
        assert line.startswith(form) and line.endswith(f" port {world.words['port']} tcp round-robin{tag}")
    assert world.foreign <= set(world.rules())


@pytest.mark.parametrize("tags", [("l4ip", "no", "l4ip"), ("no", "l4ip", "no"), ("l4ip", "other", "l4ip"),
                                  ("no", "one", "two")])
@pytest.mark.parametrize("pause", [0.0, 0.03, 0.5, 20.0])
def test_tags_that_come_and_go(tmp_path: Path, tags: tuple[str, ...], pause: float) -> None:
    world = Reloads(tmp_path, tag=tags[0])
    for place, tag in enumerate(tags[1:]):
        world.after(30.0 + place * pause, lambda tag=tag: world.reload(tag=tag))       # type: ignore[misc]
    world.after(30.0 + 3 * pause + 30.0, lambda: check(world, ["11", "12"]))
    world.end(30.0 + 3 * pause + 31.0)
    assert not said(world, "not ours") and not said(world, "somebody else")


@pytest.mark.parametrize("after", [0.0, 0.01, 0.05, 5.0])
def test_another_tag_before_the_first_listing_is_over(tmp_path: Path, after: float) -> None:
    """What an earlier run has left with the old one is ours, too."""
    world = Reloads(tmp_path, tag="l4ip")
    drive(ipnat(world.kernel, ("-f", "-"), "/"), "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.14 port 8080 tcp "
                                                 "round-robin tag l4ip\n")
    world.after(after, lambda: world.reload(tag="other"))
    world.after(30.0, lambda: check(world, ["11", "12"]))
    world.end(31.0)


def test_a_tag_that_we_have_left_is_not_ours_any_more(tmp_path: Path) -> None:
    """A second l4ipd uses it now."""
    world = Reloads(tmp_path, tag="l4ip")
    theirs = "rdr em0 203.0.113.99/32 port 80 -> 10.0.0.14 port 8080 tcp round-robin tag l4ip\n"
    same = "rdr em0 203.0.113.10/32 port 80 -> 10.0.0.11 port 8080 tcp round-robin tag l4ip\n"
    world.after(30.0, lambda: world.reload(tag="other"))
    world.after(50.0, lambda: drive(ipnat(world.kernel, ("-f", "-"), "/"), theirs + same))
    world.after(90.0, lambda: check_theirs(world))
    world.end(91.0)
    assert len(said(world, "a rule that is not ours takes its turn among our members")) == 1


def check_theirs(world: Reloads) -> None:
    assert sum("tag l4ip" in line for line in world.rules()) == 2
    assert sum("tag other" in line for line in world.rules()) == 2


@pytest.mark.parametrize("what", ["the same", "another table"])
def test_another_ipnat(tmp_path: Path, what: str) -> None:
    """By another name, or of another kernel: nobody has removed anything."""
    (tmp_path / "elsewhere").mkdir()
    world = Reloads(tmp_path, tag="l4ip")
    events: list[str] = []

    def change() -> None:
        assert world.daemon is not None
        world.daemon.events.listeners.append(lambda event: events.append(event.kind))
        if what == "another table":
            world.kernel = Kernel(clock=lambda: world.now)
            world.load_foreign()
        world.reload(ipnat="elsewhere/ipnat")

    tool = tmp_path / "elsewhere" / "ipnat"
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    world.after(30.0, change)
    world.after(60.0, lambda: check(world, ["11", "12"]))
    world.end(61.0)
    assert not said(world, "somebody else") and events == ["reloaded"]


@pytest.mark.parametrize("delay", [0.0, 0.2, 0.5, 0.8, 1.2])
@pytest.mark.parametrize("words", [{"members": "b: 10.0.0.11, y: 10.0.0.12"},
                                   {"members": "a: 10.0.0.12, x: 10.0.0.11"}])
def test_a_new_name_while_ipnat_loads_the_rules(tmp_path: Path, words: dict[str, str], delay: float,
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """They are there as soon as that run is over, and then all the time."""
    world = Reloads(tmp_path, tag="l4ip")
    places = [("10.0.0.11", 8080), ("10.0.0.12", 8080)]
    world.members.update(dict.fromkeys(places, REFUSES))
    there: list[tuple[float, list[str]]] = []

    def look() -> None:
        there.append((world.now, world.rules_to()))
        world.after(0.02, look)

    def begin() -> None:
        world.slowest = 1.6
        monkeypatch.setattr(world.random, "uniform", lambda low, high: high if high == 1.6 else low)
        world.members.update(dict.fromkeys(places, GOOD))
        world.until(lambda: any(child.words[1:] == ["-f", "-"] for child in world.children),
                    lambda: world.after(delay, lambda: world.reload(**words)))
        look()

    world.after(30.0, begin)
    world.end(50.0)
    seen = [rules for _, rules in there]
    assert seen[-1] == ["11", "12"]
    assert all(set(one) <= set(other) for one, other in zip(seen, seen[1:], strict=False)), "none is taken out again"
    assert seen.count([]) + seen.count(["11"]) + seen.count(["12"]) < 4.0 / 0.02, "two runs, and what was under way"


LOG = "log in on em1 proto tcp from 10.0.0.{} port = 8080 to any flags R/R set-tag(log={})\n"


def test_log_rules_of_another_tag(tmp_path: Path) -> None:
    """Ours with the old one go; from then on it is somebody else's. One with the new one is named."""
    world = Reloads(tmp_path, tag="l4ip")
    usual = world.path.read_text()

    def sense(tag: int) -> None:
        world.path.write_text(f"{usual}resets: {{interface: em1, tag: {tag}}}\n")
        world.signal(signal.SIGHUP)

    def tags() -> list[str]:
        return sorted(line.rpartition("log=")[2] for line in world.filters() if "log=" in line)

    def old() -> None:
        assert tags() == ["5000)"] * 2
        drive(ipf(world.kernel, ("-f", "-"), "/"), LOG.format(77, 4711) + LOG.format(11, 4711) + LOG.format(78, 5000))

    def left() -> None:
        assert tags() == ["4711)"] * 2 + ["5000)"] * 2

    world.path.write_text(f"{usual}resets: {{interface: em1, tag: 4711}}\n")
    world.after(30.0, lambda: sense(5000))
    world.after(60.0, old)
    world.after(100.0, left)
    world.end(101.0)
    assert len(said(world, "no endpoint makes")) == 1
    assert said(world, "10.0.0.78") == [
        "a rule with resets.tag 5000 that no endpoint makes will be removed: log in on em1 proto tcp from 10.0.0.78 "
        "port = 8080 to any flags R/R set-tag(log=5000): it is of an earlier configuration, or of another l4ipd with "
        "resets.tag 5000"]


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_log_rules_that_an_earlier_run_has_left(tmp_path: Path, signum: int) -> None:
    """The section is gone at the next start, and so are they; their tag is free."""
    world = Reloads(tmp_path, tag="l4ip")
    usual = world.path.read_text()
    starts: list[float] = []

    def stop() -> None:
        assert len(world.filters()) == 2
        world.path.write_text(usual)
        world.signal(signum) if signum == signal.SIGTERM else world.kill()

    world.stopped = lambda: starts.append(world.now)        # type: ignore[method-assign]
    world.path.write_text(f"{usual}resets: {{interface: em1, tag: 4711}}\n")
    world.after(30.0, stop)
    world.after(60.0, lambda: none_left(world))
    world.after(100.0, lambda: one_left(world))
    world.end(101.0)


def none_left(world: Reloads) -> None:
    assert not world.filters()
    drive(ipf(world.kernel, ("-f", "-"), "/"), LOG.format(11, 4711))


def one_left(world: Reloads) -> None:
    assert len(world.filters()) == 1
