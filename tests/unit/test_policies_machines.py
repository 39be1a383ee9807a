"""The invariants of each policy, against random histories and the test's own clock."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from actors.errors import ModelUnusable, WorkerLost
from supervision.errors import (
    BadRequest,
    Cancelled,
    DeadlineExceeded,
    Draining,
    Internal,
    Overloaded,
    PeerLost,
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
    Breakers,
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
    Mode,
    Rate,
    RateOptions,
    Refuse,
    Retry,
    RetryOptions,
    State,
    Timeout,
    TimeoutOptions,
    outcome_of,
)
from supervision.policies.recent import Recent
from supervision.policies.retry import RetryGuard
from supervision.policies.window import Window

FAILED = AttemptOutcome(Ended.FAILED, Unavailable("broke off"))
FATAL = AttemptOutcome(Ended.FATAL, Internal("a bug"))
REFUSED = AttemptOutcome(Ended.REFUSED, Overloaded("full"))
REJECTED = AttemptOutcome(Ended.REJECTED, BadRequest("no"))
CUT_SHORT = AttemptOutcome(Ended.CUT_SHORT, Unavailable("no time"))
OUTCOMES = (COMPLETED, FAILED, FATAL, REFUSED, REJECTED, CUT_SHORT, CANCELLED)
steps = st.floats(0, 40, allow_nan=False)


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (Overloaded("x"), Ended.REFUSED),
        (Draining("x"), Ended.REFUSED),
        (RateLimited("x"), Ended.REFUSED),
        (PeerLost("x"), Ended.FAILED),
        (WorkerLost("x"), Ended.FAILED),
        (Unavailable("x"), Ended.FAILED),
        (ConnectionResetError(), Ended.FAILED),
        (TimeoutError(), Ended.FAILED),
        (BadRequest("x"), Ended.REJECTED),
        (ModelUnusable("x"), Ended.REJECTED),
        (DeadlineExceeded("x"), Ended.FATAL),
        (Internal("x"), Ended.FATAL),
        (ZeroDivisionError(), Ended.FATAL),
        (Cancelled("x"), Ended.CANCELLED),
    ],
)
def test_what_an_error_means(error: Exception, ended: Ended) -> None:
    assert outcome_of(error).ended is ended


def test_retry_after_counts_from_now() -> None:
    assert outcome_of(Overloaded("x", retry_after_s=2.0), 10.0).until == 12.0


# ---- window


@given(
    st.lists(st.tuples(steps, st.booleans()), max_size=60),
    st.floats(1, 60, allow_nan=False),
    st.integers(1, 12),
)
def test_a_window_holds_what_its_steps_hold_and_no_more(
    history: list[tuple[float, bool]], period_s: float, slots: int
) -> None:
    window = Window(period_s, slots)
    now, seen = 0.0, []
    step = period_s / slots
    for pause, good in history:
        now += pause
        seen.append((int(now // step), good))
        window.add(now, good=good, bad=not good)
        oldest = int(now // step) - slots + 1
        assert window.good == sum(good for at, good in seen if at >= oldest)
        assert window.bad == sum(not good for at, good in seen if at >= oldest)
        assert len(window._good) == len(window._bad) == slots
    window.turn(now + period_s + step)
    assert (window.good, window.bad) == (0, 0)


@given(st.lists(st.tuples(st.floats(0, 9), st.booleans()), max_size=80), st.integers(1, 8))
def test_the_last_calls_are_few_and_none_is_old(
    history: list[tuple[float, bool]], most: int
) -> None:
    recent = Recent(most, 30.0)
    now, seen = 0.0, []
    for pause, bad in history:
        now += pause
        recent.add(now, bad)
        seen.append((now, bad))
        expected = [entry for entry in seen if entry[0] > now - 30][-most:]
        assert len(recent) == len(expected) == len(recent._calls)
        assert recent.bad == sum(bad for _, bad in expected)


# ---- rate


@given(st.lists(st.floats(0, 3), max_size=80), st.floats(0.5, 50), st.floats(1, 20))
def test_a_rate_never_lets_more_pass_than_burst_and_rate(
    pauses: list[float], per_s: float, burst: float
) -> None:
    rate = Rate(RateOptions(per_s=per_s, burst=burst), 0.0)
    now, passed = 0.0, 0
    for pause in pauses:
        now += pause
        verdict = rate.admit(now)
        if isinstance(verdict, Go):
            passed += 1
        else:
            assert isinstance(verdict.error, RateLimited)
            assert verdict.until > now
            later = rate.admit(verdict.until + 1e-6)
            assert isinstance(later, Go), "it said when there is room"
            passed += 1
            now = verdict.until + 1e-6
        assert passed <= burst + per_s * now + 1e-3


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


def test_an_attempts_timeout_begins_anew_with_each() -> None:
    timeout = Timeout(TimeoutOptions(attempt_s=2))
    assert timeout.admit(0.0) == Go(2.0)
    assert timeout.admit(5.0, 6.0) == Go(6.0)
    assert timeout.admit(9.0) == Go(11.0)


# ---- retry and budget


@given(st.lists(st.tuples(st.floats(0, 4), st.booleans()), max_size=200), st.floats(0, 1))
def test_a_budget_is_never_exceeded_in_any_window(
    history: list[tuple[float, bool]], ratio: float
) -> None:
    options = BudgetOptions(ratio=ratio, floor=3, window_s=10)
    budget = Budget(options)
    now, calls, retries, refused = 0.0, [], [], 0
    for pause, is_call in history:
        now += pause
        oldest = int(now // 1.0) - 9
        if is_call:
            budget.deposit(now)
            calls.append(int(now // 1.0))
            continue
        granted = budget.withdraw(now)
        allowed = 3 + ratio * sum(at >= oldest for at in calls)
        spent = sum(at >= oldest for at in retries)
        assert granted == (spent + 1 <= allowed), "neither too much nor too little"
        if granted:
            retries.append(int(now // 1.0))
        refused += not granted
    assert budget.refused == refused


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


# ---- bulkhead


class BulkheadMachine(RuleBasedStateMachine):
    guards = Bundle("guards")

    def __init__(self) -> None:
        super().__init__()
        self.bulkhead = Bulkhead(BulkheadOptions(at_once=3))
        self.inside = 0

    @rule(target=guards)
    def admit(self) -> object:
        guard = self.bulkhead.begin()
        verdict = guard.admit(0.0)
        assert isinstance(verdict, Go) == (self.inside < 3)
        self.inside += isinstance(verdict, Go)
        return guard, isinstance(verdict, Go)

    @rule(entry=consumes(guards), outcome=st.sampled_from(OUTCOMES), times=st.integers(1, 3))
    def settle(self, entry: object, outcome: AttemptOutcome, times: int) -> None:
        guard, admitted = entry  # type: ignore[misc]
        for _ in range(times):
            assert guard.settle(outcome, 0.0) == Done()
        self.inside -= admitted

    @invariant()
    def bounded(self) -> None:
        assert self.bulkhead.inside == self.inside <= 3


TestBulkhead = BulkheadMachine.TestCase


# ---- breaker


class BreakerMachine(RuleBasedStateMachine):
    """Calls come and go as they please, some never end, and operators interfere."""

    guards = Bundle("guards")

    def __init__(self) -> None:
        super().__init__()
        self.options = BreakerOptions(calls=4, window_s=30, open_s=5, max_open_s=60, probe_s=50)
        self.breaker = Breaker(self.options)
        self.now = 100.0
        self.probe: object = None  # the guard that is one
        self.probe_at = 0.0

    @rule(by=st.floats(0, 40))
    def wait(self, by: float) -> None:
        self.now += by

    @rule(target=guards)
    def admit(self) -> object:
        breaker = self.breaker
        before, opens = breaker.state, breaker.until(self.now)
        passes = breaker.passes(self.now)
        guard = breaker.begin()
        verdict = guard.admit(self.now)
        went = isinstance(verdict, Go)
        assert went == passes
        if breaker.mode is Mode.DISABLED:
            assert went
        elif breaker.mode is Mode.FORCED_OPEN:
            assert not went
            assert verdict.until == NEVER  # type: ignore[union-attr]
        elif before is State.CLOSED:
            assert went
        elif went:
            assert self.now >= opens
            assert breaker.state is State.HALF_OPEN
            one_more = self.probe is not None and self.now - self.probe_at < 50
            assert not one_more, "two probes at a time"
            self.probe, self.probe_at = guard, self.now
        elif before is State.OPEN:
            assert self.now < opens == verdict.until  # type: ignore[union-attr]
            assert opens - self.now <= 60
        return guard, went

    @rule(entry=consumes(guards), outcome=st.sampled_from(OUTCOMES), times=st.integers(1, 2))
    def settle(self, entry: object, outcome: AttemptOutcome, times: int) -> None:
        guard, went = entry  # type: ignore[misc]
        breaker = self.breaker
        before, mode = breaker.state, breaker.mode
        is_probe = guard is self.probe
        _, bad = breaker.counts(self.now)
        guard.settle(outcome, self.now)
        after, counts = breaker.state, breaker.counts(self.now)
        if times == 2:
            guard.settle(outcome, self.now)
            assert breaker.state is after
            assert breaker.counts(self.now) == counts
        if before is not State.CLOSED and after is State.CLOSED:
            assert is_probe, "closed by another call than the probe"
            assert outcome.ended in (Ended.COMPLETED, Ended.REJECTED), "closed without success"
        if counts[1] > bad and mode is Mode.AUTOMATIC:
            assert counts[0] < 4 or counts[1] < 0.5 * counts[0], "it should be open"
        if before is State.CLOSED and after is State.OPEN:
            assert went
            assert mode is Mode.AUTOMATIC
            assert outcome.ended in (Ended.FAILED, Ended.FATAL)
        if is_probe:
            self.probe = None

    @rule(mode=st.sampled_from(Mode))
    def operate(self, mode: Mode) -> None:
        before = self.breaker.mode
        self.breaker.set(mode, self.now)
        if before is not mode:
            self.probe = None
            assert self.breaker.state is State.CLOSED

    @invariant()
    def sane(self) -> None:
        calls, bad = self.breaker.counts(self.now)
        assert 0 <= bad <= calls


TestBreaker = BreakerMachine.TestCase
TestBreaker.settings = settings(max_examples=150, stateful_step_count=60)


def fail(breaker: Breaker, times: int, now: float) -> None:
    for _ in range(times):
        breaker.leave(breaker.enter(now), Ended.FAILED, now)


def test_half_of_ten_calls_open_it_and_nine_do_not() -> None:
    breaker = Breaker()
    fail(breaker, 5, 0.0)
    for _ in range(4):
        breaker.leave(breaker.enter(0.0), Ended.COMPLETED, 0.0)
    assert breaker.state is State.CLOSED
    fail(breaker, 1, 0.0)
    assert breaker.state is State.OPEN


def test_failures_of_long_ago_do_not_count() -> None:
    breaker = Breaker()
    fail(breaker, 9, 0.0)
    fail(breaker, 1, 31.0)
    assert breaker.state is State.CLOSED


def test_a_target_that_dies_after_a_long_good_time_is_found_out_soon() -> None:
    breaker = Breaker()
    for number in range(3000):
        breaker.leave(breaker.enter(number / 100), Ended.COMPLETED, number / 100)
    failures = 0
    while breaker.state is State.CLOSED:
        failures += 1
        fail(breaker, 1, 30 + failures / 100)
    assert failures == 50


def test_it_stays_open_longer_each_time_and_begins_anew_after_a_quiet_window() -> None:
    breaker = Breaker()
    now, pauses = 0.0, []
    fail(breaker, 10, now)
    for _ in range(6):
        pauses.append(breaker.until(now) - now)
        now = breaker.until(now)
        assert not breaker.passes(now - 0.001)
        fail(breaker, 1, now)
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    now = breaker.until(now)
    breaker.leave(breaker.enter(now), Ended.COMPLETED, now)
    assert breaker.state is State.CLOSED
    fail(breaker, 10, now + 1)
    assert breaker.until(now) - now == 61.0, "it flaps"
    now += 61.0
    breaker.leave(breaker.enter(now), Ended.COMPLETED, now)
    fail(breaker, 10, now + 30)
    assert breaker.until(now + 30) - now == 35.0


def test_a_late_answer_of_before_is_not_taken_for_the_probes() -> None:
    breaker = Breaker()
    old = breaker.enter(0.0)
    fail(breaker, 10, 0.0)
    probe = breaker.enter(5.0)
    breaker.leave(old, Ended.COMPLETED, 5.0)
    assert breaker.state is State.HALF_OPEN
    breaker.leave(probe, Ended.FAILED, 5.1)
    assert breaker.state is State.OPEN


def test_a_probe_that_is_cancelled_or_lost_makes_room_for_the_next() -> None:
    breaker = Breaker()
    fail(breaker, 10, 0.0)
    probe = breaker.enter(5.0)
    assert probe
    assert not breaker.enter(5.0)
    breaker.leave(probe, Ended.CANCELLED, 6.0)
    lost = breaker.enter(6.0)
    assert lost
    assert not breaker.enter(65.0)
    second = breaker.enter(66.0)
    assert second
    breaker.leave(lost, Ended.COMPLETED, 67.0)
    assert breaker.state is State.HALF_OPEN, "the lost one came back too late"
    breaker.leave(second, Ended.COMPLETED, 68.0)
    assert breaker.state is State.CLOSED


def test_a_new_start_begins_closed_but_the_operators_word_stands() -> None:
    breaker = Breaker()
    fail(breaker, 10, 0.0)
    breaker.renew(0.0)
    assert breaker.passing
    breaker.set(Mode.FORCED_OPEN, 0.0)
    breaker.renew(0.0)
    assert not breaker.passes(1e9)
    breaker.set(Mode.DISABLED, 0.0)
    fail(breaker, 100, 1.0)
    assert breaker.passing


def test_breakers_are_shared_bounded_and_keep_what_operators_set() -> None:
    breakers: Breakers[str] = Breakers(bound=2)
    breakers.of("a").set(Mode.FORCED_OPEN, 0.0)
    b = breakers.of("b")
    assert breakers.of("b") is b
    breakers.of("c")
    assert "b" not in breakers
    assert breakers.of("a").mode is Mode.FORCED_OPEN
    breakers.of("c").set(Mode.DISABLED, 0.0)
    with pytest.raises(Overloaded):
        breakers.of("d")
    assert len(breakers) == 2


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


def test_a_peer_that_is_lost_is_a_loss() -> None:
    assert outcome_of(PeerLost("gone")).lost
    assert outcome_of(WorkerLost("gone"), lost=True).lost
    assert not outcome_of(WorkerLost("broke")).lost


# ---- options


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (RateOptions, {"per_s": 0}),
        (RateOptions, {"per_s": float("nan")}),
        (RateOptions, {"burst": 0.5}),
        (DeadlineOptions, {"total_s": 0}),
        (DeadlineOptions, {"total_s": NEVER}),
        (RetryOptions, {"attempts": -1}),
        (RetryOptions, {"refusals": -1}),
        (RetryOptions, {"initial_s": 6}),
        (RetryOptions, {"max_s": NEVER}),
        (BudgetOptions, {"ratio": 1.1}),
        (BudgetOptions, {"floor": -1}),
        (BudgetOptions, {"window_s": 0}),
        (BreakerOptions, {"calls": 0}),
        (BreakerOptions, {"calls": 101}),
        (BreakerOptions, {"ratio": 0}),
        (BreakerOptions, {"open_s": 61}),
        (BreakerOptions, {"window_s": float("nan")}),
        (BreakerOptions, {"probe_s": 0}),
        (BulkheadOptions, {"at_once": 0}),
        (TimeoutOptions, {"attempt_s": 0}),
    ],
)
def test_options_out_of_range_are_refused_when_made(
    options: type, values: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match=r"must|hold|≤"):
        options(**values)
