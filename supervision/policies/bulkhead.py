"""At most so many attempts at once."""

from __future__ import annotations

import msgspec

from supervision.policies.outcome import Outcome
from supervision.policies.policy import DONE, NEVER, Done, Go, Refuse
from tether.errors import Overloaded


class BulkheadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Raises:
        ValueError: `at_once` is below 1.
    """

    at_once: int = 64

    def __post_init__(self) -> None:
        if self.at_once < 1:
            raise ValueError(f"bulkhead: at_once is {self.at_once}; it must be at least 1")


class Bulkhead:
    """Refuses above its bound, and queues nobody: a queue belongs where its length is known."""

    __slots__ = ("at_once", "inside")

    def __init__(self, options: BulkheadOptions) -> None:
        self.at_once = options.at_once
        self.inside = 0
        """Attempts under way."""

    def begin(self) -> BulkheadGuard:
        return BulkheadGuard(self)


class BulkheadGuard:
    __slots__ = ("_bulkhead", "_inside")

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead
        self._inside = False

    def admit(self, now: float, until: float = NEVER) -> Go | Refuse:
        bulkhead = self._bulkhead
        if not self._inside:
            if bulkhead.inside >= bulkhead.at_once:
                return Refuse(
                    now, Overloaded(f"{bulkhead.inside} calls are under way, and no more may be")
                )
            bulkhead.inside += 1
            self._inside = True
        return Go(until)

    def settle(self, outcome: Outcome, now: float) -> Done:
        if self._inside:
            self._inside = False
            self._bulkhead.inside -= 1
        return DONE
