"""The policy `Retry`: another attempt after one that broke off or was sent away. Pure."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from supervision.policies.budget import Budget
from supervision.policies.outcome import AttemptOutcome, Ended
from supervision.policies.policy import DONE, NEVER, Again, Done, GiveUp, Go


class RetryOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts` in which something began, the first included (0: as many as fit before the
    deadline), and `refusals` on top. The pause after the nth that went wrong is
    `uniform(.5, 1) · min(max_s, initial_s · 2ⁿ⁻¹)`: the draw is taken of the capped pause, so
    those that wait longest are spread as well. With `heeds` it begins when the other side said
    that trying again makes sense, if it did; whoever is alone with it, or goes to another target
    each time, may ask sooner.

    The budget is charged for each retry; without `charges_refusals` not after a refusal, which
    cost nobody anything, and with `forgives_loss` not if the first failure of a call was that its
    target is gone: all that ran there come at once then, and they are all that ran there, so they
    can't multiply.

    Source: Brooker, Exponential Backoff and Jitter, AWS Architecture Blog, 2015 ("equal jitter").

    Raises:
        ValueError: a value is out of its range.
    """

    attempts: int = 3
    refusals: int = 8
    initial_s: float = 0.1
    max_s: float = 5.0
    heeds: bool = True
    charges_refusals: bool = True
    forgives_loss: bool = False

    def __post_init__(self) -> None:
        if self.attempts < 0 or self.refusals < 0:
            raise ValueError("retry: attempts and refusals must not be negative")
        if not 0 <= self.initial_s <= self.max_s < NEVER:
            raise ValueError(
                f"retry: 0 ≤ initial_s ({self.initial_s}) ≤ max_s ({self.max_s}) must hold"
            )

    def pause_s(self, wrong: int, draw: float) -> float:
        """Seconds after the `wrong`th attempt in a row that went wrong (from 1); `draw` is
        uniform in [0, 1)."""
        # the exponent is capped only so that a float can't overflow
        ceiling = min(self.max_s, self.initial_s * 2.0 ** min(wrong - 1, 60))
        return (0.5 + 0.5 * draw) * ceiling


class Retry:
    """
    Args:
        random: a number from 0 (inclusive) to 1 (exclusive).
        budget: shared with whoever goes the same way; None for those few who retry alone, such
            as a start that waits for its database.
    """

    __slots__ = ("_budget", "_options", "_random")

    def __init__(
        self, options: RetryOptions, random: Callable[[], float], budget: Budget | None
    ) -> None:
        self._options = options
        self._random = random
        self._budget = budget

    def begin(self) -> RetryGuard:
        return RetryGuard(self._options, self._random, self._budget)


class RetryGuard:
    """Never retries what began to answer, what is the request's own fault or would repeat
    itself, nor what could not begin before the deadline."""

    __slots__ = ("_budget", "_options", "_random", "_running", "_until", "failures", "refusals")

    def __init__(
        self, options: RetryOptions, random: Callable[[], float], budget: Budget | None
    ) -> None:
        self._options = options
        self._random = random
        self._budget = budget
        self._running = False
        self._until = NEVER
        self.failures = 0
        self.refusals = 0

    def admit(self, now: float, until: float = NEVER) -> Go:
        if self._budget is not None and not (self.failures or self.refusals):
            self._budget.deposit(now)
        self._running = True
        self._until = until
        return Go(until)

    def prolong(self, until: float) -> float:
        """There is time until then."""
        self._until = until
        return until

    def settle(self, outcome: AttemptOutcome, now: float) -> Done | Again | GiveUp:
        if not self._running:
            return DONE
        self._running = False
        error = outcome.error
        if error is None:
            return DONE
        options = self._options
        charged = True
        if outcome.ended is Ended.REFUSED:
            self.refusals += 1
            possible = self.refusals <= options.refusals
            charged = options.charges_refusals
        elif outcome.ended is Ended.FAILED:
            self.failures += 1
            possible = not options.attempts or self.failures < options.attempts
            charged = not (outcome.lost and options.forgives_loss and self.failures == 1)
        else:
            possible = False
        if not possible or outcome.began:
            return GiveUp(error)
        pause_s = options.pause_s(self.failures + self.refusals, self._random())
        at = (
            max(now, outcome.until) if options.heeds else now
        ) + pause_s  # or all that were told a time would come at it
        if at >= self._until:
            return GiveUp(error)
        if charged and self._budget is not None and not self._budget.withdraw(now):
            return GiveUp(error)
        return Again(at)
