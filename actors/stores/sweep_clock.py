"""When a sweeper may sweep: once all who hold jobs have had the time to renew their leases.

They may have had none before: the sweeper has just connected, since it or the store was away; or it
was stopped itself for a while, and all around it perhaps, as the machine slept.

Pure.
"""

from __future__ import annotations

_BUSY_S = 1.0  # that a tick may be late on a machine that has too much to do


class SweepClock:
    """Times are seconds since 1970, for those go on while a machine sleeps.

    Args:
        lease_s: for so long a lease lives that isn't renewed.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._late_s = max(lease_s / 2, _BUSY_S)
        self._since = float("inf")
        self._ticked: float | None = None

    def begins(self, now: float) -> None:
        """It has become the sweeper, by a new connection."""
        self._since = now

    def ticks(self, now: float) -> None:
        """It looks. One that comes late, or a clock that was set, begins the term anew."""
        before, self._ticked = self._ticked, now
        if before is not None and not 0 <= now - before <= self._late_s:
            self._since = max(self._since, now)

    def may_sweep(self, now: float) -> bool:
        """Has everybody had a full term?"""
        return now - self._since >= self._lease_s
