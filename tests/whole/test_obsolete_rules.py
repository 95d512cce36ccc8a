"""What reloads in quick succession must not keep up: the removal of rules that nobody wants, and what a tool can do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from l4ipd import obsolete_rules
from l4ipd.model import Check, Cluster, Config, Member, Service
from l4ipd.obsolete_rules import ObsoleteRules
from support.daemon_in_process import B, DaemonInProcess, until


class Silent:
    """A probe that nobody answers."""

    def expire(self) -> None: ...
    def cancel(self) -> None: ...


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[DaemonInProcess]:
    it = DaemonInProcess(tmp_path)
    yield it
    it.close()


def test_a_rule_of_nobody_waits_for_first_outcomes_but_no_longer_than_they_can_take() -> None:
    loop = SimpleNamespace(now=100.0)
    it = ObsoleteRules(loop)                        # type: ignore[arg-type]
    checks = Check("tcp", timeout=2.0), Check("http", timeout=3.0)
    service = Service("http", 80, "tcp", 8080, False, checks)
    it.expect(Config(clusters=(Cluster("www", ("203.0.113.1",), (service,), (Member("a", "10.0.0.1"),)),)))
    assert it.patience == 2 * 5.0 + obsolete_rules.SPARE
    assert not it.may_go("one", True)
    assert it.may_go("two", False), "all is decided"
    loop.now += it.patience
    assert not it.may_go("one", True)
    loop.now += 0.1
    assert it.may_go("one", True) and not it.may_go("three", True)
    it.keep_only({"one": None, "two": None, "three": None}, {"one": None})
    assert not it.may_go("one", True), "it had an owner meanwhile"
    loop.now += it.patience + 0.1
    assert it.may_go("two", True) and it.may_go("three", True), "nothing has changed"
    it.keep_only({"three": None}, {})
    assert not it.may_go("two", True) and it.may_go("three", True), "it was gone meanwhile"


def test_without_checks_nothing_is_waited_for_but_what_is_spare() -> None:
    loop = SimpleNamespace(now=100.0)
    it = ObsoleteRules(loop)                        # type: ignore[arg-type]
    for line in ("one", "two"):
        assert not it.may_go(line, True)
        loop.now += obsolete_rules.SPARE + 0.1
        assert it.may_go(line, True)
        it.expect(Config())


def test_reloads_every_few_moments_do_not_keep_a_rule_of_nobody(whole: DaemonInProcess,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has an endpoint that is new, and has no outcome before the next."""
    monkeypatch.setattr(obsolete_rules, "SPARE", 0.3)
    rule = f"rdr lo0 127.0.0.1/32 port {whole.port} -> 127.0.0.77 port {whole.inside} tcp round-robin tag l4ip"
    reloads = 0

    def reload_again() -> None:
        nonlocal reloads
        reloads += 1
        whole.configure(members=f"new{reloads}: 127.0.1.{reloads % 250}, web2: {B}")
        whole.daemon.apply(load_again())
        whole.loop.later(0.02, reload_again)

    def load_again() -> Config:
        from l4ipd.config.files import load
        return load(str(whole.file))

    whole.daemon.fleet.schedule.start = lambda recipe, done: Silent()
    reload_again()
    with (whole.directory / "rules").open("a") as rules:
        rules.write(f"{rule}\n")
    whole.daemon.steering.rules.reread()
    until(whole.loop, lambda: rule in whole.daemon.steering.rules.have)
    until(whole.loop, lambda: rule not in whole.daemon.steering.rules.have)
    assert whole.daemon.fleet.undecided and reloads > 5


def test_what_a_tool_says_that_is_no_longer_in_use_is_not_believed(whole: DaemonInProcess) -> None:
    daemon = whole.daemon
    until(whole.loop, lambda: daemon.steering.dialect.sure and daemon.steering.dialect.purge)
    slow = whole.directory / "slow"
    slow.write_text(f'#!/bin/sh\ncase "$*" in *-n*) touch {whole.directory}/asked; sleep 1; echo "usage: ipnat" >&2; '
                    f'exit 1 ;; esac\nexec {whole.tool} "$@"\n')
    slow.chmod(0o755)
    good, whole.tool = whole.tool, slow
    whole.configure()
    assert whole.ctl(command="reload")["exit"] == 0
    until(whole.loop, (whole.directory / "asked").exists)
    whole.tool = good
    whole.configure()
    assert whole.ctl(command="reload")["exit"] == 0
    until(whole.loop, lambda: daemon.steering.dialect.sure)
    assert daemon.steering.dialect.purge and "-p" in daemon.steering.rules.table.purging
