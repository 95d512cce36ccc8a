"""A listing, read as it streams; what it leaves behind in the kernel; and what a tool's complaint is about."""

from __future__ import annotations

import errno

import pytest

from l4ipd.ipfilter.listing import CUTS, FORGOTTEN, Iterator, Listing, Table, in_use
from l4ipd.runtime.child import Exit
from l4ipd.runtime.internal_errors import InternalErrors
from l4ipd.runtime.lines import LONGEST
from support.tables import END, read, table

HEAD = "List of active MAP/Redirect filters:"
TEXT = HEAD.encode() + b"\r\na\n-b\n\t<count>\nc\r\na#2\nc\na#3\n" + END.encode() + b"\nd\n"


def reading(of: Table | None = None, before: dict[str, str] | None = None) -> Listing:
    return Listing(of or table(), before or {}, InternalErrors())


# -- what is in it

@pytest.mark.parametrize("size", [1, 2, 3, 7, 4096])
def test_rules_copies_and_the_end(size: int) -> None:
    it = reading()
    pieces = [TEXT[start:start + size] for start in range(0, len(TEXT), size)]
    ended = next(number for number, piece in enumerate(pieces) if it.feed(piece))       # and no more is read
    assert ended == TEXT.index(b"\nd") // size
    assert it.rules == {HEAD: HEAD, "a": "a", "c": "c"}
    assert it.copies == {"a": ["a#2", "a#3"], "c": ["c"]}
    assert it.complete and it.lines == 9


def test_what_goes_beyond_a_rule_is_left_out() -> None:
    """ipfstat and ipnat put details of a rule into lines that begin with a tab."""
    it = reading()
    it.feed(b"\ta\nb\nX\n")
    assert it.rules == {"b": "b", "X": "X"} and it.lines == 3


def test_a_line_that_raises_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    it = reading()
    assert not it.feed(b"raise\nb\n") and it.rules == {"b": "b"}
    assert "a line of the listing of tool is left out" in caplog.text


def test_bytes_that_are_no_text_are_no_end() -> None:
    it = reading()
    assert not it.feed(b"a\xff\xfe\n") and it.rules == {"a\ufffd\ufffd": "a\ufffd\ufffd"}


def test_the_copy_at_hand_of_a_line_is_kept() -> None:
    held = "".join(("long", "line"))
    it = reading(before={"longline": held, "b": "other words"})
    it.feed(b"longline\nb\n")
    assert it.rules["longline"] is held and it.rules["b"] == "b"


def test_the_words_that_remove_a_rule_are_the_tables() -> None:
    bare = Table("tool", "key", (), (), (), (), read, str, bare=lambda line: f"bare {line}")
    it = reading(bare)
    it.feed(b"a\na#2\n")
    assert it.rules == {"a": "bare a"} and it.copies == {"a": ["bare a#2"]}


def test_the_table_hears_of_the_beginning() -> None:
    told: list[str] = []
    it = reading(Table("tool", "key", (), (), (), (), read, str, begin=lambda: told.append("begin")))
    assert told == ["begin"]
    it.feed(b"a\n")
    assert told == ["begin"]


# -- whether all of it was seen, and what it leaves behind

def state(iterator: Iterator) -> str:
    return "torn" if iterator.torn else "cut" if iterator.cuts(100.0) else ""


@pytest.mark.parametrize(("text", "end", "complete", "left"), [
    (f"a\n{END}\n", Exit(0), True, ""),
    (f"a\n{END}\n", Exit(-13), True, "cut"),        # we have closed the pipe: by SIGPIPE
    (f"a\n{END}\n", Exit(0, b"", b"oh\n"), True, "cut"),
    (f"a\n{END}\n", Exit(-15, b"", b"", True), True, "cut"),
    (f"a\n{END}\n", Exit(1), True, "cut"),
    ("a\n", Exit(0), False, "torn"),
    ("a\n", Exit(-9), False, "torn"),
    ("a\n", Exit(-15, b"", b"", True), False, "torn"),
    ("a\n", Exit(0, b"", b"", True), False, "torn"),
    ("a\n", Exit(1, b"", b"", True), False, "torn"),
    ("", Exit(1, b"", b"open: no such device\n"), False, ""),       # it has not begun, by what it says
    ("", Exit(None, error="no such program"), False, ""),
    (f"a\n{END}", Exit(0), False, "torn"),          # within the last line
])
def test_a_listing_with_an_end(text: str, end: Exit, complete: bool, left: str) -> None:
    iterator = Iterator()
    it = reading(table(iterator=iterator))
    it.feed(text.encode())
    assert it.ended(end, 100.0) is complete is it.complete
    assert state(iterator) == left


@pytest.mark.parametrize(("text", "end", "complete", "left"), [
    ("a\n", Exit(0), True, ""),
    ("", Exit(0), True, ""),
    ("a\n", Exit(0, b"", b"oh\n"), True, "cut"),
    ("a\nb", Exit(0), False, "torn"),
    ("a\n", Exit(0, b"", b"", True), False, "torn"),
    ("a\n", Exit(-9), False, "torn"),
    ("a\n", Exit(1), False, ""),
    ("a\n" + "b" * (LONGEST + 1), Exit(0), False, "torn"),
    ("", Exit(None, error="no such program"), False, ""),
])
def test_a_listing_that_ends_with_its_tool(text: str, end: Exit, complete: bool, left: str) -> None:
    iterator = Iterator()
    it = reading(table(None, iterator))
    it.feed(text.encode())
    assert it.ended(end, 100.0) is complete is it.complete
    assert state(iterator) == left


def test_a_cut_is_of_its_time() -> None:
    iterator = Iterator()
    it = reading(table(iterator=iterator))
    it.feed(TEXT)
    it.ended(Exit(-13), 50.0)
    assert iterator.cuts(50.0 + FORGOTTEN - 0.1) == 1 and iterator.cuts(50.0 + FORGOTTEN) == 0


# -- what listings leave behind

def test_the_listing_after_one_that_was_torn_is_read_for_nothing() -> None:
    it = Iterator()
    assert not it.torn and not it.came_to_its_end(0.0)
    it.tear()
    assert it.torn and it.came_to_its_end(0.0)
    assert not it.torn and not it.came_to_its_end(0.0)


def test_cuts_are_counted_and_forgotten_one_by_one() -> None:
    it = Iterator()
    for now in range(CUTS + 2):
        it.cut(float(now))
        assert it.cuts(float(now)) == min(now + 1, CUTS)
    oldest = 2.0
    assert it.cuts(oldest + FORGOTTEN - 0.01) == CUTS
    assert [it.cuts(oldest + FORGOTTEN + more) for more in range(CUTS)] == [CUTS - 1, CUTS - 2, CUTS - 3, 0]
    it.cut(100.0)
    assert it.cuts(100.0) == 1 and CUTS == 4


def test_it_is_quiet_until_the_kernel_has_forgotten() -> None:
    it = Iterator()
    assert it.quiet_until == float("-inf")
    assert it.in_use(100.0) and it.quiet_until == 100.0 + FORGOTTEN
    assert it.in_use(105.0) and it.quiet_until == 100.0 + FORGOTTEN, "the first time counts"
    assert it.in_use(100.0 + FORGOTTEN - 0.1)
    assert not it.in_use(100.0 + FORGOTTEN), "whoever keeps it in use is not we"
    it.came_to_its_end(100.0 + FORGOTTEN - 0.1)
    assert it.quiet_until == 100.0 + FORGOTTEN
    it.came_to_its_end(100.0 + FORGOTTEN)
    assert it.quiet_until == float("-inf")
    assert it.in_use(200.0)


# -- tables

def test_which_tables_read_alike() -> None:
    one = table()
    assert one.reads_as(table()) and not one.reads_as(table(None))
    assert one.iterator == one.iterator and table() == table(), "an iterator is no part of what a table is"


@pytest.mark.parametrize("other", [
    Table("tool", "section.tool", ("other", "-l"), (), (), (), read, str, end=END),
    Table("tool", "section.tool", ("tool", "-l"), (), (), (), str, str, end=END),
    Table("tool", "section.tool", ("tool", "-l"), (), (), (), read, str, end=END, bare=read),  # type: ignore[arg-type]
])
def test_which_do_not(other: Table) -> None:
    assert not table().reads_as(other) and not other.reads_as(table())


def test_how_changes_are_made_does_not_bear_on_reading() -> None:
    assert table().reads_as(Table("x", "y", ("tool", "-l"), ("a",), ("b",), ("c",), read, read, end=END,  # type: ignore[arg-type]
                                  mark="m", other=read))  # type: ignore[arg-type]


@pytest.mark.parametrize(("end", "words"), [
    (Exit(None, error="x: no such program", errno=errno.ENOENT),
     "x: no such program: name it in the configuration, section.tool"),
    (Exit(None, error="x: denied", errno=errno.EACCES), "x: denied: name it in the configuration, section.tool"),
    (Exit(None, error="x: format", errno=errno.ENOEXEC), "x: format: name it in the configuration, section.tool"),
    (Exit(None, error="x: too many processes", errno=errno.EAGAIN), "x: too many processes"),
    (Exit(2, b"", b"what\n"), "what"),
    (Exit(2, b"", b"\xff\n"), "\ufffd"),
    (Exit(3), "ended with exit status 3"),
    (Exit(-15, b"", b"", True), "did not end within ipfilter.timeout and was killed"),
])
def test_what_a_tool_complains_of(end: Exit, words: str) -> None:
    assert table().complaint(end) == words


@pytest.mark.parametrize(("said", "lines"), [
    ("", []),
    ("\n", []),
    ("2:ioctl(SIOCRMNAT): rule in use\n", ["b"]),
    ("2:ioctl: rule in use\n\n1:ioctl: rule in use\n", ["b", "a"]),
    ("3:ioctl: rule in use\n", ["c"]),
    ("4:ioctl: rule in use\n", ["a", "b", "c"]),    # of no line of ours: it may be any
    ("0:ioctl: rule in use\n", ["a", "b", "c"]),
    ("ioctl: rule in use\n", ["a", "b", "c"]),
    ("2:ioctl: rule in use\nsomething else\n", []),
    ("something else\n", []),
])
def test_which_rules_are_in_use(said: str, lines: list[str]) -> None:
    said = "\n".join(f"1:{line}" if line[:1].isdigit() else line for line in said.split("\n"))
    assert in_use(["a", "b", "c"], Exit(1, b"", said.encode())) == lines
    assert in_use(["a", "b", "c"], Exit(1, b"", said.encode() + b"\xff rule in use\n" * bool(lines))) == lines


def test_the_number_is_at_the_beginning() -> None:
    assert in_use(["a", "b"], Exit(1, b"", b"3:2:rule in use\n")) == ["b"]
    assert in_use(["a", "b"], Exit(1, b"", b"at 3:2: rule in use\n")) == ["a", "b"]
