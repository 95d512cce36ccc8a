"""The reconciler on a simulated clock: what others do to the table, and what listings do to the kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from l4ipd.ipfilter import rdr
from l4ipd.ipfilter.conflicts import LEFT_ALONE, Conflicts
from l4ipd.ipfilter.nat_table import Dialect, NatTable, whose
from l4ipd.ipfilter.rdr import parse
from l4ipd.ipfilter.reconcile import Reconciler
from l4ipd.model import Ipfilter
from support.reconciler import ReconcilerBench, internal_errors, log_rule, rule


@pytest.fixture(autouse=True)
def sane(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    yield
    assert not internal_errors(caplog)


def texts(caplog: pytest.LogCaptureFixture, pattern: str) -> list[str]:
    return [record.getMessage() for record in caplog.records if re.search(pattern, record.getMessage())]


def doubled(line: str) -> str:
    """IPFilter takes it for another rule, and lists it alike."""
    return line.replace("ext0 ", "ext0,ext0 ")


# -- equal rules

@pytest.mark.parametrize("lines", [[rule(2)], [rule(2), rule(3)], [rule(member) for member in range(2, 12)]])
def test_of_equal_rules_one_is_left_without_a_gap(lines: list[str]) -> None:
    bench = ReconcilerBench()
    bench.tools.add([*lines, *map(doubled, lines)])
    assert len(bench.ours()) == 2 * len(lines)
    bench.want(*lines)
    gaps: list[str] = []
    spawn = bench.it._runner.spawn

    def watched(loop: object, words: object, **more: object) -> object:
        gaps.extend(line for line in lines if line not in bench.ours())
        return spawn(loop, words, **more)

    bench.it._runner.spawn = watched                # type: ignore[assignment]
    bench.settle()
    assert bench.ours() == sorted(lines) and not gaps
    assert not bench.it.held and not bench.it.complaint
    bench.want()
    bench.settle()
    assert bench.ours() == []


def test_both_of_two_equal_rules_go() -> None:
    bench = ReconcilerBench()
    bench.tools.add([rule(2), doubled(rule(2))])
    bench.until(lambda: bench.ours() == [], 2.0)
    bench.settle()


def test_a_rule_that_is_listed_like_another_goes() -> None:
    bench = ReconcilerBench()
    bench.tools.add([doubled(rule(2))])
    bench.until(lambda: bench.ours() == [], 2.0)
    bench.settle()


# -- leftovers

def test_a_leftover_with_our_tag_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench()
    bench.want(rule(2))
    bench.settle()
    for member in (3, 3, 4):
        bench.tools.add([rule(member)])
        bench.it.reread()
        bench.settle()
        assert bench.ours() == [rule(2)]
    assert texts(caplog, "no endpoint makes") == [
        f"a rule with the tag l4ip that no endpoint makes will be removed: {rule(member)}: it is of somebody"
        for member in (3, 4)]


def test_many_leftovers_are_one_line(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench()
    bench.tools.add(map(rule, range(2, 500)))
    bench.settle()
    assert len(texts(caplog, "498 rules with the tag l4ip that no endpoint makes")) == 1


def test_what_we_have_loaded_is_no_leftover(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench()
    bench.want(*map(rule, range(2, 6)))
    bench.settle()
    bench.ways = dict.fromkeys(map(rule, range(2, 6)))
    bench.want()                                    # their endpoints are gone, and they stay for a while
    for _ in range(3):
        bench.it.reread()
        bench.settle()
    bench.ways = {}
    bench.it.touch()
    bench.settle()
    assert bench.ours() == [] and not texts(caplog, "no endpoint")


@pytest.mark.parametrize(("line", "words"), [
    (rule(2), "it is of an earlier configuration, or of another l4ipd with the tag l4ip"),
    (rule(2).replace("port 80 ", "port 8000-8010 "), "it is of an earlier configuration, or of another"),
    (rule(2).replace("robin", "robin age 30/30 sticky"), "it is of an earlier configuration, or of another"),
    (rule(2).replace("tcp round-robin", "tcp"), "l4ipd makes no such rule"),
    (rule(2).replace(" tcp ", " tcp/udp "), "l4ipd makes no such rule"),
    (rule(2).replace("203.0.113.1/32 port 80", "from 0/0 to 203.0.113.1/32 port = 80"), "l4ipd makes no such rule"),
    (rule(2).replace("203.0.113.1/32", "203.0.113.0/24"), "l4ipd makes no such rule"),
    (rule(2).replace("10.0.0.2", "10.0.0.2,10.0.0.3"), "l4ipd makes no such rule"),
    (rule(2).replace("robin", "robin mssclamp 1400"), "l4ipd makes no such rule"),
])
def test_whose_a_leftover_may_be(line: str, words: str) -> None:
    assert parse(line) is not None
    assert whose(line, "l4ip").startswith(words)
    assert "l4ip" in whose(line, "l4ip")


def test_whose_it_may_be_without_tags() -> None:
    assert whose(rule(2).replace(" tag l4ip", ""), None) == "it is of an earlier configuration"


# -- another l4ipd with our tag

class Conflict:
    """Two reconcilers with one tag on one kernel, that want different rules."""

    def __init__(self, resync: float = 10.0) -> None:
        self.bench = bench = ReconcilerBench(resync=resync)
        settings = Ipfilter(interface="ext0")
        nat = NatTable(settings, Dialect("6.0.0", True, True), lambda line: None)
        self.other = Reconciler(bench.loop, nat.table, 5.0, resync, removal=lambda line: "drain", listed=nat.listed,
                                whose=lambda line: whose(line, "l4ip"), spawn=bench.tools.spawn)
        bench.want(rule(2), rule(3))
        self.other.want = {rule(4): None}

    def changes(self, seconds: float) -> int:
        before = len(self.bench.tools.runs)
        self.bench.run(seconds)
        return sum("-l" not in words for words in self.bench.tools.runs[before:])


def test_two_with_one_tag_say_it_and_slow_down(caplog: pytest.LogCaptureFixture) -> None:
    conflict = Conflict()
    conflict.bench.run(75.0)
    said = texts(caplog, "3 times within a minute")
    assert len(said) == 2, "each once"
    assert "another l4ipd with the tag l4ip is the likely cause: give each its own" in said[0]
    assert conflict.changes(LEFT_ALONE[0]) < 8
    assert conflict.changes(600.0) < 40, "a tenth of what it would be"
    assert len(texts(caplog, "3 times within a minute")) < 8
    conflict.other.pause = True                        # somebody stops it
    conflict.bench.until(conflict.bench.right, LEFT_ALONE[-1] + 20.0)
    conflict.bench.settle(LEFT_ALONE[-1])


def test_the_service_has_its_rules_most_of_the_time_meanwhile() -> None:
    conflict = Conflict()
    conflict.bench.run(120.0)
    there = 0
    for _ in range(600):
        conflict.bench.run(1.0)
        there += {rule(2), rule(3), rule(4)} <= set(conflict.bench.ours())
    assert there > 500


def test_a_flush_now_and_then_is_no_conflict(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench()
    bench.want(rule(2), rule(3))
    bench.settle()
    for _ in range(10):
        bench.run(31.0)
        bench.tools.kernel.nat.clear()
        bench.tools.add(["rdr ext0 203.0.113.1/32 port 25 -> 10.0.0.7 port 25 tcp round-robin"])
        bench.until(bench.right, 12.0)
    assert not texts(caplog, "likely cause") and len(bench.repaired) == 20


def test_a_conflict_shows() -> None:
    it = Conflicts(lambda line: "")
    for now in (0.0, 20.0, 40.0):
        assert not it.contested(now)
        late = it.removed(["x"], now, 60.0, "the tag l4ip")
        it.put_back("x", now + 1.0, 60.0)
    assert late and it.contested(40.0) and not it.contested(40.0 + LEFT_ALONE[0])


def test_a_loss_that_was_none_does_not_count() -> None:
    """A listing left them out: to load them again is refused."""
    it = Conflicts(lambda line: "")
    for now in range(20):
        assert not it.removed(["x"], float(now), 60.0, "the tag l4ip")
        it.settle(lambda line: True)


# -- what listings leave behind

@pytest.mark.parametrize("resync", [1.0, 10.0])
def test_a_log_rule_goes_although_a_listing_keeps_it_in_use(resync: float, caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench(tool="ipf", resync=resync)
    lines = [log_rule(member) for member in range(2, 6)]
    bench.want(*lines)
    bench.settle()
    bench.run(30.0)
    bench.want(*lines[1:])                          # the one at the end of the list
    bench.until(bench.right, 13.0)
    bench.settle()
    assert not texts(caplog, "."), "nobody need know"
    before = len(bench.tools.runs)
    bench.run(30.0)
    assert len(bench.tools.runs) >= before + 2, "it is read back as before"


def test_rules_are_loaded_while_another_is_in_use() -> None:
    bench = ReconcilerBench(tool="ipf")
    bench.want(log_rule(2), log_rule(3))
    bench.settle()
    bench.want(log_rule(3))
    bench.run(2.0)
    assert not bench.right()
    bench.want(log_rule(3), log_rule(4))
    bench.until(lambda: log_rule(4) in bench.ours(), 1.0)
    bench.until(bench.right, 13.0)


def test_somebody_elses_listings_keep_it_in_use_for_ever() -> None:
    """Then the table is read all the same, now and then."""
    bench = ReconcilerBench(tool="ipf")
    bench.want(log_rule(2), log_rule(3))
    bench.settle()
    bench.want(log_rule(3))

    def look() -> None:
        list(bench.tools.begin(("ipfstat", "-iR")))         # one of our own children, to the kernel
        bench.loop.later(1.0, look)

    look()
    before = len(bench.tools.runs)
    bench.run(120.0)
    runs = bench.tools.runs[before:]
    assert 5 < sum("-iR" in words for words in runs) < 20
    assert log_rule(2) in bench.ours() and log_rule(2) in bench.it.held


def test_a_listing_that_began_in_the_middle_is_not_believed(caplog: pytest.LogCaptureFixture) -> None:
    """After one that was killed, the next begins where that was: it is read for nothing, and nobody is alarmed."""
    bench = ReconcilerBench(3)
    lines = [rule(member) for member in range(2, 60)]
    bench.want(*lines)
    bench.settle()
    for _ in range(20):
        bench.noise("die", "hang", "stubborn", only="list")
        bench.run(bench.source.uniform(10.0, 30.0))
        bench.quiet()
        bench.run(20.0)
        assert bench.right()
    assert not bench.repaired and not texts(caplog, "somebody else")
    assert not any("-l" not in words for words in bench.tools.runs[4:]), "nothing was changed"


def test_one_by_somebody_else_that_was_cut_is_confirmed_first(caplog: pytest.LogCaptureFixture) -> None:
    """A look at the table, for people, was killed: we do not know, and read less than there is."""
    bench = ReconcilerBench()
    lines = [rule(member) for member in range(2, 60)]
    bench.want(*lines)
    bench.settle()
    run = bench.tools.begin(("ipnat", "-l"))
    for _ in range(30):
        next(run)
    run.close()
    before = len(bench.tools.runs)
    bench.it.reread()
    bench.settle()
    assert len(bench.tools.runs) - before == 2 and not bench.repaired and bench.right()


def test_what_two_listings_miss_is_gone() -> None:
    bench = ReconcilerBench()
    lines = [rule(member) for member in range(2, 60)]
    bench.want(*lines)
    bench.settle()
    bench.tools.remove(lines[0])
    before = len(bench.tools.runs)
    bench.it.reread()
    bench.settle()
    assert bench.repaired == lines[:1] and bench.right()
    assert [words[1] for words in bench.tools.runs[before:]] == ["-l", "-l", "-f", "-l"]


def test_a_flush_is_believed_at_once() -> None:
    bench = ReconcilerBench()
    bench.want(rule(2), rule(3))
    bench.settle()
    bench.tools.remove(rule(2))
    bench.tools.remove(rule(3))
    before = len(bench.tools.runs)
    bench.it.reread()
    bench.settle()
    assert [words[1] for words in bench.tools.runs[before:]] == ["-l", "-f", "-l"]


# -- a line that the tool refuses

def test_a_rule_that_is_refused_for_ever_is_cheap_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench()
    bad = rule(66).replace("port 8080", "port 99999")
    good = [rule(member) for member in range(2, 30)]
    bench.want(*good[:9], bad, *good[9:])
    bench.until(lambda: bench.ours() == sorted(good), 3.0)
    bench.run(10.0)
    before = len(bench.tools.runs)
    bench.run(60.0)
    assert 30 < len(bench.tools.runs) - before < 60, "every three seconds, and what it has done is looked at"
    assert len(texts(caplog, "does not load this rule")) == 1


def test_hundreds_that_are_refused_do_not_hold_up_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    """As IPv6 rules by a tool that does not know the word."""
    bench = ReconcilerBench()
    bad = [rule(member, 81).replace("port 8080", "port 99999") for member in range(2, 302)]
    good = [rule(member) for member in range(2, 102)]
    bench.want(*bad, *good)
    bench.until(lambda: bench.ours() == sorted(good), 30.0)
    bench.want(*bad, *good, rule(200))
    bench.until(lambda: rule(200) in bench.ours(), 3.0)


def test_while_nothing_works_no_rule_is_blamed(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench()
    bench.settle()
    bench.noise("fail", only="change")
    bench.want(*map(rule, range(2, 100)))
    bench.run(120.0)
    assert texts(caplog, ".") == ["ipnat: ioctl: the weather is bad; trying again"]
    before = len(bench.tools.runs)
    bench.run(60.0)
    assert len(bench.tools.runs) - before < 60 / 2 * 20
    bench.quiet()
    bench.until(bench.right, 5.0)
    bench.settle()
    assert not texts(caplog, "this rule")


def test_news_does_not_wait_for_an_old_failure() -> None:
    bench = ReconcilerBench()
    bench.settle()
    bench.noise("fail", only="change")
    bench.want(rule(2))
    bench.run(60.0)
    bench.until(lambda: bench.it._changes.backoff.waiting, 5.0)
    bench.quiet()
    bench.want(rule(2), rule(3))
    bench.until(lambda: rule(3) in bench.ours(), 0.5)


def test_a_slow_tool_has_its_time() -> None:
    """Four seconds for each run, of five."""
    bench = ReconcilerBench()
    bench.noise("slow")
    bench.want(*map(rule, range(2, 30)))
    bench.until(bench.right, 30.0)
    bench.want(*map(rule, range(20, 50)))
    bench.until(bench.right, 60.0)
    assert bench.it.faults.runs == 0


# -- many rules of others

class Counted:
    """Counts what is parsed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[str] = []
        real = rdr.parse

        def counting(line: str, *more: object) -> object:
            self.lines.append(line)
            return real(line, *more)                # type: ignore[arg-type]

        monkeypatch.setattr(rdr, "parse", counting)


def test_a_foreign_rule_is_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = ReconcilerBench()
    bench.tools.add(f"rdr ext0 203.0.113.{1 + n % 3}/32 port {1000 + n} -> 10.9.0.9 port 80 tcp" for n in range(3000))
    bench.want(rule(2), rule(3))
    bench.settle()
    counted = Counted(monkeypatch)
    for _ in range(5):
        bench.it.reread()
        bench.settle()
    assert counted.lines == []
    bench.want(rule(2), rule(3, 81))                # what is met is looked at anew, and only that
    bench.settle()
    assert len(counted.lines) < 10


def test_rules_in_our_way_among_many(caplog: pytest.LogCaptureFixture) -> None:
    bench = ReconcilerBench()
    bench.tools.add(f"rdr ext0 203.0.113.1/32 port {1000 + n} -> 10.9.0.9 port 80 tcp" for n in range(300))
    bench.tools.add(["rdr ext0 203.0.113.1/32 port 70-90 -> 10.9.0.9 port 80 tcp",
                     "rdr ext0 203.0.113.1/32 port 1-79 -> 10.9.0.9 port 80 tcp",
                     "rdr ext0 203.0.113.1/32 -> 10.9.0.9 ip",
                     "rdr ext0 203.0.113.2/32 port 80 -> 10.9.0.9 port 80 tcp"])
    bench.want(rule(2), rule(3), rule(4, 1007), rule(5, 5000))
    for _ in range(3):
        bench.it.reread()
        bench.settle()
    said = texts(caplog, "a rule that is not ours takes every connection for itself")
    assert sorted(re.findall(r"port up: (.*?) -> .*: it meets ours: (.*?) ->", "\n".join(said))) == sorted([
        ("rdr ext0 203.0.113.1/32 port 70-90", "rdr ext0 203.0.113.1/32 port 80"),
        ("rdr ext0 203.0.113.1/32 port 1007", "rdr ext0 203.0.113.1/32 port 1007"),
        ("rdr ext0 203.0.113.1/32", "rdr ext0 203.0.113.1/32 port 80"),
        ("rdr ext0 203.0.113.1/32", "rdr ext0 203.0.113.1/32 port 1007"),
        ("rdr ext0 203.0.113.1/32", "rdr ext0 203.0.113.1/32 port 5000")])


@pytest.mark.parametrize("line", [
    rule(2), rule(2, 81, ".17"), rule(2).replace("robin", "robin sticky"), rule(2).replace("10.0.0.2", "10.0.0.2/32"),
    rule(2).replace(" tcp ", " udp "), rule(2).replace(" tag l4ip", ""), "7 " + rule(2),
    rule(2).replace("l4ip", "l" * 20), rule(2).replace("80 ", "99999 ", 1), rule(2).replace("8080", "99999"),
    rule(2).replace("10.0.0.2", "10.0.0.256"),
    rule(2).replace("10.0.0.2", "10.0.0.02"), rule(2) + " # of mine", rule(2) + ";", rule(2).replace("203.", "0203."),
])
def test_plain_rules_are_read_as_others_are(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is a short way for the plain ones."""
    short = parse(line)
    monkeypatch.setattr(rdr, "PLAIN", re.compile("nothing"))
    assert short == parse(line)
