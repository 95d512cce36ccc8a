"""What each system error means at each step of each kind of probe, as systems other than this one may report it.

FreeBSD says EHOSTDOWN where the neighbour does not answer, ENETUNREACH for a reject route, EACCES for what a filter of
its own blocks, ECONNABORTED and EADDRNOTAVAIL where Linux has other words (FACTS.md 3-9 and 3-10). Its poller does not
tell either what is known of a descriptor: so the loop has the portable one here.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from l4ipd.checks import ping, routes, socket_pool, udp
from l4ipd.checks.probe import Prober
from l4ipd.checks.recipe import recipe
from l4ipd.model import Check
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.poller import Portable
from support.members import Member, Watch, endpoint

ROUTELESS = ("ENETUNREACH", "EHOSTUNREACH", "ENETDOWN", "EHOSTDOWN")
SHORT = ("ENOBUFS", "ENOMEM", "EADDRNOTAVAIL", "EADDRINUSE", "EPERM", "EMFILE", "ENFILE", "EAFNOSUPPORT")
CHECKS = {"tcp": Check("tcp"), "http": Check("http"), "https": Check("https"), "udp": Check("udp", send=b"x"),
          "closed": Check("tcp", closed=True), "udp closed": Check("udp", send=b"x", closed=True),
          "ping": Check("ping")}
#: kinds of probe that have a step, and the code of the verdict when that fails with an error
STEPS = {
    "connect": (("tcp", "http", "https", "udp", "closed", "udp closed", "ping"), {
        **dict.fromkeys(ROUTELESS, "L4CON"), **dict.fromkeys(SHORT, "LOCAL"), "EACCES": "LOCAL", "EINVAL": "LOCAL",
        "ECONNRESET": "L4CON", "ECONNABORTED": "L4CON", "ETIMEDOUT": "L4TOUT"}),
    "connected": (("tcp", "http", "https", "closed"), {
        **dict.fromkeys(ROUTELESS, "L4CON"), **dict.fromkeys(SHORT, "LOCAL"), "EACCES": "L4CON", "ECONNRESET": "L4CON",
        "ECONNABORTED": "L4CON", "ETIMEDOUT": "L4TOUT", "EPROTO": "L4CON", "EINVAL": "L4CON"}),
    "send": (("http", "https"), {
        **dict.fromkeys(ROUTELESS, "L4CON"), **dict.fromkeys(SHORT, "LOCAL"), "EACCES": "LOCAL", "EPIPE": "RSP",
        "ECONNRESET": "RSP", "ETIMEDOUT": "RSP"}),
    "receive": (("http", "https"), {
        **dict.fromkeys(ROUTELESS, "L4CON"), **dict.fromkeys(SHORT, "LOCAL"), "EACCES": "RSP", "ECONNRESET": "RSP",
        "ECONNABORTED": "RSP", "ETIMEDOUT": "RSP"}),
    "send a datagram": (("udp", "udp closed"), {
        **dict.fromkeys(ROUTELESS, "L4CON"), **dict.fromkeys(SHORT, "LOCAL"), "EACCES": "LOCAL",
        "EMSGSIZE": "LOCAL"}),
    "receive a datagram": (("udp", "udp closed"), {
        **dict.fromkeys(ROUTELESS, "L4CON"), **dict.fromkeys(SHORT, "LOCAL"), "EACCES": "L4CON",
        "ENOPROTOOPT": "L4CON"}),
}
ROWS = [(step, kind, name, code) for step, (kinds, codes) in STEPS.items() for kind in kinds
        for name, code in codes.items()]


class Failing(socket.SocketType):
    """A socket of which one step fails."""

    step, error = "", 0

    def connect_ex(self, address: Any) -> int:
        return self.error if self.step == "connect" else super().connect_ex(address)

    def getsockopt(self, *words: Any) -> Any:
        asked = words == (socket.SOL_SOCKET, socket.SO_ERROR)
        return self.error if self.step == "connected" and asked else super().getsockopt(*words)

    def send(self, *words: Any) -> int:
        self._fail("send", "send a datagram")
        return super().send(*words)

    def sendto(self, *words: Any) -> int:
        self._fail("connect")
        return super().sendto(*words)

    def recv(self, *words: Any) -> bytes:
        self._fail("receive", "receive a datagram")
        return super().recv(*words)

    def _fail(self, *steps: str) -> None:
        if self.step in steps:
            raise OSError(self.error, "as the test wants it")


@pytest.fixture
def watch() -> Iterator[Watch]:
    with Watch() as it:
        it.loop.close()
        it.loop = Loop(poller=Portable())
        it.prober = Prober(it.loop)
        it._tick()
        yield it


@pytest.mark.parametrize(("step", "kind", "name", "code"), ROWS, ids=lambda word: str(word).replace(" ", "-"))
def test_whose_fault(step: str, kind: str, name: str, code: str, watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Failing, "step", step)
    monkeypatch.setattr(Failing, "error", getattr(errno, name))
    for module in (socket_pool, udp, ping):
        monkeypatch.setattr(module, "Socket", Failing)
    if kind == "ping":
        monkeypatch.setattr(ping.Pinger, "_open", opened)
    with Member(mumbles) as member, socket.socket(type=socket.SOCK_DGRAM) as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.connect(("127.0.0.1", 9))
        port = deaf.getsockname()[1] if "udp" in kind else member.port
        if step == "receive a datagram":
            deaf.close()                            # so that something comes: a refusal, which is read as the error
        watch.verdicts.clear()
        watch.prober.start(recipe(CHECKS[kind], endpoint(CHECKS[kind], port)), watch.verdicts.append)
        watch.turn_until(lambda: watch.verdicts)
    verdict = watch.verdicts[0]
    assert verdict.code == {"RSP": "L6RSP" if kind == "https" else "L7RSP"}.get(code, code)
    assert (str(verdict) == "L4CON no route to the member") == (name in ROUTELESS)


def mumbles(member: Member, client: socket.socket) -> None:
    client.recv(1)
    client.sendall(b"x")


def opened(pinger: ping.Pinger) -> None:
    """In place of the ICMP socket, which not everybody may open: nothing is sent on this one."""
    pinger._socket = Failing(socket.AF_INET, socket.SOCK_DGRAM)


# -- the way, where connect does not tell (FreeBSD)

@pytest.mark.parametrize(("name", "leads"), [
    ("ENETUNREACH", False), ("EHOSTUNREACH", False), ("ENETDOWN", False),
    ("EHOSTDOWN", True), ("ENOBUFS", True), ("EACCES", True), ("ECONNREFUSED", True),   # of a neighbour, of us, of it
])
def test_a_datagram_tells_where_connect_does_not(name: str, leads: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    class Blocked(socket.socket):
        def send(self, *words: Any) -> int:
            raise OSError(getattr(errno, name), "as the test wants it")

    monkeypatch.setattr(routes, "CONNECT_TELLS", False)
    assert routes.leads_to("127.0.0.1", True)
    monkeypatch.setattr(socket, "socket", Blocked)
    assert routes.leads_to("127.0.0.1") and routes.leads_to("127.0.0.1", True) == leads


def test_nothing_is_sent_where_connect_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as hears:
        hears.bind(("127.0.0.1", 0))
        hears.settimeout(0.1)
        monkeypatch.setattr(routes, "DISCARD", hears.getsockname()[1])
        for tells, send in ((True, True), (True, False), (False, False)):
            monkeypatch.setattr(routes, "CONNECT_TELLS", tells)
            assert routes.leads_to("127.0.0.1", send)
            with pytest.raises(TimeoutError):
                hears.recv(100)
        assert routes.leads_to("127.0.0.1", True) and hears.recv(100) == b""


def test_what_cannot_be_asked_is_not_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*words: object) -> None:
        raise OSError(errno.EMFILE, "as the test wants it")

    monkeypatch.setattr(socket, "socket", none)
    assert routes.leads_to("127.0.0.1")
