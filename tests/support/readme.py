"""The README as data: its sections, and in these the blocks that are set apart, to be pasted or to be compared."""

from __future__ import annotations

import re

from support import ROOT

#: what a block to be pasted begins with
PROGRAMS = ("sysrc", "touch", "pkg", "cp", "l4ipd", "l4ipctl", "service", "python3", "pip", "pgrep", "ipfstat")


def section(heading: str) -> str:
    text = (ROOT / "README").read_text()
    found = text.partition(f"{heading}\n")[2] if text.startswith(heading) else text.partition(f"\n\n\n{heading}\n")[2]
    assert found, heading
    return found.partition("\n\n\n")[0]


def headings() -> list[str]:
    return [part.partition("\n")[0] for part in (ROOT / "README").read_text().split("\n\n\n")[:-1]]


def blocks(heading: str) -> list[list[str]]:
    """Paragraphs that begin four columns in."""
    return [[line[4:] for line in part.splitlines()] for part in section(heading).strip("\n").split("\n\n")
            if part.startswith("    ") and part[4] != " "]


def pasted(heading: str) -> list[list[str]]:
    """Those that are commands."""
    return [lines for lines in blocks(heading) if lines[0].split()[0] in PROGRAMS]


def screens(heading: str) -> dict[str, list[str]]:
    """What stands after each ``$ command``, with lines that were folded put together again."""
    found: dict[str, list[str]] = {}
    for lines in blocks(heading):
        shown: list[str] = []
        for line in lines:
            if line.startswith("$ "):
                command = line[2:]
                while command in found:             # shown a second time
                    command += " "
                shown = found.setdefault(command, [])
            elif line.startswith("      ") and shown:
                shown[-1] += f" {line.strip()}"
            elif lines[0].startswith("$ "):
                shown.append(line)
    return found


def plain(line: str) -> str:
    """A line of a screen without what differs from day to day: addresses, times, numbers, and the width of columns."""
    line = re.sub(r"\d+-\d+-\d+ \d+:\d+:\d+", "TIME", line)
    line = re.sub(r"\d+\.\d+\.\d+\.\d+:\d+", "ADDRESS", line)
    line = re.sub(r"(?<= )\d+[smhd](?= )", "AGE", line)
    return re.sub(r"(?<![\w/])\d+(?!\w)", "N", " ".join(line.split()))
