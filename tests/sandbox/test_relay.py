"""Real connections and datagrams through the sandbox."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from l4ipd.sandbox import tool_words
from support.members import overcrowded
from support.sandbox_tools import (
    HERE,
    Sandbox,
    ask,
    connect,
    echo,
    eventually,
    free_port,
    has_ipv6,
    member,
    read_all,
    reset,
    rule,
    sandbox,
    says,
    send_all,
    udp_client,
    udp_member,
)


@pytest.fixture
def box() -> Iterator[Sandbox]:
    with sandbox() as running:
        yield running


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


def test_a_range_of_somebody_else_is_told_of_in_one_line(box: Sandbox) -> None:
    box.add("rdr em0 203.0.113.10 port 40000-40999 -> 10.0.0.2 port 50000 tcp/udp")
    box.add("rdr em0 203.0.113.10 port 39990-40009 -> 10.0.0.2 port 50000 tcp")
    box.add("\n".join(f"rdr em0 203.0.113.11 port {port} -> 10.0.0.2 port 80 tcp" for port in (80, 443, 81)))
    box.add("\n".join(f"rdr em0 203.0.113.12 port {port} -> 10.0.0.2 port 80 tcp" for port in range(2, 16, 2)))
    lines = box.stderr.read_text().splitlines()[1:]
    assert [line.partition(": cannot listen there, its rules get no traffic: ")[0] for line in lines] == [
        f"sandbox: 203.0.113.{where}" for where in (
            "10:40000-40999/tcp", "10:40000-40999/udp", "10:39990-39999/tcp", "11:80-81,443/tcp",
            "12:2,4,6,8,10,... (7 ports)/tcp")]


def test_a_range_that_is_too_long(box: Sandbox) -> None:
    for host in (2, 3):
        box.add(f"rdr lo0 {HERE}/32 port 20000-21024 -> 10.0.0.{host} port 20000 udp round-robin")
    assert box.stderr.read_text().splitlines()[1:] == [
        f"sandbox: {HERE}:20000-21024/udp: not listened for, its rules get no traffic: more than 1024 ports"]


@pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")
def test_ipv6(box: Sandbox) -> None:
    vip = free_port(address="::1")
    with member(says("a"), "::1") as a:
        box.add(f"rdr lo0 inet6 ::1/128 port {vip} -> ::1 port {a} tcp round-robin")
        with connect(vip, "::1") as client:
            assert read_all(client) == b"a"
        assert re.search(rf"^RDR ::1 {a} *<- -> ::1 {vip} *\[::1 \d+\]$", box.ipnat("-l").stdout, re.M)


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


def test_udp_sessions_outlive_their_rule(box: Sandbox) -> None:
    vip = free_port(socket.SOCK_DGRAM)
    with udp_member(b"a") as a, udp_client(vip) as client, udp_client(vip) as other:
        box.add(rule(vip, a, "udp"))
        client.send(b"1")
        assert client.recv(99) == b"1a"
        box.remove(rule(vip, a, "udp"))
        other.send(b"2")                                    # no rule: it is dropped
        client.send(b"3")
        assert client.recv(99) == b"3a"
        box.add(rule(vip, a, "udp"))
        other.send(b"4")
        assert other.recv(99) == b"4a"


def test_switched_off(box: Sandbox) -> None:
    vip = free_port()
    with member(says("a")) as a:
        box.add(rule(vip, a))
        box.run("ipf", "-D")
        with pytest.raises(ConnectionResetError), connect(vip) as client:
            client.recv(1)
        box.run("ipf", "-E")
        assert ask(vip) == "a"


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
        eventually(lambda: len(box.ipnat("-l").rules) == 20001)     # the next one begins where that was cut


def test_an_idle_session_ends_by_the_rules_age(box: Sandbox) -> None:
    vip = free_port()
    with member(echo) as a:
        box.add(rule(vip, a, "tcp round-robin age 1/1"))
        with connect(vip) as client:
            client.sendall(b"x")
            assert client.recv(9) == b"x"
            eventually(lambda: "RDR" not in box.ipnat("-l").stdout)
            with pytest.raises(ConnectionResetError):
                client.recv(1)


def test_a_half_open_session_is_listed(box: Sandbox) -> None:
    """Its member does not answer the SYN."""
    vip = free_port()
    with overcrowded() as port:
        box.add(rule(vip, port))
        with connect(vip):
            eventually(lambda: re.search(r"^RDR .*\n\tttl 4[78]\d ", box.ipnat("-lv").stdout, re.M))


def test_a_closed_session_is_listed_for_30_seconds(box: Sandbox) -> None:
    vip = free_port()
    with member(says("a")) as a:
        box.add(rule(vip, a))
        assert ask(vip) == "a"
        eventually(lambda: re.search(r"^RDR .*\n\tttl [56]\d ", box.ipnat("-lv").stdout, re.M))


def limit(box: Sandbox, sessions: int) -> None:
    for words in (("-D",), ("-T", f"nat_table_max={sessions}"), ("-E",)):
        assert box.run("ipf", *words).status == 0


def test_a_client_of_a_full_table_hears_nothing_until_there_is_room(box: Sandbox) -> None:
    vip = free_port()
    limit(box, 1)
    with member(echo) as a:
        box.add(rule(vip, a))
        with connect(vip) as first, connect(vip) as second:
            second.sendall(b"y")
            first.sendall(b"x")
            assert first.recv(9) == b"x"
            eventually(lambda: re.search(r"^[1-9]\d*\tdrop in$", box.ipnat("-s").stdout, re.M))
            second.settimeout(0.2)
            with pytest.raises(TimeoutError):
                second.recv(9)
            assert box.ipnat("-F").status == 0
            second.settimeout(60)
            assert second.recv(9) == b"y"


def test_a_datagram_that_finds_the_table_full_is_lost(box: Sandbox) -> None:
    vip = free_port(socket.SOCK_DGRAM)
    limit(box, 1)
    with udp_member(b"!") as a:
        box.add(rule(vip, a, "udp round-robin"))
        with udp_client(vip) as first, udp_client(vip) as second:
            first.send(b"x")
            assert first.recv(9) == b"x!"
            second.send(b"y")
            eventually(lambda: "1\tdrop in\n" in box.ipnat("-s").stdout)
            first.send(b"z")
            assert first.recv(9) == b"z!", "one that is known goes on"


def free_ports(count: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> list[socket.socket]:
    """Sockets on so many ports in a row."""
    for first in range(21000, 32000, count):
        made: list[socket.socket] = []
        try:
            for port in range(first, first + count):
                made.append(socket.socket(socket.AF_INET, kind))
                made[-1].bind((HERE, port))
        except OSError:
            for each in made:
                each.close()
        else:
            return made
    raise AssertionError("no ports")


def test_a_range_of_ports_keeps_its_offsets(box: Sandbox) -> None:
    """samples: 8000-8010 -> 9000 takes 8003 to 9003; two members take turns, whatever the port."""
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(each) for each in free_ports(6)]
        vips = []
        for each in free_ports(3):
            with each:
                vips.append(each.getsockname()[1])
        for server in servers:
            server.listen()
            server.settimeout(30)
        first, second = (servers[at].getsockname()[1] for at in (0, 3))
        fed = [f"rdr lo0 {HERE}/32 port {vips[0]}-{vips[2]} -> {HERE} port {target} tcp round-robin tag t"
               for target in (first, second)]
        box.add("\n".join(fed))
        assert box.ipnat("-lR").rules == [line.replace(f"-> {HERE}", f"-> {HERE}/32") for line in fed]
        for vip, at in ((0, 0), (1, 4), (2, 2), (0, 3)):
            with connect(vips[vip]) as client:
                client.sendall(b"x")
                with servers[at].accept()[0] as connection:
                    assert connection.recv(1) == b"x"
        listed = re.findall(rf"^RDR {HERE} +(\d+) .* {HERE} +(\d+) +\[", box.ipnat("-l").stdout, re.M)
        assert {(vips[2], first + 2), (vips[1], second + 1)} <= {(int(vip), int(port)) for port, vip in listed}
        box.remove(fed[0])
        for line in box.ipnat("-lR").rules:
            box.remove(line)
        for vip in vips:
            with pytest.raises(ConnectionRefusedError):
                connect(vip)


def test_what_a_client_has_said_waits_for_room_in_the_table(box: Sandbox) -> None:
    """Its member does not answer, its session is purged, the table is full then: another member gets all of it."""
    vip, other = free_port(), free_port()
    with overcrowded() as silent, member(echo) as a:
        box.add(rule(vip, silent) + "\n" + rule(other, a))
        with connect(vip) as client, connect(other) as holder:
            holder.sendall(b"x")
            assert holder.recv(1) == b"x"
            client.sendall(b"said before")
            eventually(lambda: box.ipnat("-l").stdout.count("RDR") == 2)
            limit(box, 1)
            box.add(rule(vip, a))
            box.remove(rule(vip, silent), "-p")
            eventually(lambda: re.search(r"^[1-9]\d*\tdrop in$", box.ipnat("-s").stdout, re.M))
            box.ipnat("-F")
            client.settimeout(60)
            assert client.recv(99) == b"said before"
