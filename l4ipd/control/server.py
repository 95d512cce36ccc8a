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
import errno
import grp
import json
import logging
import os
import socket
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from l4ipd.control import peers
from l4ipd.runtime import directories
from l4ipd.runtime.internal_errors import INTERNAL
from l4ipd.runtime.loop import READ, WRITE, Loop, Timed

CLIENTS = 20                                        # connections at once
BACKLOG = 64                                        # those that wait to be accepted
REQUEST_LIMIT = 32768                               # bytes of a request: a thousand names, say
BUFFER_LIMIT = 1 << 20                              # bytes that wait for one slow reader
PIECE = 16384                                       # bytes that are produced and sent in one go
REQUEST_TIME, READER_TIME = 10.0, 30.0              # seconds: for a request to come, for a reader to take something
SIGN_OF_LIFE = 10.0                                 # seconds of silence until an empty line is sent
AGAIN = 10.0                                        # seconds until a socket that could not be had is tried again
PAUSE = 1.0                                         # seconds without accepting, when there are no descriptors left
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


class Unusable(Exception):
    """There can be no socket at that path; says why, and what to do."""


class Client:
    """One client. A command gets it with the request, and answers now or later, until :meth:`end`."""

    def __init__(self, control: Control, connection: socket.socket, user: int | None) -> None:
        self.control, self.loop, self.connection = control, control.loop, connection
        self.user = user                            # None: not known
        self.asked = False                          # its request is complete
        self.ending = False                         # nothing follows what is in the buffer
        self.over = False
        self.left: Callable[[], object] = _nothing  # called once when it is over, whoever ended it
        self.lasting = False                        # an answer without end: hanging up ends it
        self._fd = connection.fileno()
        self._input = bytearray()
        self._output = bytearray()
        self._source: Iterator[Answer] | None = None
        self._listening = True
        self._writing = False                       # there is something for it to take
        self.slot: list[Timed] | None = None        # it is its own timer: see fire
        self.loop.watch(self._fd, READ, self._ready)
        self.loop.set(self, self.loop.now + REQUEST_TIME)

    # -- for commands

    def send(self, answer: Answer) -> None:
        """Add one line. A reader who has let too much pile up gets a last one instead."""
        if self.ending or self.over:
            return
        self._output += _line(answer)
        if len(self._output) > BUFFER_LIMIT:
            self.end(1, error=["this reader is too slow: events were lost, so that this is the end"])
        self._await()

    def answer(self, answers: Iterator[Answer]) -> None:
        """Send all of ``answers``, no faster than they are read. The last one has to be an :func:`end`."""
        self._source = answers
        self._await()

    def greet(self) -> None:
        """Say that the request has arrived, with an empty line."""
        self._output += b"\n"
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
            self._output += _line(end(exit, **more))
            self.ending = True
            self._await()

    def close(self) -> None:
        """Hang up."""
        if self.over:
            return
        self.over = True
        self.loop.clear(self)
        self.loop.closing(self._fd)
        self.connection.close()
        self._source = None
        self._output.clear()
        self.control.clients.pop(self, None)
        left, self.left = self.left, _nothing
        left()

    def farewell(self, line: str, exit: int = 3) -> None:
        """End it here and now, with what can be sent without waiting."""
        if not self.over:
            self.end(exit, error=[line])
            with contextlib.suppress(OSError):
                self.connection.send(self._output)
            self.close()

    def raised(self) -> None:
        """Something of ours has raised: it cannot go on."""
        try:
            self.farewell(FAILED, 1)
        finally:
            self.close()

    # -- from the loop

    def _ready(self) -> None:
        if self._listening:
            self._read()
        if not self.over:
            self._write()

    def _await(self) -> None:
        """Watch what matters at present, and give it its time."""
        if self.over:
            return
        writing = bool(self._output or self._source)
        events = (READ if self._listening else 0) | (WRITE if writing else 0)
        if events:
            self.loop.watch(self._fd, events, self._ready)
        else:
            self.loop.unwatch(self._fd)
        if (self.asked or self.ending) and (writing != self._writing or self.slot is None):
            self.loop.move(self, self.loop.now + (READER_TIME if writing else SIGN_OF_LIFE))
        self._writing = writing

    def fire(self) -> None:
        """It is too slow, or has been silent for long."""
        if not self.asked and not self.ending:
            self.end(2, error=[f"no request within {REQUEST_TIME:.0f} s"])
        elif self._output or self._source:
            log.info("control: a client took nothing for %.0f s: hung up on", READER_TIME)
            self.close()
        else:
            self._output += b"\n"
            self._await()

    def _read(self) -> None:
        try:
            data = self.connection.recv(REQUEST_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            self._hung_up()
        elif self.asked or self.ending:
            if data.strip():
                self.close()                        # it was to listen
        else:
            self._input += data
            if b"\n" in data or len(self._input) > REQUEST_LIMIT:
                self._parse()

    def _hung_up(self) -> None:
        """The client sends no more: it may only have closed its sending half, and still wait for the answer."""
        if self.lasting or not self.asked:
            self.close()
        else:
            self._listening = False
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
            self.loop.clear(self)
            self.control.perform(self, bytes(line))
            self._await()

    def _write(self) -> None:
        """One piece."""
        try:
            while self._source is not None and len(self._output) < PIECE:
                self._produce()
            if self._output:
                sent = self.connection.send(self._output[:PIECE])
                del self._output[:sent]
                self.loop.clear(self)               # it takes something: its time begins anew
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if self.ending and not self._output and self._source is None:
            self.close()
        else:
            self._await()

    def _produce(self) -> None:
        assert self._source is not None
        try:
            answer = next(self._source, None)
            line = b"" if answer is None else _line(answer)
        except Exception:
            self.loop.errors.note("the rest of an answer to l4ipctl")
            answer = end(1, error=[FAILED])
            line = _line(answer)
        self._output += line
        if answer is None or "end" in answer:
            self._source = None
            self.ending = True


Handlers = Mapping[str, Callable[[Client, Request], object]]


class Control:
    """The listening socket, and its clients. ``commands`` are called with a client and the request.

    A command may raise :class:`Refusal`. At most ``clients`` are served at a time. The socket is at ``path`` from
    :meth:`open` to :meth:`close`.
    """

    def __init__(self, loop: Loop, path: str, group: str | None, commands: Handlers, clients: int = CLIENTS) -> None:
        self.loop, self.path, self.group, self.commands, self.most = loop, path, group, commands, clients
        self.clients: dict[Client, None] = {}       # in the order in which they came
        self._socket: socket.socket | None = None
        self._made: os.stat_result | None = None
        self.slot: list[Timed] | None = None        # it is its own timer: see fire

    def open(self) -> None:
        """Raises :class:`Unusable`."""
        self._socket = listen(self.path, self.group)
        try:
            self._made = os.stat(self.path)
            self._listen()
        except OSError as error:
            self.retire()
            raise Unusable(f"{self.path}: {error.strerror or error}: l4ipctl cannot reach this l4ipd") from None

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
            client.farewell("l4ipd is stopping")
        self.retire()

    def retire(self) -> None:
        """Remove the socket; who is being served still gets his answer."""
        self.loop.clear(self)
        if self._socket is not None:
            self.loop.closing(self._socket.fileno())
            if self.reachable:
                with contextlib.suppress(OSError):
                    os.unlink(self.path)
            self._socket.close()
            self._socket = self._made = None

    def raised(self) -> None:
        """To accept a client, or to listen again, has raised: another socket takes the place of this one."""
        self.retire()
        try:
            self.open()
        except Unusable as problem:
            log.error("control socket: %s; trying again", problem)
            self.loop.set(self, self.loop.now + AGAIN)

    def fire(self) -> None:
        """Try again: to accept clients, or to have a socket at all."""
        if self._socket is not None:
            self._listen()
        else:
            self.raised()

    # -- clients

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
            log.warning("control: a client cannot be served: %s", error.strerror)
            self.loop.unwatch(self._socket.fileno())
            self.loop.set(self, self.loop.now + PAUSE)
            return
        try:
            self._take_in(connection)
        except Exception:                           # whoever keeps the traceback would keep the connection
            connection.close()
            raise

    def _take_in(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        user = peers.user_of(connection)
        rivals = self._rivals(user)
        if rivals is not None and not self._make_room(rivals):
            yours = not peers.trusted(user) and all(client.user == user for client in rivals)
            words = CROWDED_BY_YOU if yours else CROWDED
            with contextlib.suppress(OSError), connection:
                connection.send(_line(end(3, error=[words % len(rivals)])))
            return
        self.clients[Client(self, connection, user)] = None

    def _rivals(self, user: int | None) -> list[Client] | None:
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

    def _make_room(self, rivals: Iterable[Client]) -> bool:
        """Hang up on whoever of them has been silent the longest."""
        for client in rivals:
            if not client.asked:
                client.farewell(CROWDED % self.most)
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


def listen(path: str, group: str | None) -> socket.socket:
    """A socket at ``path`` that only we, and ``group`` if there is one, can connect to. Raises :class:`Unusable`."""
    make_way(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    umask = os.umask(0o177)                         # never open to others, not even for a moment
    try:
        listener.bind(path)
    except OSError as error:
        listener.close()
        raise Unusable(f"{path}: {error.strerror or error}: l4ipctl cannot reach this l4ipd") from None
    finally:
        os.umask(umask)
    if group is not None:
        _share(path, group)
    listener.listen(BACKLOG)
    return listener


def make_way(path: str) -> None:
    """Remove the socket of a daemon that has died. Raises :class:`Unusable` for anything else at ``path``."""
    try:
        directories.make(os.path.dirname(path), 0o755)
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise Unusable(f"{path}: is there, and is no socket: remove it, or name another in control")
        if is_served(path):
            raise Unusable(f"{path}: another program listens there, probably another l4ipd: stop it, or name another "
                           "path in control")
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Unusable(f"{path}: {error.strerror or error}: l4ipctl cannot reach this l4ipd") from None


def is_served(path: str) -> bool:
    """Whether somebody listens at ``path``; if we are not let in, it is at least not ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        return probe.connect_ex(path) in (0, errno.EAGAIN, errno.EINPROGRESS, errno.EACCES, errno.EPROTOTYPE)


def _share(path: str, group: str) -> None:
    """Let a group in; if that cannot be done, the socket stays ours alone."""
    try:
        os.chown(path, -1, grp.getgrnam(group).gr_gid)
        os.chmod(path, 0o660)
    except KeyError:
        log.error("control: there is no group %s: only root can use %s", group, path)
    except OSError as error:
        log.error("control: %s cannot be given to group %s: %s", path, group, error.strerror)


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
