"""What a listing leaves behind in the sandbox's kernel, as in a real one (FACTS.md 3-3, samples/freebsd)."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from l4ipd.sandbox import tool_words
from l4ipd.sandbox.iterators import Iterators
from l4ipd.sandbox.kernel import Kernel
from l4ipd.sandbox.tools.ipfstat import ipfstat
from l4ipd.sandbox.tools.ipnat import ipnat
from l4ipd.sandbox.version import VERSIONS
from support.sandbox_tools import FakeClock, Lab, Sandbox, drive, eventually, sandbox

LOG = "log in on int0 proto tcp from 10.0.{}.{} port = 80 to any flags R/R set-tag(log=4711)\n"
RDR = "rdr ext0 203.0.113.1/32 port {} -> 10.0.0.2 port 80 tcp round-robin tag l4ip\n"


def lab() -> Lab:
    it = Lab()
    it.kernel = Kernel(clock=it.clock, iterator_life=10.0)
    return it


@pytest.mark.parametrize("place", [0, 1, 5, 9])
def test_the_next_listing_begins_where_one_was_broken_off(place: int) -> None:
    clock = FakeClock()
    it, rules = Iterators(clock, 10.0), list(range(10))
    walk = it.walk("nat", "7", rules)
    for _ in range(place + 1):
        next(walk)
    walk.close()
    assert list(it.walk("nat", "8", rules)) == rules, "another spawner"
    assert list(it.walk("in", "7", rules)) == rules, "another list"
    assert list(it.walk("nat", "7", rules)) == rules[place:]
    assert list(it.walk("nat", "7", rules)) == rules, "that one came to its end"


def test_sessions_begin_in_the_middle_as_well() -> None:
    """Where a listing was cut behind its rules: the next has all of these, and not all of those."""
    it = lab()
    it.ipnat("-f", "-", stdin=RDR.format(80) + RDR.format(81))
    for _ in range(10):
        it.send()
    run = ipnat(it.kernel, ("-l",), "/", spawner="7")
    lines = [next(run)[1] for _ in range(7)]
    run.close()
    assert lines[-1].startswith("RDR")
    headless = drive(ipnat(it.kernel, ("-l",), "/", spawner="7"))
    assert len(headless.rules) == 2 and headless.stdout.count("RDR ") == 8
    assert drive(ipnat(it.kernel, ("-l",), "/", spawner="7")).stdout.count("RDR ") == 10


def test_it_is_forgotten() -> None:
    clock = FakeClock()
    it = Iterators(clock, 10.0)
    walk = it.walk("nat", "7", "abc")
    next(walk), next(walk)
    walk.close()
    clock.now += 10.0
    assert list(it.walk("nat", "7", "abc")) == list("abc")


def test_a_log_rule_is_in_use_after_a_listing() -> None:
    it = lab()
    it.ipf("-f", "-", stdin=LOG.format(0, 2) + LOG.format(0, 3))
    assert it.ipf("-r", "-f", "-", stdin=LOG.format(0, 3)).status == 0
    it.ipf("-f", "-", stdin=LOG.format(0, 3))
    assert it.ipfstat("-iR").stdout.count("\n") == 2
    refused = it.ipf("-r", "-f", "-", stdin=LOG.format(0, 2) + LOG.format(0, 3))
    assert (refused.status, refused.stderr) == (1, "31:2:ioctl(delete rule) rule in use\n"), "the last one listed"
    assert it.ipfstat("-iR").stdout.count("\n") == 1, "the other is gone"
    it.clock.now += 9.9
    assert it.ipf("-r", "-f", "-", stdin=LOG.format(0, 3)).status == 1
    it.clock.now += 0.1
    assert it.ipf("-r", "-f", "-", stdin=LOG.format(0, 3)).status == 0


def test_one_of_the_other_family_is_in_use_as_well() -> None:
    it = lab()
    it.ipf("-f", "-", stdin=LOG.format(0, 2))
    assert it.ipfstat("-6", "-iR").stdout == ""
    assert "rule in use" in it.ipf("-r", "-f", "-", stdin=LOG.format(0, 2)).stderr


@pytest.mark.parametrize("version", ["5.1.2", "6.0.0"])
def test_a_listing_that_is_cut_holds_the_rule_where_it_was(version: str) -> None:
    it = lab()
    it.kernel.version = VERSIONS[version]
    it.ipf("-f", "-", stdin="".join(LOG.format(0, last) for last in range(1, 6)))
    run = ipfstat(it.kernel, ("-iR",))
    next(run), next(run)
    run.close()
    for last in (1, 3, 4, 5):
        assert it.ipf("-r", "-f", "-", stdin=LOG.format(0, last)).status == 0
    assert it.ipf("-r", "-f", "-", stdin=LOG.format(0, 2)).status == 1


def test_version_4_1_and_a_flush_do_not_care() -> None:
    it = lab()
    it.ipf("-f", "-", stdin=LOG.format(0, 2))
    it.ipfstat("-iR")
    assert it.ipf("-Fa").status == 0
    assert it.ipfstat("-iR").stdout == ""
    it.kernel = Kernel(VERSIONS["4.1"], clock=it.clock, iterator_life=10.0)
    it.ipf("-f", "-", stdin=LOG.format(0, 2))
    it.ipfstat("-iR")
    it.ipf("-r", "-f", "-", stdin=LOG.format(0, 2))
    assert it.ipfstat("-iR").stdout == ""


@pytest.fixture(scope="module")
def box() -> Iterator[Sandbox]:
    with sandbox() as running:
        assert running.ipnat("-f", "-", stdin="".join(map(RDR.format, range(1000, 9000)))).status == 0
        yield running


def test_a_real_listing_cut_short(box: Sandbox) -> None:
    """``ipnat -l | head -1``, and then ``ipnat -l`` by the same shell."""
    assert len(box.ipnat("-l").rules) == 8000
    with subprocess.Popen([*tool_words(box.path)["ipnat"], "-l"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        process.wait(10)

    def headless() -> bool:                         # the sandbox has heard of its end
        listed = box.ipnat("-l")
        return listed.status == 0 and listed.stderr == "" and 0 < len(listed.rules) < 8000

    eventually(headless)
    assert len(box.ipnat("-l").rules) == 8000


def test_whoever_looks_on_changes_nothing() -> None:
    it = lab()
    it.ipf("-f", "-", stdin=LOG.format(0, 2))
    list(ipfstat(it.kernel, ("-iR",), "somebody else"))
    assert it.ipf("-r", "-f", "-", stdin=LOG.format(0, 2)).status == 0


def test_a_real_rule_in_use(box: Sandbox) -> None:
    """``ipfstat -iR``, and then ``ipf -r`` by the same shell."""
    assert box.run("ipf", "-f", "-", stdin=LOG.format(0, 2)).status == 0
    assert box.run("ipfstat", "-iR").stdout.count("\n") == 1
    refused = box.run("ipf", "-r", "-f", "-", stdin=LOG.format(0, 2))
    assert (refused.status, refused.stderr) == (1, "31:1:ioctl(delete rule) rule in use\n")
    box.run("ipf", "-Fa")
