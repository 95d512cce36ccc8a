"""Into the background, while the command that was typed waits until the daemon is ready, or says why it never is.

::

    the command                         the daemon
    fork ------------------------------> python-daemon: a session of its own, no descriptors of others
    waits                                pid file, control socket, the first turn of the loop
    exit 0      <------ READY ---------- lets go of standard error
    exit 1      <------ end of file ---- has said on standard error what is wrong, or has just died

Exit 0 means that there is a daemon, and exit 1 that there is none: one that finds the command gone, interrupted maybe,
ends. python-daemon's own parent leaves at once, so that ours is one fork above it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack

import daemon as python_daemon

READY, SAID = b"R", b"S"


class Left(Exception):
    """Whoever started us is gone: nobody waits for this daemon."""


class Command:
    """The command that waits, as the daemon sees it."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def ready(self) -> None:
        """Let it return, and standard error with it. Raises :class:`Left`."""
        self._tell(READY)
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 2)
        os.close(null)

    def said(self) -> None:
        """Standard error has the reason why this daemon ends."""
        self._tell(SAID)

    def _tell(self, word: bytes) -> None:
        try:
            os.write(self._pipe, word)
        except BrokenPipeError:
            raise Left from None
        finally:
            os.close(self._pipe)


def detach(stack: ExitStack) -> Command:
    """Go on as a daemon; only there this returns. What ``stack`` holds at the end is the daemon's."""
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    if os.fork():
        os.close(writer)
        _wait(reader)
    os.close(reader)
    stack.enter_context(python_daemon.DaemonContext(detach_process=True, umask=0o027, signal_map={},
                                                    files_preserve=[writer], stderr=sys.stderr))
    return Command(writer)


def _wait(reader: int) -> None:
    """The rest of the command's life; nothing of what it shares with the daemon is cleared up."""
    leave: Callable[[int], object] = os._exit
    try:
        word = os.read(reader, 1)
    except KeyboardInterrupt:
        leave(1)
    if not word:
        print("l4ipd has ended before it was ready; its log may say why", file=sys.stderr, flush=True)
    leave(0 if word == READY else 1)
