"""A small HTTP/1.1 server on the loop: GET and HEAD, one request a connection. It knows nothing of what it serves.

::

    READING --request or garbage--> ANSWERING --all sent--> DRAINING --end of file--> closed
       any of them: too slow, or the connection breaks --> closed

Bounded in every direction: the head of a request, connections, time, and what is buffered for a slow reader, in the
kernel too. An answer is produced piece by piece, and only one piece of one answer a tick, and not more than half of the
time: whoever asks, and however often, the loop never stands for longer than a piece takes. What the words of HTTP mean
is left to h11.
"""

from __future__ import annotations

import logging
import re
import socket
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

import h11

from l4ipd.runtime.loop import Loop, Timer
from l4ipd.runtime.stream_server import Connection, Listener

HEAD_LIMIT = 8192                                   # bytes of a request
CLIENTS = 16                                        # connections at once
REQUEST_TIME, ANSWER_TIME, DRAIN_TIME = 5.0, 30.0, 1.0      # seconds
PIECE = 32768                                       # bytes that are produced and buffered ahead of the reader
SLICE = 0.005                                       # seconds that producing them may take
LEVEL = 2                                           # of gzip: 4 is a third slower, and saves a tenth
PLAIN = "text/plain; charset=utf-8"
log = logging.getLogger("l4ipd.http")


@dataclass(frozen=True)
class Request:
    """A GET, or a HEAD whose answer will lose its body."""

    path: str
    query: Mapping[str, Sequence[str]]              # every value that each name has
    host: str


@dataclass(frozen=True)
class Answer:
    """What goes back. A body of bytes is sent with its length, anything else as it is produced."""

    status: int
    body: bytes | Iterable[bytes]
    kind: str = PLAIN
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Later:
    """An answer that is not known yet. ``begin(go_on)`` is called at once; whoever has what is missing calls ``go_on``,
    and then ``make`` gives the answer.
    """

    begin: Callable[[Callable[[], None]], object]
    make: Callable[[], Answer]


class Server:
    """Listens, and hands requests to ``handler``. Raises OSError if it cannot listen. All answers get ``headers``."""

    def __init__(self, loop: Loop, address: str, port: int, handler: Callable[[Request], Answer | Later],
                 headers: Mapping[str, str] | None = None, clients: int | None = None) -> None:
        self.loop, self.handler, self.headers = loop, handler, headers or {}
        self._most = min(CLIENTS, clients or CLIENTS)
        self.clients: dict[Client, None] = {}       # the oldest first
        self._queue: deque[Client] = deque()        # who wants its next piece
        self._turn = Timer(self._produce)
        self._address, self.port = address, port    # where we listen, also if port 0 was asked for
        self._listener = Listener(loop, "http", self._bind_again, self._take_in)
        self._listener.open(self._bind())

    def close(self) -> None:
        """Stop listening, and let everybody go."""
        self.loop.drop(self._turn)
        self._listener.close()
        for client in list(self.clients):
            client.close()

    def raised(self) -> None:
        """Whose turn it was has been hung up on: it is the next one's."""
        if self._queue:
            self.loop.set(self._turn, self.loop.now)

    def _bind(self) -> socket.socket:
        listener = socket.socket(socket.AF_INET6 if ":" in self._address else socket.AF_INET)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * PIECE)     # what accept gives has it too
            listener.bind((self._address, self.port))
            listener.listen(4 * CLIENTS)
        except OSError:
            listener.close()
            raise
        self.port = int(listener.getsockname()[1])
        return listener

    def _bind_again(self) -> socket.socket | None:
        try:
            return self._bind()
        except OSError as error:
            log.error("http: cannot listen any more: %s; trying again", error.strerror)
            return None

    def wanting(self, client: Client) -> None:
        """Let ``client`` have its next piece when its turn comes."""
        self._queue.append(client)
        if not self._turn.is_set:
            self.loop.set(self._turn, self.loop.now)

    def _produce(self) -> None:
        client = self._queue.popleft()
        begun = self.loop.clock()
        if client in self.clients and not self.loop.errors.shield("an answer by http", client.produce, begun + SLICE):
            client.close()
        if self._queue:
            now = self.loop.clock()
            self.loop.set(self._turn, now + (now - begun))

    def _take_in(self, connection: socket.socket) -> None:
        if len(self.clients) >= self._most:
            self._make_place()
        self.clients[Client(self, connection)] = None

    def _make_place(self) -> None:
        """Let one go: who has got everything, else who ponders over a request, else who reads slowly; the oldest."""
        min(self.clients, key=lambda client: client.stage).close()


DRAINING, READING, ANSWERING = range(3)             # stages, in the order in which they are given up


class Client:
    """One connection."""

    def __init__(self, server: Server, connection: socket.socket) -> None:
        self.server, self.loop = server, server.loop
        self.stage = READING
        self._head_only = self._gzip = False
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT)
        self._body: Iterator[bytes] | None = None   # what is still to be produced
        self._connection = Connection(self.loop, connection, self, HEAD_LIMIT, PIECE)
        self._connection.limit(REQUEST_TIME)

    def close(self) -> None:
        self._connection.close()

    expired = raised = close                        # no more can be said that would be understood

    def closed(self) -> None:
        self.server.clients.pop(self, None)

    # -- the request

    def received(self, data: bytes) -> None:
        if not data:
            self.close()
        elif self.stage == READING:
            self._parse(data)

    def _parse(self, data: bytes) -> None:
        try:
            self._http.receive_data(data)
            event = self._http.next_event()
            if event is h11.NEED_DATA:
                return
            assert isinstance(event, h11.Request)
            answer = self._answer_to(event)
            if isinstance(answer, Later):
                self._wait(answer)
                return
        except h11.RemoteProtocolError as error:
            answer = Answer(error.error_status_hint, f"bad request: {error}\n".encode())
        self._begin(answer)

    def _answer_to(self, event: h11.Request) -> Answer | Later:
        self._head_only = event.method == b"HEAD"
        if not event.http_version.startswith(b"1."):    # RFC 9110, 15.6.6: another major version
            return Answer(505, b"only HTTP/1.1 and HTTP/1.0 are known here\n")
        if {b"transfer-encoding", b"content-length"} <= {name for name, _ in event.headers}:    # RFC 9112, 6.1
            return Answer(400, b"bad request: both Transfer-Encoding and Content-Length\n")
        if event.method not in (b"GET", b"HEAD"):
            return Answer(405, b"only GET and HEAD are known here: nothing can be changed\n",
                          headers={"Allow": "GET, HEAD"})
        self._gzip = accepts_gzip(b",".join(value for name, value in event.headers if name == b"accept-encoding"))
        host = next((value.decode("latin-1") for name, value in event.headers if name == b"host"), "")
        try:
            parts = urlsplit(event.target.decode("latin-1"))
            query = parse_qs(parts.query, keep_blank_values=True, max_num_fields=20)
        except ValueError:
            return Answer(400, b"bad request: the address is not understood\n")
        try:
            return self.server.handler(Request(parts.path, query, host))
        except Exception:
            return self._broken()

    def _broken(self) -> Answer:
        self.loop.errors.note("the answer to a request by http")
        return Answer(500, b"internal error, see the log\n")

    def _wait(self, later: Later) -> None:
        """Hear no more; who hangs up meanwhile is noticed when the answer is sent."""
        self._stop_listening()
        try:
            later.begin(lambda: self._go_on(later))
        except Exception:
            self._begin(self._broken())

    def _go_on(self, later: Later) -> None:
        if self in self.server.clients and self._body is None:
            try:
                answer = later.make()
            except Exception:
                answer = self._broken()
            self._begin(answer)

    # -- the answer

    def _stop_listening(self) -> None:
        self.stage = ANSWERING
        self._connection.listen(False)
        self._connection.limit(ANSWER_TIME)

    def _begin(self, answer: Answer) -> None:
        self._stop_listening()
        headers = {"Content-Type": answer.kind, "Connection": "close", **self.server.headers, **answer.headers}
        if isinstance(answer.body, bytes):
            headers["Content-Length"] = str(len(answer.body))
        body: Iterable[bytes] = (answer.body,) if isinstance(answer.body, bytes) else answer.body
        if not isinstance(answer.body, bytes):
            headers["Vary"] = "Accept-Encoding"
            if self._gzip:
                headers["Content-Encoding"] = "gzip"
                body = compressed(body)
        self._say(h11.Response(status_code=answer.status, headers=list(headers.items()),
                               reason=HTTPStatus(answer.status).phrase.encode()))
        self._body = iter(() if self._head_only else body)
        self.server.wanting(self)

    def produce(self, until: float) -> None:
        """Take pieces of the body until there are enough to send, or it is late."""
        pieces, size = [], 0
        assert self._body is not None
        try:
            for piece in self._body:
                pieces.append(piece)
                size += len(piece)
                if size >= PIECE or self.loop.clock() >= until:
                    break
            else:
                self._body = None
        except Exception:                           # the head is gone: all we can do is to cut the answer short
            self.loop.errors.note("the rest of an answer by http")
            self.close()
            return
        if size:
            self._say(h11.Data(data=b"".join(pieces)))
        elif self._body is not None:                # all of it is in the compressor yet
            self.server.wanting(self)
            return
        if self._body is None:
            self._say(h11.EndOfMessage())
        self._connection.flush()

    def _say(self, event: h11.Response | h11.Data | h11.EndOfMessage) -> None:
        self._connection.send(self._http.send(event) or b"")

    def sent(self) -> None:
        """Some of it; then the next piece, or that this is all."""
        self._connection.watch()
        if self._connection.waiting:
            return
        if self._body is not None:
            self.server.wanting(self)
        else:
            self._drain()

    def _drain(self) -> None:
        """Say that this is all, and hear the client out: closing on unread data would destroy what it has not read."""
        if self._connection.end_sending():
            self.stage = DRAINING
            self._connection.limit(DRAIN_TIME)
            self._connection.listen(True)


def accepts_gzip(header: bytes) -> bool:
    """Whether gzip is among the codings of an Accept-Encoding (RFC 9110, 12.5.3), and not with a weight of 0."""
    for each in header.lower().split(b","):
        coding, *parameters = (part.strip() for part in each.split(b";"))
        if coding in (b"gzip", b"x-gzip", b"*"):
            return not any(re.fullmatch(rb"q\s*=\s*0(\.0*)?", part) for part in parameters)
    return False


def compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same in gzip; a piece may be empty."""
    squeeze = zlib.compressobj(LEVEL, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    for piece in pieces:
        yield squeeze.compress(piece)
    yield squeeze.flush()
