"""Agents: HAProxy's text in any case and order, what it does to a member's share, and an agent that is silent."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.checks.protocols.agent import Weighed, judged
from l4ipd.checks.verdict import Leave
from l4ipd.model import Check
from support.gateway import Gateway, free_port, wait
from support.members import Member, probe, reset
from support.sandbox_tools import Sandbox


@pytest.mark.parametrize(("said", "code", "text"), [
    ("up", "L7OK", "up"), ("ready", "L7OK", "ready"), ("UP", "L7OK", "up"), ("75%", "L7OK", "75%"),
    ("up 50%", "L7OK", "up 50%"), ("50%,up", "L7OK", "up 50%"), ("ready\tup, 33%", "L7OK", "ready up 33%"),
    ("drain", "L7STS", "drain"), ("0%", "L7STS", "0%"), ("drain 50% up", "L7STS", "drain up 50%"),
    ("down", "L7STS", "down"), ("DOWN # disk is failing", "L7STS", "down: disk is failing"),
    ("fail#x", "L7STS", "fail: x"), ("stopped", "L7STS", "stopped"), ("maint up 100%", "L7STS", "maint up 100%"),
    ("maint # new kernel\x1b[0m", "L7STS", "maint: new kernel\\x1b[0m"), ("up maxconn:100", "L7OK", "up"),
    ("up nonsense", "L7OK", "up"), ("100000%", "L7OK", "100000%"),
])
def test_words(said: str, code: str, text: str) -> None:
    verdict = judged(said.encode())
    assert verdict is not None and verdict == (code, text)
    assert isinstance(verdict, Leave) == (text in ("drain", "0%", "drain up 50%"))


@pytest.mark.parametrize("said", ["up", "READY", "up # 50%", "up nonsense"])
def test_who_says_nothing_of_a_share_leaves_it(said: str) -> None:
    verdict = judged(said.encode())
    assert verdict is not None and verdict.passed and not isinstance(verdict, Weighed)


@pytest.mark.parametrize("said", ["", "# up", "hello", "50", "%", "up!", "maxconn:10", "-5%"])
def test_what_is_no_word_of_an_agent(said: str) -> None:
    assert judged(said.encode()) is None


@pytest.mark.parametrize("words", list(itertools.permutations(["drain", "up", "40%", "ready"])))
def test_the_order_does_not_matter(words: tuple[str, ...]) -> None:
    verdict = judged(" ".join(words).encode())
    assert isinstance(verdict, Leave)
    verdict = judged(" ".join(word for word in words if word != "drain").encode())
    assert isinstance(verdict, Weighed) and verdict.share == 40 and verdict.passed
    verdict = judged(" ".join((*words, "down")).encode())
    assert verdict is not None and not isinstance(verdict, Leave) and not verdict.passed


@pytest.mark.parametrize("answer", [b"up 50%\n", b"up 50%\r\n", b"up 50%", b"\x75p\t50%\nmore"])
def test_over_a_connection(answer: bytes) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        assert member.read(client, b"\n") == b"hello\n"
        for byte in answer:
            client.sendall(bytes([byte]))

    with Member(behaviour) as member:
        assert probe(Check("agent", send=b"hello\n"), member.port) == ("L7OK", "up 50%")


# -- the daemon

class Speaker:
    """An agent that says what ``line`` has; None: it resets the connection."""

    def __init__(self, line: bytes | None) -> None:
        self.line = line

    def __call__(self, member: Member, client: socket.socket) -> None:
        if self.line is None:
            reset(client)
        else:
            client.sendall(self.line)


@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    kernel.ipnat("-FC")
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()


def test_an_agent_scales_drains_and_takes_out_and_its_silence_changes_nothing(gateway: Gateway) -> None:
    """A member of weight 4 has a rule for each unit of it."""
    one, inside = "127.0.0.2", free_port()
    gateway.web(one, inside)
    speaker = Speaker(b"up\n")
    with Member(speaker, address=one) as agent:
        gateway.configure(f"""
            www:
              address: 127.0.0.1
              services:
                http: {{port: {free_port()}, member_port: {inside}, check: [http, {{type: agent, port: {agent.port}}}]}}
              members: {{web1: {{address: {one}, weight: 4}}}}
            """, defaults="{interval: 200ms, timeout: 200ms, rise: 1, fall: 1}")
        gateway.start()
        gateway.wait_targets(*[one] * 4)
        for line, rules in ((b"50%\n", 2), (b"UP,1%", 1), (b"30% up\n", 2), (b"100%\n", 4), (b"75%\n", 3)):
            speaker.line = line
            gateway.wait_targets(*[one] * rules)
        speaker.line = None
        gateway.wait_log("web1 127.0.0.2:.* its agent is silent: .*; what it said last stays: 75%$")
        hits = gateway.webs[0].hits
        wait("more probes", lambda: gateway.webs[0].hits > hits + 3)
        assert gateway.targets() == [one] * 3 and not gateway.lines("-> down|-> draining")
        speaker.line = b"drain # soon\n"
        gateway.wait_log(r"up -> draining: L7STS port \d+: drain: soon")
        gateway.wait_targets()
        speaker.line = b"up 25%\n"
        gateway.wait_targets(one)
        speaker.line = b"maint # new kernel\n"
        gateway.wait_log(r"-> down: L7STS port \d+: maint: new kernel")
        gateway.wait_targets()
    assert not gateway.lines("internal error")


def test_an_agent_alone(gateway: Gateway) -> None:
    one, inside, speaker = "127.0.0.2", free_port(), Speaker(None)
    with Member(speaker, address=one) as agent:
        gateway.configure(f"""
            c:
              address: 127.0.0.1
              services:
                s: {{port: {free_port()}, member_port: {inside}, check: {{type: agent, port: {agent.port}}}}}
              members: {{m: {one}}}
            """)
        gateway.start()
        gateway.wait_log("LOCAL the agent is silent: ")         # it was never heard: nobody knows
        speaker.line = b"up\n"
        gateway.wait_targets(one)
        gateway.wait_log("its agent is heard again: L7OK up")
        speaker.line = b"down # by hand\n"
        gateway.wait_log("up -> down: L7STS down: by hand")
        gateway.wait_targets()
