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
import re
import ssl
from dataclasses import dataclass

from l4ipd.checks.expect import printable, quoted
from l4ipd.checks.recipe import Tls
from l4ipd.checks.verdict import Verdict
from l4ipd.runtime import regular_file

SIZE_LIMIT = 16 << 20                               # bytes of a file of CA certificates
HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
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


class TlsError(ValueError):
    """A check's TLS settings cannot be used: a file is missing, or a name makes no sense. ``key`` is the setting."""

    def __init__(self, words: str, key: str = "verify") -> None:
        super().__init__(words)
        self.key = key


@dataclass(slots=True)
class _Context:
    context: ssl.SSLContext
    stamp: tuple[tuple[int, ...], ...]              # of the files and directories that its CAs come from


_contexts: dict[tuple[str | None, bool], _Context] = {}     # in use
_prepared: dict[tuple[str | None, bool], _Context] = {}     # to be used once the configuration is accepted


def prepare_tls(tls: Tls) -> None:
    """Read the CA certificates, again if they have changed, and try the name. Raises TlsError.

    Probes go on with what they had until :func:`use_prepared`.
    """
    key = _key(tls)
    stamp = tuple(_stamp(path) for path in _sources(tls.verify))
    known = _prepared.get(key) or _contexts.get(key)
    if known is None or known.stamp != stamp:
        known = _prepared[key] = _Context(_build(*key), stamp)
    _wrap(known.context, tls, ssl.MemoryBIO(), ssl.MemoryBIO())


def use_prepared() -> None:
    """From now on, probes trust the CAs that were read last."""
    _contexts.update(_prepared)
    _prepared.clear()


def _context(tls: Tls) -> ssl.SSLContext:
    key = _key(tls)
    if key not in _contexts:
        if key not in _prepared:
            prepare_tls(tls)
        _contexts[key] = _prepared.pop(key)
    return _contexts[key].context


def _key(tls: Tls) -> tuple[str | None, bool]:
    return tls.verify, bool(tls.name and tls.verify is not None)


def _sources(verify: str | None) -> list[str]:
    """The files and directories that CA certificates come from."""
    if verify is None:
        return []
    if verify:
        return [verify]
    paths = ssl.get_default_verify_paths()
    directories = os.environ.get(paths.openssl_capath_env, paths.openssl_capath)        # SSL_CERT_DIR may be a list
    return [path for path in (paths.cafile, *directories.split(os.pathsep)) if path and os.path.exists(path)]


def _stamp(path: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise TlsError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def _build(verify: str | None, named: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = named
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    if verify is None:
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)    # servers from before RFC 5746
        return context
    context.verify_flags |= getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0)    # the file may be the certificate itself
    if not verify:
        _load_system(context)
        return context
    try:                                            # what else is in it, between certificates, need not be ASCII
        context.load_verify_locations(cadata=regular_file.read(verify, SIZE_LIMIT).decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:     # ValueError: it is empty
        raise TlsError(f"{verify}: is no file of CA certificates in PEM form") from error
    except regular_file.Irregular as error:
        raise TlsError(f"{verify}: {error.strerror}") from error
    except OSError as error:
        raise TlsError(f"{verify}: cannot be read: {(error.strerror or str(error)).lower()}") from error
    return context


def _load_system(context: ssl.SSLContext) -> None:
    """The system's CAs, all of them now: OpenSSL would look into a directory only in the middle of a handshake."""
    for path in _sources(""):
        for file in [path] if os.path.isfile(path) else _hashed(path):
            with contextlib.suppress(ssl.SSLError, OSError):        # a dangling link, a file of something else
                context.load_verify_locations(file)
    if not context.cert_store_stats()["x509_ca"]:
        raise TlsError("yes: this system has no CA certificates: install them, or name a file")


def _hashed(directory: str) -> list[str]:
    """The certificates in a directory that c_rehash(1) has prepared."""
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [os.path.join(directory, name) for name in sorted(names) if HASHED.fullmatch(name)]


class Tunnel:
    """The TLS side of one connection: bytes of the network in and out, plain bytes in and out. Raises TlsError.

    In TLS 1.3 the handshake is over for us before the member has seen whether we have the certificate that it asked
    for (RFC 8446, 2). With ``settle``, for who asks nothing else, it is over only when the member has reacted: a
    session ticket, its data and its goodbye are a yes, an alert is a no. So that there is something to react to, we say
    goodbye with our last words. Members that ask for no certificate have nothing to add, and are not waited for.
    """

    __slots__ = ("shaken", "_tls", "_incoming", "_outgoing", "_object", "_unsent", "_begun", "_settle",
                 "_asked", "_late")

    def __init__(self, tls: Tls, settle: bool = False) -> None:
        self.shaken = False                         # on our side the handshake is over
        self._tls, self._settle = tls, settle
        self._begun = False                         # something has arrived
        self._asked = False                         # the member wants a certificate of ours
        self._late = self._unsent = b""             # what it said after that; what we have to say
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = _wrap(_context(tls), tls, self._incoming, self._outgoing)

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
        return Verdict("L6RSP", DEMANDED if self._asked and words in DEMANDS else words)

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


def _wrap(context: ssl.SSLContext, tls: Tls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
    try:
        return context.wrap_bio(incoming, outgoing, server_hostname=tls.name or None)
    except (ValueError, ssl.SSLError) as error:
        raise TlsError(f"{tls.name}: is no name that TLS can ask for", "sni") from error


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
