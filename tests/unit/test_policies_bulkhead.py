"""The bulkhead, under random histories."""

from __future__ import annotations

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
    AttemptOutcome,
    Bulkhead,
    BulkheadOptions,
    Done,
    Ended,
    Go,
)

FAILED = AttemptOutcome(Ended.FAILED, Unavailable("broke off"))
FATAL = AttemptOutcome(Ended.FATAL, Internal("a bug"))
REFUSED = AttemptOutcome(Ended.REFUSED, Overloaded("full"))
REJECTED = AttemptOutcome(Ended.REJECTED, BadRequest("no"))
CUT_SHORT = AttemptOutcome(Ended.CUT_SHORT, Unavailable("no time"))
OUTCOMES = (COMPLETED, FAILED, FATAL, REFUSED, REJECTED, CUT_SHORT, CANCELLED)


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
