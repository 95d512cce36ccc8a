"""What an agent on a member says of it: HAProxy's text (configuration manual, ``agent-check``).

One line of words, in any case and order, with blanks, tabs or commas between: up ready down fail stopped maint drain,
NN% of the weight, maxconn:NN (which means nothing here), and after a # what people should know. The worst word counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from l4ipd.checks.expect import LIMIT, Reader, got, printable
from l4ipd.checks.verdict import Leave, Verdict

END = re.compile(rb"[\r\n\0]")
BETWEEN = re.compile(r"[\s,]+")
SHARE = re.compile(r"([0-9]{1,6})%")
GOOD, BAD = ("up", "ready"), ("maint", "down", "fail", "stopped")


class Weighed(Verdict):
    """The member is well, and wants ``share`` percent of its weight."""

    share: int

    def __new__(cls, text: str, share: int) -> Weighed:
        self = super().__new__(cls, "L7OK", text)
        self.share = share
        return self


def judged(line: bytes) -> Verdict | None:
    """The verdict on what an agent has said; None if it has said nothing that agents say."""
    said, _, comment = line.decode("latin-1").partition("#")
    words = [word for word in BETWEEN.split(said.lower()) if word]
    shares = [int(found[1]) for word in words if (found := SHARE.fullmatch(word))]
    known = [word for word in words if word in (*GOOD, *BAD, "drain")] + [f"{share}%" for share in shares[-1:]]
    if not known:
        return None
    remark = printable(comment.encode("latin-1"))
    text = " ".join(known) + (f": {remark}" if remark else "")
    if any(word in BAD for word in words):
        return Verdict("L7STS", text)
    if "drain" in words or shares[-1:] == [0]:
        return Leave("L7STS", text)
    return Weighed(text, min(shares[-1], 100)) if shares else Verdict("L7OK", text)      # its share stays as it is


@dataclass(frozen=True, slots=True)
class AgentAnswer:
    """A line, or whatever comes before the agent closes."""

    where = ""

    def read(self, data: bytes, eof: bool) -> Verdict | None:
        end = END.search(data)
        if end is None and not eof:
            return None
        line = data[:end.start()] if end else data
        return judged(line) or Verdict("L7RSP", got(line))

    __call__ = read

    def reader(self, before: bytes) -> Reader:
        return self

    def rest(self, data: bytes) -> bytes:
        return b""

    def expired(self, data: bytes) -> Verdict:
        return Verdict("L7TOUT", got(data))

    def overlong(self, data: bytes) -> Verdict:
        return Verdict("L7RSP", f"more than {LIMIT >> 10} KiB in a line")
