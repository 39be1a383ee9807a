"""Signed statements of a node to all, with the key of its certificate.

The certificate goes along, so that whoever hears it needs to know nobody but the authority. The
signature covers the purpose as well: what was signed for one can't be used for another.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from supervision.security.certificate import uris_of
from supervision.security.identity import Identity, Vouched
from supervision.security.name import NodeName
from supervision.security.refusal import CertificateRefused, Reason, certified_roles

MAX_CERTIFICATE: Final = 8192  # bytes
_REMEMBERED: Final = 4096  # certificates whose signature was checked


class Signed(msgspec.Struct, frozen=True):
    """`payload` as the node of `certificate` (DER) has signed it."""

    payload: bytes
    certificate: bytes
    signature: bytes


class Forged(Exception):
    """A signature is not of whom it says, or not for this."""


class Seal:
    """Signs for a node, and checks what others have signed."""

    def __init__(self, identity: Identity, purpose: str) -> None:
        self._identity = identity
        self._prefix = f"tether/{purpose}\0".encode()
        self._known: OrderedDict[bytes, tuple[Vouched, object, x509.Certificate]] = OrderedDict()

    def sign(self, payload: bytes) -> Signed:
        """About 0.2 ms."""
        current = self._identity.current
        text = self._prefix + payload
        if isinstance(current.key, Ed25519PrivateKey):
            signature = current.key.sign(text)
        else:
            signature = current.key.sign(text, ECDSA(hashes.SHA256()))
        return Signed(payload, current.certificate, signature)

    def opened(self, signed: Signed) -> Vouched:
        """Who has signed it.

        Raises:
            Forged: nobody did, or something else.
            CertificateRefused: somebody whom we don't believe (any more).
        """
        vouched, key = self._holder(signed.certificate)
        text = self._prefix + signed.payload
        try:
            if isinstance(key, Ed25519PublicKey):
                key.verify(signed.signature, text)
            elif isinstance(key, EllipticCurvePublicKey):
                key.verify(signed.signature, text, ECDSA(hashes.SHA256()))
            else:
                raise Forged(f"node {vouched.node} has a key of a kind that nobody uses")
        except InvalidSignature:
            raise Forged(f"node {vouched.node} has not signed this") from None
        return vouched

    def _holder(self, der: bytes) -> tuple[Vouched, object]:
        authorities = self._identity.current.authorities
        found = self._known.get(der)
        if found is None or found[2] not in authorities:
            found = self._checked(der)
            self._known[der] = found
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        self._identity.still_good(found[0])
        return found[0], found[1]

    def _checked(self, der: bytes) -> tuple[Vouched, object, x509.Certificate]:
        current = self._identity.current
        if len(der) > MAX_CERTIFICATE:
            raise Forged(f"a certificate of {len(der)} bytes is none of ours")
        try:
            certificate = x509.load_der_x509_certificate(der)
            uris = uris_of(certificate)
            name = NodeName.of(uris)
        except ValueError as error:
            raise Forged(f"what should be a certificate is none: {error}") from error
        issuer = next((a for a in current.authorities if _issued(certificate, a)), None)
        if issuer is None or name is None or name.cluster != current.name.cluster:
            raise CertificateRefused(
                Reason.FOREIGN, f"the certificate of {name.uri if name else 'nobody'} is not ours"
            )
        if certificate.not_valid_before_utc.timestamp() > self._identity.now():
            raise CertificateRefused(
                Reason.EXPIRED, f"the certificate of {name.uri} isn't valid yet"
            )
        vouched = Vouched(
            name.node,
            certificate.serial_number,
            certificate.not_valid_after_utc.timestamp(),
            certified_roles(name, uris),
        )
        return vouched, certificate.public_key(), issuer


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
