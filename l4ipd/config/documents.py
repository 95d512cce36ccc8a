"""The files that a configuration is made of: the first one, and those that it includes, and they include.

    include: conf.d/*.conf          relative to the directory of the file that says so, sorted; or a list of such

An included file has clusters, defaults for these, and includes of its own. That one is absent, cannot be read or
includes itself is told in the file that includes it; nothing is left out in silence.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from l4ipd.config import values as words
from l4ipd.config import yaml_tree
from l4ipd.config.section import Place
from l4ipd.config.yaml_tree import Mapping, Node, Problems, join, tree
from l4ipd.runtime import regular_file

SIZE_LIMIT = 64 << 20                               # bytes of all files together
FIRST = "the file is empty: ipfilter and clusters are needed", "ipfilter: and clusters:"
INCLUDED = "the file is empty: clusters are needed", "clusters:"
Identity = tuple[int, int]                          # device and inode: a file, whatever it is called


@dataclass(eq=False)
class Document:
    """A file: ``root`` is None where there is none, and ``problems`` say why."""

    root: Mapping | None
    problems: Problems
    includer: Document | None = None

    @property
    def name(self) -> str:
        return self.problems.name


class Documents:
    """All files, in their order. Those that are included are read here; ``text`` is that of the first, ``name``."""

    def __init__(self, text: str | bytes, name: str) -> None:
        self.all: list[Document] = []
        self._size = len(text)
        self._includers: dict[Identity, Place] = {}
        self._open: list[Identity] = []             # files that are being read: each includes the next
        self.first = self._read(text, name, _identity(name), None)

    def problems(self) -> tuple[str, ...]:
        """Everything that is wrong, as complete lines, file by file."""
        return tuple(line for document in self.all for line in document.problems.lines())

    def locate(self, steps: Sequence[str | int]) -> str:
        """File, line and path of a place in a good configuration, as errors begin: ``l4ip.conf:12: control.group: ``.

        ``steps`` lead there: keys, and numbers of items from 1. What is not written out has the line of what stands for
        it.
        """
        document = next((each for each in self.all if _has(each.root, steps[:2])), self.first)
        node: Node | None = document.root
        line, path = 1, ""
        for step in steps:
            path = join(path, step) if isinstance(step, str) else f"{path}[{step}]"
            if isinstance(node, Mapping) and step in node.items:
                line, node = node.items[str(step)]
            elif isinstance(node, yaml_tree.Sequence) and isinstance(step, int) and step <= len(node.items):
                line, node = node.items[step - 1]
            else:
                node = None
        return f"{document.name}:{line}: {path}: "

    def _read(self, text: str | bytes, name: str, identity: Identity | None, includer: Document | None) -> Document:
        problems = Problems(name)
        empty, example = INCLUDED if includer else FIRST
        document = Document(tree(text, problems, empty, example), problems, includer)
        self.all.append(document)
        if document.root is not None and "include" in document.root.items:
            line, node = document.root.items["include"]
            place = Place(node, line, "include", problems)
            self._open += [identity] if identity else []
            for path, pattern in _included(place, os.path.dirname(name)):
                self._file(path, pattern, document)
            self._open = self._open[:-1]
        return document

    def _file(self, path: str, place: Place, includer: Document) -> None:
        try:
            identity = _identity(path)
            text = regular_file.read(path, SIZE_LIMIT - self._size)
        except OSError as error:
            place.refuse(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}")
            return
        self._size += len(text)
        before = self._includers.get(identity) if identity else None
        if self._size > SIZE_LIMIT:
            place.refuse(f"{path}: all files together are larger than {SIZE_LIMIT >> 20} MB")
        elif identity in self._open:
            place.refuse(f"{path}: includes itself")
        elif before is not None:
            place.refuse(f"{path}: is included already ({before.seen_from(place)})")
        else:
            if identity:
                self._includers[identity] = place
            self._read(text, path, identity, includer)


def _included(place: Place, directory: str) -> Iterable[tuple[str, Place]]:
    """The files that patterns name, and the place of each pattern."""
    patterns = place.items("a pattern of file names, or a list of them", single=True)
    if isinstance(place.node, yaml_tree.Scalar) and not patterns:
        place.refuse("has no value: a pattern of file names, such as conf.d/*.conf, or a list of them")
    for pattern in patterns:
        text = pattern.read(words.file_name, "")
        try:
            yield from ((path, pattern) for path in matching(os.path.join(directory, text)) if text)
        except OSError as error:
            pattern.refuse(f"{error.filename}: cannot be read: {(error.strerror or str(error)).lower()}")


def matching(pattern: str) -> list[str]:
    """The files that a pattern names, sorted; of one without wildcards, that. Raises OSError."""
    if not glob.has_magic(pattern):
        return [pattern]
    directory = os.path.dirname(pattern) or "."
    if not glob.has_magic(directory):
        os.scandir(directory).close()               # glob would find nothing, and not say why
    return sorted(glob.glob(pattern))


def _identity(path: str) -> Identity | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _has(node: Node | None, steps: Iterable[str | int]) -> bool:
    for step in steps:
        if not isinstance(node, Mapping) or step not in node.items:
            return False
        node = node.items[str(step)][1]
    return True
