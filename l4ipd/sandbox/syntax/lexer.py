"""The tokens of IPFilter's rule files, cut as its own lexer cuts them.

ipf and ipnat share one lexer and differ in the keywords. It is context sensitive: after words like ``from`` or ``->``
an address is expected (:attr:`Lexer.expect_address`), which changes what ``-``, ``<`` and hexadecimal digits mean. A
token must therefore be cut only when the parser needs it, never earlier.

Kinds of tokens: a keyword (the word itself), a punctuation character, and STR NUMBER IPV6 COMMENT EOF.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

STR, NUMBER, IPV6, COMMENT, EOF = "STR", "NUMBER", "IPV6", "COMMENT", "EOF"
MOST_EXPANSIONS = 10000                 # a variable may contain itself
PUNCTUATION = frozenset("=,/;{}()@")
COMPARISONS = {"=": "=", "eq": "=", "!=": "ne", "ne": "ne", "lt": "lt", "<": "lt", "gt": "gt", ">": "gt",
               "le": "le", "<=": "le", "ge": "ge", ">=": "ge", "<>": "<>", "><": "><"}
R = TypeVar("R")
_SPACE = re.compile(r"(?:[ \t\r\n]|\\\n)+")
_OCTETS = re.compile(r"\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?=[\s/,;])")
_WORD = re.compile(r"[^ \t\r\n#$'\"=,/;{}()@\0!<>:\\-]+")
_MAYBE_IPV6 = re.compile(r"[0-9a-fA-F:.]{1,46}")
_HEXWORD = re.compile(r"[0-9a-fA-F]+\Z")
_DIGITS = re.compile(r"[0-9]+")
_VARIABLE = re.compile(r"\$(?:\{([^}]*)\}|([A-Za-z][A-Za-z0-9_]*))")


class RuleError(Exception):
    """What the real parser prints before it exits."""

    def __init__(self, message: str, text: str, line: int) -> None:
        super().__init__(f'{message} error at "{text}", line {line}')


class Token(NamedTuple):
    kind: str
    text: str = ""
    number: int = 0                     # of NUMBER
    line: int = 1

    @property
    def shown(self) -> str:
        """How the token appears in an error message."""
        if self.kind == EOF:
            return ""
        if self.kind in (STR, NUMBER):
            return self.text
        return "<unknown>" if self.kind in (IPV6, COMMENT, "<>", "><") else self.kind


class Lexer:
    """Cuts ``text`` from ``position`` on. A NUL byte ends the file for the parser, but not the text."""

    def __init__(self, text: str, keywords: Mapping[str, str]) -> None:
        self.text, self.keywords = text, keywords
        self.position = 0
        self.line = 1
        self.expect_address = False
        self.word_next = False      # the next word is a value, not a keyword
        self.variables: dict[str, str] = {}
        self.prior = Token(EOF)         # the token before
        self._expansions = 0

    def next(self) -> Token:
        token = self._cut()
        if token.kind == STR:
            self.expect_address = False
        self.prior = token
        return token

    def octets(self) -> list[int]:
        """Cut what follows the first number of an IPv4 address at once, if it is plainly there."""
        match = _OCTETS.match(self.text, self.position)
        if match is None:
            return []
        self.position = match.end()
        self.prior = Token(NUMBER, match.group(3), int(match.group(3)), self.line)
        return [int(part) for part in match.groups()]

    # -- cutting

    def _cut(self) -> Token:
        self._skip(_SPACE)
        while self.text.startswith("$", self.position) and self._expand():
            self._skip(_SPACE)
        text, at = self.text, self.position
        if at >= len(text):
            self.line, self.expect_address, self.word_next = 1, False, False
            return Token(EOF)
        c = text[at]
        if c == "\0":
            self.position += 1
            return Token(EOF, line=self.line)
        if c == "#":
            end = text.find("\n", at)
            return self._take(len(text) if end < 0 else end, COMMENT)
        if c in "'\"":
            return self._quoted(c)
        return self._punctuation(c) or self._value(c)

    def _punctuation(self, c: str) -> Token | None:
        two = self.text[self.position:self.position + 2]
        if c in PUNCTUATION or c == ".":
            return self._take(self.position + 1, c)
        if c == "-":
            return self._take(self.position + 2, "->") if two == "->" else self._take(self.position + 1, "-")
        if c == "!":
            return self._take(self.position + 2, "ne") if two == "!=" else self._take(self.position + 1, "!")
        if c in "<>" and not self.expect_address:
            if two in ("<=", ">=", "<>", "><"):
                return self._take(self.position + 2, COMPARISONS[two])
            return self._take(self.position + 1, COMPARISONS[c])
        return None

    def _value(self, c: str) -> Token:
        text, at = self.text, self.position
        if self.expect_address and (match := _MAYBE_IPV6.match(text, at)):
            before = str(self.prior.number) if self.prior.kind == NUMBER and c == ":" else ""
            if is_ipv6(before + match.group()):
                return self._ipv6(match.end(), before + match.group())
        if c == ":":
            return self._take(at + 1, ":")
        if match := _DIGITS.match(text, at):
            return self._take(match.end(), NUMBER, int(match.group()) & 0xffffffff)
        return self._word()

    def _word(self) -> Token:
        """A word ends at a blank or punctuation; a minus belongs to it unless an address is expected."""
        text, start = self.text, self.position
        end, tried, keyword = start, False, True
        while end < len(text):
            match = _WORD.match(text, end)
            c = text[end]
            if match:
                end = match.end()
            elif c == ":" and not tried and _HEXWORD.match(text[start:end]):
                maybe = _MAYBE_IPV6.match(text, start)
                if maybe and is_ipv6(maybe.group()):
                    return self._ipv6(maybe.end(), maybe.group())
                tried = True
            elif c == "-" and text.startswith("->", end):
                end += 2
                break
            elif (c == "-" and not self.expect_address) or (c in "<>" and self.expect_address) \
                    or (c == ":" and tried) or end == start:
                end += 1
                keyword = keyword and c != "\\"
            else:
                break
        word = text[start:end]
        if self.word_next or not keyword:
            self.word_next = False
            return self._take(end, STR)
        return self._take(end, self.keywords.get(word.lower(), STR))

    def _quoted(self, quote: str) -> Token:
        end = self.text.find(quote, self.position + 1)
        if end < 0:
            raise RuleError("syntax error", "", self.line)
        body = self.text[self.position + 1:end].replace("\n", " ")
        token = self._take(end + 1, STR)
        return Token(STR, body, line=token.line)

    def _ipv6(self, end: int, address: str) -> Token:
        self.expect_address = False
        token = self._take(end, IPV6)
        return Token(IPV6, address, line=token.line)

    def _take(self, end: int, kind: str, number: int = 0) -> Token:
        text = self.text[self.position:end]
        self.line += text.count("\n")
        self.position = end
        return Token(kind, text, number, self.line)

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.position)
        if match:
            self.line += match.group().count("\n")
            self.position = match.end()

    def _expand(self) -> bool:
        match = _VARIABLE.match(self.text, self.position)
        value = self.variables.get(match.group(1) or match.group(2)) if match else None
        if match is None or value is None:
            return False
        self._expansions += 1
        if self._expansions > MOST_EXPANSIONS:
            raise RuleError("too many variables", match.group(), self.line)
        self.text = self.text[:self.position] + value + self.text[match.end():]
        return True


class Tokens:
    """One token of lookahead over a lexer, and the complaints that name the token read last."""

    def __init__(self, lexer: Lexer) -> None:
        self.lexer = lexer
        self.last = Token(EOF)
        self._ahead: Token | None = None

    @property
    def kind(self) -> str:
        """The kind of the next token, which is cut now if it was not before."""
        if self._ahead is None:
            self._ahead = self.last = self.lexer.next()
        return self._ahead.kind

    def take(self) -> Token:
        kind = self.kind                # cuts it
        assert self._ahead is not None and self._ahead.kind == kind
        token, self._ahead = self._ahead, None
        return token

    def accept(self, *kinds: str) -> Token | None:
        return self.take() if self.kind in kinds else None

    def expect(self, *kinds: str) -> Token:
        if self.kind not in kinds:
            raise self.error("syntax error")
        return self.take()

    def error(self, message: str) -> RuleError:
        return RuleError(message, self.last.shown, self.lexer.line)

    def rules(self, rule: Callable[[], Iterable[R]]) -> Iterator[R]:
        """What ``rule()`` makes of each rule of the text, as soon as it is complete."""
        while self.lexer.position < len(self.lexer.text):
            yield from self._file(rule)

    def _file(self, rule: Callable[[], Iterable[R]]) -> Iterator[R]:
        """One parse: to the end of the text, or to a NUL byte. It may not be empty."""
        empty = True
        while self.kind != EOF or empty:
            if self.kind == COMMENT:
                self.take()
            elif self.kind == STR:
                self.assignment()
            else:
                yield from rule()
            empty = False
        self.take()

    def assignment(self) -> None:
        """``name = value;``, where a rule could begin."""
        name = self.expect(STR).text
        self.expect("=")
        self.lexer.word_next = True
        self.lexer.variables[name] = self.expect(STR).text
        self.expect(";")
        self.lexer.word_next = False

    def octets(self) -> list[int]:
        """The other three octets of an IPv4 address, if they are plainly there: a shortcut for six tokens."""
        found = self.lexer.octets() if self._ahead is None else []
        if found:
            self.last = self.lexer.prior
        return found

    def expect_address(self, expected: bool = True) -> None:
        self.lexer.expect_address = expected


def is_ipv6(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return False
    return True
