"""The policy `Rate`: at most so many calls a second. Pure."""

from __future__ import annotations

import msgspec

from supervision.errors import RateLimited
from supervision.policies.outcome import AttemptOutcome
from supervision.policies.policy import DONE, NEVER, Done, Go, Refuse
from supervision.policies.token_bucket import TokenBucket


class RateOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`per_s` calls a second on average, `burst` at once after a quiet while.

    Raises:
        ValueError: `per_s` isn't above 0, or `burst` is below 1.
    """

    per_s: float = 100.0
    burst: float = 200.0

    def __post_init__(self) -> None:
        if not 0 < self.per_s < NEVER:
            raise ValueError(f"rate: per_s is {self.per_s}; it must be above 0")
        if not 1 <= self.burst < NEVER:
            raise ValueError(f"rate: burst is {self.burst}; it must be at least 1")


class Rate:
    """A token bucket. Whoever comes too early is refused, with the time at which there is room;
    it queues nobody. Each admission is charged, also when the call comes again, and nothing is
    given back: what was asked was asked."""

    __slots__ = ("_counts_only", "bucket")

    def __init__(self, options: RateOptions, now: float) -> None:
        self.bucket = TokenBucket(options.per_s, options.burst, now)
        self._counts_only = False

    def begin(self) -> Rate:
        return self

    def counting(self) -> Rate:
        """The same for calls that were let in before: charged, never refused."""
        same = Rate.__new__(Rate)
        same.bucket, same._counts_only = self.bucket, True
        return same

    def admit(self, now: float, until: float = NEVER) -> Go | Refuse:
        bucket = self.bucket
        wait_s = 0.0 if self._counts_only else bucket.wait_s(1.0, now)
        if wait_s > 0:
            return Refuse(
                now + wait_s,
                RateLimited(
                    f"more than {bucket.rate:g} calls a second; try again in {wait_s:.3g} s",
                    retry_after_s=wait_s,
                ),
            )
        bucket.take(1.0, now)
        return Go(until)

    def settle(self, outcome: AttemptOutcome, now: float) -> Done:
        return DONE
