"""The restarts that a supervisor may do before it gives up. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Intensity:
    """At most `limit` restarts within any `period_s` seconds (OTP's intensity and period).

    Holds at most `limit` times. `now` is monotonic and never goes back.
    """

    limit: int
    period_s: float
    _times: deque[float] = field(default_factory=deque)

    def admit(self, now: float) -> bool:
        """Count one restart at `now`. False means that it would be one too many; it isn't
        counted then, and the supervisor has to give up."""
        while self._times and now - self._times[0] > self.period_s:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return False
        self._times.append(now)
        return True
