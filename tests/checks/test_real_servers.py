"""Protocols by name against real servers, as far as they are installed: well, full, read only, replicas, starting.

Each is asked a hundred times, and must neither shut us out nor log an error.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check
from support import servers
from support.certs import Authority
from support.members import Watch, probe
from support.servers import Server

OFTEN = 100
READY = ("L7OK", "ready")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as it:
        yield it


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that servers which give up their privileges can come to, whatever pytest does to its own."""
    with TemporaryDirectory(prefix="l4ip-", ignore_cleanup_errors=True) as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def often(check: Check, port: int, times: int = OFTEN) -> set[Verdict]:
    with Watch() as watch:
        return {watch.probe(check, port) for _ in range(times)}


def sealed(check: Check, authority: Authority) -> Check:
    """The same inside of TLS, with a certificate that must be the member's."""
    return replace(check, tls=True, verify=str(authority.path), verify_host="member")


def agreed(check: Check, authority: Authority) -> Check:
    return replace(check, starttls=True, verify=str(authority.path), verify_host="member")


def errors(server: Server, pattern: str = r"(?i)\b(error|warning|fatal|panic|aborted connection)\b") -> list[str]:
    return [line for line in server.log.splitlines() if re.search(pattern, line)]


def test_postfix(stack: ExitStack, authority: Authority, place: Path) -> None:
    server = stack.enter_context(servers.postfix(place, authority))
    check = Check("smtp", name="gw.example.net")
    before = errors(server, "lost connection|error|fatal")
    assert often(check, server.ports["smtp"], 20) == {READY}
    assert often(agreed(check, authority), server.ports["smtp"], 5) == {READY}
    assert often(sealed(check, authority), server.ports["smtps"], 5) == {READY}
    assert errors(server, "lost connection|error|fatal") == before


def test_dovecot(stack: ExitStack, authority: Authority, place: Path) -> None:
    server = stack.enter_context(servers.dovecot(place, authority))
    for name in ("imap", "pop3"):
        assert often(Check(name), server.ports[name], 20) == {READY}
        assert often(agreed(Check(name), authority), server.ports[name], 5) == {READY}
        assert often(sealed(Check(name), authority), server.ports[f"{name}s"], 5) == {READY}
    assert errors(server) == []


def test_vsftpd(stack: ExitStack, authority: Authority, place: Path) -> None:
    server = stack.enter_context(servers.vsftpd(place, authority))
    assert often(Check("ftp"), server.ports["ftp"], 20) == {READY}
    assert often(agreed(Check("ftp"), authority), server.ports["ftp"], 5) == {READY}


def test_openssh(stack: ExitStack, place: Path) -> None:
    server = stack.enter_context(servers.sshd(place))
    assert often(Check("ssh"), server.ports["ssh"], 30) == {READY}


def test_openssh_that_is_full(stack: ExitStack, place: Path) -> None:
    server = stack.enter_context(servers.sshd(place, "MaxStartups 1"))
    with closing(socket.create_connection(("127.0.0.1", server.ports["ssh"]))) as waiting:
        assert waiting.recv(4) == b"SSH-"
        verdict = probe(Check("ssh"), server.ports["ssh"])
        assert verdict.code in ("L7STS", "L7RSP") and ("MaxStartups" in verdict.text or "closed" in verdict.text
                                                       or "Not allowed" in verdict.text), verdict


def test_redis(stack: ExitStack, place: Path) -> None:
    master = stack.enter_context(servers.redis(place))
    port = master.ports["redis"]
    assert often(Check("redis"), port) == often(Check("redis", writable=True), port) == {READY}
    (place / "replica").mkdir()
    replica = stack.enter_context(servers.redis(place / "replica", "--replicaof", "127.0.0.1", str(port)))
    assert probe(Check("redis"), replica.ports["redis"]) == READY
    assert probe(Check("redis", writable=True), replica.ports["redis"]) == ("L7STS", "a replica, not the master")


def test_redis_with_a_password_and_full(stack: ExitStack, place: Path) -> None:
    server = stack.enter_context(servers.redis(place, "--requirepass", "secret %\r", "--maxclients", "1"))
    port = server.ports["redis"]
    assert probe(Check("redis", password=b"secret %\r"), port) == READY
    assert often(Check("redis"), port, 1) == {("L7STS", "NOAUTH Authentication required.")}
    verdict = probe(Check("redis", password=b"wrong"), port)
    assert verdict.code == "L7STS" and verdict.text.startswith("WRONGPASS ")
    assert probe(Check("redis", user="default", password=b"secret %\r"), port) == READY

    def is_full() -> bool:
        with closing(socket.create_connection(("127.0.0.1", port))) as one:
            one.sendall(b"PING\r\n")
            if not one.recv(10).startswith(b"-NOAUTH"):
                return False                                # the last one is still being let go
            return probe(Check("redis", password=b"secret %\r"), port) == (
                "L7STS", "ERR max number of clients reached")

    servers.until(server, is_full)


@pytest.mark.parametrize(("hba", "password"), [("trust", None), ("password", b"secret"), ("md5", b"secret"),
                                               ("scram-sha-256", b"secret")])
def test_postgresql(stack: ExitStack, authority: Authority, place: Path, hba: str, password: bytes | None) -> None:
    server = stack.enter_context(servers.postgres(place, authority, hba=hba))
    port = server.ports["pgsql"]
    known = Check("pgsql", user="l4ip", password=password)
    servers.until(server, lambda: probe(known, port) == READY)
    quiet = len(server.log.splitlines())
    assert often(known, port, 20) == often(replace(known, writable=True), port, 3) == {READY}
    assert often(agreed(known, authority), port, 3) == {READY}
    assert often(Check("pgsql"), port) == often(agreed(Check("pgsql"), authority), port, 3) == {
        ("L7OK", "ready: asks who we are")}
    assert server.log.splitlines()[quiet:] == [], "it has found something to say"
    if password is not None:
        verdict = probe(replace(known, password=b"wrong"), port)
        assert verdict == ("L7STS", '28P01 password authentication failed for user "l4ip"')
        assert probe(replace(known, password=None), port) == ("L7STS", "asks for a password, and there is none")
    assert probe(replace(known, name="nowhere"), port) == ("L7STS", '3D000 database "nowhere" does not exist')


def test_postgresql_that_is_full_or_read_only(stack: ExitStack, authority: Authority, place: Path) -> None:
    server = stack.enter_context(servers.postgres(
        place, authority, "-c", "max_connections=4", "-c", "superuser_reserved_connections=0", "-c",
        "max_wal_senders=0", "-c", "default_transaction_read_only=on"))
    port, known = server.ports["pgsql"], Check("pgsql", user="l4ip")
    servers.until(server, lambda: probe(known, port) == READY)
    assert probe(replace(known, writable=True), port) == ("L7STS", "read only: a standby, or told to be so")
    start = b"\0\3\0\0user\0l4ip\0database\0postgres\0\0"
    for _ in range(4):
        one = stack.enter_context(closing(socket.create_connection(("127.0.0.1", port))))
        one.sendall((len(start) + 4).to_bytes(4, "big") + start)
        while b"Z\0\0\0\5" not in one.recv(4096):
            pass
    for check in (known, Check("pgsql")):
        assert probe(check, port) == ("L7STS", "53300 sorry, too many clients already")


SQL = ("CREATE USER l4ip@'%';\nCREATE USER known@'%' IDENTIFIED BY 'secret';\n"
       "GRANT USAGE ON *.* TO known@'%';\n")


def test_mariadb(stack: ExitStack, authority: Authority, place: Path) -> None:
    server = stack.enter_context(servers.mariadb(place, authority, "--max-connect-errors=2", sql=SQL))
    port, known = server.ports["mysql"], Check("mysql", user="known", password=b"secret")
    servers.until(server, lambda: probe(known, port) == READY)
    quiet = len(errors(server))
    assert often(known, port) == often(Check("mysql"), port) == {READY}
    assert often(replace(known, writable=True), port, 5) == often(agreed(known, authority), port, 5) == {READY}
    assert len(errors(server)) == quiet
    verdict = probe(replace(known, password=b"wrong"), port)
    assert verdict.code == "L7STS" and verdict.text.startswith("1045 Access denied for user 'known'")
    verdict = probe(Check("mysql", user="nobody"), port)
    assert verdict.code == "L7STS" and verdict.text.startswith("1045 ")
    assert probe(known, port) == READY                      # the host is not blocked


def test_mariadb_that_does_not_know_us_is_read_only_and_full(stack: ExitStack, authority: Authority,
                                                            place: Path) -> None:
    server = stack.enter_context(servers.mariadb(
        place, authority, "--max-connect-errors=2", "--read-only=1", "--max-connections=10",
        sql=SQL.split("\n", 1)[1]))
    port, known = server.ports["mysql"], Check("mysql", user="known", password=b"secret")
    servers.until(server, lambda: probe(known, port) == READY)
    assert often(Check("mysql"), port, 20) == {("L7OK", "a login is refused, as it should be")}
    verdict = probe(replace(known, writable=True), port)
    assert verdict.code == "L7STS" and verdict.text.startswith("read only: ")
    waiting = []
    for _ in range(12):
        waiting.append(stack.enter_context(closing(socket.create_connection(("127.0.0.1", port)))))
        waiting[-1].recv(4)
    for check in (known, Check("mysql")):
        assert probe(check, port) == ("L7STS", "1040 Too many connections")


def test_slapd(stack: ExitStack, authority: Authority, place: Path) -> None:
    server = stack.enter_context(servers.slapd(place, authority))
    port, admin = server.ports["ldap"], Check("ldap", user="cn=admin,dc=example", password=b"secret")
    for check in (Check("ldap"), admin):
        assert often(check, port) == often(agreed(check, authority), port, 5) == {READY}
        assert often(sealed(check, authority), server.ports["tls"], 5) == {READY}
    assert probe(replace(admin, password=b"wrong"), port) == ("L7STS", "49 invalidCredentials")


def test_slapd_that_lets_nobody_in(stack: ExitStack, authority: Authority, place: Path) -> None:
    server = stack.enter_context(servers.slapd(place, authority, "disallow bind_anon"))
    assert probe(Check("ldap"), server.ports["ldap"]) == ("L7OK", "ready: lets nobody in without a name")


@pytest.mark.parametrize(("name", "record", "verdict"), [
    ("www.example.org", "A", ("L7OK", "NOERROR")), ("WWW.Example.org.", "A", ("L7OK", "NOERROR")),
    ("www.example.org", "AAAA", ("L7STS", "NOERROR, but no record of that kind")),
    ("no.example.org", "A", ("L7STS", "NXDOMAIN")), ("a.bad.example.org", "A", ("L7STS", "REFUSED"))])
def test_unbound(unbound: Server, authority: Authority, name: str, record: str, verdict: tuple[str, str]) -> None:
    check = Check("dns", name=name, record=record, over="udp")
    assert often(check, unbound.ports["dns"], 5) == {verdict}
    check = replace(check, over="tcp")
    assert often(check, unbound.ports["dns"], 5) == {verdict}
    assert often(sealed(check, authority), unbound.ports["tls"], 5) == {verdict}


@pytest.fixture(scope="module")
def unbound(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with servers.unbound(tmp_path_factory.mktemp("unbound"), authority) as server:
        yield server


