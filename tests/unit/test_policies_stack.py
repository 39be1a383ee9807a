"""Policies composed: each `Go` is settled once, and the order is the list's."""

from __future__ import annotations

import gc
import weakref
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervision.errors import (
    BadRequest,
    DeadlineExceeded,
    Internal,
    Overloaded,
    RateLimited,
    Unavailable,
)
from supervision.policies import (
    CANCELLED,
    COMPLETED,
    NEVER,
    Again,
    AttemptOutcome,
    Breaker,
    BreakerOptions,
    Budget,
    BudgetOptions,
    Bulkhead,
    BulkheadOptions,
    Deadline,
    DeadlineOptions,
    Done,
    Ended,
    GiveUp,
    Go,
    Rate,
    RateOptions,
    Refuse,
    Retry,
    RetryOptions,
    Stack,
    State,
    Timeout,
    TimeoutOptions,
)
from supervision.policies.outcome import outcome_of
from supervision.policies.policy import DONE
from tests.support.properties import examples

FAILED = AttemptOutcome(Ended.FAILED, Unavailable("broke off"))
OUTCOMES = (
    COMPLETED,
    FAILED,
    AttemptOutcome(Ended.REFUSED, Overloaded("full")),
    AttemptOutcome(Ended.REJECTED, BadRequest("no")),
    AttemptOutcome(Ended.FATAL, Internal("a bug")),
    AttemptOutcome(Ended.CUT_SHORT, Unavailable("no time")),
    CANCELLED,
    AttemptOutcome(Ended.FAILED, FAILED.error, began=True),
)
ORDER = ["Rate", "Deadline", "Retry", "Breaker", "Bulkhead", "Timeout"]


def names(stack: Stack) -> list[str]:
    return [type(policy).__name__ for policy in stack.policies]


AN_ATTEMPT = TimeoutOptions()
UNBOUNDED = DeadlineOptions()
OFTEN = RateOptions()
SOME = RetryOptions()


def usual(
    *,
    rate: RateOptions = OFTEN,
    deadline: DeadlineOptions = UNBOUNDED,
    breaker: Breaker | None = None,
    timeout: TimeoutOptions = AN_ATTEMPT,
) -> Stack:
    """All policies in their usual order."""
    return Stack(
        Rate(rate, 0.0),
        Deadline(deadline),
        Retry(SOME, Random(1).random, Budget()),
        breaker or Breaker(),
        Bulkhead(BulkheadOptions()),
        Timeout(timeout),
    )


def test_the_order_is_the_lists() -> None:
    assert names(usual()) == ORDER


def test_who_was_let_in_before_is_counted_and_never_refused() -> None:
    stack = Stack(Rate(RateOptions(per_s=1, burst=1), 0.0), Bulkhead(BulkheadOptions(at_once=1)))
    resumed = [stack.counting().begin() for _ in range(3)]
    assert [type(call.admit(0.0)) for call in resumed] == [Go] * 3
    refused = stack.begin().admit(0.0)
    assert isinstance(refused, GiveUp)
    assert isinstance(refused.error, RateLimited)
    refused = stack.begin().admit(9.0)
    assert isinstance(refused, GiveUp)
    assert isinstance(refused.error, Overloaded), "three are inside"
    for call in resumed:
        call.settle(COMPLETED, 9.0)
    assert type(stack.begin().admit(12.0)) is Go


@pytest.mark.parametrize(
    ("total_s", "attempt_s", "prolonged", "lasting", "attempt"),
    [
        (60.0, 90.0, 30.0, 30.0, 30.0),  # nothing else bounds it
        (20.0, 90.0, 30.0, 20.0, 20.0),  # its deadline does
        (60.0, 5.0, 30.0, 30.0, 5.0),  # an attempt has its own time
        (60.0, 15.0, 30.0, 30.0, 15.0),  # which the caller's was shorter than
        (60.0, 90.0, 8.0, 10.0, 10.0),  # it has more time already
    ],
)
def test_a_caller_may_wait_longer_than_it_said(
    total_s: float, attempt_s: float, prolonged: float, lasting: float, attempt: float
) -> None:
    retry = RetryOptions(initial_s=0, max_s=0)
    stack = Stack(
        Deadline(DeadlineOptions(total_s=total_s)),
        Retry(retry, Random(1).random, None),
        Bulkhead(BulkheadOptions()),
        Timeout(TimeoutOptions(attempt_s=attempt_s)),
    )
    call = stack.begin(10.0)
    call.admit(0.0)
    call.prolong(prolonged)
    assert (call.lasting_until, call._limits[-1]) == (lasting, attempt)
    assert call.settle(FAILED, lasting - 0.5) == Again(lasting - 0.5), "there is time for another"
    call.prolong(prolonged)  # between two attempts as well
    assert call.admit(lasting - 0.5) == Go(min(lasting, lasting - 0.5 + attempt_s))
    assert type(call.settle(FAILED, lasting)) is GiveUp


class Spy:
    """A policy that counts, and may refuse."""

    def __init__(self) -> None:
        self.open = 0
        self.refuses = False

    def begin(self) -> SpyGuard:
        return SpyGuard(self)


class SpyGuard:
    def __init__(self, spy: Spy) -> None:
        self.spy = spy

    def admit(self, now: float, until: float = NEVER) -> Go | Refuse:
        if self.spy.refuses:
            return Refuse(now + 1.0, Unavailable("not now"))
        self.spy.open += 1
        return Go(until)

    def settle(self, outcome: AttemptOutcome, now: float) -> Done:
        self.spy.open -= 1
        assert self.spy.open >= 0, "settled without being admitted"
        return DONE


@settings(max_examples=examples(200))
@given(
    order=st.permutations(["rate", "deadline", "retry", "breaker", "bulkhead", "timeout"]),
    script=st.lists(
        st.tuples(
            st.sampled_from(["settle", "expire", "cancel", "refuse"]), st.sampled_from(OUTCOMES)
        ),
        min_size=1,
        max_size=40,
    ),
    seed=st.integers(0, 99),
)
def test_whatever_the_order_each_go_is_settled_exactly_once(
    order: list[str], script: list[tuple[str, AttemptOutcome]], seed: int
) -> None:
    bulkhead = Bulkhead(BulkheadOptions(at_once=2))
    policies = {
        "rate": Rate(RateOptions(per_s=50, burst=50), 0.0),
        "deadline": Deadline(DeadlineOptions(total_s=20)),
        "retry": Retry(RetryOptions(attempts=3, refusals=2), Random(seed).random, None),
        "breaker": Breaker(BreakerOptions(calls=5)),
        "bulkhead": bulkhead,
        "timeout": Timeout(TimeoutOptions(attempt_s=2)),
    }
    spies = [Spy() for _ in range(len(order) + 1)]
    mixed: list[object] = [spies[0]]
    for name, spy in zip(order, spies[1:], strict=True):
        mixed += [policies[name], spy]
    stack = Stack(*mixed)  # type: ignore[arg-type]
    now, attempts = 0.0, 0
    call = stack.begin()
    for what, outcome in script:
        spies[-1].refuses = what == "refuse"
        verdict = call.admit(now)
        if type(verdict) is Go:
            attempts += 1
            assert call.running
            assert verdict.until <= now + 2.0 + 1e-9
            assert [spy.open for spy in spies] == [1] * len(spies)
            assert bulkhead.inside == 1
            with pytest.raises(RuntimeError):
                call.admit(now)
            if what == "cancel":
                call.cancel(now)
                call.cancel(now)
                break
            if what == "expire":
                now = verdict.until
                verdict = call.expire(now)
            else:
                verdict = call.settle(outcome, now)
                if type(verdict) is not Again:
                    assert call.settle(outcome, now) == verdict
        if type(verdict) is not Again:
            break
        assert verdict.at >= now
        now = verdict.at
    finished = type(verdict) is not Again
    call.cancel(now)
    assert [spy.open for spy in spies] == [0] * len(spies)
    assert bulkhead.inside == 0
    assert attempts <= 5
    if finished and what != "cancel":
        with pytest.raises(RuntimeError):
            call.admit(now)


def test_a_refusal_inside_goes_to_the_retry_which_waits_as_long_as_it_says() -> None:
    breaker = Breaker(BreakerOptions(calls=1))
    stack = usual(breaker=breaker)
    broken = stack.begin()
    broken.admit(0.0)
    assert isinstance(broken.settle(FAILED, 0.0), Again)
    assert breaker.state is State.OPEN
    call = stack.begin()
    verdict = call.admit(1.0)
    assert isinstance(verdict, Again)
    assert 5.05 <= verdict.at <= 5.1
    assert isinstance(call.admit(5.1), Go)
    assert call.settle(COMPLETED, 5.2) == Done()
    assert breaker.state is State.CLOSED


def test_a_call_without_time_is_no_verdict_on_the_target() -> None:
    """Found by the simulation: the call that had waited longest was the probe, for the last
    milliseconds of its deadline, and a target that was well again stayed locked out."""
    breaker = Breaker(BreakerOptions(calls=1))
    stack = usual(breaker=breaker)
    first = stack.begin()
    first.admit(0.0)
    first.expire(10.0)
    assert breaker.state is State.OPEN, "a whole attempt's time without an answer is one"
    waited = stack.begin(until=15.4)
    assert waited.admit(15.3) == Go(15.4)
    verdict = waited.expire(15.4)
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, DeadlineExceeded)
    assert breaker.state is State.HALF_OPEN
    assert stack.begin().admit(15.4) == Go(25.4), "the next one is the probe"


def test_a_refusal_outside_the_retry_is_final() -> None:
    stack = usual(rate=RateOptions(per_s=1, burst=1))
    assert isinstance(stack.begin().admit(0.0), Go)
    verdict = stack.begin().admit(0.0)
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, RateLimited)


def test_the_deadline_speaks_when_it_has_passed_and_the_last_error_when_there_was_no_time() -> None:
    stack = usual(deadline=DeadlineOptions(total_s=5), timeout=TimeoutOptions(attempt_s=10))
    call = stack.begin()
    assert call.admit(0.0) == Go(5.0)
    verdict = call.expire(5.0)
    assert isinstance(verdict, GiveUp)
    assert isinstance(verdict.error, DeadlineExceeded)
    call = stack.begin()
    call.admit(0.0)
    verdict = call.settle(FAILED, 4.99)
    assert isinstance(verdict, GiveUp)
    assert verdict.error is FAILED.error


def test_the_callers_own_limit_counts_too() -> None:
    call = usual().begin(until=3.0)
    assert call.admit(0.0) == Go(3.0)
    late = usual().begin(until=3.0).admit(3.0)
    assert isinstance(late, GiveUp)
    assert isinstance(late.error, DeadlineExceeded)


def test_a_stream_that_began_has_the_deadline_and_not_the_attempts_timeout() -> None:
    call = usual().begin()
    call.admit(0.0)
    assert call.lasting_until == 30.0
    bare = Stack(Timeout(TimeoutOptions())).begin()
    bare.admit(0.0)
    assert bare.lasting_until == NEVER


def test_all_calls_fail_and_the_target_sees_little_more_than_the_calls() -> None:
    """1,000 calls within 10 s, all of which fail: without breaker the budget bounds attempts."""
    stack = Stack(
        Deadline(UNBOUNDED),
        Retry(SOME, Random(1).random, Budget(BudgetOptions(ratio=0.2, floor=10))),
        Timeout(AN_ATTEMPT),
    )
    attempts, waiting = 0, []
    for number in range(1000):
        now = number * 0.0099
        call = stack.begin()
        call.admit(now)
        attempts += 1
        verdict = call.settle(FAILED, now)
        if isinstance(verdict, Again):
            waiting.append((verdict.at, call))
        for at, one in [entry for entry in waiting if entry[0] <= now]:
            waiting.remove((at, one))
            one.admit(now)
            attempts += 1
            verdict = one.settle(FAILED, now)
            if isinstance(verdict, Again):
                waiting.append((verdict.at, one))
    assert 1_150 < attempts <= 1_210


def test_a_caller_that_waits_longer_than_it_had_said() -> None:
    stack = Stack(
        Deadline(DeadlineOptions(total_s=30.0)),
        Retry(RetryOptions(attempts=3, initial_s=0.0, max_s=0.0), lambda: 0.0, None),
    )
    call = stack.begin(until=5.0)
    assert call.admit(0.0) == Go(5.0)
    call.prolong(4.0)
    assert call.lasting_until == 5.0, "it never waits less long"
    call.prolong(20.0)
    assert call.lasting_until == 20.0
    late = call.settle(AttemptOutcome(Ended.FAILED, OSError("broke")), 10.0)
    assert late == Again(10.0), "there is time for another attempt"
    assert call.admit(10.0) == Go(20.0)
    call.prolong(100.0)
    assert call.lasting_until == 30.0, "a deadline of its own holds"
    assert type(call.settle(AttemptOutcome(Ended.FAILED, OSError("broke")), 30.0)) is GiveUp


def test_an_attempt_takes_no_longer_because_its_caller_waits() -> None:
    call = Stack(Timeout(TimeoutOptions(attempt_s=2.0))).begin(until=1.0)
    assert call.admit(0.0) == Go(1.0)
    call.prolong(50.0)
    assert call.lasting_until == 50.0


def test_a_call_that_failed_is_collected_with_the_error_that_leads_back_to_it() -> None:
    """Whoever holds a call holds its error, whose traceback holds the frames that held the call: a
    part of that ring which the collector doesn't know would keep all of it for ever."""

    class Holder:
        def __init__(self) -> None:
            self.call = Stack(Retry(RetryOptions(attempts=1), lambda: 0.0, None)).begin()

        def live(self) -> None:
            self.call.admit(0.0)
            try:
                raise OSError("it broke")
            except OSError as error:
                self.call.settle(outcome_of(error), 0.0)

    holder = Holder()
    holder.live()
    gone = weakref.ref(holder)
    del holder
    gc.collect()
    assert gone() is None
