"""One probe over tcp, in the clear or inside TLS, in flight. The pending bound method is the state::

    start --socket, connect_ex--> _connected --error----------------> L4CON
                                      |-- nothing to say -----------> L4OK
                                      v tls only
                                  _shake --error--------------------> L6RSP
                                      v
                                  _flush <-> _receive --expect------> that verdict
                                                        eof, reset -> L7RSP
    expire() anywhere ----------------------------------------------> L4TOUT, L6TOUT, L7TOUT
    our own trouble ------------------------------------------------> LOCAL

10,000 of these a second are a normal load, so what happens on the way to L4OK and to an HTTP status is counted in
system calls and microseconds (``tests/bench/probe_cost.py``): no exceptions, no formatting, nothing but C objects.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from l4ipd.checks import errors, proxy_protocol, routes
from l4ipd.checks.conversation import SPEAKS, Conversation, Say
from l4ipd.checks.expect import DIALOG, LIMIT, Reader, after
from l4ipd.checks.recipe import REFUSED, Method, Recipe, Tls
from l4ipd.checks.socket_pool import Sockets, met_itself
from l4ipd.checks.verdict import Verdict, local
from l4ipd.runtime.errno_words import words
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import READ, WRITE

if TYPE_CHECKING:
    from l4ipd.checks.tls import Tunnel

CONNECT_TIMED_OUT = Verdict("L4TOUT", "no answer to the connection attempt")
SHAKE_TIMED_OUT = Verdict("L6TOUT", "no answer to the TLS handshake")
SHAKE_CUT = Verdict("L6RSP", "connection closed in the TLS handshake")
CHUNK = 4096                                        # bytes asked for at a time
ELSEWHERE = 30.0                                    # seconds after which we ask again which addresses are not ours
SOCKET, ERROR = socket.SOL_SOCKET, socket.SO_ERROR
IN_PROGRESS = errno.EINPROGRESS


class Stream:
    """``done(verdict)`` is called once, possibly before the constructor returns, unless :meth:`cancel` came first."""

    __slots__ = ("_sockets", "_loop", "_recipe", "_done", "_socket", "_fd", "_at", "_data", "_reader", "_unsent",
                 "_tls", "_sealed_later")

    def __init__(self, sockets: Sockets, recipe: Recipe, done: Callable[[Verdict], object]) -> None:
        self._sockets = sockets
        self._loop = loop = sockets.loop
        self._recipe = recipe
        self._done = done
        self._at = -1                               # the exchange under way; -1: not that far yet
        self._data = self._unsent = b""             # received in this exchange, at most LIMIT and a bit; to be sent
        self._reader: Reader | None = None          # decides on _data
        self._tls: Tunnel | None = None
        self._sealed_later = b""                    # to be sent when the handshake that was asked for is over
        try:
            self._socket = sock = sockets.take()
        except OSError as error:
            self._fd = -1
            done(errors.no_socket(error.errno or 0, recipe.method.source))
            return
        self._fd = fd = sock.fileno()
        failure = sock.connect_ex((recipe.address, recipe.port))
        if failure == IN_PROGRESS:
            try:
                loop.watch_connect(fd, self._connected)
            except OSError as error:                # Linux: fs.epoll.max_user_watches
                self._refused(error.errno or 0, local(f"watch: {words(error.errno or 0)}"))
        elif failure:
            self._refused(failure, routes.at_once(failure, "connect", recipe.address))
        else:
            loop.no_event()
            self._connected()

    def expire(self) -> None:
        """The time is up: the verdict says in which stage."""
        if self._fd < 0:
            return
        if self._at < 0:
            self._finish(CONNECT_TIMED_OUT if self._tls is None else
                         self._recipe.method.connected if self._tls.shaken else SHAKE_TIMED_OUT)
        elif self._unsent or self._reader is None:
            self._finish(Verdict("L7TOUT", f"{self._where()}the member does not take what is sent"))
        else:
            self._finish(self._reader.expired(self._data))

    def cancel(self) -> None:
        """No verdict is wanted any more."""
        if self._fd >= 0:
            self._close()

    def raised(self) -> None:
        """One of the states below has raised: our own trouble, whatever the member said."""
        if self._fd >= 0:
            self._close(True)
            self._done(local(INTERNAL))

    # -- states

    def _connected(self) -> None:
        recipe, events = self._recipe, self._loop.events
        method = recipe.method
        if events != WRITE:
            failure = self._socket.getsockopt(SOCKET, ERROR)
            if failure:
                self._refused(failure, errors.later(failure))
                return
        if recipe.address not in self._sockets.elsewhere and self._met_itself():
            self._refused(errno.ECONNREFUSED, errors.later(errno.ECONNREFUSED))      # for nobody listens
        elif method.opens:
            self._open(method)
        elif recipe.steps:
            self._next(b"")
        else:
            self._finish(method.connected, events)

    def _met_itself(self) -> bool:
        """Whether we have: asked each time where the member's address is ours, and else now and then (which saves two
        system calls: 1.6 us of 20 for tcp).
        """
        itself, elsewhere = met_itself(self._socket), self._sockets.elsewhere
        if itself is None:
            if not elsewhere:                       # it may become ours, and members come and go
                self._loop.later(ELSEWHERE, elsewhere.clear)
            elsewhere[self._recipe.address] = None
        return bool(itself)

    def _shake(self, tls: Tunnel, chunk: bytes) -> None:
        """Something has come from the member's side of the handshake."""
        outcome = tls.shake(chunk) if chunk else tls.shaken or SHAKE_CUT
        self._unsent += tls.outgoing()
        if isinstance(outcome, Verdict):
            self._finish(outcome)
        elif outcome and self._recipe.steps:
            if self._reader is None:
                self._next(b"")
            else:
                self._resume(tls)
            self._unseal(tls, b"")                  # a member that speaks first may have done so in the same packet
        elif outcome:
            self._finish(self._recipe.method.connected)
        elif self._unsent:
            self._flush()

    def _flush(self, first: bool = False) -> None:
        """Send what is to be sent, then listen. ``first``: the connection has just come about."""
        unsent = self._unsent
        try:
            sent = self._socket.send(unsent)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._broken(error, True)
            return
        if sent < len(unsent):
            self._unsent = unsent[sent:]
            self._loop.watch(self._fd, WRITE, self._flush_rest)
            return
        self._unsent = b""
        if self._reader is None and self._at >= 0:
            self._finish(DIALOG if self._recipe.steps else self._recipe.method.connected)
        elif first:
            self._loop.watch_answer(self._fd, self._receive)
        else:
            self._loop.watch(self._fd, READ, self._receive)

    def _flush_rest(self) -> None:
        """Go on with what did not go out at once; then judge what TLS had let through before."""
        self._flush()
        if self._tls is not None and self._at >= 0 and not self._unsent:
            self._unseal(self._tls, b"")

    def _receive(self) -> None:
        """Something has come, be it the end."""
        try:
            chunk = self._socket.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError as error:
            self._broken(error)
            return
        tls = self._tls
        if tls is None:
            self._judge(chunk, not chunk)
        elif self._at < 0:
            self._shake(tls, chunk)
        else:
            self._unseal(tls, chunk, not chunk)

    def _unseal(self, tls: Tunnel, chunk: bytes, eof: bool = False) -> None:
        """What has come through TLS; the protocol itself may want to be answered, too."""
        if self._fd < 0:
            return
        opened = tls.open(chunk)
        if isinstance(opened, Verdict):
            self._finish(opened)
            return
        plain, over = opened
        owed = tls.outgoing()
        if owed:
            self._unsent += owed
            self._flush()
        if self._fd < 0 or self._reader is None:
            return
        if self._unsent:
            self._data += plain                     # to be judged when that is sent
        elif plain or over or eof or self._data:
            self._judge(plain, over or eof)

    # -- the dialog

    def _judge(self, chunk: bytes, eof: bool) -> None:
        self._data = data = self._data + chunk if self._data else chunk
        while True:
            reader = self._reader
            assert reader is not None
            verdict = reader.read(data, eof)
            if verdict is SPEAKS:
                assert isinstance(reader, Conversation)
                if not self._say(reader.say, data) or not (self._data or eof):
                    return
                data = self._data
                continue
            if verdict is None:
                if len(data) > LIMIT:
                    self._finish(reader.overlong(data))
                else:
                    self._loop.watch(self._fd, READ, self._receive)     # this may have been the one call it was for
                return
            if self._at + 1 == len(self._recipe.steps) or not verdict.passed:
                self._finish(verdict, self._loop.events)
                return
            self._next(data)
            data = self._data
            if not data:
                return

    def _say(self, say: Say, data: bytes) -> bool:
        """Do what the reader asks for; whether it may go on with what is left of the data."""
        self._data = data[say.used:]
        if say.shake:
            self._data = b""                        # in the clear, and after we asked for TLS: from whom, nobody knows
            self._unsent += say.before
            self._sealed_later = say.send
            self._at = -1
            assert self._recipe.method.tls is not None
            self._begin_tls(self._recipe.method.tls)
            return False
        send: bytes | Verdict = say.send if self._tls is None else self._tls.seal(say.send)
        if isinstance(send, Verdict):
            self._finish(send)
            return False
        self._unsent += send
        if say.verdict is not None:
            self._part(say.verdict)
        else:
            self._flush()
        return self._fd >= 0

    def _part(self, verdict: Verdict) -> None:
        """End with last words, as far as they are taken at once."""
        if self._tls is None and self._unsent:
            with contextlib.suppress(OSError):
                self._socket.send(self._unsent)
        self._finish(verdict)

    def _resume(self, tls: Tunnel) -> None:
        """Inside of TLS, the conversation that asked for it goes on."""
        self._at = 0
        send, self._sealed_later = tls.seal(self._sealed_later), b""
        if isinstance(send, Verdict):
            self._finish(send)
            return
        self._unsent += send
        self._flush()

    def _next(self, data: bytes) -> None:
        """Begin the next exchange. ``data`` is what the one before has received; what of it is left stays in _data."""
        recipe = self._recipe
        self._at = at = self._at + 1
        exchange = recipe.steps[at]
        expect, send = exchange.expect, exchange.send + recipe.host + exchange.tail
        if data:
            self._data = rest = b"" if send or self._reader is None else self._reader.rest(data)
            data = data[:len(data) - len(rest)]
        self._reader = None if expect is None else expect.reader(data)
        if self._tls is not None:
            sealed = self._tls.seal(send)
            if isinstance(sealed, Verdict):
                self._finish(sealed)
                return
            send = sealed
        self._unsent += send
        if self._unsent:
            self._flush(at == 0 and self._tls is None)
        else:
            self._loop.watch(self._fd, READ, self._receive)

    def _open(self, method: Method) -> None:
        """What comes before the steps."""
        if method.proxy is not None:
            try:
                self._unsent = proxy_protocol.header(method.proxy, self._socket)
            except OSError as error:
                self._broken(error)
                return
        if method.tls is not None and not method.starttls:
            self._begin_tls(method.tls)
        elif self._recipe.steps:
            self._next(b"")
        else:
            self._at = 0                            # the header is all
            self._flush()

    def _begin_tls(self, tls: Tls) -> None:
        from l4ipd.checks.tls import Tunnel  # 4 MB: not before a check needs it (probe.prepare imports it)

        try:
            self._tls = Tunnel(tls, not self._recipe.steps, self._recipe.address, self._certified)
        except ValueError as error:
            self._finish(local(str(error)))
            return
        self._tls.shake(b"")
        self._unsent += self._tls.outgoing()
        self._flush()

    def _certified(self, der: bytes) -> None:
        recipe, tls = self._recipe, self._recipe.method.tls
        self._sockets.certificates.seen((recipe.address, recipe.port, tls.name if tls is not None else None), der)

    # -- ending

    def _broken(self, error: OSError, sending: bool = False) -> None:
        verdict = errors.broken(error.errno or 0, "L6RSP" if self._at < 0 else "L7RSP", sending)
        if verdict is not errors.NO_ROUTE:
            verdict = verdict._replace(text=self._where() + verdict.text + after(self._data))
        self._finish(verdict)

    def _where(self) -> str:
        return self._reader.where if self._reader is not None else ""

    def _refused(self, failure: int, verdict: Verdict) -> None:
        """There is no connection, or only one to itself, in which nothing may stay."""
        self._close(True)
        self._done(REFUSED if self._recipe.method.closed and failure == errno.ECONNREFUSED else verdict)

    def _finish(self, verdict: Verdict, events: int = 0) -> None:
        """``events``: see :meth:`Sockets.end`."""
        if self._tls is not None:
            with contextlib.suppress(OSError):      # it is gone, then
                self._socket.send(self._unsent + self._tls.farewell())
            self._tls = None                        # they would keep each other
        fd, self._fd = self._fd, -1                 # as in _close
        self._sockets.end(self._socket, fd, self._recipe.method.reset, events)
        self._done(verdict)

    def _close(self, reset: bool = False) -> None:
        self._tls = None
        fd, self._fd = self._fd, -1
        self._sockets.end(self._socket, fd, reset)
