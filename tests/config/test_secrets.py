"""Secrets in files of their own: read with the configuration, sent, and never seen again."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd.checks.expect import quoted
from l4ipd.checks.redaction import HIDDEN, Redaction, tells
from l4ipd.checks.verdict import Verdict
from l4ipd.config.files import Refused, load
from l4ipd.config.parse import ConfigError, parse
from l4ipd.config.warnings import warnings
from l4ipd.model import Check, Secret
from support.gateway import Gateway, free_port
from support.members import Member, probe
from support.sandbox_tools import Sandbox

SECRET = "Bearer hunter2-and-more ${NOT_A_VARIABLE}"


def text(check: str) -> str:
    return ("ipfilter: {interface: em0}\nclusters:\n  c:\n    address: 127.0.0.1\n    members: {m: 127.0.0.2}\n"
            f"    services:\n      s: {{port: 1, check: {check}}}\n")


def loaded(directory: Path, check: str) -> Check:
    (directory / "l4ip.conf").write_text(text(check))
    return load(str(directory / "l4ip.conf")).clusters[0].services[0].checks[-1]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    file = tmp_path / "secret"
    file.write_text(SECRET + "\n")
    file.chmod(0o600)
    return file


def test_values_come_from_files(tmp_path: Path, secret: Path) -> None:
    check = loaded(tmp_path, f"{{type: http, headers: {{A: a, Authorization: {{file: {secret}}}}}, "
                             f"data: {{file: {secret}}}}}")
    assert check.headers == (("A", "a"), ("Authorization", SECRET)) and check.data == f"{SECRET}\n".encode()
    check = loaded(tmp_path, f"[ping, {{type: tcp, dialog: [expect: a, send: {{file: {secret}}}, expect: b]}}]")
    assert [step.text for step in check.dialog] == [b"a", f"{SECRET}\n".encode(), b"b"]
    assert "hunter2" not in repr(check) and check.secrets == (Secret(("dialog", 2, "send"), str(secret)),)
    check = loaded(tmp_path, f"{{type: udp, port: 53, send: {{file: {secret}}}}}")
    assert check.send == f"{SECRET}\n".encode()


def test_a_file_is_no_place_for_variables_either_but_nothing_of_it_is_shown(tmp_path: Path, secret: Path) -> None:
    (tmp_path / "l4ip.conf").write_text(text(
        f"{{type: http, headers: {{A: {{file: {secret}}}, B: '${{B}}'}}, data: {{file: {secret}}}}}"))
    assert warnings(load(str(tmp_path / "l4ip.conf"))) == [
        "c/s: headers.B: ${B} is taken as it stands: variables are not replaced"]
    assert warnings(parse(text("{type: http, data: '${A}'}"), "c")) == [
        "c/s: data: ${A} is taken as it stands: variables are not replaced"]


@pytest.mark.parametrize(("content", "complaint"), [
    (None, "cannot be read: no such file or directory"), (b"", "is empty"), (b"\n", "is empty"),
    (b"a\nb", "is not the value of a header (printable ASCII, no blanks at the ends)"),
    (b"hunter2" * 4000, "is longer than 16384 bytes")])
def test_files_that_will_not_do(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(Refused) as refused:
        loaded(tmp_path, f"[ping, {{type: http, headers: {{X: {{file: {file}}}}}}}]")
    assert str(refused.value) == (f"{tmp_path}/l4ip.conf:7: clusters.c.services.s.check[2].headers.X: {file}: "
                                  f"{complaint}")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Refused, match="pipe: is no regular file"):
        loaded(tmp_path, f"{{type: http, data: {{file: {tmp_path}/pipe}}}}")


@pytest.mark.parametrize(("check", "complaint"), [
    ("{type: http, data: {file: hunter2}}", "data.file: is not an absolute path"),
    ("{type: http, headers: {X: {file: hunter2}}}", "headers.X.file: is not an absolute path"),
    ("{type: http, headers: {X: {hunter2: /a}}}", "headers.X.hunter2: unknown key; known here: file"),
    ("{type: http, data: {}}", "data.file: is missing: the path of the file with the secret"),
    ("{type: tcp, dialog: [expect: {file: /a}]}", "dialog[1].expect: one value is wanted, not a mapping"),
])
def test_what_is_no_file(check: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse(text(check), "c")
    assert complaint in str(refused.value)


# -- redaction

@pytest.mark.parametrize(("words", "told"), [
    ("got hunter2", True), ("got unter", True), ("got hunte", True), ("got hunt er2", False), ("", False)])
def test_parts_of_a_secret(words: str, told: bool) -> None:
    assert tells(words, "hunter2") is told
    assert tells("pin 123", "123") and not tells("pin 12", "123")


@pytest.mark.parametrize(("secret", "said", "told"), [
    ("p\u00e4ssw\u00f6rd", "p\u00e4ssw\u00f6rd is wrong", True), ("p\u00e4ssw\u00f6rd", "ssw is wrong", False),
    ("\u00e9\u00e8\u00e0\u00f9", "no such user: \u00e9\u00e8\u00e0\u00f9", True), ("a\tb\tc\td", "a\tb\tc\td", True),
    ("\\xc3\\xa4", "\\xc3\\xa4", True), ("\u00e9\\x41", "\u00e9\\x41", True),
    ("hunter2", "\u00e4hunter2\u00e4", True), ("a\tb\tc", "a b c", False)])
def test_a_secret_that_is_shown_with_escapes(secret: str, said: str, told: bool) -> None:
    """As a password with umlauts is, which a verdict shows byte by byte."""
    heard: list[Verdict] = []
    answer = Verdict("L7RSP", f"got {quoted(said.encode())}")
    Redaction(heard.append, (b"no other", secret.encode()))(answer)
    assert heard == [answer._replace(text=HIDDEN) if told else answer]


def repeats(member: Member, client: socket.socket) -> None:
    client.sendall(member.read(client, b"\n")[:7] + b"\r\n")


def test_a_member_that_repeats_what_it_was_sent(tmp_path: Path, secret: Path) -> None:
    check = loaded(tmp_path, f"{{type: tcp, dialog: [send: {{file: {secret}}}, expect: +OK*]}}")
    with Member(repeats) as member:
        assert probe(check, member.port) == ("L7RSP", HIDDEN)
    check = loaded(tmp_path, "{type: tcp, dialog: [send: 'Bearer hunter2%0a', expect: +OK*]}")
    with Member(repeats) as member:
        assert probe(check, member.port) == ("L7RSP", 'step 2: got "Bearer"')        # this one is no secret


def test_a_password_is_a_secret_wherever_it_stands() -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(b"-ERR " + member.read(client, b"hunter2\r\n")[-9:])

    with Member(behaviour) as member:
        assert probe(Check("redis", password=b"hunter2"), member.port) == ("L7STS", HIDDEN)


# -- the daemon

@pytest.fixture
def gateway(kernel: Sandbox, tmp_path: Path) -> Iterator[Gateway]:
    it = Gateway(kernel, tmp_path)
    yield it
    it.close()


def test_nothing_of_it_is_in_the_log_or_what_n_says(gateway: Gateway, secret: Path) -> None:
    def behaviour(member: Member, client: socket.socket) -> None:
        client.sendall(b"HTTP/1.0 400 " + member.read(client).split(b"X-Key: ")[1].partition(b"\r\n")[0] + b"\r\n\r\n")

    secret.chmod(0o644)
    with Member(behaviour, address="127.0.0.2") as member:
        gateway.configure(f"""
            c:
              address: 127.0.0.1
              services: {{s: {{port: {free_port()}, member_port: {member.port}, check: {{type: http,
                headers: {{X-Key: {{file: {secret}}}}}}}}}}}
              members: {{m: 127.0.0.2}}
            """)
        done = gateway.run("-n", "-v")
        assert done.returncode == 0 and "hunter" not in done.stdout + done.stderr
        assert f"warning: c/s: headers: {secret}: may be read by others than root: everybody may\n" in done.stderr
        gateway.start("-v")
        gateway.wait_log(HIDDEN)
        assert member.requests and SECRET.encode() in member.requests[0]
    assert "hunter" not in gateway.text()
