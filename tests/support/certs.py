"""A certificate authority for tests, made anew each time: certificates that are good, expired, for another name..."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


@dataclass(frozen=True)
class Authority:
    """``path`` is the CA file. ``server`` makes certificates that it has signed."""

    directory: Path
    name: str = "test CA"

    def __post_init__(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        own = (x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
               .serial_number(x509.random_serial_number()).not_valid_before(now - 400 * DAY)
               .not_valid_after(now + 400 * DAY)
               .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
               .sign(key, hashes.SHA256()))
        object.__setattr__(self, "_key", key)
        object.__setattr__(self, "_subject", subject)
        self.path.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    @property
    def path(self) -> Path:
        return self.directory / f"{self.name.replace(' ', '-')}.pem"

    def server(self, *names: str, days: tuple[int, int] = (-1, 30)) -> ssl.SSLContext:
        """A server's context, its certificate for ``names`` (host names or addresses), valid for ``days`` from now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.pem(*names, days=days))
        return context

    def pem(self, *names: str, days: tuple[int, int] = (-1, 30)) -> Path:
        """A file with such a certificate, and its key in front of it."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.datetime.now(datetime.timezone.utc)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])]))
            .issuer_name(getattr(self, "_subject")).public_key(key.public_key())            # noqa: B009
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + days[0] * DAY).not_valid_after(now + days[1] * DAY)
            .add_extension(x509.SubjectAlternativeName([_general(name) for name in names]), critical=False)
            .sign(getattr(self, "_key"), hashes.SHA256()))                                  # noqa: B009
        path = self.directory / f"server-{certificate.serial_number}.pem"
        path.write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                           serialization.NoEncryption())
                         + certificate.public_bytes(serialization.Encoding.PEM))
        path.chmod(0o600)
        return path


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
