"""Connections that are read from only to throw away what comes.

A client that still sends when its answer is there must be let: closing a socket that holds unread
bytes resets the connection, and a reset takes the answer from under its reader (RFC 9112, 9.6).
So what a request leaves unread is drained; either the connection goes on after that, or this is
its last stage. How long and how much is bounded, and how many do so at once: beyond that the one
that lingers longest makes room.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from supervision.telemetry import bounds

MAX_LINGERING = 512
MAX_BYTES = 64 << 20
MAX_S = 30.0
IDLE_S = 5.0  # nginx's lingering_time and lingering_timeout
HURRY_S = 0.3  # while the server stops


class Lingering:
    """Those of one process, oldest first."""

    def __init__(self, most: int = MAX_LINGERING) -> None:
        self._most = most
        self._open: dict[Remainder, None] = {}
        self.hurried = False
        self._used = bounds.used.labels("door_lingering")
        self._refused = bounds.refused.labels("door_lingering")

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, loop: asyncio.AbstractEventLoop, over: Callable[[], None]) -> Remainder:
        """`over` is called once, when the time is up or the bytes are, unless it was ended."""
        if len(self._open) >= self._most:
            self._refused.inc()
            next(iter(self._open)).expire()
        remainder = Remainder(self, loop, over)
        self._open[remainder] = None
        self._used.set(len(self._open))
        return remainder

    def left(self, remainder: Remainder) -> None:
        self._open.pop(remainder, None)
        self._used.set(len(self._open))

    def hurry(self) -> None:
        """The server stops: those that are here, and those that come, have `HURRY_S`."""
        if not self.hurried:
            self.hurried = True
            for remainder in list(self._open):
                remainder.hurry()


class Remainder:
    """What one connection's client may still send."""

    __slots__ = ("_bytes", "_ends", "_heard", "_loop", "_over", "_timer", "_whose")

    def __init__(
        self, whose: Lingering, loop: asyncio.AbstractEventLoop, over: Callable[[], None]
    ) -> None:
        self._whose, self._loop = whose, loop
        self._over: Callable[[], None] | None = over
        self._bytes = 0
        self._heard = loop.time()
        self._ends = self._heard + (HURRY_S if whose.hurried else MAX_S)
        self._timer = loop.call_at(min(self._heard + IDLE_S, self._ends), self._look)

    def heard(self, count: int) -> int:
        """`count` bytes more were thrown away; how many that makes."""
        self._heard = self._loop.time()
        self._bytes += count
        if self._bytes > MAX_BYTES:
            self.expire()
        return self._bytes

    def hurry(self) -> None:
        self._ends = min(self._ends, self._loop.time() + HURRY_S)
        self._timer.cancel()
        self._look()

    def end(self) -> None:
        """It isn't needed any more."""
        self._over = None
        self._timer.cancel()
        self._whose.left(self)

    def expire(self) -> None:
        over = self._over
        self.end()
        if over is not None:
            over()

    def _look(self) -> None:
        due = min(self._heard + IDLE_S, self._ends)
        if self._loop.time() >= due:
            self.expire()
        else:
            self._timer = self._loop.call_at(due, self._look)
