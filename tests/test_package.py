"""What is shipped: the source archive is built from a copy of the tree, unpacked, and installed under a prefix of
its own."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from l4ipd import __version__
from support import ROOT
from support.hostile_directory import HostileDirectory

PARTS = [".ci", "bin", "CHANGES", "CONTRIBUTING", "LICENSE", "MANIFEST.in", "README", "etc", "l4ipd", "man",
         "port", "pyproject.toml", "rc.d", "setup.py", "tests"]
NOT_SHIPPED = {".gitignore"}
#: what running the tests leaves in a tree, and must stay there
LITTER = ["tests/__pycache__/x.pyc", "tests/.hypothesis/examples/x", "tests/.pytest_cache/README",
          "l4ipd/__pycache__/x.pyc", ".hypothesis/examples/x", "ENV/lib/x.py", "build/lib/l4ipd/x.py"]
#: where it goes, where it comes from, whether it is a program
FILES = [
    ("etc/l4ip.conf.sample", "etc/l4ip.conf.sample", False),
    ("etc/rc.d/l4ip", "rc.d/l4ip", True),
    ("bin/l4ipd", "bin/l4ipd", True),
    ("bin/l4ipctl", "bin/l4ipctl", True),
    ("share/examples/l4ip/notify-mail.sample", "etc/notify-mail.sample", True),
    ("share/examples/l4ip/notify-carp.sample", "etc/notify-carp.sample", True),
    *[(f"share/examples/l4ip/gateways/{path.name}", f"etc/gateways/{path.name}", False)
      for path in sorted((ROOT / "etc/gateways").iterdir())],
    ("share/examples/l4ip/systemd/l4ipd-rehearsal.service", "etc/systemd/l4ipd-rehearsal.service", False),
    *[(f"share/bash-completion/completions/{name}", f"etc/completions/bash/{name}", False)
      for name in ("l4ipd", "l4ipctl")],
    *[(f"share/zsh/site-functions/_{name}", f"etc/completions/zsh/_{name}", False) for name in ("l4ipd", "l4ipctl")],
    ("share/man/man5/l4ip.conf.5", "man/l4ip.conf.5", False),
    ("share/man/man8/l4ipd.8", "man/l4ipd.8", False),
    ("share/man/man7/l4ip-gateways.7", "man/l4ip-gateways.7", False),
    ("share/man/man8/l4ipctl.8", "man/l4ipctl.8", False),
]
#: packages whose name on PyPI is not the name that is imported
NAMES = {"dns": "dnspython", "daemon": "python-daemon", "yaml": "pyyaml"}


def copy_tree(to: Path) -> None:
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, to / part, ignore=shutil.ignore_patterns("__pycache__", ".*_cache"))
        else:
            shutil.copy2(ROOT / part, to / part)


def files(tree: Path) -> dict[str, bool]:
    """Every file below ``tree``, and whether it is a program."""
    return {str(path.relative_to(tree)): os.access(path, os.X_OK) for path in tree.rglob("*") if path.is_file()}


def run(*words: str, cwd: Path | None = None, path: Path | None = None) -> str:
    """What a module of Python's says on standard output, with ``path`` to import from."""
    done = subprocess.run([sys.executable, "-m", *words], cwd=cwd, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, env={**os.environ, **({"PYTHONPATH": str(path)} if path else {})})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("tree")
    copy_tree(tree)
    return tree


@pytest.fixture(scope="module")
def archive(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of a tree in which tests have run."""
    littered, out = tmp_path_factory.mktemp("littered"), tmp_path_factory.mktemp("out")
    shutil.copytree(tree, littered, dirs_exist_ok=True)
    for name in LITTER:
        (littered / name).parent.mkdir(parents=True, exist_ok=True)
        (littered / name).write_text("")
    run("setup", "-q", "sdist", "-d", str(out), cwd=littered)
    assert [path.name for path in out.iterdir()] == [f"l4ip-{__version__}.tar.gz"]
    return out / f"l4ip-{__version__}.tar.gz"


@pytest.fixture(scope="module")
def unpacked(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(archive, out)
    return out / f"l4ip-{__version__}"


@pytest.fixture(scope="module")
def prefix(unpacked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An installation from that, without its dependencies: those are where the tests run."""
    prefix = tmp_path_factory.mktemp("prefix")
    run("pip", "install", "--quiet", "--no-deps", "--no-input", "--no-compile", "--no-build-isolation",
        "--ignore-installed", "--disable-pip-version-check", "--prefix", str(prefix), str(unpacked))
    return prefix


def test_the_archive_is_the_tree(tree: Path, archive: Path) -> None:
    with tarfile.open(archive) as file:
        members = {member.name.partition("/")[2]: bool(member.mode & 0o100) for member in file if member.isfile()}
    shipped = {name: program for name, program in members.items() if not name.startswith("l4ip.egg-info/")}
    assert shipped == {**files(tree), "PKG-INFO": False, "setup.cfg": False}


def test_the_archive_has_all_that_git_has(unpacked: Path) -> None:
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this tree is not git's")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    known = {name for name in listed.split("\0") if name and (ROOT / name).exists()}
    assert known - NOT_SHIPPED - set(files(unpacked)) == set()


def test_every_test_is_found_in_the_archive(unpacked: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By a Python that does not know this tree: what a test module reads when it is imported is there."""
    monkeypatch.setenv("HYPOTHESIS_STORAGE_DIRECTORY", str(tmp_path))
    def collected(root: Path) -> list[str]:
        listed = run("pytest", "--collect-only", "-p", "no:randomly", "-p", "no:cacheprovider", cwd=root, path=root)
        return [line for line in listed.splitlines() if "::" in line]

    found = collected(unpacked)
    assert len(found) > 1000
    assert found == collected(ROOT)


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
def test_programs(prefix: Path, program: str, tmp_path: Path) -> None:
    """The installed program runs, by the interpreter that pip has named, whatever is in the way."""
    trap = HostileDirectory(tmp_path)
    (tmp_path / "link").symlink_to(prefix / "bin" / program)
    for script in (str(prefix / "bin" / program), str(tmp_path / "link")):
        done = subprocess.run([script, "-V"], capture_output=True, text=True, cwd=tmp_path, env=trap.environment)
        assert (done.returncode, done.stdout) == (0, f"{program} {__version__}\n"), done.stderr
    assert not trap.sprung.exists()


def test_the_programs_are_alike() -> None:
    one, other = ((ROOT / "bin" / name).read_text() for name in ("l4ipd", "l4ipctl"))
    assert one.replace("# l4ipd(8)", "# l4ipctl(8)") == other


def test_what_the_programs_run_is_nothing_to_be_run(prefix: Path) -> None:
    script = prefix / "bin/l4ip-python"
    assert script.read_text().splitlines()[0] == f"#!{sys.executable}"
    for words in ([], ["l4ipd"]):
        done = subprocess.run([str(script), *words], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (1, "l4ip-python: run l4ipd or l4ipctl\n")


def test_the_sample_is_good_where_it_is_installed(prefix: Path) -> None:
    done = subprocess.run([str(prefix / "bin/l4ipd"), "-n", "-c", str(prefix / "etc/l4ip.conf.sample")],
                          capture_output=True, text=True, cwd=prefix)
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


def test_what_contributing_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING").read_text()
    named = re.findall(r"(?<![\w/])(?:l4ipd|tests|etc|man|\.ci)/[\w./-]*\w", text)
    assert len(named) > 30 and not [name for name in named if not (ROOT / name).exists()]
    rooms = {path.parent.name for path in (ROOT / "l4ipd").glob("*/__init__.py")}
    assert all(f" {room}/ " in text for room in rooms), "every room has its line"
