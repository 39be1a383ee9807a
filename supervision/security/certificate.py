"""Certificates of a cluster: what they say, and how they are made.

A node's certificate names the node in a URI, `tether://<cluster>/node/<id>` (RFC 5280,
4.2.1.6), and in a second one its roles (`supervision.security.roles`); the authority's names its
cluster, `tether://<cluster>/authority`. Nothing else in a certificate decides who somebody is, and
what they may say.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from supervision.security.name import WORD, NodeName
from supervision.security.roles import roles_uri

Key = Ed25519PrivateKey | EllipticCurvePrivateKey
KeyKind = Literal["ed25519", "p256"]

SKEW: Final = timedelta(minutes=5)  # by so much may the clocks of two nodes differ
_AUTHORITY_URI: Final = re.compile(rf"tether://({WORD})/authority")


def new_key(kind: KeyKind) -> Key:
    return Ed25519PrivateKey.generate() if kind == "ed25519" else generate_private_key(SECP256R1())


def digest_of(key: Key) -> hashes.SHA256 | None:
    """The digest that a signature of `key` needs to be told; Ed25519 has its own."""
    return None if isinstance(key, Ed25519PrivateKey) else hashes.SHA256()


def key_pem(key: Key) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_key(pem: bytes) -> Key:
    """
    Raises:
        ValueError: `pem` holds no key of a kind that we use.
    """
    key = serialization.load_pem_private_key(pem, None)
    if isinstance(key, Ed25519PrivateKey | EllipticCurvePrivateKey):
        return key
    raise ValueError(f"a {type(key).__name__} is of no use here; make an Ed25519 or P-256 key")


def new_authority(
    cluster: str, key: Key, *, lifetime: timedelta, now: datetime
) -> x509.Certificate:
    """The certificate of the authority of `cluster`, signed by itself.

    Raises:
        ValueError: `cluster` is no name.
    """
    NodeName(cluster, "any")
    name = _name(f"Tether authority of {cluster}")
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"tether://{cluster}/authority")]
            ),
            critical=False,
        )
    )
    return builder.sign(key, digest_of(key))


def new_certificate(
    name: NodeName,
    key: Key,
    *,
    authority: x509.Certificate,
    authority_key: Key,
    lifetime: timedelta,
    now: datetime,
    roles: Iterable[str] = (),
) -> x509.Certificate:
    """A certificate of `name` for `key`, good for both ends of a connection. It ends with the
    authority's at the latest. A node's is of no use without `roles`.

    Raises:
        ValueError: `roles` can't stand in a certificate.
    """
    uris = [name.uri, *([roles_uri(name.cluster, found)] if (found := tuple(roles)) else [])]
    public = key.public_key()
    ends = min(now + lifetime, authority.not_valid_after_utc)
    issuer = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(name.node))
        .issuer_name(authority.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(min(now, ends) - SKEW)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer), critical=False
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris]),
            critical=False,
        )
    )
    return builder.sign(authority_key, digest_of(authority_key))


def uris_of(certificate: x509.Certificate) -> list[str]:
    """The URIs among its alternative names."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def cluster_of(authority: x509.Certificate) -> str | None:
    """The cluster whose authority this certificate says it is."""
    for uri in uris_of(authority):
        found = _AUTHORITY_URI.fullmatch(uri)
        if found:
            return found[1]
    return None


def utc(seconds: float) -> datetime:
    """Seconds since the epoch as certificates write them: whole seconds, UTC."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )
