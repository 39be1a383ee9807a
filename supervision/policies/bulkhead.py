"""The policy `Bulkhead`: at most so many attempts at once. Pure."""

from __future__ import annotations

import msgspec

from supervision.errors import Overloaded
from supervision.policies.outcome import AttemptOutcome
from supervision.policies.policy import DONE, NEVER, Done, Go, Refuse


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
    """Refuses above its bound, and queues nobody: a queue belongs where its length is known.

    `enter` and `leave` are the whole machine; a `BulkheadGuard` is one call's use of it.
    """

    __slots__ = ("at_once", "inside")

    def __init__(self, options: BulkheadOptions) -> None:
        self.at_once = options.at_once
        self.inside = 0
        """Attempts under way."""

    def enter(self) -> bool:
        """An attempt wants to begin; False: it may not. Else `leave` must follow."""
        if self.inside >= self.at_once:
            return False
        self.inside += 1
        return True

    def leave(self) -> None:
        """An attempt that had entered is over."""
        self.inside -= 1

    def begin(self) -> BulkheadGuard:
        return BulkheadGuard(self)

    def counting(self) -> CountingBulkhead:
        """The same for calls that were let in before: counted, never refused."""
        return CountingBulkhead(self)


class CountingBulkhead:
    """See `Bulkhead.counting`."""

    __slots__ = ("_bulkhead",)

    def __init__(self, bulkhead: Bulkhead) -> None:
        self._bulkhead = bulkhead

    def begin(self) -> BulkheadGuard:
        return BulkheadGuard(self._bulkhead, refuses=False)


class BulkheadGuard:
    __slots__ = ("_bulkhead", "_inside", "_refuses")

    def __init__(self, bulkhead: Bulkhead, *, refuses: bool = True) -> None:
        self._bulkhead = bulkhead
        self._inside = False
        self._refuses = refuses

    def admit(self, now: float, until: float = NEVER) -> Go | Refuse:
        bulkhead = self._bulkhead
        if not self._inside:
            if not bulkhead.enter():
                if self._refuses:
                    return Refuse(
                        now,
                        Overloaded(f"{bulkhead.inside} calls are under way, and no more may be"),
                    )
                bulkhead.inside += 1
            self._inside = True
        return Go(until)

    def settle(self, outcome: AttemptOutcome, now: float) -> Done:
        if self._inside:
            self._inside = False
            self._bulkhead.leave()
        return DONE
