"""The state file: what the operator disabled, what was up and since when, and which rules are ours.

Written at once when the operator changes something or reloads, within a second of any other change, and at the end;
always whole (a temporary file beside it, synchronized, renamed), and readable by us alone. A disk may be slow or
broken: the file is written by a thread, of which there is never more than one, and a failure is said once and costs
nothing else.

The kernel's table stays the first witness. Whether an endpoint starts *up* is decided by its rules in the kernel and
by its probes, never by this file: after a reboot the table is empty, the first probes are a second away, and a file
that says "up" of a member that died meanwhile would send clients to it. The file only tells *since when*, and that is
forgotten after an hour. What the operator disabled never expires. The rules are those that the next run cannot tell
to be ours by their tag, for want of one (``tag: no``) or because it was another before a reload. So are the tags and
tables of the ipf rules for sensing resets, since the configuration of the next run may not have that section any more.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from l4ipd.runtime import directories, regular_file
from l4ipd.runtime.loop import Loop, Timer

VERSION = 1
PAUSE = 1.0                                         # seconds between two writes
WAIT = 0.05                                         # seconds between two looks whether a write is over
RETRY = 10.0                                        # seconds after which one that failed is tried again
OLD = 3600.0                                        # seconds after which "since when" is forgotten
SLACK = 1.0                                         # seconds that a time may be in the future
SIZE_LIMIT = 64 << 20
LAST_WAIT = 2.0                                     # seconds that the end of the program waits for the disk
log = logging.getLogger("l4ipd.state")


@dataclass(frozen=True)
class Saved:
    """What the file holds. Times are seconds since the epoch; None: not known."""

    disabled: Mapping[str, float | None] = field(default_factory=dict)  # endpoint -> since when
    states: Mapping[str, tuple[bool, float | None]] = field(default_factory=dict)       # endpoint -> up?, since when
    rules: frozenset[str] = frozenset()                                 # canonical lines
    tables: frozenset[str] = frozenset()            # of ipf, where rules of ours may be: log, log6, count, count6
    tags: frozenset[int] = frozenset()              # that our log rules bear
    counts: frozenset[str] = frozenset()            # canonical lines of our count rules, which bear none

    def age(self, name: str, now: float) -> float:
        """How many seconds ago ``name`` went up, or down; 0 if that is not known."""
        when = self.states[name][1]
        return 0.0 if when is None else max(0.0, now - when)


def load(path: str, now: float | None = None) -> Saved:
    """Read the file; without one, or with one that is of no use, nothing is saved, and the log says why."""
    try:
        text = regular_file.read(path, SIZE_LIMIT)
        return decode(text, time.time() if now is None else now, path)
    except FileNotFoundError:
        return Saved()
    except OSError as error:
        log.warning("%s: ignored: %s", path, error.strerror)
    except ValueError as error:
        try:
            os.replace(path, f"{path}.bad")
            log.warning("%s: ignored, and kept as %s.bad: %s: nothing is disabled any more", path, path, error)
        except OSError:
            log.warning("%s: ignored: %s", path, error)
    return Saved()


def decode(text: bytes, now: float, path: str = "state") -> Saved:
    """Raises ValueError with the reason if ``text`` is no state."""
    if len(text) > SIZE_LIMIT:
        raise ValueError(f"it is larger than {SIZE_LIMIT >> 20} MB")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError("it is damaged") from None
    if not isinstance(data, dict) or "version" not in data:
        raise ValueError("it is not a state file of l4ipd")
    if data["version"] != VERSION:
        raise ValueError(f"it is of version {str(data['version'])[:20]}, and this l4ipd writes version {VERSION}")
    try:
        written = _number(data["written"])
        disabled = {str(name): _time(when, now) for name, when in data["disabled"].items()}
        states = {str(name): (bool(up), _time(when, now)) for name, (up, when) in data["endpoints"].items()}
        rules = frozenset(str(line) for line in data["rules"])
        filters = data.get("filters", {})           # absent in files of before
        tables = frozenset(str(name) for name in filters.get("tables", ()))
        tags = frozenset(_tag(tag) for tag in filters.get("tags", ()))
        counts = frozenset(str(line) for line in filters.get("counts", ()))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
        raise ValueError("it is damaged") from None
    if not 0 <= now - written <= OLD:
        age = (f"{(now - written) / 3600:.0f} h old" if 0 <= written < now else
               "from the future" if written > now else "of no known age")
        log.info("%s is %s: since when endpoints are up or down is forgotten%s", path, age,
                 "" if not disabled else "; what the operator disabled stays disabled")
        states = {}
    return Saved(disabled, states, rules, tables, tags, counts)


def _number(value: float) -> float:
    """A finite number, or ValueError."""
    if not math.isfinite(value):
        raise ValueError("not a number")
    return float(value)


def _time(value: float, now: float) -> float | None:
    """When something was: from 0 to ``now``, give or take rounding, and a clock set back a little; else not known."""
    when = _number(value)
    return min(when, now) if 0 <= when <= now + SLACK else None


def _tag(value: int) -> int:
    """The number of a log tag, or ValueError."""
    if not 0 <= int(value) < 1 << 32:
        raise ValueError("no tag")
    return int(value)


def encode(saved: Saved, now: float) -> bytes:
    """The text of the file."""
    return json.dumps({"version": VERSION, "written": now, "disabled": dict(saved.disabled),
                       "endpoints": dict(saved.states), "rules": sorted(saved.rules),
                       "filters": {"tables": sorted(saved.tables), "tags": sorted(saved.tags),
                                   "counts": sorted(saved.counts)}}).encode() + b"\n"


def write(path: str, text: bytes) -> None:
    """Replace the file as a whole, or leave it as it is. Raises OSError."""
    directory = os.path.dirname(path) or "."
    directories.make(directory, 0o700)
    draft = f"{path}.{os.getpid()}.new"
    with contextlib.suppress(FileNotFoundError):
        os.unlink(draft)
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(draft, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    with contextlib.suppress(OSError):              # some file systems will not
        fd = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class Store:
    """Keeps the file at ``path`` as ``snapshot()`` says, a second after :meth:`changed` if the disk lets it."""

    def __init__(self, loop: Loop, path: str, snapshot: Callable[[], Saved]) -> None:
        self.loop, self.path, self.snapshot = loop, path, snapshot
        self.failure = ""                           # why the last write failed
        self.asked = self.tried = 0                 # changes so far; how many of them the last write that is over had
        self._dirty = False
        self._thread: threading.Thread | None = None
        self._timer = Timer(self._write)

    def changed(self, urgent: bool = False) -> None:
        """Something that is saved has changed."""
        self.asked += 1
        if urgent or not self._dirty:
            self._dirty = True
            self.loop.set(self._timer, self.loop.now + (0.0 if urgent else PAUSE))

    def close(self) -> None:
        """The last write; waits for it, but not for ever."""
        self.loop.clear(self._timer)
        if self._thread is not None:
            self._thread.join(LAST_WAIT)
        if self._thread is None or not self._thread.is_alive():
            self._begin()
            assert self._thread is not None
            self._thread.join(LAST_WAIT)

    def raised(self) -> None:
        """To write has raised: what is to be saved still is."""
        self._dirty = True
        self.loop.set(self._timer, self.loop.now + RETRY)

    def _write(self) -> None:
        if self._thread is not None and self._thread.is_alive():
            self.loop.set(self._timer, self.loop.now + (WAIT if self._dirty else RETRY))        # a slow disk
        elif self._dirty or self.failure:
            self.loop.set(self._timer, self.loop.now + RETRY)
            self._begin()

    def _begin(self) -> None:
        text = encode(self.snapshot(), time.time())
        thread = threading.Thread(target=self._save, args=(text, self.asked), name="l4ipd-state", daemon=True)
        thread.start()
        self._thread, self._dirty = thread, False

    def _save(self, text: bytes, asked: int) -> None:
        """In the thread."""
        try:
            write(self.path, text)
        except OSError as error:
            words = error.strerror or str(error)
            if words != self.failure:
                log.error("%s: cannot be written: %s: what the operator disables now would not survive a restart",
                          self.path, words)
            self.failure = words
        else:
            if self.failure:
                log.info("%s can be written again", self.path)
            self.failure = ""
        self.tried = asked
