"""Runs of tools, one at a time: how long each is waited for, and when the tool is asked whether it works at all."""

from __future__ import annotations

import pytest

from l4ipd.ipfilter import runner
from l4ipd.ipfilter.runner import AGAIN, LATER, PATIENCE, RATE, SOONER, Question, Runner
from l4ipd.runtime.child import Child, Exit
from l4ipd.runtime.loop import Loop
from support import simulated_tools
from support.simulated_tools import World

LIST, ADD = ("ipnat", "-l"), ("ipnat", "-f", "-")
TIMEOUT = 60.0
END = b"List of active sessions:"
TICK = 0.02
ADDING = Question(ADD)
LISTING = Question(LIST, END)


class Bench(World):
    """``faults`` are those of the next runs, in their order."""

    def __init__(self, *faults: str, takes: float = 0.1, seed: int = 0) -> None:
        super().__init__(seed, (takes, takes))
        self.faults = list(faults)
        self.tools.fault = lambda words: self.faults.pop(0) if self.faults else "ok"
        self.torn: list[bool] = []
        self.ends: list[tuple[Exit, bool]] = []
        self.began = 0
        self.it = Runner(self.loop, self.tools.spawn, self.torn.append)

    def start(self, kind: str = "change", question: Question = ADDING, lines: int = 0,
              timeout: float = TIMEOUT) -> None:
        self.it.start(kind, LIST if kind == "list" else ADD, question, timeout, self.ended, stdin=b"#\n" * lines)

    def ended(self, end: Exit, broken_off: bool) -> None:
        assert not self.it.busy
        self.ends.append((end, broken_off))

    def one(self, kind: str = "change", question: Question = ADDING, lines: int = 0,
            timeout: float = TIMEOUT) -> tuple[float, Exit, bool]:
        """A run, to its end: how long that took, and what it was."""
        self.start(kind, question, lines, timeout)
        took = self.until(lambda: bool(self.ends), TIMEOUT + 5.0)
        return took, *self.ends.pop()

    def works(self) -> None:
        assert self.one("list", LISTING)[1].clean

    @property
    def asked(self) -> list[tuple[str, ...]]:
        """Since the last run began."""
        return self.tools.runs[self.began:]

    def begin(self, *faults: str) -> None:
        self.faults = list(faults)
        self.began = len(self.tools.runs) + 1


def near(seconds: float) -> object:
    return pytest.approx(seconds, abs=3 * TICK)


def test_a_run_that_is_well() -> None:
    bench = Bench()
    assert not bench.it.busy and bench.it.runs == 0
    bench.start()
    assert bench.it.busy and bench.it.runs == 1 and not bench.ends
    bench.until(lambda: bool(bench.ends), 5.0)
    assert bench.ends == [(Exit(0), False)] and not bench.torn
    assert bench.tools.runs == [ADD]
    bench.run(60.0)
    assert bench.tools.runs == [ADD], "it is over"


def test_what_it_is_fed_and_what_it_says_go_through() -> None:
    bench = Bench()
    out: list[bytes] = []
    rule = b"rdr ext0 203.0.113.1/32 port 80 -> 10.0.0.2 port 80 tcp\n"
    bench.it.start("change", ADD, ADDING, 5.0, bench.ended, stdin=rule)
    bench.until(lambda: bool(bench.ends), 5.0)
    bench.it.start("list", LIST, LISTING, 5.0, bench.ended, output=lambda chunk: bool(out.append(chunk)))  # type: ignore[func-returns-value]
    bench.until(lambda: len(bench.ends) == 2, 5.0)
    assert b"10.0.0.2" in b"".join(out)


def test_before_the_tool_has_ever_worked_a_run_has_all_of_its_time() -> None:
    bench = Bench("hang")
    took, end, broken_off = bench.one("list", LISTING)
    assert took == near(TIMEOUT) and end.timed_out and not broken_off
    assert bench.tools.runs == [LIST]


def test_one_that_hangs_is_broken_off_when_the_tool_works() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang")
    took, end, broken_off = bench.one()
    assert took == near(LATER + 0.1) and end.timed_out and broken_off
    assert bench.asked == [ADD] and not bench.torn
    assert bench.it.runs == 2, "a question is no run"


def test_many_lines_have_their_time() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang")
    assert bench.one(lines=300)[0] == near(LATER + 300 / RATE + 0.1)
    assert (LATER, SOONER, RATE) == (2.0, 1.0, 100.0)


def test_the_next_one_gets_all_of_its_time() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang", "ok", "hang")
    assert bench.one()[2]
    took, end, broken_off = bench.one()
    assert took == near(TIMEOUT) and end.timed_out and not broken_off
    bench.begin("hang")
    took, end, broken_off = bench.one()
    assert took == near(SOONER + 0.1) and broken_off, "it hung, so it is asked sooner"
    bench.begin("ok")
    assert not bench.one()[2]
    bench.begin("hang")
    assert bench.one()[0] == near(LATER + 0.1), "and after one that was well as before"


def test_each_kind_has_habits_of_its_own() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang")
    assert bench.one()[2]
    bench.begin("hang")
    assert bench.one("list", LISTING)[2], "changes are waited for now, listings are not"


def test_one_that_is_slow_by_habit_is_waited_for_twice_as_long() -> None:
    bench = Bench(takes=1.5)
    bench.works()
    bench.one()
    bench.begin("hang")
    assert bench.one()[0] == near(3.0 + 1.5)


def test_habits_are_forgotten_by_halves() -> None:
    bench = Bench(takes=4.0)
    bench.one()                                     # before the first listing: nobody is asked
    bench.tools.takes = 0.1, 0.1
    bench.works()
    bench.one()
    bench.begin("hang")
    assert bench.one()[0] == near(4.0 + 0.1)
    bench.one()
    bench.one()
    bench.begin("hang")
    assert bench.one()[0] == near(LATER + 0.1)


def test_one_that_fails_tells_how_long_it_takes_too() -> None:
    bench = Bench("fail", takes=2.5)
    bench.one()
    bench.tools.takes = 0.1, 0.1
    bench.works()
    bench.begin("hang")
    assert bench.one()[0] == near(5.0 + 0.1)


def test_one_that_is_not_to_be_had_tells_nothing() -> None:
    bench = Bench("vanish", "vanish")
    bench.one("list", LISTING)
    bench.begin("hang")
    assert bench.one()[0] == near(TIMEOUT), "the tool has never worked"


def test_a_question_that_hangs_is_asked_again() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang", "hang", "hang")
    took, _, broken_off = bench.one()
    assert took == near(LATER + 2 * (PATIENCE + AGAIN) + 0.1) and broken_off
    assert bench.asked == [ADD] * 3 and bench.torn == [False, False]
    assert (PATIENCE, AGAIN) == (1.5, 0.5)


def test_one_that_fails_is_no_answer() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang", "fail", "vanish")
    took, _, broken_off = bench.one()
    assert took == near(LATER + 0.1 + AGAIN + AGAIN + 0.1) and broken_off and bench.torn == [False, False]


@pytest.mark.parametrize("seed", range(8))
def test_a_listing_answers_when_its_rules_have_come(seed: int) -> None:
    bench = Bench(seed=seed)
    bench.works()
    bench.begin("hang")
    took, _, broken_off = bench.one("list", LISTING)
    assert took == near(LATER + 0.1) and broken_off and bench.asked == [LIST]
    assert not bench.torn, "it came to its own end"


def test_a_listing_that_was_broken_off_behind_its_rules() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang", "grumble")                  # any status but 0, as after SIGPIPE
    assert bench.one("list", LISTING)[2] and bench.torn == [True]


def test_one_without_its_last_line_is_no_answer() -> None:
    bench = Bench()
    bench.works()
    bench.begin("hang", "empty")                    # exit status 0, and nothing said
    took, _, broken_off = bench.one("list", LISTING)
    assert took == near(LATER + 0.1 + AGAIN + 0.1) and broken_off and bench.torn == [False]


@pytest.mark.parametrize(("kind", "question"), [("change", ADDING), ("list", LISTING)])
@pytest.mark.parametrize("seed", range(4))
def test_a_question_ends_with_the_run(kind: str, question: Question, seed: int) -> None:
    bench = Bench(seed=seed)
    bench.works()
    bench.begin("slow", "stubborn")                 # 4.1 s, and a question that takes its time to die
    took, end, broken_off = bench.one(kind, question)
    assert took == near(4.1) and end.clean and not broken_off
    bench.run(20.0)
    assert len(bench.asked) == 1 and not bench.tools.running, "and is not asked again"
    assert bench.loop.errors.total == 0


@pytest.mark.parametrize("seed", range(8))
def test_what_was_asked_for_the_last_run_tells_nothing_of_this_one(seed: int) -> None:
    """It was killed with that one, and does not heed that; what it says as it dies may look like an answer."""
    bench = Bench(seed=seed)
    bench.works()
    bench.begin("slow", "stubborn")
    bench.one("list", LISTING)
    assert len(bench.tools.running) == 1
    bench.begin("hang")
    took, _, broken_off = bench.one("list", LISTING)
    assert took == near(2 * 4.1 + 0.1) and broken_off, "asked when its own time has come"
    assert bench.asked == [LIST]


def test_a_question_that_does_not_go_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second one beside it; but then at once, or nearly."""
    monkeypatch.setattr(simulated_tools, "GRACE", 2.2)
    bench = Bench()
    bench.works()
    bench.begin("hang", "stubborn")
    assert bench.one(timeout=LATER + 0.1)[1].timed_out
    bench.begin("hang")
    bench.start()
    bench.until(lambda: len(bench.tools.running) == 1, SOONER + AGAIN * 3)
    assert not bench.asked
    took = bench.until(lambda: bool(bench.ends), AGAIN + 0.2)
    assert took <= AGAIN + 0.2 and bench.asked == [ADD] and bench.ends.pop()[1]


def test_other_tools_have_other_habits() -> None:
    bench = Bench()
    bench.works()
    bench.it.forget()
    bench.begin("hang")
    assert bench.one()[0] == near(TIMEOUT)
    bench.works()
    bench.begin("hang")
    bench.it.forget()
    assert bench.one()[0] == near(TIMEOUT), "of listings, too"


def test_a_question_that_cannot_be_asked_is_not_asked(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.works()
    spawn = bench.it._tool_check.spawn

    def refuses(*words: object, **more: object) -> Child:
        raise MemoryError

    bench.it._tool_check.spawn = refuses
    bench.begin("hang")
    took, end, broken_off = bench.one()
    assert took == near(TIMEOUT) and end.timed_out and not broken_off and "internal error" in caplog.text
    bench.it._tool_check.spawn = spawn
    bench.begin("hang")
    assert bench.one()[2]


def test_whoever_waits_hears_of_the_end_whatever_happens(caplog: pytest.LogCaptureFixture) -> None:
    """To end a question may raise."""
    bench = Bench()
    bench.works()
    bench.begin("slow", "stubborn")
    bench.start()
    bench.until(lambda: len(bench.tools.running) == 2, 5.0)

    def raises() -> None:
        raise OSError

    bench.tools.running[1].kill = raises            # type: ignore[method-assign]
    bench.until(lambda: bool(bench.ends), 5.0)
    assert len(bench.ends) == 1 and "OSError" in caplog.text


def test_a_run_is_fed_nothing_by_default() -> None:
    bench = Bench()
    bench.it.start("change", ADD, ADDING, 5.0, bench.ended)
    bench.until(lambda: bool(bench.ends), 5.0)
    assert bench.ends[0][0].clean


def test_with_real_children(monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing from which only its end is wanted is not read on, however long it would be."""
    monkeypatch.setattr(runner, "LATER", 0.05)
    monkeypatch.setattr(runner, "PATIENCE", 60.0)
    loop = Loop()
    torn: list[bool] = []
    ends: list[tuple[bool, bool]] = []

    def ended(end: Exit, broken_off: bool) -> None:
        ends.append((end.timed_out, broken_off))
        loop.stop()

    it = Runner(loop, None, torn.append)
    it.start("list", ("true",), Question(("true",)), 60.0, ended)
    loop.run()
    question = Question(("/bin/sh", "-c", "echo the end; while :; do echo more; done"), b"the end")
    it.start("change", ("sleep", "600"), question, 60.0, ended)
    loop.run()
    loop.close()
    assert ends == [(False, False), (True, True)] and torn == [True] and it.spawn is Child
