"""A place in the configuration, and how it is read: every refusal goes to the problems with its line and path.

A reader never stops at an error: it gives back the default, so that one pass finds everything that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from l4ipd.config import values as words
from l4ipd.config.similar import like
from l4ipd.config.yaml_tree import Mapping, Node, Problems, Scalar, Sequence, join, secret, shown, step

T = TypeVar("T")


class Place:
    """A node with its line, its path (``clusters.www.services.http``), and where to complain."""

    __slots__ = ("line", "node", "path", "problems")

    def __init__(self, node: Node, line: int, path: str, problems: Problems) -> None:
        self.node, self.line, self.path, self.problems = node, line, path, problems

    def refuse(self, what: str) -> None:
        self.problems.add(self.line, self.path, what)

    def seen_from(self, other: Place) -> str:
        """Where it is, for a message at another place: ``line 12``, or with its file if that is another one."""
        return f"line {self.line}" if self.problems is other.problems else f"{self.problems.name}:{self.line}"

    def text(self) -> str | None:
        """The text of a single value, as it was written."""
        if isinstance(self.node, Scalar):
            return self.node.text
        self.refuse(f"one value is wanted, not {self.kind()}")
        return None

    def kind(self) -> str:
        """What stands there, for messages."""
        if isinstance(self.node, Scalar):
            return "nothing" if self.node.empty else "a text" if secret(self.path) else shown(self.node.text)
        return "a list" if isinstance(self.node, Sequence) else "a mapping"

    def read(self, reader: Callable[[str], T], default: T) -> T:
        """The value that ``reader`` makes of the text, ``default`` when it raises ValueError."""
        text = self.text()
        if text is None:
            return default
        try:
            if isinstance(self.node, Scalar) and self.node.empty:
                raise ValueError("has no value: give it one, or leave the key out")
            return reader(text)
        except ValueError as error:
            self.refuse(str(error))
            return default

    def items(self, what: str, single: bool = False) -> list[Place]:
        """The items of a list; with ``single``, a value that is no list counts as a list of one."""
        if isinstance(self.node, Sequence):
            return [Place(node, line, f"{self.path}[{index}]", self.problems)
                    for index, (line, node) in enumerate(self.node.items, 1)]
        if isinstance(self.node, Scalar) and self.node.empty:
            return []
        if single:
            return [self]
        self.refuse(f"{what} is wanted, not {self.kind()}")
        return []

    def entries(self, what: str) -> Iterator[tuple[str, Place]]:
        """The keys and values of a mapping whose keys are names of the user's choice."""
        if isinstance(self.node, Mapping):
            for key, (line, node) in self.node.items.items():
                yield key, Place(node, line, join(self.path, key), self.problems)
        elif not (isinstance(self.node, Scalar) and self.node.empty):
            self.refuse(f"{what} is wanted, not {self.kind()}")

    def named(self, what: str) -> list[tuple[str, Place]]:
        """The entries of a mapping of names, which must not be empty; names are checked."""
        entries = list(self.entries(what))
        if not entries and (isinstance(self.node, Mapping) or isinstance(self.node, Scalar) and self.node.empty):
            self.refuse(f"is empty: {what} is wanted, with one at least")
        for name, entry in entries:
            try:
                words.name(name)
            except ValueError as error:
                entry.refuse(str(error))
        return entries

    def command(self, first: Callable[[str], str], rest: Callable[[str], str] = words.word) -> tuple[str, ...]:
        """A program and its arguments: a list of words, or one word."""
        if isinstance(self.node, Scalar) and len(self.node.text.split()) > 1:
            self.refuse(f"{shown(self.node.text)} has blanks: write a list of words, as in"
                        f" [{', '.join(self.node.text.split()[:4])}]; there is no shell")
            return ()
        items = self.items("a list of words", single=True)
        return tuple(item.read(rest if index else first, "") for index, item in enumerate(items))


class Section(Place):
    """A mapping with known keys. Unknown ones are refused at once, with the nearest known one."""

    __slots__ = ("entry",)

    def __init__(self, place: Place, known: tuple[str, ...], told: tuple[str, ...] = ()) -> None:
        """``told``: which of the known keys are listed where one is unknown, if not all."""
        super().__init__(place.node, place.line, place.path, place.problems)
        self.entry: dict[str, Place] = {}
        for key, value in place.entries("a mapping with " + ", ".join(told or known)):
            if key in known:
                self.entry[key] = value
            else:
                self.problems.add(value.line, step(self.path, key), unknown(key, known, told or known))

    def get(self, key: str, reader: Callable[[str], T], default: T) -> T:
        place = self.entry.get(key)
        return default if place is None else place.read(reader, default)

    def missing(self, key: str, what: str) -> None:
        """Complain that a key that must be there is not."""
        if isinstance(self.node, Mapping) or isinstance(self.node, Scalar) and self.node.empty:
            self.problems.add(self.line, join(self.path, key), f"is missing: {what}")


def unknown(key: str, known: tuple[str, ...], told: tuple[str, ...]) -> str:
    near = like(key[:64].lower(), known, 1, 0.5)
    return f"unknown key, did you mean {near[0]}?" if near else f"unknown key; known here: {', '.join(told)}"
