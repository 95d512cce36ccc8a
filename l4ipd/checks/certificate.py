"""What certificates say: until when they are good, and whom they are for. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from datetime import datetime, timezone
from ipaddress import ip_address

from l4ipd.checks.ber import elements

VERSION, UTC_TIME, TIME = 0xA0, 0x17, 0x18          # tags (RFC 5280, 4.1)
PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.*?)-----END CERTIFICATE-----", re.DOTALL)


def not_after(der: bytes) -> float | None:
    """Until when it is good, in seconds since the epoch; None if that cannot be read."""
    try:
        (whole,) = elements(der)
        fields = [each for each in elements(next(elements(whole.content)).content) if each.tag != VERSION]
        _, end = elements(fields[3].content)        # serial number, algorithm, issuer, validity
        text = end.content.decode("ascii")
        if end.tag == UTC_TIME:                     # two digits of the year: 50 is 1950 (RFC 5280, 4.1.2.5.1)
            text = ("19" if text >= "50" else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc).timestamp()
    except (ValueError, IndexError, StopIteration):
        return None


def first(pem: bytes) -> bytes:
    """The first certificate of a PEM file, as DER; empty if there is none."""
    found = PEM.search(pem)
    try:
        return base64.b64decode(found[1]) if found else b""
    except binascii.Error:
        return b""


def names_match(names: Iterable[tuple[str, str]], host: str) -> bool:
    """Whether one of a certificate's alternative names, as :meth:`ssl.SSLObject.getpeercert` has them, is ``host``.

    A star may stand for the first label of a name (RFC 9525, 6.3). An address may be given as a name, too.
    """
    try:
        address = ip_address(host)
    except ValueError:
        wanted = host.lower().rstrip(".")
        parent = wanted.partition(".")[2]
        good = {wanted, f"*.{parent}"} if "." in parent else {wanted}
        return any(kind == "DNS" and name.lower().rstrip(".") in good for kind, name in names)
    return any(_is_address(name.strip(), kind, address) for kind, name in names)


def _is_address(name: str, kind: str, address: object) -> bool:
    try:
        return kind in ("IP Address", "DNS") and ip_address(name) == address
    except ValueError:
        return False
