"""Probes inside TLS: certificates of a test CA, members that speak no TLS, and trouble at every step."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from l4ipd.checks import tls, tls_contexts
from l4ipd.checks.probe import prepare, use_prepared
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check
from support.certs import Authority
from support.members import Member, answers, dialog, endless, probe, reset, send, silent

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\nConnection: close\r\n\r\nall is well"
PING = dialog(("send", b"PING\r\n\r\n"), ("expect", b"+PONG"))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "another CA")


@pytest.fixture(scope="module")
def good(authority: Authority) -> ssl.SSLContext:
    return authority.server("www.example.org", "127.0.0.1")


def test_handshake_alone(good: ssl.SSLContext) -> None:
    with Member(silent, good) as member:
        assert probe(Check("tls"), member.port) == ("L6OK", "handshake complete")


@pytest.mark.parametrize("piece", [0, 1])
@pytest.mark.parametrize(("check", "verdict"), [
    (Check("https"), "L7OK 200"),
    (Check("https", body=b"is well"), "L7OK 200"),
    (Check("https", status=((500, 599),)), "L7STS 200 OK"),
    (Check("tls", dialog=PING), f'L7RSP step 2: connection closed after {len(OK)} bytes: "HTTP/1.1 200'),
])
def test_answers_inside(good: ssl.SSLContext, check: Check, verdict: str, piece: int) -> None:
    with Member(answers(OK, piece), good) as member:
        assert str(probe(check, member.port)).startswith(verdict)


def test_a_dialog_inside(good: ssl.SSLContext) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        send(client, b"220 hello\r\n", 1)
        member.read(client, b"\r\n")
        send(client, b"221 bye\r\n", 1)

    check = Check("tls", dialog=dialog(("expect", b"220 *"), ("send", b"QUIT\r\n"), ("expect", b"221*")))
    with Member(behaviour, good) as member:
        assert probe(check, member.port).code == "L7OK"


def test_an_answer_that_came_while_what_tls_owes_went_out_in_part_is_judged(good: ssl.SSLContext,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that wants TLS to answer, takes little at a time, and says no more. Python's own cannot be made to want
    that: what is owed is made up here, and taken by the member as it is.
    """
    size = 16 << 20                                 # more than a socket takes
    opened = tls.Tunnel.open

    def owing(self: tls.Tunnel, received: bytes) -> tuple[bytes, bool] | Verdict:
        result = opened(self, received)
        if not isinstance(result, Verdict) and result[0]:
            self._unsent += bytes(size)
        return result

    def behaviour(member: Member, client: socket.socket) -> None:
        member.read(client)
        client.sendall(b"+PONG\r\n")
        client.setblocking(True)                    # os.read knows no timeout of Python's
        left = size
        while left > 0:
            left -= len(os.read(client.fileno(), 1 << 20))
        member.hang()

    monkeypatch.setattr(tls.Tunnel, "open", owing)
    with Member(behaviour, good) as member:
        assert probe(Check("tls", dialog=PING), member.port, expire_when=member.busy.is_set) == (
            "L7OK", "dialog complete")
        assert member.busy.wait(10)


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(authority: Authority, newest: ssl.TLSVersion) -> None:
    context = authority.server("www.example.org")
    context.maximum_version = newest
    with Member(answers(OK), context) as member:
        for verify in (None, str(authority.path)):
            assert probe(Check("https", verify=verify), member.port) == ("L7OK", "200")


def test_the_name_is_sent(authority: Authority) -> None:
    names = []
    context = authority.server("www.example.org")
    context.sni_callback = lambda tunnel, name, _: names.append(name)
    with Member(answers(OK), context) as member:
        for check in (Check("tls"), Check("https", host="www.example.org:8443"), Check("tls", sni="other.example.org")):
            assert probe(check, member.port).passed
    assert names == [None, "www.example.org", "other.example.org"]


# -- verification

def test_verified(authority: Authority, good: ssl.SSLContext) -> None:
    verify = str(authority.path)
    with Member(answers(OK), good) as member:
        for check in (Check("tls", verify=verify), Check("tls", verify=verify, sni="www.example.org"),
                      Check("https", verify=verify, host="www.example.org"),
                      Check("https", verify=verify, sni="127.0.0.1")):
            prepare(check)
            assert probe(check, member.port).passed, check


@pytest.mark.parametrize(("names", "days", "sni", "words"), [
    (("www.example.org",), (-30, -1), "www.example.org", "certificate has expired"),
    (("www.example.org",), (1, 30), None, "certificate is not yet valid"),
    (("other.example.org",), (-1, 30), "www.example.org", "certificate is not for name www.example.org"),
    (("www.example.org",), (-1, 30), "192.0.2.7", "certificate is not for address 192.0.2.7"),
])
def test_bad_certificates(authority: Authority, names: tuple[str, ...], days: tuple[int, int], sni: str | None,
                          words: str) -> None:
    with Member(answers(OK), authority.server(*names, days=days)) as member:
        for kind in ("tls", "https"):
            check = Check(kind, verify=str(authority.path), sni=sni)
            assert probe(check, member.port) == ("L6RSP", words)
            assert probe(Check(kind, sni=sni), member.port).passed       # it was not to be verified


def test_unknown_authority(authority: Authority, stranger: Authority) -> None:
    with Member(answers(OK), stranger.server("www.example.org")) as member:
        for verify in (str(authority.path), ""):
            verdict = probe(Check("https", verify=verify, sni="www.example.org"), member.port)
            assert verdict == ("L6RSP", "unknown authority")


def test_a_certificate_that_is_its_own_ca(authority: Authority, tmp_path: Path) -> None:
    context = authority.server("www.example.org")
    pem = max(authority.directory.glob("server-*.pem"), key=lambda path: path.stat().st_mtime_ns).read_text()
    pinned = tmp_path / "pinned.pem"
    pinned.write_text(pem[pem.index("-----BEGIN CERT"):])
    with Member(answers(OK), context) as member:
        assert probe(Check("https", verify=str(pinned)), member.port).passed


def test_a_ca_file_that_changes(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    """It is read again when checks are prepared, and used when their configuration is accepted."""
    path = tmp_path / "ca.pem"
    check = Check("tls", verify=str(path))
    with Member(silent, authority.server("x")) as member:
        path.write_bytes(stranger.path.read_bytes())
        prepare(check)
        assert not probe(check, member.port).passed
        path.write_bytes(authority.path.read_bytes() + b"\n")
        assert not probe(check, member.port).passed
        prepare(check)
        assert not probe(check, member.port).passed
        use_prepared()
        assert probe(check, member.port).passed
        path.unlink()
        assert probe(check, member.port).passed


@pytest.mark.parametrize(("content", "words"), [(None, "cannot be read: no such file"), (b"", "is no file of CA"),
                                                (b"rubbish", "is no file of CA"),
                                                (b"\xe9\0\xff" * 99, "is no file of CA"),
                                                (b"a pipe", "is no regular file")])
def test_bad_ca_files(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "ca.pem"
    if content == b"a pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)
    check = Check("https", verify=str(path))
    with pytest.raises(ValueError, match=f"^verify: {path}: {words}"):
        prepare(check)
    with Member(answers(OK)) as member:             # nobody has prepared it: not the member's fault
        verdict = probe(check, member.port)
        assert verdict.code == "LOCAL" and words in verdict.text


def test_what_else_is_in_a_ca_file_does_not_matter(authority: Authority, stranger: Authority, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(b"caf\xc3\xa9\n" + stranger.path.read_bytes() + b"\xe9 \0\n" * 99 + authority.path.read_bytes())
    with Member(answers(OK), authority.server("x")) as member:
        assert probe(Check("https", verify=str(path)), member.port) == ("L7OK", "200")


def test_bad_names() -> None:
    with pytest.raises(ValueError, match="is no name"):
        prepare(Check("tls", sni=".example.org"))


# -- the system's CAs

@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that stands for the system's, and is empty."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setattr(tls_contexts, "_contexts", {})
    monkeypatch.setattr(tls_contexts, "_prepared", {})
    return tmp_path


def test_the_systems_cas_are_read_at_once_and_again(system: Path, authority: Authority, good: ssl.SSLContext,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    check = Check("tls", verify="")
    with pytest.raises(ValueError, match="^verify: yes: this system has no CA certificates"):
        prepare(check)
    monkeypatch.setenv("SSL_CERT_DIR", f"/nonexistent:{system}")
    (system / "0123abcd.0").write_bytes(authority.path.read_bytes())
    (system / "dangling.0").symlink_to("nowhere")
    prepare(check)
    use_prepared()
    (system / "0123abcd.0").unlink()
    with Member(silent, good) as member:
        assert probe(check, member.port).passed     # nothing is looked up in the middle of a handshake


# -- trouble

@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("steps", [
    (("expect", b"220 *"),),
    (("expect", b"220 *"), ("send", b"QUIT\r\n"), ("expect", b"221 *")),
])
def test_a_greeting_in_the_packet_that_ends_the_handshake(authority: Authority, version: ssl.TLSVersion,
                                                         steps: tuple[tuple[str, bytes], ...]) -> None:
    context = authority.server("www.example.org")
    context.maximum_version = version

    def behaviour(member: Member, client: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tunnel = context.wrap_bio(incoming, outgoing, server_side=True)
        while True:
            try:
                tunnel.do_handshake()
                break
            except ssl.SSLWantReadError:
                client.sendall(outgoing.read())
                incoming.write(client.recv(4096))
        tunnel.write(b"220 hello\r\n")
        client.sendall(outgoing.read())             # Finished and greeting
        incoming.write(client.recv(4096))
        tunnel.write(b"221 bye\r\n")
        client.sendall(outgoing.read())
        member.hang()

    with Member(behaviour) as member:
        assert probe(Check("tls", dialog=dialog(*steps)), member.port) == ("L7OK", "dialog complete")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("check", [Check("https"), Check("tls", dialog=dialog(("send", b"a\n"), ("expect", b"*b")))])
def test_a_member_that_wants_to_renegotiate_is_told_no(authority: Authority, check: Check) -> None:
    """And at once: it must not wait for an answer that stays with us until the timeout."""
    authority.server("www.example.org")
    pem = max(authority.directory.glob("server-*.pem"), key=lambda path: path.stat().st_mtime_ns)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["openssl", "s_server", "-tls1_2", "-accept", f"127.0.0.1:{port}", "-cert", str(pem), "-key", str(pem)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as server:
        assert server.stdin is not None and server.stdout is not None
        while b"ACCEPT" not in server.stdout.readline():
            pass

        def relay(member: Member, client: socket.socket) -> None:
            """Between the two, so that the wish comes after the request."""
            with socket.create_connection(("127.0.0.1", port)) as inner:
                threading.Thread(target=_pump, args=(inner, client), daemon=True).start()
                _pump(client, inner, server.stdin)

        with Member(relay) as member:
            verdict = probe(check, member.port)
        server.kill()
    assert verdict == ("L6RSP", "the member refused the handshake: handshake failure")


def _pump(source: socket.socket, sink: socket.socket, console: IO[bytes] | None = None) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(65536):
            sink.sendall(chunk)
            if console is not None and chunk[:1] == b"\x17":       # the request: now renegotiate
                console.write(b"r\n")
                console.flush()



@pytest.mark.parametrize(("said", "words"), [
    (b"220 mail ready\r\n", 'not TLS: "220 mail ready"'),
    (b"HTTP/1.1 400 Bad Request\r\n\r\n", 'not TLS: "HTTP/1.1 400 Bad Request"'),
    (b"\0", r'not TLS: "\x00"'),
    (b"\x16\x03\x01\0\x05hello", "handshake failed"),
    (b"\x16rubbish that goes on", "handshake failed: wrong version number"),
    (b"\x15\x03\x03\0\x02\x02\x28", "the member refused the handshake: handshake failure"),
])
def test_not_tls(said: bytes, words: str) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(said)
        member.hang()

    with Member(behaviour) as member:
        for check in (Check("tls"), Check("https", verify="")):
            assert str(probe(check, member.port)).startswith(f"L6RSP {words}")


def test_silence_in_the_handshake() -> None:
    with Member(silent) as member:
        verdict = probe(Check("https"), member.port, expire_when=member.busy.is_set)
        assert verdict == ("L6TOUT", "no answer to the TLS handshake")


def test_endless_garbage_in_the_handshake() -> None:
    with Member(endless) as member:
        assert probe(Check("tls"), member.port).code == "L6RSP"


class Middle:
    """A member that passes a real handshake on, but only ``count`` bytes of the answer; then ``after`` happens."""

    def __init__(self, context: ssl.SSLContext, count: int, after: str, piece: int = 0) -> None:
        self.context, self.count, self.after, self.piece = context, count, after, piece

    def __call__(self, member: Member, client: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tunnel = self.context.wrap_bio(incoming, outgoing, server_side=True)
        left = self.count
        while left:
            incoming.write(client.recv(4096))
            try:
                tunnel.do_handshake()
                tunnel.read(4096)
                tunnel.write(OK)
            except ssl.SSLWantReadError:
                pass

            said = outgoing.read()[:left]
            send(client, said, self.piece)
            left -= len(said)
        if self.after == "reset":
            reset(client)
        elif self.after == "hang":
            member.hang()


@pytest.mark.parametrize("count", [0, 1, 4, 5, 60, 200, 500])
def test_cut_in_the_handshake(good: ssl.SSLContext, count: int) -> None:
    with Member(Middle(good, count, "close")) as member:
        assert probe(Check("https"), member.port).code == "L6RSP"
    with Member(Middle(good, count, "reset")) as member:
        assert probe(Check("https"), member.port).text.endswith(("connection reset", "closed by the member"))
    with Member(Middle(good, count, "hang")) as member:
        assert probe(Check("https"), member.port, expire_when=member.busy.is_set).code == "L6TOUT"


def test_a_handshake_byte_by_byte(good: ssl.SSLContext) -> None:
    with Member(Middle(good, 1 << 20, "close", 7)) as member:
        assert probe(Check("https"), member.port) == ("L7OK", "200")


def test_garbage_after_the_handshake(good: ssl.SSLContext) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        member.read(client)
        raw = socket.socket(fileno=client.detach())
        raw.sendall(b"\x17\x03\x03\0\x20" + b"x" * 32)
        raw.close()

    with Member(behaviour, good) as member:
        assert probe(Check("https"), member.port).code in ("L6RSP", "L7RSP")


def test_endless_inside(good: ssl.SSLContext) -> None:
    with Member(endless, good) as member:
        verdict = probe(Check("tls", dialog=PING), member.port)
        assert verdict == ("L7RSP", "step 2: more than 16 KiB without what was expected")


# -- client certificates

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]
NOTHING_ELSE = Check("tls")


def asking(authority: Authority, version: ssl.TLSVersion, mode: ssl.VerifyMode, tickets: int = 2) -> ssl.SSLContext:
    context = authority.server("www.example.org")
    context.minimum_version = context.maximum_version = version
    context.verify_mode = mode
    context.load_verify_locations(authority.path)
    if version == ssl.TLSVersion.TLSv1_3:
        context.num_tickets = tickets
    return context


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("check", [NOTHING_ELSE, Check("https"), Check("tls", dialog=PING),
                                   Check("tls", dialog=dialog(("expect", b"220 *")))])
def test_a_client_certificate_is_demanded(authority: Authority, version: ssl.TLSVersion, check: Check) -> None:
    """In TLS 1.3 the member says so after the handshake."""
    with Member(answers(OK), asking(authority, version, ssl.CERT_REQUIRED)) as member:
        for _ in range(20):                         # its RST comes right after its alert
            assert probe(check, member.port) == ("L6RSP", "the member demands a client certificate")


def says_goodbye(member: Member, client: socket.socket) -> None:
    with contextlib.suppress(ssl.SSLZeroReturnError):
        assert client.recv(1000) == b""


def hangs_up(member: Member, client: socket.socket) -> None:
    """Reads our goodbye, and says none."""
    says_goodbye(member, client)
    socket.socket(fileno=client.detach()).close()


def greets(member: Member, client: socket.socket) -> None:
    client.sendall(b"220 hello\r\n")
    says_goodbye(member, client)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tickets", [0, 1, 2])
@pytest.mark.parametrize("behaviour", [says_goodbye, hangs_up, greets])
def test_a_client_certificate_is_wished_for(authority: Authority, version: ssl.TLSVersion, tickets: int,
                                            behaviour: Callable[[Member, socket.socket], None]) -> None:
    """Any sign of life after the handshake will do, and there is always one: no timeout passes."""
    with Member(behaviour, asking(authority, version, ssl.CERT_OPTIONAL, tickets)) as member:
        assert probe(NOTHING_ELSE, member.port) == ("L6OK", "handshake complete")


def test_a_member_that_says_nothing_after_the_handshake_has_not_refused(authority: Authority) -> None:
    with Member(silent, asking(authority, ssl.TLSVersion.TLSv1_3, ssl.CERT_OPTIONAL, 0)) as member:
        verdict = probe(NOTHING_ELSE, member.port, expire_when=member.busy.is_set)
        assert verdict == ("L6OK", "handshake complete")


def test_who_asks_for_no_certificate_is_not_waited_for(authority: Authority) -> None:
    with Member(silent, asking(authority, ssl.TLSVersion.TLSv1_3, ssl.CERT_NONE, 0)) as member:
        assert probe(NOTHING_ELSE, member.port) == ("L6OK", "handshake complete")


@pytest.mark.parametrize("piece", [1, 7])
@pytest.mark.parametrize(("mode", "verdict"), [
    (ssl.CERT_REQUIRED, ("L6RSP", "the member demands a client certificate")),
    (ssl.CERT_OPTIONAL, ("L6OK", "handshake complete"))])
def test_what_comes_after_the_handshake_comes_in_pieces(authority: Authority, mode: ssl.VerifyMode, piece: int,
                                                        verdict: tuple[str, str]) -> None:
    context = asking(authority, ssl.TLSVersion.TLSv1_3, mode)

    def behaviour(member: Member, client: socket.socket) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tunnel = context.wrap_bio(incoming, outgoing, server_side=True)
        over = False
        while not over:
            incoming.write(client.recv(4096))
            try:
                tunnel.do_handshake()
                over = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                over = True
            send(client, outgoing.read(), piece)
        member.hang()

    with Member(behaviour) as member:
        assert probe(NOTHING_ELSE, member.port) == verdict


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_the_same_words_for_another_server(authority: Authority, version: str) -> None:
    with s_server(authority, version, "-Verify", "1") as port:
        for check in (NOTHING_ELSE, Check("https")):
            assert probe(check, port) == ("L6RSP", "the member demands a client certificate")
    with s_server(authority, version, "-verify", "1") as port:
        assert probe(NOTHING_ELSE, port) == ("L6OK", "handshake complete")


@contextlib.contextmanager
def s_server(authority: Authority, *options: str) -> Iterator[int]:
    """OpenSSL's own, on a port."""
    authority.server("www.example.org")
    pem = max(authority.directory.glob("server-*.pem"), key=lambda path: path.stat().st_mtime_ns)
    words = ["openssl", "s_server", "-accept", "127.0.0.1:0", "-cert", str(pem), "-key", str(pem), *options]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        assert server.stdout is not None
        try:
            while not (line := server.stdout.readline()).startswith(b"ACCEPT"):
                assert line
            yield int(line.rpartition(b":")[2])
        finally:
            server.kill()


@pytest.mark.parametrize(("flight", "asked"), [
    (b"", False), (b"\x16\3\3", False), (b"\x16\3\1\0\4\1\0\0\0", False),          # a hello
    (b"\x16\3\3\0\7\x0b\0\0\3\0\0\0" + b"\x16\3\3\0\1\x10", True),             # nothing, and the key exchange
    (b"\x16\3\3\0\1\x10" + b"\x14\3\3\0\1\1" + b"\x16\3\3\0\1\x0b", False),     # sealed: any first byte
    (b"\x14\3\3\0\1\1" + b"\x17\3\3\0\1x", False), (b"\x17\3\3\0\1x", False),
    (b"\x14\3\3\0\1\1" + b"\x17\3\3\0\2xy" + b"\x17\3\3\0\1x", True),
    (b"\x14\3\3\0\1\1" + b"\x16\3\1\0\4\1\0\0\0", False),                       # a second hello
])
def test_whether_a_certificate_was_asked_for(flight: bytes, asked: bool) -> None:
    assert tls.certifies(flight) is asked
