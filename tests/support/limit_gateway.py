"""What a gateway knows of its tenants' limits, and its talk with their store, without the rest."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from actors.gateway.admission import ShareShort, TenantLimits
from actors.gateway.options import GatewayOptions
from actors.gateway.shared_limits import SharedLimits
from actors.stores.limit_store import LimitStoreOptions
from supervision.errors import RateLimited


class LimitGateway:
    """`parts` of them share what is in the store."""

    def __init__(self, store: LimitStoreOptions, parts: int = 3, tenants: int = 10_000) -> None:
        self.loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()
        options = GatewayOptions(dsn="", store=store, parts=parts, tenants=tenants)
        self.limits = SharedLimits(self, options)  # type: ignore[arg-type]
        self.tenants = self.limits.tenants
        self.longest_s = 0.0  # that a request has waited

    def background(self, work: Coroutine[Any, Any, Any], *, name: str = "") -> asyncio.Task[Any]:
        task = self.loop.create_task(work, name=name)
        self._tasks.add(task)
        return task

    async def __aenter__(self) -> LimitGateway:
        await self.limits.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.limits.close()
        await self.die()

    async def die(self) -> None:
        """As by SIGKILL: it says nothing any more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def local(self) -> bool:
        """Does it do without the store?"""
        return self.tenants.local

    async def admit(self, tenant: str, limits: TenantLimits, tokens: int = 1) -> bool:
        """Is a request let in?"""

        def enter(now: float) -> None:
            self.tenants.admit(tenant, limits, tokens, now)

        began = self.loop.time()
        try:
            try:
                enter(began)
            except ShareShort as short:
                await self.limits.granted(short, enter)
        except RateLimited:
            return False
        finally:
            self.longest_s = max(self.longest_s, self.loop.time() - began)
        return True

    def leave(self, tenant: str, unused: int = 0) -> None:
        self.tenants.leave(tenant, unused, self.loop.time())
