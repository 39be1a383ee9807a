"""A bandwidth limit shared by all transfers: takes the time, gives the pause to make. Pure."""

from __future__ import annotations


class Bandwidth:
    """`per_s` bytes a second on average; 0 is no limit. What is taken at once goes at once, and
    the next one waits until it would have been through."""

    __slots__ = ("_free_at", "_per_s")

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._free_at = 0.0

    def take(self, size: int, now: float) -> float:
        """Seconds to wait before `size` bytes are sent or asked for."""
        if not self._per_s:
            return 0.0
        begins = max(now, self._free_at)
        self._free_at = begins + size / self._per_s
        return begins - now

    def behind(self, now: float) -> float:
        """Seconds until all that was taken so far is through."""
        return max(0.0, self._free_at - now)
