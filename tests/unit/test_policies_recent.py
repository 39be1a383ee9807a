"""The last calls, few and none old."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervision.policies.recent import Recent


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
