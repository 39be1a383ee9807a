"""Admission at the front door: how many requests run at once, and whether new ones are let in."""

from __future__ import annotations

import asyncio

from supervision.errors import Draining, Overloaded
from supervision.telemetry import bounds

TELL_S = 0.25


class DoorAdmission:
    """Counts the inference requests of a door; turns away what is above `limit` or comes
    while the door drains."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.running = 0
        self.draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._telling = False
        self._used = bounds.used.labels("door_requests")
        self._refused = bounds.refused.labels("door_requests")

    def enter(self) -> None:
        """Takes a place; `leave` gives it back.

        Raises:
            Draining: the door is on its way out.
            Overloaded: all places are taken.
        """
        self.check()
        if self.running >= self.limit:
            self._refused.inc()
            raise Overloaded(
                f"{self.limit} requests are running here already; try again in a second",
                retry_after_s=1.0,
            )
        if not self.running:
            self._idle.clear()
        self.running += 1
        self._changed()

    def check(self) -> None:
        """
        Raises:
            Draining: the door is on its way out.
        """
        if self.draining:
            raise Draining("this server is stopping; send the request again", retry_after_s=2.0)

    def leave(self) -> None:
        """Gives a place back."""
        self.running -= 1
        self._changed()
        if not self.running:
            self._idle.set()

    def _changed(self) -> None:
        """A gauge shared between processes costs more than counting; it is told now and then."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_later(TELL_S, self._tell)

    def _tell(self) -> None:
        self._telling = False
        self._used.set(self.running)

    async def drain(self, timeout_s: float) -> bool:
        """Lets nobody in any more and waits until all have left; False if they did not within
        `timeout_s`."""
        self.draining = True
        try:
            await asyncio.wait_for(self._idle.wait(), max(timeout_s, 0.0))
        except TimeoutError:
            return False
        return True
