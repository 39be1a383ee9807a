"""The policies that a request to a model passes at its gateway, as the configuration says them and
as they travel with a model's card. What they do is decided in `supervision.policies`.

These stand in TOML and JSON as well as in contracts, so they are objects there and not arrays.

Pure.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

_Count = Annotated[int, Meta(ge=1, le=1_000_000)]
_Seconds = Annotated[float, Meta(gt=0, le=86_400)]
_Pause = Annotated[float, Meta(ge=0, le=3600)]


class PolicyName(StrEnum):
    """Also the field that holds its options."""

    RATE = "rate"
    DEADLINE = "deadline"
    RETRY = "retry"
    BULKHEAD = "bulkhead"
    TIMEOUT = "timeout"


PolicyOrder = Annotated[tuple[PolicyName, ...], Meta(max_length=len(PolicyName))]


class RateTerms(msgspec.Struct, frozen=True, kw_only=True):
    """At one gateway, `per_s` attempts a second on average, `burst` at once after a quiet while.
    What comes too early is refused, with the time to come again."""

    per_s: Annotated[float, Meta(gt=0, le=1_000_000)] = 100.0
    burst: Annotated[float, Meta(ge=1, le=1_000_000)] = 200.0


class DeadlineTerms(msgspec.Struct, frozen=True, kw_only=True):
    """All attempts together take at most `total_s`, and never more than the request says."""

    total_s: _Seconds = 86_400.0


class RetryTerms(msgspec.Struct, frozen=True, kw_only=True):
    """`attempts` in which something began, the first included, and `refusals` by workers that are
    full or leave. The nth pause is drawn from half of `pause_s` · 2ⁿ⁻¹ to all of it, at most
    `max_pause_s`. In any 10 s, all requests together may do `budget_floor` retries after failures,
    and as many as `budget_ratio` of the requests; a request whose worker was lost is resumed once
    without being counted there."""

    attempts: Annotated[int, Meta(ge=1, le=1000)] = 3
    refusals: Annotated[int, Meta(ge=0, le=1000)] = 8
    pause_s: _Pause = 0.0
    max_pause_s: _Pause = 5.0
    budget_ratio: Annotated[float, Meta(ge=0, le=1)] = 0.2
    budget_floor: Annotated[int, Meta(ge=0, le=1_000_000)] = 100


class BulkheadTerms(msgspec.Struct, frozen=True, kw_only=True):
    """At one gateway, at most `at_once` requests (or attempts, inside of the retry)."""

    at_once: _Count = 256


class TimeoutTerms(msgspec.Struct, frozen=True, kw_only=True):
    """An attempt whose worker says nothing for `attempt_s` has failed. Counts from when the
    worker was asked to its first token, also while it loads the model."""

    attempt_s: _Seconds = 60.0


PolicyTerms = RateTerms | DeadlineTerms | RetryTerms | BulkheadTerms | TimeoutTerms


class RequestPolicies(msgspec.Struct, frozen=True, kw_only=True):
    """`[policies]`: which a request passes, outermost first, and their options. A model may say
    otherwise in its policy; see `ModelPolicy`."""

    order: PolicyOrder = (PolicyName.DEADLINE, PolicyName.RETRY)
    rate: RateTerms = RateTerms()
    deadline: DeadlineTerms = DeadlineTerms()
    retry: RetryTerms = RetryTerms()
    bulkhead: BulkheadTerms = BulkheadTerms()
    timeout: TimeoutTerms = TimeoutTerms()

    def terms(self) -> tuple[tuple[PolicyName, PolicyTerms], ...]:
        """In their order."""
        return tuple((name, getattr(self, name)) for name in self.order)
