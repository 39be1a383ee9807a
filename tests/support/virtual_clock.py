"""A loop on a virtual clock: for tests of what waits on timers and nothing else.

While anything is ready its clock stands still, and when nothing is, it goes on to the next timer
at once. So timers fire in the order of their times however slow the machine is, and a test with
an hour in it takes no time.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _TimerSelector(selectors.DefaultSelector):
    now = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            return super().select(None)  # no timer: only another thread can go on
        found = super().select(0)
        if not found and timeout > 0:
            self.now += timeout
        return found


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """As asyncio's own, but for the clock."""

    def __init__(self) -> None:
        self._timers = _TimerSelector()
        super().__init__(self._timers)

    def time(self) -> float:
        return self._timers.now
