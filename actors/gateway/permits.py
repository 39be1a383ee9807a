"""A gateway's permits of one tenant: how many of its requests may run here at once.

The store adds up what all gateways hold, and what a dead one has held runs out there. One asks for
a total that it wants to hold, so to ask twice changes nothing. Far below the limit a few are kept
when requests end; in its upper half each is given back at once, for another gateway may need it.

Pure.
"""

from __future__ import annotations

from typing import Final

from actors.stores.limit_orders import PermitOrder, PermitReply

KEPT: Final = 8  # the part of a gateway's even share that it may hold unused
SURE_S: Final = 0.05  # how long a store that had no permit left is believed


class Permits:
    """
    Args:
        limit: requests of the tenant at once, in the whole cluster; 0: any number.
        parts: how many gateways there are. A lone one asks nobody.
    """

    __slots__ = ("_alone", "_at", "_floor", "_parts", "_total", "held", "limit", "running")

    def __init__(self, limit: int, parts: int) -> None:
        self.limit = limit
        self.running = 0
        self.held = 0
        self._parts = parts
        self._total = 0
        self._at = float("-inf")
        self._alone = False
        self._floor = 0

    @property
    def counted(self) -> bool:
        """Does the store count them?"""
        return self.limit > 0 and self._parts > 1 and not self._alone

    @property
    def most(self) -> int:
        """How many may run here without asking."""
        if not self.limit:
            return self.running + 1
        if self._parts == 1:
            return self.limit
        if self._alone:
            return min(self.limit, max(1, self.limit // self._parts, self._floor))
        return min(self.held, self.limit)

    @property
    def free(self) -> bool:
        """May one more run here without asking?"""
        return not self.limit or self.running < self.most

    def full(self, now: float) -> bool:
        """Is it certain that no more may run?"""
        if self.running < self.most:
            return False
        if not self.counted:
            return True
        return self.running >= self.limit or (
            self._total >= self.limit and now - self._at <= SURE_S
        )

    @property
    def short(self) -> bool:
        """Must one be asked for?"""
        return self.counted and self.running >= self.most

    @property
    def due(self) -> bool:
        """Are more held than may be kept?"""
        return self.counted and self.held - self.running > self._kept

    @property
    def _kept(self) -> int:
        if 2 * self._total > self.limit:
            return 0
        return self.limit // (KEPT * self._parts)

    def order(self, waiting: int, *, keep: bool = True) -> PermitOrder:
        """What to hold when so many wait; without `keep` nothing unused."""
        if not self.counted:
            return PermitOrder()
        want = self.running + waiting
        if keep:
            want += min(self._kept, max(self.held - want, self._kept if waiting else 0))
        return PermitOrder(self.limit, min(want, max(self.limit, self.running)), self.running)

    def replied(self, reply: PermitReply, now: float) -> None:
        """The store has done it."""
        self.held, self._total, self._at = reply.granted, reply.total, now

    def leave_store(self) -> None:
        """The store is away: an even part, or what was held."""
        self._alone, self._floor = True, self.held

    def return_to_store(self) -> None:
        """It is back."""
        if self._alone:
            self._alone, self._floor, self.held = False, 0, self.running
