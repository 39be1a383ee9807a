"""The connections of one process, on one loop: who listens, dials, knows whom, and closes.

A process listens on a Unix socket in the node's folder of the run directory (mode 0700), and dials
peers when there is something to send. Processes of other nodes are met at the `NodeTransport`. What
is said on the connections are `Exchanges`.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final

from supervision.contracts import Contract
from supervision.errors import PeerLost, ProtocolError
from supervision.runtime.address import ADMIN, Address
from supervision.runtime.connection import Connection
from supervision.runtime.exchanges import Exchanges, refuse
from supervision.runtime.peer import Delivered, Peer
from supervision.runtime.refused_peers import RefusedPeers
from supervision.runtime.sockets import BACKLOG, Listener, connected, socket_path
from supervision.runtime.streams import Stream
from supervision.runtime.wire import (
    HEADER,
    HEADER_SIZE,
    MAX_FRAME,
    OLDEST_VERSION,
    PROTOCOL_VERSION,
    SYSTEM,
    TELL,
    Greeting,
    greet,
)
from supervision.security.audience import OWN
from supervision.telemetry import bounds, logs

if TYPE_CHECKING:
    from supervision.runtime.node_transport import NodeTransport

MAX_CONNECTIONS: Final = 4096
DIAL_TIMEOUT: Final = 5.0

log = logs.get(__name__)
_refused_connections = bounds.refused.labels("hub_connections")


class Connections:
    """Listening starts with `start()`; `close()` ends everything and may be called twice."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_dir: str,
        address: Address,
        *,
        max_frame: int = MAX_FRAME,
        border: NodeTransport | None = None,
    ) -> None:
        """Binds the socket, so that whoever was told the address can connect at once. Processes
        of other nodes are reached over `border`; without one, as those of this node are. `guardian`
        is to be set by who knows that another node has placed this process here.

        Raises:
            ValueError: the path of the socket is too long.
            OSError: the run directory can't be made, or is not ours, or somebody listens at the
                address.
        """
        self.loop = loop
        self.run_dir = run_dir
        self.address = address
        self.max_frame = max_frame
        self.border = border
        self.closed = False
        self.guardian = ""
        self.strangers = RefusedPeers()
        self.connections: set[Connection] = set()
        self.on_request: Callable[[Peer, int, int, bytes], object] = self._nobody_serves
        self.on_cancel: Callable[[Peer, int], object] = lambda _peer, _number: None
        self.on_system: Callable[[Peer, bytes], object] = lambda _peer, _payload: None
        self.on_link: Callable[[Peer, int], object] = lambda _peer, _kind: None
        if border is not None:
            self.on_link = border.received
        self.greeting = greet(
            Greeting(
                PROTOCOL_VERSION,
                address.node,
                str(address),
                max_frame,
                secrets.randbits(63),
                OLDEST_VERSION,
            )
        )
        self._peers: dict[Address, Peer] = {}
        self._exchanges = exchanges = Exchanges(loop, self, self._peers, self.peer)
        self._asks, self._streams = exchanges.asks, exchanges.streams
        # Of every frame that comes in, so without a detour.
        self.receive: Callable[[Peer, int, int, bytes], None] = exchanges.receive
        self._server: asyncio.Server | None = None
        self._listener = Listener(socket_path(run_dir, address), foreign=address.name != ADMIN)
        self._uids = self._listener.uids()

    async def start(self) -> None:
        self._server = await self.loop.create_unix_server(
            self._accept, sock=self._listener.socket, backlog=BACKLOG
        )
        if self.border is not None:
            self.border.start(self)

    def _accept(self) -> asyncio.BaseProtocol:
        if len(self.connections) >= MAX_CONNECTIONS:
            _refused_connections.inc()
            return _Refusal()
        return Connection(self, None)

    def admits(self, uid: int) -> bool:
        """May processes of this user talk to us?"""
        return uid in self._uids

    def by_tls(self, address: Address) -> bool:
        """Is the process at `address` met by TLS alone?"""
        return self.border is not None and address.node != self.address.node

    # ---- peers

    def peer(self, address: Address) -> Peer:
        """The peer at `address`; a new one is dialed when something is sent.

        Raises:
            PeerLost: these connections are closed.
        """
        found = self._peers.get(address)
        if found is None:
            if self.closed:
                raise PeerLost(f"{self.address} is closed itself")
            found = self._peers[address] = (
                Loopback(self, address, self.receive)
                if address == self.address
                else Peer(self, address)
            )
        return found

    @property
    def in_flight(self) -> int:
        """Asks and streams of this process that wait for others."""
        return len(self._asks) + len(self._streams)

    @property
    def waiting(self) -> tuple[int, int]:
        """The asks and the streams of this process that wait for others."""
        return len(self._asks), len(self._streams)

    def forget(self, peer: Peer) -> None:
        if self._peers.get(peer.address) is peer:
            del self._peers[peer.address]

    def peers(self) -> Iterable[Peer]:
        return self._peers.values()

    def known(self, address: Address) -> Peer | None:
        """The peer at `address` if there is one already."""
        return self._peers.get(address)

    def route(self, node: str, where: str | None) -> None:
        """Processes of `node` are dialed at the host `where` from now on, or not at all (None).
        Nothing happens on a node that has no identity.

        Raises:
            ValueError: `where` is neither "host" nor "host:port".
        """
        if self.border is not None:
            self.border.routes.tell(node, where)

    def uses(self, peer: Peer) -> bool:
        """Does anybody here wait for `peer`, work for it, or watch it? Looks at all asks."""
        return bool(
            peer.out or peer.unacked or peer.serving or peer.watchers
        ) or self._exchanges.waits_for(peer)

    def dial(self, peer: Peer) -> asyncio.Task[None]:
        return self.loop.create_task(self._dial(peer), name=f"dial {peer.address}")

    async def _dial(self, peer: Peer) -> None:
        try:
            async with asyncio.timeout(DIAL_TIMEOUT):
                await self._connect(peer)
        except (OSError, ValueError, TimeoutError) as error:
            peer.dialing = None
            if peer.connection is None:
                log.debug("can't reach a peer", peer=str(peer.address), error=str(error))
                peer.lost(None)
        else:
            peer.dialing = None

    async def _connect(self, peer: Peer) -> None:
        if self.border is not None and self.by_tls(peer.address):
            await self.border.open(peer)
            return
        sock = await connected(socket_path(self.run_dir, peer.address))
        try:
            await self.loop.create_unix_connection(lambda: Connection(self, peer), sock=sock)
        except BaseException:
            sock.close()
            raise

    def watch(self, address: Address, callback: Callable[[], object]) -> Callable[[], None]:
        """Calls `callback` once when the process at `address` is gone; returns what takes the
        wish back. Connects if that hasn't happened yet."""
        if self.closed:
            return self.loop.call_soon(callback).cancel
        peer = self.peer(address)
        key = object()
        peer.watchers[key] = callback
        peer.seek()
        return lambda: void(peer.watchers.pop(key, None))

    # ---- what is said

    def tell(self, address: Address, contract: Contract) -> None:
        """See `Exchanges.tell`."""
        self._exchanges.tell(address, contract)

    def ask(self, address: Address, contract: Contract, timeout: float) -> Coroutine[Any, Any, Any]:
        """See `Exchanges.ask`."""
        return self._exchanges.ask(address, contract, timeout)

    def stream(self, address: Address, contract: Contract, credit: int) -> Stream:
        """See `Exchanges.stream`."""
        return self._exchanges.stream(address, contract, credit)

    def system(self, address: Address, payload: bytes, done: Delivered) -> None:
        """See `Exchanges.system`."""
        self._exchanges.system(address, payload, done)

    def peer_lost(self, peer: Peer) -> None:
        """Tells all who wait for `peer`."""
        self._exchanges.lost(peer)

    def _nobody_serves(self, peer: Peer, kind: int, number: int, _payload: bytes) -> None:
        if kind != TELL:
            refuse(peer, number, ProtocolError(f"{self.address} answers no contracts"))

    # ---- the end

    def sweep_sockets(self, pid: int) -> None:
        """Removes what a process of this node left behind that was killed."""
        self._listener.sweep(pid)

    @property
    def pending(self) -> bool:
        """Is anything still on its way out?"""
        return any(peer.pending for peer in self._peers.values())

    def close(self) -> None:
        """Closes all connections and removes the socket."""
        if self.closed:
            return
        self.closed = True
        self._asks.close()
        for peer in list(self._peers.values()):
            if peer.dialing is not None:
                peer.dialing.cancel()
            peer.flush()
            peer.lost(None)
        if self.border is not None:
            self.border.close()
        for connection in list(self.connections):
            connection.transport.close()
        self.withdraw()

    def withdraw(self) -> None:
        """Takes no new connections, and leaves the address to a successor."""
        self._listener.withdraw()  # before it stops to listen, else it may hit a successor's
        if self._server is not None:
            self._server.close()
            self._server = None
        self._listener.socket.close()


class Loopback(Peer):
    """This process as its own peer: frames are handed over at the next turn of the loop."""

    __slots__ = ("_receive",)

    def __init__(
        self, hub: Connections, address: Address, receive: Callable[[Peer, int, int, bytes], None]
    ) -> None:
        super().__init__(hub, address)
        self._receive = receive
        self.audience = OWN.mask

    def seek(self) -> None:
        """It is here."""

    def flush(self) -> None:
        self.scheduled = False
        out, self.out, self.queued = self.out, [], 0
        for data in out:
            _, kind, number = HEADER.unpack_from(data)
            self._receive(self, kind, number, data[HEADER_SIZE:])
            if kind == SYSTEM:
                self.acknowledged(number)


class _Refusal(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def void(_: object) -> None:
    """For callbacks that must return nothing."""
