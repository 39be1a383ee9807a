"""The list of certificates that were revoked before their end (RFC 5280, 5).

The list is signed by the authority and numbered, so that it may travel by any road: whoever
holds an older one takes over a newer one, and nobody can take a revocation back by handing out
an old list.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization

from supervision.security.certificate import Key, digest_of

LIFETIME: Final = timedelta(days=30)  # after which a list is called stale; nodes keep to it still
MAX_BYTES: Final = 4 << 20  # about 100,000 serials


class RevokedSerials(msgspec.Struct, frozen=True):
    """Which serials are revoked, by the list of this number; `stale_at` in seconds since the
    epoch."""

    number: int = 0
    serials: frozenset[int] = frozenset()
    stale_at: float = float("inf")


def new_list(
    revoked: Iterable[tuple[int, datetime]],
    *,
    number: int,
    authority: x509.Certificate,
    authority_key: Key,
    now: datetime,
) -> bytes:
    """The list of these (serial, when), as PEM."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.subject)
        .last_update(now)
        .next_update(now + LIFETIME)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for serial, when in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(when).build()
        )
    signed = builder.sign(authority_key, digest_of(authority_key))
    return signed.public_bytes(serialization.Encoding.PEM)


def read_list(pem: bytes, authorities: Iterable[x509.Certificate]) -> RevokedSerials:
    """What the list says, if one of `authorities` signed it.

    Raises:
        ValueError: it is no list, or nobody of them did.
    """
    if len(pem) > MAX_BYTES:
        raise ValueError(f"a revocation list of {len(pem)} bytes exceeds {MAX_BYTES}")
    found = x509.load_pem_x509_crl(pem)
    if not any(_signed(found, authority) for authority in authorities):
        raise ValueError("no authority of this cluster has signed the revocation list")
    try:
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        raise ValueError("the revocation list has no number") from None
    ends = found.next_update_utc
    return RevokedSerials(
        number,
        frozenset(entry.serial_number for entry in found),
        ends.timestamp() if ends else float("inf"),
    )


def _signed(found: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    if found.issuer != authority.subject:
        return False
    try:
        return found.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (InvalidSignature, TypeError):
        return False
