"""The sandbox as a process: tools over its socket, and real connections through its relay."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import socketserver
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sandbox_tools import ROOT, SAMPLES, Result, Sandbox, sandbox

from l4ipd.sandbox import serve_words, tool_words

HERE = "127.0.0.1"
Handler = Callable[[socket.socket], None]


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with sandbox() as running:
        yield running


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, address: str = HERE) -> int:
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 512


@contextlib.contextmanager
def member(handle: Handler, address: str = HERE) -> Iterator[int]:
    """A TCP server that runs ``handle`` for each connection; gives its port."""
    class Handling(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(OSError):
                handle(self.request)

    class Family(_Server):
        address_family = socket.AF_INET6 if ":" in address else socket.AF_INET

    server = Family((address, 0), Handling)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


def says(word: str) -> Handler:
    return lambda connection: connection.sendall(word.encode())


def echo(connection: socket.socket) -> None:
    while data := connection.recv(65536):
        connection.sendall(data)


def rule(vip: int, target: int, options: str = "tcp round-robin") -> str:
    return f"rdr lo0 {HERE}/32 port {vip} -> {HERE} port {target} {options}"


def connect(port: int, address: str = HERE) -> socket.socket:
    return socket.create_connection((address, port), timeout=10)


def ask(port: int) -> str:
    """What the member says, to the end."""
    with connect(port) as client:
        return read_all(client).decode()


def read_all(client: socket.socket) -> bytes:
    chunks = []
    while chunk := client.recv(65536):
        chunks.append(chunk)
    return b"".join(chunks)


def eventually(true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 10
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


# -- the process and its tools


def test_the_socket_is_private_and_removed(box: Sandbox) -> None:
    assert stat.S_IMODE(os.stat(box.path).st_mode) == 0o600
    box.process.terminate()
    assert box.process.wait(10) == 0
    assert not os.path.exists(box.path)


def test_it_says_what_it_is_not(box: Sandbox) -> None:
    assert "this is no production balancer" in box.stderr.read_text()


def test_a_second_one_is_refused_and_a_stale_socket_replaced(box: Sandbox) -> None:
    words = serve_words(box.path)
    second = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert second.returncode == 1
    assert "another sandbox answers there" in second.stderr
    box.process.kill()
    box.process.wait(10)
    assert os.path.exists(box.path)
    third = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert third.stdout is not None
    with third.stdout:
        assert third.stdout.readline() == b"ready\n"
        third.terminate()
        third.wait(10)


def test_until_eof(tmp_path: object) -> None:
    process = subprocess.Popen(serve_words(f"{tmp_path}/s", "--until-eof"), stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=ROOT)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"ready\n"
        process.communicate(b"", timeout=10)
    assert process.returncode == 0


def test_module_and_environment(box: Sandbox) -> None:
    done = subprocess.run([sys.executable, "-m", "l4ipd.sandbox", "ipnat", "-C"], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "L4IP_SANDBOX": box.path}, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 entries flushed from NAT list\n", "")


def test_files_are_found_from_the_tools_directory(box: Sandbox, tmp_path: object) -> None:
    with open(f"{tmp_path}/rules", "w") as file:
        file.write("rdr em0 203.0.113.1 port 80 -> 10.0.0.2 port 80 tcp\n")
    done = subprocess.run([*tool_words(box.path)["ipnat"], "-f", "rules"], cwd=f"{tmp_path}", timeout=20)
    assert done.returncode == 0
    assert len(box.ipnat("-l").rules) == 1


def test_twenty_at_once(box: Sandbox) -> None:
    """samples/ipnat-input-misc.txt: twenty concurrent adds all succeed."""
    running = []
    for number in range(20):
        process = subprocess.Popen([*tool_words(box.path)["ipnat"], "-f", "-"], stdin=subprocess.PIPE)
        assert process.stdin is not None
        process.stdin.write(f"rdr em0 203.0.113.1 port {80 + number} -> 10.0.0.2 port 80 tcp\n".encode())
        running.append(process)
    for process in running:
        process.communicate(timeout=20)
        assert process.returncode == 0
    assert len(box.ipnat("-l").rules) == 20


def test_a_rude_tool_harms_nobody(box: Sandbox) -> None:
    for junk in (b"", b"a\0\0\0\2x", b"i\0\0\0\0", b"z\xff\xff\xff\xff", b"a\0\0\0\4\0\0\0\0"):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(box.path)
            client.sendall(junk)
    words = b"ipnat\0/\0\0001\0-f\0-"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(box.path)
        client.sendall(b"a" + len(words).to_bytes(4, "big") + words)
        assert client.recv(5) == b"i\0\0\0\0"           # and now it goes away instead of answering
    assert box.ipnat("-l").status == 0


MISSING = re.findall(r"^(ipnat|ipmon|ipfstat) (.*?) +exit (\d+) stdout='' stderr='(.*)'$",
                     (SAMPLES / "ipnat-input-misc.txt").read_text().partition("device cannot be opened")[2]
                     .partition("==")[0], re.M)


@pytest.mark.parametrize("tool, words, status, stderr", MISSING)
def test_no_sandbox(tool: str, words: str, status: str, stderr: str) -> None:
    done = subprocess.run([*tool_words("/nonexistent/s")[tool], *words.split()], input=b"", capture_output=True,
                          timeout=20, cwd="/")
    assert (done.returncode, done.stdout, done.stderr) == (int(status), b"", stderr.replace("\\n", "\n").encode())


def test_ipnat_n_needs_no_sandbox() -> None:
    lost = Sandbox(subprocess.Popen(["true"]), "/nonexistent/s", ROOT)
    lost.process.wait(10)
    text = "rdr em0 203.0.113.1 port 80 -> 10.0.0.2 port 8080 tcp"
    assert lost.ipnat("-nv", "-f", "-", stdin=text) == Result(
        0, "rdr em0 203.0.113.1/32 port 80 -> 10.0.0.2/32 port 8080 tcp\n", "")
    assert lost.ipnat("-n", "-f", "-", stdin="rdr em0 x").status == 1


def test_the_sandbox_ends_under_a_tool(box: Sandbox) -> None:
    process = subprocess.Popen([*tool_words(box.path)["ipnat"], "-f", "-"], stdin=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    box.process.send_signal(signal.SIGTERM)
    box.process.wait(10)
    _, err = process.communicate(b"\n", timeout=10)
    assert process.returncode == 1 and err


# -- connections


def test_rotation_and_listing(box: Sandbox) -> None:
    vip = free_port()
    with member(says("a")) as a, member(says("b")) as b:
        box.add(rule(vip, a) + "\n" + rule(vip, b))
        assert [ask(vip) for _ in range(6)] == ["a", "b"] * 3
        listing = box.ipnat("-lh").stdout
        assert listing.splitlines()[1].startswith("3 rdr lo0")
        assert len(re.findall(rf"^RDR {HERE} {{7}}{a} *<- -> {HERE} {{7}}{vip} *\[{HERE} \d+\]$", listing, re.M)) == 3


def test_listening_follows_the_rules(box: Sandbox) -> None:
    vip = free_port()
    with member(echo) as a:
        with pytest.raises(ConnectionRefusedError):
            connect(vip)
        for _ in range(3):
            box.add(rule(vip, a))
            with connect(vip) as client:                    # at once: no retry
                client.sendall(b"x")
                assert client.recv(9) == b"x"
                box.remove(rule(vip, a))
                with pytest.raises(ConnectionRefusedError):
                    connect(vip)
                client.sendall(b"y")                        # the session outlives its rule
                assert client.recv(9) == b"y"


def test_a_refusing_member_means_a_reset(box: Sandbox) -> None:
    vip = free_port()
    box.add(rule(vip, free_port()))
    with pytest.raises(ConnectionResetError), connect(vip) as client:
        client.recv(1)
    assert "ttl 60 " in box.ipnat("-lv").stdout or "ttl 59 " in box.ipnat("-lv").stdout


def test_no_rule_matches(box: Sandbox) -> None:
    vip = free_port()
    box.add(f"rdr lo0 from 198.51.100.0/24 to {HERE} port = {vip} -> {HERE} port 9 tcp")
    with pytest.raises(ConnectionResetError), connect(vip) as client:
        client.recv(1)


def reset(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_member_that_resets(box: Sandbox) -> None:
    vip = free_port()
    with member(reset) as a:
        box.add(rule(vip, a))
        with connect(vip) as client:
            client.sendall(b"x")
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_client_that_resets(box: Sandbox) -> None:
    vip, seen = free_port(), threading.Event()

    def watch(connection: socket.socket) -> None:
        connection.sendall(b"x")
        try:
            connection.recv(1)
        except ConnectionResetError:
            seen.set()

    with member(watch) as a:
        box.add(rule(vip, a))
        client = connect(vip)
        assert client.recv(1) == b"x"
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert seen.wait(10)


def test_half_close_both_ways(box: Sandbox) -> None:
    def backwards(connection: socket.socket) -> None:
        connection.sendall(read_all(connection)[::-1])

    def first_me(connection: socket.socket) -> None:
        connection.sendall(b"greeting")
        connection.shutdown(socket.SHUT_WR)
        heard.append(read_all(connection))
        done.set()

    heard: list[bytes] = []
    done = threading.Event()
    vip, other = free_port(), free_port()
    with member(backwards) as a, member(first_me) as b:
        box.add(rule(vip, a) + "\n" + rule(other, b))
        with connect(vip) as client:
            client.sendall(b"abc" * 1000)
            client.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"cba" * 1000
        with connect(other) as client:
            assert read_all(client) == b"greeting"
            client.sendall(b"still here")
            client.close()
            assert done.wait(10)
            assert heard == [b"still here"]


def send_all(client: socket.socket, data: bytes) -> None:
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def test_much_data_and_a_slow_reader(box: Sandbox) -> None:
    """More than all buffers hold, both ways at once; the sandbox's memory stays bounded."""
    data = os.urandom(1 << 16) * 128
    vip = free_port()
    with member(echo) as a:
        box.add(rule(vip, a))
        with connect(vip) as client:
            sender = threading.Thread(target=send_all, args=(client, data))
            sender.start()
            time.sleep(0.1)                                     # let the buffers fill
            assert read_all(client) == data
            sender.join(10)


def test_hundreds_of_connections(box: Sandbox) -> None:
    vip = free_port()
    with member(echo) as a, member(echo) as b:
        box.add(rule(vip, a) + "\n" + rule(vip, b))
        clients = [connect(vip) for _ in range(300)]
        try:
            for number, client in enumerate(clients):
                client.sendall(b"%d" % number)
            for number, client in enumerate(clients):
                assert client.recv(99) == b"%d" % number
            assert box.ipnat("-l").stdout.count("\nRDR ") == 300
        finally:
            for client in clients:
                client.close()


def test_purge_cuts_and_plain_removal_does_not(box: Sandbox) -> None:
    vip = free_port()
    with member(echo) as a, member(echo) as b:
        box.add(rule(vip, a) + "\n" + rule(vip, b))
        with connect(vip) as first, connect(vip) as second:
            for client in (first, second):
                client.sendall(b"x")
                assert client.recv(1) == b"x"
            box.remove(rule(vip, a), "-p")
            with pytest.raises(ConnectionResetError):
                first.recv(1)
            second.sendall(b"y")
            assert second.recv(1) == b"y"
            box.ipnat("-F")
            with pytest.raises(ConnectionResetError):
                second.recv(1)


@contextlib.contextmanager
def silent_member() -> Iterator[int]:
    """A port where a connection is neither accepted nor refused: its backlog is full."""
    with socket.socket() as listener, contextlib.ExitStack() as stack:
        listener.bind((HERE, 0))
        listener.listen(0)
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            assert filler.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
        probe = stack.enter_context(socket.socket())
        probe.settimeout(0.3)
        with pytest.raises(TimeoutError):
            probe.connect(listener.getsockname())
        yield int(listener.getsockname()[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere a full backlog refuses")
@pytest.mark.parametrize("words, expected", [(["-p"], b"b"), ([], b"")])
def test_a_retried_syn_reaches_a_living_member(box: Sandbox, words: list[str], expected: bytes) -> None:
    """FACTS.md 2b-7, 2b-8: with -p the client that waits gets through, without it stays with the dead member."""
    vip = free_port()
    with silent_member() as dead, member(says("b")) as b:
        box.add(rule(vip, dead) + "\n" + rule(vip, b))
        with connect(vip) as client:
            eventually(lambda: "RDR" in box.ipnat("-l").stdout)
            box.remove(rule(vip, dead), *words)
            client.settimeout(10 if expected else 0.3)
            if expected:
                assert read_all(client) == expected
            else:
                with pytest.raises(TimeoutError):
                    client.recv(1)


def test_purge_with_nobody_left(box: Sandbox) -> None:
    vip = free_port()
    with member(echo) as a:
        box.add(rule(vip, a, "tcp round-robin purge"))
        with connect(vip) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            box.remove(rule(vip, a, "tcp round-robin purge"))
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_sticky(box: Sandbox) -> None:
    vip = free_port()
    with member(says("a")) as a, member(says("b")) as b:
        box.add(rule(vip, a, "tcp round-robin sticky") + "\n" + rule(vip, b, "tcp round-robin sticky"))
        assert [ask(vip) for _ in range(4)] == ["a"] * 4
        assert f"{HERE},{HERE} -> {HERE},0.0.0.0 (use = 5 hv = 0)\n" in box.ipnat("-lv").stdout
        box.remove(rule(vip, a, "tcp round-robin sticky"), "-p")
        assert [ask(vip) for _ in range(4)] == ["b"] * 4


def test_an_address_of_somebody_else(box: Sandbox) -> None:
    box.add("rdr em0 203.0.113.10 port 80 -> 10.0.0.2 port 80 tcp")
    box.add("rdr em0 203.0.113.10 port 80 -> 10.0.0.3 port 80 tcp")
    box.add("rdr em0 0/0 port 3128 -> 127.0.0.1 port 3128 tcp")
    lines = box.stderr.read_text().splitlines()[1:]
    assert len(lines) == 2
    assert lines[0].startswith("sandbox: 203.0.113.10:80/tcp: cannot listen there, its rules get no traffic: ")
    assert "names no single address" in lines[1]
    assert len(box.ipnat("-l").rules) == 3


def has_ipv6() -> bool:
    try:
        free_port(address="::1")
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")
def test_ipv6(box: Sandbox) -> None:
    vip = free_port(address="::1")
    with member(says("a"), "::1") as a:
        box.add(f"rdr lo0 inet6 ::1/128 port {vip} -> ::1 port {a} tcp round-robin")
        with connect(vip, "::1") as client:
            assert read_all(client) == b"a"
        assert re.search(rf"^RDR ::1 {a} *<- -> ::1 {vip} *\[::1 \d+\]$", box.ipnat("-l").stdout, re.M)


@contextlib.contextmanager
def udp_member(word: bytes) -> Iterator[int]:
    """Answers each datagram with itself and ``word``; stops at an empty one."""
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((HERE, 0))

        def run() -> None:
            while True:
                data, sender = server.recvfrom(4096)
                if not data:
                    return
                server.sendto(data + word, sender)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        with socket.socket(type=socket.SOCK_DGRAM) as stopper:
            stopper.sendto(b"", server.getsockname())
        thread.join(10)


def udp_client(port: int) -> socket.socket:
    client = socket.socket(type=socket.SOCK_DGRAM)
    client.settimeout(10)
    client.connect((HERE, port))
    return client


def test_udp(box: Sandbox) -> None:
    vip = free_port(socket.SOCK_DGRAM)
    with udp_member(b"a") as a, udp_member(b"b") as b:
        box.add(rule(vip, a, "udp round-robin") + "\n" + rule(vip, b, "udp round-robin"))
        with udp_client(vip) as first, udp_client(vip) as second:
            for number in (b"1", b"2"):
                for client, word in ((first, b"a"), (second, b"b")):
                    client.send(number)
                    assert client.recv(99) == number + word
            box.remove(rule(vip, a, "udp round-robin"), "-p")
            first.send(b"3")
            assert first.recv(99) == b"3b"


def test_an_enormous_listing_is_streamed(box: Sandbox) -> None:
    """A reader who stops after the rules neither waits for the sessions nor makes the sandbox hold them."""
    vip = free_port()
    text = "".join(f"rdr em0 203.0.113.1 port 80 -> 10.{n >> 8}.{n & 255}.2 port 80 tcp tag t{n}\n"
                   for n in range(20000))
    with member(says("a")) as a:
        assert box.ipnat("-f", "-", stdin=text).status == 0
        process = subprocess.Popen([*tool_words(box.path)["ipnat"], "-l"], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"List of active MAP/Redirect filters:\n"
        box.add(rule(vip, a))
        assert ask(vip) == "a"                              # it goes on working meanwhile
        process.stdout.close()
        process.wait(10)
        assert len(box.ipnat("-l").rules) == 20001
