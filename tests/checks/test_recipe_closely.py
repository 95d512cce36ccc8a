"""Recipes to the byte: what is sent, over what, what of it is secret, and for which name hands are shaken."""

from __future__ import annotations

import pytest

from l4ipd import __version__
from l4ipd.checks.conversation import Protocol
from l4ipd.checks.expect import Match
from l4ipd.checks.pattern import pattern
from l4ipd.checks.protocols.agent import AgentAnswer
from l4ipd.checks.recipe import CONNECTED, FORM, JSON, KINDS, OPEN, SHAKEN, Exchange, Recipe, Tls, recipe
from l4ipd.model import Check, Secret
from support.members import dialog, endpoint

GREETED = Check("tcp", dialog=dialog(("expect", b"220*")))
ASKED = Check("tcp", dialog=dialog(("send", b"PING"), ("expect", b"PONG")))


def made(check: Check, address: str = "10.0.0.1") -> Recipe:
    return recipe(check, endpoint(check, 8080, address))


def sent(check: Check, address: str = "10.0.0.1") -> bytes:
    it = made(check, address)
    return it.steps[0].send + (it.host + it.steps[0].tail if it.steps[0].tail else b"")


def named(request: bytes, header: str) -> list[str]:
    """The values of a header in a request, whatever the case of its name."""
    head = request.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")[1:]
    return [value for name, _, value in (line.partition(": ") for line in head) if name.lower() == header.lower()]


# -- over what

@pytest.mark.parametrize(("check", "address", "kind"), [
    (Check("tcp"), "10.0.0.1", (False, False)), (ASKED, "10.0.0.1", (False, False)),
    (GREETED, "10.0.0.1", (False, True)), (GREETED, "fd00::1", (True, True)), (ASKED, "fd00::1", (True, False)),
    (Check("http"), "fd00::1", (True, False)), (Check("tls", dialog=GREETED.dialog), "10.0.0.1", (False, False)),
    (Check("tcp", dialog=GREETED.dialog, send_proxy="v1"), "10.0.0.1", (False, False))])
def test_who_speaks_first(check: Check, address: str, kind: tuple[bool, bool]) -> None:
    method = made(check, address).method
    assert KINDS[method.kind] == kind and method.inet6 == kind[0]


def test_where_it_goes() -> None:
    assert made(Check("tcp")) == Recipe(made(Check("tcp")).method, "10.0.0.1", 8080)
    assert made(Check("tcp", port=81)).asks == ("10.0.0.1", 81, ())
    assert made(Check("ping")).asks == ("10.0.0.1", 0, ())
    command = Check("exec", command=("x", "{port}", "{source}"), source="10.0.0.9")
    assert made(command).asks == ("10.0.0.1", 0, ("x", "8080", "10.0.0.9"))
    assert made(Check("exec", command=("-{source}-",))).command == ("--",)


def test_what_it_comes_to_when_nothing_is_said() -> None:
    assert [made(check).method.connected for check in (Check("tcp"), Check("tls"), Check("tcp", closed=True))] == [
        CONNECTED, SHAKEN, OPEN]
    assert made(Check("tcp", closed=True)).steps == ()


# -- what is said

@pytest.mark.parametrize(("check", "exchange"), [
    (Check("udp", send=b"ping", expect=b"pong*"), Exchange(b"ping", Match(0, pattern(b"pong*")))),
    (Check("udp", send=b"ping"), Exchange(b"ping", None)),
    (Check("udp", expect=b"*"), Exchange(b"", Match(0, pattern(b"*")))),
    (Check("agent"), Exchange(b"", AgentAnswer())),
    (Check("agent", send=b"hello\n"), Exchange(b"hello\n", AgentAnswer())),
])
def test_one_exchange(check: Check, exchange: Exchange) -> None:
    assert made(check).steps == (exchange,)


def test_a_protocol_by_name() -> None:
    (exchange,) = made(Check("redis", user="me", password=b"secret")).steps
    assert isinstance(exchange.expect, Protocol) and exchange.expect.title == "Redis"
    assert exchange.send == exchange.expect.opening and b"secret" in exchange.send


@pytest.mark.parametrize(("check", "address", "host"), [
    (Check("http"), "10.0.0.1", "10.0.0.1:8080"), (Check("https"), "fd00::1", "[fd00::1]:8080"),
    (Check("http"), "fe80::1%em0", "[fe80::1]:8080"), (Check("http", host="www"), "10.0.0.1", "www"),
    (Check("http", headers=(("Host", "own"),)), "10.0.0.1", "own"),
    (Check("http", headers=(("hOST", "own"),)), "10.0.0.1", "own"),
    (Check("http", method="POST", data=b"\r\nHost: \r\nHost: x"), "10.0.0.1", "10.0.0.1:8080")], ids=str)
def test_the_host(check: Check, address: str, host: str) -> None:
    assert named(sent(check, address), "host") == [host]
    assert made(check, address).host == (host.encode() if "8080" in host else b"")
    assert sent(check, address).endswith(b"\r\n\r\n" + (check.data or b""))


def test_a_request_to_the_byte() -> None:
    assert sent(Check("https", host="www", path="/\udcff?x=\u00e9")) == (
        b"GET /\xff?x=\xc3\xa9 HTTP/1.1\r\nHost: www\r\nUser-Agent: l4ip/%s\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        % __version__.encode())


@pytest.mark.parametrize(("method", "data", "length", "kind"), [
    ("GET", None, [], []), ("HEAD", None, [], []), ("DELETE", None, [], []), ("POST", None, ["0"], []),
    ("PUT", None, ["0"], []), ("PATCH", None, ["0"], []), ("POST", b"", ["0"], []),
    ("GET", b"a=b", ["3"], [FORM]), ("POST", b'{"a": 1}', ["8"], [JSON]), ("PUT", b" \n[1]", ["5"], [JSON]),
    ("POST", b"a{", ["2"], [FORM]), ("POST", b" ", ["1"], [FORM])])
def test_data(method: str, data: bytes | None, length: list[str], kind: list[str]) -> None:
    request = sent(Check("http", method=method, data=data))
    assert (named(request, "Content-Length"), named(request, "Content-Type")) == (length, kind)
    assert b"Content-Type: " in request or not kind
    assert request.startswith(f"{method} / HTTP/1.1\r\n".encode()) and request.endswith(b"\r\n\r\n" + (data or b""))


@pytest.mark.parametrize("name", ["user-agent", "ACCEPT", "Connection", "content-Length", "CONTENT-type"])
def test_own_headers_stand_alone(name: str) -> None:
    assert named(sent(Check("http", method="POST", data=b"{}", headers=((name, "own"),))), name) == ["own"]


# -- what is secret

@pytest.mark.parametrize(("check", "key", "secret"), [
    (Check("http", headers=(("Accept", "*/*"), ("X-Token", "caf\u00e9"))), ("headers", "X-Token"), (b"caf\xe9",)),
    (Check("tcp", dialog=dialog(("expect", b"220*"), ("send", b"s3"), ("expect", b"x"))), ("dialog", 2, "send"),
     (b"s3",)),
    (Check("udp", send=b"s3"), ("send",), (b"s3",)), (Check("udp"), ("send",), ()),
    (Check("redis", password=b"s3"), ("password",), (b"s3",))], ids=str)
def test_what_stands_in_a_file(check: Check, key: tuple[str | int, ...], secret: tuple[bytes, ...]) -> None:
    with_secrets = Check(**{name: getattr(check, name) for name in check.__slots__} | {"secrets": (Secret(key, "f"),)})
    assert made(with_secrets).method.secrets == secret


# -- for which name

@pytest.mark.parametrize(("host", "name"), [
    ("www.example.org", "www.example.org"), ("www.example.org:8443", "www.example.org"), ("fd00::1", "fd00::1"),
    ("[fd00::1]", "fd00::1"), ("[fd00::1]:8443", "fd00::1"), ("10.0.0.1:443", "10.0.0.1")])
def test_the_name_of_a_host(host: str, name: str) -> None:
    assert made(Check("https", host=host)).method.tls == Tls(None, name)
