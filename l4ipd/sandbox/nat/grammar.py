"""ipnat's grammar: text to :class:`NatRule`, with the real parser's lookahead, complaints and quirks.

The options of a rule have a fixed order. What an error message names is the token that was read last, so each function
here looks ahead exactly where the real, table-driven parser has to. ``old`` is the grammar of version 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from l4ipd.sandbox.nat.rule import TAG_LENGTH, NatRule
from l4ipd.sandbox.syntax import netdb, operands
from l4ipd.sandbox.syntax.address import SPLIT, Address, Ports
from l4ipd.sandbox.syntax.lexer import COMMENT, COMPARISONS, EOF, NUMBER, STR, Lexer, Tokens

OLD_WORDS = ("age any auto bimap frag from mask map mssclamp port portmap round-robin rdr sticky tag tcp tcpudp to udp "
             "- -> eq ne lt gt le ge")
_ALIASES = {"netmask": "mask", "eq": "="}
OLD_KEYWORDS = {word: _ALIASES.get(word, word) for word in [*OLD_WORDS.split(), "netmask"]}
NEW_WORDS = "dst in inet inet6 on out proto purge rewrite src"
KEYWORDS = OLD_KEYWORDS | {word: word for word in NEW_WORDS.split()}
# What may follow a rule: its end is only seen by what comes next, and anything else spoils the whole rule.
FOLLOWS = frozenset(("rdr", "map", "bimap", "rewrite", STR, COMMENT, EOF))
COMPARE_KINDS = frozenset(COMPARISONS.values()) - {"<>", "><"}


class NatParser:
    """Parses a whole text. ``say`` gets what the real parser prints on standard error while it goes on."""

    def __init__(self, text: str, say: Callable[[str], object], old: bool = False) -> None:
        self.lexer = Lexer(text, OLD_KEYWORDS if old else KEYWORDS)
        self.tokens = Tokens(self.lexer)
        self.say, self.old = say, old
        self.rule = NatRule()
        self.suggest_port = False

    def __iter__(self) -> Iterator[NatRule]:
        """The rules, each as soon as it is complete; raises RuleError where the real parser exits."""
        return self.tokens.rules(lambda: [self._rule()])

    # -- rules

    def _rule(self) -> NatRule:
        tokens = self.tokens
        tokens.kind                                                             # noqa: B018  (cut before the line is taken)
        self.rule = rule = NatRule(line=self.lexer.line)
        self.suggest_port = False
        rule.kind = tokens.expect("rdr", "map", "bimap", "rewrite").kind
        if rule.kind == "rdr":
            self._rdr()
        elif rule.kind == "rewrite":
            self._rewrite()
            tokens.expect(";")
            return rule
        else:
            self._map()
        if not tokens.accept(";") and tokens.kind not in FOLLOWS:
            raise tokens.error("syntax error")
        return rule

    def _rdr(self) -> None:
        tokens, rule = self.tokens, self.rule
        self._interfaces()
        if tokens.kind in ("from", "!"):
            family = self._from(rdr=True)
            has_port = False
        else:
            rule.destination = self._address()
            family = rule.destination.family
            has_port = self._destination_port()
        self._arrow()
        target = self._target()
        self._target_port(required=self.old and has_port)
        self._set_proto()
        self._rdr_options()
        if family and target and family != target:
            raise tokens.error(f"{20 if rule.from_form else 21}.address family mismatch")
        self._finish_rdr(family, target)

    def _finish_rdr(self, family: int, target: int) -> None:
        rule = self.rule
        rule.family = rule.family or family or target or 4
        if not self.suggest_port or rule.has_ports:
            return
        if not self.old:
            rule.tcp = rule.udp = True
        elif not rule.proto:
            self._proto(netdb.TCP)

    def _map(self) -> None:
        """What others have on a gateway, to be stored and listed: the sandbox sends nothing out by it."""
        tokens, rule = self.tokens, self.rule
        self._interfaces()
        if tokens.kind == "from":
            family = self._from(rdr=False)
        else:
            rule.source = self._address()
            family = rule.source.family
        self._arrow()
        rule.new_source = operands.one_or_range(tokens, self.say, self._names)
        if tokens.accept("portmap"):
            self._portmap()
        self._tag()
        self._set_proto()
        if not self.old:
            rule.purge = tokens.accept("purge") is not None
        rule.family = rule.family or rule.new_source.family or family or 4

    def _rewrite(self) -> None:
        tokens, rule = self.tokens, self.rule
        rule.kind += " " + tokens.expect("in", "out").kind
        tokens.expect("on")
        self._interfaces()
        if tokens.accept("proto"):
            self._set_proto()
        tokens.kind                                                             # noqa: B018
        family = self._from(rdr=False)
        self._arrow()
        tokens.expect("src")
        tokens.expect_address()
        rule.new_source = operands.one_or_range(tokens, self.say, self._names)
        tokens.expect("dst")
        tokens.expect_address()
        rule.new_destination = operands.one_or_range(tokens, self.say, self._names)
        if tokens.accept(","):
            rule.target, rule.target_top = operands.pair(tokens)
        rule.purge = tokens.accept("purge") is not None
        rule.family = rule.family or family or 4

    # -- left side

    def _interfaces(self) -> None:
        tokens, rule = self.tokens, self.rule
        names = [tokens.expect(STR).text]
        if tokens.accept(","):
            names.append(tokens.expect(STR).text)
        rule.interfaces = tuple(names)
        if tokens.kind in ("inet", "inet6"):
            rule.family = 6 if tokens.take().kind == "inet6" else 4
        tokens.expect_address()

    def _from(self, rdr: bool) -> int:
        tokens, rule = self.tokens, self.rule
        rule.from_form = True
        if rdr and tokens.accept("!"):
            rule.not_source = True
        tokens.expect("from")
        tokens.expect_address()
        if rdr and not rule.not_source and tokens.accept("!"):
            rule.not_source = True
        rule.source, rule.source_ports = self._object()
        if not rdr and tokens.accept("!"):
            rule.not_destination = True
        tokens.expect("to")
        tokens.expect_address()
        if not rdr and not rule.not_destination and tokens.accept("!"):
            rule.not_destination = True
        rule.destination, rule.destination_ports = self._object()
        first, second = rule.source.family, rule.destination.family
        if first and second and first != second:
            raise tokens.error(f"{16 if rdr else 13}.address family mismatch")
        return first or second

    def _object(self) -> tuple[Address, Ports]:
        address = self._address()
        if not self._port_word():
            return address, Ports()
        if self.tokens.kind in COMPARE_KINDS:
            compare = self.tokens.take().kind
            return address, Ports(compare, operands.port(self.tokens))
        low = operands.port(self.tokens)
        compare = self.tokens.expect("<>", "><", ":").kind
        return address, Ports(compare, low, operands.port(self.tokens))

    def _destination_port(self) -> bool:
        rule = self.rule
        if not self._port_word():
            return False
        rule.port, high = operands.pair(self.tokens)
        rule.port_top = high or rule.port
        return True

    # -- right side

    def _arrow(self) -> None:
        self.tokens.expect("->")
        self.tokens.expect_address()

    def _target(self) -> int:
        """The address behind the arrow; returns its family."""
        read = operands.old_target if self.old else operands.target
        self.rule.new_destination = read(self.tokens, self.say, self._names)
        return self.rule.new_destination.family

    @property
    def _names(self) -> int:
        """The family that host names are looked up in."""
        return 6 if self.rule.family == 6 else 4

    def _address(self) -> Address:
        return operands.address(self.tokens, self.say, self._names)

    def _target_port(self, required: bool) -> None:
        rule, tokens = self.rule, self.tokens
        if required:
            tokens.kind                                                         # noqa: B018
            if tokens.kind != "port":
                raise tokens.error("syntax error")
        if not self._port_word():
            return
        if tokens.accept("="):
            rule.target = operands.port(self.tokens)
            rule.fixed_target = True
            rule.port_top = rule.port_top or rule.port
        else:
            rule.target, rule.target_top = (operands.port(self.tokens),) * 2 if self.old else operands.pair(self.tokens)
            rule.port_top = rule.port_top or rule.target_top

    def _rdr_options(self) -> None:
        rule, tokens = self.rule, self.tokens
        rule.round_robin = tokens.accept("round-robin") is not None
        rule.frag = tokens.accept("frag") is not None
        if tokens.accept("age"):
            first = tokens.expect(NUMBER).number
            rule.age = (first, tokens.expect(NUMBER).number if tokens.accept("/") else first)
        if tokens.accept("sticky"):
            if rule.round_robin or rule.new_destination.kind == SPLIT:
                rule.sticky = True
            else:
                self.say("'sticky' for use with round-robin/IP splitting only\n")
        if tokens.accept("mssclamp"):
            rule.mssclamp = tokens.expect(NUMBER).number & 0xffff
        self._tag()
        if not self.old:
            rule.purge = tokens.accept("purge") is not None

    def _tag(self) -> None:
        if self.tokens.accept("tag"):
            self.rule.tag = self.tokens.expect(STR).text[:TAG_LENGTH]

    def _portmap(self) -> None:
        rule, tokens = self.rule, self.tokens
        kind = tokens.expect("tcp", "udp", "tcpudp").kind
        rule.tcp = kind != "udp"
        rule.udp = kind != "tcp" or self._slash_udp()
        if tokens.accept("auto"):
            rule.auto_ports, rule.map_low, rule.map_high = True, 1024, 65535
        else:
            rule.map_low, rule.map_high = operands.pair(tokens)

    # -- protocols and ports

    def _set_proto(self) -> None:
        kind, rule = self.tokens.kind, self.rule
        if kind not in (NUMBER, STR, "tcp", "udp", "tcpudp"):
            return
        if kind == "tcpudp":
            self.tokens.take()
            tcpudp = True
        else:
            number = self._proto_number()
            tcpudp = number == netdb.TCP and kind == "tcp" and self._slash_udp()
        if rule.proto or rule.has_ports:
            raise self.tokens.error("protocol set twice")
        if tcpudp:
            rule.tcp = rule.udp = True
        else:
            self._proto(number)

    def _slash_udp(self) -> bool:
        if not self.tokens.accept("/"):
            return False
        self.tokens.expect("udp")
        return True

    def _proto_number(self) -> int:
        token = self.tokens.expect(NUMBER, STR, "tcp", "udp")
        number: int | None = token.number
        if token.kind != NUMBER:
            number = netdb.protocol_number(token.text.lower())
        if number is None:
            raise self.tokens.error("unknown protocol")
        if number not in (netdb.TCP, netdb.UDP):
            self.suggest_port = False
        return number

    def _proto(self, number: int) -> None:
        """Set one protocol. Those without ports forget the ports."""
        rule = self.rule
        rule.proto = number
        if number in (netdb.TCP, netdb.UDP):
            rule.tcp, rule.udp = number == netdb.TCP, number == netdb.UDP
            return
        rule.tcp = rule.udp = False
        rule.source_ports = rule.destination_ports = Ports()
        rule.target = rule.target_top = 0
        rule.port = rule.port_top = 0
        rule.fixed_target = False

    def _port_word(self) -> bool:
        if not self.tokens.accept("port"):
            return False
        self.suggest_port = True
        return True
