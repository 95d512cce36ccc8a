"""TLS for probes: contexts that are built when a check is prepared, tunnels that never touch a socket, and words.

With ``verify`` off nothing is asked of the certificate, and old protocols and weak keys will do: the question is
whether the member serves, not whether it could be trusted. With ``verify`` on the chain must lead to one of the CAs,
and with a name (``sni``, or ``host`` of an https check) the certificate must be for that name; without a name only the
chain is checked.

Every probe makes a full handshake. To resume the last session would save 12% of a probe's CPU
(``tests/bench/tls_cost.py``; TLS 1.3 exchanges keys all the same), cost some KB for each endpoint, and hide a
certificate that has expired since.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from dataclasses import dataclass

from l4ipd.checks import Tls
from l4ipd.expects import printable, quoted
from l4ipd.health import Verdict

RECORDS = (0x15, 0x16)                              # what a TLS server's first byte can be: alert, handshake
REASONS = {                                         # by X509_V_ERR_* (x509_vfy.h)
    9: "certificate is not yet valid", 10: "certificate has expired", 18: "unknown authority: self-signed certificate",
    19: "unknown authority", 20: "unknown authority", 21: "unknown authority", 23: "certificate has been revoked",
    62: "certificate is not for name {name}", 64: "certificate is not for address {name}",
}


class TlsError(ValueError):
    """A check's TLS settings cannot be used: a file is missing, or a name makes no sense."""


@dataclass(slots=True)
class _Context:
    context: ssl.SSLContext
    stamp: tuple[int, ...]                          # of the CA file it was read from


_contexts: dict[tuple[str | None, bool], _Context] = {}


def prepare_tls(tls: Tls) -> None:
    """Read the CA file, again if it has changed, and try the name. Raises TlsError."""
    key = _key(tls)
    stamp = _stamp(tls.verify)
    if key not in _contexts or _contexts[key].stamp != stamp:
        _contexts[key] = _Context(_build(*key), stamp)
    Tunnel(tls)


def _key(tls: Tls) -> tuple[str | None, bool]:
    return tls.verify, bool(tls.name and tls.verify is not None)


def _stamp(path: str | None) -> tuple[int, ...]:
    if not path:
        return ()
    try:
        status = os.stat(path)
    except OSError as error:
        raise TlsError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def _build(verify: str | None, named: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = named
    if verify is None:
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        return context
    context.verify_flags |= getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0)    # the file may be the certificate itself
    if not verify:
        context.load_default_certs()
        return context
    try:
        context.load_verify_locations(verify)
    except ssl.SSLError as error:
        raise TlsError(f"{verify}: is no file of CA certificates in PEM form") from error
    except OSError as error:
        raise TlsError(f"{verify}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    return context


class Tunnel:
    """The TLS side of one connection: bytes of the network in and out, plain bytes in and out. Raises TlsError."""

    __slots__ = ("_tls", "_incoming", "_outgoing", "_object", "_begun")

    def __init__(self, tls: Tls) -> None:
        key = _key(tls)
        if key not in _contexts:
            _contexts[key] = _Context(_build(*key), _stamp(tls.verify))
        self._tls = tls
        self._begun = False                         # something has arrived
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        try:
            self._object = _contexts[key].context.wrap_bio(self._incoming, self._outgoing,
                                                           server_hostname=tls.name or None)
        except (ValueError, ssl.SSLError) as error:
            raise TlsError(f"{tls.name}: is no name that TLS can ask for") from error

    def shake(self, received: bytes) -> Verdict | bool:
        """Go on with the handshake. True: it is done, False: more is needed; :meth:`outgoing` may have to be sent."""
        if received and not self._begun:
            self._begun = True
            if received[0] not in RECORDS:
                return Verdict("L6RSP", f"not TLS: {quoted(received)}")
        self._incoming.write(received)
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError as error:
            return Verdict("L6RSP", reason(error, self._tls.name))
        return True

    def seal(self, plain: bytes) -> bytes:
        """What has to be sent so that the member reads ``plain``."""
        if plain:
            self._object.write(plain)
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
            return Verdict("L6RSP", reason(error, None))
        return plain, True

    def outgoing(self) -> bytes:
        return self._outgoing.read()

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
    side, _, alert = words.partition(" alert ")
    if alert:
        return f"the member refused the handshake: {printable(alert.encode())}"
    return "handshake failed: " + printable(words.encode())
