"""A second attempt beside one that is slow to begin. Off by default.

Source: Dean, Barroso, The Tail at Scale, 2013 ("hedged requests").
"""

from __future__ import annotations

import msgspec

from supervision.policies.budget import Budget
from supervision.policies.outcome import Outcome
from supervision.policies.policy import DONE, NEVER, Done, Go


class HedgeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """After each `delay_s` without a first chunk one more attempt, `spares` at most. Choose the
    delay near the 95th percentile of the time to the first chunk: then one call in twenty is
    hedged.

    Raises:
        ValueError: a value is out of its range.
    """

    delay_s: float = 1.0
    spares: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.delay_s < NEVER or self.spares < 1:
            raise ValueError("hedge: delay_s must be above 0, and spares at least 1")


class Hedge:
    """Spares are paid from the same budget as retries. The policies inside of it see each of
    the attempts by itself; only those that may run twice at once belong there."""

    __slots__ = ("_budget", "_options")

    def __init__(self, options: HedgeOptions, budget: Budget | None) -> None:
        self._options = options
        self._budget = budget

    def begin(self) -> HedgeGuard:
        return HedgeGuard(self._options, self._budget)


class HedgeGuard:
    """Says when a spare is due. Whoever drives begins it, takes the first answer, and breaks off
    the others."""

    __slots__ = ("_budget", "_options", "next_at", "spares")

    def __init__(self, options: HedgeOptions, budget: Budget | None) -> None:
        self._options = options
        self._budget = budget
        self.next_at = NEVER
        """When to call `spare`; infinite when no more is wanted."""
        self.spares = 0
        """Begun in this call, over all of its attempts."""

    def admit(self, now: float, until: float = NEVER) -> Go:
        self._wait(now)
        return Go(until)

    def spare(self, now: float) -> bool:
        """It is `next_at`: may one more attempt begin?"""
        if now < self.next_at:
            return False
        if self._budget is not None and not self._budget.withdraw(now):
            self.next_at = NEVER
            return False
        self.spares += 1
        self._wait(now)
        return True

    def began(self) -> None:
        """The first chunk is there."""
        self.next_at = NEVER

    def settle(self, outcome: Outcome, now: float) -> Done:
        self.next_at = NEVER
        return DONE

    def _wait(self, now: float) -> None:
        wanted = self.spares < self._options.spares
        self.next_at = now + self._options.delay_s if wanted else NEVER
