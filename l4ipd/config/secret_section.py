"""Values of a check that may stand in a file of their own: ``{file: FILE}``. Read here is only where."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from l4ipd.config import values as words
from l4ipd.config.section import Place, Section
from l4ipd.config.yaml_tree import Mapping, Sequence
from l4ipd.model import Secret

HIDDEN = ("data", "password", "send")               # besides headers and what dialogs send
T = TypeVar("T")


def in_file(place: Place) -> bool:
    """Whether a value is to be read from a file, which is done later."""
    return isinstance(place.node, Mapping)


def hidden(section: Section, key: str, reader: Callable[[str], T]) -> T | None:
    """A value that may stand in a file."""
    place = section.entry.get(key)
    return None if place is None or in_file(place) else place.read(reader, None)


def secrets(section: Section, refused: tuple[str, ...]) -> Iterator[Secret]:
    """The values of a check that stand in files, and in which; ``refused`` are headers that it cannot have."""
    for key in HIDDEN:
        if key in section.entry:
            yield from _secret((key,), section.entry[key])
    if "headers" in section.entry and isinstance(section.entry["headers"].node, Mapping):
        for name, value in section.entry["headers"].entries(""):
            if words.TOKEN.fullmatch(name) and name.lower() not in refused:
                yield from _secret(("headers", name), value)
    if "dialog" in section.entry and isinstance(section.entry["dialog"].node, Sequence):
        for number, item in enumerate(section.entry["dialog"].items(""), 1):
            for verb, value in item.entries("") if isinstance(item.node, Mapping) else ():
                if verb == "send":
                    yield from _secret(("dialog", number, verb), value)


def _secret(key: tuple[str | int, ...], place: Place) -> Iterator[Secret]:
    if not in_file(place):
        return
    section = Section(place, ("file",))
    if "file" not in section.entry:
        section.missing("file", "the path of the file with the secret")
    path = section.get("file", _path_of_secret, "")
    if path:
        yield Secret(key, path)


def _path_of_secret(text: str) -> str:
    """It is not repeated: it may be the secret."""
    if not text.startswith("/") or not text.isprintable() or len(text.encode(errors="replace")) > 1023:
        raise ValueError("is not an absolute path")
    return text
