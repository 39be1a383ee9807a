"""A run's lease of a model, which isn't let go while a run has one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from actors.engines.engine import Engine


class ModelLease:
    """A run's hold on a model, or its wait for it, until it is `done`: `give_back` is told so."""

    __slots__ = ("_give_back", "engine", "ready", "ref")

    def __init__(
        self, give_back: Callable[[ModelLease], object] | None, ref: str, engine: Engine | None
    ) -> None:
        self._give_back = give_back
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
        give_back, self._give_back = self._give_back, None
        if give_back is not None:
            give_back(self)
