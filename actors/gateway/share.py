"""A gateway's share of one of a tenant's buckets, which all gateways of the cluster have together.

The bucket itself is in the store (`actors.stores.limit_store`). What this gateway has of it, the
balance, was taken out there before, a batch at a time, so that a request asks nobody. Whatever was
used beyond an estimate makes the balance negative; that is a debt, and paid with the next order.

While the store is away, the gateway holds the tenant to its own part of the limit, one of `parts`.
That part begins with what was known of the bucket, and what it has lacked at the end is charged to
the bucket: so an outage gives nobody a full bucket.

Pure.
"""

from __future__ import annotations

from typing import Final

from actors.stores.limit_orders import BucketOrder, BucketReply
from supervision.policies.token_bucket import TokenBucket

MINUTE_S: Final = 60.0
OUT: Final = 0.01  # of a bucket, that all gateways together may hold
UNKNOWN: Final = 0.1  # of a bucket of which nobody knows any more how full it is
FRESH_S: Final = 2.0  # how long what was heard of a bucket is a good guess after it is lost
_LEAST: Final = 1e-9


class Share:
    """
    Args:
        limit: a minute's amount, which is also what fits into the bucket; above 0.
        parts: how many gateways have a share each.
        now: the loop's time, in seconds, as all other times here.
    """

    __slots__ = (
        "_at", "_bucket", "_fresh", "_high", "_level", "_low", "_parts",
        "balance", "batch", "limit", "rate",
    )  # fmt: skip

    def __init__(self, limit: float, parts: int, now: float) -> None:
        self._parts = parts
        self._set_limit(limit)
        self.balance = 0.0
        self._level: float | None = None
        self._at = now
        self._fresh = False
        self._bucket: TokenBucket | None = None

    def _set_limit(self, limit: float) -> None:
        self.limit = max(limit, 1.0)
        self.rate = self.limit / MINUTE_S
        """A second, of the whole bucket."""
        self.batch = float(int(self.limit * OUT / self._parts))
        """What is taken in advance: whole units, and none where one would be too much."""
        self._low, self._high = self.batch / 2, 2 * self.batch

    @property
    def local(self) -> bool:
        """Is it held to the gateway's own part?"""
        return self._bucket is not None

    # ---- requests

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount` may be had, as far as is known; 0: now, or it is to be asked for
        (`short`)."""
        if self._bucket is not None:
            return self._bucket.wait_s(amount, now)
        level = self.known(now)
        if level is None or not self.short(amount):
            return 0.0
        missing = min(amount, self.limit) - self.balance - level
        return missing / self.rate if missing > _LEAST else 0.0

    def short(self, amount: float) -> bool:
        """Must more be asked for before `amount` is taken? More than the whole bucket can't be
        waited for; the rest is a debt then."""
        if self.balance >= amount or self._bucket is not None:
            return False
        return self.balance + _LEAST < min(amount, self.limit)

    def take(self, amount: float, now: float) -> None:
        """Charge `amount` (negative: give back)."""
        if self._bucket is not None:
            self._bucket.take(amount, now)
        else:
            self.balance -= amount

    def known(self, now: float) -> float | None:
        """What is in the bucket in the store, if others have taken nothing since; None if that was
        never heard."""
        if self._level is None:
            return None
        return min(self.limit, self._level + max(0.0, now - self._at) * self.rate)

    def left(self, now: float) -> float:
        """What may be used now, as far as is known; below zero while debts are paid off."""
        if self._bucket is not None:
            return self._bucket.level(now) * self._parts
        level = self.known(now)
        return min(self.limit, (self.limit if level is None else level) + self.balance)

    # ---- the store

    def due(self, now: float) -> bool:
        """Is there anything to order, with nobody waiting?"""
        balance = self.balance
        if self._low <= balance <= self._high or self._bucket is not None:
            return False
        return balance < 0 or balance > self._high or (self.known(now) or 0.0) >= self.batch

    def order(self, first: float, all_: float, now: float, *, keep: bool = True) -> BucketOrder:
        """What to ask for when somebody waits for `first`, and everybody for `all_`; 0: nobody
        does. Without `keep` all goes back. `replied` or `unheard` must follow."""
        batch = self.batch if keep else 0.0
        delta = 0.0
        if self.balance < 0:
            delta, self.balance = self.balance, 0.0
        elif not first and self.balance > (2 * batch if keep else 0.0):
            delta, self.balance = self.balance - batch, batch
        least = max(0.0, min(first, self.limit) - self.balance)
        most = max(least, all_ - self.balance + batch) if keep or first else 0.0
        if not first and most <= batch / 2:
            most = 0.0
        return BucketOrder(delta, least, most, self._hint(now))

    def replied(self, reply: BucketReply, now: float) -> None:
        """The store has done it."""
        self.balance += reply.granted
        self._level, self._at, self._fresh = reply.level, now, False

    def unheard(self, order: BucketOrder) -> None:
        """Nobody knows whether the store has done it: what was used is charged once more rather
        than not at all, and what was given back is gone."""
        if order.delta < 0:
            self.take(-order.delta, self._at)

    def _hint(self, now: float) -> float | None:
        fresh = self._fresh or now - self._at <= FRESH_S
        return self.known(now) if fresh else None

    # ---- the gateway's own part

    def stand_alone(self, now: float, *, missing: float = 0.0) -> None:
        """Hold it to a bucket of the gateway's own, which lacks `missing` of the whole."""
        parts = self._parts
        bucket = self._bucket = TokenBucket(self.rate / parts, self.limit / parts, now)
        bucket.take(missing * self.limit / parts, now)

    def leave_store(self, now: float) -> None:
        """The store is away."""
        level = self.known(now)
        if level is None:
            level = self.limit * UNKNOWN
        self._fresh = now - self._at <= FRESH_S
        self.stand_alone(now)
        assert self._bucket is not None
        of_own = level / self._parts + self.balance
        self._bucket.take(self.limit / self._parts - of_own, now)
        self.balance = 0.0

    def return_to_store(self, now: float) -> None:
        """The store is back: its bucket gets what this part has lacked, or spared, meanwhile."""
        bucket, self._bucket = self._bucket, None
        if bucket is not None:
            level = self.known(now)
            expected = self.limit if level is None else level
            self.balance = bucket.level(now) - expected / self._parts

    def missing(self, now: float) -> float:
        """What the gateway's own part lacks, of the whole; 0 where it has none."""
        bucket = self._bucket
        return 0.0 if bucket is None else 1.0 - bucket.level(now) * self._parts / self.limit

    def change(self, limit: float, now: float) -> None:
        """Another limit; as much of the bucket is left as before, in parts of the whole."""
        before, missing = self.limit, self.missing(now)
        self._set_limit(limit)
        ratio = self.limit / before
        if self._level is not None:
            self._level = min(self.limit, self._level * (ratio if self._level > 0 else 1.0))
        if self._bucket is not None:
            self.stand_alone(now, missing=missing)
