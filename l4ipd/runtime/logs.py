"""Where log lines go: syslog(3), or standard error in the foreground. One line each, without control characters.

Whoever takes them may be slow, or stop taking them (a terminal after ^S, a syslogd that hangs): the loop must not wait
for that. So a thread writes them; when too many wait, further ones are dropped, and their number is logged later.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
import syslog
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from l4ipd.model import Log

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "notice": logging.INFO, "warning": logging.WARNING,
          "err": logging.ERROR, "error": logging.ERROR, "crit": logging.CRITICAL, "alert": logging.CRITICAL,
          "emerg": logging.CRITICAL}
PRIORITIES = ((logging.CRITICAL, syslog.LOG_CRIT), (logging.ERROR, syslog.LOG_ERR),
              (logging.WARNING, syslog.LOG_WARNING), (logging.INFO, syslog.LOG_INFO),
              (logging.NOTSET, syslog.LOG_DEBUG))


ROOM = 10_000                                       # lines that may wait to be written
PATIENCE = 2.0                                      # seconds that the end of the program waits for them


class Lines(logging.Formatter):
    """The message alone, on one line: what members and tools said may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " | ")
        return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class Timed(Lines):
    """With the time of day in front, where no syslogd adds it; the date has a line of its own when it is another."""

    def __init__(self) -> None:
        super().__init__()
        self._date = ""

    def format(self, record: logging.LogRecord) -> str:
        when = time.localtime(record.created)
        clock, date = time.strftime("%H:%M:%S", when), time.strftime("%Y-%m-%d", when)
        line = f"{clock} {super().format(record)}"
        if date == self._date:
            return line
        self._date = date
        return f"{clock} the date is {date}\n{line}"


class Patient(logging.Handler):
    """Lets a thread call ``write(priority, line)``, which may wait and may fail."""

    def __init__(self, write: Callable[[int, str], object]) -> None:
        super().__init__()
        self._write = write
        self._lines: SimpleQueue[tuple[int, str] | None] = SimpleQueue()
        self._lost = 0
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="l4ipd-log", daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())       # signals are the loop's
        self._thread.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def emit(self, record: logging.LogRecord) -> None:
        if self._lines.qsize() >= ROOM:
            self._lost += 1
            return
        self._own_up()
        priority = next(priority for level, priority in PRIORITIES if record.levelno >= level)
        try:
            self._lines.put((priority, self.format(record)))
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Wait until all is written, but not for ever. The end of the program calls it, too (logging.shutdown)."""
        if not self._closed:
            self._closed = True
            self._own_up()
            self._lines.put(None)
            self._thread.join(PATIENCE)
        super().close()

    def _own_up(self) -> None:
        if self._lost:
            lost, self._lost = self._lost, 0
            record = logging.LogRecord("l4ipd", logging.WARNING, "", 0, "%d lines of the log were lost: who takes them "
                                       "was too slow", (lost,), None)
            self._lines.put((syslog.LOG_WARNING, self.format(record)))

    def _work(self) -> None:
        while (line := self._lines.get()) is not None:
            with contextlib.suppress(OSError, ValueError):      # a full disk, a closed terminal: no reason to stop
                self._write(*line)


def to_stderr(settings: Log) -> None:
    def write(priority: int, line: str) -> None:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()

    _set_up(write, Timed(), settings)


def to_syslog(settings: Log) -> None:
    """To be called after detaching: the thread would not survive it."""
    syslog.openlog("l4ipd", syslog.LOG_PID | syslog.LOG_NDELAY, getattr(syslog, f"LOG_{settings.facility.upper()}"))
    _set_up(syslog.syslog, Lines(), settings)


def _set_up(write: Callable[[int, str], object], formatter: logging.Formatter, settings: Log) -> None:
    handler = Patient(write)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[settings.level])
    logging.raiseExceptions = False                 # what cannot be formatted is no reason to stop either
