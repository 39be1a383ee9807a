"""The deadline policy: never past the caller's."""

from __future__ import annotations

from supervision.errors import (
    DeadlineExceeded,
    Unavailable,
)
from supervision.policies import (
    COMPLETED,
    AttemptOutcome,
    Deadline,
    DeadlineOptions,
    Done,
    Ended,
    GiveUp,
    Go,
    Refuse,
)

FAILED = AttemptOutcome(Ended.FAILED, Unavailable("broke off"))


# ---- deadline and timeout


def test_a_deadline_never_exceeds_the_callers_and_says_so_when_it_has_passed() -> None:
    guard = Deadline(DeadlineOptions(total_s=10)).begin()
    assert guard.admit(5.0) == Go(15.0)
    verdict = guard.settle(FAILED, 15.0)
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, DeadlineExceeded)
    assert verdict.error.__cause__ is FAILED.error
    assert guard.settle(FAILED, 15.0) == Done(), "the second time changes nothing"
    assert guard.admit(16.0) == Go(26.0), "settled is over; inside of a retry it begins anew"
    assert guard.settle(FAILED, 25.9) == Done(), "it was the failure, not the deadline"
    guard.admit(30.0)
    assert guard.settle(COMPLETED, 41.0) == Done(), "an answer that is there is not thrown away"
    assert Deadline(DeadlineOptions(total_s=10)).begin().admit(5.0, 7.0) == Go(7.0)
    assert isinstance(Deadline(DeadlineOptions()).begin().admit(5.0, 5.0), Refuse)
