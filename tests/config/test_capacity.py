"""What -n says of the kernel's NAT table."""

from __future__ import annotations

import pytest

from l4ipd.config import capacity
from l4ipd.config.parse import parse
from l4ipd.config.warnings import warnings
from support.configurations import small

DNS = "port: 53, protocol: udp, check: {type: udp, send: x, expect: y}"


@pytest.mark.parametrize("services, lines", [
    ("s: {port: 80}", []),
    (f"s: {{{DNS}}}", ["udp, age 30s: up to 1,000 new sessions a second before the table is full"]),
    (f"s: {{{DNS}, age: 1s}}", ["udp, age 1s: up to 30,000 new sessions a second before the table is full"]),
    (f"s: {{{DNS}, age: no}}",
     ["udp, IPFilter's own age, 10m: up to 50 new sessions a second before the table is full"]),
    ("s: {port: 80, age: 2h}", ["tcp, age 2h: up to 4.2 new sessions a second before the table is full"]),
    (f"s: {{{DNS}}}\n      t: {{{DNS.replace('53', '54')}}}\n      u: {{port: 80, age: 30s}}", [
        "udp, age 30s: up to 1,000 new sessions a second before the table is full",
        "tcp, age 30s: up to 1,000 new sessions a second before the table is full"])])
def test_what_an_age_stands_for(services: str, lines: list[str]) -> None:
    assert capacity.lines(parse(small(services=services), "test")) == lines


@pytest.mark.parametrize("services, warned", [
    (f"s: {{{DNS}}}", ""), ("s: {port: 80}", ""), ("s: {port: 80, age: 1h}", ""),
    ("s: {port: 80, age: 5m}",
     "c/s: age 5m breaks tcp connections that are silent for so long: the kernel forgets them"),
    (f"s: {{{DNS}, age: no}}",
     "c/s: age: no keeps each udp session for 10m after its last packet: 50 new ones a second fill the kernel's table, "
     "and then no new connection of anybody comes through")])
def test_ages_that_are_probably_not_meant(services: str, warned: str) -> None:
    assert warnings(parse(small(services=services), "test")) == ([warned] if warned else [])
