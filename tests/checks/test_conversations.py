"""The checks of the sample configuration against what real servers said to them: ``samples/conversations.txt``.

Each conversation is played by a member on loopback, whole and byte by byte. It says what the server said, and goes on
only when it has read exactly the bytes that the check sent when it was recorded.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from l4ipd import __version__
from l4ipd.config import parse
from l4ipd.model import Check
from support import SAMPLES
from support.certs import Authority
from support.members import PATIENCE, Member, probe, talker
from support.sample_conf import SAMPLE, switched_on

CONVERSATIONS = (SAMPLES / "conversations.txt").read_text("ascii")
CLOSES = "S closes"


@dataclass(frozen=True)
class Conversation:
    """``turns`` are a side, ``S`` or ``C``, and all that it says before the other one speaks."""

    service: str
    title: str
    verdict: str
    turns: tuple[tuple[str, bytes], ...]
    closes: bool                                    # the server, while the probe waits

    def said(self, side: str) -> bytes:
        return b"".join(data for who, data in self.turns if who == side)


def parsed(block: str) -> Conversation:
    title, verdict, *lines = block.splitlines()
    closes = lines[-1:] == [CLOSES]
    turns: list[tuple[str, bytes]] = []
    for line in lines[:-1] if closes else lines:
        found = re.fullmatch(r"([SC]): (.+)", line)
        assert found is not None, line
        side, data = found[1], found[2].encode().decode("unicode_escape").encode("latin-1")
        data = data.replace(b"l4ip/VERSION", b"l4ip/" + __version__.encode())
        before = turns.pop()[1] if turns and turns[-1][0] == side else b""
        turns.append((side, before + data))
    assert verdict.startswith("-> ")
    return Conversation(title.split(" | ")[0], title, verdict[3:], tuple(turns), closes)


RECORDED = [parsed(block.strip()) for block in re.split(r"^== ", CONVERSATIONS, flags=re.MULTILINE)[1:]]


def checks() -> dict[str, Check]:
    """By service: what the sample, with every setting switched on, asks of a member first, on whatever port. Not of one
    that has the check of another."""
    shown = parse.parse(switched_on(SAMPLE), "l4ip.conf.sample")
    return {service.name: replace(service.checks[0], port=None)
            for cluster in shown.clusters for service in cluster.services if not service.same_as}


CHECKS = checks()
OVER_TCP = [each for each in RECORDED if CHECKS[each.service].type != "udp"]
OVER_UDP = [each for each in RECORDED if CHECKS[each.service].type == "udp"]


def title(conversation: Conversation) -> str:
    return conversation.title


def plays(conversation: Conversation, piece: int, over: threading.Event) -> Callable[[Member, socket.socket], None]:
    """The server's part. What it has read is in the member's ``requests``; ``over`` is set when that is all."""
    def behaviour(member: Member, client: socket.socket) -> None:
        try:
            for side, data in conversation.turns:
                if side == "C":
                    member.requests.append(exactly(client, len(data)))
                    if member.requests[-1] != data:
                        return
                else:
                    say(client, data, piece)
            member.busy.set()
            if not conversation.closes:
                member.requests.append(exactly(client, 1000))
        finally:
            over.set()
    return behaviour


def say(client: socket.socket, data: bytes, piece: int) -> None:
    size = piece or len(data)
    with contextlib.suppress(OSError):              # the probe has heard enough; what it has said can still be read
        for start in range(0, len(data), size):
            client.sendall(data[start:start + size])
            time.sleep(0.00005)                     # so that they go out as segments of their own


def exactly(client: socket.socket, size: int) -> bytes:
    """``size`` bytes, fewer if that is all."""
    data = b""
    with contextlib.suppress(ConnectionResetError):     # it went without having read all
        while len(data) < size and (chunk := client.recv(size - len(data))):
            data += chunk
    return data


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    return Authority(tmp_path_factory.mktemp("certs")).server("127.0.0.1")


def test_every_service_that_speaks_is_recorded() -> None:
    """At its best and in some trouble; and a good one has heard all that the check has to say."""
    speak = {name for name, check in CHECKS.items() if check.dialog or check.type == "http" or check.expect}
    assert {each.service for each in RECORDED if each.verdict.startswith("L7OK ")} == speak
    assert {each.service for each in RECORDED if not each.verdict.startswith("L7OK ")} == speak
    assert len({each.title for each in RECORDED}) == len(RECORDED)
    for each in RECORDED:
        if each.verdict == "L7OK dialog complete":
            sends = [step.text for step in CHECKS[each.service].dialog if step.verb == "send"]
            assert [data for side, data in each.turns if side == "C"] == sends, each.title


@pytest.mark.parametrize("piece", [0, 1], ids=["whole", "bytes"])
@pytest.mark.parametrize("conversation", OVER_TCP, ids=title)
def test_conversation(conversation: Conversation, piece: int, tls: ssl.SSLContext) -> None:
    check, over = CHECKS[conversation.service], threading.Event()
    with Member(plays(conversation, piece, over), tls if check.type == "tls" else None) as member:
        waits = conversation.verdict.startswith("L7TOUT ")
        verdict = str(probe(check, member.port, expire_when=member.busy.is_set if waits else None))
        assert over.wait(PATIENCE)
        assert b"".join(member.requests) == conversation.said("C")
    if piece:                                       # a reject is quoted as far as it had come
        assert conversation.verdict.startswith(verdict.removesuffix('"'))
    else:
        assert verdict == conversation.verdict


@pytest.mark.parametrize("conversation", OVER_UDP, ids=title)
def test_datagrams(conversation: Conversation) -> None:
    said = conversation.said("S")
    with talker(lambda data: [said] if said else []) as (port, heard):
        verdict = probe(CHECKS[conversation.service], port, expire_when=lambda: heard)
        assert str(verdict) == conversation.verdict
        assert heard == [conversation.said("C")]
