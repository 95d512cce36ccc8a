"""The control socket with toy commands: real sockets, and clients that are rude, slow, many, or gone."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import random
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from l4ipd.control import peers, server
from l4ipd.control.peers import quota, user_of
from l4ipd.control.socket_file import BACKLOG, Unusable, is_served, listen, make_way
from l4ipd.runtime import stream_server
from support.control_server import PATIENCE, ControlServer, connect, read_all
from support.descriptors import opened


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[ControlServer]:
    it = ControlServer(str(tmp_path / "sock"))
    yield it
    it.close()


# -- the socket

def test_nobody_else_can_connect(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sock"
    umask = os.umask(0)
    try:
        listener = listen(str(path), None)
        assert os.umask(0) == 0, "the umask is as it was"
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    listener.close()


def test_a_group_may_be_let_in(tmp_path: Path) -> None:
    import grp
    name = grp.getgrgid(os.getgid()).gr_name
    listen(str(tmp_path / "sock"), name).close()
    assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o660
    assert (tmp_path / "sock").stat().st_gid == os.getgid()


def test_without_its_group_it_stays_ours(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listen(str(tmp_path / "sock"), "no-such-group").close()
    assert stat.S_IMODE((tmp_path / "sock").stat().st_mode) == 0o600
    assert "there is no group no-such-group" in caplog.text


def test_what_a_dead_daemon_left_is_replaced(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    listen(path, None).close()                      # as a kill -9 does: closed, not removed
    make_way(path)
    assert not os.path.exists(path)


def test_a_living_daemon_keeps_its_socket(toy: ControlServer) -> None:
    with pytest.raises(Unusable, match="another program listens there"):
        listen(toy.control.path, None)
    assert toy.ask(command="echo")[-1]["exit"] == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a full backlog is a refused connection")
def test_a_daemon_that_is_busy_is_alive(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    with listen(path, None), contextlib.ExitStack() as stack:
        for _ in range(BACKLOG + 5):        # nobody accepts: the backlog is full
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            client.connect_ex(path)
        with pytest.raises(Unusable):
            make_way(path)


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(Unusable, match="is no socket"):
        listen(str(tmp_path / "file"), None)
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("path", ["/proc/nowhere/sock", "/dev/null/sock", "/tmp/" + "x" * 200])
def test_where_no_socket_can_be(path: str) -> None:
    with pytest.raises(Unusable):
        listen(path, None)


def test_closing_removes_only_our_own_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "sock")
    first = ControlServer(path)
    os.unlink(path)
    assert not first.control.reachable
    second = ControlServer(path)
    first.close()
    assert second.control.reachable
    second.close()
    assert not os.path.exists(path)


# -- one client

def test_a_request_and_its_answer(toy: ControlServer) -> None:
    assert toy.ask(command="echo", pattern="é") == [{"command": "echo", "pattern": "é"}, {"end": True, "exit": 7}]


def test_a_refusal(toy: ControlServer) -> None:
    assert toy.ask(command="refuse") == [{"end": True, "exit": 2, "error": ["first line", "second line"]}]


def test_an_error_of_ours_ends_the_answer(toy: ControlServer, caplog: pytest.LogCaptureFixture) -> None:
    for command in ("break", "snap"):
        assert toy.ask(command=command)[-1] == {"end": True, "exit": 1,
                                                "error": ["internal error: see the log of l4ipd"]}
    assert "ZeroDivisionError" in caplog.text and "in the middle" in caplog.text


def test_a_long_answer_comes_whole(toy: ControlServer) -> None:
    answers = toy.ask(command="many", count=20000)
    assert [answer["number"] for answer in answers[:-1]] == list(range(20000))


def test_a_client_may_close_its_sending_half(toy: ControlServer) -> None:
    assert toy.say(b'{"command": "echo"}\n', shut=True)[-1] == {"end": True, "exit": 7}


@pytest.mark.parametrize("request_, words", [
    (b"\n", "JSON object"), (b"[]\n", "JSON object"), (b"show\n", "JSON object"), (b"\xff\xfe\n", "JSON object"),
    (b"[" * 4000 + b"\n", "JSON object"), (b"[" * 32000 + b"\n", "JSON object"),
    (b"{}\n", "no such command: None"), (b'{"command": {}}\n', "no such command"),
    (b'{"command": "' + b"x" * 3000 + b'"}\n', "no such command"), (b"x" * 33_000 + b"\n", "longer than 32768"),
    (b"x" * 10_000_000, "longer than 32768"), (b'{"command": "echo"}\n{"command": "echo"}\n', "one request"),
])
def test_bad_requests(toy: ControlServer, request_: bytes, words: str) -> None:
    answers = toy.say(request_)
    assert answers[-1]["end"] and answers[-1]["exit"] == 2 and words in answers[-1]["error"][0]


def test_a_request_in_pieces(toy: ControlServer) -> None:
    def conversation() -> bytes:
        with connect(toy.control.path) as client:
            for byte in b'{"command": "echo", "pattern": "web1"}\r\n':
                client.sendall(bytes([byte]))
            return read_all(client)
    assert b"web1" in toy.talk(conversation)


@pytest.mark.parametrize("length", range(0, 20, 3))
def test_a_client_that_leaves_in_the_middle_of_its_request(toy: ControlServer, length: int) -> None:
    connect_and_leave(toy, b'{"command": "echo"}\n'[:length])
    toy.until(lambda: not toy.control.clients)


def test_a_client_that_leaves_in_the_middle_of_the_answer(toy: ControlServer) -> None:
    connect_and_leave(toy, b'{"command": "many", "count": 1000000}\n', take=1000)
    toy.until(lambda: not toy.control.clients)
    assert toy.produced < 100_000


def connect_and_leave(toy: ControlServer, data: bytes, take: int = 0) -> None:
    def conversation() -> None:
        with connect(toy.control.path) as client:
            client.sendall(data)
            if take:
                client.recv(take)
    toy.talk(conversation)


def test_garbage(toy: ControlServer) -> None:
    generator = random.Random(6)
    for _ in range(100):
        answers = toy.say(generator.randbytes(generator.randrange(200)) + b"\n")
        assert answers[-1]["end"]
    assert toy.ask(command="echo")[-1]["exit"] == 7


# -- slow and silent clients

def test_a_long_answer_is_produced_as_it_is_read(toy: ControlServer) -> None:
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "many", "count": 1000000}\n')
        toy.until(lambda: toy.produced)
        before = -1
        while toy.produced != before:               # until the kernel's buffer is full
            before = toy.produced
            for _ in range(5):
                toy.loop.turn()
        assert toy.produced < 100_000


def test_who_takes_nothing_is_hung_up_on(toy: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READER_TIME", 0.1)
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "many", "count": 1000000}\n')
        toy.until(lambda: toy.produced)
        toy.until(lambda: not toy.control.clients)


def test_who_asks_nothing_is_hung_up_on(toy: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "REQUEST_TIME", 0.1)
    assert "no request within" in toy.say(b'{"command": "ec')[-1]["error"][0]


def test_a_slow_reader_of_a_stream_gets_a_last_line(toy: ControlServer) -> None:
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "keep"}\n')
        toy.until(lambda: toy.kept)
        number = 0
        while not toy.kept[0].ending:
            toy.kept[0].send({"number": number, "text": "x" * 1000})
            number += 1
            if not number % 100:
                toy.loop.turn()
        toy.kept[0].send({"number": "too late"})
        data = toy.talk(lambda: read_all(client))
    lines = [json.loads(line) for line in data.splitlines() if line]
    assert [line["number"] for line in lines[:-1]] == list(range(len(lines) - 1))
    assert lines[-1]["exit"] == 1 and "too slow" in lines[-1]["error"][0]
    toy.until(lambda: toy.left)


def test_a_stream_shows_that_we_live(toy: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SIGN_OF_LIFE", 0.05)
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "keep"}\n')
        data = toy.talk(lambda: [client.recv(100) for _ in range(4)])
    assert data == [b"\n"] * 4
    toy.until(lambda: not toy.control.clients)


def test_hanging_up_ends_a_stream(toy: ControlServer) -> None:
    connect_and_leave(toy, b'{"command": "keep"}\n', take=1)
    toy.until(lambda: toy.left == 1 and not toy.control.clients)
    toy.kept[0].send({"number": 1})                 # does nothing
    toy.kept[0].end()


def test_a_command_that_takes_its_time_outlives_a_half_close(toy: ControlServer,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "SIGN_OF_LIFE", 0.02)
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "wait"}\n')
        client.shutdown(socket.SHUT_WR)
        toy.until(lambda: toy.control.clients)
        served = next(iter(toy.control.clients))
        toy.until(lambda: served.asked)
        assert toy.talk(lambda: client.recv(10))[:1] == b"\n"
        served.end(4)
        assert json.loads(toy.talk(lambda: read_all(client)))["exit"] == 4


def test_who_talks_while_listening_is_hung_up_on(toy: ControlServer) -> None:
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "keep"}\n')
        toy.until(lambda: toy.kept)
        client.sendall(b"blah")
        toy.until(lambda: toy.left)


# -- many clients

def test_200_clients_that_say_nothing_keep_nobody_out(toy: ControlServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(200):
            client = stack.enter_context(socket.socket(socket.AF_UNIX))
            client.setblocking(False)
            while client.connect_ex(toy.control.path) == errno.EAGAIN:
                toy.loop.turn()
        assert toy.ask(command="echo")[-1]["exit"] == 7
        assert len(toy.control.clients) <= server.CLIENTS


def test_200_clients_at_once_are_all_answered(toy: ControlServer) -> None:
    def conversation() -> list[Any]:
        ends: list[Any] = []

        def one() -> None:
            with connect(toy.control.path) as client:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    client.sendall(b'{"command": "many", "count": 50}\n')
                lines = read_all(client).splitlines()
                ends.append(json.loads(lines[-1]) if lines else None)

        threads = [threading.Thread(target=one) for _ in range(200)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
        return ends
    ends = toy.talk(conversation)
    assert len(ends) == 200
    assert {"end": True, "exit": 0} in ends
    assert all(end is not None and end["exit"] in (0, 3) for end in ends), "each is served, or told to try again"
    assert toy.ask(command="echo")[-1]["exit"] == 7


def test_when_all_places_are_taken_one_is_told_so(toy: ControlServer) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(server.CLIENTS):
            client = stack.enter_context(connect(toy.control.path))
            client.sendall(b'{"command": "keep"}\n')
            toy.until(lambda number=number: len(toy.kept) > number)     # type: ignore[misc]
        answer = toy.say(b"")
        assert answer[0]["exit"] == 3 and "try again" in answer[0]["error"][0]
    toy.until(lambda: toy.left == server.CLIENTS)


def test_without_descriptors_the_loop_does_not_spin(toy: ControlServer, monkeypatch: pytest.MonkeyPatch,
                                                    caplog: pytest.LogCaptureFixture) -> None:
    import resource
    monkeypatch.setattr(stream_server, "PAUSE", 0.05)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    client = connect(toy.control.path)
    used = max(opened()) + 1
    fillers: list[int] = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
        with contextlib.suppress(OSError):
            while True:
                fillers.append(os.dup(0))
        for _ in range(20):
            toy.loop.turn()
        assert not toy.control.clients
    finally:
        for fd in fillers:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "a client cannot be served: Too many open files" in caplog.text
    client.sendall(b'{"command": "echo"}\n')
    assert b'"exit": 7' in toy.talk(lambda: read_all(client))
    client.close()


# -- the end

def test_the_end_says_goodbye(tmp_path: Path) -> None:
    toy = ControlServer(str(tmp_path / "sock"))
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "keep"}\n')
        toy.until(lambda: toy.kept)
        toy.close()
        last = json.loads(read_all(client).splitlines()[-1])
    assert last == {"end": True, "exit": 3, "error": ["l4ipd is stopping"]}
    assert toy.left == 1


def test_a_retired_socket_still_answers_whom_it_serves(toy: ControlServer) -> None:
    with connect(toy.control.path) as client:
        client.sendall(b'{"command": "wait"}\n')
        toy.until(lambda: any(each.asked for each in toy.control.clients))
        served = next(iter(toy.control.clients))
        toy.control.retire()
        assert not os.path.exists(toy.control.path)
        served.end(5)
        assert json.loads(toy.talk(lambda: read_all(client)))["exit"] == 5


def test_who_is_served(tmp_path: Path) -> None:
    path = tmp_path / "sock"
    assert not is_served(str(path))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        assert not is_served(str(path)), "bound, and nobody listens"
        listener.listen(1)
        assert is_served(str(path))
    assert not is_served(str(path)), "left behind"
    path.unlink()
    path.write_text("a file")
    assert not is_served(str(path)) and not is_served(str(path / "below"))
    path.unlink()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        assert is_served(str(path)), "somebody's, and not to be removed"


# -- other users than root

@contextlib.contextmanager
def connected_as(toy: ControlServer, *users: int) -> Iterator[list[socket.socket]]:
    """A client of each user, who asks for a stream as soon as he is there."""
    with contextlib.ExitStack() as stack:
        clients = []
        for user in users:
            clients.append(stack.enter_context(silent_as(toy.control.path, user)))
            clients[-1].sendall(b'{"command": "keep"}\n')
            for _ in range(3):
                toy.loop.turn()
        yield clients


def silent_as(path: str, user: int) -> socket.socket:
    os.seteuid(user)
    try:
        return connect(path)
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[ControlServer]:
    """A socket that everybody can connect to."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        os.chmod(directory, 0o755)
        it = ControlServer(f"{directory}/sock")
        os.chmod(f"{directory}/sock", 0o666)
        yield it
        it.close()


def refused(client: socket.socket) -> str:
    """What it was told instead of an answer; nothing if it is being served."""
    words = [json.loads(line)["error"][0] for line in read_now(client).splitlines() if line]
    return words[0] if words else ""


def read_now(client: socket.socket) -> bytes:
    client.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionResetError):
        return client.recv(10_000)
    return b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_nobody_keeps_root_from_asking(public: ControlServer) -> None:
    """Each other user gets 8 of 20 places, all of them together 16; silent or not."""
    with connected_as(public, *[1] * 10, *[2] * 10, *[3] * 3) as others:
        public.until(lambda: len(public.kept) == 16)
        words = [refused(client) for client in others]
        assert words[:8] == words[10:18] == [""] * 8
        yours = "8 clients of yours are being served already: end one, or try again"
        assert words[8:10] == words[18:20] == [yours] * 2
        assert words[20:] == ["16 clients are being served already: try again"] * 3
        assert [client.user for client in public.kept] == [1] * 8 + [2] * 8
        assert public.ask(command="echo")[-1]["exit"] == 7
        with connected_as(public, 0, 0, 0, 0):
            public.until(lambda: len(public.kept) == 20)
            assert public.ask(command="echo")[-1]["error"] == ["20 clients are being served already: try again"]
        others[0].close()
        public.until(lambda: len(public.control.clients) == 15)
        with connected_as(public, 3) as (third,):
            public.until(lambda: len(public.kept) == 21)
            assert not refused(third)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_room_is_made_among_those_who_are_in_the_way(public: ControlServer) -> None:
    silent = [silent_as(public.control.path, 1) for _ in range(8)]
    other = silent_as(public.control.path, 2)
    public.until(lambda: len(public.control.clients) == 9)
    with connected_as(public, 1):
        public.until(lambda: public.kept)
        assert refused(silent[0]) == "20 clients are being served already: try again"
        assert not any(map(refused, [*silent[1:], other]))
    for client in [*silent, other]:
        client.close()


@pytest.mark.parametrize("most", range(1, 30))
def test_places(most: int) -> None:
    together, each = quota(most)
    assert together < most, "one is kept for root, at least"
    assert each <= max(1, together / 2) and (most < 3 or each >= 1)


def test_who_has_connected(toy: ControlServer) -> None:
    with socket.socketpair()[0] as one:
        assert user_of(one) == os.geteuid() or user_of(one) is None
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        assert user_of(stranger) in (None, 0xFFFFFFFF, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_another_user_is_known() -> None:
    """By the number that he has when he connects, whatever he says."""
    with tempfile.TemporaryDirectory() as directory, socket.socket(socket.AF_UNIX) as listener:
        os.chmod(directory, 0o755)
        listener.bind(f"{directory}/s")
        os.chmod(f"{directory}/s", 0o666)
        listener.listen()
        code = f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({directory + '/s'!r}); s.recv(1)"
        with subprocess.Popen(["/usr/bin/env", "python3", "-I", "-S", "-c", code], user=65534, cwd="/") as process:
            with listener.accept()[0] as client:
                assert user_of(client) == 65534
            assert process.wait(PATIENCE) == 0


UCRED = """
#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/socket.h>
int getpeerucred(int fd, void **found) {
    struct ucred peer; socklen_t size = sizeof peer;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size)) return -1;
    unsigned *user = malloc(sizeof *user);
    *user = peer.uid; *found = user;
    return 0;
}
unsigned ucred_geteuid(const void *found) { return *(const unsigned *)found; }
void ucred_free(void *found) { free(found); }
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="no C compiler to make it with")
def test_who_has_connected_on_illumos(tmp_path: Path) -> None:
    """Its getpeerucred(3C), made of what Linux has."""
    (tmp_path / "ucred.c").write_text(UCRED)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "ucred.so", tmp_path / "ucred.c"], check=True)
    libc = ctypes.CDLL(str(tmp_path / "ucred.so"))
    here, there = socket.socketpair()
    with here, there, open(os.devnull) as stranger:
        assert peers._getpeerucred(here.fileno(), libc) == os.geteuid()
        assert peers._getpeerucred(stranger.fileno(), libc) is None
