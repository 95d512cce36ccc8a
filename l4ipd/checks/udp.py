"""One probe over udp in flight: one datagram out, and what comes back.

Without ``expect`` any answer passes at once, and silence passes at the deadline: only a refusal (ICMP port unreachable)
or a route that fails speaks against the member, so a dead machine is not seen. With ``expect`` the first datagram that
matches passes; others are waited out, and the last of them is shown when the time is up. With ``closed`` a refusal
passes. Nothing to ``send`` means an empty datagram.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from l4ipd.checks import errors, routes
from l4ipd.checks.expect import DIALOG, LIMIT, got
from l4ipd.checks.recipe import OPEN, REFUSED, Recipe
from l4ipd.checks.socket_pool import FAMILIES, NONBLOCK, TELL_ERRORS, Socket, bind, met_itself
from l4ipd.checks.verdict import Verdict, local
from l4ipd.runtime.errno_words import words
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import READ, Loop

KIND = socket.SOCK_DGRAM | NONBLOCK | getattr(socket, "SOCK_CLOEXEC", 0)
ANSWERED = Verdict("L4OK", "answered")
MATCHED = Verdict("L7OK", "answered as expected")
SILENT = Verdict("L4OK", "no refusal")
NOT_REFUSED = Verdict("L4TOUT", "no refusal: it is open, filtered, or there is no such machine")


class Datagram:
    """``done(verdict)`` is called once, possibly before the constructor returns, unless :meth:`cancel` came first."""

    __slots__ = ("_loop", "_recipe", "_done", "_socket", "_fd", "_last", "_total")

    def __init__(self, loop: Loop, recipe: Recipe, done: Callable[[Verdict], object]) -> None:
        self._loop, self._recipe, self._done = loop, recipe, done
        self._last = b""                            # the last datagram that did not match
        self._total = 0                             # bytes of all of them
        try:
            self._socket = Socket(FAMILIES[recipe.method.inet6], KIND)
            if recipe.method.source is not None:
                bind(self._socket, recipe.method.source)
        except OSError as error:
            self._fd = -1
            done(errors.no_socket(error.errno or 0, recipe.method.source))
            return
        self._fd = self._socket.fileno()
        self._socket.setblocking(False)
        if TELL_ERRORS:
            self._socket.setsockopt(*TELL_ERRORS[recipe.method.inet6], 1)
        failure = self._socket.connect_ex((recipe.address, recipe.port))
        if failure:
            self._failed(failure, routes.at_once(failure, "connect", recipe.address))
            return
        if met_itself(self._socket):
            self._failed(errno.ECONNREFUSED, errors.later(errno.ECONNREFUSED))       # nobody has it, then
            return
        try:
            self._socket.send(recipe.steps[0].send)
        except OSError as error:
            self._failed(error.errno or 0, routes.at_once(error.errno or 0, "send", recipe.address))
            return
        try:
            loop.watch(self._fd, READ, self._receive)
        except OSError as error:                    # Linux: fs.epoll.max_user_watches
            self._finish(local(f"watch: {words(error.errno or 0)}"))

    def expire(self) -> None:
        if self._fd < 0:
            return
        if self._recipe.method.closed:
            self._finish(NOT_REFUSED)
        elif self._recipe.steps[0].expect is None:
            self._finish(SILENT)
        else:
            self._finish(Verdict("L7RSP" if self._last else "L7TOUT", got(self._last)))

    def cancel(self) -> None:
        if self._fd >= 0:
            self._close()

    def raised(self) -> None:
        """We have raised: our own trouble, whatever the member said."""
        if self._fd >= 0:
            self._finish(local(INTERNAL))

    def _receive(self) -> None:
        """Take all that has come: it beats a deadline that passes now."""
        while self._fd >= 0:
            try:
                data = self._socket.recv(LIMIT)
            except BlockingIOError:
                return
            except OSError as error:
                self._failed(error.errno or 0, errors.later(error.errno or 0))
                return
            self._judge(data)

    def _judge(self, data: bytes) -> None:
        expect = self._recipe.steps[0].expect
        if self._recipe.method.closed:
            self._finish(OPEN)
        elif expect is None:
            self._finish(ANSWERED)
        elif (verdict := expect(data, False)) is not None and (verdict.passed or verdict.code == "L7STS"):
            self._finish(MATCHED if verdict is DIALOG else verdict)
        else:
            self._last = data
            self._total += len(data) + 1            # an empty datagram is not for free
            if self._total > LIMIT:
                self._finish(expect.reader(b"").overlong(data))

    def _failed(self, failure: int, verdict: Verdict) -> None:
        refused = self._recipe.method.closed and failure == errno.ECONNREFUSED
        self._finish(REFUSED if refused else verdict)

    def _finish(self, verdict: Verdict) -> None:
        self._close()
        self._done(verdict)

    def _close(self) -> None:
        self._loop.closing(self._fd)
        self._fd = -1
        self._socket.close()
