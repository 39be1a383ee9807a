"""The policy `Timeout`: one attempt takes at most so long. Pure."""

from __future__ import annotations

import msgspec

from supervision.policies.outcome import AttemptOutcome
from supervision.policies.policy import DONE, NEVER, Done, Go


class TimeoutOptions(msgspec.Struct, frozen=True, kw_only=True):
    """
    Raises:
        ValueError: `attempt_s` isn't above 0.
    """

    attempt_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.attempt_s < NEVER:
            raise ValueError(f"timeout: attempt_s is {self.attempt_s}; it must be above 0")


class Timeout:
    """Only says when; whoever drives breaks the attempt off then, and settles it as failed."""

    __slots__ = ("attempt_s",)

    def __init__(self, options: TimeoutOptions) -> None:
        self.attempt_s = options.attempt_s

    def begin(self) -> Timeout:
        return self

    def admit(self, now: float, until: float = NEVER) -> Go:
        at = now + self.attempt_s
        return Go(at if at < until else until)

    def settle(self, outcome: AttemptOutcome, now: float) -> Done:
        return DONE
