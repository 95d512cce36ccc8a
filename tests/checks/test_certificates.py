"""Certificates: ours for members that ask for one, theirs for whom they must be, and until when they are good."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from l4ipd.checks import tls_contexts
from l4ipd.checks.ber import element, elements, encoded
from l4ipd.checks.certificate import first, names_match, not_after
from l4ipd.checks.certificates import Certificates
from l4ipd.checks.probe import prepare, use_prepared
from l4ipd.model import Check
from l4ipd.monitor.expiry import DAY, Expiry, words
from l4ipd.runtime.loop import Loop
from support.balancer import balancer, cluster, web
from support.certs import Authority
from support.gateway import Gateway, free_port
from support.members import Member, answers, probe, silent
from support.sandbox_tools import Sandbox

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "another CA")


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test has the files of another."""
    monkeypatch.setattr(tls_contexts, "_contexts", {})
    monkeypatch.setattr(tls_contexts, "_prepared", {})


def demanding(authority: Authority, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = authority.server("www.example.org")
    context.minimum_version = context.maximum_version = version
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.path)
    return context


def parts(pem: Path) -> tuple[Path, Path]:
    """A file of both as two: certificate and key."""
    text = pem.read_text()
    at = text.index("-----BEGIN CERTIFICATE")
    cert, key = pem.with_suffix(".crt"), pem.with_suffix(".key")
    key.write_text(text[:at])
    cert.write_text(text[at:])
    return cert, key


# -- ours

@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("kind", ["tls", "https"])
def test_a_member_that_demands_a_certificate_gets_ours(authority: Authority, version: ssl.TLSVersion,
                                                       kind: str) -> None:
    both = authority.pem("l4ip.example.org")
    cert, key = parts(both)
    with Member(answers(OK) if kind == "https" else silent, demanding(authority, version)) as member:
        for check in (Check(kind, cert=str(both)), Check(kind, cert=str(cert), key=str(key)),
                      Check(kind, cert=str(both), verify=str(authority.path))):
            prepare(check)
            assert probe(check, member.port).passed
        assert probe(Check(kind), member.port) == ("L6RSP", "the member demands a client certificate")


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_certificate_that_the_member_does_not_trust(authority: Authority, stranger: Authority,
                                                      version: ssl.TLSVersion) -> None:
    with Member(silent, demanding(authority, version)) as member:
        assert probe(Check("tls", cert=str(stranger.pem("x"))), member.port) == (
            "L6RSP", "the member refused the handshake: unknown ca")


def test_a_renewed_certificate_is_taken_at_a_reload(authority: Authority, stranger: Authority,
                                                    tmp_path: Path) -> None:
    mine = tmp_path / "mine.pem"
    check = Check("tls", cert=str(mine))
    mine.write_bytes(stranger.pem("x").read_bytes())
    with Member(silent, demanding(authority, ssl.TLSVersion.TLSv1_2)) as member:
        prepare(check)
        assert not probe(check, member.port).passed
        mine.write_bytes(authority.pem("x").read_bytes() + b"\n")
        prepare(check)
        assert not probe(check, member.port).passed         # the reload may yet be refused
        use_prepared()
        assert probe(check, member.port).passed


def encrypted(pem: Path) -> bytes:
    cert, key = parts(pem)
    secret = serialization.load_pem_private_key(key.read_bytes(), None)
    return secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                serialization.BestAvailableEncryption(b"secret"))


def test_files_that_will_not_do(authority: Authority, tmp_path: Path) -> None:
    cert, key = parts(authority.pem("a"))
    other = parts(authority.pem("b"))[1]
    locked, damaged, pipe = tmp_path / "locked.key", tmp_path / "damaged.pem", tmp_path / "pipe"
    locked.write_bytes(encrypted(authority.pem("c")))
    damaged.write_text(cert.read_text().replace("MII", "XII", 1) + key.read_text())
    os.mkfifo(pipe)
    gone = tmp_path / "gone.pem"
    for mine, its, complaint in [
            (gone, None, f"cert: {gone}: cannot be read: no such file or directory"),
            (cert, gone, f"key: {gone}: cannot be read: no such file or directory"),
            (pipe, None, f"cert: {pipe}: is no regular file"),
            (key, key, f"cert: {key}: has no certificate in PEM form"),
            (cert, None, f"cert: {cert}: has no private key in PEM form, and there is no key:"),
            (cert, cert, f"key: {cert}: has no private key in PEM form"),
            (cert, other, f"key: {other}: its private key is not that of the certificate in {cert}"),
            (cert, locked, f"key: {locked}: its private key is encrypted, and a daemon has nobody to ask for the "
                           "password"),
            (damaged, None, f"cert: {damaged}: the certificate or its key cannot be used: ")]:
        with pytest.raises(ValueError, match="^" + re.escape(complaint)):
            prepare(Check("https", cert=str(mine), key=None if its is None else str(its)))


# -- theirs

@pytest.mark.parametrize(("names", "host", "good"), [
    ("127.0.0.1", "member", True), ("127.0.0.2", "member", False), ("www.example.org", "member", False),
    ("www.example.org", "www.example.org", True), ("www.example.org", "WWW.example.org", True),
    ("other.example.org", "www.example.org", False), ("127.0.0.9", "127.0.0.9", True),
])
def test_whom_the_certificate_must_be_for(authority: Authority, names: str, host: str, good: bool) -> None:
    with Member(silent, authority.server(names)) as member:
        for sni in (None, "quite.another.example.org"):     # what is asked for is another matter
            verdict = probe(Check("tls", verify=str(authority.path), verify_host=host, sni=sni), member.port)
            whom = "127.0.0.1, the member" if host == "member" else host
            assert verdict == (("L6OK", "handshake complete") if good else
                               ("L6RSP", f"certificate is not for {whom}"))


def test_each_member_is_held_to_its_own_address(authority: Authority) -> None:
    check = Check("https", verify=str(authority.path), verify_host="member")
    with Member(answers(OK), authority.server("127.0.0.1"), "127.0.0.1") as one, \
            Member(answers(OK), authority.server("127.0.0.1"), "127.0.0.2") as two:
        assert probe(check, one.port).passed
        assert probe(check, two.port, "127.0.0.2") == ("L6RSP", "certificate is not for 127.0.0.2, the member")


@pytest.mark.parametrize(("names", "host", "good"), [
    ([("DNS", "10.0.0.1")], "10.0.0.1", True), ([("IP Address", "10.0.0.1")], "10.0.0.1", True),
    ([("IP Address", "FD00:0:0:0:0:0:0:1\n")], "fd00::1", True), ([("email", "10.0.0.1")], "10.0.0.1", False),
    ([("DNS", "*.example.org")], "www.example.org", True), ([("DNS", "*.example.org")], "a.www.example.org", False),
    ([("DNS", "*.example.org")], "example.org", False), ([("DNS", "*.org")], "example.org", False),
    ([("DNS", "*")], "example.org", False), ([("DNS", "w*.example.org")], "www.example.org", False),
    ([("IP Address", "10.0.0.1")], "www.example.org", False), ([], "www.example.org", False),
    ([("DNS", "a"), ("DNS", "www.example.org.")], "www.example.org", True),
])
def test_names(names: list[tuple[str, str]], host: str, good: bool) -> None:
    assert names_match(names, host) is good


# -- until when

def test_the_end_of_a_certificate(authority: Authority) -> None:
    pem = authority.pem("www.example.org", days=(-1, 9)).read_bytes()
    der = first(pem)
    assert not_after(der) == x509.load_der_x509_certificate(der).not_valid_after_utc.timestamp()
    assert first(b"nothing") == b"" and not_after(b"") is None
    for size in range(len(der)):
        assert not_after(der[:size]) is None
    for place in range(0, len(der), 3):                     # whatever a member shows, nothing is raised
        not_after(der[:place] + bytes([der[place] ^ 0x55]) + der[place + 1:])


@pytest.mark.parametrize(("tag", "text", "year"), [(0x17, b"491231235959Z", 2049), (0x17, b"500101000000Z", 1950),
                                                   (0x18, b"20500101000000Z", 2050)])
def test_years(tag: int, text: bytes, year: int) -> None:
    validity = encoded(0x30, encoded(0x17, b"000101000000Z"), encoded(tag, text))
    tbs = encoded(0x30, encoded(0xA0, b""), encoded(2, b"1"), encoded(0x30), encoded(0x30), validity, encoded(0x30))
    end = not_after(encoded(0x30, tbs, encoded(0x30)))
    assert end is not None and time.gmtime(end).tm_year == year


@pytest.mark.parametrize("size", [0, 1, 127, 128, 255, 256, 70000])
def test_elements_come_back_as_they_were_made(size: int) -> None:
    made = encoded(4, bytes(size))
    assert element(made) == (4, bytes(size), len(made))
    assert [each.content for each in elements(made + made)] == [bytes(size)] * 2
    assert all(element(made[:cut]) is None for cut in {*range(6), len(made) - 1} - {len(made)} if cut < len(made))


@pytest.mark.parametrize("data", [b"\x30\x80", b"\x30\x85\1\1\1\1\1"])
def test_lengths_that_are_none(data: bytes) -> None:
    with pytest.raises(ValueError):
        element(data)


def test_a_certificate_that_is_the_same_is_no_news() -> None:
    found, news = Certificates(), []
    found.tell(lambda: news.append(1))
    for der in (b"a", b"a", b"b", b"b", b"a"):
        found.seen(("10.0.0.1", 443, None), der)
    assert len(news) == 3 and found.end(("10.0.0.1", 443, None)) is found.end(("10.0.0.2", 443, None)) is None


@pytest.mark.parametrize(("left", "said"), [
    (9.5 * DAY, "its certificate expires in 9 days, on 1970-01-11"),
    (1.5 * DAY, "its certificate expires in 1 day, on 1970-01-03"),
    (0.5 * DAY, "its certificate expires within a day, on 1970-01-02"),
    (-DAY / 2, "its certificate has expired on 1970-01-01")])
def test_words(left: float, said: str) -> None:
    assert words(DAY + left, DAY) == said


def test_a_line_a_day(caplog: pytest.LogCaptureFixture, authority: Authority) -> None:
    der, now, loop, certificates = first(authority.pem("x", days=(-1, 9)).read_bytes()), [0.0], Loop(), Certificates()
    end = not_after(der)
    assert end is not None
    with balancer(cluster("www", *web(1), check=Check("tls"))) as daemon:
        monitors = list(daemon.fleet.monitors.values())
        expiry = Expiry(loop, certificates, lambda: monitors, lambda: now[0])
        endpoint = monitors[0].endpoint
        certificates.seen((endpoint.address, endpoint.member_port, None), der)
        for when, count in ((end - 15 * DAY, 0), (end - 14 * DAY, 1), (end - 13.5 * DAY, 1), (end - 13 * DAY, 2),
                            (end + DAY, 3)):
            now[0] = when
            expiry._look()
            assert caplog.text.count("its certificate ") == count, when
    loop.close()
    assert "its certificate has expired on " in caplog.text


# -- the daemon

@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()


def test_an_end_that_is_near_is_told_and_measured(gateway: Gateway, authority: Authority) -> None:
    http = free_port()
    with Member(silent, authority.server("a", days=(-9, 9)), "127.0.0.2") as near, \
            Member(silent, authority.server("b", days=(-9, 40)), "127.0.0.3") as far:
        clusters = "".join(f"""
            {name}:
              address: 127.0.0.1
              services: {{tls: {{port: {free_port()}, member_port: {member.port}, check: tls}}}}
              members: {{m: {address}}}
            """ for name, member, address in (("near", near, "127.0.0.2"), ("far", far, "127.0.0.3")))
        gateway.configure(clusters, top=f"http: 127.0.0.1:{http}")
        gateway.start()
        gateway.wait_log(rf"near/tls/m 127.0.0.2:{near.port}: its certificate expires in 8 days, on ")
        with urlopen(f"http://127.0.0.1:{http}/metrics") as answer:
            metrics = answer.read().decode()
        left = {member: float(value) for member, value in re.findall(
            r'^l4ip_certificate_expiry_seconds\{cluster="(\w+)",member="m",service="tls"\} (\S+)$', metrics, re.M)}
        assert 8 * DAY < left["near"] < 9 * DAY and 39 * DAY < left["far"] < 40 * DAY
        assert len(gateway.lines("its certificate expires")) == 1


def test_what_l4ipd_n_says(gateway: Gateway, authority: Authority) -> None:
    old = authority.pem("l4ip", days=(-9, -2))
    old.chmod(0o644)
    gateway.configure(f"""
        c:
          address: 127.0.0.1
          services: {{s: {{port: 1, check: {{type: tls, cert: {old}}}}}}}
          members: {{m: 127.0.0.2}}
        """)
    done = gateway.run("-n")
    assert done.returncode == 0, done.stderr
    assert f"warning: c/s: cert: {old}: this certificate has expired on " in done.stderr
    assert f"warning: c/s: cert: {old}: may be read by others than root: everybody may" in done.stderr
    old.unlink()
    done = gateway.run("-n")
    assert done.returncode == 1 and f": clusters.c.services.s.check.cert: {old}: cannot be read: " in done.stderr
