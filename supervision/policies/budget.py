"""The retry budget: how many retries all calls together may do, as a share of the calls.

Retries of single calls are harmless; retries of all calls at once double the load just when
something is down, and keep it down. Source: Beyer et al., Site Reliability Engineering, 2016,
"Handling Overload" (a per-client retry budget of 10 %); Finagle's `RetryBudget` (20 %).

Pure.
"""

from __future__ import annotations

import msgspec

from supervision.policies.window import Window


class BudgetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """In any `window_s` seconds, `floor` retries and `ratio` of the calls. The floor lets a
    caller with little traffic retry at all.

    Raises:
        ValueError: a value is out of its range.
    """

    ratio: float = 0.2
    floor: int = 10
    window_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ValueError(f"budget: ratio is {self.ratio}; it must be from 0 to 1")
        if self.floor < 0 or not self.window_s > 0:
            raise ValueError("budget: floor must not be negative, and window_s above 0")


class Budget:
    """Shared by all calls that go the same way."""

    __slots__ = ("_floor", "_ratio", "_window", "refused")

    def __init__(self, options: BudgetOptions | None = None) -> None:
        options = options or BudgetOptions()
        self._ratio = options.ratio
        self._floor = options.floor
        self._window = Window(options.window_s)
        self.refused = 0
        """Retries that were not granted, ever."""

    @property
    def most(self) -> float:
        """Retries that the window may hold, as of its last use."""
        return self._floor + self._ratio * self._window.good

    @property
    def spent(self) -> int:
        """Retries of the window, as of its last use."""
        return self._window.bad

    def turn(self, now: float) -> None:
        """Forget what is too old at `now`."""
        self._window.turn(now)

    def deposit(self, now: float) -> None:
        """A call began."""
        self._window.add(now, good=1)

    def withdraw(self, now: float) -> bool:
        """May one more retry be done? If so, it is counted."""
        window = self._window
        window.turn(now)
        if window.bad + 1 > self._floor + self._ratio * window.good:
            self.refused += 1
            return False
        window.add(now, bad=1)
        return True
