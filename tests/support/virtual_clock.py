"""A loop whose clock leaps: for tests of what waits on timers and nothing else.

While anything is ready its clock stands still, and when nothing is, it goes on to the next timer
at once. So timers fire in the order of their times however slow the machine is, and a test with
an hour in it takes no time.
"""

from __future__ import annotations

import asyncio
import selectors
from typing import Any


class _Leaping(selectors.DefaultSelector):
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
        self._leaping = _Leaping()
        super().__init__(self._leaping)

    def time(self) -> float:
        return self._leaping.now
