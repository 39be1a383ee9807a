"""What a run has of a model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tether.engines.engine import Engine

if TYPE_CHECKING:
    from actors.worker.pool import Pool


class Use:
    """A run's hold on a model, or its wait for it, until it is `done`."""

    __slots__ = ("_pool", "engine", "ready", "ref")

    def __init__(self, pool: Pool | None, ref: str, engine: Engine | None) -> None:
        self._pool = pool
        self.ref = ref
        self.engine = engine
        """None while it waits."""
        self.ready: asyncio.Future[Engine] | None = None

    async def get(self) -> Engine:
        """The engine, once it answers.

        Raises:
            Overloaded, ModelNotFound: it won't, here; another worker may.
        """
        if self.engine is None:
            assert self.ready is not None
            self.engine = await self.ready
        return self.engine

    def done(self) -> None:
        """It isn't needed any more. Safe to call twice."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.give_back(self)
