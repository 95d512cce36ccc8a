"""Where log lines go: syslog(3), or standard error in the foreground. One line each, without control characters."""

from __future__ import annotations

import logging
import sys
import syslog
import time

from l4ipd.model import Log

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "notice": logging.INFO, "warning": logging.WARNING,
          "err": logging.ERROR, "error": logging.ERROR, "crit": logging.CRITICAL, "alert": logging.CRITICAL,
          "emerg": logging.CRITICAL}
PRIORITIES = ((logging.CRITICAL, syslog.LOG_CRIT), (logging.ERROR, syslog.LOG_ERR),
              (logging.WARNING, syslog.LOG_WARNING), (logging.INFO, syslog.LOG_INFO),
              (logging.NOTSET, syslog.LOG_DEBUG))


class Lines(logging.Formatter):
    """The message alone, on one line: what members and tools said may hold anything."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", " | ")
        return text if text.isprintable() else "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class Timed(Lines):
    """With the time of day in front, for a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{time.strftime('%H:%M:%S', time.localtime(record.created))} {super().format(record)}"


class Syslog(logging.Handler):
    """To syslog, by the standard library's own."""

    def __init__(self, facility: str) -> None:
        super().__init__()
        syslog.openlog("l4ipd", syslog.LOG_PID | syslog.LOG_NDELAY, getattr(syslog, f"LOG_{facility.upper()}"))

    def emit(self, record: logging.LogRecord) -> None:
        priority = next(priority for level, priority in PRIORITIES if record.levelno >= level)
        syslog.syslog(priority, self.format(record))


def to_stderr(settings: Log) -> None:
    handler = logging.StreamHandler(sys.stderr)
    _set_up(handler, Timed() if sys.stderr.isatty() else Lines(), settings)


def to_syslog(settings: Log) -> None:
    _set_up(Syslog(settings.facility), Lines(), settings)


def _set_up(handler: logging.Handler, formatter: logging.Formatter, settings: Log) -> None:
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(LEVELS[settings.level])
    logging.raiseExceptions = False                 # a full disk or a closed terminal is no reason to stop
