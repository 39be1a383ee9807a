"""Certificates for a front door, as a public authority would make them."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

DAY = datetime.timedelta(days=1)


class DoorAuthority:
    """Signs what `pair` puts into a folder; `ca.crt` there is its own certificate."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "ca.crt"
        self.certificate, self.key = folder / "door.crt", folder / "door.key"
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "authority of a test")])
        own = self._builder(self._name, self._key.public_key(), -DAY, 30 * DAY).add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        self._own = own.sign(self._key, hashes.SHA256())
        self.path.write_bytes(self._own.public_bytes(Encoding.PEM))

    def pair(
        self, *, begins: datetime.timedelta = -DAY, ends: datetime.timedelta = 20 * DAY
    ) -> tuple[bytes, bytes]:
        """A certificate of this machine and its key, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
        here = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        certificate = (
            self._builder(name, key.public_key(), begins, ends)
            .add_extension(x509.SubjectAlternativeName(here), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return certificate.public_bytes(Encoding.PEM), key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )

    def put(self, certificate: bytes, key: bytes) -> int:
        """Both into their files, one after the other, as who renews them does; the serial
        number."""
        for path, content, mode in ((self.certificate, certificate, 0o644), (self.key, key, 0o600)):
            fresh = path.with_suffix(".new")
            fresh.write_bytes(content)
            fresh.chmod(mode)
            fresh.replace(path)
        return x509.load_pem_x509_certificate(certificate).serial_number

    def renew(self) -> int:
        """A new pair in the files; its serial number."""
        return self.put(*self.pair())

    def client(self, **versions: ssl.TLSVersion) -> ssl.SSLContext:
        """What a client believes who trusts this authority; `minimum_version`,
        `maximum_version`."""
        context = ssl.create_default_context(cafile=str(self.path))
        for name, version in versions.items():
            setattr(context, name, version)
        return context

    def _builder(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePublicKey,
        begins: datetime.timedelta,
        ends: datetime.timedelta,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
        )


def serial_of(tls: ssl.SSLObject | ssl.SSLSocket | None) -> int:
    """The serial number of the certificate at the other end."""
    assert tls is not None
    found = tls.getpeercert()
    assert found is not None
    return int(str(found["serialNumber"]), 16)
