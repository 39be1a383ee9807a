"""Limits of a tenant: requests a minute, tokens a minute, requests at once. Pure."""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from supervision.errors import RateLimited
from supervision.policies.token_bucket import TokenBucket


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant may use. 0 is no limit."""

    requests_per_minute: float = 0.0
    tokens_per_minute: float = 0.0
    concurrency: int = 0

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "concurrency"):
            if not getattr(self, name) >= 0:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be 0 (no limit) or more"
                )


UNLIMITED = TenantLimits()


class _Tenant:
    __slots__ = ("limits", "requests", "running", "tokens")

    def __init__(self, limits: TenantLimits, now: float) -> None:
        self.limits = limits
        self.running = 0
        per_minute = limits.requests_per_minute
        self.requests = TokenBucket(per_minute / 60, max(per_minute, 1.0), now)
        per_minute = limits.tokens_per_minute
        self.tokens = TokenBucket(per_minute / 60, max(per_minute, 1.0), now)


class TenantAdmission:
    """The meters of all tenants; forgets the longest idle above `max_tenants`."""

    def __init__(self, max_tenants: int = 10_000) -> None:
        self._max = max_tenants
        self._tenants: OrderedDict[str, _Tenant] = OrderedDict()

    def __len__(self) -> int:
        return len(self._tenants)

    def admit(
        self,
        tenant_id: str,
        limits: TenantLimits,
        tokens: int,
        now: float,
        *,
        resumed: bool = False,
    ) -> None:
        """Count one request of at most `tokens`; `leave` must follow. A `resumed` one was let in
        before, so it is counted but never refused.

        Raises:
            RateLimited: a limit is reached; nothing was counted.
        """
        tenant = self._tenants.get(tenant_id)
        if tenant is None or (tenant.limits is not limits and tenant.limits != limits):
            tenant = self._meter(tenant_id, limits, tenant, now)
        if not resumed:
            self._check(tenant, limits, tokens, now)
        if limits.tokens_per_minute:
            tenant.tokens.take(tokens, now)
        if limits.requests_per_minute:
            tenant.requests.take(1, now)
        tenant.running += 1
        self._tenants.move_to_end(tenant_id)

    @staticmethod
    def _check(tenant: _Tenant, limits: TenantLimits, tokens: int, now: float) -> None:
        if limits.concurrency and tenant.running >= limits.concurrency:
            raise RateLimited(
                f"{tenant.running} requests run, and {limits.concurrency} may at once; "
                "wait for one to end",
                retry_after_s=1.0,
            )
        if limits.requests_per_minute:
            _refuse_early(tenant.requests.wait_s(1, now), "requests", limits.requests_per_minute)
        if limits.tokens_per_minute:
            _refuse_early(tenant.tokens.wait_s(tokens, now), "tokens", limits.tokens_per_minute)

    def leave(self, tenant_id: str, unused_tokens: int, now: float) -> None:
        """A request ended and did not use `unused_tokens` of those counted."""
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            return
        tenant.running -= 1
        if unused_tokens > 0 and tenant.limits.tokens_per_minute:
            tenant.tokens.take(-unused_tokens, now)

    def _meter(
        self, tenant_id: str, limits: TenantLimits, old: _Tenant | None, now: float
    ) -> _Tenant:
        tenant = _Tenant(limits, now)
        if old is not None:
            tenant.running = old.running
        elif len(self._tenants) >= self._max:
            idle = next((key for key, t in self._tenants.items() if not t.running), None)
            if idle is not None:
                del self._tenants[idle]
        self._tenants[tenant_id] = tenant
        return tenant


def _refuse_early(wait_s: float, what: str, per_minute: float) -> None:
    if wait_s > 0:
        raise RateLimited(
            f"more than {per_minute:g} {what} a minute; try again in {wait_s:.1f} s",
            retry_after_s=wait_s,
        )
