"""All the members in one process: whatever address in 127/8 and one port is connected to, it answers 200, tersely.

A client that says nothing is waited for until it closes. One process, one listener on the wildcard address (on Linux
all of 127/8 is local), as few system calls as possible: it must not be what limits a measurement.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import socket
from multiprocessing.process import BaseProcess

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
BACKLOG = 65535                                     # or what net.core.somaxconn leaves of it


def addresses(count: int) -> list[str]:
    """The members' addresses: 127.1.0.1 and on, none with 0 or 255 at its end."""
    return [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(count)]


def open_port() -> socket.socket:
    """Listen on a port below 10000, as a service would, and below those of outgoing connections."""
    for port in range(8100, 9900):
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError:
            listener.close()
            continue
        listener.listen(BACKLOG)
        listener.setblocking(False)
        return listener
    raise SystemExit("no free port from 8100 to 9899")


def start(listener: socket.socket, processors: set[int], nice: int) -> BaseProcess:
    """The process of the members, on some of the processors."""
    farm = multiprocessing.get_context("fork").Process(target=serve, args=(listener, processors, nice), daemon=True)
    farm.start()
    return farm


def serve(listener: socket.socket, processors: set[int], nice: int) -> None:
    os.sched_setaffinity(0, processors)
    os.setpriority(os.PRIO_PROCESS, 0, nice)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    door = listener.fileno()
    silent: dict[int, socket.SocketType] = {}       # connected, and nothing heard yet
    while True:
        for fd, _ in poll.poll():
            if fd != door:
                answer(silent.pop(fd))
                continue
            for client in guests(listener):
                if not answer(client):
                    silent[client.fileno()] = client
                    poll.register(client.fileno(), select.EPOLLIN)


def guests(listener: socket.socket) -> list[socket.SocketType]:
    """All who wait at the door. The C type, without Python's layer around it."""
    found: list[socket.SocketType] = []
    try:
        while len(found) < 256:
            fd, _ = listener._accept()              # type: ignore[attr-defined]
            found.append(socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, 0, fd))
    except OSError:
        pass                                        # nobody is left
    return found


def answer(client: socket.SocketType) -> bool:
    """Answer if something was said, and close; False if nothing has come yet."""
    try:
        if client.recv(4096, socket.MSG_DONTWAIT):
            client.send(ANSWER, socket.MSG_NOSIGNAL)
    except BlockingIOError:
        return False
    except OSError:
        pass                                        # it has gone
    client.close()
    return True
