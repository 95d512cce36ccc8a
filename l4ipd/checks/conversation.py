"""Protocols by name, without a socket: a script says what to send and how an answer is framed, and ends with a verdict.

    answer = yield Ask(frame, b"what is to be sent before")
    raise No("4xx, in the server's words")          L7STS: it has understood, and is not well
    return OK                                       or End(OK, b"goodbye")

``frame(data)`` gives the answer that ``data`` begins with and how many bytes it has, or None for "more, please"; it
raises ValueError for what can be none. Scripts are pure, and bounded by what a step may receive.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from l4ipd.checks.expect import LIMIT, Reader, closed, got, printable, quoted
from l4ipd.checks.verdict import Verdict

#: what a conversation is read to say while it goes on: what it has to say is in its ``say``
SPEAKS = Verdict("L7OK", "so far")
Frame = Callable[[bytes], "tuple[Any, int] | None"]


class Ask(NamedTuple):
    """The answer that a script waits for, and what is sent for it; with ``shake``, inside of TLS from then on, and
    ``before`` that something in the clear.
    """

    frame: Frame
    send: bytes = b""
    shake: bool = False
    before: bytes = b""


class End(NamedTuple):
    """The verdict, and last words."""

    verdict: Verdict
    send: bytes = b""


class Say(NamedTuple):
    """What a probe has to do once the first ``used`` bytes of the data are read: send ``before`` in the clear and shake
    hands, if ``shake`` says so; send; and end with the verdict, if there is one. Then the same reader goes on.
    """

    used: int
    send: bytes
    shake: bool = False
    before: bytes = b""
    verdict: Verdict | None = None


class No(Exception):
    """The server has said, in these words, that it is not well."""


Script: TypeAlias = "Generator[Ask, Any, Verdict | End]"
Part: TypeAlias = "Generator[Ask, Any, Verdict]"       # of a script


@dataclass(frozen=True, slots=True)
class Options:
    """What checks may say of protocols."""

    starttls: bool = False
    user: str | None = None
    password: bytes | None = None
    name: str | None = None
    record: str = ""
    writable: bool = False
    sealed: bool = False                            # all that is said is inside of TLS

    def __repr__(self) -> str:
        return "Options()"                          # there is a password among them


@dataclass(frozen=True, slots=True)
class Protocol:
    """What a recipe holds: a script by its ``title``, as messages call the protocol."""

    title: str
    script: Callable[[Options], Script]
    options: Options

    @property
    def opening(self) -> bytes:
        """What is sent first."""
        return next(self.script(self.options)).send

    def __call__(self, data: bytes, eof: bool) -> Verdict | None:
        return self.reader(b"").read(data, eof)

    def reader(self, before: bytes) -> Reader:
        return Conversation(self.title, self.script(self.options))


class Conversation:
    """One run of a script."""

    __slots__ = ("say", "_title", "_script", "_frame", "_at")
    where = ""

    def __init__(self, title: str, script: Script) -> None:
        self.say = Say(0, b"")                      # once it has been read to speak
        self._title, self._script = title, script
        self._frame = next(script).frame            # what it sends was sent already
        self._at = 0                                # bytes of the data that are read

    def read(self, data: bytes, eof: bool) -> Verdict | None:
        while True:
            try:
                found = self._frame(data[self._at:])
            except ValueError:
                return Verdict("L7RSP", f"not {self._title}: {quoted(data[self._at:])}")
            if found is None:
                return Verdict("L7RSP", closed(data[self._at:])) if eof else None
            answer, used = found
            self._at += used
            outcome = self._go_on(answer)
            if outcome is not None:
                return outcome

    def _go_on(self, answer: Any) -> Verdict | None:
        """Give the script its answer: its verdict, something to be said, or None if it just reads on."""
        try:
            ask = self._script.send(answer)
        except StopIteration as end:
            outcome: Verdict | End = end.value
            if isinstance(outcome, End):
                self.say = Say(self._at, outcome.send, verdict=outcome.verdict)
                return SPEAKS
            return outcome
        except No as no:
            return Verdict("L7STS", printable(str(no).encode("ascii", "backslashreplace")))
        except (ValueError, IndexError):
            return Verdict("L7RSP", f"not {self._title}: an answer that makes no sense")
        self._frame = ask.frame
        if not (ask.send or ask.shake):
            return None
        self.say, self._at = Say(self._at, ask.send, ask.shake, ask.before), 0
        return SPEAKS

    def rest(self, data: bytes) -> bytes:
        return b""

    def expired(self, data: bytes) -> Verdict:
        return Verdict("L7TOUT", got(data[self._at:]))

    def overlong(self, data: bytes) -> Verdict:
        return Verdict("L7RSP", f"more than {LIMIT >> 10} KiB without an answer of {self._title}")
