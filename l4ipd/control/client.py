"""l4ipctl: asks a running l4ipd, and prints what it answers. See l4ipctl(8), and ``control`` for the protocol.

Plain blocking sockets, and few imports: it is run by hand and by scripts that poll.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from l4ipd import __version__
from l4ipd.control import connection, ready
from l4ipd.control.connection import DEFAULT_SOCKET, Unreachable
from l4ipd.control.screen import Shown, fit, worst_first
from l4ipd.report.text import COLUMNS, WIDE, printable, table, wrap
from l4ipd.runtime.numbers import whole

WIDEST = 9999                                       # columns
OK, SOME_NOT, USAGE, UNREACHABLE = 0, 1, 2, 3
COLOURS = {"up": "32", "yes": "32", "ok": "32", "down": "31", "missing": "31", "leaving": "33", "unknown": "33",
           "draining": "33", "held": "33", "foreign": "31", "disabled": "33", "enabling": "33"}
#: what has happened: good, bad, or to be looked at
EVENTS = dict.fromkeys(("up", "enabled", "repaired", "reloaded", "sensing-back", "ready", "sighted"), "32") | (
    dict.fromkeys(("down", "all-down", "reload-failed", "sensing-lost", "unready", "blind"), "31")) | (
    dict.fromkeys(("draining", "held", "disabled", "enabling"), "33"))
MARKS = {"ok": " ", "missing": "+", "leaving": "-", "foreign": "!"}
Answer = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line; the manual is held against it by a test."""
    words = argparse.ArgumentParser(prog="l4ipctl", allow_abbrev=False, description=(
        "See what l4ipd sees, and take servers out. PATTERN is matched with the names of endpoints, cluster/service/"
        "member; one without a slash also matches any one part."))
    words.add_argument("-s", metavar="SOCKET", dest="socket", help="the daemon's socket (default: $L4IP_SOCKET, or "
                       f"{DEFAULT_SOCKET})")
    words.add_argument("--json", action="store_true", help="print JSON, one object a line")
    words.add_argument("-V", "--version", action="version", version=f"l4ipctl {__version__}",
                       help="print the version and exit")
    also = argparse.ArgumentParser(add_help=False)
    also.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, one object a line")
    commands = words.add_subparsers(dest="command", metavar="COMMAND")
    for name, pattern, text in (
            ("show", "*", "what is up, since when, why not, and whether its rule is in the kernel"),
            ("disable", "+", "take endpoints out, until they are enabled, or for a time"),
            ("enable", "+", "put them back: checked first, then added"),
            ("check", "+", "probe now, print the verdicts"),
            ("monitor", "", "print events as they happen"),
            ("reload", "", "read the configuration again, say what has changed"),
            ("rules", "", "wanted rules and rules in the kernel, with what differs"),
            ("sessions", "*", "who is connected to what, through which rule of ours or of before"),
            ("ready", "clusters", "whether the addresses of clusters deserve to be announced by this gateway"),
            ("leave", "clusters", "take clusters, or this gateway, out of service: unready; rules and sessions stay"),
            ("join", "clusters", "put them back")):
        command = commands.add_parser(name, help=text, description=text, parents=[also], allow_abbrev=False)
        if pattern == "clusters":
            command.add_argument("clusters", metavar="CLUSTER", nargs="*", help="which of them, by default all")
        elif pattern != "":
            command.add_argument("pattern", metavar="PATTERN", nargs=pattern, help="which endpoints")
        if name == "show":
            command.add_argument("--down", action="store_true", help="only what is not up")
            command.add_argument("--wide", action="store_true", help="also where clients connect to, how long the last "
                                 "probe took, and the connections so far")
        if name == "sessions":
            command.add_argument("--count", action="store_true", help="how many each endpoint has, no more")
        if name == "disable":
            command.add_argument("--for", metavar="TIME", type=time_text, help="enable them again after TIME, such as "
                                 "30m or 2h: checked first, then added")
            command.add_argument("--now", action="store_true", help="cut their sessions off: now or never, for "
                                 "IPFilter ends sessions only together with their rules")
            command.add_argument("--wait", metavar="TIME", nargs="?", const=True, type=time_text, help="return when no "
                                 "session of theirs is left, or after TIME; say how many are left meanwhile")
    return words


def time_text(text: str) -> str:
    """What --for and --wait may be given, and no pattern by mistake."""
    if not re.fullmatch(r"\d{1,9}(\.\d+)?(ms|s|m|h)?", text):
        raise argparse.ArgumentTypeError(f"{text} is no time, such as 30s or 5m; patterns come first")
    return text


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: see l4ipctl(8)."""
    if sys.stdout is None:                          # closed by whoever started us: the exit status is what they want
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    words = parser()
    options = words.parse_args(argv)
    if options.command is None:
        words.exit(USAGE, words.format_help())
    path = options.socket or os.environ.get("L4IP_SOCKET") or DEFAULT_SOCKET
    try:
        return run(options, path)
    except Unreachable as problem:
        print(f"l4ipctl: {problem}", file=sys.stderr)
        return UNREACHABLE
    except KeyboardInterrupt:
        return OK if options.command == "monitor" else 130
    except BrokenPipeError:                         # `| head`: whoever read us has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except OSError as error:                        # a full disk; the socket's own errors are Unreachable
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        print(f"l4ipctl: the answer cannot be written: {(error.strerror or str(error)).lower()}", file=sys.stderr)
        return SOME_NOT


def run(options: argparse.Namespace, path: str) -> int:
    """Ask, print, and return the exit status."""
    request: dict[str, Any] = {"command": options.command}
    patterns = getattr(options, "pattern", [])
    if patterns:                                    # a single one as l4ipd 1.0 knows it
        request["pattern"] = patterns[0] if len(patterns) == 1 else patterns
    if getattr(options, "clusters", []):
        request["clusters"] = options.clusters
    for word in ("now", "count", "wait", "for"):
        if getattr(options, word, None):
            request[word] = getattr(options, word)
    printer = Printer(options)
    for answer in ask(path, request):
        if "end" in answer:
            printer.end(answer)
            status = answer.get("exit", 0)
            return status if isinstance(status, int) and 0 <= status <= 255 else 3
        printer.line(answer)
    raise Unreachable(f"{path}: l4ipd hung up in the middle of its answer: see its log")


# -- talking

def ask(path: str, request: dict[str, Any]) -> Iterator[Answer]:
    """The answers to a request, as they come. Raises :class:`Unreachable`."""
    text = json.dumps(request).encode()
    try:
        for line in ready.ask(path, text) if request["command"] == "ready" else connection.lines(path, text):
            yield _object(line)
    except ValueError:
        raise Unreachable(f"{path}: {connection.STRANGE}") from None


def _object(line: bytes) -> Answer:
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise ValueError("no object")
    return answer


# -- printing

class Printer:
    """Prints the lines of one answer, as JSON or for people."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.command, self.as_json = options.command, options.json
        self.down, self.wide = getattr(options, "down", False), getattr(options, "wide", False)
        self.terminal = sys.stdout.isatty()
        self.colour = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._rows: list[Answer] = []

    def line(self, answer: Answer) -> None:
        if self.down and answer.get("up"):
            return
        if self.as_json:
            put(json.dumps(answer))
        elif self.command == "show":
            self._rows.append(answer)               # the columns have to fit the longest
        else:
            put(self._text(answer) if self.command == "monitor" else printable(self._text(answer)))

    def end(self, answer: Answer) -> None:
        columns = width()
        summary = [line for text in answer.get("summary") or () for line in wrap(printable(str(text)), columns)]
        if self.command == "show":
            self._show(columns, len(summary))
        if not self.as_json:
            for line in summary:
                put(line)
        sys.stdout.flush()
        for kind, prefix in (("warnings", "warning: "), ("error", "")):
            for line in answer.get(kind) or ():
                print(f"l4ipctl: {prefix}{printable(str(line))}", file=sys.stderr)

    def _show(self, columns: int, below: int) -> None:
        """The table: on a terminal the worst first, and no more than there is room for."""
        shown = Shown(self._rows, [])
        if self.terminal:
            shown = fit(worst_first(self._rows), height(2 + below))
        if shown.rows:
            paint, headings = self._paint if self.colour else None, WIDE if self.wide else COLUMNS
            for line in table(shown.rows, columns, paint, headings):
                put(line)
        for text in shown.lines:
            for line in wrap(printable(text), columns):
                put(line)

    def _text(self, answer: Answer) -> str:
        if self.command == "check":
            return (f"{answer['endpoint']} {answer['address']} {answer['verdict']} ({answer['milliseconds']:.0f} ms); "
                    f"{answer['state']}")
        if self.command == "monitor":
            kind = self._coloured(EVENTS.get(answer["event"]), printable(answer["event"]))
            return f"{answer['time'][:19].replace('T', ' ')} {kind} {printable(answer['text'])}"
        if self.command == "rules":
            why = f"    # {answer['state']}: {answer['why']}" if answer["why"] else ""
            return f"{MARKS.get(answer['state'], '?')} {answer['rule']}{why}"
        return str(answer.get("text", ""))

    def _paint(self, key: str, value: str, cell: str) -> str:
        return self._coloured(COLOURS.get(value.partition(" ")[0]) if key in ("state", "rule") else None, cell)

    def _coloured(self, colour: str | None, text: str) -> str:
        return f"\x1b[{colour}m{text}\x1b[0m" if colour and self.colour else text


def put(line: str) -> None:
    """One line, at once: whoever reads us may be waiting for it."""
    encoding = sys.stdout.encoding or "ascii"
    print(line.encode(encoding, "replace").decode(encoding), flush=True)


def width() -> int:
    """The columns of the terminal; 0 if standard output is none, for then nothing is cut."""
    columns = whole(os.environ.get("COLUMNS", ""), WIDEST)
    if columns is not None:
        return columns
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns
    except (OSError, ValueError):
        return 0


def height(taken: int) -> int:
    """The lines of the terminal that are left for rows; 0 if it has no end."""
    lines = whole(os.environ.get("LINES", ""), WIDEST)
    if lines is None:
        try:
            lines = os.get_terminal_size(sys.stdout.fileno()).lines
        except (OSError, ValueError):
            lines = 0
    return max(1, lines - taken) if lines else 0


if __name__ == "__main__":
    sys.exit(main())
