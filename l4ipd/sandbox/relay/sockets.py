"""Sockets as the relays need them: non-blocking, of the right family, and ended with a RST where IPFilter would."""

from __future__ import annotations

import contextlib
import socket
import struct

RESET = struct.pack("ii", 1, 0)         # SO_LINGER: on, no time


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def listening_socket(address: str, port: int, kind: socket.SocketKind) -> socket.socket:
    """Bound, not blocking; raises OSError."""
    made = socket.socket(family_of(address), kind)
    try:
        if kind == socket.SOCK_STREAM:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if ":" in address:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.setblocking(False)
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


def member_socket(address: str, kind: socket.SocketKind) -> socket.socket:
    """For connecting to a member; raises OSError."""
    made = socket.socket(family_of(address), kind)
    made.setblocking(False)
    return made


def undelayed(connection: socket.socket) -> None:
    """What comes in small pieces is passed on in small pieces."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def close_with_reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):          # the other side may have been faster
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    connection.close()
