"""The socket that l4ipctl talks to. It knows nothing of what its commands do.

The protocol: a client connects, sends one request, a JSON object on a line, and gets JSON objects, a line each. The
last one has ``"end": true`` and ``exit``, the exit status for l4ipctl; then the connection is closed. Empty lines in
between only say that we are still here. One request a connection; whoever sends more is hung up on.

::

    WAITING --a line--> ANSWERING --end--> ENDING --all is sent--> closed
        any of them: too slow, too long, too rude, or hung up --> closed

Bounded in every direction: clients, of each user and together, the length of a request, what is buffered for a slow
reader, and time. Long answers are produced only as fast as they are read. The socket belongs to us alone (mode 0600)
from its first moment.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from l4ipd.control import peers, socket_file
from l4ipd.control.socket_file import Unusable
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import Loop
from l4ipd.runtime.stream_server import Connection, Listener

CLIENTS = 20                                        # connections at once
REQUEST_LIMIT = 32768                               # bytes of a request: a thousand names, say
BUFFER_LIMIT = 1 << 20                              # bytes that wait for one slow reader
PIECE = 16384                                       # bytes that are read, produced and sent in one go
REQUEST_TIME, READER_TIME = 10.0, 30.0              # seconds: for a request to come, for a reader to take something
SIGN_OF_LIFE = 10.0                                 # seconds of silence until an empty line is sent
CROWDED = "%d clients are being served already: try again"
CROWDED_BY_YOU = "%d clients of yours are being served already: end one, or try again"
FAILED = f"{INTERNAL} of l4ipd"
Answer = Mapping[str, object]
Request = dict[str, Any]
log = logging.getLogger("l4ipd.control")


class Refusal(Exception):
    """A command cannot be carried out: each argument is a line that says why."""

    def __init__(self, *lines: str, exit: int = 2) -> None:
        super().__init__("\n".join(lines))
        self.lines, self.exit = lines, exit


class Client:
    """One client. A command gets it with the request, and answers now or later, until :meth:`end`."""

    def __init__(self, control: Control, connection: socket.socket, user: int | None) -> None:
        self.control, self.loop = control, control.loop
        self.user = user                            # None: not known
        self.asked = False                          # its request is complete
        self.ending = False                         # nothing follows what waits to be sent
        self.left: Callable[[], object] = _nothing  # called once when it is over, whoever ended it
        self.lasting = False                        # an answer without end: hanging up ends it
        self._input = bytearray()
        self._source: Iterator[Answer] | None = None
        self._then: Callable[[], object] | None = None
        self._writing = False                       # there is something for it to take
        self._connection = Connection(self.loop, connection, self, PIECE, PIECE)
        self._connection.limit(REQUEST_TIME)

    @property
    def over(self) -> bool:
        return self._connection.over

    # -- for commands

    def send(self, answer: Answer) -> None:
        """Add one line. A reader who has let too much pile up gets a last one instead."""
        if self.ending or self.over:
            return
        self._connection.send(_line(answer))
        if self._connection.waiting > BUFFER_LIMIT:
            self.end(1, error=["this reader is too slow: events were lost, so that this is the end"])
        self._await()

    def answer(self, answers: Iterator[Answer], then: Callable[[], object] | None = None) -> None:
        """Send all of ``answers``, no faster than they are read. The last one has to be an :func:`end`; or there is
        none, and ``then()`` is called, which goes on.
        """
        if not self.over:
            self._source, self._then = answers, then
            self._produce()
            self._await()

    def acknowledge(self) -> None:
        """Say that the request has arrived, with an empty line."""
        self._connection.send(b"\n")
        self._await()

    def later(self, call: Callable[..., object]) -> Callable[..., None]:
        """What is to be called when an answer is known. If it raises, that is the answer."""
        def answer(*words: object) -> None:
            if not self.loop.errors.shield("the answer to a command of l4ipctl", call, *words):
                self.raised()

        return answer

    def end(self, exit: int = 0, **more: object) -> None:
        """The last line."""
        if not self.ending and not self.over:
            self._connection.send(_line(end(exit, **more)))
            self.ending = True
            self._await()

    def end_now(self, line: str, exit: int = 3) -> None:
        """End it here and now, with what can be sent without waiting."""
        last = b"" if self.ending else _line(end(exit, error=[line]))
        self.ending = True
        self._connection.close_with(last)

    def raised(self) -> None:
        """Something of ours has raised: it cannot go on."""
        try:
            self.end_now(FAILED, 1)
        finally:
            self._connection.close()

    # -- from the connection

    def received(self, data: bytes) -> None:
        if not data:
            self._hung_up()
        elif self.asked or self.ending:
            if data.strip():
                self._connection.close()            # it was to listen
        else:
            self._input += data
            if b"\n" in data or len(self._input) > REQUEST_LIMIT:
                self._parse()
        if self._connection.waiting:
            self._connection.flush()                # at once: a client that goes on sending is hung up on

    def sent(self) -> None:
        """It takes something: its time begins anew."""
        self._connection.unlimited()
        self._produce()
        if self.ending and not self._connection.waiting:
            self._connection.close()
        else:
            self._await()

    def expired(self) -> None:
        """It is too slow, or has been silent for long."""
        if not self.asked and not self.ending:
            self.end(2, error=[f"no request within {REQUEST_TIME:.0f} s"])
        elif self._connection.waiting:
            log.info("control: a client took nothing for %.0f s: hung up on", READER_TIME)
            self._connection.close()
        else:
            self.acknowledge()

    def closed(self) -> None:
        self._source = self._then = None
        self.control.clients.pop(self, None)
        left, self.left = self.left, _nothing
        left()

    def _await(self) -> None:
        """Watch what matters at present, and give it its time."""
        if self.over:
            return
        self._connection.watch()
        writing = bool(self._connection.waiting)
        if (self.asked or self.ending) and (writing != self._writing or not self._connection.is_limited):
            self._connection.limit(READER_TIME if writing else SIGN_OF_LIFE)
        self._writing = writing

    def _hung_up(self) -> None:
        """The client sends no more: it may only have closed its sending half, and still wait for the answer."""
        if self.lasting or not self.asked:
            self._connection.close()
        else:
            self._connection.listen(False)
            self._await()

    def _parse(self) -> None:
        line, newline, rest = self._input.partition(b"\n")
        if len(line) > REQUEST_LIMIT:
            self.end(2, error=[f"the request is longer than {REQUEST_LIMIT} bytes"])
        elif rest.strip():
            self.end(2, error=["one request a connection"])
        elif newline:
            self._input.clear()
            self.asked = True
            self._connection.unlimited()
            self.control.perform(self, bytes(line))
            self._await()

    def _produce(self) -> None:
        """Lines of the answer, until a piece of it waits to be sent."""
        while self._source is not None and self._connection.waiting < PIECE:
            try:
                answer = next(self._source, None)
                line = b"" if answer is None else _line(answer)
            except Exception:
                self.loop.errors.note("the rest of an answer to l4ipctl")
                answer = end(1, error=[FAILED])
                line = _line(answer)
            self._connection.send(line)
            if answer is None or "end" in answer:
                then, self._source, self._then = self._then, None, None
                self.ending = answer is not None or then is None
                if then is not None and answer is None:
                    self.later(then)()


Handlers = Mapping[str, Callable[[Client, Request], object]]


class Control:
    """The listening socket, and its clients. ``commands`` are called with a client and the request.

    A command may raise :class:`Refusal`. At most ``clients`` are served at a time. The socket is at ``path`` from
    :meth:`open` to :meth:`close`.
    """

    def __init__(self, loop: Loop, path: str, group: str | None, commands: Handlers, clients: int = CLIENTS) -> None:
        self.loop, self.path, self.group, self.commands, self.most = loop, path, group, commands, clients
        self.clients: dict[Client, None] = {}       # in the order in which they came
        self._listener = Listener(loop, "control", self._bind_again, self._take_in)
        self._made: os.stat_result | None = None

    def open(self) -> None:
        """Raises :class:`Unusable`."""
        listener = self._bind()
        try:
            self._listener.open(listener)
        except OSError as error:
            self.retire()
            raise Unusable(f"{self.path}: {error.strerror or error}: name another path in control") from None

    def _bind(self) -> socket.socket:
        self._made = None
        listener = socket_file.listen(self.path, self.group)
        try:
            self._made = os.stat(self.path)
        except OSError as error:                    # somebody has removed it already
            listener.close()
            raise Unusable(f"{self.path}: {error.strerror or error}: name another path in control") from None
        return listener

    def _bind_again(self) -> socket.socket | None:
        try:
            return self._bind()
        except Unusable as problem:
            log.error("control socket: %s; trying again", problem)
            return None

    @property
    def reachable(self) -> bool:
        """Whether the socket at the path is ours: others may have removed or replaced it."""
        try:
            return self._made is not None and os.path.samestat(self._made, os.stat(self.path))
        except OSError:
            return False

    def close(self) -> None:
        """Remove the socket, and hang up on everybody."""
        for client in list(self.clients):
            client.end_now("l4ipd is stopping")
        self.retire()

    def retire(self) -> None:
        """Remove the socket; who is being served still gets his answer."""
        if self.reachable:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        self._made = None
        self._listener.close()

    # -- clients

    def _take_in(self, connection: socket.socket) -> None:
        user = peers.user_of(connection)
        competing = self._competing(user)
        if competing is not None and not self._make_place(competing):
            yours = not peers.trusted(user) and all(client.user == user for client in competing)
            words = CROWDED_BY_YOU if yours else CROWDED
            with contextlib.suppress(OSError), connection:
                connection.send(_line(end(3, error=[words % len(competing)])))
            return
        self.clients[Client(self, connection, user)] = None

    def _competing(self, user: int | None) -> list[Client] | None:
        """Who stands in the way of one more client of ``user``; None: there is a place."""
        everybody, places = list(self.clients), peers.quota(self.most)
        full = len(everybody) >= self.most
        if peers.trusted(user):
            return everybody if full else None
        own = [client for client in everybody if client.user == user]
        if len(own) >= places.each:
            return own
        others = [client for client in everybody if not peers.trusted(client.user)]
        return others if full or len(others) >= places.together else None

    def _make_place(self, competing: Iterable[Client]) -> bool:
        """Hang up on whoever of them has been silent the longest."""
        for client in competing:
            if not client.asked:
                client.end_now(CROWDED % self.most)
                return True
        return False

    def perform(self, client: Client, line: bytes) -> None:
        """Do what a request says."""
        try:
            request = _read_request(line)
            command = self.commands.get(str(request.get("command")))
            if command is None:
                raise Refusal(f"no such command: {str(request.get('command'))[:50]}; "
                              f"there are: {' '.join(sorted(self.commands))}")
            command(client, request)
        except Refusal as refusal:
            client.end(refusal.exit, error=list(refusal.lines))
        except Exception:
            self.loop.errors.note("the answer to a command of l4ipctl")
            client.raised()


def end(exit: int = 0, **more: object) -> Answer:
    """The last line of an answer."""
    return {"end": True, "exit": exit, **more}


def _read_request(line: bytes) -> Request:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise Refusal("a request is a JSON object on a line")
    return request


def _line(answer: Answer) -> bytes:
    return json.dumps(answer).encode() + b"\n"


def _nothing() -> None:
    """Nobody wants to know."""
