"""The rate policy: burst and rate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervision.errors import (
    RateLimited,
)
from supervision.policies import (
    Go,
    Rate,
    RateOptions,
)

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
