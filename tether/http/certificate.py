"""The certificate of front doors: a pair of files, read again when they change.

What is read is checked whole before it is used, and new connections get it in one step; what was
used before stays in use while the files hold something broken, half-copied or ended, also by a door
that is started meanwhile: `tether up` holds the last good pair, and hands it over. Connections that
there are keep what they began with.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from supervision.security.files import is_private
from supervision.telemetry import logs
from tether.http import metrics
from tether.http.options import TlsVersion

if TYPE_CHECKING:
    from cryptography import x509

ALPN: Final = "http/1.1"  # RFC 7301
LOOK_S: Final = 1.0
SOON_S: Final = 7 * 86_400.0  # before its end the log says so
MAX_BYTES: Final = 1 << 20  # of each file
#: Of TLS 1.2: forward secrecy and AEAD alone. Those of TLS 1.3 are all like that.
CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_ENCRYPTED: Final = b"ENCRYPTED"

log = logs.get(__name__)


class CertificateUnusable(Exception):
    """The files of a door's certificate can't be used; one sentence."""


class ServedCertificate(msgspec.Struct, frozen=True):
    """A pair that was good when it was read: `pem` is the key and the certificates, `ends_at` in
    seconds since the epoch."""

    pem: bytes
    context: ssl.SSLContext
    serial: str
    ends_at: float

    def __repr__(self) -> str:
        """Without the key: it may come into a log."""
        return f"ServedCertificate({self.serial})"


class DoorCertificate:
    """The files `certificate` (PEM: the door's own first, then those that lead to its authority)
    and `key` (PEM, not encrypted, its owner's alone). If they can't be used, and `last` is the
    `pem` of a pair that was good, that is used until they can.

    Raises:
        CertificateUnusable: they can't be used, and there is no last one; one sentence.
    """

    def __init__(
        self,
        certificate: Path,
        key: Path,
        minimum: TlsVersion = "1.2",
        last: bytes = b"",
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._certificate, self._key = certificate, key
        self._minimum: TlsVersion = minimum
        self._clock = clock
        self._seen = self._stamp()
        self._moving: object = None  # a stamp that was seen once
        self._broken = False  # what lies in the files now
        self._told = 0.0  # of which certificate the log has said that it ends
        try:
            self.current = self._read()
        except CertificateUnusable as error:
            if not last:
                raise
            self.current = self._served(last)
            self._kept_out(error)
        self._ends = metrics.certificate_ends.labels(str(certificate))
        self._ends.set(self.current.ends_at)

    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self.current.context

    def last(self) -> bytes:
        """What a door needs that is started now, while the files can't be used; else nothing: a key
        is given to nobody who can read it himself."""
        return self.current.pem if self._broken else b""

    async def watch(self) -> None:
        """Look, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                # in a thread: a disk may be away
                await asyncio.to_thread(self.look)
            except Exception:  # it must go on: the next certificate hangs on it
                log.exception("could not look after the door's certificate")

    def look(self) -> None:
        """Take over what is new. Files that have just changed are left alone until two looks in a
        row have seen them alike: whoever renews a certificate writes two files."""
        stamp = self._stamp()
        if stamp != self._seen:
            if stamp == self._moving:
                self._seen = stamp
                self._take_over()
            self._moving = stamp
        self._warn()

    def _take_over(self) -> None:
        try:
            fresh = self._read()
        except CertificateUnusable as error:
            self._kept_out(error)
            return
        self.current, self._broken = fresh, False
        self._ends.set(fresh.ends_at)
        metrics.certificate_loads.inc()
        log.info("the door has a new certificate", serial=fresh.serial, ends_at=fresh.ends_at)

    def _kept_out(self, error: CertificateUnusable) -> None:
        self._broken = True
        metrics.certificate_failures.inc()
        log.error(
            "the door's new certificate is kept out, and the old one goes on",
            reason=str(error),
            serial=self.current.serial,
            ends_at=self.current.ends_at,
        )

    def _warn(self) -> None:
        ends_at = self.current.ends_at
        left_s = ends_at - self._clock()
        if left_s > SOON_S or self._told == (ends_at if left_s > 0 else -ends_at):
            return
        self._told = ends_at if left_s > 0 else -ends_at
        log.error(
            "the door's certificate ends soon; put a new one there"
            if left_s > 0
            else "the door's certificate has ended, and clients refuse it; put a new one there",
            path=str(self._certificate),
            ends_at=ends_at,
        )

    # ---- the files

    def _stamp(self) -> object:
        stamps: list[tuple[int, int, int, int] | None] = []
        for path in (self._certificate, self._key):
            try:
                found = path.stat()
            except OSError:
                stamps.append(None)
            else:
                mode_too = found.st_mode, found.st_size
                stamps.append((found.st_ino, found.st_mtime_ns, *mode_too))
        return tuple(stamps)

    def _read(self) -> ServedCertificate:
        """
        Raises:
            CertificateUnusable: the files can't be used.
        """
        certificate, key = _content(self._certificate), _content(self._key)
        if not is_private(self._key):
            raise CertificateUnusable(
                f"others than its owner may read {self._key}, the key of http.tls; "
                f"`chmod 600 {self._key}`"
            )
        if _ENCRYPTED in key:
            raise CertificateUnusable(
                f"the key in {self._key} is encrypted, and nobody is there to say its password; "
                "write it without (openssl pkey -in … -out …), mode 0600"
            )
        if _CERTIFICATE not in certificate:
            raise CertificateUnusable(
                f"{self._certificate} holds no certificate in PEM; write the door's own there, and "
                "below it those that lead to its authority"
            )
        begins_at, ends_at = _times(self._first(certificate))
        now = self._clock()
        if ends_at <= now:
            raise CertificateUnusable(
                f"the certificate in {self._certificate} ended on {_day(ends_at)}; put a new one "
                "there"
            )
        if begins_at > now:
            raise CertificateUnusable(
                f"the certificate in {self._certificate} is good from {_day(begins_at)} on only; "
                "look at the clock of this machine, or take another"
            )
        return self._served(key + b"\n" + certificate)

    def _served(self, pem: bytes) -> ServedCertificate:
        first = self._first(pem)
        _, ends_at = _times(first)
        return ServedCertificate(pem, self._loaded(pem), f"{first.serial_number:x}", ends_at)

    def _first(self, pem: bytes) -> x509.Certificate:
        """The door's own."""
        from cryptography import x509  # takes long, and doors without TLS need none

        try:
            return x509.load_pem_x509_certificate(pem[pem.index(_CERTIFICATE) :])
        except ValueError as error:
            raise CertificateUnusable(
                f"the certificate in {self._certificate} can't be read ({error}); write it as PEM"
            ) from None

    def _loaded(self, pem: bytes) -> ssl.SSLContext:
        """One end of TLS (RFC 8446, RFC 5246) by just these bytes: the files may be exchanged
        meanwhile. Without tickets and renegotiation: no key outlives a connection, and no client
        makes more of them than by connecting."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = _VERSIONS[self._minimum]
        context.set_ciphers(CIPHERS)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
        context.num_tickets = 0
        context.set_alpn_protocols([ALPN])
        held = os.memfd_create("certificate", os.MFD_CLOEXEC)
        try:
            with os.fdopen(held, "wb", closefd=False) as file:
                file.write(pem)
            context.load_cert_chain(f"/proc/self/fd/{held}", password=lambda: "")
        except ssl.SSLError as error:
            if error.reason == "KEY_VALUES_MISMATCH":
                why = "the key is not that of the certificate, which must be the file's first"
            else:
                why = f"OpenSSL says {error.reason or error}"
            raise CertificateUnusable(
                f"{self._certificate} and {self._key} can't be used for http.tls: {why}"
            ) from None
        finally:
            os.close(held)
        return context


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise CertificateUnusable(
            f"{path} can't be read for http.tls ({error.strerror}); look at the path and at whose "
            "it is"
        ) from None
    if len(content) > MAX_BYTES:
        raise CertificateUnusable(f"{path} is longer than {MAX_BYTES} bytes; that is no PEM file")
    return content


def _times(certificate: x509.Certificate) -> tuple[float, float]:
    """From when to when it is good, in seconds since the epoch."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    return begin.timestamp(), end.timestamp()


def _day(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
