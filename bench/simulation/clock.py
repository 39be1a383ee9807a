"""An asyncio loop without a clock and without sockets: time jumps to the next timer.

What runs on it is a function of the seed alone. `after` is called after every turn of the loop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any


class Stalled(RuntimeError):
    """Nothing is ready and no timer is set: the world has come to a halt."""


class VirtualLoop(asyncio.BaseEventLoop):
    """Time is in seconds and begins at 0; nothing but a timer lets it pass."""

    def __init__(self, after: Callable[[], None]) -> None:
        super().__init__()
        self._now = 0.0
        self._after = after
        self._selector = self  # BaseEventLoop asks it for events, and how long to wait

    def time(self) -> float:
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Nothing ever happens outside; waiting is done at once."""
        if timeout is None:
            raise Stalled("no timer is set")
        if timeout > 0:
            self._now += timeout
        return []

    def _process_events(self, events: list[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _run_once(self) -> None:
        super()._run_once()  # type: ignore[misc]
        self._after()

    def run_until(self, when: float) -> None:
        """Let the world go on until `when`."""
        self.call_at(when, self.stop)
        self.run_forever()
