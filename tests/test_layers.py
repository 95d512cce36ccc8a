"""The house: imports only go down, between rooms and between files; a room imports what its face says, and no other.

The face of a room is its ``__init__.py``, whose text ends with ``May import: ...``. Read with ast, anywhere in a file.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import l4ipd
from support import TESTS

HERE = Path(l4ipd.__file__).parent
#: from the ground up; what stands in one line does not know of each other
FLOORS = (("model", "events"), ("runtime",), ("ipfilter", "checks", "sandbox"), ("config", "monitor", "resets"),
          ("discovery", "transitions", "holds", "inherited_rules", "obsolete_rules", "saved_state", "overrides"),
          ("fleet",), ("service_rules",), ("steering",), ("readiness", "shutdown"), ("daemon",), ("reload",),
          ("state_saver", "report"), ("control", "web"),
          ("descriptors",), ("configtest", "run"), ("main",), ("demo",), ("__main__",))
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names} | {"": -1}
#: the same inside the sandbox, which is a house of its own
SANDBOX_FLOORS = (("syntax", "iterators", "version"), ("nat", "filter"), ("kernel",), ("relay", "tools"),
                  ("client", "server"), ("serve", "process"), ("__main__",))
SANDBOX_FLOOR = {name: floor for floor, names in enumerate(SANDBOX_FLOORS) for name in names} | {"": -1}
PURE = ("model", "monitor.health", "monitor.doubt", "monitor.hold_down", "monitor.outcomes",
        "monitor.pace", "monitor.purge", "config.ports", "control.screen",
        "ipfilter.rdr", "ipfilter.log_rules", "ipfilter.plan",
        "resets.ipmon", "checks.recipe", "checks.expect", "checks.pattern", "checks.verdict", "checks.errors",
        "checks.conversation", "checks.ber", "checks.certificate", "checks.certificates", "checks.redaction",
        "checks.protocols.lines", "checks.protocols.redis", "checks.protocols.mysql", "checks.protocols.pgsql",
        "checks.protocols.agent", "checks.protocols.ldap", "checks.protocols.dns", "config.secret_section",
        "config.explain", "config.values", "config.section", "config.check_section", "config.yaml_tree", "config.parse",
        "config.warnings", "config.similar", "config.estimate", "config.capacity", "report.text", "report.matching",
        "web.page_style", "runtime.lines", "runtime.numbers")
MANY = 15                       # attributes; a class that has more says why
WORLDLY = {"os", "socket", "select", "selectors", "time", "signal", "subprocess", "random", "logging", "threading",
           "asyncio", "ssl", "pathlib", "io", "shutil", "tempfile"}


def name_of(path: Path) -> str:
    """``checks.tcp``; of a face, the room's; of the program's own, nothing."""
    return ".".join(path.relative_to(HERE).with_suffix("").parts).removesuffix("__init__").rstrip(".")


FILES = {name_of(path): path for path in sorted(HERE.rglob("*.py"))}
ROOMS = sorted({name.partition(".")[0] for name in FILES if "." in name})
SANDBOX_ROOMS = sorted({name.rpartition(".")[0] for name in FILES
                        if name.count(".") == 2 and name.startswith("sandbox.")})


def imports(name: str) -> tuple[set[str], set[str]]:
    """(our own files, top-level names of others) that a file imports, if only for its types."""
    own: set[str] = set()
    other: set[str] = set()
    tree = ast.parse(FILES[name].read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports are written in full"
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for word in found:
            first, _, rest = word.partition(".")
            if first != "l4ipd":
                other.add(first)
            else:
                own.add(rest if rest in FILES else rest.rpartition(".")[0])
    return own - {name}, other


def room_of(name: str) -> str:
    return name.partition(".")[0]


def inner_room(name: str) -> str:
    """``nat``, of ``sandbox.nat.table``."""
    return room_of(name.partition(".")[2])


def test_every_room_and_file_has_its_floor() -> None:
    assert {room_of(name) for name in FILES} == set(FLOOR)
    assert {inner_room(name) for name in FILES if room_of(name) == "sandbox"} == set(SANDBOX_FLOOR)
    assert all(name.count(".") < 2 or inner_room(name) and name.startswith(("sandbox.", "checks.protocols."))
               for name in FILES)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_only_go_down(name: str) -> None:
    room = room_of(name)
    for other in imports(name)[0]:
        there = room_of(other)
        assert there == room or FLOOR[there] < FLOOR[room], f"{name} imports {other}"


@pytest.mark.parametrize("name", [name for name in FILES if name.startswith("sandbox.")])
def test_imports_only_go_down_in_the_sandbox(name: str) -> None:
    room = inner_room(name)
    for other in imports(name)[0]:
        if room_of(other) == "sandbox" and inner_room(other) != room:
            assert SANDBOX_FLOOR[inner_room(other)] < SANDBOX_FLOOR[room], f"{name} imports {other}"


def test_there_is_no_circle() -> None:
    waiting = {name: imports(name)[0] for name in FILES}
    while free := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in free:
            del waiting[name]
    assert not waiting


def said_by_the_face(room: str) -> set[str]:
    """What a room may import, by its own words."""
    words = ast.get_docstring(ast.parse(FILES[room].read_text())) or ""
    lines = words.splitlines()
    said = re.search(r"May import: ([\w, ]+)\.$", " ".join(lines))
    assert said is not None and lines[0], "a face says what its room is for, and ends with what it may import"
    return set(said[1].split(", ")) - {"nothing"}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_what_its_face_says(room: str) -> None:
    used = {room_of(other) for name in FILES if room_of(name) == room for other in imports(name)[0]} - {room, ""}
    assert used == said_by_the_face(room)


@pytest.mark.parametrize("room", SANDBOX_ROOMS)
def test_a_room_of_the_sandbox_imports_what_its_face_says(room: str) -> None:
    used = {inner_room(other) if room_of(other) == "sandbox" else room_of(other)
            for name in FILES if name.startswith(f"{room}.") for other in imports(name)[0]} - {inner_room(room)}
    assert used == said_by_the_face(room)


@pytest.mark.parametrize("name", PURE)
def test_what_is_pure_cannot_touch_the_world(name: str) -> None:
    assert not imports(name)[1] & WORLDLY


def test_nobody_but_child_creates_processes() -> None:
    for name, path in FILES.items():
        if name not in ("runtime.child", "runtime.detach") and room_of(name) != "sandbox":
            assert not imports(name)[1] & {"subprocess", "multiprocessing"}, name
            assert not {"os.fork", "os.posix_spawn"} & set(re.findall(r"os\.\w+", path.read_text())), name


def test_what_few_need_is_not_loaded_for_all() -> None:
    """ssl alone is 4 MB, and so is the library behind hashlib."""
    code = "import l4ipd.main, sys; print(*sorted({'ssl', 'hashlib', 'h11', 'prometheus_client'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_what_several_tests_need_is_in_support() -> None:
    """A test module that imports another cannot be moved, read or thrown away by itself."""
    again = [(f"tests/whole/test_daemon_on_ipfilter_{version}.py", "whole.test_daemon")     # the same, on other kernels
             for version in (4, 5)]
    for path in sorted(TESTS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = ([node.module or ""] if isinstance(node, ast.ImportFrom) else
                       [alias.name for alias in node.names] if isinstance(node, ast.Import) else [])
            for module in modules:
                where = str(path.relative_to(TESTS.parent))
                assert not re.search(r"(^|\.)test_", module) or (where, module) in again, f"{where} imports {module}"


def test_no_room_assigns_what_belongs_to_another() -> None:
    """Rooms talk by calls, and by callbacks given at construction.

    Whose an attribute is, is told by its name: one that no class of the room has, and one of another room does.
    """
    owners: dict[str, set[str]] = {}                # by attribute: the rooms with a class that has it
    for name in FILES:
        for owned in attributes(name):
            owners.setdefault(owned, set()).add(room_of(name))
    for name in FILES:
        for node in ast.walk(ast.parse(FILES[name].read_text())):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and node.attr in owners and (
                    ast.unparse(node.value) not in ("sys", "context", "options")):         # Python's own
                assert room_of(name) in owners[node.attr], f"{name} assigns {ast.unparse(node)}, line {node.lineno}"


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_class_with_many_attributes_says_why(name: str) -> None:
    for whole in classes(name):
        reason = re.search(r"Many\s+attributes: \w", ast.get_docstring(whole) or "")
        count = len(attributes_of(whole))
        assert (count > MANY) == (reason is not None), f"{whole.name} of {name} has {count} attributes"


def classes(name: str) -> list[ast.ClassDef]:
    return [node for node in ast.walk(ast.parse(FILES[name].read_text())) if isinstance(node, ast.ClassDef)]


def attributes(name: str) -> set[str]:
    """What the classes of a file have."""
    return set().union(*map(attributes_of, classes(name)))


def attributes_of(whole: ast.ClassDef) -> set[str]:
    """What is set on self, declared, or named as slots."""
    found: set[str] = set()
    for node in ast.walk(whole):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(
                node.value, ast.Name) and node.value.id == "self":
            found.add(node.attr)
    for node in whole.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__slots__":
            found |= set(ast.literal_eval(node.value))
    return found
