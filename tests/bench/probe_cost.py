"""What one probe costs: microseconds of CPU (user and system) per probe, beside the same system calls made bare.

    python tests/bench/probe_cost.py [--listeners 200] [--probes 20000] [--batch 50] [--rounds 5]

Listeners are on loopback, in a process of their own: where only 127.0.0.1 is there, on ports of it. Probes begin in
batches, as in the daemon, whose timers fire once a tick. "bare" makes the system calls of such a probe in the same
order and batches, with nothing around them, but with a socket of its own for each, which l4ipd spares where it can
(Linux). The kinds take turns, and the best round of each counts. """

from __future__ import annotations

import argparse
import multiprocessing
import os
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", ".."))

from l4ipd.checks.probe import Prober
from l4ipd.checks.recipe import Recipe, recipe
from l4ipd.checks.verdict import Verdict
from l4ipd.model import Check, Endpoint
from l4ipd.runtime.loop import READ, WRITE, Loop
from l4ipd.runtime.poller import best_poller

ANSWER = (b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n")
KIND = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
QUICKACK = getattr(socket, "TCP_QUICKACK", None)    # Linux
Address = tuple[str, int]


def serve(listeners: list[socket.socket]) -> None:
    """Answer whatever is asked with ANSWER; a plain server."""
    poll = best_poller()
    sockets = {listener.fileno(): listener for listener in listeners}
    for fd in sockets:
        poll.register(fd, READ)
    clients: dict[int, socket.socket] = {}
    while True:
        for fd, _ in poll.poll(None):
            if fd in sockets:
                try:
                    client, _ = sockets[fd].accept()
                except OSError:
                    continue
                clients[client.fileno()] = client
                poll.register(client.fileno(), READ)
            else:
                client = clients.pop(fd)
                try:
                    if client.recv(4096):
                        client.send(ANSWER)
                except OSError:
                    pass
                if poll.closing is not None:
                    poll.closing(fd)
                client.close()


def listen(count: int) -> list[socket.socket]:
    listeners = []
    for number in range(count):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((f"127.1.{number // 250}.{number % 250 + 1}", 8000) if sys.platform == "linux"
                      else ("127.0.0.1", 0))
        listener.listen(512)
        listener.setblocking(False)
        listeners.append(listener)
    return listeners


def recipes(check: Check, addresses: Sequence[Address]) -> list[Recipe]:
    return [recipe(check, Endpoint("c/s/m", "c", "s", "m", ("127.0.0.1",), 80, "tcp", False, address, port, 1, False,
                                   (check,))) for address, port in addresses]


def as_elsewhere(prober: Prober) -> Prober:
    """Believe that 127.0.0.1 is not our own address, as no member's is: else each probe looks whom it has met."""
    for sockets in prober._sockets:
        sockets.elsewhere["127.0.0.1"] = None
    return prober


def real(recipes: list[Recipe], probes: int, batch: int) -> float:
    loop = Loop()
    prober = as_elsewhere(Prober(loop))
    left = 0

    def done(verdict: Verdict) -> None:
        nonlocal left
        left -= 1
        if not verdict.passed:
            raise SystemExit(str(verdict))

    start = time.process_time()
    for first in range(0, probes, batch):
        left += batch
        for number in range(first, first + batch):
            prober.start(recipes[number % len(recipes)], done)
        while left:
            loop.turn()
    spent = time.process_time() - start
    prober.close()
    loop.close()
    return spent / probes * 1e6


def bare(recipes: list[Recipe], probes: int, batch: int) -> float:
    poll = best_poller()
    reset = struct.pack("ii", 1, 0)
    request = b"".join(step.send + recipes[0].host + step.tail for step in recipes[0].steps)
    start = time.process_time()
    for first in range(0, probes, batch):
        open_sockets: dict[int, socket.SocketType] = {}
        asked: set[int] = set()
        for number in range(first, first + batch):
            sock = socket.SocketType(socket.AF_INET, KIND)
            if QUICKACK is not None:
                sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 0)
            sock.connect_ex((recipes[number % len(recipes)].address, recipes[number % len(recipes)].port))
            open_sockets[sock.fileno()] = sock
            poll.register(sock.fileno(), WRITE)
        while open_sockets:
            for fd, _ in poll.poll(None):
                sock = open_sockets[fd]
                if fd in asked:
                    sock.recv(4096)
                    asked.discard(fd)
                elif request:
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    sock.send(request)
                    poll.modify(fd, READ)
                    asked.add(fd)
                    continue
                else:
                    sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                del open_sockets[fd]
                if poll.closing is not None:
                    poll.closing(fd)
                sock.close()
    return (time.process_time() - start) / probes * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("listeners", 200), ("probes", 20000), ("batch", 50), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    listeners = listen(options.listeners)
    server = multiprocessing.get_context("fork").Process(target=serve, args=(listeners,), daemon=True)
    server.start()
    runs: dict[str, tuple[Callable[[list[Recipe], int, int], float], list[Recipe]]] = {}
    for check in (Check("tcp"), Check("http")):
        members = recipes(check, [listener.getsockname() for listener in listeners])
        runs[check.type] = real, members
        runs[f"{check.type} bare"] = bare, members
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(options.rounds):
        for name, (run, members) in runs.items():
            best[name] = min(best[name], run(members, options.probes, options.batch))
    server.kill()
    for name in ("tcp", "http"):
        cost, least = best[name], best[f"{name} bare"]
        print(f"{name:5} {cost:6.1f} us a probe, {least:6.1f} bare, ratio {cost / least:.2f}")


if __name__ == "__main__":
    main()
