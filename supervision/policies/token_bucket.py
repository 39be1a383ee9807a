"""A token bucket: measures rates, for the policy `Rate` and for what tenants may use. Pure."""

from __future__ import annotations


class TokenBucket:
    """Holds up to `burst`, gains `rate` a second, and may be charged below zero: whoever asks
    for more than the burst waits for a full bucket and pays the rest afterwards.

    Source: Turner, New directions in communications, 1986 (leaky bucket as a meter).
    """

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """What is in it now."""
        if now > self._at:
            level = self._level + (now - self._at) * self.rate
            self._level = level if level < self.burst else self.burst
            self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken; 0 when it can."""
        missing = (amount if amount < self.burst else self.burst) - self.level(now)
        return missing / self.rate if missing > 1e-9 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Charge `amount` (negative: give back)."""
        level = self.level(now) - amount
        self._level = level if level < self.burst else self.burst
