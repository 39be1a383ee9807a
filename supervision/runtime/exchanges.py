"""Exchanges with other processes: asks, streams, messages, each by its number.

An exchange begins with a frame that carries a fresh number; what belongs to it carries the same
one. Answers are taken from the peer that was asked, and from no other. What others want goes to
`on_request` (contracts that ask something of this process), `on_cancel` (for requests on which
nothing works yet), `on_system` (Thespian) and `on_link` (how their connection goes on).
"""

from __future__ import annotations

import asyncio
import itertools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from supervision.contracts import Contract
from supervision.errors import Internal, Overloaded, ProtocolError, TetherError
from supervision.runtime.address import Address
from supervision.runtime.cancel_cause import CancelCause
from supervision.runtime.codec import decode, decode_error, encode, encode_error
from supervision.runtime.peer import Delivered, Peer, end
from supervision.runtime.pending_requests import PendingRequests
from supervision.runtime.streams import Inbox, Producer, Stream
from supervision.runtime.wire import (
    ACK,
    ASK,
    CANCEL,
    CREDIT,
    END,
    ERROR,
    HEADER,
    ITEM,
    MOVE,
    OPEN,
    OVERHEAD,
    REPLY,
    SYSTEM,
    TELL,
    U32,
    frame,
)
from supervision.telemetry import bounds
from supervision.telemetry.bounded_log import BoundedLog

MAX_STREAMS: Final = 65_536  # that are open at once
_MAX_SENDERS: Final = 4096  # whose last system message is remembered

heard = BoundedLog(__name__)
_refused_streams = bounds.refused.labels("hub_streams")

_pack_header = HEADER.pack


class Receiver(Protocol):
    """What others want of this process goes there."""

    on_request: Callable[[Peer, int, int, bytes], object]
    on_cancel: Callable[[Peer, int], object]
    on_system: Callable[[Peer, bytes], object]
    on_link: Callable[[Peer, int], object]


class Exchanges:
    """`known` are the peers that there are, and `peer` makes one where there is none."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        receiver: Receiver,
        known: Mapping[Address, Peer],
        peer: Callable[[Address], Peer],
    ) -> None:
        self.asks = PendingRequests(loop)
        self.streams: dict[int, Inbox] = {}
        self._receiver = receiver
        self._known = known
        self._peer = peer
        self._numbers = itertools.count(1)
        self._arrived: OrderedDict[tuple[Address, int], int] = OrderedDict()

    # ---- what goes out

    def tell(self, address: Address, contract: Contract) -> None:
        """
        Raises:
            Overloaded, ProtocolError: see `Peer.check`. A peer that is gone is no error.
        """
        payload = encode(contract)
        peer = self._peer(address)
        peer.check(len(payload) + OVERHEAD)
        peer.send(_pack_header(len(payload) + OVERHEAD, TELL, 0) + payload)

    async def ask(self, address: Address, contract: Contract, timeout: float) -> Any:
        """The answer; None if the handler returned nothing.

        Raises:
            DeadlineExceeded: no answer within `timeout` seconds; the other side is told.
            PeerLost: the process is gone.
            TetherError: whatever was raised there.
        """
        payload = encode(contract)
        peer = self._known.get(address) or self._peer(address)
        peer.check(len(payload) + OVERHEAD)
        number = next(self._numbers)
        answer = self.asks.add(number, peer, timeout)
        peer.send(_pack_header(len(payload) + OVERHEAD, ASK, number) + payload)
        try:
            return await answer
        except BaseException:
            self.asks.given_up(number)
            del answer  # it holds the error, whose traceback holds this frame
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
        peer = self._peer(address)
        if len(self.streams) >= MAX_STREAMS:
            _refused_streams.inc()
            raise Overloaded(f"{len(self.streams)} streams of this process are open already")
        peer.check(len(payload) + OVERHEAD + U32.size)
        number = next(self._numbers)
        inbox = self.streams[number] = Inbox(peer, number, credit, self.streams)
        peer.send(frame(OPEN, number, U32.pack(credit) + payload))
        return Stream(inbox)

    def system(self, address: Address, payload: bytes, done: Delivered) -> None:
        """Sends a message of Thespian's; `done` hears of its arrival, or that it is lost."""
        self._peer(address).send_system(next(self._numbers), payload, done)

    def waits_for(self, peer: Peer) -> bool:
        """Is anything of `peer` still to come? Looks at all asks and streams."""
        return self.asks.waits_for(peer) or any(s.peer is peer for s in self.streams.values())

    # ---- what comes in

    def receive(self, peer: Peer, kind: int, number: int, payload: bytes) -> None:
        """One frame. Never raises: a bad one concerns only whoever waits for it."""
        try:
            if kind == REPLY:
                if self.asks.waits(number, peer):
                    self.asks.answered(number, decode(payload) if payload else None)
            elif kind == ITEM:
                stream = self.streams.get(number)
                if stream is not None and stream.peer is peer:
                    stream.arrived(decode(payload))
            elif kind in (ASK, OPEN, TELL):
                self._receiver.on_request(peer, kind, number, payload)
            elif kind == CREDIT:
                producer = peer.serving.get(number)
                if isinstance(producer, Producer):
                    if len(payload) != U32.size:
                        end(producer, CancelCause.CANCELLED)
                        said = (
                            f"a stream was granted credit in {len(payload)} bytes, not {U32.size}"
                        )
                        refuse(peer, number, ProtocolError(said))
                        return
                    producer.grant(U32.unpack(payload)[0])
            elif kind == SYSTEM:
                sender = (peer.address, peer.incarnation)
                if number > self._arrived.get(sender, 0):  # else it was sent a second time
                    self._arrived[sender] = number
                    self._arrived.move_to_end(sender)
                    if len(self._arrived) > _MAX_SENDERS:
                        self._arrived.popitem(last=False)
                    self._receiver.on_system(peer, payload)
            elif kind == ACK:
                peer.acknowledged(number)
            elif kind == CANCEL:
                served = peer.serving.get(number)
                if served is not None:
                    end(served, CancelCause.told(payload))
                else:
                    self._receiver.on_cancel(peer, number)
            elif kind == END:
                stream = self.streams.get(number)
                if stream is not None and stream.peer is peer:
                    stream.ended(None)
            elif kind == ERROR:
                self._fail(peer, number, decode_error(payload))
            elif kind >= MOVE:
                self._receiver.on_link(peer, kind)
        except TetherError as error:
            self._fail(peer, number, error)
            peer.send(frame(CANCEL, number))
        except Exception as error:
            heard.exception(
                "a frame could not be taken", peer.address.node, peer=str(peer.address), kind=kind
            )
            self._fail(peer, number, Internal(f"an answer could not be taken: {error}"))
        # A kind of a later release is passed over.

    def lost(self, peer: Peer) -> None:
        """`peer` is gone, and whoever waits for it is told."""
        self.asks.lost(peer)
        for stream in [s for s in self.streams.values() if s.peer is peer]:
            stream.ended(peer.gone())

    def _fail(self, peer: Peer, number: int, error: TetherError) -> None:
        if self.asks.waits(number, peer):
            self.asks.failed(number, error)
            return
        stream = self.streams.get(number)
        if stream is not None and stream.peer is peer:
            stream.ended(error)


def refuse(peer: Peer, number: int, error: BaseException) -> None:
    """Answers an ask, or ends a stream, with `error`."""
    peer.send(frame(ERROR, number, encode_error(error)))
