"""Counts over a sliding window of steps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervision.policies.window import Window

steps = st.floats(0, 40, allow_nan=False)


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
