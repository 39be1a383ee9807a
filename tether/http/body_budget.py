"""A byte budget for the bodies that a door holds at once. Pure."""

from __future__ import annotations

from supervision.errors import Overloaded, RateLimited

AGAIN_S = 1.0


class BodyBudget:
    """Bytes of bodies as they were sent, of all tenants and of each.

    Args:
        in_all: how many there may be.
        per_tenant: and of one tenant, so that none can spend what is there for all.
    """

    def __init__(self, in_all: int, per_tenant: int) -> None:
        self.in_all = in_all
        self.per_tenant = per_tenant
        self.used = 0
        self._of: dict[str, int] = {}

    def take(self, tenant_id: str, size: int) -> None:
        """Counts `size` bytes; `give` must follow.

        Raises:
            RateLimited: the tenant's share is spent. Nothing was counted.
            Overloaded: the budget is. Nothing was counted.
        """
        of_tenant = self._of.get(tenant_id, 0) + size
        if of_tenant > self.per_tenant:
            raise RateLimited(
                f"requests of this tenant with {of_tenant - size} bytes are under way, and "
                f"{self.per_tenant} may be; wait for one to end",
                retry_after_s=AGAIN_S,
            )
        if self.used + size > self.in_all:
            raise Overloaded(
                f"requests with {self.used} bytes are under way here; try again in a second",
                retry_after_s=AGAIN_S,
            )
        self.used += size
        self._of[tenant_id] = of_tenant

    def give(self, tenant_id: str, size: int) -> None:
        """They are gone."""
        self.used -= size
        left = self._of.get(tenant_id, 0) - size
        if left > 0:
            self._of[tenant_id] = left
        else:
            self._of.pop(tenant_id, None)
