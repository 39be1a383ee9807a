"""The retry budget, in any window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervision.policies import (
    Budget,
    BudgetOptions,
)

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
