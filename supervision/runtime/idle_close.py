"""The close of a connection with another node that nobody uses.

Who dialed it asks, after `IDLE_S` without a byte; the other side may have a use for it that can't
be seen from here, such as somebody who watches us, and then it stays. Frames that come up while
the answer is awaited go over whatever connection there is then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from supervision.errors import PeerLost
from supervision.runtime import metrics
from supervision.runtime.closing_frame import ClosingFrame
from supervision.runtime.peer import Peer
from supervision.runtime.tcp import silent_s
from supervision.runtime.tls import TlsConnection
from supervision.runtime.wire import LEAVE, LEFT, STAY, frame

IDLE_S: Final = 300.0
ANSWER_S: Final = 5.0
_LOOKS: Final = 10  # at a connection, in `IDLE_S`


class IdleClose:
    """All that are being left by one process."""

    def __init__(
        self, last_words: ClosingFrame, newest_from: Callable[[Peer], TlsConnection | None]
    ) -> None:
        """`newest_from` is the last of the connections that a peer has dialed."""
        self._last_words = last_words
        self._newest_from = newest_from
        self._tasks: dict[Peer, asyncio.Task[None]] = {}

    def look(self, connection: TlsConnection) -> None:
        """Asks to leave `connection` if it has been silent for long and is of no use to us. One
        who can't be dialed stays: the other side could not come back."""
        hub = connection.hub
        now = hub.loop.time()
        if now < connection.leave_at:
            return
        connection.leave_at = now + IDLE_S / _LOOKS
        peer = connection.peer
        if (
            connection.dialed is None
            or peer is None
            or peer.connection is not connection
            or not connection.greeted
            or not hub.address.port
            or silent_s(connection.transport) < IDLE_S
            or hub.uses(peer)
        ):
            return
        task = hub.loop.create_task(self._leave(peer, connection))
        self._tasks[peer] = task
        task.add_done_callback(lambda _: void(self._tasks.pop(peer, None)))

    def received(self, peer: Peer) -> None:
        """`LEAVE` has come."""
        connection, hub = peer.connection, peer.hub
        if peer in self._tasks:
            # Each has dialed the other, and both have asked. One of them takes it back.
            if str(hub.address) < str(peer.address):
                self._last_words.answered(peer, STAY)
                peer.send(frame(LEFT, 0))
        elif connection is None or hub.uses(peer):
            self._last_words.reply(peer, frame(STAY, 0))
        elif connection.dialed is not None:
            peer.send(frame(LEFT, 0))  # the other one; this one is ours to leave
        else:
            peer.depart(frame(LEFT, 0))
            peer.retire()
            connection.transport.close()

    def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()

    async def _leave(self, peer: Peer, connection: TlsConnection) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                answer = await self._last_words.say(frame(LEAVE, 0), connection)
        except PeerLost:
            return
        except TimeoutError:
            answer = STAY  # a release that doesn't know the question
            connection.departed = False
        if answer == LEFT:
            metrics.tls_left.inc()
            peer.dialing = None
            other = self._newest_from(peer)
            if other is not None:
                peer.switch(other)
            elif peer.hub.uses(peer):
                peer.seek()
            else:
                peer.retire()
            connection.transport.close()
        elif not peer.closed:
            peer.switch(connection)


def void(_: object) -> None:
    """For callbacks that must return nothing."""
