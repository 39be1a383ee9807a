"""The watchdog of an engine's process: when it is stuck, and when it must prove it isn't. Pure."""

from __future__ import annotations

TICK_S = 1.0


class Watchdog:
    """Counts ticks of `TICK_S`, not time, which would also count what its owner was late itself.

    Args:
        stuck_s: without a word, or a step while answers run, before it counts as stuck.
        probe_s: without an answer before it is asked for a token.
    """

    def __init__(self, *, stuck_s: float, probe_s: float) -> None:
        self._stuck = max(2, round(stuck_s / TICK_S))
        self._patience = max(2, round(probe_s / TICK_S))
        self._silent = 0
        self._idle = 0
        self._unmoved = 0

    def heard(self) -> None:
        """It has said anything."""
        self._silent = 0

    def said(self) -> None:
        """It has said something of an answer."""
        self._idle = self._unmoved = 0

    def moved(self) -> None:
        """It has made a step."""
        self._unmoved = 0

    def tick(self, *, busy: bool) -> str:
        """`TICK_S` have passed, and answers run, or don't. Why it is stuck; empty if it isn't."""
        self._silent += 1
        self._idle = 0 if busy else self._idle + 1
        self._unmoved = self._unmoved + 1 if busy else 0
        if self._silent >= self._stuck:
            return "it says nothing any more"
        if self._unmoved >= self._stuck:
            return "its answers don't move"
        return ""

    def probe(self) -> bool:
        """Must it be asked for a token now? Once in a while where nobody else does."""
        if self._idle < self._patience:
            return False
        self._idle = 0
        return True
