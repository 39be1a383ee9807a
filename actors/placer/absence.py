"""A record of absence: since when something is missing, and when to act on it. Pure."""

from __future__ import annotations


class Absence:
    """What was never seen here may be somewhere that we haven't heard of: it is due after
    `settle_s` of looking as the one who is to act. What was seen may come back by itself: it is
    due `known_s` after it went. All in seconds of the caller's clock.

    Raises:
        ValueError: a time is negative.
    """

    def __init__(self, settle_s: float, known_s: float) -> None:
        if not (settle_s >= 0 and known_s >= 0):
            raise ValueError("settle_s and known_s must not be negative")
        self._settle_s = settle_s
        self._known_s = known_s
        self._known: set[str] = set()
        self._since: dict[str, float] = {}

    def look(self, what: str, there: bool, acting: bool, now: float) -> bool:
        """Whether `what` is due. `there`: it is seen now; `acting`: it is ours to see to it."""
        if there:
            self._known.add(what)
            self._since.pop(what, None)
            return False
        known = what in self._known
        if not known and not acting:
            self._since.pop(what, None)
            return False
        since = self._since.setdefault(what, now)
        return acting and now - since >= (self._known_s if known else self._settle_s)
