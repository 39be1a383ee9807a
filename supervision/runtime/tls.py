"""A connection with another node: mutual TLS 1.3, and whose certificate is at the other end."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any, Final, Protocol

from supervision.errors import ProtocolError
from supervision.runtime import metrics
from supervision.runtime.address import Address
from supervision.runtime.connection import Acceptor, Connection
from supervision.runtime.peer import Peer
from supervision.security import audience
from supervision.security.identity import PROTOCOL, Identity, Vouched
from supervision.security.name import OPERATOR
from supervision.security.refusal import CertificateRefused, Reason
from supervision.telemetry.bounded_log import BoundedLog

heard = BoundedLog(__name__)
_closed = {reason: metrics.tls_closed.labels(reason.value) for reason in Reason}

# X509_V_ERR_* of OpenSSL's x509_vfy.h
_TIMES: Final = frozenset({9, 10})  # not yet valid, has expired
_REVOKED: Final = 23


class Admission(Protocol):
    """Who decides which nodes may be connected with this process."""

    identity: Identity

    def admit(self, connection: TlsConnection) -> None:
        """Counts a connection whose certificate is good.

        Raises:
            CertificateRefused: there are too many.
        """

    def left(self, connection: TlsConnection) -> None:
        """It is closed; it may never have been admitted."""


class TlsConnection(Connection):
    """Whoever is at the other end has shown a certificate of ours in the handshake, and is held
    to the node that it names until the certificate ends or is revoked."""

    vouched: Vouched | None = None
    ends_at: float = 0.0  # of the certificates of both ends, the earlier end
    refused: CertificateRefused | None = None
    move_at: float = 0.0  # see `supervision.runtime.tls_rotation`
    leave_at: float = 0.0  # see `supervision.runtime.idle_close`
    departed: bool = False  # we have said our last word on it, and wait for an answer

    def __init__(self, hub: Acceptor, admission: Admission, dialed: Peer | None) -> None:
        super().__init__(hub, dialed)
        self._admission = admission
        self._own_ends_at = admission.identity.current.ends_at
        self.settled = asyncio.Event()  # it has been greeted, or broke before

    def admits(self) -> bool:
        try:
            tls = self.transport.get_extra_info("ssl_object")
            if tls.selected_alpn_protocol() != PROTOCOL:
                raise CertificateRefused(Reason.FOREIGN, f"the peer doesn't speak {PROTOCOL}")
            vouched = self._admission.identity.vouch(tls.getpeercert())
            self._expects(vouched)
            self.vouched = vouched
            self.ends_at = min(vouched.ends_at, self._own_ends_at)
            self._admission.admit(self)
        except CertificateRefused as error:
            self.refused = error
            return False
        return True

    def _expects(self, vouched: Vouched) -> None:
        node = self.hub.address.node
        if self.dialed is not None and self.dialed.address.node != vouched.node:
            raise CertificateRefused(
                Reason.OTHER_NODE,
                f"node {vouched.node} answers at the place of node {self.dialed.address.node}",
            )
        if vouched.node == node:
            raise CertificateRefused(
                Reason.OTHER_NODE, f"somebody outside of node {node} shows its certificate"
            )

    def _greeted(self, kind: int, number: int, payload: bytes) -> None:
        super()._greeted(kind, number, payload)
        self.settled.set()

    def vouches(self, address: Address) -> None:
        assert self.vouched is not None
        if address.node != self.vouched.node:
            self.count_refusal(Reason.OTHER_NODE)
            raise ProtocolError(
                f"{address} greets with the certificate of node {self.vouched.node}"
            )

    @property
    def audience(self) -> int:
        """As its certificate says, which it was held to when it greeted."""
        vouched = self.vouched
        assert vouched is not None
        if vouched.node.startswith(OPERATOR):
            return audience.OPERATOR.mask
        return audience.mask_of(vouched.roles, placed=vouched.node == self.hub.guardian)

    @property
    def whose(self) -> str:
        return self.vouched.node if self.vouched is not None else ""

    def count_refusal(self, reason: Reason) -> None:
        _closed[reason].inc()

    def end(self, error: CertificateRefused) -> None:
        """Closes a live connection: its certificate isn't good any more."""
        heard.warning(
            "closed a connection",
            self.whose,
            peer=str(self.peer and self.peer.address),
            reason=str(error),
        )
        self.count_refusal(error.reason)
        self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._admission.left(self)
        self.settled.set()
        if isinstance(exc, ssl.SSLError):
            # In TLS 1.3 who dials hears only after its handshake that its certificate is refused.
            heard.warning(
                "a connection failed",
                self.whose,
                peer=str(self.peer and self.peer.address),
                reason=exc.reason or str(exc),
            )
        super().connection_lost(exc)


def reason_of(error: BaseException) -> str:
    """Why a handshake failed, as a label."""
    if isinstance(error, CertificateRefused):
        return error.reason.value
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in _TIMES:
            return Reason.EXPIRED.value
        return (Reason.REVOKED if error.verify_code == _REVOKED else Reason.FOREIGN).value
    if isinstance(error, ssl.SSLError) and "RETURN_A_CERTIFICATE" in (error.reason or ""):
        return Reason.ABSENT.value
    # asyncio and uvloop say that the time for a handshake is over by ConnectionAbortedError.
    if isinstance(error, TimeoutError | ConnectionAbortedError):
        return "timeout"
    if isinstance(error, asyncio.CancelledError):
        return "crowded_out"
    return "broken"


def explained(error: Any) -> str:
    """What failed, for a log."""
    return getattr(error, "verify_message", "") or getattr(error, "reason", "") or str(error)
