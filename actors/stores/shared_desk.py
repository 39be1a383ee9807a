"""One connection that several use in turn, made anew when it has broken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from actors.stores.database import LOST
from actors.stores.jobs import Desk


class SharedDesk:
    """
    Args:
        opened: opens a connection.
    """

    def __init__(self, opened: Callable[[], Awaitable[Desk]]) -> None:
        self._opened = opened
        self._turn = asyncio.Lock()
        self._desk: Desk | None = None

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Desk]:
        """The connection, once it is one's turn. What breaks it is raised, and closes it.

        Raises:
            Unavailable, Internal, and what `LOST` names: there is none.
        """
        async with self._turn:
            desk = self._desk
            if desk is None or desk.closed:
                desk = self._desk = await self._opened()
            try:
                yield desk
            except LOST:
                desk.close()
                raise

    def close(self) -> None:
        """Let go of it. Safe to call twice."""
        if self._desk is not None:
            self._desk.close()
