"""The NAT table as the reconciler sees it: how this ipnat is spoken to, whose rule is whose, and who is in the way."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from l4ipd.ipfilter.listing import Iterator
from l4ipd.ipfilter.nat_table import Dialect, Listed, NatTable, Sides, find_dialect, is_unknown, whose
from l4ipd.ipfilter.rdr import parse
from l4ipd.model import Ipfilter
from l4ipd.runtime.loop import Loop
from support.reconciler import SETTINGS, rule

WORDS = Ipfilter(interface="ext0", ipnat=("nat", "x"), ipf=("pf",), tag="l4ip")
ONE, TWO = rule(2), rule(3)
OTHERS = ONE.replace("tag l4ip", "tag other")


def table(known: Iterable[str] = (), want: Iterable[str] = (), settings: Ipfilter = WORDS, **more: object) -> NatTable:
    known, want = {line: line for line in known}, dict.fromkeys(want)
    return NatTable(settings, Dialect(), known.get, lambda: want, **more)       # type: ignore[arg-type]


def read(it: NatTable, *lines: str) -> list[str | None]:
    """A listing of these, to its end."""
    there = it.table
    there.begin()
    told = [there.read(line) for line in lines]
    it.listed()
    return told


# -- the tools

SAY = {"nothing": "true", "option": "echo 'nat: illegal option -- p' >&2; exit 1",
       "usage": "echo 'Usage: nat' >&2; exit 2", "fails": "echo 'open: No such device' >&2; exit 1",
       "grumbles": "echo hm >&2", "fails silently": "exit 1",
       "no text": "printf '\\377 option' >&2; exit 1"}


@pytest.mark.parametrize(("version", "says", "found"), [
    ("IP Filter: v5.1.2 (592)", "nothing", Dialect("5.1.2", True, True, True)),
    ("IP Filter: 6.0.0", "nothing", Dialect("6.0.0", True, True, True)),
    ("ipf: IP Filter: v10.1", "nothing", Dialect("10.1", True, True, True)),
    ("IP Filter: v4.1.28 (480)", "nothing", Dialect("4.1.28", False, True, True)),
    ("IP Filter: v4.1.28 (480)", "option", Dialect("4.1.28", False, False, True)),
    ("IP Filter: v4.1.28 (480)", "usage", Dialect("4.1.28", False, False, True)),
    ("IP Filter: v4.1.28 (480)", "fails", Dialect("4.1.28", False, False, False)),
    ("IP Filter: v5.1.2", "grumbles", Dialect("5.1.2", True, False, False)),
    ("IP Filter: v5.1.2", "fails silently", Dialect("5.1.2", True, False, False)),
    ("IP Filter: v4.1.28 (480)", "no text", Dialect("4.1.28", False, False, True)),
    ("what?", "nothing", Dialect("", True, True, True)),
    ("what?", "option", Dialect("", True, False, False)),
    ("IP Filter: v" + "9" * 5000, "nothing", Dialect("9" * 21, True, True, True)),
    ("IP Filter: v5.", "nothing", Dialect("", True, True, True)),
])
def test_what_this_ipfilter_understands(tmp_path: Path, version: str, says: str, found: Dialect) -> None:
    loop, told = Loop(), []
    ask = f"echo : \"$@\" >{tmp_path}/asked; cat >{tmp_path}/fed; {SAY[says]}"
    tell = f"echo : \"$@\" >{tmp_path}/version; echo '{version}'"
    tools = Ipfilter(interface="ext0", ipf=("/bin/sh", "-c", tell, "pf"), ipnat=("/bin/sh", "-c", ask, "nat"))

    def done(dialect: Dialect) -> None:
        told.append(dialect)
        loop.stop()

    find_dialect(loop, tools, done)
    assert not told
    loop.run()
    loop.close()
    assert told == [found]
    assert (tmp_path / "version").read_text() == ": -V\n"
    assert (tmp_path / "asked").read_text() == ": -n -r -p -f -\n"
    assert (tmp_path / "fed").read_text() == "", "it has nothing to do"


def test_tools_that_hang_are_not_waited_for_longer_than_the_timeout() -> None:
    loop, told = Loop(), []
    hang = ("/bin/sh", "-c", "exec sleep 600", "x")
    began = loop.clock()

    def done(dialect: Dialect) -> None:
        told.append(dialect)
        loop.stop()

    find_dialect(loop, Ipfilter(interface="ext0", ipf=hang, ipnat=hang, timeout=0.05), done)
    loop.later(120.0, loop.stop)
    loop.run()
    assert loop.clock() - began < 100.0 and told == [Dialect("", True, False, False)]
    loop.close()


def test_bytes_that_are_no_text() -> None:
    assert not is_unknown("\ufffd") and is_unknown("ILLEGAL OPTION") and is_unknown("usage: x")
    assert not is_unknown("usage")


@pytest.mark.parametrize(("dialect", "purging", "fed"), [
    (Dialect("6.0.0", True, True), ("nat", "x", "-r", "-p", "-f", "-"), "rdr e inet6 a inet6 b"),
    (Dialect("5.1.2", True, False), ("nat", "x", "-r", "-f", "-"), "rdr e inet6 a inet6 b"),
    (Dialect("4.1.28", False, False), ("nat", "x", "-r", "-f", "-"), "rdr e a inet6 b"),
])
def test_the_words_for_its_tools(dialect: Dialect, purging: tuple[str, ...], fed: str) -> None:
    it = table()
    it.speak(dialect)
    there = it.table
    assert (there.name, there.key) == ("ipnat", "ipfilter.ipnat")
    assert there.listing == ("nat", "x", "-l") and there.adding == ("nat", "x", "-f", "-")
    assert there.removing == ("nat", "x", "-r", "-f", "-") and there.purging == purging
    assert there.feed("rdr e inet6 a inet6 b") == fed
    assert there.end == "List of active sessions:" and there.mark == "the tag l4ip" and there.bare("x") == "x"
    assert there.iterator is it.iterator


def test_without_a_tag_nothing_marks_a_rule_as_ours() -> None:
    assert table(settings=replace(WORDS, tag=None)).table.mark == ""


def test_the_iterator_stays_when_settings_change() -> None:
    iterator = Iterator()
    assert table(iterator=iterator).iterator is iterator


def test_what_else_is_listed_alike() -> None:
    other = table().table.other
    assert other(rule(2)) == rule(2).replace("ext0 ", "ext0,ext0 ")
    assert other(rule(2).replace("ext0 ", "ext0,ext1 ")) == rule(2).replace("ext0 ", "ext0,ext1 ")
    assert other("rdr a") == "rdr a,a"


# -- what a line says

def test_what_is_understood_of_a_line() -> None:
    it = table()
    assert it.understand(ONE) == Listed(ONE, True, "203.0.113.1/32", (80, 80))
    assert it.understand(OTHERS) == Listed(OTHERS, False, "203.0.113.1/32", (80, 80))
    assert it.understand(ONE.replace("port 80 ", "port 70-90 ", 1)) == Listed(
        ONE.replace("port 80 ", "port 70-90 ", 1), True, "203.0.113.1/32", (70, 90))
    any_port = "rdr ext0 203.0.113.1/32 -> 10.9.0.9 ip"
    assert it.understand(any_port) == Listed(any_port, False, "203.0.113.1/32", (0, 0))
    assert it.understand("map ext0 10.0.0.0/8 -> 0/32") is None
    assert it.understand("map ext0 10.0.0.0/8 -> 0/32") is None, "and the second time"


def test_services_by_name() -> None:
    listed = table().understand(ONE.replace("port 80 ", "port http ", 1))
    assert listed is not None and listed.line == ONE


def test_the_canonical_line_is_the_callers_copy() -> None:
    mine = "".join(list(ONE))
    it = NatTable(WORDS, Dialect(), {ONE: mine}.get)
    listed = it.understand(ONE)
    assert listed is not None and listed.line is mine


def test_whose_rules_are_ours() -> None:
    plain = ONE.replace(" tag l4ip", "")
    assert read(table(), ONE, ONE + ".17", OTHERS, plain, "map x", "") == [ONE, ONE + ".17", None, None, None, None]
    assert read(table(known=[plain]), ONE, plain) == [ONE, plain]
    assert read(table(settings=replace(WORDS, tag=None)), ONE, plain) == [None, None]


def test_older_tags_are_ours_while_they_are_in_there() -> None:
    it = table(old_tags=("old", "older"))
    older = [ONE.replace("tag l4ip", f"tag {tag}") for tag in ("old", "older.3", "oldest", "old.1")]
    assert read(it, *older, ONE) == [older[0], older[1], None, None, ONE]
    it.old_tags = ()
    assert read(it, *older, ONE) == [None, None, None, None, ONE]


def test_a_word_after_the_tag_is_no_part_of_it() -> None:
    purged = "rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 80 tcp round-robin tag old purge"
    assert parse(purged) is not None
    assert read(table(old_tags=("old",)), purged) == [purged]
    assert read(table(old_tags=("tcp", "rdr", "")), purged, ONE.replace(" tag l4ip", "")) == [None, None]


def test_lines_are_remembered_while_they_are_listed() -> None:
    for count, left in ((300, 300), (301, 1)):
        it = table()
        lines = [rule(member) for member in range(2, 2 + count)]
        read(it, *lines)
        assert set(it._seen) == set(lines)
        read(it, *lines[:100])
        assert len(it._seen) == count
        read(it, lines[0])                          # there may be twice as many as there were last, and a hundred
        assert len(it._seen) == left


# -- who is in the way

def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    said = caplog.messages[:]
    caplog.clear()
    return said


def test_a_rule_in_our_way_is_told_of_once_until_it_has_gone(caplog: pytest.LogCaptureFixture) -> None:
    wider = "rdr ext0 203.0.113.1/32 port 70-90 -> 10.9.0.9 port 80 tcp"
    it = table(want=[ONE, TWO, rule(2, 85)])
    read(it, wider, ONE)
    assert warnings(caplog) == [
        f"a rule that is not ours takes every connection for itself: remove it, or give its port up: {wider}: it meets "
        f"ours: {ours}" for ours in (TWO, rule(2, 85))]
    read(it, wider)
    assert warnings(caplog) == []
    read(it, ONE)
    assert warnings(caplog) == []
    read(it, wider)
    assert len(warnings(caplog)) == 2
    read(it, wider, wider.replace("70-", "84-"))
    assert len(warnings(caplog)) == 1, "another one that meets one of those"


def test_one_that_takes_its_turn(caplog: pytest.LogCaptureFixture) -> None:
    read(table(want=[ONE]), OTHERS)
    assert warnings(caplog) == ["a rule that is not ours takes its turn among our members: remove it, or give its port "
                                f"up: {OTHERS}: it meets ours: {ONE}"]


def test_what_is_ours_or_elsewhere_is_in_nobodys_way(caplog: pytest.LogCaptureFixture) -> None:
    it = table(want=[ONE])
    read(it, ONE, TWO, OTHERS.replace("port 80 ", "port 81 ", 1), OTHERS.replace("203.0.113.1/", "203.0.113.2/"),
         OTHERS.replace(" tcp ", " udp "), OTHERS.replace("ext0", "ext1"))
    assert not warnings(caplog)


def test_the_wish_may_change(caplog: pytest.LogCaptureFixture) -> None:
    want: dict[str, None] = {}
    it = NatTable(WORDS, Dialect(), lambda line: None, lambda: want)
    read(it, OTHERS)
    assert not warnings(caplog)
    want = {ONE: None}
    read(it, OTHERS)
    assert len(warnings(caplog)) == 1
    sides = it._ours
    read(it, OTHERS)
    assert it._ours is sides, "and is looked at anew only then"


def near(sides: Sides, first: int, last: int, vip: str = "203.0.113.1/32") -> list[int]:
    return sorted(rule.ports[0] for rule in sides.near(vip, (first, last)) if rule.ports)


def test_whom_a_rule_may_meet() -> None:
    ranged = rule(2).replace("port 80 ", "port 8000-8010 ", 1)
    plain = Sides([rule(2, 80), rule(3, 80), rule(2, 81)])
    assert near(plain, 80, 80) == [80] and near(plain, 82, 82) == []
    assert near(plain, 0, 0) == [80, 81] == near(plain, 70, 90), "those with a range are looked at one by one"
    assert near(plain, 80, 80, "203.0.113.2/32") == []
    both = Sides(["no rule", rule(2, 80), rule(2, 81), ranged])
    assert near(both, 80, 80) == [80, 8000] and near(both, 5, 5) == [8000] and near(both, 0, 0) == [80, 81, 8000]
    only = Sides([ranged, "rdr ext0 203.0.113.1/32 -> 10.9.0.9 ip"])
    assert near(only, 80, 80) == [8000] == near(only, 0, 0) and near(only, 80, 80, "203.0.113.9/32") == []


def test_how_they_clash() -> None:
    it = Sides([ONE, rule(2, 81)])

    def clashes(line: str) -> list[tuple[str, str]]:
        listed = table().understand(line)
        assert listed is not None
        return [(ours.line(), how) for ours, how in it.clashes(listed)]

    assert clashes(OTHERS) == [(ONE, "takes its turn among our members")]
    assert clashes("rdr ext0 203.0.113.1/32 -> 10.9.0.9 ip") == [
        (ONE, "takes every connection for itself"), (rule(2, 81), "takes every connection for itself")]
    assert clashes(OTHERS.replace("203.0.113.1/", "203.0.113.2/")) == []
    assert it.clashes(Listed("no rule", False, "203.0.113.1/32", (80, 80))) == []


def test_the_same_sides_for_the_same_wish() -> None:
    want = {ONE: None}
    it = Sides(want)
    assert it.of(want) is it and it.of({ONE: None}) is not it and near(it.of({rule(2, 9): None}), 9, 9) == [9]


def test_whose_it_may_be_word_for_word() -> None:
    assert whose(ONE, "l4ip") == "it is of an earlier configuration, or of another l4ipd with the tag l4ip"
    assert whose("map x", None) == "it is of an earlier configuration"
    assert whose(ONE.replace("tcp round", "tcp/udp round"), "l4ip") == (
        "l4ipd makes no such rule: whoever has loaded it should use another tag than l4ip")
    assert SETTINGS.tag == "l4ip"
