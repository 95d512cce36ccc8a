"""Installed like the rest of the system: the FreeBSD port says what setup.py says; the unit says what l4ipd knows."""

from __future__ import annotations

import ast
import configparser
import re
import shlex

import pytest

from l4ipd import __version__
from l4ipd.main import parser
from support import ROOT

PORT = ROOT / "port/net/l4ip"
MAKEFILE = (PORT / "Makefile").read_text().replace("\\\n", " ")
#: where ports call a package by another name than PyPI
NAMES = {"PyYAML": "pyyaml"}


def made(name: str) -> str:
    """What the Makefile says of it."""
    found = re.search(rf"^{name}=[\t ]*(.*)$", MAKEFILE, re.MULTILINE)
    assert found is not None, name
    return " ".join(found[1].split())


def setup(name: str) -> object:
    """What setup.py says of it."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    return next(ast.literal_eval(word.value) for node in ast.walk(tree) if isinstance(node, ast.Call)
                for word in node.keywords if word.arg == name)


def test_the_port_is_of_this_version_and_needs_what_setup_needs() -> None:
    assert (made("PORTNAME"), made("DISTVERSION")) == (setup("name"), __version__)
    needs = {tuple(re.split("(?=>)", word, maxsplit=1))
             for word in re.findall(r"PREFIX\}([^:]+):", made("RUN_DEPENDS"))}
    required = setup("install_requires")
    assert isinstance(required, list)
    assert needs == {(NAMES.get(name, name), version) for name, version in (
        re.split("(?=>)", word, maxsplit=1) for word in required)}
    assert made("USES") == f"python:{str(setup('python_requires')).removeprefix('>=')}+"
    assert made("LICENSE") == str(setup("license")).upper().replace("-", "")


def test_the_port_has_what_it_names() -> None:
    assert (PORT / "files" / f"{made('USE_RC_SUBR')}.in").read_text().replace("%%PREFIX%%", "/usr/local") == (
        ROOT / "rc.d/l4ip").read_text()
    assert all((PORT / "files" / f"{name}.in").is_file() for name in made("SUB_FILES").split())
    assert not made("COMMENT").endswith(".") and len(made("COMMENT")) <= 70
    descr = (PORT / "pkg-descr").read_text().splitlines()
    assert 3 <= len(descr) <= 24 and all(len(line) < 80 for line in descr)
    for line in (PORT / "pkg-plist").read_text().splitlines():
        sample = re.fullmatch(r"@sample (etc/.*)", line)
        assert (sample is not None and (ROOT / sample[1]).is_file()) or line.startswith("@dir")


def test_every_file_of_the_port_is_listed_once() -> None:
    """autoplist knows what setup.py puts under share/; under etc/ a sample is no plain file, and a script another's."""
    installed = setup_files()
    assert {path.partition("/")[0] for path in installed} == {"etc", "share"}
    taken_out = re.findall(r"-e '\\\|([^|]+)\$\$\|d'", MAKEFILE)
    samples = [line.partition(" ")[2] for line in (PORT / "pkg-plist").read_text().splitlines() if "@sample" in line]
    assert sorted(taken_out) == sorted(path for path in installed if path.startswith("etc/"))
    assert sorted(taken_out) == sorted([*samples, f"etc/rc.d/{made('USE_RC_SUBR')}"])


def setup_files() -> list[str]:
    """Where setup.py puts its data_files, below the prefix."""
    found = []
    for directory, files in re.findall(r'\("((?:etc|share)[^"]*)", \[([^\]]*)\]\)', (ROOT / "setup.py").read_text()):
        found += [f"{directory}/{name.rpartition('/')[2]}" for name in re.findall(r'"([^"]+)"', files)]
    assert len(found) >= 12
    return found


def test_the_message_of_the_port_names_what_there_is() -> None:
    text = (PORT / "files/pkg-message.in").read_text()
    assert "l4ip_enable=YES" in text and "l4ip_enable" in (ROOT / "rc.d/l4ip").read_text()
    for words in re.findall(r"l4ipd (-.*?)$| l4ipd (-\S+)", text, re.MULTILINE):
        parser().parse_args(shlex.split("".join(words).split(" shows")[0]))


def test_the_unit_starts_what_l4ipd_understands() -> None:
    unit = configparser.RawConfigParser(delimiters="=", interpolation=None)
    unit.optionxform = str                          # type: ignore[assignment,method-assign]
    unit.read_string((ROOT / "etc/systemd/l4ipd-rehearsal.service").read_text())
    assert unit.sections() == ["Unit", "Service", "Install"]
    program, *words = shlex.split(unit["Service"]["ExecStart"])
    options = parser().parse_args(words)
    assert program == "/usr/local/bin/l4ipd" and options.foreground and options.sandbox
    assert unit["Service"]["Type"] == "simple", "with -d nothing goes to the background"


@pytest.mark.parametrize("page", ["README", "CONTRIBUTING", "man/l4ipd.8", "man/l4ipctl.8", "man/l4ip.conf.5"])
def test_every_path_that_is_named_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?<![\w/.%$-])((?:l4ipd|tests|etc|man|rc\.d|bin|port|\.ci)/[\w./-]*\w)", text))
    missing = {name for name in named if not (ROOT / name).exists() and not (ROOT / f"{name}.py").exists()}
    assert not missing
