"""The header of the PROXY protocol, with which a connection begins (proxy-protocol.txt of HAProxy)."""

from __future__ import annotations

import socket

VERSIONS = ("v1", "v2")
#: the signature; version 2, command LOCAL; no family; no address: the connection is the sender's own (2.2)
LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"


def header(version: str, sock: socket.SocketType) -> bytes:
    """What is sent first on a connection that has come about. Version 1 has no LOCAL: it names the two ends.

    Raises OSError, if it is over already.
    """
    if version == "v2":
        return LOCAL
    ours, theirs = sock.getsockname(), sock.getpeername()
    family = "TCP6" if ":" in theirs[0] else "TCP4"
    return f"PROXY {family} {ours[0]} {theirs[0]} {ours[1]} {theirs[1]}\r\n".encode()
