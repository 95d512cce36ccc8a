"""TLS for probes: tunnels that never touch a socket, and words (their contexts: :mod:`l4ipd.checks.tls_contexts`).

Every probe makes a full handshake. To resume the last session would save 12% of a probe's CPU
(``tests/bench/tls_cost.py``; TLS 1.3 exchanges keys all the same), cost some KB for each endpoint, and hide a
certificate that has expired since.
"""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Callable
from typing import Any

from l4ipd.checks.certificate import names_match
from l4ipd.checks.expect import printable, quoted
from l4ipd.checks.recipe import MEMBER, Tls
from l4ipd.checks.tls_contexts import context_of, wrap
from l4ipd.checks.verdict import Verdict

RECORDS = (0x15, 0x16)                              # what a TLS server's first byte can be: alert, handshake
CHANGE, HANDSHAKE, SEALED = 0x14, 0x16, 0x17        # kinds of record (RFC 8446, 5.1)
HEADER = 5                                          # bytes before each record: kind, version, length
CERTIFICATE = 11                                    # a handshake message (RFC 8446, 4)
DEMANDED = "the member demands a client certificate"
REASONS = {                                         # by X509_V_ERR_* (x509_vfy.h)
    9: "certificate is not yet valid", 10: "certificate has expired", 18: "unknown authority: self-signed certificate",
    19: "unknown authority", 20: "unknown authority", 21: "unknown authority", 23: "certificate has been revoked",
    62: "certificate is not for name {name}", 64: "certificate is not for address {name}",
}


class Tunnel:
    """The TLS side of one connection: bytes of the network in and out, plain bytes in and out. Raises TlsError.

    In TLS 1.3 the handshake is over for us before the member has seen whether we have the certificate that it asked
    for (RFC 8446, 2). With ``settle``, for who asks nothing else, it is over only when the member has reacted: a
    session ticket, its data and its goodbye are a yes, an alert is a no. So that there is something to react to, we say
    goodbye with our last words. Members that ask for no certificate have nothing to add, and are not waited for.
    """

    __slots__ = ("shaken", "_tls", "_address", "_seen", "_incoming", "_outgoing", "_object", "_unsent", "_begun",
                 "_settle", "_asked", "_late")

    def __init__(self, tls: Tls, settle: bool = False, address: str = "",
                 seen: Callable[[bytes], object] = lambda der: None) -> None:
        """``address`` is the member's; ``seen`` gets its certificate (DER), once the handshake is over."""
        self.shaken = False                         # on our side the handshake is over
        self._tls, self._settle, self._address, self._seen = tls, settle, address, seen
        self._begun = False                         # something has arrived
        self._asked = False                         # the member wants a certificate of ours
        self._late = self._unsent = b""             # what it said after that; what we have to say
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = wrap(context_of(tls), tls, self._incoming, self._outgoing)

    def shake(self, received: bytes) -> Verdict | bool:
        """Go on with the handshake. True: it is done, False: more is needed; :meth:`outgoing` may have to be sent."""
        if received and not self._begun:
            self._begun = True
            if received[0] not in RECORDS:
                return Verdict("L6RSP", f"not TLS: {quoted(received)}")
        if self.shaken:
            return self._reacted(received)
        self._incoming.write(received)
        try:
            self._object.do_handshake()
            self.shaken = True
            self._seen(self._object.getpeercert(True) or b"")
            if not self._named():
                return self._impostor()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            return self._refused(error)
        self._unsent = self._outgoing.read()
        self._asked = self._asked or certifies(self._unsent)
        if self.shaken and self._settle and self._asked and self._object.version() == "TLSv1.3":
            self._unsent += self.farewell()
            return False
        return self.shaken

    def _named(self) -> bool:
        """Whether the certificate is for whom ``verify_host`` says."""
        host = self._tls.host
        if host is None:
            return True
        names: Any = (self._object.getpeercert() or {}).get("subjectAltName", ())
        return names_match(names, self._address if host == MEMBER else host)

    def _impostor(self) -> Verdict:
        host = self._tls.host
        return Verdict("L6RSP", f"certificate is not for {self._address}, the member" if host == MEMBER else
                       f"certificate is not for {host}")

    def outgoing(self) -> bytes:
        """What has to be sent."""
        unsent, self._unsent = self._unsent, b""
        return unsent + self._outgoing.read()

    def _reacted(self, received: bytes) -> Verdict | bool:
        """Whether a whole record has come, and what it says; one that goes on with what came before says enough."""
        opened = self.open(received)
        if isinstance(opened, Verdict):
            return opened
        self._late += received
        plain, over = opened
        return bool(plain) or over or len(self._late) >= HEADER + int.from_bytes(self._late[3:HEADER], "big")

    def _refused(self, error: ssl.SSLError) -> Verdict:
        words = reason(error, self._tls.name)
        return Verdict("L6RSP", DEMANDED if self._asked and words in DEMANDS and self._tls.cert is None else words)

    def seal(self, plain: bytes) -> bytes | Verdict:
        """What has to be sent so that the member reads ``plain``, or what went wrong."""
        try:
            if plain:
                self._object.write(plain)
        except ssl.SSLError as error:
            return self._refused(error)
        return self._outgoing.read()

    def open(self, received: bytes) -> tuple[bytes, bool] | Verdict:
        """The plain bytes in what was received, and whether the member has ended the conversation; or what went wrong.
        """
        self._incoming.write(received)
        plain = b""
        try:
            while chunk := self._object.read(16384):
                plain += chunk
        except ssl.SSLWantReadError:
            return plain, False
        except ssl.SSLZeroReturnError:
            pass
        except ssl.SSLError as error:
            return self._refused(error)
        return plain, True

    def farewell(self) -> bytes:
        """What says that we end the conversation."""
        with contextlib.suppress(ssl.SSLError, ValueError):
            self._object.unwrap()
        return self._outgoing.read()


def reason(error: ssl.SSLError, name: str | None) -> str:
    """Why a handshake failed, in words."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return REASONS.get(error.verify_code, error.verify_message).format(name=name)
    words = (error.reason or "failed without a reason").lower().replace("_", " ")
    _, _, alert = words.partition(" alert ")
    if words == "tlsv1 unrecognized name":          # the alerts of RFC 6066 have no such word
        alert = words[len("tlsv1 "):]
    if alert:
        return REFUSED + printable(alert.encode())
    return "handshake failed: " + printable(words.encode())


REFUSED = "the member refused the handshake: "
#: how servers refuse whom they have asked for a certificate in vain: OpenSSL, Go and others, before TLS 1.3 and in it
DEMANDS = frozenset(REFUSED + alert for alert in (
    "certificate required", "handshake failure", "bad certificate", "no certificate", "certificate unknown",
    "access denied"))


def certifies(flight: bytes) -> bool:
    """Whether a flight of a client's handshake holds its certificate, be it an empty one: it was asked for one.

    The message is in the clear before TLS 1.3. There it is sealed; but the client's last flight is Finished alone, one
    sealed record, when it was not asked (RFC 8446, 2).
    """
    at = sealed = 0
    clear = True                                    # up to the change of cipher, after which a kind is all that is told
    while at + HEADER < len(flight):
        kind = flight[at]
        if kind == HANDSHAKE and clear and flight[at + HEADER] == CERTIFICATE:
            return True
        clear = clear and kind != CHANGE
        sealed += kind == SEALED
        at += HEADER + int.from_bytes(flight[at + 3:at + HEADER], "big")
    return sealed > 1
