"""The circuit breaker, case by case and under random histories."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from supervision.errors import (
    BadRequest,
    Internal,
    Overloaded,
    Unavailable,
)
from supervision.policies import (
    CANCELLED,
    COMPLETED,
    NEVER,
    AttemptOutcome,
    Breaker,
    BreakerOptions,
    Ended,
    Go,
    Mode,
    State,
)
from tests.support.properties import examples

FAILED = AttemptOutcome(Ended.FAILED, Unavailable("broke off"))
FATAL = AttemptOutcome(Ended.FATAL, Internal("a bug"))
REFUSED = AttemptOutcome(Ended.REFUSED, Overloaded("full"))
REJECTED = AttemptOutcome(Ended.REJECTED, BadRequest("no"))
CUT_SHORT = AttemptOutcome(Ended.CUT_SHORT, Unavailable("no time"))
OUTCOMES = (COMPLETED, FAILED, FATAL, REFUSED, REJECTED, CUT_SHORT, CANCELLED)


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
TestBreaker.settings = settings(max_examples=examples(60), stateful_step_count=60)


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
