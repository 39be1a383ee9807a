"""The rotation of a connection: a fresh one takes over before its certificate ends.

Who dialed dials again, with the certificates of now. Then it says `MOVE` as its last word on the
old connection and holds its tongue; the other side, having heard all that came before, says
`MOVED` as its own last word there, and goes on on the new one. What it says there is not listened
to before its last word on the old one has been heard. Where each has dialed the other, each moves
its own, and both may at once. So no frame is lost, sent twice, or
overtaken by another, and nobody is told that a peer was lost.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final

from supervision.errors import PeerLost
from supervision.runtime import metrics
from supervision.runtime.closing_frame import ClosingFrame
from supervision.runtime.peer import Peer
from supervision.runtime.tls import TlsConnection
from supervision.runtime.wire import MOVE, MOVED, frame
from supervision.security.identity import Identity
from supervision.telemetry import logs
from supervision.telemetry.bounded_log import BoundedLog

MAX_MOVES: Final = 16  # at once
MOVE_S: Final = 5.0
LEAD_S: Final = 1800.0  # before the end of a certificate, or a third of what is left of it
_WORTH_S: Final = 1.0  # by so much must a new connection outlive the old one

log = logs.get(__name__)
heard = BoundedLog(__name__)
_moved = metrics.tls_moves.labels("moved")
_failed = metrics.tls_moves.labels("failed")


class TlsRotation:
    """All moves of one process."""

    def __init__(
        self,
        identity: Identity,
        last_words: ClosingFrame,
        newest_from: Callable[[Peer], TlsConnection | None],
        dial: Callable[[Peer], Awaitable[TlsConnection]],
    ) -> None:
        """`newest_from` is the last of the connections that a peer has dialed; `dial` makes one
        more to it, and raises OSError and ValueError."""
        self._identity = identity
        self._last_words = last_words
        self._newest_from = newest_from
        self._dial = dial
        self._tasks: dict[Peer, asyncio.Task[None]] = {}

    def plan(self, connection: TlsConnection, now: float) -> None:
        """Chooses when `connection` should be left; not all of a process at once."""
        lead = min(LEAD_S, (connection.ends_at - now) / 3)
        connection.move_at = connection.ends_at - lead * random.uniform(0.7, 1.0)

    def look(self, connection: TlsConnection, now: float) -> None:
        """Begins to move from `connection` if it is time, and there is something to gain."""
        peer = connection.peer
        if (
            connection.dialed is None
            or peer is None
            or now < connection.move_at
            or peer.connection is not connection
            or peer in self._tasks
            or len(self._tasks) >= MAX_MOVES
            or not connection.greeted
        ):
            return
        connection.move_at = now + (connection.ends_at - now) / 4  # should this one fail
        if self._identity.current.ends_at > connection.ends_at + _WORTH_S:
            task = peer.hub.loop.create_task(self._move(peer, connection))
            self._tasks[peer] = task
            task.add_done_callback(lambda _: void(self._tasks.pop(peer, None)))

    def received(self, peer: Peer) -> None:
        """`MOVE` has come."""
        old, new = peer.connection, self._newest_from(peer)
        if old is None or old.dialed is not None or new is None or new is old:
            # We speak on one that we dialed ourselves, and may be leaving that this very moment.
            self._last_words.reply(peer, frame(MOVED, 0))
        else:
            peer.depart(frame(MOVED, 0))
            peer.switch(new)

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _move(self, peer: Peer, old: TlsConnection) -> None:
        new: TlsConnection | None = None
        try:
            async with asyncio.timeout(MOVE_S):
                new = await self._dial(peer)
                await new.settled.wait()
                if not new.greeted:
                    raise PeerLost(f"{peer.address} has refused a new connection")
                if peer.connection is old and new.ends_at > old.ends_at + _WORTH_S:
                    await self._go_over(peer, old, new)
                    _moved.inc()
                    return
        except (OSError, TimeoutError, PeerLost, ValueError) as error:
            heard.warning(
                "could not move to a new connection",
                peer.address.node,
                peer=str(peer.address),
                error=str(error),
            )
            _failed.inc()
        if old.departed:
            old.transport.abort()
        if new is not None:
            new.transport.abort()

    async def _go_over(self, peer: Peer, old: TlsConnection, new: TlsConnection) -> None:
        new.transport.pause_reading()
        await self._last_words.say(frame(MOVE, 0), old)
        peer.switch(new)
        new.transport.resume_reading()
        old.transport.close()
        log.debug("moved to a new connection", peer=str(peer.address), ends_at=new.ends_at)


def void(_: object) -> None:
    """For callbacks that must return nothing."""
