"""What the log is told of tools that fail: each thing once, until all is well."""

from __future__ import annotations

import logging

import pytest

from l4ipd.ipfilter.faults import Faults


def test_every_reason_of_a_failure_is_said_once_until_all_is_as_wanted(caplog: pytest.LogCaptureFixture) -> None:
    it = Faults()
    for words in ("one", "two", "one", "two", "two"):
        it.unchanged("ipnat", words)
    assert caplog.messages == ["ipnat: one; trying again", "ipnat: two; trying again"] and it.complaint == "two"
    it.over()
    assert not it.complaint
    it.unchanged("ipnat", "two")
    assert caplog.messages[2:] == ["ipnat: two; trying again"]
    assert {record.levelno for record in caplog.records} == {logging.ERROR} and not it.runs


def test_a_table_that_cannot_be_read_is_told_of_and_that_it_can(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    it = Faults()
    it.read("ipnat")
    for words in ("no such program", "no such program", "exit status 1", "no such program"):
        it.unread("ipnat", words)
    assert it.runs == 4 and it.problem == "no such program"
    it.over()
    assert it.problem, "it is no change that failed"
    for _ in range(2):
        it.read("ipnat")
    assert not it.problem and caplog.messages == [
        "ipnat: no such program; trying again", "ipnat: exit status 1; trying again",
        "ipnat: no such program; trying again", "ipnat works again"]
