"""Addresses and ports in NAT rules: pieces of ipnat's grammar, and of ipf's where they are the same.

Each function takes the tokens and looks ahead exactly as far as the real parser has to, because that decides which
token an error message names. ``say`` gets what the real parser prints while it goes on.
"""

from __future__ import annotations

from collections.abc import Callable

from l4ipd.sandbox.syntax import netdb
from l4ipd.sandbox.syntax.address import NORMAL, RANGE, SPLIT, Address, bits_of, mask_of, to_int
from l4ipd.sandbox.syntax.lexer import IPV6, NUMBER, STR, Tokens

FULL = {0: (1 << 32) - 1, 4: (1 << 32) - 1, 6: (1 << 128) - 1}
Say = Callable[[str], object]


def address(tokens: Tokens, say: Say, names: int) -> Address:
    """An address with or without mask. ``names``: the family of host names."""
    if tokens.accept("any"):
        tokens.expect_address(False)
        return Address()
    return masked(tokens, *host(tokens, say, names))


def one_or_range(tokens: Tokens, say: Say, names: int, pair: bool = False) -> Address:
    """What stands behind the arrow: an address, a range, or with ``pair`` two addresses."""
    if tokens.kind == "any":
        return address(tokens, say, names)
    first, family = host(tokens, say, names)
    sign = tokens.kind
    if sign != "-" and (sign != "," or not pair):
        return masked(tokens, first, family)
    tokens.expect(sign)
    tokens.expect_address()
    second, other = host(tokens, say, names)
    if family and other and family != other:
        raise tokens.error(f"{10 if sign == ',' else 11}.address family mismatch")
    tokens.expect_address(False)
    return Address(first, second, family, SPLIT if sign == "," else RANGE)


def target(tokens: Tokens, say: Say, names: int) -> Address:
    """The member of an rdr rule: one address, a pair or a range."""
    found = one_or_range(tokens, say, names, pair=True)
    full = 128 if found.family == 6 else 32
    if found.kind == NORMAL and bits_of(found.mask, found.family or 4) not in (0, full):
        raise tokens.error(f"dest ip bitmask not /{full}")
    return found


def old_target(tokens: Tokens, say: Say, names: int) -> Address:
    """The same in version 4.1, which knows no mask but that of 0/0."""
    first, family = host(tokens, say, names)
    if tokens.accept("/"):
        tokens.expect_address(False)
        if tokens.expect(NUMBER).number or first:
            raise tokens.error("Only 0/0 supported")
        return Address(family=family)
    if tokens.accept(","):
        tokens.expect_address()
        return Address(first, host(tokens, say, names)[0], family, SPLIT)
    tokens.expect_address(False)
    return Address(first, FULL[family], family)


def masked(tokens: Tokens, value: int, family: int) -> Address:
    """An address that has been read, with the mask that may follow."""
    sign = tokens.accept("/", "mask")
    tokens.expect_address(False)
    if sign is None:
        return Address(value, FULL[family], family) if family else Address()          # a plain 0 is any
    if tokens.kind == NUMBER:
        bits = _mask(tokens, family, slash=sign.kind == "/")
    else:
        bits = to_int(tokens.expect(IPV6).text)
        if family != 6:
            raise tokens.error(f"{1 if sign.kind == '/' else 2}.address family mismatch")
    tokens.expect_address(False)
    return Address(value & bits, bits, family)


def _mask(tokens: Tokens, family: int, slash: bool) -> int:
    """A number of bits (behind a slash only), or dots."""
    first = tokens.take().number
    if slash and tokens.kind != ".":
        return 0 if first > (128 if family == 6 else 32) else mask_of(first, family)
    if family == 6:
        raise tokens.error("1.address family mismatch")
    return dots(tokens, first)


def host(tokens: Tokens, say: Say, names: int) -> tuple[int, int]:
    """An address without mask, and its family: 0 for a plain ``0``."""
    token = tokens.expect(STR, NUMBER, IPV6)
    if token.kind == IPV6:
        return to_int(token.text), 6
    if token.kind == STR:
        say(f"Unknown host '{token.text}'\n")
        return 0, names
    if octets := tokens.octets():
        return joined(tokens, [token.number, *octets]), 4
    if tokens.kind == ".":
        return dots(tokens, token.number), 4
    if tokens.kind == IPV6:
        return to_int(tokens.take().text), 6
    return token.number, 4 if token.number else 0


def dots(tokens: Tokens, first: int, least: int = 4) -> int:
    """The rest of an IPv4 address; what lacks of four octets is 0."""
    octets = [first]
    while len(octets) < least or (len(octets) < 4 and tokens.kind == "."):
        tokens.expect(".")
        octets.append(tokens.expect(NUMBER).number)
    return joined(tokens, octets)


def joined(tokens: Tokens, octets: list[int]) -> int:
    """Octets as a number."""
    if max(octets) > 255:
        raise tokens.error("Invalid octet string for IP address")
    return int.from_bytes(bytes([*octets, 0, 0])[:4], "big")


def pair(tokens: Tokens) -> tuple[int, int]:
    """One port, or the two ends of a range."""
    low = port(tokens)
    return low, port(tokens) if tokens.accept("-", ":") else low


def port(tokens: Tokens, unknown: str = "invalid port number") -> int:
    token = tokens.expect(NUMBER, STR)
    number = token.number if token.kind == NUMBER else netdb.port_number(token.text)
    if number is None:
        raise tokens.error(unknown)
    if number > 65535:
        raise tokens.error("invalid port number")
    return number
