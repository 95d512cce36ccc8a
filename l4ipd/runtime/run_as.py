"""Run a command as another user: ``python -I -S run_as.py USER PROCESSES COMMAND...``. Imports nothing of l4ip.

A spawn cannot change the user, and the daemon must not even for a moment; so this little process does, and then
becomes the command. That user may then have no more than PROCESSES processes. If it cannot, it ends with status 125 and
a line on standard error that begins with FAILURE.
"""

from __future__ import annotations

import errno
import os
import sys

FAILURE = "l4ip cannot run it: "
STATUS = 125


def become(user: str, processes: int, command: list[str]) -> None:
    """Does not return. Raises OSError or KeyError (no such user)."""
    import _signal  # type: ignore[import-not-found]    # as signal, without the enums: a third of the time of it all
    import pwd
    entry = pwd.getpwnam(user)
    os.chdir("/")
    limit(processes)
    os.initgroups(entry.pw_name, entry.pw_gid)
    os.setgid(entry.pw_gid)
    os.setuid(entry.pw_uid)
    os.environ.update(HOME=entry.pw_dir, USER=entry.pw_name, LOGNAME=entry.pw_name)
    for number in (_signal.SIGPIPE, _signal.SIGXFSZ):       # Python ignores them, and the command would inherit that
        _signal.signal(number, _signal.SIG_DFL)
    execute(command)


def limit(processes: int) -> None:
    """Let the user have no more than ``processes``, where the system has such a limit."""
    import resource
    kind = getattr(resource, "RLIMIT_NPROC", None)
    if kind is not None:
        allowed = [each for each in resource.getrlimit(kind) if each != resource.RLIM_INFINITY]
        most = min([processes, *allowed])
        resource.setrlimit(kind, (most, most))


def execute(command: list[str]) -> None:
    """What os.execvp does, but that imports modules, which this user may not be allowed to read any more."""
    program = command[0]
    failure: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    path = [word for word in os.environ.get("PATH", os.defpath).split(":") if word.startswith("/")]
    for directory in [""] if "/" in program else path:
        try:
            os.execv(os.path.join(directory, program), command)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            failure = error
    raise failure


def main() -> None:
    user, processes, *command = sys.argv[1:]
    try:
        become(user, int(processes), command)
    except KeyError:
        reason = f"no such user: {user}"
    except OSError as error:
        reason = f"{command[0]}: {(error.strerror or str(error)).lower()}"
    sys.stderr.write(f"{FAILURE}{reason}\n")
    sys.exit(STATUS)


if __name__ == "__main__":
    main()
