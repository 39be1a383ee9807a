"""A cache of API keys: bounded, forgetful, and quick to be told otherwise. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class KeyCache(Generic[T]):
    """Least recently used first out. Holds what a look-up found under the key's hash, or that
    it found nothing: so a flood of one wrong key costs one query per `absent_s`.

    Args:
        bound: entries, found and absent together.
        present_s: how long a found key is believed without a second look.
        absent_s: how long an unknown one is.
    """

    def __init__(self, bound: int = 10_000, present_s: float = 60.0, absent_s: float = 5.0) -> None:
        self._bound = bound
        self._present_s = present_s
        self._absent_s = absent_s
        self._entries: OrderedDict[bytes, tuple[T | None, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, digest: bytes, now: float) -> tuple[bool, T | None]:
        """(is something known, what was found or None for an absent key)."""
        entry = self._entries.get(digest)
        if entry is None:
            return False, None
        found, until = entry
        if now >= until:
            del self._entries[digest]
            return False, None
        self._entries.move_to_end(digest)
        return True, found

    def put(self, digest: bytes, found: T | None, now: float) -> None:
        """Remember the result of a look-up."""
        until = now + (self._absent_s if found is None else self._present_s)
        self._entries[digest] = (found, until)
        self._entries.move_to_end(digest)
        if len(self._entries) > self._bound:
            self._entries.popitem(last=False)

    def forget(self, digest: bytes | None = None) -> None:
        """Forget one key, or all of them (when it isn't known what changed)."""
        if digest is None:
            self._entries.clear()
        else:
            self._entries.pop(digest, None)
