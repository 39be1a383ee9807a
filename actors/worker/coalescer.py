"""Coalescing of chunks: the first token leaves at once, later ones in company. Pure."""

from __future__ import annotations


class Coalescer:
    """One per reader of a run. A chunk leaves when it is the first, or the last, or `window_s`
    seconds after the one before it, or as soon as it has `max_characters`."""

    __slots__ = ("_left_at", "max_characters", "window_s")

    def __init__(self, window_s: float = 0.02, max_characters: int = 4096) -> None:
        self.window_s = window_s
        self.max_characters = max_characters
        self._left_at = float("-inf")

    def due(self, characters: int, now: float) -> bool:
        """May what is waiting (`characters` of text) leave now?"""
        return now - self._left_at >= self.window_s or characters >= self.max_characters

    def left(self, now: float) -> None:
        """A chunk has left."""
        self._left_at = now
