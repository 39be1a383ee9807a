"""The meters of all tenants of a gateway, and who is let in by them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable

from actors.gateway.residues import Residues
from actors.gateway.tenant_meter import UNLIMITED, TenantLimits, TenantMeter
from supervision.errors import RateLimited

__all__ = ["UNLIMITED", "ShareShort", "TenantAdmission", "TenantLimits"]

MOST_LEAVING = 1_000  # forgotten meters whose shares are still to be given back


class ShareShort(Exception):
    """The store must be asked for a share before the request may enter; nothing was counted."""

    def __init__(self, meter: TenantMeter, tokens: int) -> None:
        super().__init__(meter.tenant_id)
        self.meter = meter
        self.tokens = tokens


def _nobody(_: TenantMeter) -> None:
    pass


class TenantAdmission:
    """The meters of all tenants. Above `max_tenants` those idle longest are forgotten: what they
    hold goes back to the store, and without one it is kept what they lack.

    Args:
        parts: how many gateways of the cluster have a share of each tenant's limits.
        shared: there is a store, in which all of them are added up.
        due: is told of each meter that has something to say to the store.
    """

    def __init__(
        self,
        max_tenants: int = 10_000,
        *,
        parts: int = 1,
        shared: bool = False,
        due: Callable[[TenantMeter], None] = _nobody,
    ) -> None:
        self._max = max_tenants
        self._parts = parts
        self._due = due
        self._shared = shared
        self._tenants: OrderedDict[str, TenantMeter] = OrderedDict()
        self._residues = Residues(10 * max_tenants)
        self.local = not shared
        """Is each tenant held to this gateway's own part?"""
        self.leaving: list[TenantMeter] = []
        """Forgotten, and their shares are to be given back."""

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
        runs: bool = True,
    ) -> None:
        """Count one request of at most `tokens`; if it `runs` beside others, `leave` must follow. A
        `resumed` one was let in and charged before, so it only counts as one that runs, and is
        never refused.

        Raises:
            RateLimited: a limit is reached; nothing was counted.
            ShareShort: perhaps not, but the store must be asked first.
        """
        meter = self._tenants.get(tenant_id)
        if meter is None:
            meter = self._make(tenant_id, limits, now)
        if meter.local is not self.local:
            self._switch(meter, now)
        if meter.limits is not limits and meter.limits != limits:
            meter.change(limits, now)
        self._tenants.move_to_end(tenant_id)
        if resumed:
            meter.resume(now)
        else:
            if not meter.ready(tokens, runs=runs):
                self._check(meter, tokens, now, runs=runs)
            meter.enter(tokens, now)
        if not runs:
            meter.leave()
        if not meter.ordered and meter.due(now):
            self._due(meter)

    def _check(self, meter: TenantMeter, tokens: int, now: float, *, runs: bool) -> None:
        try:
            meter.check(tokens, now, runs=runs)
        except RateLimited:
            if meter.look(now):
                self._due(meter)
            raise
        if meter.short(tokens, runs=runs):
            raise ShareShort(meter, tokens)

    def leave(self, tenant_id: str, unused_tokens: float, now: float) -> None:
        """A request ended and did not use `unused_tokens` of those counted (negative: it has used
        more)."""
        meter = self._tenants.get(tenant_id)
        if meter is not None:
            meter.leave()
            self._charge(meter, -unused_tokens, now)

    def charge(self, tenant_id: str, tokens: float, now: float) -> None:
        """What has become known later of a request that has left: more tokens, or (negative) fewer
        than were counted."""
        meter = self._tenants.get(tenant_id)
        if meter is not None:
            self._charge(meter, tokens, now)

    def _charge(self, meter: TenantMeter, tokens: float, now: float) -> None:
        if meter.local is not self.local:
            self._switch(meter, now)
        meter.charge(tokens, now)
        if not meter.ordered and meter.due(now):
            self._due(meter)

    def meter(self, tenant_id: str) -> TenantMeter | None:
        """That of this tenant, if there is one."""
        return self._tenants.get(tenant_id)

    def all(self) -> Iterable[TenantMeter]:
        """The meters, those used longest ago first."""
        return self._tenants.values()

    def switch(self, *, local: bool, now: float) -> None:
        """The store is away (`local`), or back. Those that hold nothing see it when they are used
        next."""
        self.local = local
        for meter in list(self._tenants.values()):
            if meter.waits or meter.running or meter.holds:
                self._switch(meter, now)

    def _switch(self, meter: TenantMeter, now: float) -> None:
        meter.switch(local=self.local, now=now)
        if not self.local:
            self._due(meter)

    def _make(self, tenant_id: str, limits: TenantLimits, now: float) -> TenantMeter:
        if len(self._tenants) >= self._max:
            self._forget_one(now)
        meter = TenantMeter(tenant_id, limits, self._parts, now)
        if not self._shared:
            meter.stand_alone(now, self._residues.take(tenant_id, now))
        elif self.local:
            meter.switch(local=True, now=now)
        self._tenants[tenant_id] = meter
        return meter

    def _forget_one(self, now: float) -> None:
        idle = next((m for m in self._tenants.values() if not m.running and not m.waits), None)
        if idle is None:
            return
        del self._tenants[idle.tenant_id]
        idle.gone = True
        if idle.local:
            self._residues.keep(idle.tenant_id, idle.missing(now), now)
        elif idle.holds and len(self.leaving) < MOST_LEAVING:
            self.leaving.append(idle)
            self._due(idle)
