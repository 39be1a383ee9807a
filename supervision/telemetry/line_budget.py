"""A budget of lines about things that others may repeat at will: they shall fill no disk.

Of each kind of thing one line in `every_s` seconds, which says how many went unsaid, and of all
kinds together `most` lines in that time.

Pure.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

_MAX_KEYS: Final = 1024


class LineBudget:
    """All times are the caller's clock, in seconds."""

    def __init__(self, every_s: float, most: int) -> None:
        self._every_s = every_s
        self._most = most
        self._said: OrderedDict[Hashable, float] = OrderedDict()  # when, the latest last
        self._unsaid: dict[Hashable, int] = {}
        self._began = float("-inf")
        self._lines = 0

    def take(self, key: Hashable, now: float) -> int | None:
        """It has happened once more. How often it did before without a line, if now a line may be
        written; else None."""
        if now - self._began >= self._every_s:
            self._began, self._lines = now, 0
        at = self._said.get(key, float("-inf"))
        if now - at < self._every_s or self._lines >= self._most:
            if key in self._unsaid or len(self._unsaid) < _MAX_KEYS:
                self._unsaid[key] = self._unsaid.get(key, 0) + 1
            return None
        self._lines += 1
        self._said[key] = now
        self._said.move_to_end(key)
        if len(self._said) > _MAX_KEYS:
            self._said.popitem(last=False)
        return self._unsaid.pop(key, 0)
