"""What decides on an answer: small frozen objects, called with all that one step has received so far.

``expect(data, eof)`` returns a verdict, or None for "more, please"; with ``eof`` it always decides. Nothing here ever
raises, whatever the member sends, and no byte of a member reaches the words of a verdict unless it is printable.

A probe has ``expect.reader(before)`` read, again and again while the data of one step grows: that is the expect itself
where reading anew is cheap, else something that remembers how far it has read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from l4ipd.checks.pattern import Pattern
from l4ipd.checks.verdict import Leave, Verdict
from l4ipd.model import among

if TYPE_CHECKING:
    import h11

LIMIT = 16 * 1024                                   # bytes that one step may receive without a decision
LATE = 100                                          # lines of an answer that may come after it was taken for complete
CONTINUED = re.compile(rb"[1-5][0-9][0-9]-")        # how a line begins that is not the last one of its answer
EXCERPT = 80                                        # characters of an answer that a verdict may show
DIALOG = Verdict("L7OK", "dialog complete")
UNFINISHED = Verdict("L7RSP", "connection closed before the end of the answer")
HEADERS = [("Host", "-"), ("Connection", "close")]  # of a request that nobody sees but h11, which wants to know of one
Ranges = tuple[tuple[int, int], ...]


class Expect(Protocol):
    """What a recipe holds."""

    def __call__(self, data: bytes, eof: bool) -> Verdict | None: ...

    def reader(self, before: bytes) -> Reader:
        """What reads one answer; ``before`` is what was received, and not read by others, before it."""


class Reader(Protocol):
    """What a probe asks. ``data`` is always all that has arrived in this step."""

    @property
    def where(self) -> str:
        """``step 2: ``, or nothing: what a verdict begins with."""

    def read(self, data: bytes, eof: bool) -> Verdict | None: ...

    def rest(self, data: bytes) -> bytes:
        """What of ``data`` comes after the answer that passed: the next step may want it."""

    def expired(self, data: bytes) -> Verdict:
        """The verdict when the time is up."""

    def overlong(self, data: bytes) -> Verdict:
        """The verdict when there are more than LIMIT bytes."""


@dataclass(frozen=True, slots=True)
class Match:
    """An ``expect`` step of a dialog, and the ``reject`` steps in front of it.

    Whichever pattern is complete first decides, a ``reject`` in case of doubt. Without an ``expect`` the step passes
    when the member closes, falls silent until the timeout, or has sent LIMIT bytes. An anchored pattern fails at the
    end of the first line that it cannot match. Only a late rest of the last answer is passed over: the end of a line
    that was unfinished when the last step was through, and lines that the last step's anchored pattern matches too; if
    the last answer had begun with a line like ``250-``, all up to the line that begins with ``250`` and a blank (RFC
    5321, 4.2.1; RFC 959, 4.2).
    """

    number: int                                     # of the step in the dialog, from 1; 0: not part of a dialog
    pattern: Pattern | None
    rejects: tuple[tuple[int, Pattern], ...] = ()
    last: Pattern | None = None                     # the pattern of the expect before this one
    answers: bool = False                           # something was sent after that one
    before: bytes = b""                             # the last answer, as far as it was read

    def read(self, data: bytes, eof: bool) -> Verdict | None:
        starts = self._starts(data) if data else []
        some = bool(data) or not self.number        # an empty datagram is an answer, too
        end = _find(self.pattern, data, starts) if some else -1
        for number, reject in self.rejects if some else ():
            hit = _find(reject, data, starts)
            if hit >= 0 and (end < 0 or hit <= end):
                return Verdict("L7RSP", f"step {number}: got {quoted(_line(data, hit))}")
        if end >= 0 or (eof and self.pattern is None):
            return DIALOG
        if eof:
            return Verdict("L7RSP", self.where + closed(data))
        return self._mismatch(data, starts)

    __call__ = read

    @property
    def where(self) -> str:
        return f"step {self.number}: " if self.number else ""

    def reader(self, before: bytes) -> Reader:
        return replace(self, before=before) if before else self

    def rest(self, data: bytes) -> bytes:
        return data[max(_find(self.pattern, data, self._starts(data)), 0):]

    def expired(self, data: bytes) -> Verdict:
        return DIALOG if self.pattern is None else Verdict("L7TOUT", self.where + got(data))

    def overlong(self, data: bytes) -> Verdict:
        if self.pattern is None:
            return DIALOG
        return Verdict("L7RSP", f"{self.where}more than 16 KiB without what was expected")

    def _starts(self, data: bytes) -> list[int]:
        """Where the answer to this step may begin."""
        last = self.last if self.last is not None and self.last.anchored else None
        owed = _owed(self.before, data) if last is not None and self.answers else b""
        if owed:
            end = re.search(rb"^%s(?: [^\n]*)?\r?\n" % owed, data, re.MULTILINE)
            return [end.end()] if end else []
        start, starts = 0, [0]
        if self.before and not self.before.endswith(b"\n"):
            start = data.find(b"\n") + 1
            if not start:
                return starts
            starts.append(start)
        while last is not None and len(starts) < LATE and last.search(data, start) >= 0:
            start = data.find(b"\n", start) + 1
            if not start:
                break
            starts.append(start)
        return starts

    def _mismatch(self, data: bytes, starts: list[int]) -> Verdict | None:
        if self.pattern is None or not starts:
            return None
        start = starts[-1]
        end = data.find(b"\n", start)
        if end < 0 or self._unread(data, start) or not self.pattern.hopeless(data, start):
            return None
        return Verdict("L7RSP", f"{self.where}got {quoted(data[start:end])}")

    def _unread(self, data: bytes, start: int) -> bool:
        """Whether the line at ``start`` may yet turn out to belong to the last answer."""
        return self.last is not None and self.last.anchored and len(data) - start < self.last.first


def _find(pattern: Pattern | None, data: bytes, starts: list[int]) -> int:
    """Where the first match ends; -1: there is none."""
    if pattern is None:
        return -1
    if not pattern.anchored:
        return pattern.search(data)
    return next((end for start in starts if (end := pattern.search(data, start)) >= 0), -1)


def _owed(before: bytes, data: bytes) -> bytes:
    """The code of an answer of several lines whose last line had not come when ``before`` had, if it was one."""
    code = b""
    for line in (before + data[:data.find(b"\n") + 1 if not before.endswith(b"\n") else 0]).splitlines():
        if not code and CONTINUED.match(line):
            code = line[:3]
        elif code and (line == code or line.startswith(code + b" ")):
            code = b""
    return code


STATUS = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9][0-9])(?=[ \r\n])")
LINE = b"HTTP/1.1 %3s "                             # how nearly all answers begin
SHORTEST = len(b"HTTP/1.1 200\n")                   # a status line, with the byte that ends the number
BLANK = re.compile(rb"\r?\n\r?\n")
INTERIM = frozenset(range(100, 200)) - {101}        # statuses that another one follows


@dataclass(frozen=True, slots=True)
class Status:
    """An HTTP answer, judged by its status line as soon as the number is there; interim answers (1xx) are skipped."""

    ranges: Ranges
    drain: Ranges = ()                              # by these, the member says that it wants to be left
    good: dict[bytes, Verdict] = field(init=False, compare=False, repr=False)      # what passes, by LINE
    where = ""

    def __post_init__(self) -> None:
        codes = {code for low, high in self.ranges for code in range(low, high + 1)} - INTERIM
        codes -= {code for code in codes if among(code, self.drain)}
        object.__setattr__(self, "good", {LINE % str(code).encode(): Verdict("L7OK", str(code)) for code in codes})

    def read(self, data: bytes, eof: bool) -> Verdict | None:
        verdict = self.good.get(data[:len(LINE)])   # nearly always
        if verdict is not None:
            return verdict
        start = 0
        while True:
            found = STATUS.match(data, start)
            if found is None:
                return _no_status(data[start:], eof)
            number = found[1]
            if LINE % number in self.good:
                return self.good[LINE % number]
            if int(number) not in INTERIM:
                break
            blank = BLANK.search(data, start)
            if blank is None:
                return _unfinished(data[start:], eof)
            start = blank.end()
        data = data[start:]
        if b"\n" in data or eof or len(data) > EXCERPT:
            kind = Leave if among(int(number), self.drain) else Verdict
            return kind("L7STS", printable(data[9:].partition(b"\n")[0]))
        return None

    __call__ = read

    def reader(self, before: bytes) -> Reader:
        return self

    def rest(self, data: bytes) -> bytes:
        return b""

    def expired(self, data: bytes) -> Verdict:
        return Verdict("L7TOUT", got(data))

    def overlong(self, data: bytes) -> Verdict:
        return Verdict("L7RSP", "more than 16 KiB without a final status line")


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP answer whose status must do and whose body must hold a pattern."""

    status: Status
    pattern: Pattern
    method: str = "GET"

    def __post_init__(self) -> None:
        import h11  # noqa: F401  # not before a body has to be read, but then before probes wait for it

    def __call__(self, data: bytes, eof: bool) -> Verdict | None:
        return self.reader(b"").read(data, eof)

    def reader(self, before: bytes) -> Reader:
        return PageReader(self)


class PageReader:
    """One answer on its way through h11, which knows where a body begins and ends."""

    __slots__ = ("_page", "_passed", "_h11", "_read", "_body")
    where = ""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._passed: Verdict | None = None         # the verdict on the status, once it is there
        import h11
        self._read = 0                              # bytes given to h11
        self._body = b""
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=LIMIT)
        self._h11.send(h11.Request(method=page.method, target="/", headers=HEADERS))
        self._h11.send(h11.EndOfMessage())

    def read(self, data: bytes, eof: bool) -> Verdict | None:
        if self._passed is None:
            verdict = self._page.status(data, eof)
            if verdict is None or not verdict.passed:
                return verdict
            self._passed = verdict
        import h11
        try:
            if self._read < len(data):
                self._h11.receive_data(data[self._read:])
                self._read = len(data)
            if eof:
                self._h11.receive_data(b"")
            return self._events(self._passed)
        except h11.RemoteProtocolError as error:
            return UNFINISHED if eof else Verdict("L7RSP", f"malformed answer: {printable(str(error).encode())}")

    def rest(self, data: bytes) -> bytes:
        return b""

    def expired(self, data: bytes) -> Verdict:
        if self._passed is None:
            return Verdict("L7TOUT", got(data))
        return Verdict("L7TOUT", f"{self._passed.text}, but no {quoted(self._page.pattern.text)} in the body so far")

    def overlong(self, data: bytes) -> Verdict:
        return Verdict("L7RSP", f"more than 16 KiB without {quoted(self._page.pattern.text)}")

    def _events(self, passed: Verdict) -> Verdict | None:
        import h11
        while True:
            event: h11.Event | type = self._h11.next_event()
            if isinstance(event, h11.Data):
                self._body += event.data
                if self._page.pattern.search(self._body) >= 0:
                    return passed
            elif isinstance(event, h11.EndOfMessage):
                if self._page.pattern.search(self._body) >= 0:      # an empty body, and a pattern that takes it
                    return passed
                return Verdict("L7RSP", f"{passed.text}, but no {quoted(self._page.pattern.text)} in the body")
            elif event in (h11.NEED_DATA, h11.PAUSED):
                return None
            elif isinstance(event, h11.ConnectionClosed):
                return UNFINISHED


def _no_status(data: bytes, eof: bool) -> Verdict | None:
    if len(data) >= SHORTEST or b"\n" in data:
        return Verdict("L7RSP", f"not HTTP: {quoted(data)}")
    return _unfinished(data, eof)


def _unfinished(data: bytes, eof: bool) -> Verdict | None:
    return Verdict("L7RSP", closed(data)) if eof else None


def closed(data: bytes) -> str:
    """Words for a connection that the member has closed too early."""
    return "connection closed" + (after(data) or " without an answer")


def after(data: bytes) -> str:
    """Words for what a member had said when the connection ended, if anything."""
    return f" after {len(data)} bytes: {quoted(data)}" if data else ""


def got(data: bytes) -> str:
    """Words for an answer that did not decide."""
    return f"got {quoted(data)}" if data else "no answer"


def quoted(data: bytes) -> str:
    """``data`` as it came, for words that say what is wrong with it, but for white space at its end."""
    head = data[:EXCERPT + 9]
    return f'"{_escaped(head.rstrip() or head, EXCERPT)}"'


SAFE = [chr(byte) if 32 <= byte < 127 else {9: "\\t", 10: "\\n", 13: "\\r"}.get(byte, f"\\x{byte:02x}")
        for byte in range(256)]


def printable(data: bytes, limit: int = EXCERPT) -> str:
    """``data`` in printable ASCII, without the white space around it, cut to ``limit`` characters."""
    return _escaped(data[:limit + 9].strip(), limit)


def _escaped(data: bytes, limit: int) -> str:
    text = "".join(SAFE[byte] for byte in data)
    return text if len(text) <= limit else text[:limit - 3] + "..."


def _line(data: bytes, end: int) -> bytes:
    """The line that holds the byte before ``end``."""
    return data[data.rfind(b"\n", 0, max(end - 1, 0)) + 1:].partition(b"\n")[0]
