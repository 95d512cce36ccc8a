"""ipf's grammar: text to :class:`FilterRule`, as far as l4ip writes it, the samples show it, and others pass, block and
keep state with it. The rest of it (routes, pools, ``with`` and the like) is a syntax error here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from l4ipd.sandbox.filter.rule import (
    ALL_FLAGS,
    ICMP_CODES,
    ICMP_TYPES,
    ICMPV6_TYPES,
    TCP_FLAGS,
    FilterRule,
    flag_bits,
)
from l4ipd.sandbox.syntax import netdb, operands
from l4ipd.sandbox.syntax.address import Address, Ports, to_int
from l4ipd.sandbox.syntax.lexer import COMMENT, EOF, IPV6, NUMBER, STR, Lexer, Tokens

ACTIONS = ("pass", "block", "log", "count")
_WORDS = ("all any body code eq family first flags frags from ge group gt head icmp-type in inet inet6 keep le level "
          "log lt mask ne on or-block out port proto quick set-tag state to")
# Words of the real grammar that nothing here understands: they spoil their rule, instead of ending it.
_OTHERS = ("and auth call comment decapsulate dup-to fastroute in-via match-tag nomatch out-via pps preauth reply-to "
           "return-icmp return-icmp-as-dest return-rst route-to rule-ttl set skip tos ttl with")
KEYWORDS = {word: word for word in (*_WORDS.split(), *_OTHERS.split(), *ACTIONS)} | {"netmask": "mask"}
FACILITIES = ("kern user mail daemon auth syslog lpr news uucp cron ftp authpriv audit security logalert console "
              "local0 local1 local2 local3 local4 local5 local6 local7")
PRIORITIES = "emerg alert crit err warn notice info debug"
FOLLOWS = frozenset((*ACTIONS, STR, NUMBER, "@", COMMENT, EOF))


class FilterParser:
    """Parses a whole text. ``inet6``: -6; ``old``: version 4.1, whose IPv6 rules need it."""

    def __init__(self, text: str, inet6: bool = False, old: bool = False) -> None:
        self.lexer = Lexer(text, KEYWORDS)
        self.tokens = Tokens(self.lexer)
        self.inet6, self.old = inet6, old
        self.rule = FilterRule()
        self.sources: list[Address] = []        # of a list in braces

    def __iter__(self) -> Iterator[FilterRule]:
        """The rules, each as soon as it is complete; raises RuleError where the real parser exits."""
        return self.tokens.rules(self._rule)

    def _rule(self) -> Iterator[FilterRule]:
        tokens = self.tokens
        tokens.kind                                                             # noqa: B018  (cut before the line is taken)
        self.rule = rule = FilterRule(line=self.lexer.line, family=6 if self.inet6 else 0)
        self.sources = []
        if tokens.accept("@"):
            rule.insert = tokens.expect(NUMBER).number
        rule.action = tokens.expect(*ACTIONS).kind
        if rule.action == "log":
            self._log_options()
        rule.direction = tokens.expect("in", "out").kind
        while self._option():
            pass
        self._packet()
        self._tail()
        if not tokens.accept(";") and tokens.kind not in FOLLOWS:
            raise tokens.error("syntax error")
        for number, source in enumerate(self.sources or [rule.source]):
            yield dataclasses.replace(rule, source=source, copy=number)

    # -- head

    def _log_options(self) -> None:
        """They are printed in an order of their own."""
        given = set()
        while option := self.tokens.accept("body", "first", "or-block", "level"):
            given.add(option.kind)
            if option.kind == "level":
                self.rule.level = self._level()
        self.rule.log_options = tuple(name for name in ("body", "first", "or-block") if name in given)

    def _level(self) -> str:
        self.lexer.word_next = True
        text = self.tokens.expect(STR).text
        facility, dot, priority = text.rpartition(".")
        if not dot:
            facility = "local0"
        if facility not in FACILITIES.split() or priority not in PRIORITIES.split():
            raise self.tokens.error("syntax error")
        return f"{facility}.{priority}"

    def _option(self) -> bool:
        option = self.tokens.accept("log", "quick", "on")
        if option is None:
            return False
        if option.kind == "log":
            self.rule.log = True
            self._log_options()
        elif option.kind == "quick":
            self.rule.quick = True
        else:
            self.rule.interfaces = self._names()
        return True

    def _names(self) -> tuple[str, ...]:
        first = self.tokens.expect(STR, "-").text
        return (first, self.tokens.expect(STR, "-").text) if self.tokens.accept(",") else (first,)

    # -- the packet

    def _packet(self) -> None:
        tokens = self.tokens
        if tokens.accept("family"):
            self._family(tokens.expect("inet", "inet6").kind)
        elif tokens.kind in ("inet", "inet6"):
            self._family(tokens.take().kind)
        if tokens.accept("proto"):
            self._proto()
        if not tokens.accept("all"):
            self._from_to()
        if tokens.accept("flags"):
            self._flags()
        if tokens.accept("icmp-type"):
            self._icmp()

    def _family(self, word: str) -> None:
        family = 6 if word == "inet6" else 4
        if family == 4 and self.inet6 or family == 6 and self.old and not self.inet6:
            raise self.tokens.error("syntax error")
        self.rule.family = family

    def _proto(self) -> None:
        rule, tokens = self.rule, self.tokens
        rule.everything = False
        self.lexer.word_next = True
        token = tokens.expect(STR, NUMBER)
        self.lexer.word_next = False
        if token.kind == NUMBER:
            rule.proto = token.number
        elif token.text.lower() == "tcp" and tokens.kind == "/":
            tokens.take()
            if tokens.take().text.lower() != "udp":
                raise tokens.error("syntax error")
            rule.tcp_udp = True
        else:
            rule.proto = netdb.protocol_number(token.text.lower())
            if rule.proto is None:
                raise tokens.error("protocol unknown")

    def _from_to(self) -> None:
        tokens, rule = self.tokens, self.rule
        if tokens.accept("from"):
            rule.everything = False
            rule.not_source, rule.source, rule.source_ports = self._object(listed=True)
        if tokens.accept("to"):
            rule.everything = False
            rule.not_destination, rule.destination, rule.destination_ports = self._object()

    def _object(self, listed: bool = False) -> tuple[bool, Address, Ports]:
        """What follows ``from`` or ``to``: whether it is negated, the address, and the ports."""
        tokens = self.tokens
        tokens.expect_address()
        negated = tokens.accept("!") is not None
        address = Address() if tokens.kind in ("port", "{") else self._address()
        if listed and tokens.accept("{"):
            self._list()
        ports = Ports()
        if tokens.accept("port"):
            tokens.expect_address(False)
            if self.rule.proto not in (None, netdb.TCP, netdb.UDP):
                raise tokens.error("port use incorrect")
            ports = self._ports()
        tokens.expect_address(False)
        return negated, address, ports

    def _list(self) -> None:
        while not self.tokens.accept("}"):
            self.tokens.expect_address()
            self.sources.append(self._address())
            self.tokens.accept(",")

    def _address(self) -> Address:
        tokens = self.tokens
        if tokens.accept("any"):
            tokens.expect_address(False)
            return Address()
        value, family = self._host()
        self._agree(family)
        found = operands.masked(tokens, value, family)
        return found if found.mask or found.value else Address()

    def _agree(self, family: int) -> None:
        """An address of one family makes the rule one of it."""
        rule, tokens = self.rule, self.tokens
        if family == 6 and self.old and not self.inet6 or family == 4 and rule.family == 6 and self.inet6:
            tokens.kind                                                         # noqa: B018
            raise tokens.error("syntax error")
        if rule.family and rule.family != family:
            raise tokens.error("1.src/dst address family mismatch")
        rule.family = family

    def _host(self) -> tuple[int, int]:
        token = self.tokens.expect(NUMBER, IPV6)
        if token.kind == IPV6:
            return to_int(token.text), 6
        if octets := self.tokens.octets():
            self.tokens.expect_address(False)
            return operands.joined(self.tokens, [token.number, *octets]), 4
        if self.tokens.kind == ".":
            value = operands.dots(self.tokens, token.number, least=2)
            self.tokens.expect_address(False)
            return value, 4
        return token.number, 4

    def _ports(self) -> Ports:
        tokens = self.tokens
        compare = tokens.accept("=", "ne", "lt", "gt", "le", "ge", "eq")
        if compare is not None:
            return Ports("=" if compare.kind == "eq" else compare.kind, self._port())
        low = self._port()
        sign = tokens.expect("><", "<>", ":").kind
        return Ports(sign, low, self._port())

    def _port(self) -> int:
        self.lexer.word_next = True
        number = operands.port(self.tokens, unknown="service unknown")
        self.lexer.word_next = False
        return number

    def _flags(self) -> None:
        tokens, rule = self.tokens, self.rule
        if rule.proto != netdb.TCP:
            raise tokens.error("flags with non-TCP rule")
        wanted = 0 if tokens.kind == "/" else self._flag_set()
        rule.flags = wanted, self._flag_set() if tokens.accept("/") else ALL_FLAGS

    def _flag_set(self) -> int:
        letters = self.tokens.expect(STR).text.upper()
        return flag_bits("".join(letter for letter in letters if letter in TCP_FLAGS))

    def _icmp(self) -> None:
        rule, tokens = self.rule, self.tokens
        rule.family, rule.everything = rule.family or 4, False
        if rule.proto != (netdb.ICMPV6 if rule.family == 6 else netdb.ICMP):
            raise tokens.error("proto not ipv6-icmp" if rule.family == 6 else "proto not icmp")
        rule.icmp_type = self._icmp_number(ICMPV6_TYPES if rule.family == 6 else ICMP_TYPES, "unrecognised icmp type")
        if tokens.accept("code"):
            rule.icmp_code = self._icmp_number(ICMP_CODES, "syntax error")

    def _icmp_number(self, names: dict[str, int], complaint: str) -> int:
        self.lexer.word_next = True
        token = self.tokens.expect(STR, NUMBER)
        self.lexer.word_next = False
        if token.kind == NUMBER:
            return token.number
        if token.text not in names:
            raise self.tokens.error(complaint)
        return names[token.text]

    # -- what is done with it

    def _tail(self) -> None:
        tokens, rule = self.tokens, self.rule
        while tokens.accept("keep"):
            kind = tokens.expect("state", "frags").kind
            rule.keep_frags |= kind == "frags"
            if kind == "state":
                rule.keep_state, rule.state_options = True, self._state_options()
        if tokens.accept("head"):
            rule.head = tokens.expect(STR, NUMBER).text
        if tokens.accept("group"):
            rule.group = tokens.expect(STR, NUMBER).text
        if tokens.accept("set-tag"):
            for kind in ("(", "log", "="):
                tokens.expect(kind)
            rule.log_tag = tokens.expect(NUMBER).number
            tokens.expect(")")

    def _state_options(self) -> tuple[str, ...]:
        """Stored and listed, whatever they are: ``strict``, ``limit 100``."""
        given: list[str] = []
        if self.tokens.accept("("):
            while not self.tokens.accept(")"):
                words = [self.tokens.expect(STR).text]
                while number := self.tokens.accept(NUMBER, "/"):
                    words.append(number.text)
                given.append(" ".join(words).replace(" / ", "/"))
                self.tokens.accept(",")
        return tuple(given)
