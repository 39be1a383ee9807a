"""Options of all policies, checked when made."""

from __future__ import annotations

import pytest

from supervision.policies import (
    NEVER,
    BreakerOptions,
    BudgetOptions,
    BulkheadOptions,
    DeadlineOptions,
    RateOptions,
    RetryOptions,
    TimeoutOptions,
)

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
