"""The transport between nodes: listens and dials for the processes of this one.

A process of a node that has an identity listens on a TCP port of its own, which stands in its
address, and dials others at the host of their node; see docs/adr/0008-between-nodes.md. Every
connection is mutual TLS 1.3. Handshakes are bounded in number and time; where there are too many,
the oldest gives way, since an honest one takes milliseconds.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from typing import Final

from supervision.runtime import metrics
from supervision.runtime.closing_frame import ClosingFrame
from supervision.runtime.connection import Acceptor
from supervision.runtime.idle_close import IdleClose
from supervision.runtime.peer import Peer
from supervision.runtime.routes import ListenAddress, Routes
from supervision.runtime.tcp import bound, persist
from supervision.runtime.tls import TlsConnection, explained, reason_of
from supervision.runtime.tls_rotation import TlsRotation
from supervision.runtime.wire import LEAVE, LEFT, MOVE, MOVED, STAY
from supervision.security.identity import Identity, IdentityUnusable
from supervision.security.refusal import CertificateRefused, Reason
from supervision.telemetry import bounds, logs
from supervision.telemetry.bounded_log import BoundedLog

MAX_HANDSHAKES: Final = 128  # that others have begun and not ended, in one process
MAX_CONNECTIONS: Final = 2048  # with processes of other nodes
MAX_PER_NODE: Final = 512  # of them, with one node
HANDSHAKE_S: Final = 3.0
LOOK_S: Final = 1.0  # between two looks at the identity, and at the ends of certificates
_SHUTDOWN_S: Final = 1.0
_PAUSE_S: Final = 0.1  # after an accept that failed, for want of descriptors

log = logs.get(__name__)
heard = BoundedLog(__name__)
_refused_handshakes = bounds.refused.labels("tls_handshakes")
_refused_connections = bounds.refused.labels("node_connections")
_handshakes_used = bounds.used.labels("tls_handshakes")
_connections_used = bounds.used.labels("node_connections")


class NodeTransport:
    """Listens at once, so that the port is known; accepts and dials from `start` on."""

    hub: Acceptor

    def __init__(
        self, identity: Identity, routes: Routes, listen: ListenAddress | None = None
    ) -> None:
        """
        Raises:
            OSError: no port of `listen` is free.
        """
        self.identity = identity
        self.routes = routes
        self._socket = bound(listen) if listen is not None else None
        self._last_words = ClosingFrame()
        self._moves = TlsRotation(identity, self._last_words, self.newest_from, self.open)
        self._leaves = IdleClose(self._last_words, self.newest_from)
        self._connections: dict[TlsConnection, None] = {}  # oldest first
        self._per_node: Counter[str] = Counter()
        self._handshakes: dict[asyncio.Task[None], None] = {}  # oldest first
        self._tasks: list[asyncio.Task[None]] = []
        self._ready = asyncio.Event()
        identity.on_revoked = self._check_all

    @property
    def port(self) -> int:
        """The port at which others reach this process; 0 if they can't."""
        return int(self._socket.getsockname()[1]) if self._socket is not None else 0

    def start(self, hub: Acceptor) -> None:
        self.hub = hub
        self._tasks.append(hub.loop.create_task(self._look(), name="look at the identity"))
        if self._socket is not None:
            self._tasks.append(hub.loop.create_task(self._accept(), name="accept nodes"))

    def close(self) -> None:
        """Listens no longer. `Connections` closes those that there are."""
        for task in (*self._tasks, *self._handshakes):
            task.cancel()
        self._moves.close()
        self._leaves.close()
        if self._socket is not None:
            self._socket.close()

    # ---- the identity

    async def _look(self) -> None:
        while True:
            try:
                await self._look_once()
            except Exception:  # it must go on: revocations and rotations hang on it
                log.exception("could not look after the connections with other nodes")
            _handshakes_used.set(len(self._handshakes))
            _connections_used.set(len(self._connections))
            await asyncio.sleep(LOOK_S)

    async def _look_once(self) -> None:
        if self.identity.changed():
            await self._load()
        now = self.identity.now()
        for connection in list(self._connections):
            if not connection.transport.is_closing():
                self._check(connection)
                self._moves.look(connection, now)
                self._leaves.look(connection)

    async def _load(self) -> None:
        try:
            # In a thread: it reads files, and the first time it imports much.
            await self.hub.loop.run_in_executor(None, self.identity.load)
        except IdentityUnusable as error:
            log.error("the node's identity can't be read", reason=str(error))
            metrics.tls_identity_failures.inc()
            return
        current = self.identity.current
        metrics.tls_certificate_ends.set(current.ends_at)
        log.info(
            "identity loaded",
            node=current.name.uri,
            serial=f"{current.serial:x}",
            revoked=len(current.revocations.serials),
        )
        self._ready.set()

    def _check_all(self) -> None:
        """Somebody's certificate was revoked, which doesn't wait for the next look."""
        for connection in list(self._connections):
            if not connection.transport.is_closing():
                self._check(connection)

    def _check(self, connection: TlsConnection) -> None:
        assert connection.vouched is not None
        try:
            self.identity.still_good(connection.vouched, connection.ends_at)
        except CertificateRefused as error:
            connection.end(error)

    def admit(self, connection: TlsConnection) -> None:
        """Counts a connection whose certificate is good.

        Raises:
            CertificateRefused: its node has too many.
        """
        assert connection.vouched is not None
        node = connection.vouched.node
        if self._per_node[node] >= MAX_PER_NODE:
            _refused_connections.inc()
            raise CertificateRefused(
                Reason.CROWDED, f"node {node} has {MAX_PER_NODE} connections already"
            )
        self._connections[connection] = None
        self._per_node[node] += 1
        self._moves.plan(connection, self.identity.now())

    def left(self, connection: TlsConnection) -> None:
        """It is closed; it may never have been admitted."""
        if connection.departed:
            self._last_words.broke_off(connection)
        if connection in self._connections:
            del self._connections[connection]
            assert connection.vouched is not None
            node = connection.vouched.node
            self._per_node[node] -= 1
            if not self._per_node[node]:
                del self._per_node[node]

    def newest_from(self, peer: Peer) -> TlsConnection | None:
        """The last of those that `peer` has dialed."""
        for connection in reversed(self._connections):
            if connection.peer is peer and connection.dialed is None:
                return connection
        return None

    def received(self, peer: Peer, kind: int) -> None:
        """A frame of the kinds from `MOVE` on."""
        if kind == MOVE:
            self._moves.received(peer)
        elif kind == LEAVE:
            self._leaves.received(peer)
        elif kind in (MOVED, LEFT, STAY):
            self._last_words.answered(peer, kind)

    # ---- in

    async def _accept(self) -> None:
        assert self._socket is not None
        await self._ready.wait()
        loop = self.hub.loop
        while True:
            try:
                sock, _ = await loop.sock_accept(self._socket)
            except OSError as error:
                if error.errno == errno.EBADF:
                    return
                heard.warning("can't accept a connection", "", error=str(error))
                await asyncio.sleep(_PAUSE_S)
                continue
            if len(self._connections) + len(self._handshakes) >= MAX_CONNECTIONS:
                _refused_connections.inc()
                sock.close()
                continue
            if len(self._handshakes) >= MAX_HANDSHAKES:
                _refused_handshakes.inc()
                oldest = next(iter(self._handshakes))
                del self._handshakes[oldest]
                oldest.cancel()
            task = loop.create_task(self._shake(sock))
            self._handshakes[task] = None
            task.add_done_callback(lambda task: void(self._handshakes.pop(task, None)))

    async def _shake(self, sock: socket.socket) -> None:
        """The handshake of one who came."""
        connection = TlsConnection(self.hub, self, None)
        there: tuple[str, int] = ("", 0)
        try:
            there = sock.getpeername()
            persist(sock)
            await self.hub.loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self.identity.current.server,
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
            if connection.refused is not None:
                raise connection.refused
        except (OSError, CertificateRefused) as error:
            reason = reason_of(error)
            metrics.tls_handshakes.labels("in", reason).inc()
            sock.close()
            heard.warning(
                "refused a connection", there[0], reason=reason, error=explained(error),
                host=there[0],
            )  # fmt: skip
        except asyncio.CancelledError:
            metrics.tls_handshakes.labels("in", "crowded_out").inc()
            sock.close()
            raise
        else:
            metrics.tls_handshakes.labels("in", "good").inc()
            if connection.vouched is not None:
                self.routes.learn(connection.vouched.node, there[0])

    # ---- out

    async def open(self, peer: Peer) -> TlsConnection:
        """Dials `peer`, in whatever time the caller gives.

        Raises:
            OSError: nobody is there, or it isn't who it should be.
            ValueError: nobody knows where it is.
        """
        address = peer.address
        host = self.routes.host(address.node)
        if not address.port:
            raise ValueError(f"{address} can't be dialed: it listens for its own node only")
        await self._ready.wait()
        connection = TlsConnection(self.hub, self, peer)
        try:
            transport, _ = await self.hub.loop.create_connection(
                lambda: connection,
                host,
                address.port,
                ssl=self.identity.current.client,
                server_hostname="",  # says nothing of us to whoever listens on the way
                ssl_handshake_timeout=HANDSHAKE_S,
                ssl_shutdown_timeout=_SHUTDOWN_S,
            )
            if connection.refused is not None:
                raise connection.refused
        except (OSError, CertificateRefused) as error:
            if isinstance(error, ssl.SSLError | CertificateRefused):
                reason = reason_of(error)
                metrics.tls_handshakes.labels("out", reason).inc()
                heard.warning(
                    "refused a peer",
                    address.node,
                    peer=str(address),
                    reason=reason,
                    error=explained(error),
                )
            raise OSError(explained(error)) from error
        metrics.tls_handshakes.labels("out", "good").inc()
        persist(transport.get_extra_info("socket"))
        return connection


def void(_: object) -> None:
    """For callbacks that must return nothing."""
