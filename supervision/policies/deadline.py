"""The policy `Deadline`: at most so long for all attempts of a call and their pauses. Pure."""

from __future__ import annotations

import msgspec

from supervision.errors import DeadlineExceeded
from supervision.policies.outcome import AttemptOutcome, Ended
from supervision.policies.policy import DONE, NEVER, Done, GiveUp, Go, Refuse


class DeadlineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """`total_s` counts from the first admission.

    Raises:
        ValueError: it isn't above 0.
    """

    total_s: float = 30.0

    def __post_init__(self) -> None:
        if not 0 < self.total_s < NEVER:
            raise ValueError(f"deadline: total_s is {self.total_s}; it must be above 0")


class Deadline:
    """The smaller of `total_s` and what the caller itself has left."""

    __slots__ = ("_total_s",)

    def __init__(self, options: DeadlineOptions) -> None:
        self._total_s = options.total_s

    def begin(self) -> DeadlineGuard:
        return DeadlineGuard(self._total_s)


class DeadlineGuard:
    """Whatever ends after the deadline, other than well, ended because of it. One that is settled
    is over: outside of a retry it spans all attempts, inside of one each has its own."""

    __slots__ = ("_at", "_most", "_total_s")

    def __init__(self, total_s: float) -> None:
        self._total_s = total_s
        self._at = NEVER
        self._most = NEVER  # when its own time is up

    def admit(self, now: float, until: float = NEVER) -> Go | Refuse:
        at = self._at
        if at == NEVER:
            self._most = at = now + self._total_s
            self._at = at = until if until < at else at
        if now >= at:
            return Refuse(NEVER, self._exceeded())
        return Go(at)

    def prolong(self, until: float) -> float:
        """The caller waits until then; by when it has to be over now."""
        self._at = min(self._most, until)
        return self._at

    def settle(self, outcome: AttemptOutcome, now: float) -> Done | GiveUp:
        at, self._at = self._at, NEVER
        if now < at or outcome.ended in (Ended.COMPLETED, Ended.CANCELLED, Ended.REJECTED):
            return DONE
        if isinstance(outcome.error, DeadlineExceeded):
            return DONE
        return GiveUp(self._exceeded(outcome.error))

    def _exceeded(self, last: Exception | None = None) -> DeadlineExceeded:
        error = DeadlineExceeded("the call wasn't answered before its deadline")
        error.__cause__ = last
        return error
