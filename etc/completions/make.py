"""Completions of bash and zsh for l4ipd and l4ipctl, made from their real command lines.

``python3 etc/completions/make.py`` writes them beside itself; a test holds them against this. What cannot be known
beforehand, the names of endpoints and clusters, the shell asks of the daemon.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from l4ipd import main
from l4ipd.control import client

FILES = ("FILE", "SOCKET", "DIRECTORY")
ASK = {"pattern": "endpoints", "clusters": "clusters"}
HEAD = "# Completions for {0}(8), made from its command line by etc/completions/make.py."
#: compgen expands what it gets as the shell does: what is no name of ours stays out
NAMES = r"""l4ipctl "${asked[@]}" --json show 2>/dev/null | sed -n 's|^{"endpoint": "\([A-Za-z0-9._:/-]*\)".*|\1|p'"""
CUT = {"endpoints": "", "clusters": " | sed 's|/.*||' | sort -u"}


class Line(NamedTuple):
    """What may follow a command, or the program itself."""

    options: list[str]
    files: list[str]                                # options whose next word is a file
    values: list[str]                               # those whose next word is something else
    names: str                                      # endpoints, clusters, or nothing


def read(parser: argparse.ArgumentParser) -> tuple[Line, dict[str, Line]]:
    """Of the program, and of each of its commands."""
    commands: dict[str, Line] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            commands = {name: _line(each) for name, each in action.choices.items()}
    return _line(parser), commands


def _line(parser: argparse.ArgumentParser) -> Line:
    line = Line([], [], [], next((ASK[action.dest] for action in parser._actions if action.dest in ASK), ""))
    for action in parser._actions:
        line.options.extend(action.option_strings)
        if action.option_strings and action.nargs is None:
            (line.files if action.metavar in FILES else line.values).extend(action.option_strings)
    return line


def bash(program: str, parser: argparse.ArgumentParser) -> str:
    top, commands = read(parser)
    return "\n".join([HEAD.format(program), "", f"_{program}() {{", *_body(top, commands, BASH), "}",
                      f"complete -F _{program} {program}", ""])


def zsh(program: str, parser: argparse.ArgumentParser) -> str:
    top, commands = read(parser)
    return "\n".join([f"#compdef {program}", HEAD.format(program), "", *_body(top, commands, ZSH), ""])


class Shell(NamedTuple):
    """How a shell says it."""

    begin: str
    word: str                                       # the one at place i
    files: str
    reply: str


BASH = Shell("local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} last=$COMP_CWORD first=1",
             "${COMP_WORDS[i]}", "COMPREPLY=($(compgen -f -- \"$cur\"))",
             "COMPREPLY=($(compgen -W \"$choices\" -- \"$cur\"))")
ZSH = Shell("local cur=${words[CURRENT]} prev=${words[CURRENT-1]} last=$CURRENT first=2",
            "${words[i]}", "_files", "compadd -- ${=choices}")


def _body(top: Line, commands: dict[str, Line], shell: Shell) -> Iterator[str]:
    yield f"    {shell.begin}"
    yield "    local i command= choices= asked=()"
    yield "    for ((i = first; i < last; i++)); do"
    yield f"        case {shell.word} in"
    for option in top.files:
        more = f"asked=({option} \"{shell.word}\"); " if option == "-s" else ""
        yield f"        {option}) i=$((i + 1)); {more};;".replace("; ;;", " ;;")
    if top.values:
        yield f"        {'|'.join(top.values)}) i=$((i + 1)) ;;"
    yield "        -*) ;;"
    yield f"        *) command={shell.word}; break ;;"
    yield "        esac"
    yield "    done"
    files = sorted({*top.files, *(option for line in commands.values() for option in line.files)})
    if files:
        yield f"    case $prev in {'|'.join(files)}) {shell.files}; return ;; esac"
    yield "    case $command in"
    yield f"    '') choices='{' '.join([*top.options, *commands])}' ;;"
    for name, line in commands.items():
        yield f"    {name}) choices='{' '.join(line.options)}' ;;"
    yield "    esac"
    if commands:
        yield "    case $command in"
        for kind, cut in CUT.items():
            yield f"    {'|'.join(name for name, line in commands.items() if line.names == kind)})"
            yield f'        choices+=" $({NAMES}{cut})" ;;'
        yield "    esac"
    yield f"    {shell.reply}"


def texts() -> dict[str, str]:
    """By the path below etc/completions."""
    parsers = {"l4ipd": main.parser(), "l4ipctl": client.parser()}
    return {**{f"bash/{name}": bash(name, each) for name, each in parsers.items()},
            **{f"zsh/_{name}": zsh(name, each) for name, each in parsers.items()}}


if __name__ == "__main__":
    for name, text in texts().items():
        (Path(__file__).parent / name).write_text(text)
