"""The echo gateway as a real actor."""

from __future__ import annotations

from collections.abc import AsyncIterator

from actors.contracts import (
    Authenticate,
    Authenticated,
    Catalog,
    Chunk,
    Completed,
    Infer,
    ListModels,
    Readiness,
    Ready,
)
from supervision.child import Supervised
from supervision.runtime import Address, on
from tests.support.echo_gateway import EchoGateway


class EchoGatewayActor(Supervised):
    """`EchoGateway` behind the runtime."""

    async def started(self) -> None:
        self._echo = EchoGateway()

    @on(Infer)
    async def infer(self, msg: Infer, sender: Address) -> AsyncIterator[Chunk | Completed]:
        items = self._echo.infer(msg)
        try:
            async for item in items:
                yield item
        finally:
            await items.aclose()

    @on(Authenticate)
    async def authenticate(self, msg: Authenticate, sender: Address) -> Authenticated:
        return await self._echo.authenticate(msg)

    @on(ListModels)
    async def list_models(self, msg: ListModels, sender: Address) -> Catalog:
        return await self._echo.list_models(msg)

    @on(Readiness)
    async def readiness(self, msg: Readiness, sender: Address) -> Ready:
        """Tells its counts as well, for want of another way to look at them."""
        models = (await self._echo.readiness(msg)).models
        counts = (f"running={self._echo.running}", f"cancelled={self._echo.cancelled}")
        return Ready(models=(*models, *counts))
