"""The retry policy and its bounds."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import WorkerLost
from supervision.errors import (
    BadRequest,
    Internal,
    Overloaded,
    Unavailable,
)
from supervision.policies import (
    CANCELLED,
    COMPLETED,
    Again,
    AttemptOutcome,
    Budget,
    BudgetOptions,
    Done,
    Ended,
    GiveUp,
    Go,
    Retry,
    RetryOptions,
)
from supervision.policies.retry import RetryGuard

FAILED = AttemptOutcome(Ended.FAILED, Unavailable("broke off"))
FATAL = AttemptOutcome(Ended.FATAL, Internal("a bug"))
REFUSED = AttemptOutcome(Ended.REFUSED, Overloaded("full"))
REJECTED = AttemptOutcome(Ended.REJECTED, BadRequest("no"))
CUT_SHORT = AttemptOutcome(Ended.CUT_SHORT, Unavailable("no time"))
OUTCOMES = (COMPLETED, FAILED, FATAL, REFUSED, REJECTED, CUT_SHORT, CANCELLED)


@given(
    st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=30),
    st.integers(0, 5),
    st.integers(0, 5),
    st.integers(0, 1000),
)
def test_a_retry_keeps_its_bounds_whatever_happens(
    outcomes: list[AttemptOutcome], attempts: int, refusals: int, seed: int
) -> None:
    options = RetryOptions(attempts=attempts, refusals=refusals, initial_s=0.1, max_s=5.0)
    guard = Retry(options, Random(seed).random, None).begin()
    now, until = 0.0, 60.0
    for outcome in outcomes:
        assert guard.admit(now, until) == Go(until)
        verdict = guard.settle(outcome, now)
        assert guard.settle(outcome, now) == Done(), "the second time changes nothing"
        assert guard.refusals <= refusals + 1
        assert not attempts or guard.failures <= attempts
        if outcome.error is None:
            assert verdict == Done()
        if not isinstance(verdict, Again):
            break
        assert outcome.ended in (Ended.FAILED, Ended.REFUSED)
        wrong = guard.failures + guard.refusals
        cap = min(5.0, 0.1 * 2 ** (wrong - 1))
        assert now + 0.5 * cap <= verdict.at <= now + cap
        assert verdict.at < until
        now = verdict.at


def test_jitter_stays_at_the_cap() -> None:
    options = RetryOptions()
    random = Random(1)
    pauses = [options.pause_s(20, random.random()) for _ in range(200)]
    assert max(pauses) <= 5.0
    assert max(pauses) - min(pauses) > 2.0, "a hundred that wait longest don't come back at once"
    assert len(set(pauses)) == 200


@pytest.mark.parametrize("outcome", [FATAL, REJECTED, CUT_SHORT, CANCELLED, COMPLETED])
def test_what_must_not_be_retried(outcome: AttemptOutcome) -> None:
    guard = Retry(RetryOptions(), Random(1).random, None).begin()
    guard.admit(0.0)
    assert not isinstance(guard.settle(outcome, 0.0), Again)


def test_no_retry_after_the_first_chunk() -> None:
    guard = Retry(RetryOptions(), Random(1).random, None).begin()
    guard.admit(0.0)
    verdict = guard.settle(AttemptOutcome(Ended.FAILED, FAILED.error, began=True), 0.0)
    assert verdict == GiveUp(FAILED.error)  # type: ignore[arg-type]


def test_no_pause_that_would_outlast_the_deadline_and_none_shorter_than_wanted() -> None:
    guard = Retry(RetryOptions(initial_s=1.0), Random(1).random, None).begin()
    guard.admit(0.0, 0.4)
    assert isinstance(guard.settle(FAILED, 0.0), GiveUp)
    guard = Retry(RetryOptions(initial_s=0.1), Random(1).random, None).begin()
    guard.admit(0.0, 60.0)
    verdict = guard.settle(AttemptOutcome(Ended.REFUSED, REFUSED.error, until=7.0), 0.0)
    assert isinstance(verdict, Again)
    assert 7.05 <= verdict.at <= 7.1, "not before, and not all at once"


def test_calls_share_their_budget() -> None:
    budget = Budget(BudgetOptions(ratio=0.2, floor=1))
    retry = Retry(RetryOptions(), Random(1).random, budget)
    again = 0
    for _ in range(100):
        guard = retry.begin()
        guard.admit(0.0)
        again += isinstance(guard.settle(FAILED, 0.0), Again)
    assert again == 21
    assert budget.refused == 79


# ---- what a request's session asks of a retry


GATEWAY = RetryOptions(
    initial_s=0, max_s=0, heeds=False, charges_refusals=False, forgives_loss=True
)
LOST = AttemptOutcome(Ended.FAILED, WorkerLost("killed"), lost=True)
BROKE = AttemptOutcome(Ended.FAILED, WorkerLost("broke"))
FULL = AttemptOutcome(Ended.REFUSED, Overloaded("full", retry_after_s=9), until=9.0)


def again(guard: RetryGuard, outcome: AttemptOutcome, now: float = 0.0) -> bool:
    guard.admit(now, 100.0)
    verdict = guard.settle(outcome, now)
    assert verdict in (Again(now), GiveUp(outcome.error or AssertionError()))
    return verdict == Again(now)


def test_failures_cost_an_attempt_and_refusals_do_not() -> None:
    options = msgspec.structs.replace(GATEWAY, attempts=3, refusals=2)
    guard = Retry(options, Random(1).random, None).begin()
    assert [again(guard, outcome) for outcome in (FULL, LOST, FULL, BROKE)] == [True] * 4
    assert not again(guard, LOST)
    assert not again(guard, FULL)


def test_the_budget_is_charged_for_failures_and_not_for_a_first_loss_or_a_refusal() -> None:
    budget = Budget(BudgetOptions(ratio=0.0, floor=1))
    retry = Retry(GATEWAY, Random(1).random, budget)
    hundred = [retry.begin() for _ in range(100)]
    assert all(again(one, LOST) for one in hundred), "all that ran at a worker survive it"
    assert all(again(one, FULL) for one in hundred)
    assert budget.spent == 0
    second = [again(one, LOST) for one in hundred]
    assert second.count(True) == 1, "a request that kills what it meets doesn't kill all"
    budget = Budget(BudgetOptions(ratio=0.0, floor=1))
    retry = Retry(GATEWAY, Random(1).random, budget)
    assert [again(retry.begin(), BROKE) for _ in range(10)].count(True) == 1
    assert (budget.refused, budget.most) == (9, 1)
    assert again(retry.begin(), LOST)
    strict = Retry(RetryOptions(initial_s=0, max_s=0, heeds=False), Random(1).random, budget)
    assert not again(strict.begin(), LOST), "others pay"
    assert not again(strict.begin(), FULL)


def test_nothing_is_tried_at_the_deadline() -> None:
    assert not again(Retry(GATEWAY, Random(1).random, None).begin(), LOST, 100.0)
