"""The demo: what it says is so, wherever it has to listen, and it ends clean."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from l4ipd import demo
from support import ROOT
from support.gateway import PATIENCE, Gateway, wait
from support.sandbox_tools import Sandbox


class Demo:
    """A tour that is under way."""

    def __init__(self, directory: Path) -> None:
        self.log = directory / "demo.log"
        with self.log.open("w") as file:
            self.process = subprocess.Popen([sys.executable, "-m", "l4ipd", "--demo"], stderr=file, cwd=ROOT)

    def text(self) -> str:
        return re.sub(r"(?m)^\d\d:\d\d:\d\d ", "", self.log.read_text())

    def wait(self, words: str) -> re.Match[str]:
        wait(f"{words!r} in:\n{self.text()}", lambda: re.search(words, self.text()) or self.process.poll() is not None,
             3 * PATIENCE)
        found = re.search(words, self.text())
        assert found is not None, self.text()
        return found

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE)


@pytest.fixture
def tour(tmp_path: Path) -> Iterator[Demo]:
    it = Demo(tmp_path)
    yield it
    if it.process.poll() is None:
        it.end()


def test_it_goes_with_no_configuration(kernel: Sandbox, tmp_path: Path) -> None:
    ended = Gateway(kernel, tmp_path).run("--demo")
    assert ended.returncode == 2 and "--demo brings everything along" in ended.stderr


def test_the_tour(tour: Demo) -> None:
    """It begins with all servers; both kinds of failover are told with what they cost; what it names is there."""
    tour.wait("was answered by: web")
    assert tour.text().count("unknown -> up: L7OK 200") == 3 and "-> down" not in tour.text()
    page = tour.wait(r"in a browser (http://127.0.0.1:\d+/)")[1]
    assert b"demo" in urllib.request.urlopen(page).read()
    socket_path = tour.wait(r"see: l4ipctl -s (\S+) show")[1]
    shown = subprocess.run([sys.executable, "-m", "l4ipd.control.client", "-s", socket_path, "show"], cwd=ROOT,
                           capture_output=True, text=True)
    assert shown.returncode == 0 and shown.stdout.count("demo/http/web") == 3
    name = tour.wait(r"stopping (web\d) now, while 60 clients ask")[1]
    code = tour.wait(rf"demo/http/{name} .* up -> down: (RST|L4CON) ")[1]
    why = tour.wait(rf"{name} was out [\d.]+ m?s after it ended: (.*)")[1]
    assert why.startswith("a client was refused" if code == "RST" else "probes were refused")
    found = tour.wait(r"60 x curl \S+ was answered by: (.*); (.*)")
    answered = sum(int(number) for number in re.findall(r"web\d (\d+)", found[1]))
    refused = sum(int(number) for number in re.findall(r"(\d+) ", found[2]))
    assert answered + refused == 60 and refused >= 1, "as many as there were, those included who were refused"
    tour.wait(rf"starting {name} again, as process \d+")
    tour.wait(rf"demo/http/{name} .* down -> up")
    assert tour.end() == 0
    assert tour.text().endswith("stopping; the rules end with the sandbox\nl4ipd stopped\n"), "and do not stay"


def test_ports_that_are_taken(tmp_path: Path) -> None:
    """By whoever it is; the web server of a demo that was killed is recognised."""
    taken = []
    left = subprocess.Popen([sys.executable, "-m", "l4ipd.demo", "web2", "8082"], cwd=ROOT, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL)
    try:
        for port in (8080, 8081):
            sock = socket.socket()
            taken.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                sock.bind((demo.HOST, port))
                sock.listen()
            except OSError:
                pass                                # somebody else has it: as good
        wait("the server", lambda: demo._left_over(8082) or left.poll() is not None)
        tour = Demo(tmp_path)
        try:
            port = int(tour.wait(r"three web servers behind http://127.0.0.1:(\d+)/ are up")[1])
            assert port != 8080
            if left.poll() is None:
                tour.wait("demo: web2 of an earlier demo still listens on 127.0.0.1:8082")
        finally:
            assert tour.end() == 0
    finally:
        for sock in taken:
            sock.close()
        left.kill()
        left.wait()


def test_two_that_start_at_the_same_moment_do_not_take_each_others_ports() -> None:
    """Neither has a server yet that the other could meet."""
    with contextlib.ExitStack() as one, contextlib.ExitStack() as two:
        found = [demo.free_ports(claims) for claims in (one, two)]
        taken = [port for each in found for port in (each.cluster, each.page, *each.servers.values())]
        assert len(set(taken)) == 10, taken
        one.close()
        assert all(demo._claim(port, one) for port in taken[:5]), "free again when the first has ended"


@pytest.mark.parametrize("answers, words", [
    (["web1", "web2", "web3"] * 2, "6 x curl http://127.0.0.1:80/ was answered by: web1 web2 web3 web1 web2 web3"),
    (["web1"] * 8 + ["refused"], "9 x curl http://127.0.0.1:80/ was answered by: web1 8; 1 refused"),
    (["web3", "web1"] * 4, "8 x curl http://127.0.0.1:80/ was answered by: web1 4, web3 4; none was refused")])
def test_what_came_of_asking(answers: list[str], words: str) -> None:
    assert demo.told(answers, 80) == words
