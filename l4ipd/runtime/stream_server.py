"""What every server of sockets here is made of: a listener that does not give up, and connections that are bounded.

::

    Listener   accepts; rests while there are no descriptors; one whose socket breaks makes another
    Connection reads what comes, a limited piece at a time; sends what waits, as fast as it is taken; is its own timer

Nothing here knows what is said, how much of it may wait, or for how long: that is the business of who answers.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable
from typing import Protocol

from l4ipd.runtime.loop import READ, WRITE, Loop, Timed

PAUSE = 1.0                                         # seconds without accepting, when there are no descriptors left
AGAIN = 10.0                                        # seconds until a socket that could not be had is tried again


class Listener:
    """Hands every connection to ``accepted``. Idle until :meth:`open`; ``name`` is that of its log.

    ``bind()`` makes another listening socket when something of ours has raised; it may return None, having said why,
    and is asked again then.
    """

    quiet = False

    def __init__(self, loop: Loop, name: str, bind: Callable[[], socket.socket | None],
                 accepted: Callable[[socket.socket], object]) -> None:
        self.loop, self.name, self._bind, self._accepted = loop, name, bind, accepted
        self._socket: socket.socket | None = None
        self.slot: list[Timed] | None = None        # it is its own timer: see fire

    def open(self, listener: socket.socket) -> None:
        """Accept what comes to ``listener``, which is ours from now on."""
        listener.setblocking(False)
        self._socket = listener
        self._listen()

    def close(self) -> None:
        """Accept nothing more, ever."""
        self._let_go()
        self._bind, self._accepted = _no_socket, socket.socket.close    # their owner has us: both would stay

    def _let_go(self) -> None:
        self.loop.clear(self)
        listener, self._socket = self._socket, None
        if listener is not None:
            self.loop.closing(listener.fileno())
            listener.close()

    def raised(self) -> None:
        """To accept a client, or to listen again, has raised: another socket takes the place of this one."""
        self._let_go()
        listener = self._bind()
        if listener is None:
            self.loop.set(self, self.loop.now + AGAIN)
        else:
            self.open(listener)

    def fire(self) -> None:
        """Try again: to accept clients, or to have a socket at all."""
        if self._socket is not None:
            self._listen()
        else:
            self.raised()

    def _listen(self) -> None:
        assert self._socket is not None
        self.loop.watch(self._socket.fileno(), READ, self._accept)

    def _accept(self) -> None:
        assert self._socket is not None
        try:
            connection, _ = self._socket.accept()
        except (BlockingIOError, ConnectionAbortedError, InterruptedError):
            return
        except OSError as error:                    # no descriptors: the waiting client would wake us for ever
            logging.getLogger(f"l4ipd.{self.name}").warning("%s: a client cannot be served: %s", self.name,
                                                            error.strerror)
            self.loop.unwatch(self._socket.fileno())
            self.loop.set(self, self.loop.now + PAUSE)
            return
        try:
            connection.setblocking(False)
            self._accepted(connection)
        except Exception:                           # whoever keeps the traceback would keep the connection
            connection.close()
            raise


def _no_socket() -> None:
    """Of one that is closed."""


class Handler(Protocol):
    """Who answers a client."""

    def received(self, data: bytes) -> object: ...  # nothing: the client sends no more
    def sent(self) -> object: ...                   # some of what waited was taken
    def expired(self) -> object: ...                # the deadline has passed
    def raised(self) -> object: ...                 # one of these has
    def closed(self) -> object: ...                 # it is over, whoever ended it


class _Nobody:
    """Answers a connection that is over."""

    def received(self, data: bytes) -> None: ...
    def sent(self) -> None: ...
    def expired(self) -> None: ...
    def raised(self) -> None: ...
    def closed(self) -> None: ...


NOBODY = _Nobody()


class Connection:
    """One client. In one go, at most so many bytes are read (``reads``) and sent (``sends``)."""

    __slots__ = ("loop", "socket", "over", "slot", "_output", "_reading", "_fd", "_handler", "_reads", "_sends")
    quiet = False

    def __init__(self, loop: Loop, connection: socket.socket, handler: Handler, reads: int, sends: int) -> None:
        self.loop, self.socket, self._handler = loop, connection, handler
        self._reads, self._sends = reads, sends
        self._output = bytearray()                  # what waits to be sent
        self._reading = True                        # whether anybody wants to hear what comes
        self.over = False
        self.slot: list[Timed] | None = None        # it is its own timer
        self._fd = connection.fileno()
        self.watch()

    # -- for who answers

    def limit(self, seconds: float) -> None:
        """The handler hears of it when these have passed; only the last limit counts."""
        self.loop.move(self, self.loop.now + seconds)

    def unlimited(self) -> None:
        self.loop.clear(self)

    @property
    def is_limited(self) -> bool:
        return self.slot is not None

    @property
    def waiting(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._output)

    def send(self, data: bytes) -> None:
        """Let it wait to be sent; :meth:`watch` or :meth:`flush` come next."""
        self._output += data

    def listen(self, reading: bool) -> None:
        """Whether anybody wants to hear what comes."""
        self._reading = reading
        self.watch()

    def watch(self) -> None:
        """To be called when there is something to send."""
        if self.over:
            return
        events = (READ if self._reading else 0) | (WRITE if self._output else 0)
        if events:
            self.loop.watch(self._fd, events, self._ready)
        else:
            self.loop.unwatch(self._fd)

    def flush(self) -> None:
        """Send a piece of what waits, as far as it is taken."""
        try:
            sent = self.socket.send(self._output[:self._sends])
        except BlockingIOError:
            self.watch()
        except OSError:
            self.close()
        else:
            del self._output[:sent]
            self._handler.sent()

    def end_sending(self) -> bool:
        """Say that nothing more comes from us; whether the connection is still there."""
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError:
            self.close()
        return not self.over

    def close(self) -> None:
        """Hang up, on what was not sent, too."""
        if self.over:
            return
        self.over = True
        self.loop.clear(self)
        self.loop.closing(self._fd)
        self.socket.close()
        self._output.clear()
        handler, self._handler = self._handler, NOBODY      # they would keep each other
        handler.closed()

    def close_with(self, data: bytes) -> None:
        """Hang up; what waits, and then ``data``, is sent as far as that can be done without waiting."""
        if not self.over:
            with contextlib.suppress(OSError):
                self.socket.send(self._output + data)
            self.close()

    # -- from the loop

    def fire(self) -> None:
        self._handler.expired()

    def raised(self) -> None:
        self._handler.raised()

    def _ready(self) -> None:
        waited = bool(self._output)
        if self._reading:
            self._read()
        if waited and self._output:                  # what has come to wait since goes when its handler says so
            self.flush()

    def _read(self) -> None:
        try:
            data = self.socket.recv(self._reads)
        except BlockingIOError:
            return
        except OSError:
            self.close()
        else:
            self._handler.received(data)
