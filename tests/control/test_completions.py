"""The completions of bash and zsh: made from the command lines, and asked in these shells."""

from __future__ import annotations

import os
import runpy
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from support import ROOT

MADE = ROOT / "etc/completions"
SHOW = """#!/bin/sh
[ "$1" = -s ] && { echo "$2" > asked; shift 2; }
[ "$*" = "--json show" ] || exit 2
echo '{"endpoint": "www/http/web1", "address": "x"}'
echo '{"endpoint": "www/http/web2", "address": "x"}'
echo '{"endpoint": "$(touch harm)", "address": "x"}'
echo '{"endpoint": "mail/smtp/mx", "address": "x"}'
"""
BASH = """
. {file}
COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_{program}
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
ZSH = """
compadd() {{ shift; print -l -- ${{(M)@:#$words[CURRENT]*}}; }}
_files() {{ print -l -- $words[CURRENT]*(N); }}
words=({words}); CURRENT=$#words
complete_it() {{
{text}
}}
complete_it
"""


def completed(shell: str, directory: Path, *words: str) -> list[str]:
    """What the shell offers for the last of these words."""
    if shutil.which(shell) is None:
        pytest.skip(f"there is no {shell} here")
    program = words[0]
    quoted = " ".join(f"'{word}'" for word in words)
    if shell == "bash":
        script = BASH.format(file=MADE / "bash" / program, words=quoted, program=program)
    else:
        script = ZSH.format(words=quoted, text=(MADE / "zsh" / f"_{program}").read_text())
    done = subprocess.run([shell, *(["-f"] if shell == "zsh" else ["--norc"]), "-c", script], cwd=directory, text=True,
                          capture_output=True, env={**os.environ, "PATH": f"{directory}:{os.environ['PATH']}"})
    assert not done.stderr
    return [line for line in done.stdout.splitlines() if line]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "l4ipctl").write_text(SHOW)
    (tmp_path / "l4ipctl").chmod(0o755)
    (tmp_path / "l4ip.conf").touch()
    return tmp_path


def test_they_are_as_the_command_lines_make_them() -> None:
    texts = runpy.run_path(str(MADE / "make.py"))["texts"]()
    assert {name: (MADE / name).read_text() for name in texts} == texts, "python3 etc/completions/make.py"
    assert all(not (MADE / name).stat().st_mode & stat.S_IXUSR for name in texts)


@pytest.mark.parametrize("shell", ["bash", "zsh"])
@pytest.mark.parametrize("words, expected", [
    (("l4ipd", "--s"), ["--sandbox"]), (("l4ipd", "-c", "l4ip."), ["l4ip.conf"]),
    (("l4ipd", "-d", "--de"), ["--demo"]),
    (("l4ipctl", "s"), ["show", "sessions"]), (("l4ipctl", "--js"), ["--json"]),
    (("l4ipctl", "-s", "l4ip."), ["l4ip.conf"]),
    (("l4ipctl", "--json", "show", "--"), ["--help", "--json", "--down", "--wide"]),
    (("l4ipctl", "disable", "--n"), ["--now"]), (("l4ipctl", "monitor", "w"), []),
    (("l4ipctl", "show", "www/"), ["www/http/web1", "www/http/web2"]),
    (("l4ipctl", "enable", "web1", "mail"), ["mail/smtp/mx"]),
    (("l4ipctl", "leave", "m"), ["mail"]), (("l4ipctl", "ready", ""), ["-h", "--help", "--json", "mail", "www"])])
def test_what_a_shell_offers(directory: Path, shell: str, words: tuple[str, ...], expected: list[str]) -> None:
    assert completed(shell, directory, *words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_the_daemon_that_is_meant_is_asked_and_is_not_obeyed(directory: Path, shell: str) -> None:
    assert completed(shell, directory, "l4ipctl", "-s", "/run/my sock", "show", "mail") == ["mail/smtp/mx"]
    assert (directory / "asked").read_text() == "/run/my sock\n" and not (directory / "harm").exists()
