"""A sliding window: how often something happened lately, in bounded memory. Pure."""

from __future__ import annotations


class Window:
    """Two counters over the last `period_s` seconds, in `slots` steps: what is older than the
    period is forgotten a whole step at a time, so the sums cover between `period_s` less one
    step and `period_s`.

    Raises:
        ValueError: the period isn't above 0, or there is no slot.
    """

    __slots__ = ("_bad", "_good", "_newest", "_slots", "_step", "bad", "good")

    def __init__(self, period_s: float, slots: int = 10) -> None:
        if not period_s > 0 or slots < 1:
            raise ValueError(f"a window of {period_s} s in {slots} slots; both must be above 0")
        self._slots = slots
        self._step = period_s / slots
        self._newest = 0  # number of the step that is counted in
        self._good = [0] * slots
        self._bad = [0] * slots
        self.good = 0
        """Sum as of the last `add` or `turn`."""
        self.bad = 0

    def add(self, now: float, good: int = 0, bad: int = 0) -> None:
        """Count. A `now` before the newest step counts in the newest."""
        self.turn(now)
        at = self._newest % self._slots
        self._good[at] += good
        self._bad[at] += bad
        self.good += good
        self.bad += bad

    def turn(self, now: float) -> None:
        """Forget what is too old at `now`."""
        step = int(now // self._step)
        newest = self._newest
        if step <= newest:
            return
        self._newest = step
        if not (self.good or self.bad):
            return
        for old in range(max(newest + 1, step - self._slots + 1), step + 1):
            at = old % self._slots
            self.good -= self._good[at]
            self.bad -= self._bad[at]
            self._good[at] = self._bad[at] = 0

    def clear(self) -> None:
        """Forget everything."""
        self._good = [0] * self._slots
        self._bad = [0] * self._slots
        self.good = self.bad = 0
