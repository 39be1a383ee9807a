"""All connections of one process, on one loop, and the asks and streams that go out on them.

The hub listens on a Unix socket in the node's folder of the run directory (mode 0700), dials
peers when there is something to send, and knows who waits for what. Processes of other nodes
are met at the `Border`. What comes in goes to
`on_request` (contracts that want an answer from this process), `on_cancel` (for requests on
which nothing works yet) and `on_system` (Thespian).
"""

from __future__ import annotations

import asyncio
import itertools
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final

from actors.runtime.address import ADMIN, Address
from actors.runtime.asks import Asks
from actors.runtime.cause import Cause
from actors.runtime.codec import decode, decode_error, encode, encode_error
from actors.runtime.connection import Connection
from actors.runtime.peer import Delivered, Peer, end
from actors.runtime.sockets import BACKLOG, Listener, connected, socket_path
from actors.runtime.strangers import Strangers
from actors.runtime.streams import Inbox, Producer, Stream
from actors.runtime.wire import (
    ACK,
    ASK,
    CANCEL,
    CREDIT,
    END,
    ERROR,
    HEADER,
    HEADER_SIZE,
    ITEM,
    MAX_FRAME,
    MOVE,
    OLDEST_VERSION,
    OPEN,
    OVERHEAD,
    PROTOCOL_VERSION,
    REPLY,
    SYSTEM,
    TELL,
    U32,
    Greeting,
    frame,
    greet,
)
from tether.contracts import Contract
from tether.errors import (
    Internal,
    Overloaded,
    PeerLost,
    ProtocolError,
    TetherError,
)
from tether.telemetry import logs, metrics

if TYPE_CHECKING:
    from actors.runtime.border import Border

MAX_STREAMS: Final = 65_536  # that are open at once
MAX_CONNECTIONS: Final = 4096
DIAL_TIMEOUT: Final = 5.0
_MAX_SENDERS: Final = 4096  # whose last system message is remembered

log = logs.get(__name__)
_refused_streams = metrics.bound_refused.labels("hub_streams")
_refused_connections = metrics.bound_refused.labels("hub_connections")

_pack_header = HEADER.pack


class Hub:
    """Listening starts with `start()`; `close()` ends everything and may be called twice."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        run_dir: str,
        address: Address,
        *,
        max_frame: int = MAX_FRAME,
        border: Border | None = None,
    ) -> None:
        """Binds the socket, so that whoever was told the address can connect at once. Processes
        of other nodes are reached over `border`; without one, as those of this node are.

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
        self.strangers = Strangers()
        self.connections: set[Connection] = set()
        self.on_request: Callable[[Peer, int, int, bytes], object] = self._nobody_serves
        self.on_cancel: Callable[[Peer, int], object] = lambda _peer, _number: None
        self.on_system: Callable[[Peer, bytes], object] = lambda _peer, _payload: None
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
        self._asks = Asks(loop)
        self._streams: dict[int, Inbox] = {}
        self._numbers = itertools.count(1)
        self._arrived: OrderedDict[tuple[Address, int], int] = OrderedDict()
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

    # ---- peers

    def peer(self, address: Address) -> Peer:
        """The peer at `address`; a new one is dialed when something is sent.

        Raises:
            PeerLost: this hub is closed.
        """
        found = self._peers.get(address)
        if found is None:
            if self.closed:
                raise PeerLost(f"{self.address} is closed itself")
            found = self._peers[address] = (
                Loopback(self, address) if address == self.address else Peer(self, address)
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
        return (
            bool(peer.out or peer.unacked or peer.serving or peer.watchers)
            or self._asks.waits_for(peer)
            or any(stream.peer is peer for stream in self._streams.values())
        )

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
        if self.border is not None and peer.address.node != self.address.node:
            await self.border.connect(peer)
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

    # ---- what goes out

    def tell(self, address: Address, contract: Contract) -> None:
        """
        Raises:
            Overloaded, ProtocolError: see `Peer.check`. A peer that is gone is no error.
        """
        payload = encode(contract)
        peer = self.peer(address)
        peer.check(len(payload) + OVERHEAD)
        peer.send(_pack_header(len(payload) + OVERHEAD, TELL, 0) + payload)

    async def ask(self, address: Address, contract: Contract, timeout: float) -> Any:
        """The answer; None if the handler returned nothing.

        Raises:
            NoAnswer: none within `timeout` seconds; the other side is told.
            PeerLost: the process is gone.
            TetherError: whatever was raised there.
        """
        payload = encode(contract)
        peer = self._peers.get(address) or self.peer(address)
        peer.check(len(payload) + OVERHEAD)
        number = next(self._numbers)
        answer = self._asks.add(number, peer, timeout)
        peer.send(_pack_header(len(payload) + OVERHEAD, ASK, number) + payload)
        try:
            return await answer
        except BaseException:
            self._asks.given_up(number)
            raise

    def stream(self, address: Address, contract: Contract, credit: int) -> Stream:
        """Opens a stream at `address`; the request leaves with this call.

        Raises:
            ValueError: credit is less than 1.
            PeerLost, Overloaded, ProtocolError: see `Peer.check`.
        """
        if not 1 <= credit <= 1 << 20:
            raise ValueError(f"credit {credit} must lie in 1..1048576")
        payload = encode(contract)
        peer = self.peer(address)
        if len(self._streams) >= MAX_STREAMS:
            _refused_streams.inc()
            raise Overloaded(f"{len(self._streams)} streams of this process are open already")
        peer.check(len(payload) + OVERHEAD + U32.size)
        number = next(self._numbers)
        inbox = self._streams[number] = Inbox(peer, number, credit, self._streams)
        peer.send(frame(OPEN, number, U32.pack(credit) + payload))
        return Stream(inbox)

    def system(self, address: Address, payload: bytes, done: Delivered) -> None:
        """Sends a message of Thespian's; `done` hears of its arrival, or that it is lost."""
        self.peer(address).send_system(next(self._numbers), payload, done)

    # ---- what comes in

    def receive(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        """One frame. Never raises: a bad one concerns only whoever waits for it."""
        try:
            if kind == REPLY:
                if self._asks.waits(number, peer):
                    self._asks.answered(number, decode(payload) if payload else None)
            elif kind == ITEM:
                stream = self._streams.get(number)
                if stream is not None and stream.peer is peer:
                    stream.arrived(decode(payload))
            elif kind in (ASK, OPEN, TELL):
                self.on_request(peer, kind, number, payload)
            elif kind == CREDIT:
                producer = peer.serving.get(number)
                if isinstance(producer, Producer):
                    producer.grant(U32.unpack(payload)[0])
            elif kind == SYSTEM:
                sender = (peer.address, peer.incarnation)
                if number > self._arrived.get(sender, 0):  # else it was sent a second time
                    self._arrived[sender] = number
                    self._arrived.move_to_end(sender)
                    if len(self._arrived) > _MAX_SENDERS:
                        self._arrived.popitem(last=False)
                    self.on_system(peer, payload)
            elif kind == ACK:
                peer.acknowledged(number)
            elif kind == CANCEL:
                served = peer.serving.get(number)
                if served is not None:
                    end(served, Cause.CANCELLED)
                else:
                    self.on_cancel(peer, number)
            elif kind == END:
                stream = self._streams.get(number)
                if stream is not None and stream.peer is peer:
                    stream.ended(None)
            elif kind == ERROR:
                self._fail(peer, number, decode_error(payload))
            elif kind >= MOVE and self.border is not None:
                self.border.received(peer, kind)
        except TetherError as error:
            self._fail(peer, number, error)
            peer.send(frame(CANCEL, number))
        except Exception as error:
            log.exception("a frame could not be taken", peer=str(peer.address), kind=kind)
            self._fail(peer, number, Internal(f"an answer could not be taken: {error}"))
        # A kind of a later release is passed over.

    def _fail(self, peer: Peer, number: int, error: TetherError) -> None:
        if self._asks.waits(number, peer):
            self._asks.failed(number, error)
            return
        stream = self._streams.get(number)
        if stream is not None and stream.peer is peer:
            stream.ended(error)

    def peer_lost(self, peer: Peer) -> None:
        """Tells all who wait for `peer`."""
        self._asks.lost(peer)
        for stream in [s for s in self._streams.values() if s.peer is peer]:
            stream.ended(peer.gone())

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

    __slots__ = ()

    def seek(self) -> None:
        """It is here."""

    def flush(self) -> None:
        self.scheduled = False
        out, self.out, self.queued = self.out, [], 0
        for data in out:
            _, kind, number = HEADER.unpack_from(data)
            self.hub.receive(self, kind, number, data[HEADER_SIZE:])
            if kind == SYSTEM:
                self.acknowledged(number)


class _Refusal(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def refuse(peer: Peer, number: int, error: BaseException) -> None:
    """Answers an ask, or ends a stream, with `error`."""
    peer.send(frame(ERROR, number, encode_error(error)))


def void(_: object) -> None:
    """For callbacks that must return nothing."""
