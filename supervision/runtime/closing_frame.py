"""The last frame on a connection with another node, and the answer to it.

Whoever wants to leave a connection says so as its last word there, and goes on only when the other
side has answered: so nothing overtakes what was sent before, and nothing is lost behind it.
"""

from __future__ import annotations

import asyncio

from supervision.runtime.peer import Peer
from supervision.runtime.tls import TlsConnection


class ClosingFrame:
    """Those that this process has said, and whose answer is to come: one a peer at most."""

    def __init__(self) -> None:
        self._answers: dict[Peer, asyncio.Future[int]] = {}
        self._departed: dict[Peer, TlsConnection] = {}  # where they were said

    async def say(self, last: bytes, connection: TlsConnection) -> int:
        """Sends `last` as the last frame on `connection`, and nothing more to its peer; returns
        the kind of the frame that answers. Then the peer must switch or retire.

        Raises:
            PeerLost: the connection broke, and all who wait for the peer have been told.
        """
        peer = connection.peer
        assert peer is not None
        answer = self._answers[peer] = peer.hub.loop.create_future()
        self._departed[peer] = connection
        try:
            connection.departed = peer.departing = True
            peer.depart(last)
            peer.dialing = asyncio.current_task()  # it is taken care of: nobody else shall dial
            kind: int = await answer
        finally:
            del self._answers[peer], self._departed[peer]
            peer.departing = False
        connection.departed = False
        return kind

    def reply(self, peer: Peer, answer: bytes) -> None:
        """Sends `answer` to somebody's last words, with what else goes to the peer. If we have just
        said last words of our own, then behind those: else both sides would wait."""
        departed = self._departed.get(peer)
        if departed is None:
            peer.send(answer)
        else:
            departed.transport.write(answer)

    def answered(self, peer: Peer, kind: int) -> None:
        """A frame of `kind` answers what was said to `peer`, if anything was."""
        answer = self._answers.get(peer)
        if answer is not None and not answer.done():
            answer.set_result(kind)

    def broke_off(self, connection: TlsConnection) -> None:
        """Before an answer to the last words on it has come: then the peer is lost with it."""
        peer = connection.peer
        assert peer is not None
        if peer.connection is None and not peer.closed:
            peer.connection, peer.dialing = connection, None
        answer = self._answers.get(peer)
        if answer is not None and not answer.done():
            answer.set_exception(peer.gone())
