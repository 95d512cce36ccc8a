"""Log lines: written by a thread, so that nobody has to wait for whoever takes them."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import syslog
import threading
from pathlib import Path

from l4ipd.runtime import logs
from support import ROOT


def record(words: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("x", level, __file__, 1, words, (), None)


def test_a_slow_taker_costs_lines_and_is_told_how_many() -> None:
    begun, go_on = threading.Event(), threading.Event()
    taken: list[tuple[int, str]] = []

    def write(priority: int, line: str) -> None:
        begun.set()
        go_on.wait()
        taken.append((priority, line))

    handler = logs.Patient(write)
    handler.emit(record("first"))
    begun.wait()                                    # it is being written, and does not wait any more
    for number in range(logs.ROOM + 7):
        handler.emit(record(f"line {number}"))
    go_on.set()
    while len(taken) <= logs.ROOM:
        pass
    handler.emit(record("at last", logging.ERROR))
    handler.close()
    assert [line for _, line in taken] == [
        "first", *(f"line {number}" for number in range(logs.ROOM)),
        "7 lines of the log were lost: who takes them was too slow", "at last"]
    assert taken[-1][0] == syslog.LOG_ERR and taken[0][0] == syslog.LOG_INFO


def test_a_taker_that_fails_gets_the_next_line_all_the_same() -> None:
    taken: list[str] = []

    def write(priority: int, line: str) -> None:
        if line == "bad":
            raise OSError("no space left")
        taken.append(line)

    handler = logs.Patient(write)
    for words in ("one", "bad", "two"):
        handler.emit(record(words))
    handler.close()
    assert taken == ["one", "two"]


def test_the_end_comes_twice_and_what_was_lost_is_told_at_last() -> None:
    taken: list[str] = []
    go_on = threading.Event()

    def write(priority: int, line: str) -> None:
        go_on.wait()
        taken.append(line)

    handler = logs.Patient(write)
    handler.setFormatter(logs.Timed())
    for number in range(logs.ROOM + 2):
        handler.emit(record(f"line {number}"))
    go_on.set()
    handler.close()
    handler.close()                                 # by logging.shutdown
    assert re.fullmatch(r"\d\d:\d\d:\d\d \d lines of the log were lost: who takes them was too slow", taken[-1])


def test_what_cannot_be_formatted_costs_nobody_else_anything() -> None:
    taken: list[str] = []
    handler = logs.Patient(lambda priority, line: taken.append(line))
    handler.emit(logging.LogRecord("x", logging.INFO, __file__, 1, "%d", ("no number",), None))
    handler.emit(record("next"))
    handler.close()
    assert taken == ["next"]


def test_one_line_each_without_control_characters() -> None:
    assert logs.Lines().format(record("a\nb\x1b[31m\x00")) == "a | b\\x1b[31m\\x00"


def test_without_syslog_every_line_has_its_time(tmp_path: Path) -> None:
    """Into a file, too: also the date, when it is another than that of the line before."""
    code = ("import logging, os, time\nfrom l4ipd.runtime import logs\nfrom l4ipd.model import Log\n"
            "os.environ['TZ'] = 'UTC'; time.tzset(); logs.to_stderr(Log())\n"
            "for when in (86398, 86399, 86400, 86461, 200000):\n"
            "    record = logging.LogRecord('x', logging.INFO, '', 1, 'one\\ntwo', (), None); record.created = when\n"
            "    logging.getLogger().handle(record)\n")
    with open(tmp_path / "log", "wb") as log:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", code], stderr=log, env=environment, check=True)
    assert (tmp_path / "log").read_text().splitlines() == [
        "23:59:58 the date is 1970-01-01", "23:59:58 one | two", "23:59:59 one | two",
        "00:00:00 the date is 1970-01-02", "00:00:00 one | two", "00:01:01 one | two",
        "07:33:20 the date is 1970-01-03", "07:33:20 one | two"]
