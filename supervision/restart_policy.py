"""Whether a child that ended comes back, and after how long. Pure."""

from __future__ import annotations

from collections.abc import Callable

from supervision.backoff import Backoff
from supervision.child_state import ChildState
from supervision.external_cause import PATIENCE
from supervision.intensity import Intensity


class RestartPolicy:
    """Counts the restarts of all children of one supervisor against its intensity.

    What is owed to something outside (`ChildState.excuse`) is not counted: it is repeated, later
    each time, until that is back. `draw` is uniform in [0, 1).
    """

    def __init__(self, intensity: Intensity, draw: Callable[[], float]) -> None:
        self._intensity = intensity
        self._draw = draw

    @property
    def limit(self) -> str:
        """What may not be exceeded, for a sentence."""
        return f"{self._intensity.limit} times in {self._intensity.period_s:g} s"

    @property
    def period_s(self) -> float:
        """Within which the restarts are counted."""
        return self._intensity.period_s

    def delay_s(self, member: ChildState, ran_s: float, now: float) -> float | None:
        """In how many seconds `member` may start again, which ran for `ran_s` until `now`; None
        if that would be one restart too many. Counts it."""
        backoff: Backoff = member.spec.backoff
        if ran_s > 0 and ran_s >= backoff.steady_s:
            member.failures = member.excused = 0
        if member.excuse is not None:
            member.excused += 1
            return PATIENCE.delay_s(member.excused, self._draw())
        member.failures += 1
        if not self._intensity.admit(now):
            return None
        return backoff.delay_s(member.failures, self._draw())

    def attempt(self, member: ChildState) -> int:
        """The how manieth in a row its next start is."""
        return member.failures if member.excuse is None else member.excused
