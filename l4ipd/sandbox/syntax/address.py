"""Addresses and ports as rules name them, how they are printed, and what is among them."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from l4ipd.sandbox.syntax import netdb

NORMAL, SPLIT, RANGE = "normal", "split", "range"
COMPARISON_SIGNS = {"=": "=", "ne": "!=", "lt": "<", "gt": ">", "le": "<=", "ge": ">="}


@dataclass(frozen=True, slots=True)
class Address:
    """An address with its mask, or two addresses (a pair, a range). ``family`` 0: not known yet."""

    value: int = 0
    mask: int = 0
    family: int = 0
    kind: str = NORMAL


@dataclass(frozen=True, slots=True)
class Ports:
    """``port = 80``, ``port 80:90``: a comparison, or nothing."""

    compare: str = ""
    low: int = 0
    high: int = 0


def ports_match(ports: Ports, port: int) -> bool:
    low, high = ports.low, ports.high
    return {"": True, "=": port == low, "ne": port != low, "lt": port < low, "gt": port > low, "le": port <= low,
            "ge": port >= low, "<>": port < low or port > high, "><": low < port < high,
            ":": low <= port <= high}[ports.compare]


def show_ports(ports: Ports, proto: int, numeric: bool) -> str:
    """``port = http``; in numbers with ``numeric``."""
    if ports.compare == ":":
        return f"port {ports.low}:{ports.high}"
    if ports.compare in ("<>", "><"):
        return f"port {ports.low} {ports.compare} {ports.high}"
    port = str(ports.low) if numeric else netdb.port_name(ports.low, proto)
    return f"port {COMPARISON_SIGNS[ports.compare]} {port}"


def show_address(address: Address, family: int, *, old: bool = False, any_word: bool = False) -> str:
    value, mask = address.value, address.mask
    if address.kind in (SPLIT, RANGE):
        sign = "," if address.kind == SPLIT else "-"
        return f"{to_text(value, family)}{sign}{to_text(mask, family)}"
    bits = bits_of(mask, family)
    if not value and not mask and (any_word or family == 6):
        return "any"
    if family == 4 and not value and not old:
        return f"0/{-1 if bits is None else bits}"
    return f"{to_text(value, family)}/{to_text(mask, family) if bits is None else bits}"


def to_int(text: str) -> int:
    """An address in text form as an integer; a zone is dropped."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    return int.from_bytes(socket.inet_pton(family, text.partition("%")[0]), "big")


def to_text(value: int, family: int) -> str:
    """As inet_ntop(3) has it; ``family`` is 4 or 6."""
    if family == 6:
        return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))
    return socket.inet_ntop(socket.AF_INET, value.to_bytes(4, "big"))


def mask_of(bits: int, family: int) -> int:
    width = 128 if family == 6 else 32
    bits = min(bits, width)
    return ((1 << bits) - 1) << (width - bits)


def bits_of(mask: int, family: int) -> int | None:
    """How many leading ones; None for a mask with holes."""
    bits = bin(mask).count("1")
    return bits if mask == mask_of(bits, family) else None
