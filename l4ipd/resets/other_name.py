"""Another name for our ipmon, so that nobody takes it for the system's.

rc.d/ipmon of FreeBSD has no pid file and looks for a process with the name of its program: it would call ours running,
refuse to start beside it, and kill it at ``service ipmon stop``. Started through a link of another name, ours is left
alone (FACTS.md 3-8). The link is in a directory that only we can write.
"""

from __future__ import annotations

import contextlib
import logging
import os

from l4ipd.runtime import directories

NAME = "l4ip-ipmon"
log = logging.getLogger("l4ipd.resets")


class OtherName:
    """A link in ``directory``, which is made when it is needed."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._link = os.path.join(directory, NAME)

    def of(self, program: str) -> str:
        """The path by which to start it: that of the link if it is an ipmon by name, and the link can be had."""
        if os.path.basename(program) != "ipmon":
            return program
        try:
            directories.make(self.directory, 0o700)
            self._check()
            self.remove_link()
            os.symlink(os.path.abspath(program), self._link)
        except OSError as error:
            log.info("%s: ipmon is started by its own name, and service ipmon stop will end it: %s", self._link,
                     error.strerror)
            return program
        return self._link

    def _check(self) -> None:
        """Whether nobody else can put a link of his own there. Raises OSError."""
        status = os.lstat(self.directory)
        if status.st_uid != os.geteuid() or status.st_mode & 0o170022 != 0o040000:
            raise PermissionError(1, "that directory is not ours alone")

    def remove_link(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._link)

    def remove(self) -> None:
        """It is not needed any more."""
        with contextlib.suppress(OSError):
            self.remove_link()
            os.rmdir(self.directory)
