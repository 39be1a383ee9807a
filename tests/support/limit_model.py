"""The bucket of `actors/stores/limits.lua`, in Python, with a clock that the test moves."""

from __future__ import annotations

import math

from actors.stores.limit_orders import BucketOrder, BucketReply


class ModelBucket:
    def __init__(self, limit: float, now: float) -> None:
        self._limit = limit
        self._level = limit
        self._at = now

    def level(self, now: float) -> float:
        self._level = min(self._limit, self._level + (now - self._at) * self._limit / 60)
        self._at = now
        return self._level

    def take(self, amount: float, now: float) -> None:
        self._level = self.level(now) - amount

    def do(self, order: BucketOrder, now: float) -> BucketReply:
        level = min(self._limit, self.level(now) + order.delta)
        granted = 0.0
        if order.most > 0 and level + 1e-6 >= order.least:
            granted = max(order.least, min(order.most, math.floor(level + 1e-6)))
        self._level = level - granted
        return BucketReply(granted, self._level)
