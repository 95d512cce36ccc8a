"""The client's end of the control socket: connect, ask, and say what hinders. Imports only what Python has anyway."""

from __future__ import annotations

import _socket
import os
import stat
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

DEFAULT_SOCKET = "/var/run/l4ip.sock"
SILENCE = 30.0                                      # seconds; a daemon that lives says something every 10
LINE_LIMIT = 1 << 20                                # bytes
AGAIN = 0.05                                        # seconds until a full queue is tried again
STRANGE = "this is no l4ipd, or one of another version"
NO_SOCKET = "is no socket: name that of l4ipd, which its log has, with -s SOCKET"


class Unreachable(Exception):
    """There is no daemon to talk to: says why, and what to do."""


def lines(path: str, request: bytes, silence: float = SILENCE, until: float | None = None) -> Iterator[bytes]:
    """What the daemon at ``path`` answers, line by line, without the empty ones. Raises :class:`Unreachable`.

    It may be silent for so many seconds, and has to be done by ``until`` of time.monotonic(), where that is given.
    """
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        _connect(connection, path, silence, until)
        connection.sendall(request + b"\n")
        yield from (line for line in _received(connection, silence, until) if line.strip())
    except TimeoutError:
        words = f"for {silence:g} s" if until is None else "in time"
        raise Unreachable(f"{path}: l4ipd says nothing {words}: it is stopped, or very busy") from None
    except BrokenPipeError:
        raise Unreachable(f"{path}: l4ipd hung up: see its log") from None
    except OSError as error:
        raise Unreachable(f"{path}: {error.strerror}") from None
    except ValueError:
        raise Unreachable(f"{path}: {STRANGE}") from None
    finally:
        connection.close()


def _received(connection: _socket.socket, silence: float, until: float | None) -> Iterator[bytes]:
    rest = b""
    while True:
        _patience(connection, silence, until)
        data = connection.recv(65536)
        if not data:
            return
        *whole, rest = (rest + data).split(b"\n")
        yield from whole
        if len(rest) > LINE_LIMIT:
            raise ValueError("no end of line")


def _patience(connection: _socket.socket, silence: float, until: float | None) -> None:
    left = silence if until is None else min(silence, until - time.monotonic())
    if left <= 0:
        raise TimeoutError
    connection.settimeout(left)


def _connect(connection: _socket.socket, path: str, silence: float, until: float | None) -> None:
    try:
        _try(connection, path, silence, until)
    except FileNotFoundError:
        words = "there is no such socket: is l4ipd running? (its log names its control socket; another: -s SOCKET)"
    except ConnectionRefusedError:
        words = ("nobody listens: l4ipd was killed or has crashed; start it again" if is_socket(path) else
                 NO_SOCKET)
    except PermissionError:
        words = "permission denied: only root may use it, or the group that control.group in l4ip.conf names"
    except (TimeoutError, BlockingIOError):
        words = "l4ipd does not answer: it is stopped, or very busy"
    except OSError as error:
        words = (error.strerror or str(error)) if is_socket(path) else NO_SOCKET
    else:
        return
    raise Unreachable(f"{path}: {words}")


def is_socket(path: str) -> bool:
    """Whether it is one, as far as we can see; a file or a directory refuses connections just as well."""
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except (OSError, ValueError):
        return True


def _try(connection: _socket.socket, path: str, silence: float, until: float | None) -> None:
    """Connect; while more clients wait than the daemon's queue holds, Linux says at once that it is full."""
    if until is None:
        until = time.monotonic() + silence
    while True:
        _patience(connection, silence, until)
        try:
            connection.connect(path)
            return
        except BlockingIOError:
            time.sleep(AGAIN)
