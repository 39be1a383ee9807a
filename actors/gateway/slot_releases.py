"""Releases of slots, told to the scheduler several at a time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from actors.contracts import Finished
from supervision.child import Supervised
from supervision.errors import TetherError

SCHEDULER = "control/scheduler"
WAIT_S = 0.002
MOST = 64


class SlotReleases:
    """Holds `Finished` back until the next `Place`, or for a moment: one write less a request."""

    def __init__(self, actor: Supervised) -> None:
        self._actor = actor
        self._held: list[Finished] = []
        self._timer: asyncio.TimerHandle | None = None

    def add(self, finished: Finished, *, urgent: bool) -> None:
        """Tell it soon, or at once if nothing else is going to be said."""
        self._held.append(finished)
        if urgent or len(self._held) >= MOST:
            self.flush()
        elif self._timer is None:
            self._timer = self._actor.loop.call_later(WAIT_S, self.flush)

    def flush(self) -> None:
        """Tell it now; cheap when there is nothing to tell."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        held = self._held
        if not held:
            return
        self._held = []
        scheduler = self._actor.tree.address(SCHEDULER)
        if scheduler is None:
            return  # it comes back with empty seats
        with suppress(TetherError):
            for finished in held:
                self._actor.tell(scheduler, finished)
