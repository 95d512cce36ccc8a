"""getopt(3), with the words of its complaints."""

from __future__ import annotations

from collections.abc import Sequence


class BadOption(Exception):
    """The line that getopt prints; the usage follows it."""


def getopt(name: str, words: Sequence[str], letters: str,
           bsd: bool = False) -> tuple[list[tuple[str, str]], list[str]]:
    """Options in order, and the other words. ``letters`` as in getopt(3): a colon marks those with an argument.

    ``bsd``: complain as FreeBSD's does.
    """
    options: list[tuple[str, str]] = []
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return options, others + rest
        if not word.startswith("-") or word == "-":
            others.append(word)
            continue
        letter_words = word[1:]
        while letter_words:
            letter, letter_words = letter_words[0], letter_words[1:]
            at = letters.find(letter)
            shown = letter if bsd else f"'{letter}'"
            if at < 0 or letter == ":":
                raise BadOption(f"{name}: {'illegal' if bsd else 'invalid'} option -- {shown}\n")
            argument = ""
            if letters[at + 1:at + 2] == ":":
                if not letter_words and not rest:
                    raise BadOption(f"{name}: option requires an argument -- {shown}\n")
                argument, letter_words = letter_words or rest.pop(0), ""
            options.append((letter, argument))
    return options, others
