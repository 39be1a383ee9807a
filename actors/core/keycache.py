"""A cache of API keys: bounded, forgetful, and quick to be told otherwise. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class KeyCache(Generic[T]):
    """Holds what a look-up found under the key's hash, or that it found nothing: so a flood of one
    wrong key costs one query per `absent_s`. Good keys and wrong ones are kept apart, and in each
    part the least recently used goes first: a flood of made-up keys crowds out no good one.

    Keys may be put into groups, such as those of one tenant, which are forgotten together.

    A good key stays `familiar` when it is looked up again, so that who was let in before need not
    queue behind whoever was never seen.

    Args:
        bound: good keys.
        present_s: how long one is believed without a second look.
        absent_s: how long an unknown one is.
        absent_bound: unknown ones.
    """

    def __init__(
        self,
        bound: int = 10_000,
        present_s: float = 60.0,
        absent_s: float = 5.0,
        absent_bound: int = 1_000,
    ) -> None:
        self._bound = bound
        self._present_s = present_s
        self._absent_s = absent_s
        self._absent_bound = absent_bound
        self._era = 0  # grows with each `forget` of all
        self._present: OrderedDict[bytes, tuple[T, float, int, str]] = OrderedDict()
        self._groups: dict[str, set[bytes]] = {}  # of good keys
        self._absent: OrderedDict[bytes, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._present) + len(self._absent)

    def get(self, digest: bytes, now: float) -> tuple[bool, T | None]:
        """(is something known, what was found or None for an absent key)."""
        entry = self._present.get(digest)
        if entry is not None:
            found, until, era, _ = entry
            if now >= until or era != self._era:
                return False, None
            self._present.move_to_end(digest)
            return True, found
        absent_until = self._absent.get(digest)
        if absent_until is None:
            return False, None
        if now >= absent_until:
            del self._absent[digest]
            return False, None
        self._absent.move_to_end(digest)
        return True, None

    def familiar(self, digest: bytes) -> bool:
        """Whether it was a good key when it was looked up last."""
        return digest in self._present

    def put(self, digest: bytes, found: T | None, now: float, group: str = "") -> None:
        """Remember the result of a look-up."""
        self._drop(digest)
        if found is None:
            self._absent[digest] = now + self._absent_s
            if len(self._absent) > self._absent_bound:
                self._absent.popitem(last=False)
        else:
            self._present[digest] = (found, now + self._present_s, self._era, group)
            if group:
                self._groups.setdefault(group, set()).add(digest)
            if len(self._present) > self._bound:
                self._drop(next(iter(self._present)))

    def forget(self, digest: bytes | None = None) -> None:
        """Forget one key, or believe none any more (when it isn't known what changed)."""
        if digest is None:
            self._era += 1
            self._absent.clear()
        else:
            self._drop(digest)

    def forget_group(self, group: str) -> None:
        """Believe none of this group any more; all others stay."""
        for digest in self._groups.get(group, ()):
            found, _, era, _ = self._present[digest]
            self._present[digest] = (found, float("-inf"), era, group)

    def _drop(self, digest: bytes) -> None:
        self._absent.pop(digest, None)
        entry = self._present.pop(digest, None)
        if entry is None or not entry[3]:
            return
        of_group = self._groups[entry[3]]
        of_group.discard(digest)
        if not of_group:
            del self._groups[entry[3]]
