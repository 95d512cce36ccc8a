"""How probes begin: with the PROXY protocol's header, before real servers that demand it, and from an address of ours.

And what they send: the data of a request.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.checks import ping
from l4ipd.checks.proxy_protocol import LOCAL
from l4ipd.config.parse import ConfigError, parse
from l4ipd.model import Check, Config
from support.certs import Authority
from support.gateway import free_port, wait
from support.members import Member, answers, dialog, endpoint, probe, silent

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
TYPES = ("tcp", "tls", "http", "https")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


# -- the header

def served(header: bytes, over: ssl.SSLContext | None) -> Member:
    """A member that takes the header off, byte by byte, and answers inside of it; ``requests`` is the header."""
    def behaviour(member: Member, client: socket.socket) -> None:
        got = b""
        while not (got.endswith(b"\r\n") if header == b"v1" else len(got) == len(LOCAL)):
            got += client.recv(1)
        member.requests.append(got)
        inner = over.wrap_socket(client, server_side=True) if over else client
        data = b""
        while not data.endswith(b"\r\n\r\n") and (chunk := inner.recv(1000)):
            data += chunk
        member.requests.append(data)
        inner.sendall(OK)

    return Member(behaviour)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("kind", TYPES)
def test_the_header_comes_first(authority: Authority, kind: str, version: str) -> None:
    check = Check(kind, send_proxy=version)
    over = authority.server("x") if kind in ("tls", "https") else None
    with served(version.encode(), over) as member:
        assert probe(check, member.port).passed
        wait("the header", lambda: member.requests)
        header = member.requests[0]
        if version == "v2":
            assert header == b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"
        else:
            words = header.decode().split(" ")
            assert words[:4] == ["PROXY", "TCP4", "127.0.0.1", "127.0.0.1"] and words[5] == f"{member.port}\r\n"
            assert 0 < int(words[4]) < 65536


def test_a_dialog_after_the_header() -> None:
    with served(b"v2", None) as member:
        check = Check("tcp", send_proxy="v2", dialog=dialog(("send", b"hello\r\n\r\n"), ("expect", b"*200*")))
        assert probe(check, member.port) == ("L7OK", "dialog complete")
        assert member.requests == [LOCAL, b"hello\r\n\r\n"]


def certificate(authority: Authority) -> Path:
    return authority.pem("127.0.0.1")


@pytest.fixture(scope="module")
def haproxy(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed")
    ports = {"plain": free_port(), "tls": free_port()}
    file = tmp_path_factory.mktemp("haproxy") / "haproxy.cfg"
    file.write_text(
        "defaults\n mode http\n timeout client 5s\n timeout server 5s\n timeout connect 5s\nfrontend f\n"
        f" bind 127.0.0.1:{ports['plain']} accept-proxy\n"
        f" bind 127.0.0.1:{ports['tls']} accept-proxy ssl crt {certificate(authority)}\n"
        " http-request return status 200\n")
    with subprocess.Popen(["haproxy", "-db", "-f", str(file)], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL) as server:
        yield from until_ready(server, ports)


@pytest.fixture(scope="module")
def nginx(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed")
    ports = {"plain": free_port(), "tls": free_port()}
    directory, pem = tmp_path_factory.mktemp("nginx"), certificate(authority)
    file = directory / "nginx.conf"
    temporary = "".join(f"{name}_temp_path {directory}/{name};" for name in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    file.write_text(
        f"daemon off; pid {directory}/pid; error_log {directory}/error.log; events {{}}\nhttp {{ access_log off;"
        f"{temporary}\nserver {{ listen 127.0.0.1:{ports['plain']} proxy_protocol; return 200; }}\n"
        f"server {{ listen 127.0.0.1:{ports['tls']} ssl proxy_protocol; ssl_certificate {pem};"
        f" ssl_certificate_key {pem}; return 200; }} }}\n")
    with subprocess.Popen(["nginx", "-e", f"{directory}/error.log", "-p", str(directory), "-c", str(file)],
                          stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        yield from until_ready(server, ports)


def until_ready(server: subprocess.Popen[bytes], ports: dict[str, int]) -> Iterator[dict[str, int]]:
    def listens() -> bool:
        assert server.poll() is None, "it has ended"
        try:
            for port in ports.values():
                socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            return False
        return True

    try:
        wait("the server", listens)
        yield ports
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.parametrize("server", ["haproxy", "nginx"])
def test_real_servers_that_demand_the_header(server: str, request: pytest.FixtureRequest) -> None:
    ports = request.getfixturevalue(server)
    for kind in TYPES:
        port = ports["tls" if kind in ("tls", "https") else "plain"]
        for version in ("v1", "v2"):
            verdict = probe(Check(kind, send_proxy=version), port)
            assert verdict.passed, (kind, version, verdict)
            if "http" in kind:
                assert verdict == ("L7OK", "200")
        if kind != "tcp":
            assert not probe(Check(kind), port).passed, "it demands none"


# -- the source

LOCALS = ("127.0.0.1", pytest.param("127.7.7.7", marks=pytest.mark.loopback("127.7.7.7")))


@pytest.mark.parametrize("source", LOCALS)
@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_tcp_comes_from_the_source(kind: str, source: str) -> None:
    peers = []

    def behaviour(member: Member, client: socket.socket) -> None:
        peers.append(client.getpeername()[0])
        answers(OK)(member, client)

    with Member(behaviour) as member:
        for _ in range(3):                                  # sockets that were used before are not in the way
            assert probe(Check(kind, source=source, close="fin"), member.port).passed
        wait("three", lambda: len(peers) == 3)
        assert set(peers) == {source}


@pytest.mark.loopback("127.7.7.7")
def test_udp_comes_from_the_source() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        port, peers = server.getsockname()[1], []

        def answered() -> bool:
            server.setblocking(False)
            try:
                _, peer = server.recvfrom(100)
            except BlockingIOError:
                return False
            peers.append(peer[0])
            server.sendto(b"x", peer)
            return False

        assert probe(Check("udp", send=b"x", expect=b"x", source="127.7.7.7"), port, expire_when=answered).passed
        assert peers == ["127.7.7.7"]


@pytest.mark.loopback("127.7.7.7")
def test_a_ping_comes_from_the_source() -> None:
    from l4ipd.checks.probe import Prober
    from l4ipd.runtime.loop import Loop

    loop = Loop()
    prober = Prober(loop)
    try:
        pinger = ping.Pinger(loop, False, "127.7.7.7")
        trouble = pinger._open()
        if trouble is not None and "not permitted" in trouble.text:
            pytest.skip(trouble.text)
        assert trouble is None and pinger._socket is not None
        assert pinger._socket.getsockname()[0] == "127.7.7.7"
        pinger.close()
        assert probe(Check("ping", source="127.7.7.7")).passed
    finally:
        prober.close()
        loop.close()


@pytest.mark.parametrize("kind", [*TYPES, "udp", "ping"])
def test_a_source_that_is_not_ours(kind: str) -> None:
    with Member(silent) as member:
        verdict = probe(Check(kind, source="192.0.2.99"), member.port)
    if "not permitted" in verdict.text:
        pytest.skip(verdict.text)
    assert verdict == ("LOCAL", "source: 192.0.2.99 is no address of this gateway at the moment")


def test_a_command_gets_the_source() -> None:
    assert probe(Check("exec", command=("echo", "{source}"), source="10.0.0.1")) == ("PROCOK", "10.0.0.1")
    assert endpoint(Check("exec"), 1).address == "127.0.0.1"


SERVICE = """ipfilter: {{interface: em0}}
defaults: {{source: {default}}}
clusters:
  c: {{address: {vip}, services: {{s: {{port: 1, check: {check}}}}}, members: {{m: {member}}}}}
"""


def sources(default: str, check: str, vip: str = "192.0.2.1", member: str = "10.0.0.1") -> list[str | None]:
    config: Config = parse(SERVICE.format(default=default, check=check, vip=vip, member=member), "c")
    return [each.source for each in config.clusters[0].services[0].checks]


def test_the_source_of_defaults_is_for_its_family() -> None:
    assert sources("10.0.0.9", "[tcp, {type: ping, source: 10.0.0.8}, ping]") == ["10.0.0.9", "10.0.0.8", "10.0.0.9"]
    assert sources("10.0.0.9", "tcp", "'fd00::1'", "'fd00::2'") == [None]
    with pytest.raises(ConfigError, match="the source fd00::9 of its check is IPv6, and its members are IPv4"):
        sources("10.0.0.9", "{type: tcp, source: 'fd00::9'}")


# -- data

@pytest.mark.parametrize(("check", "head", "data"), [
    (Check("http", method="POST", data=b"a=b"), b"POST / HTTP/1.1\r\n", b"a=b"),
    (Check("http", method="PUT", data=b"[1]", host="x"), b"Content-Type: application/json\r\n", b"[1]"),
    (Check("http", method="POST", data=b"\0\r\n\xff"), b"Content-Type: application/x-www-form-urlencoded\r\n",
     b"\0\r\n\xff"),
    (Check("http", method="POST", data=b"{}", headers=(("content-type", "text/plain"),)),
     b"content-type: text/plain\r\n", b"{}"),
    (Check("http", method="POST"), b"Content-Length: 0\r\n", b""),
])
def test_data(check: Check, head: bytes, data: bytes) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        text = b""
        while not text.endswith(b"\r\n\r\n" + data):
            text += client.recv(1)
        member.requests.append(text)
        client.sendall(OK)

    with Member(behaviour) as member:
        assert probe(check, member.port).passed
        request = member.requests[0]
        assert head in request and b"\r\nContent-Length: %d\r\n" % len(data) in request
        assert request.lower().count(b"content-type") == bool(data)
        assert (b"\r\nHost: x\r\n" if check.host else b"\r\nHost: 127.0.0.1:%d\r\n" % member.port) in request
