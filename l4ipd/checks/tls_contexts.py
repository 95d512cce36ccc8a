"""What probes shake hands with: contexts, built when a check is prepared, and anew when its files have changed.

With ``verify`` off nothing is asked of the certificate, and old protocols and weak keys will do: the question is
whether the member serves, not whether it could be trusted. With ``verify`` on the chain must lead to one of the CAs,
and with a name (``sni``, or ``host`` of an https check) the certificate must be for that name; without a name only the
chain is checked. Where ``verify_host`` says whom it must be for, that is looked at after the handshake
(:mod:`l4ipd.checks.certificate`), since OpenSSL would ask for the very name that it verifies.
"""

from __future__ import annotations

import contextlib
import os
import re
import ssl
from dataclasses import dataclass
from typing import NamedTuple

from l4ipd.checks.recipe import Tls
from l4ipd.runtime import regular_file

SIZE_LIMIT = 16 << 20                               # bytes of a file of certificates
HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
PRIVATE_KEY = re.compile(rb"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")


class TlsError(ValueError):
    """A check's TLS settings cannot be used: a file is missing, or a name makes no sense. ``key`` is the setting."""

    def __init__(self, words: str, key: str = "verify") -> None:
        super().__init__(words)
        self.key = key


@dataclass(slots=True)
class _Context:
    context: ssl.SSLContext
    stamp: tuple[tuple[int, ...], ...]              # of the files and directories that its CAs come from


class Wanted(NamedTuple):
    """What contexts differ in."""

    verify: str | None
    named: bool                                     # OpenSSL is to compare the name that is asked for
    cert: str | None
    key: str | None


_contexts: dict[Wanted, _Context] = {}              # in use
_prepared: dict[Wanted, _Context] = {}              # to be used once the configuration is accepted


def prepare_tls(tls: Tls) -> None:
    """Read CAs, certificate and key, again if they have changed, and try the name. Raises TlsError.

    Probes go on with what they had until :func:`use_prepared`.
    """
    wanted = _wanted(tls)
    stamp = tuple(_stamp(path, "verify") for path in _sources(tls.verify))
    stamp += tuple(_stamp(path, key) for key, path in (("cert", tls.cert), ("key", tls.key)) if path)
    known = _prepared.get(wanted) or _contexts.get(wanted)
    if known is None or known.stamp != stamp:
        known = _prepared[wanted] = _Context(_build(wanted), stamp)
    wrap(known.context, tls, ssl.MemoryBIO(), ssl.MemoryBIO())


def use_prepared() -> None:
    """From now on, probes use what was read last."""
    _contexts.update(_prepared)
    _prepared.clear()


def context_of(tls: Tls) -> ssl.SSLContext:
    """The one to be used. Raises TlsError, if nobody has prepared it."""
    wanted = _wanted(tls)
    if wanted not in _contexts:
        if wanted not in _prepared:
            prepare_tls(tls)
        _contexts[wanted] = _prepared.pop(wanted)
    return _contexts[wanted].context


def _wanted(tls: Tls) -> Wanted:
    return Wanted(tls.verify, bool(tls.name and tls.verify is not None and tls.host is None), tls.cert, tls.key)


def _sources(verify: str | None) -> list[str]:
    """The files and directories that CA certificates come from."""
    if verify is None:
        return []
    if verify:
        return [verify]
    paths = ssl.get_default_verify_paths()
    directories = os.environ.get(paths.openssl_capath_env, paths.openssl_capath)        # SSL_CERT_DIR may be a list
    return [path for path in (paths.cafile, *directories.split(os.pathsep)) if path and os.path.exists(path)]


def _stamp(path: str, key: str) -> tuple[int, ...]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise TlsError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}", key) from error
    return status.st_mtime_ns, status.st_size, status.st_ino


def _build(wanted: Wanted) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = wanted.named
    context.options |= getattr(ssl, "OP_NO_RENEGOTIATION", 0)
    if wanted.verify is None:
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)    # servers from before RFC 5746
    else:
        context.verify_flags |= getattr(ssl, "VERIFY_X509_PARTIAL_CHAIN", 0)    # the file may be the certificate itself
        _trust(context, wanted.verify)
    if wanted.cert is not None:
        _identify(context, wanted.cert, wanted.key)
    return context


def _trust(context: ssl.SSLContext, verify: str) -> None:
    if not verify:
        _load_system(context)
        return
    try:                                            # what else is in it, between certificates, need not be ASCII
        context.load_verify_locations(cadata=_read(verify, "verify").decode("ascii", "ignore"))
    except (ssl.SSLError, ValueError) as error:     # ValueError: it is empty
        if isinstance(error, TlsError):
            raise
        raise TlsError(f"{verify}: is no file of CA certificates in PEM form") from error


def _identify(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """Let members that ask who we are see a certificate of ours."""
    where, holder = ("cert", cert) if key is None else ("key", key)
    if CERTIFICATE not in _read(cert, "cert"):
        raise TlsError(f"{cert}: has no certificate in PEM form", "cert")
    if not PRIVATE_KEY.search(_read(holder, where)):
        raise TlsError(f"{holder}: has no private key in PEM form" + ("" if key else ", and there is no key:"), where)
    try:
        context.load_cert_chain(cert, key, _no_password)
    except _Encrypted:
        raise TlsError(f"{holder}: its private key is encrypted, and a daemon has nobody to ask for the password",
                       where) from None
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise TlsError(f"{holder}: its private key is not that of the certificate in {cert}", where) from None
        words = (error.reason or "it is damaged").lower().replace("_", " ")
        raise TlsError(f"{cert}: the certificate or its key cannot be used: {words}", "cert") from None


class _Encrypted(Exception):
    """OpenSSL asks for a password."""


def _no_password() -> str:
    raise _Encrypted


def _read(path: str, key: str) -> bytes:
    try:
        return regular_file.read(path, SIZE_LIMIT)
    except regular_file.Irregular as error:
        raise TlsError(f"{path}: {error.strerror}", key) from error
    except OSError as error:
        raise TlsError(f"{path}: cannot be read: {(error.strerror or str(error)).lower()}", key) from error


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


def wrap(context: ssl.SSLContext, tls: Tls, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> ssl.SSLObject:
    """A client's side of TLS between two buffers. Raises TlsError."""
    try:
        return context.wrap_bio(incoming, outgoing, server_hostname=tls.name or None)
    except (ValueError, ssl.SSLError) as error:
        raise TlsError(f"{tls.name}: is no name that TLS can ask for", "sni") from error
