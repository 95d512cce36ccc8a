"""What pip puts where: the package is built from a copy of the tree and installed under a prefix of its own."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from l4ipd import __version__

ROOT = Path(__file__).parent.parent
PARTS = ["l4ipd", "etc", "rc.d", "man", "setup.py", "pyproject.toml", "README", "LICENSE", "CHANGES"]
#: where it goes, where it comes from, whether it is a program
FILES = [
    ("etc/l4ip.conf.sample", "etc/l4ip.conf.sample", False),
    ("etc/rc.d/l4ip", "rc.d/l4ip", True),
    ("share/examples/l4ip/notify-mail.sample", "etc/notify-mail.sample", True),
    ("share/examples/l4ip/notify-carp.sample", "etc/notify-carp.sample", True),
    ("share/man/man5/l4ip.conf.5", "man/l4ip.conf.5", False),
    ("share/man/man8/l4ipd.8", "man/l4ipd.8", False),
    ("share/man/man8/l4ipctl.8", "man/l4ipctl.8", False),
]
#: packages whose name on PyPI is not the name that is imported
NAMES = {"daemon": "python-daemon", "yaml": "pyyaml"}


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation without its dependencies: those are where the tests run."""
    tree, prefix = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("prefix")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / part, tree / part)
    options = ["--no-build-isolation"] if _builds_here() else []       # else pip fetches setuptools
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-input", "--no-compile",
                           "--disable-pip-version-check", "--ignore-installed", *options, "--prefix", str(prefix),
                           str(tree)], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return prefix


def _builds_here() -> bool:
    """Whether the setuptools of this environment will do."""
    if not (importlib.util.find_spec("setuptools") and importlib.util.find_spec("wheel")):
        return False
    return int(importlib.metadata.version("setuptools").split(".")[0]) >= 61


@pytest.mark.parametrize("target, source, program", FILES, ids=[target for target, *_ in FILES])
def test_files(prefix: Path, target: str, source: str, program: bool) -> None:
    installed = prefix / target
    assert installed.read_bytes() == (ROOT / source).read_bytes()
    assert os.access(installed, os.X_OK) == program


def test_every_module_is_installed(prefix: Path) -> None:
    site = next(prefix.rglob("l4ipd/__init__.py")).parent.parent
    tree = {path.relative_to(ROOT) for path in (ROOT / "l4ipd").rglob("*") if path.suffix not in (".pyc", "")}
    assert {path for path in tree if not (site / path).exists()} == set()


@pytest.mark.parametrize("program", ["l4ipd", "l4ipctl"])
def test_programs(prefix: Path, program: str) -> None:
    """The installed program runs, by the interpreter that its first line names."""
    if program == "l4ipctl" and importlib.util.find_spec("l4ipd.ctl") is None:
        pytest.skip("there is no l4ipctl yet")
    script = prefix / "bin" / program
    assert os.access(script, os.X_OK)
    site = next(prefix.rglob("l4ipd/__init__.py")).parent.parent
    done = subprocess.run([str(script), "-V"], capture_output=True, text=True, cwd=prefix,
                          env={**os.environ, "PYTHONPATH": str(site)})
    assert (done.returncode, done.stdout) == (0, f"{program} {__version__}\n"), done.stderr


def test_the_sample_is_good_where_it_is_installed(prefix: Path) -> None:
    site = next(prefix.rglob("l4ipd/__init__.py")).parent.parent
    done = subprocess.run([str(prefix / "bin/l4ipd"), "-n", "-c", str(prefix / "etc/l4ip.conf.sample")],
                          capture_output=True, text=True, cwd=prefix, env={**os.environ, "PYTHONPATH": str(site)})
    assert (done.returncode, done.stderr.splitlines()[-1:]) == (0, ["configuration OK"]), done.stderr
    assert done.stdout.startswith("rdr em0 203.0.113.10/32 port 80 -> 10.0.0.1")


def test_everything_imported_is_required() -> None:
    imported = set()
    for path in (ROOT / "l4ipd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    wanted = {NAMES.get(name, name.replace("_", "-")) for name in imported - set(sys.stdlib_module_names) - {"l4ipd"}}
    listed = re.search(r"install_requires=\[(.*?)\]", (ROOT / "setup.py").read_text(), re.DOTALL)
    assert listed is not None
    assert {re.split("[<>=]", word.lower())[0] for word in re.findall(r'"(.*?)"', listed[1])} == wanted


def test_changes_and_readme_know_this_version() -> None:
    assert (ROOT / "CHANGES").read_text().startswith(f"{__version__}\n")
    readme = (ROOT / "README").read_text()
    for command in ("pip install . && l4ipd --demo", "pip install '.[test]' && pytest"):
        assert f"    {command}\n" in readme
