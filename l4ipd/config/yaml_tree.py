"""YAML text -> a tree that knows its lines. What the scalars mean is the reader's business: here they stay text.

YAML's own idea of types is not used: ``no``, ``1:30``, ``0o80`` and ``on`` arrive as they were written. Syntax errors,
duplicate keys, tags, endless aliases and absurd depth become :class:`Problems`, one line each; nothing else is raised,
whatever the text. The parser's events are read with a stack, so that no text can exhaust Python's::

    events --put--> Mapping {key: (line, node)} | Sequence [(line, node)] | Scalar

Aliases make the tree a graph without cycles; ``<<`` merges are already applied, and explicit keys win over merged ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import yaml

Event: TypeAlias = Any                              # the stubs say that its marks may be None: a parser's never are
MAX_DEPTH = 32                                      # the configuration needs 9
LINE_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")     # YAML 1.1, 5.4
UNUSABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")     # YAML 1.1, 5.1
SECRETS = frozenset(("headers", "dialog", "send", "expect", "reject", "data", "password"))
CORE_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "seq", "map"))
Loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)


@dataclass(slots=True)
class Scalar:
    """``text`` as it was written; ``plain`` when it stands there without quotes."""

    text: str
    plain: bool

    @property
    def empty(self) -> bool:
        """Nothing at all, or one of YAML's words for it."""
        return self.plain and self.text in ("", "~", "null", "Null", "NULL")


@dataclass(slots=True)
class Sequence:
    items: list[tuple[int, Node]] = field(default_factory=list)


@dataclass(slots=True)
class Mapping:
    items: dict[str, tuple[int, Node]] = field(default_factory=dict)


Node: TypeAlias = "Scalar | Sequence | Mapping"


class Problems:
    """What is wrong with a file, as complete lines: ``l4ip.conf:12: clusters.www: what, and the remedy``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._found: list[tuple[int, str]] = []

    def add(self, line: int, path: str, what: str) -> None:
        place = f"{printable(path[:200])}: " if path else ""
        self._found.append((line, f"{printable(self.name)}:{line}: {place}{printable(what)}"))

    def lines(self) -> tuple[str, ...]:
        """In the order of the file, each once."""
        return tuple(dict.fromkeys(text for _, text in sorted(self._found, key=lambda found: found[0])))

    def __bool__(self) -> bool:
        return bool(self._found)


def printable(text: str) -> str:
    """``text`` with everything escaped that could break a line or a terminal."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def shown(text: str) -> str:
    """A value from the file, short, and in quotes if its ends would not be seen otherwise."""
    clipped = text if len(text) <= 60 else text[:57] + "..."
    return clipped if clipped and clipped.isprintable() and " " not in clipped else f"'{printable(clipped)}'"


def secret(path: str) -> bool:
    """Whether what stands there is in no message: those of a reload go to whoever may use the control socket."""
    return any(part.partition("[")[0] in SECRETS for part in path.split("."))


def step(path: str, key: str) -> str:
    """The path of a key; of what is no word there is no more than a mark: it may be a value that has slipped in."""
    word = re.fullmatch(r"[\w-]{0,64}" if secret(path) else r"[^ ?]{0,200}|\?", key, re.ASCII)
    return join(path, key if word else "?")


def join(path: str, key: str) -> str:
    key = key or "''"
    return f"{path}.{key}" if path else key


def tree(text: str | bytes, problems: Problems, empty: str, example: str) -> Mapping | None:
    """The mapping that the file is, or None when there is none and ``problems`` says why.

    ``empty`` says what is wrong with one that has nothing in it; with an ``example`` a mapping begins.
    """
    decoded = _decode(text, problems)
    if decoded is None:
        return None
    builder = _Builder(problems)
    try:
        builder.build(yaml.parse(decoded, Loader=Loader))
    except yaml.YAMLError as error:
        problems.add(*_explain(error, decoded))
        return None
    except _Unreadable:
        return None
    root = builder.root
    if root is None or isinstance(root, Scalar) and root.empty:
        problems.add(1, "", empty)
    elif not isinstance(root, Mapping):
        problems.add(1, "", f"the file is not a mapping: it begins with keys such as {example}")
    return root if isinstance(root, Mapping) else None


def _decode(text: str | bytes, problems: Problems) -> str | None:
    if isinstance(text, bytes):
        raw = text
        try:
            text = raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            problems.add(raw.count(b"\n", 0, error.start) + 1, "", f"not UTF-8: byte {raw[error.start]:#04x}")
            return None
    bad = UNUSABLE.search(text)
    if bad:
        line = len(LINE_BREAK.findall(text, 0, bad.start())) + 1
        problems.add(line, "", f"character U+{ord(bad[0]):04X} may not stand in a YAML file, only as an escape in"
                               " double quotes")
        return None
    return text


def _explain(error: yaml.YAMLError, text: str) -> tuple[int, str, str]:
    """A line number, an empty path, and the parser's words with what usually helps."""
    if not isinstance(error, yaml.MarkedYAMLError) or error.problem_mark is None:
        return 1, "", f"not YAML: {error}"
    mark, context = error.problem_mark, ""
    if error.context and error.context_mark is not None:
        context = f", {error.context}"
        if error.context_mark.line != mark.line:
            context += f" that begins on line {error.context_mark.line + 1}"
    rows = LINE_BREAK.split(text)
    row = rows[mark.line] if mark.line < len(rows) else ""
    return mark.line + 1, "", f"not YAML: {error.problem}{context}{_hint(row, mark.column)}"


def _hint(row: str, column: int) -> str:
    if "\t" in row[:len(row) - len(row.lstrip())]:
        return "; indent with spaces, not with tabs"
    if column and row[column:column + 1] in ("%", "@", "`", "*", "&", "!"):
        return f"; put a value that begins with {row[column]} in quotes"
    if re.search(r"[\[{,]\s*[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\s*[]},]", row):
        return "; put an IPv6 address in quotes, if it has brackets or stands within them"
    return ""


class _Unreadable(Exception):
    """The rest of the file cannot be read; the reason is among the problems."""


@dataclass(slots=True)
class _Frame:
    """A collection that is being filled."""

    node: Sequence | Mapping
    key: str = ""                                   # mapping: the last key
    line: int = 0                                   # and its line
    due: bool = False                               # its value comes next
    stored: bool = True                             # False drops that value, its key is in error
    merging: bool = False                           # the key is <<
    sources: list[tuple[int, Node]] = field(default_factory=list)       # what << has named


class _Builder:
    def __init__(self, problems: Problems) -> None:
        self.problems = problems
        self.root: Node | None = None
        self._stack: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0

    def build(self, events: Iterator[Event]) -> None:
        for event in events:
            kind = type(event)
            if kind is yaml.ScalarEvent:
                self._scalar(event)
            elif kind is yaml.MappingStartEvent or kind is yaml.SequenceStartEvent:
                self._open(event, Mapping() if kind is yaml.MappingStartEvent else Sequence())
            elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
                self._close()
            elif kind is yaml.AliasEvent:
                self._alias(event)
            elif kind is yaml.DocumentStartEvent:
                self._document(event)

    def _document(self, event: Event) -> None:
        self._documents += 1
        if self._documents > 1:
            self.problems.add(event.start_mark.line + 1, "", "a second document begins here: one file, one document")
            raise _Unreadable

    def _scalar(self, event: Event) -> None:
        node = Scalar(event.value, event.style is None or event.style == "")
        line = event.start_mark.line + 1
        if event.tag is not None or event.anchor is not None:
            self._mark(event, line, node)
        self._put(line, node)

    def _open(self, event: Event, node: Sequence | Mapping) -> None:
        line = event.start_mark.line + 1
        if event.tag is not None or event.anchor is not None:
            self._mark(event, line, node)
        self._put(line, node)
        self._stack.append(_Frame(node))
        if len(self._stack) > MAX_DEPTH:
            self.problems.add(line, self._path(), f"nested deeper than {MAX_DEPTH} levels")
            raise _Unreadable

    def _mark(self, event: Event, line: int, node: Node) -> None:
        """Remember an anchor, refuse a tag that would mean something."""
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if event.tag not in CORE_TAGS and event.tag not in (None, "!"):
            path = self._path()
            which = "this YAML tag" if secret(path) else f"the YAML tag {shown(event.tag)}"
            self.problems.add(line, path, f"{which} is not understood; leave it out")

    def _alias(self, event: Event) -> None:
        line = event.start_mark.line + 1
        node = self._anchors.get(event.anchor)
        if node is None:
            path = self._path()
            what = "" if secret(path) else f" &{event.anchor} before this *{event.anchor}"
            self.problems.add(line, path, f"no anchor{what}; put text that begins with * in quotes")
            raise _Unreadable
        if any(frame.node is node for frame in self._stack):
            self.problems.add(line, self._path(), f"*{event.anchor} stands inside what it names, and has no end")
            raise _Unreadable
        self._put(line, node)

    def _put(self, line: int, node: Node) -> None:
        """Give a node its place: the root, an item, a key, or the value of the key before it."""
        if not self._stack:
            self.root = node
            return
        frame = self._stack[-1]
        if isinstance(frame.node, Sequence):
            frame.node.items.append((line, node))
        elif not frame.due:
            self._key(frame, frame.node.items, line, node)
        else:
            frame.due = False
            if frame.merging:
                frame.sources.append((frame.line, node))
            elif frame.stored:
                frame.node.items[frame.key] = (frame.line, node)

    def _key(self, frame: _Frame, items: dict[str, tuple[int, Node]], line: int, node: Node) -> None:
        frame.line, frame.due, frame.stored, frame.merging = line, True, True, False
        if not isinstance(node, Scalar):
            frame.key = "?"
            self.problems.add(line, self._path(), "a key must be a word, not a list or a mapping")
            raise _Unreadable
        frame.key = node.text
        if node.text in items:
            frame.stored = False
            self.problems.add(line, self._path(), f"given twice; the first one is on line {items[node.text][0]}")
        elif node.text == "<<" and node.plain:
            frame.merging = True

    def _close(self) -> None:
        frame = self._stack[-1]
        if isinstance(frame.node, Mapping) and frame.sources:
            merged: dict[str, tuple[int, Node]] = {}
            for line, source in frame.sources:
                for mapping in self._sources(line, source):
                    merged = mapping.items | merged     # the first of several wins
            frame.node.items = merged | frame.node.items
        self._stack.pop()

    def _sources(self, line: int, node: Node) -> list[Mapping]:
        """The mappings that << names, one or a list."""
        nodes = [item for _, item in node.items] if isinstance(node, Sequence) else [node]
        mappings = {id(item): item for item in nodes if isinstance(item, Mapping)}
        if len([item for item in nodes if isinstance(item, Mapping)]) < len(nodes):
            self.problems.add(line, join(self._path(), "<<"), "only a mapping, or a list of mappings, can be merged")
        return list(mappings.values())

    def _path(self) -> str:
        """Where the next node will stand."""
        path = ""
        for depth, frame in enumerate(self._stack, 1):
            innermost = depth == len(self._stack)
            if isinstance(frame.node, Sequence):
                path += f"[{len(frame.node.items) + innermost}]"
            elif frame.due or not innermost:
                path = step(path, frame.key)
        return path
