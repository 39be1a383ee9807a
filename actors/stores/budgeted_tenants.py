"""Which tenants have budgets, as this process knows: whose reserves go the longer road.

Budgets are numbered in the order in which they become visible, so whoever knows the newest number
knows of all budgets. A round names the number that it knows, and opens nothing if there is a newer
one: so no tenant is overlooked, however lately its budget was made, and no request pays more for
that than the reading of one number a round. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable


class BudgetedTenants:
    """Shared by all lanes of a ledger."""

    __slots__ = ("newest", "tenants")

    def __init__(self) -> None:
        self.newest = 0
        """The number of the newest budget when they were read."""
        self.tenants: frozenset[str] = frozenset()

    def __contains__(self, tenant_id: str) -> bool:
        return tenant_id in self.tenants

    def read(self, newest: int, tenants: Iterable[str]) -> None:
        """As they are in PostgreSQL. Should two lanes read in the wrong order, the next round
        notices that what it knows is old."""
        self.newest, self.tenants = newest, frozenset(tenants)
