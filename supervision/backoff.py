"""The wait before a child that keeps failing is started again. Pure."""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True, kw_only=True):
    """`uniform(.5, 1) · min(max_s, initial_s · 2ⁿ)` seconds, n counting from the second failure
    in a row. The first restart is immediate, since most deaths are single ones and recovery
    should be quick; whoever ran for `steady_s` has failed for the first time again.

    Raises:
        ValueError: a duration is negative, or `max_s` is below `initial_s`.
    """

    initial_s: float = 0.2
    max_s: float = 10.0
    steady_s: float = 10.0

    def __post_init__(self) -> None:
        if self.initial_s < 0 or self.steady_s < 0:
            raise ValueError("backoff: initial_s and steady_s must not be negative")
        if self.max_s < self.initial_s:
            raise ValueError(f"backoff: max_s {self.max_s} is below initial_s {self.initial_s}")

    def delay_s(self, failures: int, draw: float) -> float:
        """Seconds to wait after the `failures`th failure in a row (from 1); `draw` is uniform
        in [0, 1)."""
        if failures <= 1:
            return 0.0
        # the exponent is capped only so that a float can't overflow
        ceiling = min(self.max_s, self.initial_s * 2.0 ** min(failures - 2, 60))
        return (0.5 + 0.5 * draw) * ceiling
