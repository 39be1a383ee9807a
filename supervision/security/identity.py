"""The identity of this node, and whom it believes: read from a folder, again when that changes.

::

    DIR/node.pem   key and certificate of the node; `tether ca renew` replaces it
    DIR/ca.pem     the authorities of the cluster
    DIR/crl.pem    what they have revoked; may be absent

What was read stays in use while the folder holds something broken or half-copied. A revocation
counts from the moment at which it is heard of, whether or not it can be written down: see
`supervision.security.revocation_lists`.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import structs

from supervision.security.files import is_private
from supervision.security.name import NodeName
from supervision.security.refusal import CertificateRefused, Reason, certified_roles
from supervision.security.revocation_lists import ListInUse, RevocationLists

if TYPE_CHECKING:
    from cryptography import x509

    from supervision.security.certificate import Key
    from supervision.security.revocation import RevokedSerials

NODE: Final = "node.pem"
AUTHORITIES: Final = "ca.pem"
PROTOCOL: Final = (
    "tether/1"  # ALPN, RFC 7301: no other service's certificate holder gets in by mistake
)


class IdentityUnusable(Exception):
    """The files of a node's identity can't be used; one sentence."""


class Vouched(msgspec.Struct, frozen=True):
    """What a certificate that is believed says; `ends_at` in seconds since the epoch. Operators
    have no `roles`."""

    node: str
    serial: int
    ends_at: float
    roles: tuple[str, ...] = ()


class Credentials(msgspec.Struct, frozen=True):
    """What the folder said when it was last good."""

    name: NodeName
    serial: int
    ends_at: float
    key: Key
    certificate: bytes  # DER
    authorities: tuple[x509.Certificate, ...]
    server: ssl.SSLContext
    client: ssl.SSLContext
    revoked: ListInUse
    roles: tuple[str, ...] = ()

    @property
    def revocations(self) -> RevokedSerials:
        """Which serials are revoked."""
        return self.revoked.revocations


class Identity:
    """`load` reads; everything else but `keep` only looks. `load` and `keep` may run in a thread:
    one frozen value is exchanged for another. `kept` is the folder, made if need be, in which the
    node keeps the newest revocation list that it has heard of; none keeps it in memory alone."""

    def __init__(
        self,
        folder: Path,
        node: str,
        *,
        kept: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.node = node
        self.on_revoked: Callable[[], None] = _nothing  # called when `adopt` has taken a list over
        self._lists = RevocationLists(folder, kept)
        self._clock = clock
        self._seen: object = None
        self._current: Credentials | None = None
        self._exchange = threading.Lock()  # of `_current`: a list must not be lost to a `load`

    @property
    def current(self) -> Credentials:
        """
        Raises:
            IdentityUnusable: nothing was loaded yet.
        """
        if self._current is None:
            raise IdentityUnusable(f"the identity in {self.folder} was not loaded")
        return self._current

    def now(self) -> float:
        """Seconds since the epoch, by the clock that ends certificates."""
        return self._clock()

    def changed(self) -> bool:
        """Is there anything that `load` hasn't seen? Costs four looks at files."""
        return self._stamp() != self._seen

    def load(self) -> None:
        """
        Raises:
            IdentityUnusable: the folder holds no identity of this node. An earlier one stays.
        """
        self._seen = self._stamp()
        # Imported when it is needed, which is in a thread after the start: an actor is up sooner.
        from cryptography.exceptions import UnsupportedAlgorithm

        try:
            fresh = self._read()
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
            self._take_lists()
            raise IdentityUnusable(
                f"the identity in {self.folder} can't be used: {error}"
            ) from error
        with self._exchange:
            if self._current is not None:
                fresh = structs.replace(fresh, revoked=self._current.revoked.newer(fresh.revoked))
            self._current = fresh

    def adopt(self, revoked: bytes) -> bool:
        """Takes over a revocation list (PEM) that has come by whatever road; false if it is no
        newer than ours. It counts at once; `keep` writes it down, for the next start and for the
        node's other processes.

        Raises:
            ValueError: it is no list that an authority of ours has signed.
        """
        from supervision.security.revocation import read_list

        found = ListInUse(read_list(revoked, self.current.authorities), revoked)
        seen = self._take_lists()  # one that lies there may be newer still
        taken = self._exchange_list(found)
        if seen or taken:
            self.on_revoked()
        return taken

    def keep(self) -> bool:
        """Writes the newest revocation list into `kept`; false if there is nothing to write.

        Raises:
            OSError: it can't be written.
        """
        current = self.current
        return self._lists.keep(current.revoked, current.authorities)

    def _take_lists(self) -> bool:
        """Those on disk, also from a folder that is broken otherwise, or half-copied: revocations
        don't wait for it."""
        if self._current is None:
            return False
        return self._exchange_list(self._lists.newest(self._current.authorities, None)[0])

    def _exchange_list(self, found: ListInUse) -> bool:
        with self._exchange:
            current = self.current
            if found.revocations.number <= current.revocations.number:
                return False
            self._current = structs.replace(current, revoked=found)
            return True

    def vouch(self, certificate: Mapping[str, Any] | None) -> Vouched:
        """What `certificate`, the form of `SSLSocket.getpeercert()`, says, if it is believed. That
        an authority of ours has signed it was seen in the handshake.

        Raises:
            CertificateRefused: it isn't.
        """
        current = self.current
        if not certificate:
            raise CertificateRefused(Reason.ABSENT, "the peer has shown no certificate")
        uris = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "URI"]
        name = NodeName.of(uris)
        if name is None:
            raise CertificateRefused(Reason.FOREIGN, f"the certificate names no one node: {uris}")
        if name.cluster != current.name.cluster:
            raise CertificateRefused(
                Reason.FOREIGN, f"{name.uri} is no node of cluster {current.name.cluster}"
            )
        vouched = Vouched(
            name.node,
            int(certificate["serialNumber"], 16),
            float(ssl.cert_time_to_seconds(certificate["notAfter"])),
            certified_roles(name, uris),
        )
        self.still_good(vouched)
        return vouched

    def still_good(self, vouched: Vouched, ends_at: float | None = None) -> None:
        """Is `vouched` good now, or until `ends_at` where that is given?

        Raises:
            CertificateRefused: it has ended, or was revoked, meanwhile.
        """
        if vouched.serial in self.current.revocations.serials:
            raise CertificateRefused(
                Reason.REVOKED, f"the certificate {vouched.serial:x} of {vouched.node} was revoked"
            )
        if (vouched.ends_at if ends_at is None else ends_at) <= self._clock():
            raise CertificateRefused(
                Reason.EXPIRED, f"the certificate {vouched.serial:x} of {vouched.node} has ended"
            )

    @staticmethod
    def named(folder: Path) -> NodeName:
        """Whom the certificate in `folder` names.

        Raises:
            IdentityUnusable: there is none, or it names nobody.
        """
        from cryptography import x509

        from supervision.security.certificate import uris_of

        path = folder / NODE
        try:
            certificate = x509.load_pem_x509_certificate(_certificate_in(path.read_bytes()))
            name = NodeName.of(uris_of(certificate))
        except (OSError, ValueError) as error:
            raise IdentityUnusable(f"the identity in {folder} can't be used: {error}") from error
        if name is None:
            raise IdentityUnusable(f"the certificate in {path} names neither node nor operator")
        return name

    def _stamp(self) -> object:
        stamps: list[tuple[int, int, int] | None] = []
        for path in (self.folder / NODE, self.folder / AUTHORITIES, *self._lists.paths):
            try:
                found = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
        return tuple(stamps)

    def _read(self) -> Credentials:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding

        from supervision.security.certificate import read_key, uris_of

        path = self.folder / NODE
        if not is_private(path):
            raise ValueError(f"others may read {path}, which holds a key; chmod 600 it")
        pem = path.read_bytes()
        certificate = x509.load_pem_x509_certificate(_certificate_in(pem))
        uris = uris_of(certificate)
        name = NodeName.of(uris)
        if name is None or name.node != self.node:
            raise ValueError(
                f"{NODE} is of {name.uri if name else 'no node'}, and this is node {self.node}"
            )
        try:
            roles = certified_roles(name, uris)
        except CertificateRefused as error:
            raise ValueError(str(error)) from None
        authorities = x509.load_pem_x509_certificates((self.folder / AUTHORITIES).read_bytes())
        before = self._current.revoked if self._current is not None else None
        revoked, wrong = self._lists.newest(authorities, before)
        if wrong:
            raise ValueError(wrong)
        return Credentials(
            name=name,
            serial=certificate.serial_number,
            ends_at=certificate.not_valid_after_utc.timestamp(),
            key=read_key(pem),
            certificate=certificate.public_bytes(Encoding.DER),
            authorities=tuple(authorities),
            server=self._context(ssl.PROTOCOL_TLS_SERVER),
            client=self._context(ssl.PROTOCOL_TLS_CLIENT),
            revoked=revoked,
            roles=roles,
        )

    def _context(self, side: int) -> ssl.SSLContext:
        """One end of mutual TLS 1.3 (RFC 8446). Without tickets, so that every connection shows
        its certificate anew."""
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # a node is known by its URI, wherever it stands
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
        if side == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        context.set_alpn_protocols([PROTOCOL])
        context.load_verify_locations(cafile=str(self.folder / AUTHORITIES))
        context.load_cert_chain(str(self.folder / NODE))
        return context


def _nothing() -> None:
    """Nobody wants to hear of it."""


def _certificate_in(pem: bytes) -> bytes:
    """The part of a file with a key and a certificate that is the certificate."""
    begin = pem.find(b"-----BEGIN CERTIFICATE-----")
    if begin < 0:
        raise ValueError(f"{NODE} holds no certificate")
    return pem[begin:]
