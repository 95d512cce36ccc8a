"""A member: tells its name to whoever connects, and echoes what it gets. ``member.py NAME ADDRESS,PORT...``

It listens in one process and talks in others, one for each connection. So who kills the first one ends the service and
no session: clients are refused from then on, and what ends the sessions that are there is nobody but the gateway.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
from collections.abc import Sequence

LIFE = 600                                          # seconds after which a forgotten session ends


def listen(place: str) -> socket.socket:
    address, _, port = place.rpartition(",")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, int(port)), family=family, backlog=128)


def serve(connection: socket.socket, name: str) -> None:
    """Until the client leaves. A probe that leaves with a RST is no news."""
    signal.alarm(LIFE)
    with contextlib.suppress(OSError):
        connection.sendall(f"{name}\n".encode())
        while data := connection.recv(4096):
            connection.sendall(data)


def accept(listener: socket.socket, listeners: Sequence[socket.socket], name: str) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:                                 # it has left already: ECONNABORTED, as FreeBSD says
        return
    with connection:
        if os.fork() == 0:
            for each in listeners:
                each.close()
            serve(connection, name)
            os._exit(0)


def main(words: Sequence[str]) -> None:
    name, *places = words
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)   # nobody waits for the processes that talk
    listeners = [listen(place) for place in places]
    while True:
        for listener in select.select(listeners, [], [])[0]:
            accept(listener, listeners, name)


if __name__ == "__main__":
    main(sys.argv[1:])
