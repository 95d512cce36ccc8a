"""Numbers from outside: whatever stands where one belongs, nothing breaks then or later, or is shown that is absurd."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from l4ipd.control import client
from l4ipd.ipfilter import log_rules, rdr
from l4ipd.ipfilter.filter_table import FilterTable
from l4ipd.model import Ipfilter, Resets
from l4ipd.report import status
from l4ipd.resets.ipmon import missed
from l4ipd.resets.sources import strangers
from l4ipd.runtime import pidfile
from l4ipd.runtime.numbers import COUNTER, ID, PORT, SERIAL, whole
from support.balancer import balancer, cluster, web
from support.control_server import answering
from support.http_server import HttpServer, read_all
from support.metrics import scrape, value

HUGE = ["9" * 400, "9" * 5000, "1" + "0" * 20, "0" * 400 + "1", "²", "١٢", "-1", "+1", "1_0", "1e9", "0x10", "٣",
        "1\0", "inf", "nan"]


@pytest.mark.parametrize(("text", "most", "expected"), [
    ("0", 0, 0), ("1", 0, None), ("65535", PORT, 65535), ("65536", PORT, None), ("00080", PORT, 80), ("", PORT, None),
    ("000080", PORT, None), (" 1", PORT, None), (b"4294967295", SERIAL, SERIAL), (b"4294967296", SERIAL, None),
    (str(COUNTER), COUNTER, COUNTER),
    (str(COUNTER + 1), COUNTER, None), *((text, COUNTER, None) for text in HUGE)])
def test_whole(text: str | bytes, most: int, expected: int | None) -> None:
    assert whole(text, most) == expected


@given(st.text() | st.binary() | st.from_regex(r"\d{1,30}"), st.sampled_from((PORT, ID, SERIAL, COUNTER)))
def test_whole_never_raises_and_never_says_more(text: str | bytes, most: int) -> None:
    number = whole(text, most)
    assert number is None or 0 <= number <= most


LINE = ("28/11/2026 10:00:00.123456 {} em1 @-1:-1 L 10.0.0.2,{} -> 198.51.100.7,5000 PR tcp len 20 40 -AR {} 1 0 IN "
        "log-tag {}")


def test_records_of_ipmon_break_neither_metrics_nor_show() -> None:
    """Once, a count of 400 digits broke /metrics until the restart, and show printed them all."""
    with balancer(cluster("www", *web(2))) as daemon:
        daemon.sensing.settings = Resets("em1")
        daemon.sensing.targets.use(daemon.fleet.monitors.values())
        listener = daemon.sensing.listener
        listener.tag = 4711
        for text in (*HUGE, "999999", "1000000"):
            for fields in ((f"{text}x", "8080", "0", "4711"), ("", text, "0", "4711"), ("", "8080", text, "4711"),
                           ("", "8080", "0", text)):
                listener.take(LINE.format(*fields).replace("  ", " ").encode())
            listener.take(f"missed {text} ipf log entries: {text} {text}".encode())
            listener.take(f"missed {text} ipf log entries: 7 {text}".encode())
        families = scrape(daemon)
        assert 0 < sum(sample.value for family in families.values() for sample in family.samples
                       if sample.name == "l4ip_resets_total") < 3e6
        assert value(families, "l4ip_resets_missed_total") == 2 * (999999 + 1000000)
        assert len(daemon.sensing.summary()) < 300 and len(" ".join(status.summaries(daemon))) < 600
        assert daemon.sensing.reaction.ignored["unreadable"] >= len(HUGE)


@pytest.mark.parametrize("text", HUGE)
def test_hits_in_listings(text: str) -> None:
    rule = "rdr em0 203.0.113.1/32 port 80 -> 10.0.0.2/32 port 8080 tcp round-robin tag l4ip"
    assert rdr.hits(f"{text} {rule}") is None
    parsed = rdr.parse(rule.replace("8080", text))
    assert parsed is None or parsed.target_port == text
    count = "count in on em1 proto tcp from 10.0.0.2 port = 8080 to any flags R/R"
    table = FilterTable(Ipfilter(), "count", False, (), lambda line: True)
    table._read(f"{text} {text} {count}")
    table.listed()
    assert all(number == 0 for number in table.hits.values())
    for line in (count.replace("8080", text), f"{count.replace('count', 'log')} set-tag(log={text})"):
        rule_ = log_rules.parse(line)
        assert rule_ is None, "what we cannot read is not ours"


def test_ports_and_tags_that_are_none() -> None:
    line = "log in on em1 proto tcp from 10.0.0.2 port = {} to any flags R/R set-tag(log={})"
    assert log_rules.parse(line.format(65535, 4294967295)) is not None
    assert log_rules.parse(line.format(65536, 4711)) is None and log_rules.parse(line.format(80, 4294967296)) is None


def test_losses_that_ipmon_tells() -> None:
    assert missed(b"missed 4294967295 ipf log entries: 1 2") == SERIAL
    assert missed(b"missed 4294967296 ipf log entries: 1 2") == 0


@pytest.mark.parametrize("text", HUGE)
def test_processes_and_pid_files(tmp_path: Path, text: str) -> None:
    assert strangers(f"{text} 1 ipmon\n1 {text} ipmon\n", {"ipmon"}, 2) == [1]
    file = tmp_path / "pid"
    file.write_text(text)
    if len(text) > pidfile.LONGEST:
        with pytest.raises(FileExistsError):
            pidfile.clear(str(file))
    else:
        assert pidfile.clear(str(file)) == 0


@pytest.mark.parametrize("exit", [b"9" * 400, b"1e999", b"-1", b"256", b'"0"', b"null", b"[0]", b"0.5", b"NaN"])
def test_exit_statuses_that_are_none(tmp_path: Path, exit: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "sock")
    answering(path, b'{"end": true, "exit": ' + exit + b"}\n")
    assert client.main(["-s", path, "reload"]) == 3


@pytest.mark.parametrize("columns", HUGE)
def test_columns_that_are_none(monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    if "\0" not in columns:
        monkeypatch.setenv("COLUMNS", columns)
        monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size((77, 24)))
        assert client.width() in (0, 77)


@pytest.mark.parametrize("length", ["9" * 400, "9" * 5000, "-1", "1e3", "²"])
def test_lengths_of_requests_by_http(length: str) -> None:
    site = HttpServer()
    with site.connect() as client:
        client.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
        client.shutdown(socket.SHUT_WR)
        assert read_all(client).startswith(b"HTTP/1.1 400 ")
    assert site.loop.errors.total == 0
    site.close()
