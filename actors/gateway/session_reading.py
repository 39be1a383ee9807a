"""The readers of a request's answer: one of them moves the session on, the others wait for what
that one brings. Not one of them is needed: a reader that leaves at any point leaves a session which
the next one can take further."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto

from supervision.runtime.cancel_cause import CancelCause


class Deserted(Enum):
    """What becomes of a session whose last listener has left."""

    STAYS = auto()  # its worker keeps the run, and another gateway takes it up
    WAITS = auto()  # it runs on, for a while: its client may come back
    ENDS = auto()  # nobody waits any more: its client has left
    BREAKS = auto()  # nor then, but its client was cut off by us


class SessionReading:
    """The readers of one session."""

    __slots__ = ("_loop", "_moving", "_waiters", "left_at", "listeners")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._moving = False
        self._waiters: list[asyncio.Future[None]] = []
        self.listeners = 0
        self.left_at: float | None = None
        """Since when nobody listens, while the session is kept for them to come back."""

    async def more(self, step: Callable[[], Awaitable[None]]) -> None:
        """Returns when something may have changed: more to read, the end, or a fault. `step`
        moves the session on by one event."""
        if self._moving:
            waiter: asyncio.Future[None] = self._loop.create_future()
            self._waiters.append(waiter)
            await waiter
            return
        self._moving = True
        try:
            await step()
        finally:
            self._moving = False
            if self._waiters:
                self.wake()

    def wake(self) -> None:
        """All that wait look again."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    def enter(self) -> None:
        """Somebody listens; `leave` must follow."""
        self.listeners += 1
        self.left_at = None

    def leave(self, why: CancelCause | None, *, explicit: bool, now: float) -> Deserted | None:
        """A listener has left; None where others are there still. `why` its task was
        cancelled, if it was; an `explicit` token lets a client
        find its answer again."""
        self.listeners -= 1
        if self.listeners:
            return None
        if why is CancelCause.STOPPING:
            return Deserted.STAYS
        if why not in (CancelCause.PEER_LOST, CancelCause.LEAVING):
            return Deserted.ENDS
        if why is CancelCause.PEER_LOST and explicit:
            self.left_at = now
            return Deserted.WAITS
        return Deserted.BREAKS
