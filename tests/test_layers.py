"""Imports point downward only, and layer 0 has no way to touch the world."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import l4ipd

HERE = Path(l4ipd.__file__).parent
LAYERS = {
    0: {
        "__init__", "model",


        },
    1: {"events", },
    2: {
        },
    3: {"leaving",


        "state",
        },
    4: {"fleet", "steering",
        "news", "orphans", "daemon",
        "desk"},
    5: {"__main__", "reload",
        "descriptors", "main", "demo", },
}
WORLDLY = {"os", "socket", "select", "selectors", "time", "signal", "subprocess", "random", "logging", "threading",
           "asyncio", "ssl", "pathlib", "io", "shutil", "tempfile"}


def layer_of(name: str) -> int:
    return next(layer for layer, names in LAYERS.items() if name in names)


def imports(path: Path) -> tuple[set[str], set[str]]:
    """(our own modules, top-level names of others) that a file imports anywhere but under TYPE_CHECKING."""
    own: set[str] = set()
    other: set[str] = set()
    tree = ast.parse(path.read_text())
    skipped = {id(child) for node in ast.walk(tree)
               if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) for child in ast.walk(node)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = f"l4ipd.{base}".rstrip(".")
            names = [f"{base}.{alias.name}" for alias in node.names] if base == "l4ipd" else [base]
        else:
            continue
        for name in names:
            words = name.split(".")
            if words[0] == "l4ipd":
                own.add(words[1] if len(words) > 1 and (HERE / f"{words[1]}.py").exists() or "sandbox" in words
                        else "__init__")
            else:
                other.add(words[0])
    return own, other


def modules() -> list[Path]:
    return sorted(HERE.glob("*.py"))


def test_every_module_has_a_layer() -> None:
    assert {path.stem for path in modules()} == set().union(*LAYERS.values())


def test_imports_point_downward() -> None:
    upward = [f"{path.stem} imports {name}" for path in modules() for name in imports(path)[0]
              if name != path.stem and layer_of(name) > layer_of(path.stem)]
    assert not upward


def test_no_cycles() -> None:
    waiting = {path.stem: imports(path)[0] - {path.stem} for path in modules()}
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def test_layer_0_is_pure() -> None:
    worldly = [f"{path.stem} imports {name}" for path in modules() if layer_of(path.stem) == 0
               for name in imports(path)[1] & WORLDLY]
    assert not worldly


def test_the_sandbox_and_the_daemon_know_nothing_of_each_other() -> None:
    assert not [path.name for path in modules() if "sandbox" in imports(path)[0]]
    known = {name for path in (HERE / "sandbox").glob("*.py") for name in imports(path)[0]}
    assert known <= {"loop", "ipfilter", "sandbox", "__init__"}


def test_nobody_but_child_creates_processes() -> None:
    """But for the daemon itself, that the command which was typed leaves behind."""
    for path in modules():
        if path.stem not in ("child", "detach"):
            assert not imports(path)[1] & {"subprocess", "multiprocessing"}, path
            assert not {"os.fork", "os.posix_spawn"} & set(re.findall(r"os\.\w+", path.read_text())), path


def test_what_few_checks_need_is_not_loaded_for_all() -> None:
    """ssl alone is 4 MB."""
    code = "import l4ipd.main, sys; print(*sorted({'ssl', 'h11', 'prometheus_client'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
