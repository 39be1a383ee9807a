"""One process at the other end: its connections, and what is on its way to it.

Frames for a peer are collected and written once per turn of the loop; while much is under way,
one turn later, for every write costs the other side a wake-up. Contract frames are
written and forgotten: when the connection breaks, whoever waits hears `PeerLost`. System
messages are kept until they are acknowledged, and sent again over a new connection.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import reduce
from operator import and_
from typing import Any, Final, Protocol

from supervision.errors import Overloaded, PeerLost, ProtocolError
from supervision.runtime.address import Address
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.wire import OLDEST_VERSION, SYSTEM, frame
from supervision.telemetry import bounds, logs

MAX_QUEUED: Final = 32 << 20  # bytes on their way to one peer; then asks and tells are refused
MAX_BACKLOG: Final = 128 << 20  # bytes of answers; a peer that asks and never reads is cut off
BUSY: Final = 8  # asks and streams of this process in flight, above which a write waits a turn
MAX_UNACKED: Final = 10_000  # system messages on their way to one peer
MAX_UNACKED_BYTES: Final = 64 << 20  # of them, unless it is a single one

log = logs.get(__name__)
_refused_bytes = bounds.refused.labels("peer_queue")
_refused_system = bounds.refused.labels("peer_unacked")


class Delivered(Protocol):
    """Called once for a system message: None when it has arrived, else why it can't."""

    def __call__(self, failure: PeerLost | Overloaded | None, /) -> object: ...


class Served(Protocol):
    """What works for a peer, and ends when the peer doesn't wait any more."""

    def cancel(self, msg: Any = None, /) -> object: ...


class Link(Protocol):
    """What a peer needs of a connection that leads to it."""

    transport: asyncio.Transport
    dialed: Peer | None  # by us, to reach this one
    pid: int
    greeted: bool


class Dialer(Protocol):
    """What a peer needs of the process that it is a peer of."""

    loop: asyncio.AbstractEventLoop
    address: Address
    max_frame: int
    closed: bool

    @property
    def in_flight(self) -> int:
        """Asks and streams of this process that wait for others."""

    def dial(self, peer: Peer) -> asyncio.Task[None]:
        """Begins to connect; the peer is told how that goes."""

    def uses(self, peer: Peer) -> bool:
        """Does anybody here wait for `peer`, work for it, or watch it?"""

    def forget(self, peer: Peer) -> None:
        """It is gone, or of no use: the next one at its address is another."""

    def peer_lost(self, peer: Peer) -> None:
        """Tells all who wait for an answer of `peer`."""


class Peer:
    """A process at the other end, from the first frame for it until it is gone. A process that
    comes back under the same address is another Peer."""

    __slots__ = (
        "address",
        "audience",
        "claims",
        "closed",
        "connection",
        "departing",
        "dialing",
        "hub",
        "incarnation",
        "max_frame",
        "out",
        "paused",
        "pid",
        "queued",
        "resumed",
        "scheduled",
        "serving",
        "unacked",
        "unacked_bytes",
        "version",
        "watchers",
        "why_lost",
    )

    def __init__(self, hub: Dialer, address: Address) -> None:
        self.hub = hub
        self.address = address
        self.pid = address.pid
        self.connection: Link | None = None
        self.dialing: asyncio.Task[None] | None = None
        self.departing = False  # last words were said, and their answer hasn't come
        self.closed = False
        self.why_lost = ""  # where more is known than that it is gone
        self.out: list[bytes] = []
        self.queued = 0  # bytes in `out`
        self.scheduled = False
        self.paused = False
        self.resumed: asyncio.Event | None = None
        self.max_frame = hub.max_frame
        self.incarnation = 0
        self.version = OLDEST_VERSION  # of the protocol, until its greeting has come
        self.audience = 0  # what it is (`supervision.security.audience`); nobody, until greeted
        self.claims: dict[object, int] = {}  # the same, by each of its connections
        self.unacked: deque[tuple[int, bytes, Delivered]] = deque()
        self.unacked_bytes = 0
        self.serving: dict[int, Served] = {}
        self.watchers: dict[object, Callable[[], object]] = {}

    def send(self, data: bytes) -> None:
        """Writes a frame with the others of this turn; nothing happens if the peer is gone."""
        self.out.append(data)
        self.queued += len(data)
        if not self.scheduled:
            self.scheduled = True
            hub = self.hub
            hub.loop.call_soon(self._soon if hub.in_flight > BUSY else self.flush)

    def _soon(self) -> None:
        """What the answers of this turn wake up runs in the next one, and is written with them:
        a tenth of the CPU of a request at 16 and 64 in flight (`scripts/bench http`)."""
        self.hub.loop.call_soon(self.flush)

    def check(self, size: int) -> None:
        """
        Raises:
            PeerLost: the peer is gone.
            Overloaded: too much is on its way to it already.
            ProtocolError: `size` bytes are more than it accepts in one frame.
        """
        if self.closed:
            raise self.gone()
        if self.queued > MAX_QUEUED:
            _refused_bytes.inc()
            raise Overloaded(f"{self.address} reads too slowly: {self.queued} bytes wait for it")
        if size > self.max_frame:
            raise ProtocolError(
                f"a message of {size} bytes is too large for {self.address}, "
                f"which accepts {self.max_frame}"
            )

    def send_system(self, number: int, payload: bytes, done: Delivered) -> None:
        """Sends a system message and keeps it until the peer has said that it arrived."""
        if self.closed:
            done(self.gone())
        elif len(self.unacked) >= MAX_UNACKED or self.unacked_bytes > MAX_UNACKED_BYTES:
            _refused_system.inc()
            done(Overloaded(f"{len(self.unacked)} messages wait for {self.address}"))
        else:
            data = frame(SYSTEM, number, payload)
            self.unacked.append((number, data, done))
            self.unacked_bytes += len(data)
            self.send(data)

    def acknowledged(self, number: int) -> None:
        unacked = self.unacked
        while unacked and unacked[0][0] <= number:
            _, data, done = unacked.popleft()
            self.unacked_bytes -= len(data)
            done(None)

    def flush(self) -> None:
        self.scheduled = False
        connection = self.connection
        if connection is None:
            if self.closed:
                self.out.clear()
                self.queued = 0
            elif self.out:
                self.seek()
            return
        if self.paused:
            return
        out = self.out
        if out:
            self.out = []
            self.queued = 0
            connection.transport.write(out[0] if len(out) == 1 else b"".join(out))

    async def room(self) -> None:
        """Returns when the peer reads fast enough again."""
        while self.paused and not self.closed:
            if self.resumed is None:
                self.resumed = asyncio.Event()
            await self.resumed.wait()

    def seek(self) -> None:
        """Connects unless there is a connection, or one is being made."""
        if self.connection is None and self.dialing is None and not self.closed:
            self.dialing = self.hub.dial(self)

    async def reachable(self) -> bool:
        """Connects if need be; false if nobody is there."""
        if self.connection is None and not self.closed:
            self.seek()
            if self.dialing is not None:
                await asyncio.shield(self.dialing)
        return self.connection is not None

    def attached(self, connection: Link) -> None:
        """`connection` now leads to the peer."""
        if self.connection is None and not self.closed and not self.departing:
            self.connection = connection
            if connection.pid:
                self.pid = connection.pid
            self.flush()

    def certified(self, connection: object, audience: int) -> None:
        """Who has greeted on `connection` is `audience`. Frames of all its connections come in as
        the peer's: it is what all of them say that it is, so that none lends another its rights."""
        self.claims[connection] = audience
        self._judge()

    def disclaim(self, connection: object) -> None:
        """`connection` has ended. With the last one stays what it was, for what it said last."""
        if self.claims.pop(connection, None) is not None and self.claims:
            self._judge()

    def _judge(self) -> None:
        self.audience = reduce(and_, self.claims.values())

    def depart(self, last: bytes) -> None:
        """Writes all that waits, and `last`, to the present connection, and nothing more until
        there is another."""
        assert self.connection is not None
        self.connection.transport.write(b"".join((*self.out, last)))
        self.out = []
        self.queued = 0
        self.connection = None
        self.pause(False)

    def switch(self, connection: Link) -> None:
        """Goes on on `connection`."""
        self.connection, self.dialing = connection, None
        self.flush()

    def retire(self) -> None:
        """Nobody has any use for this peer: it is forgotten, and none is told of a loss."""
        self.connection = self.dialing = None
        self.closed = True
        self.hub.forget(self)

    def pause(self, paused: bool) -> None:
        self.paused = paused
        if not paused:
            if self.resumed is not None:
                self.resumed.set()
                self.resumed = None
            self.flush()

    def lost(self, connection: Link | None) -> None:
        """A connection broke, or none could be made (None). Tells all who wait."""
        if self.closed or (connection is not None and connection is not self.connection):
            return
        self.connection = None
        # Whoever closed without a greeting has refused us, and would again.
        again = connection is not None and connection.greeted and bool(self.unacked)
        again = again and not self.hub.closed
        self.out = [data for _, data, _ in self.unacked] if again else []
        self.queued = sum(map(len, self.out))
        if not again:
            self.closed = True
            self.hub.forget(self)
        self.pause(False)
        self.hub.peer_lost(self)
        watchers, self.watchers = self.watchers, {}
        for callback in watchers.values():
            try:
                callback()
            except Exception:
                log.exception("a watcher failed", peer=str(self.address))
        for served in list(self.serving.values()):
            end(served, CancelCause.PEER_LOST)
        if self.hub.closed:
            self.unacked.clear()  # they may well have arrived, and nobody asks any more
        elif not again:
            self.abandon()

    def gone(self) -> PeerLost:
        """What those are told who wait for it, or would send something."""
        return PeerLost(self.why_lost or f"{self.address} is gone")

    def abandon(self) -> None:
        """Gives up on the system messages that haven't arrived."""
        self.unacked_bytes = 0
        while self.unacked:
            self.unacked.popleft()[2](self.gone())

    @property
    def pending(self) -> bool:
        """Is anything still on its way?"""
        return bool(self.out or self.unacked) or (
            self.connection is not None and self.connection.transport.get_write_buffer_size() > 0
        )


def end(served: Served, why: CancelCause) -> None:
    """Cancels with CancelledError(why), once: a second time would hit whatever the first one
    made it clean up."""
    if not isinstance(served, asyncio.Task) or not served.cancelling():
        served.cancel(why)
