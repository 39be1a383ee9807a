"""One socket: who is at its other end, and the frames that come in on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from supervision.errors import ProtocolError
from supervision.runtime import metrics
from supervision.runtime.address import Address
from supervision.runtime.peer import MAX_BACKLOG, Dialer, Peer
from supervision.runtime.refused_peers import RefusedPeers
from supervision.runtime.sockets import credentials
from supervision.runtime.wire import (
    ACK,
    HELLO,
    SYSTEM,
    Framer,
    Greeting,
    OtherVersion,
    frame,
    read_greeting,
    spoken,
)
from supervision.security.audience import NODE, OWN, PLACER
from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog

HIGH_WATER: Final = 1 << 20  # bytes in the socket's buffer above which streams pause
GREETING_TIMEOUT: Final = 5.0  # seconds from connect to greeting

heard = BoundedLog(__name__)
_refused = bounds.refused.labels("connection_uid")
_refused_backlog = bounds.refused.labels("peer_backlog")


class Acceptor(Dialer, Protocol):
    """What a connection needs of the process that has made or accepted it."""

    greeting: bytes
    connections: set[Connection]
    strangers: RefusedPeers
    guardian: str  # the node that has placed this process at another one, if it was placed
    receive: Callable[[Peer, int, int, bytes], None]  # takes kind, number and payload of a frame

    def peer(self, address: Address) -> Peer:
        """The peer at `address`, which may be new."""

    def admits(self, uid: int) -> bool:
        """May processes of this user talk to us?"""

    def by_tls(self, address: Address) -> bool:
        """Is the process at `address` met by TLS alone?"""


class Connection(asyncio.Protocol):
    """A socket: checks who is at the other end, then passes frames on to its `Acceptor`."""

    def __init__(self, hub: Acceptor, dialed: Peer | None) -> None:
        self.hub = hub
        self.dialed = dialed
        self.peer: Peer | None = None
        self.pid = 0
        self.transport: asyncio.Transport
        self._framer = Framer(hub.max_frame)
        self._timer: asyncio.TimerHandle | None = None
        self._arrived = self._acked = 0
        self.greeted = False  # by the other side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        if not self.admits():
            self.transport.abort()
            return
        self.hub.connections.add(self)
        self.transport.set_write_buffer_limits(high=HIGH_WATER, low=HIGH_WATER // 4)
        self.transport.write(self.hub.greeting)
        self._timer = self.hub.loop.call_later(GREETING_TIMEOUT, self._unknown)
        if self.dialed is not None:
            # Frames follow the greeting at once: the socket's path and owner vouch for the
            # peer, and its own greeting is checked when it comes.
            self.peer = self.dialed
            self.dialed.attached(self)

    def admits(self) -> bool:
        """May whoever is at the other end talk to us?"""
        there = credentials(self.transport)
        if there is not None:
            self.pid, uid = there
            if not self.hub.admits(uid):
                heard.warning("refused a connection of another user", uid, uid=uid, pid=self.pid)
                _refused.inc()
                return False
        return True

    def vouches(self, address: Address) -> None:
        """
        Raises:
            ProtocolError: who greets as `address` is somebody else.
        """
        if self.hub.by_tls(address):
            raise ProtocolError(f"{address} is of another node, and those come by TLS")
        if address.pid and self.pid and address.pid != self.pid:
            raise ProtocolError(f"{address} greets from process {self.pid}")

    @property
    def audience(self) -> int:
        """What is at the other end, now that it has greeted: a process of this node, or of one that
        shares its sockets, where no node has a certificate."""
        assert self.peer is not None
        node = self.peer.address.node
        if node == self.hub.address.node:
            return OWN.mask
        return NODE.mask | (PLACER.mask if node == self.hub.guardian else 0)

    @property
    def whose(self) -> str | int:
        """Who it is, as far as that is proved."""
        return self.peer.address.node if self.peer is not None else self.pid

    def _unknown(self) -> None:
        heard.warning("closed a connection that sent no greeting", self.whose, pid=self.pid)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        try:
            frames = self._framer.feed(data)
            if self._timer is not None:
                if not frames:
                    return
                self._greeted(*frames.pop(0))
        except OtherVersion:
            self.transport.abort()  # `_spoken` has said why
            return
        except ProtocolError as error:
            heard.warning(
                "closed a connection",
                self.whose,
                peer=str(self.peer and self.peer.address),
                pid=self.pid,
                reason=error.message,
            )
            self.transport.abort()
            return
        peer = self.peer
        assert peer is not None
        receive = self.hub.receive
        for kind, number, payload in frames:
            receive(peer, kind, number, payload)
            if kind == SYSTEM:
                self._arrived = number
        if self._arrived != self._acked:
            self._acked = self._arrived
            peer.send(frame(ACK, self._arrived))
        if peer.queued > MAX_BACKLOG:
            heard.warning(
                "cut off a peer that doesn't read", peer.address.node, peer=str(peer.address)
            )
            _refused_backlog.inc()
            self.transport.abort()

    def _greeted(self, kind: int, _: int, payload: bytes) -> None:
        if kind != HELLO:
            raise ProtocolError("the first frame of a connection must be a greeting")
        greeting = read_greeting(payload)
        try:
            address = Address.parse(greeting.address)
        except ValueError as error:
            raise ProtocolError(str(error)) from error
        if address.node != greeting.node:
            raise ProtocolError(f"{address} greets as node {greeting.node}")
        self.vouches(address)
        if self.dialed is not None and address != self.dialed.address:
            raise ProtocolError(f"{address} answers at the place of {self.dialed.address}")
        version = self._spoken(greeting)
        assert self._timer is not None
        self._timer.cancel()
        self._timer = None
        self.greeted = True
        if self.peer is None:
            self.peer = self.hub.peer(address)
            self.peer.attached(self)
        self.peer.certified(self, self.audience)
        self.peer.max_frame = greeting.max_frame
        self.peer.incarnation = greeting.incarnation
        self.peer.version = version

    def _spoken(self, greeting: Greeting) -> int:
        """
        Raises:
            OtherVersion: we don't understand each other. The log says it once a node, however often
                it comes back; whoever waits for the peer is told by their error.
        """
        try:
            version = spoken(greeting, self.hub.address.node)
        except OtherVersion as error:
            metrics.wire_refused.labels(greeting.node).inc()
            if self.hub.strangers.new(greeting.node, greeting.version):
                heard.error(
                    "refused a peer of another release", greeting.node, reason=error.message
                )
            if self.peer is not None:
                self.peer.why_lost = error.message
            raise
        self.hub.strangers.forget(greeting.node)
        return version

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.connection is self:
            self.peer.pause(True)

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.connection is self:
            self.peer.pause(False)

    def connection_lost(self, exc: Exception | None) -> None:
        self.hub.connections.discard(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.peer is not None:
            self.peer.disclaim(self)
            self.peer.lost(self)
