"""Clients that have shut down their side of the connection, and wait for the answer.

TCP tells a half-closed socket from a closed one only when something is sent to it: a closed one
answers with a reset. An answer that is still computed would say nothing for long, so something is
said that means nothing (see `DoorCycle.murmur`), and then looked whether the connection still is
(RFC 9112, 9.6; tcp(7)). Much later the keep-alive probes of the listening socket find out as well.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable

MURMURS_S = (0.05, 1.0, 8.0, 60.0)  # after the end of what the client sends
LOOK_S = 0.2


class HalfClosed:
    """Watches one connection until `end`, or until `gone` is called."""

    __slots__ = ("_began", "_gone", "_loop", "_murmur", "_poll", "_said", "_timer")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        descriptor: int,
        murmur: Callable[[], None],
        gone: Callable[[], None],
    ) -> None:
        self._loop, self._murmur, self._gone = loop, murmur, gone
        self._poll = select.poll()
        self._poll.register(descriptor, 0)  # errors and the end of both sides, which always count
        self._began = loop.time()
        self._said = 0
        self._timer = loop.call_later(MURMURS_S[0], self._look)

    def end(self) -> None:
        """The connection is closed, or its answer complete."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._poll.poll(0):
            self._gone()
            return
        passed = self._loop.time() - self._began
        if self._said < len(MURMURS_S) and passed >= MURMURS_S[self._said]:
            self._said += 1
            self._murmur()
        self._timer = self._loop.call_later(LOOK_S if self._said > 1 else 0.05, self._look)
