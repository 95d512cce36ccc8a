"""ipf's grammar: text to :class:`FilterRule`. Lists in braces make several rules of one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from l4ipd.sandbox.filter.rule import ALL_FLAGS, ICMP_CODES, ICMP_TYPES, TCP_FLAGS, WITH, FilterRule, flag_bits
from l4ipd.sandbox.filter.tail import tail
from l4ipd.sandbox.syntax import netdb, operands
from l4ipd.sandbox.syntax.address import LOOKUP, Address, Ports, to_int, to_text
from l4ipd.sandbox.syntax.lexer import COMMENT, EOF, HEX, IPV6, NUMBER, STR, Lexer, Tokens

ACTIONS = ("pass", "block", "log", "count", "nomatch", "auth", "preauth", "skip", "decapsulate", "call")
_WORDS = ("all and body call code comment dstlist dup-to family fastroute first flags from group head icmp-type in "
          "in-via inet inet6 keep level limit loose match-tag nat newisn no no-icmp-err nolog not now on opt or-block "
          "out out-via port pps proto quick reply-to return-icmp return-icmp-as-dest return-rst route-to rule-ttl set "
          "set-tag strict sync to tos ttl with any hash pool mask age eq ne lt gt le ge frags max-srcs max-per-src "
          "icmp-head rpc")
_ALIASES = {"state-age": "age", "netmask": "mask", "ipopt": "ipopts", "multicast": "mcast", "broadcast": "bcast"}
KEYWORDS = {word: word for word in (*_WORDS.split(), *ACTIONS, *WITH)} | _ALIASES
FOLLOWS = frozenset((*ACTIONS, STR, NUMBER, "@", COMMENT, EOF))
FACILITIES = ("kern user mail daemon auth syslog lpr news uucp cron ftp authpriv audit security logalert console "
              "local0 local1 local2 local3 local4 local5 local6 local7")
PRIORITIES = "emerg alert crit err warn notice info debug"
Change = dict[str, Any]


class FilterParser:
    """Parses a whole text. ``inet6``: -6; ``old``: version 4.1, whose IPv6 rules need it."""

    def __init__(self, text: str, say: Callable[[str], object], inet6: bool = False, old: bool = False) -> None:
        self.lexer = Lexer(text, KEYWORDS)
        self.tokens = Tokens(self.lexer)
        self.say, self.inet6, self.old = say, inet6, old
        self.rule = FilterRule()
        self.lists: list[list[Change]] = []

    def __iter__(self) -> Iterator[FilterRule]:
        """The rules, each as soon as it is complete; raises RuleError where the real parser exits."""
        while self.lexer.position < len(self.lexer.text):
            yield from self._file()

    def _file(self) -> Iterator[FilterRule]:
        tokens, empty = self.tokens, True
        while tokens.kind != EOF or empty:
            if tokens.kind == COMMENT:
                tokens.take()
            elif tokens.kind == STR:
                self._assignment()
            elif tokens.kind == "set":
                self._setting()
            else:
                yield from self._rule()
            empty = False
        tokens.take()

    def _assignment(self) -> None:
        name = self.tokens.take().text
        self.tokens.expect("=")
        self.lexer.variable_next = True
        self.lexer.variables[name] = self.tokens.expect(STR).text
        self.tokens.expect(";")

    def _setting(self) -> None:
        self.tokens.take()
        self.tokens.expect(STR)
        self.tokens.expect(STR, NUMBER, HEX)
        self.tokens.expect(";")

    def _rule(self) -> Iterator[FilterRule]:
        tokens = self.tokens
        tokens.kind                                                             # noqa: B018  (cut before the line is taken)
        self.rule = rule = FilterRule(line=self.lexer.line, family=6 if self.inet6 else 0)
        self.lists = []
        if tokens.accept("@"):
            rule.insert = tokens.expect(NUMBER).number
        if number := tokens.accept(NUMBER):
            rule.collection = number.number
        self._action()
        rule.direction = tokens.expect("in", "out").kind
        while self._option():
            pass
        self._main()
        tail(tokens, rule)
        if not tokens.accept(";") and tokens.kind not in FOLLOWS:
            raise tokens.error("syntax error")
        yield from self._copies()

    def _copies(self) -> Iterator[FilterRule]:
        """One rule for every combination of the lists."""
        rules = [self.rule]
        for choices in self.lists:
            rules = [dataclasses.replace(rule, **choice) for rule in rules for choice in choices]
        for number, rule in enumerate(rules):
            rule.copy = number
            yield rule

    # -- head

    def _action(self) -> None:
        tokens, rule = self.tokens, self.rule
        rule.action = tokens.expect(*ACTIONS).kind
        if rule.action == "log":
            self._log_options()
        elif rule.action == "skip":
            rule.action += f" {tokens.expect(NUMBER).number}"
        elif rule.action == "call":
            now = " now" if tokens.accept("now") else ""
            name = tokens.expect(STR).text
            tokens.expect("/")
            rule.action += f"{now} {name}/{tokens.expect(NUMBER).number}"
        elif rule.action in ("block", "auth"):
            answer = tokens.accept("return-rst", "return-icmp", "return-icmp-as-dest")
            if answer:
                rule.answer = answer.kind
                if answer.kind != "return-rst" and tokens.accept("("):
                    rule.answer += f"({tokens.expect(STR, NUMBER).text})"
                    tokens.expect(")")

    def _log_options(self) -> None:
        """They are printed in an order of their own."""
        tokens, rule = self.tokens, self.rule
        given = set()
        while option := tokens.accept("body", "first", "or-block", "level"):
            if option.kind == "level":
                rule.level = self._level()
            else:
                given.add(option.kind)
        rule.log_options = tuple(name for name in ("body", "first", "or-block") if name in given)

    def _level(self) -> str:
        self.lexer.variable_next = True
        text = self.tokens.expect(STR).text
        facility, dot, priority = text.rpartition(".")
        if not dot:
            facility = "local0"
        if facility not in FACILITIES.split() or priority not in PRIORITIES.split():
            raise self.tokens.error("syntax error")
        return f"{facility}.{priority}"

    def _option(self) -> bool:
        tokens, rule = self.tokens, self.rule
        option = tokens.accept("log", "quick", "on", "to", "route-to", "dup-to", "reply-to", "fastroute")
        if option is None:
            return False
        if option.kind == "log":
            rule.log = True
            self._log_options()
        elif option.kind == "quick":
            rule.quick = True
        elif option.kind == "on":
            self._on()
        elif option.kind == "fastroute":
            rule.routing += ("fastroute",)
        else:
            word = "to" if option.kind == "route-to" else option.kind
            rule.routing += (f"{word} {self._route()}",)
        return True

    def _on(self) -> None:
        tokens, rule = self.tokens, self.rule
        if tokens.accept("{"):
            choices: list[Change] = [{"interfaces": self._names()}]
            while not tokens.accept("}"):
                tokens.accept(",")
                choices.append({"interfaces": (self._name(),)})
            self.lists.append(choices)
            return
        rule.interfaces = self._names()
        if tokens.accept("in-via", "out-via"):
            rule.via = ",".join(self._names())

    def _names(self) -> tuple[str, ...]:
        first = self._name()
        return (first, self._name()) if self.tokens.accept(",") else (first,)

    def _name(self) -> str:
        token = self.tokens.expect(STR, "-")
        return token.text

    def _route(self) -> str:
        if self.tokens.accept("dstlist"):
            self.tokens.expect("/")
            return f"dstlist/{self._name()}"
        name = self._name()
        if not self.tokens.accept(":"):
            return name
        self.tokens.expect_address()
        value, family = self._host()
        return f"{name}:{to_text(value, family)}"

    # -- the packet

    def _main(self) -> None:
        tokens, rule = self.tokens, self.rule
        if tokens.accept("family"):
            self._family(tokens.expect("inet", "inet6").kind)
        elif tokens.kind in ("inet", "inet6"):
            self._family(tokens.take().kind)
        if tokens.accept("tos"):
            rule.tos, rule.everything = tokens.expect(NUMBER, HEX).number, False
        if tokens.accept("ttl"):
            rule.ttl, rule.everything = tokens.expect(NUMBER).number, False
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
        self.lexer.variable_next = True
        token = tokens.expect(STR, NUMBER)
        self.lexer.variable_next = False
        if token.kind == NUMBER:
            rule.proto = token.number
        elif token.text.lower() == "tcp" and tokens.kind == "/":
            tokens.take()
            if tokens.take().text.lower() != "udp":
                raise tokens.error("syntax error")
            rule.tcp_udp = True
        elif token.text.lower() == "tcp-udp":
            rule.tcp_udp = True
        else:
            rule.proto = netdb.protocol_number(token.text.lower())
            if rule.proto is None:
                raise tokens.error("protocol unknown")

    def _from_to(self) -> None:
        tokens, rule = self.tokens, self.rule
        if tokens.accept("from"):
            rule.everything = False
            rule.not_source = self._object("source")
        if tokens.accept("to"):
            rule.everything = False
            rule.not_destination = self._object("destination")

    def _object(self, name: str) -> bool:
        """``from`` or ``to`` and what follows; returns whether it is negated."""
        tokens = self.tokens
        tokens.expect_address()
        negated = tokens.accept("!") is not None
        if tokens.kind != "port":
            self._addresses(name)
        if tokens.accept("port"):
            tokens.expect_address(False)
            if self.rule.proto not in (None, netdb.TCP, netdb.UDP):
                raise tokens.error("port use incorrect")
            self._ports(f"{name}_ports")
        tokens.expect_address(False)
        return negated

    def _addresses(self, name: str) -> None:
        if not self.tokens.accept("{"):
            setattr(self.rule, name, self._address())
            return
        choices: list[Change] = []
        while not self.tokens.accept("}"):
            self.tokens.expect_address()
            choices.append({name: self._address()})
            self.tokens.accept(",")
        self.lists.append(choices)

    def _address(self) -> Address:
        tokens = self.tokens
        if tokens.accept("any"):
            tokens.expect_address(False)
            return Address()
        if tokens.kind in ("pool", "hash"):
            word = tokens.take().kind
            tokens.expect_address(False)
            tokens.expect("/")
            return Address(kind=LOOKUP, name=f"{word}/{tokens.expect(NUMBER, STR).text}")
        if tokens.accept("("):
            tokens.expect_address(False)
            name = tokens.expect(STR).text
            tokens.expect(")")
            rest = f"/{tokens.expect(STR, NUMBER, 'bcast').text}" if tokens.accept("/") else ""
            return Address(kind=LOOKUP, name=f"({name}){rest}")
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
        token = self.tokens.expect(STR, NUMBER, IPV6, HEX)
        if token.kind == IPV6:
            return to_int(token.text), 6
        if token.kind == STR:
            address = netdb.host_address(token.text, 4)
            if address is None:
                self.say(f"Unknown host '{token.text}'\n")
            return address or 0, 4
        if octets := self.tokens.octets() if token.kind == NUMBER else []:
            self.tokens.expect_address(False)
            return operands.joined(self.tokens, [token.number, *octets]), 4
        if token.kind == NUMBER and self.tokens.kind == ".":
            value = operands.dots(self.tokens, token.number, least=2)
            self.tokens.expect_address(False)
            return value, 4
        return token.number, 4

    def _ports(self, name: str) -> None:
        tokens = self.tokens
        compare = tokens.accept("=", "ne", "lt", "gt", "le", "ge", "eq")
        if compare is None:
            low = self._port()
            sign = tokens.expect("><", "<>", ":").kind
            setattr(self.rule, name, Ports(sign, low, self._port()))
        elif compare.kind in ("=", "eq") and tokens.kind == "{":
            tokens.take()
            choices: list[Change] = []
            while not tokens.accept("}"):
                low = self._port()
                span = tokens.accept(":", "><")
                choices.append({name: Ports(span.kind, low, self._port()) if span else Ports("=", low)})
                tokens.accept(",")
            self.lists.append(choices)
        else:
            setattr(self.rule, name, Ports("=" if compare.kind == "eq" else compare.kind, self._port()))

    def _port(self) -> int:
        self.lexer.variable_next = True
        number = operands.port(self.tokens, unknown="service unknown")
        self.lexer.variable_next = False
        return number

    def _flags(self) -> None:
        tokens, rule = self.tokens, self.rule
        if rule.proto != netdb.TCP:
            raise tokens.error("flags with non-TCP rule")
        wanted = 0 if tokens.kind == "/" else self._flag_set()
        rule.flags = wanted, self._flag_set() if tokens.accept("/") else ALL_FLAGS

    def _flag_set(self) -> int:
        token = self.tokens.expect(STR, NUMBER, HEX)
        if token.kind != STR:
            return token.number
        return flag_bits("".join(letter for letter in token.text.upper() if letter in TCP_FLAGS))

    def _icmp(self) -> None:
        rule, tokens = self.rule, self.tokens
        rule.family, rule.everything = rule.family or 4, False
        if rule.proto != (netdb.ICMPV6 if rule.family == 6 else netdb.ICMP):
            raise tokens.error("proto not ipv6-icmp" if rule.family == 6 else "proto not icmp")
        self.lexer.variable_next = True
        rule.icmp_type = self._icmp_number(ICMP_TYPES, "unrecognised icmp type")
        self.lexer.variable_next = False
        if tokens.accept("code"):
            self.lexer.variable_next = True
            rule.icmp_code = self._icmp_number(ICMP_CODES, "syntax error")
            self.lexer.variable_next = False

    def _icmp_number(self, names: dict[str, int], complaint: str) -> int:
        token = self.tokens.expect(STR, NUMBER)
        if token.kind == NUMBER:
            return token.number
        if token.text not in names:
            raise self.tokens.error(complaint)
        return names[token.text]
