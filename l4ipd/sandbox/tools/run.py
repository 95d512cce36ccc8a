"""A running command: a generator that says what it prints, asks for its input, and returns its exit status."""

from __future__ import annotations

from collections.abc import Generator

STDIN, STDOUT, STDERR, WAIT = 0, 1, 2, 3
Output = tuple[int, str]        # STDOUT or STDERR and text; STDIN: asks for all of it; WAIT: until there is log to read
Run = Generator[Output, bytes | None, int]


def read_file(name: str, directory: str) -> Generator[Output, bytes | None, str | OSError]:
    """The text of a rule file; ``-`` is standard input. Bytes are kept one to one."""
    if name == "-":
        data = yield STDIN, ""
        return (data or b"").decode("latin-1")
    try:
        with open(name if name.startswith("/") else f"{directory}/{name}", "rb") as file:
            return file.read().decode("latin-1")
    except OSError as error:
        return error
